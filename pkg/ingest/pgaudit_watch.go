package ingest

import (
	"bytes"
	"slices"
)

// errorWatch goes over the lines of csvlog in their order and notes with each line of pgaudit that its statement failed: when the same
// session, in the same transaction, goes on with an ERROR, FATAL or PANIC. It looks as far as the end of the next chunk.
type errorWatch struct {
	running map[string]attempt // by session
	event   event              // scratch memory
}

// attempt is the statement that a session runs, as far as its log tells.
type attempt struct {
	transaction, statement string
	lines                  []auditLine
}

// auditLine is a line of pgaudit that is not on its way yet.
type auditLine struct {
	chunk  *chunk
	record int
}

func newErrorWatch() *errorWatch { return &errorWatch{running: map[string]attempt{}} }

// observe looks at record i of c, or, with c nil, at one that is committed.
func (w *errorWatch) observe(c *chunk, i int, rec []byte) {
	if w == nil {
		return
	}
	w.event.reset()
	var r logRecord
	if r.read(&w.event, rec) != nil || r[logSession] == nil {
		return
	}
	session := string(r[logSession])
	fields, ok, err := r.audit(&w.event)
	if ok {
		if err != nil {
			delete(w.running, session)
			return
		}
		next := attempt{transaction: string(r[logTransaction]), statement: string(fields[auditStatement])}
		if c != nil {
			next.lines = []auditLine{{c, i}}
		}
		w.begin(session, next)
		return
	}
	switch string(r[logSeverity]) {
	case "ERROR", "FATAL", "PANIC":
		w.fail(session, &r)
	case "LOG":
		if bytes.HasPrefix(r[logMessage], []byte("duration: ")) { // logged when the statement has ended
			delete(w.running, session)
		}
	}
}

// begin notes a line of pgaudit; lines of one statement belong together.
func (w *errorWatch) begin(session string, next attempt) {
	if last, ok := w.running[session]; ok && last.transaction == next.transaction && last.statement == next.statement {
		next.lines = append(last.lines, next.lines...)
	}
	w.running[session] = next
}

func (w *errorWatch) fail(session string, r *logRecord) {
	a, ok := w.running[session]
	delete(w.running, session)
	if !ok || a.transaction != string(r[logTransaction]) {
		return
	}
	for _, l := range a.lines {
		if l.chunk.notes == nil {
			l.chunk.notes = map[int][]byte{}
		}
		l.chunk.notes[l.record] = w.event.join(r[logState], ": ", r[logMessage])
	}
	w.event.scratch = nil // the notes live in it
}

// forget drops what is known about a chunk that goes on its way.
func (w *errorWatch) forget(c *chunk) {
	if w == nil {
		return
	}
	for session, a := range w.running {
		a.lines = slices.DeleteFunc(a.lines, func(l auditLine) bool { return l.chunk == c })
		w.running[session] = a
		if len(a.lines) == 0 {
			delete(w.running, session)
		}
	}
}
