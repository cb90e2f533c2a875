package audit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Row is one COPY BINARY tuple in the order of Format.Columns, cut at the borders that hashing needs. The slices alias the tuple.
type Row struct {
	ID        int64
	Timestamp int64  // microseconds since 2000-01-01; math.MinInt64 and MaxInt64 are the infinities
	Core      []byte // fields with their lengths, as Hasher.LeafOf takes them
	Personal  []byte // likewise
	Salt      []byte // 16 bytes, or nil: NULL
}

// Layout cuts tuples of one format. Its first two core columns must be an int8 and a timestamptz (the row's id and time).
type Layout struct{ core, personal int }

// NewLayout returns the layout of f's COPY order.
func NewLayout(f Format) Layout { return Layout{core: len(f.Core), personal: len(f.Personal)} }

var errTuple = errors.New("malformed COPY tuple")

// Parse cuts the tuple at the beginning of b and returns its length. n is 0 when b ends before the tuple does, and also for the
// trailer (see TupleScanner, which handles whole streams).
func (l Layout) Parse(b []byte) (row Row, n int, err error) {
	want := l.core + l.personal + 1
	if len(b) < 2 {
		return row, 0, nil
	}
	if got := int(binary.BigEndian.Uint16(b)); got != want {
		return row, 0, fmt.Errorf("%w: %d fields instead of %d", errTuple, got, want)
	}
	pos, size := 2, 0
	for i := range want {
		switch i {
		case l.core:
			row.Core = b[2:pos]
		case l.core + l.personal:
			row.Personal = b[2+len(row.Core) : pos]
		}
		var ok bool
		if size, pos, ok, err = fieldAt(b, pos); err != nil || !ok {
			return Row{}, 0, err
		}
		if (i < 2 && size != 8) || (i == want-1 && size != SaltSize && size != -1) {
			return Row{}, 0, fmt.Errorf("%w: field %d has %d bytes", errTuple, i, size)
		}
	}
	row.ID = int64(binary.BigEndian.Uint64(b[6:]))         //nolint:gosec // two's complement on the wire
	row.Timestamp = int64(binary.BigEndian.Uint64(b[18:])) //nolint:gosec // two's complement on the wire
	if size == SaltSize {
		row.Salt = b[pos-SaltSize : pos]
	}
	return row, pos, nil
}

// fieldAt returns the size of the field at pos (-1: NULL) and where the next one begins; ok is false when b is too short.
func fieldAt(b []byte, pos int) (size, next int, ok bool, err error) {
	if len(b)-pos < 4 {
		return 0, 0, false, nil
	}
	size = int(int32(binary.BigEndian.Uint32(b[pos:]))) //nolint:gosec // -1 is NULL
	pos += 4
	if size == -1 {
		return size, pos, true, nil
	}
	if size < 0 {
		return 0, 0, false, fmt.Errorf("%w: field of %d bytes", errTuple, size)
	}
	if len(b)-pos < size {
		return 0, 0, false, nil
	}
	return size, pos + size, true, nil
}

// TupleScanner takes a COPY BINARY stream in pieces of any size (it is an io.Writer, as pgconn's CopyTo wants one) and calls a
// function for each row. Rows are valid only during the call.
type TupleScanner struct {
	layout Layout
	fn     func(Row) error
	rest   []byte // an incomplete beginning of a tuple
	header bool   // the header was read
	ended  bool   // the trailer was read
}

// NewTupleScanner returns a scanner for streams in f's COPY order. An error of fn ends the stream.
func NewTupleScanner(f Format, fn func(Row) error) *TupleScanner {
	return &TupleScanner{layout: NewLayout(f), fn: fn}
}

// Write takes the next piece of the stream.
func (s *TupleScanner) Write(p []byte) (int, error) {
	b := p
	if len(s.rest) > 0 {
		s.rest = append(s.rest, p...)
		b = s.rest
	}
	left, err := s.scan(b)
	if err != nil {
		return 0, err
	}
	s.rest = append(s.rest[:0], left...)
	return len(p), nil
}

// Close reports a stream that ended in the middle.
func (s *TupleScanner) Close() error {
	if !s.ended || len(s.rest) > 0 {
		return fmt.Errorf("%w: stream ends early", errTuple)
	}
	return nil
}

func (s *TupleScanner) scan(b []byte) ([]byte, error) {
	if !s.header {
		head := CopyHeader()
		if len(b) < len(head) {
			return b, nil
		}
		if !bytes.HasPrefix(b, head) {
			return nil, fmt.Errorf("%w: unknown header", errTuple)
		}
		b, s.header = b[len(head):], true
	}
	for len(b) >= 2 {
		if s.ended {
			return nil, fmt.Errorf("%w: bytes after the end", errTuple)
		}
		if b[0] == 0xff && b[1] == 0xff {
			b, s.ended = b[2:], true
			continue
		}
		row, n, err := s.layout.Parse(b)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		if err := s.fn(row); err != nil {
			return nil, err
		}
		b = b[n:]
	}
	return b, nil
}
