package ingest

import (
	"bytes"
	"io"
)

// csvSplitter gives CSV records as they are written, without their line end; blank lines are passed over. The first one is the header.
type csvSplitter struct{ s *window }

func (c *csvSplitter) next(dst []byte) ([]byte, found, error) {
	for {
		rec := collector{dst: dst, start: len(dst)}
		offset := c.s.offset
		ended, err := c.record(&rec)
		if err != nil {
			return dst, found{}, err
		}
		if !ended && rec.size == 0 {
			return dst, found{}, io.EOF
		}
		if rec.over == nil {
			if line := rec.dst[rec.start:]; len(line) > 0 && line[len(line)-1] == '\r' {
				rec.dst = rec.dst[:len(rec.dst)-1]
			}
			if len(rec.dst) == rec.start {
				continue
			}
		}
		return rec.dst, rec.done(offset, !ended), nil
	}
}

// record collects up to the next line end outside quotes. A quote opens a field only at its beginning, so that a stray one spoils its own
// record alone.
func (c *csvSplitter) record(rec *collector) (ended bool, err error) {
	var q quoteScan
	q.prev = ','
	for {
		b := c.s.bytes()
		n, done := q.scan(b)
		rec.add(b[:n])
		if done {
			c.s.skip(n + 1)
			return true, nil
		}
		c.s.skip(n)
		if !c.s.fill() {
			return false, c.s.err
		}
	}
}

// quoteScan finds the end of a CSV record that comes in pieces.
type quoteScan struct {
	quoted bool
	prev   byte // the last byte outside quotes; a closing quote counts as one, so that a doubled one opens again
}

// scan returns how many bytes of b belong to the record and whether a line end follows them.
func (q *quoteScan) scan(b []byte) (n int, done bool) {
	for n < len(b) {
		if q.quoted {
			k := bytes.IndexByte(b[n:], '"')
			if k < 0 {
				return len(b), false
			}
			n, q.quoted, q.prev = n+k+1, false, '"'
			continue
		}
		end := bytes.IndexByte(b[n:], '\n')
		line := b[n:]
		if end >= 0 {
			line = line[:end]
		}
		k := bytes.IndexByte(line, '"')
		if k < 0 {
			if len(line) > 0 {
				q.prev = line[len(line)-1]
			}
			return n + len(line), end >= 0
		}
		if k > 0 {
			q.prev = line[k-1]
		}
		n += k + 1
		q.quoted = q.prev == ',' || q.prev == '"'
		if !q.quoted {
			q.prev = 0
		}
	}
	return n, false
}
