package query

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"

	"auditdb/internal/fault"
)

// A cursor is base64 of: a version, the digest of the request, the ends of its window, the position of the last row, and a checksum over all
// that. It gives no rights: whoever shows it sees what the query shows to him without one.
const cursorVersion = 1

const (
	digestSize   = 12
	checksumSize = 8
	maxCursor    = 8192 // bytes of base64; the keys of audit_log take less than 100
)

// digest stands for what makes a query the same as that of the page before.
type digest [digestSize]byte

// digest covers everything but the limit and the cursor.
func (r Request) digest() digest {
	h := sha256.New()
	part := func(s string) {
		_ = binary.Write(h, binary.BigEndian, uint64(len(s))) // a hash takes everything
		_, _ = h.Write([]byte(s))
	}
	part(r.Table.String())
	part(r.Window.Written)
	for _, f := range r.Filters {
		part("column")
		part(f.Column)
		part(f.Value)
	}
	for _, f := range r.Details {
		part("details")
		for _, step := range f.Path {
			part(step)
		}
		part("=")
		part(f.Value)
	}
	return digest(h.Sum(nil)[:digestSize])
}

// cursor is where a page begins.
type cursor struct {
	from, to *time.Time
	at       []string
}

func (c cursor) text(of digest) string {
	b := append([]byte{cursorVersion}, of[:]...)
	for _, end := range []*time.Time{c.from, c.to} {
		if end == nil {
			b = append(b, 0)
			continue
		}
		b = append(b, 1)
		b = binary.AppendVarint(b, end.Unix())
		b = binary.AppendUvarint(b, uint64(end.Nanosecond())) //nolint:gosec // never negative
	}
	for _, v := range c.at {
		b = binary.AppendUvarint(b, uint64(len(v)))
		b = append(b, v...)
	}
	sum := checksum(b)
	return base64.RawURLEncoding.EncodeToString(append(b, sum[:]...))
}

func checksum(b []byte) [checksumSize]byte {
	sum := sha256.Sum256(append([]byte("auditdb query cursor\n"), b...))
	return [checksumSize]byte(sum[:])
}

const cursorHint = "give --after the value of next exactly as the page before printed it, with the same table, range and filters"

func errOtherCursor() error {
	return fault.New(fault.Usage, cursorHint, "--after: the cursor belongs to another query")
}

// parseCursor reads a cursor of the request with that digest. Errors have class usage.
func parseCursor(s string, of digest) (cursor, error) {
	bad := fault.New(fault.Usage, cursorHint, "--after: it is no cursor, or one that was cut or changed")
	if len(s) > maxCursor {
		return cursor{}, bad
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) < 1+digestSize+checksumSize {
		return cursor{}, bad
	}
	body, sum := b[:len(b)-checksumSize], b[len(b)-checksumSize:]
	if want := checksum(body); !bytes.Equal(sum, want[:]) {
		return cursor{}, bad
	}
	if body[0] != cursorVersion {
		return cursor{}, fault.New(fault.Usage, "begin again with the first page", "--after: the cursor is of another version of auditdb")
	}
	if !bytes.Equal(body[1:1+digestSize], of[:]) {
		return cursor{}, errOtherCursor()
	}
	c, ok := readCursor(body[1+digestSize:])
	if !ok {
		return cursor{}, bad
	}
	return c, nil
}

func readCursor(b []byte) (c cursor, ok bool) {
	for _, end := range []**time.Time{&c.from, &c.to} {
		if len(b) == 0 || b[0] > 1 {
			return c, false
		}
		there := b[0] == 1
		b = b[1:]
		if !there {
			continue
		}
		seconds, n := binary.Varint(b)
		if n <= 0 {
			return c, false
		}
		nanos, m := binary.Uvarint(b[n:])
		if m <= 0 || nanos >= uint64(time.Second) {
			return c, false
		}
		b = b[n+m:]
		at := time.Unix(seconds, int64(nanos)).UTC()
		*end = &at
	}
	for len(b) > 0 {
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) { //nolint:gosec // n is at most its length
			return c, false
		}
		c.at = append(c.at, string(b[n:n+int(size)])) //nolint:gosec // checked
		b = b[n+int(size):]                           //nolint:gosec // checked
	}
	return c, len(c.at) > 0
}
