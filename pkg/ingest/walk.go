package ingest

import (
	"auditdb/pkg/audit"
)

// objectWalk goes over the members of one JSON object, checking the syntax between them; whoever reads a value checks it and moves pos
// to its end.
type objectWalk struct {
	rec   []byte
	pos   int // after next: the beginning of the member's value
	key   int // where the member's name begins, quote included
	began bool
}

// next finds the next member and returns its name; false at the end of the object, after which only white space may follow.
func (w *objectWalk) next(scratch *[]byte) (key []byte, ok bool, err error) {
	w.space()
	if !w.began {
		w.began = true
		if !w.is('{') {
			return nil, false, w.notObject()
		}
		w.pos++
		if w.space(); w.is('}') {
			return nil, false, w.end()
		}
	} else {
		switch {
		case w.is('}'):
			return nil, false, w.end()
		case !w.is(','):
			return nil, false, w.fail("expected ',' or '}'")
		}
		w.pos++
		w.space()
	}
	if !w.is('"') {
		return nil, false, w.fail("expected a name in quotes")
	}
	w.key = w.pos
	if key, w.pos, err = audit.TextAt(scratch, w.rec, w.pos); err != nil {
		return nil, false, err
	}
	if w.space(); !w.is(':') {
		return nil, false, w.fail("expected ':'")
	}
	w.pos++
	w.space()
	return key, true, nil
}

func (w *objectWalk) space() { w.pos = audit.SkipJSONSpace(w.rec, w.pos) }

func (w *objectWalk) is(b byte) bool { return w.pos < len(w.rec) && w.rec[w.pos] == b }

func (w *objectWalk) fail(reason string) error {
	if w.pos >= len(w.rec) {
		reason = "unexpected end"
	}
	return &audit.JSONError{Offset: w.pos, Reason: reason}
}

// notObject tells JSON of another kind from text that is no JSON.
func (w *objectWalk) notObject() error {
	if _, err := audit.CanonicalJSON(nil, w.rec); err != nil {
		return err
	}
	return badRecord("the record is not a JSON object")
}

func (w *objectWalk) end() error {
	w.pos++
	if w.space(); w.pos != len(w.rec) {
		return w.fail("more text after the value")
	}
	return nil
}

func (w *objectWalk) isNull() bool { return w.is('n') }

// skipNull reads the word null.
func (w *objectWalk) skipNull() error {
	const null = "null"
	if len(w.rec)-w.pos < len(null) || string(w.rec[w.pos:w.pos+len(null)]) != null {
		return w.fail("expected a value")
	}
	w.pos += len(null)
	return nil
}

// appendMember appends the current member, name and canonical value, and a comma.
func (w *objectWalk) appendMember(e *event, dst []byte) ([]byte, error) {
	name := w.rec[w.key:]
	_, end, err := audit.UnquoteJSON(nil, name, 0)
	if err != nil {
		return nil, err
	}
	dst = append(append(dst, name[:end]...), ':')
	dst, w.pos, err = e.canon.AppendAt(dst, w.rec, w.pos)
	if err != nil {
		return nil, err
	}
	return append(dst, ','), nil
}
