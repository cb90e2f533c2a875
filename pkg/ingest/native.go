package ingest

import (
	"context"
	"math"
	"strconv"
	"time"

	"auditdb/pkg/audit"
)

// native maps JSON objects whose keys are the table's column names.
type native struct {
	local   *time.Location // of timestamps without a zone; nil refuses them
	unknown bool           // put unknown keys into details
}

func (m *native) mapRecord(_ context.Context, e *event, rec []byte) error {
	w := objectWalk{rec: rec}
	var extra []byte
	for member := 1; ; member++ { // a key can be payload: only its place is told
		key, ok, err := w.next(&e.scratch)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		c, known := nativeColumn(key)
		switch {
		case !known && !m.unknown:
			return m.prefer(e, rec, badf("unknown key (member %d of the record): --unknown details keeps it", member))
		case !known:
			if extra, err = w.appendMember(e, extra); err != nil {
				return err
			}
		case c.isOurs():
			return m.prefer(e, rec, badf("%s cannot be given", c.name()))
		default:
			if err := m.take(e, &w, c); err != nil {
				return m.prefer(e, rec, err)
			}
		}
	}
	if len(extra) > 0 {
		return e.mergeDetails(extra)
	}
	return nil
}

// prefer returns the record's syntax error when it has one: the mapping stops at the first thing it cannot take.
func (m *native) prefer(e *event, rec []byte, err error) error {
	if _, syntax := e.canon.Append(nil, rec); syntax != nil {
		return syntax
	}
	return err
}

// take reads the value of a column.
func (m *native) take(e *event, w *objectWalk, c column) error {
	e.given[c] = true
	if w.isNull() {
		e.clear(c)
		return w.skipNull()
	}
	switch c {
	case colDetails:
		start := len(e.scratch)
		out, end, err := e.canon.AppendAt(e.scratch, w.rec, w.pos)
		if err != nil {
			return err
		}
		e.scratch, e.details = out, out[start:len(out):len(out)]
		w.pos = end
		return nil
	case colLatency:
		return m.takeLatency(e, w)
	}
	if w.pos >= len(w.rec) || w.rec[w.pos] != '"' {
		return badf("%s is not a string", c.name())
	}
	text, end, err := audit.TextAt(&e.scratch, w.rec, w.pos)
	if err != nil {
		return err
	}
	w.pos = end
	if c == colTimestamp {
		e.micros, err = parseTimestamp(text, m.local)
		e.hasTime = err == nil
		return err
	}
	e.text[c] = text
	return nil
}

func (e *event) clear(c column) {
	switch c {
	case colTimestamp:
		e.hasTime = false
	case colLatency:
		e.hasLat = false
	case colDetails:
		e.details = nil
	default:
		e.text[c] = nil
	}
}

func (m *native) takeLatency(e *event, w *objectWalk) error {
	start := w.pos
	for w.pos < len(w.rec) && (w.rec[w.pos] == '-' || w.rec[w.pos] >= '0' && w.rec[w.pos] <= '9') {
		w.pos++
	}
	v, err := parseLatency(w.rec[start:w.pos])
	if err != nil {
		return err
	}
	if w.pos < len(w.rec) {
		switch w.rec[w.pos] {
		case '.', 'e', 'E':
			return errLatency
		}
	}
	e.latency, e.hasLat = v, true
	return nil
}

const errLatency = badRecord("processing_latency is not an integer of 32 bits")

// parseLatency reads a JSON integer of int4's range.
func parseLatency(b []byte) (int32, error) {
	digits := b
	if len(digits) > 0 && digits[0] == '-' {
		digits = digits[1:]
	}
	if len(digits) == 0 || len(digits) > 10 || (digits[0] == '0' && len(digits) > 1) {
		return 0, errLatency
	}
	v, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil || v < math.MinInt32 || v > math.MaxInt32 {
		return 0, errLatency
	}
	return int32(v), nil
}

// mergeDetails puts members that no column takes into details; extra is `"key": value` pairs, each followed by a comma. What details
// has itself wins over them.
func (e *event) mergeDetails(extra []byte) error {
	own := e.details
	if own != nil && own[0] != '{' {
		return badRecord("details is not an object, unknown keys cannot be merged into it")
	}
	text := append([]byte{'{'}, extra...)
	if len(own) > 2 {
		text = append(text, own[1:]...)
	} else {
		text[len(text)-1] = '}'
	}
	start := len(e.scratch)
	out, err := e.canon.Append(e.scratch, text)
	if err != nil {
		return err
	}
	e.scratch, e.details = out, out[start:len(out):len(out)]
	return nil
}
