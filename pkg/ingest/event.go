package ingest

import (
	"context"
	"errors"
	"time"

	"auditdb/pkg/audit"
)

// event is one record mapped to columns. Its values alias the record and its own scratch memory; it is used again for the next one.
type event struct {
	micros  int64 // timestamp, µs since 2000-01-01
	hasTime bool
	latency int32
	hasLat  bool
	text    [columnCount][]byte // nil: NULL
	given   [columnCount]bool   // the record names the column, be it with null
	details []byte              // canonical JSON; nil: NULL
	scratch []byte
	canon   audit.Canonicalizer

	record  []byte   // the whole record in canonical text
	slots   [][]byte // of a mapping: the values that its paths lead to
	jqInput any      // the record as jq expressions see it
	note    []byte   // what a later record says about this one
}

// keepScratch bounds the memory that one huge record leaves behind.
const keepScratch = 1 << 20

func (e *event) reset() {
	e.hasTime, e.hasLat, e.details = false, false, nil
	e.record, e.jqInput, e.note = nil, nil, nil
	e.text, e.given = [columnCount][]byte{}, [columnCount]bool{}
	if cap(e.scratch) > keepScratch {
		e.scratch = nil
	}
	e.scratch = e.scratch[:0]
}

// errUnselected says that a record is none of those that the mapping takes: it is passed over, not rejected.
var errUnselected = errors.New("not selected")

// mapper turns a record's bytes into an event. An error is a badRecord, a *audit.JSONError or errUnselected.
type mapper interface {
	mapRecord(ctx context.Context, e *event, record []byte) error
}

// fixed holds what is the same for every event of a run.
type fixed struct {
	defaults [columnCount][]byte // the table's column defaults
	set      [columnCount][]byte // --set: wins over the event
	latency  *int32              // --set processing_latency
	maxAhead time.Duration       // how far a timestamp may lie ahead; 0: no limit
}

// complete fills in defaults and settings and checks what the table would refuse. now is in µs since 2000-01-01.
func (f *fixed) complete(e *event, now int64) error {
	if !e.hasTime {
		return badRecord("timestamp is missing")
	}
	for c := range columnCount {
		switch {
		case f.set[c] != nil:
			e.text[c] = f.set[c]
		case f.defaults[c] != nil && !e.given[c]:
			e.text[c] = f.defaults[c]
		}
		if limit := c.maxBytes(); limit > 0 && len(e.text[c]) > limit {
			return badf("%s has %d bytes, the limit is %d", c.name(), len(e.text[c]), limit)
		}
	}
	if f.latency != nil {
		e.latency, e.hasLat = *f.latency, true
	}
	switch {
	case e.text[colAction] == nil:
		return badRecord("action is missing")
	case e.text[colStatus] == nil:
		return badRecord("status is missing")
	case e.micros < audit.MinTimestamp || e.micros > audit.MaxTimestamp:
		return badRecord("timestamp is out of range")
	case f.maxAhead > 0 && e.micros > now && e.micros-now > f.maxAhead.Microseconds():
		return badf("timestamp is more than %s in the future", f.maxAhead)
	}
	return nil
}

// Where fields begin that are filled in later: after the field count, each with its length before it.
const (
	tupleIDAt         = 2 + 4
	tupleTimeAt       = tupleIDAt + 8 + 4
	tupleRecordedAtAt = tupleTimeAt + 8 + 4
)

// appendTuple writes the event as a COPY BINARY tuple with id and recorded_at left 0, and notes in r where its parts are.
func (e *event) appendTuple(dst, salt []byte, r *row) []byte {
	dst = audit.AppendTuple(dst, int(columnCount))
	dst = audit.AppendInt64(dst, 0)
	dst = audit.AppendTimestamp(dst, e.micros)
	dst = audit.AppendTimestamp(dst, 0)
	if e.hasLat {
		dst = audit.AppendInt32(dst, e.latency)
	} else {
		dst = audit.AppendNull(dst)
	}
	for c := colAction; c < colArchivedAt; c++ {
		dst = appendText(dst, e.text[c])
		if c == colEventUID && e.text[c] != nil {
			r.uid, r.uidEnd = len(dst)-len(e.text[c]), len(dst)
		}
	}
	dst = audit.AppendNull(dst) // archived_at
	r.core = len(dst)
	for c := colPrincipal; c < colDetails; c++ {
		dst = appendText(dst, e.text[c])
	}
	if e.details == nil {
		dst = audit.AppendNull(dst)
	} else {
		dst = audit.AppendCanonicalJSONB(dst, e.details)
	}
	r.personal = len(dst)
	return audit.AppendUUID(dst, [audit.SaltSize]byte(salt))
}

func appendText(dst, text []byte) []byte {
	if text == nil {
		return audit.AppendNull(dst)
	}
	return audit.AppendText(dst, text)
}
