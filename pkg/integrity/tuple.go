package integrity

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"auditdb/pkg/audit"
)

// copyRow is one COPY BINARY tuple, cut where hashing needs it. The slices alias the stream's buffer.
type copyRow struct {
	id       int64
	core     []byte // fields with their lengths
	personal []byte
	salt     []byte // nil: NULL, or the format has none
	key      []byte // value of the partition key
	recorded []byte // value of recorded_at, nil when there is none
	fields   []byte // all of them with their lengths
}

// layout cuts tuples of a format in COPY order: core, personal, salt. Unlike audit.Layout it knows any order of columns and ids of
// any integer type, as adopted tables have them.
type layout struct {
	core, total  int
	extra        int // columns after the salt that no leaf covers
	hasSalt      bool
	id, key, rec int // positions; -1: none
	idSize       int
}

func newLayout(f audit.Format, keyColumn string) (layout, error) {
	l := layout{core: len(f.Core), total: len(f.Core) + len(f.Personal), id: -1, key: -1, rec: -1}
	for i, c := range f.Core {
		switch c.Name {
		case idColumn:
			l.id = i
			l.idSize = map[string]int{"int8": 8, "int4": 4, "int2": 2}[c.Type]
		case keyColumn:
			l.key = i
		case recordedColumn:
			if c.Type == "timestamptz" {
				l.rec = i
			}
		}
	}
	if l.id < 0 || l.idSize == 0 {
		return l, errors.New("the table has no integer column id")
	}
	if f.Salt != "" {
		l.hasSalt = true
		l.total++
	}
	return l, nil
}

// copyColumns are the columns of a format in COPY order.
func copyColumns(f audit.Format) []string {
	names := make([]string, 0, len(f.Core)+len(f.Personal)+1)
	for _, c := range f.Core {
		names = append(names, c.Name)
	}
	for _, c := range f.Personal {
		names = append(names, c.Name)
	}
	if f.Salt != "" {
		names = append(names, f.Salt)
	}
	return names
}

var errTuple = errors.New("malformed COPY tuple")

// cut takes the tuple at the beginning of b. n is 0 when b ends before the tuple does.
func (l *layout) cut(b []byte, row *copyRow) (n int, err error) {
	if len(b) < 2 {
		return 0, nil
	}
	if got := int(binary.BigEndian.Uint16(b)); got != l.total {
		return 0, fmt.Errorf("%w: %d fields instead of %d", errTuple, got, l.total)
	}
	pos, coreEnd, salt := 2, 2, l.total-l.extra
	if l.hasSalt {
		salt--
	}
	personalEnd := 0
	row.salt, row.key, row.recorded = nil, nil, nil
	for i := range l.total {
		if len(b)-pos < 4 {
			return 0, nil
		}
		size := int(int32(binary.BigEndian.Uint32(b[pos:]))) //nolint:gosec // -1 is NULL
		start := pos
		pos += 4
		var value []byte
		if size >= 0 {
			if len(b)-pos < size {
				return 0, nil
			}
			value = b[pos : pos+size]
			pos += size
		} else if size != -1 {
			return 0, fmt.Errorf("%w: field of %d bytes", errTuple, size)
		}
		switch i {
		case l.id:
			if len(value) != l.idSize {
				return 0, fmt.Errorf("%w: id of %d bytes", errTuple, len(value))
			}
			row.id = signed(value)
		case l.key:
			row.key = value
		case l.rec:
			row.recorded = value
		}
		if i == l.core-1 {
			coreEnd = pos
			row.core = b[2:coreEnd]
		}
		if i == salt && l.hasSalt {
			row.salt = value
		}
		if i == salt {
			personalEnd = start
		}
	}
	if salt == l.total {
		personalEnd = pos
	}
	row.personal, row.fields = b[coreEnd:personalEnd], b[2:pos]
	return pos, nil
}

// signed reads a big-endian two's complement integer of 2, 4 or 8 bytes.
func signed(b []byte) int64 {
	switch len(b) {
	case 2:
		return int64(int16(binary.BigEndian.Uint16(b))) //nolint:gosec // two's complement
	case 4:
		return int64(int32(binary.BigEndian.Uint32(b))) //nolint:gosec // two's complement
	case 8:
		return int64(binary.BigEndian.Uint64(b)) //nolint:gosec // two's complement
	}
	return 0
}

// tupleReader reads a COPY BINARY stream that comes in pieces.
type tupleReader struct {
	layout layout
	fn     func(*copyRow) error
	row    copyRow
	rest   []byte // an incomplete tuple
	header bool
	ended  bool
}

// feed takes the next piece. The rows that fn gets are valid only during the call.
func (r *tupleReader) feed(p []byte) error {
	b := p
	if len(r.rest) > 0 {
		r.rest = append(r.rest, p...)
		b = r.rest
	}
	left, err := r.scan(b)
	if err != nil {
		return err
	}
	r.rest = append(r.rest[:0], left...)
	return nil
}

func (r *tupleReader) scan(b []byte) ([]byte, error) {
	if !r.header {
		head := audit.CopyHeader()
		if len(b) < len(head) {
			return b, nil
		}
		if !bytes.HasPrefix(b, head) {
			return nil, fmt.Errorf("%w: unknown header", errTuple)
		}
		b, r.header = b[len(head):], true
	}
	for len(b) >= 2 {
		if r.ended {
			return nil, fmt.Errorf("%w: bytes after the end", errTuple)
		}
		if b[0] == 0xff && b[1] == 0xff {
			b, r.ended = b[2:], true
			continue
		}
		n, err := r.layout.cut(b, &r.row)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		if err := r.fn(&r.row); err != nil {
			return nil, err
		}
		b = b[n:]
	}
	return b, nil
}

// close reports a stream that ended in the middle.
func (r *tupleReader) close() error {
	if !r.ended || len(r.rest) > 0 {
		return fmt.Errorf("%w: the stream ends early", errTuple)
	}
	return nil
}
