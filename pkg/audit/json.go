package audit

import (
	"bytes"
	"fmt"
	"slices"
)

// Limits of CanonicalJSON. PostgreSQL's own are wider; no sensible event comes near these.
const (
	MaxJSONDepth     = 512     // nested arrays and objects
	MaxJSONNumber    = 1024    // bytes of a number's text
	MaxJSONExponent  = 1000    // |exponent| of a number
	MaxJSONMembers   = 1 << 19 // members of all objects open at one point
	keepScratch      = 1 << 20
	maxJSONExpansion = 65536 // bytes that written-out exponents may add to one document
)

// JSONError says why a text is not JSON that jsonb can hold. It never shows the text.
type JSONError struct {
	Offset int    // byte offset in the text
	Reason string // lower case, without the offset
}

// Error returns the reason with the offset.
func (e *JSONError) Error() string {
	return fmt.Sprintf("invalid JSON at byte %d: %s", e.Offset, e.Reason)
}

// CanonicalJSON appends the text that PostgreSQL prints for the jsonb value of src: ", " and ": " as separators, keys ordered by
// length and then by bytes, the last of equal keys kept, numbers as numeric's output (exponents written out, scale kept, no negative
// zero), the shortest escapes. What jsonb cannot hold is a *JSONError: bad syntax, U+0000, lone surrogates, invalid UTF-8; so is what
// goes past the limits above. It allocates; use a Canonicalizer for many documents.
func CanonicalJSON(dst, src []byte) ([]byte, error) {
	var c Canonicalizer
	return c.Append(dst, src)
}

// Canonicalizer is CanonicalJSON with memory that is used again: no allocation per document once it has grown. Not for concurrent use.
type Canonicalizer struct {
	src      []byte
	dst      []byte
	base     int // where the document begins in dst
	pos      int
	depth    int
	expanded int
	members  []member // of all open objects
	tmp      []byte
}

// member is one name/value pair as written to dst; offsets are from the document's beginning there.
type member struct {
	key, colon, end int32 // the opening quote, the end of the name's text (its closing quote included), the end of the value
	size            int32 // bytes of the unescaped name
	order           int32
	escaped         bool // the written name has escapes
}

// Append appends the canonical text of src to dst. On an error it returns dst as it was.
func (c *Canonicalizer) Append(dst, src []byte) ([]byte, error) {
	out, end, err := c.AppendAt(dst, src, 0)
	if err != nil {
		return dst, err
	}
	if end = SkipJSONSpace(src, end); end != len(src) {
		return dst, &JSONError{end, "more text after the value"}
	}
	return out, nil
}

// AppendAt appends the canonical text of the one value that begins at src[pos:] (after white space) and returns where it ends.
// On an error it returns dst as it was.
func (c *Canonicalizer) AppendAt(dst, src []byte, pos int) ([]byte, int, error) {
	c.src, c.dst, c.base, c.pos, c.depth, c.expanded, c.members = src, dst, len(dst), pos, 0, 0, c.members[:0]
	err := c.value()
	out, end := c.dst, c.pos
	c.src, c.dst = nil, nil
	if cap(c.tmp) > keepScratch || cap(c.members) > keepScratch/32 { // one huge document must not keep its memory
		c.tmp, c.members = nil, nil
	}
	if err != nil {
		return dst, 0, err
	}
	return out, end, nil
}

// SkipJSONSpace returns the offset of the first byte at or after pos that is not JSON white space.
func SkipJSONSpace(b []byte, pos int) int {
	for pos < len(b) {
		switch b[pos] {
		case ' ', '\t', '\n', '\r':
			pos++
		default:
			return pos
		}
	}
	return pos
}

func (c *Canonicalizer) fail(reason string) error { return &JSONError{c.pos, reason} }

func (c *Canonicalizer) value() error {
	c.pos = SkipJSONSpace(c.src, c.pos)
	if c.pos >= len(c.src) {
		return c.fail("unexpected end")
	}
	switch b := c.src[c.pos]; b {
	case '{':
		return c.object()
	case '[':
		return c.array()
	case '"':
		_, _, err := c.text()
		return err
	case 't':
		return c.word("true")
	case 'f':
		return c.word("false")
	case 'n':
		return c.word("null")
	default:
		if b == '-' || isDigit(b) {
			return c.number()
		}
		return c.fail("expected a value")
	}
}

func (c *Canonicalizer) enter() error {
	if c.depth++; c.depth > MaxJSONDepth {
		return c.fail(fmt.Sprintf("nested more than %d deep", MaxJSONDepth))
	}
	c.pos++
	return nil
}

func (c *Canonicalizer) word(w string) error {
	end := c.pos + len(w)
	if end > len(c.src) || string(c.src[c.pos:end]) != w || (end < len(c.src) && isWordByte(c.src[end])) {
		return c.fail("expected a value")
	}
	c.dst = append(c.dst, w...)
	c.pos = end
	return nil
}

func (c *Canonicalizer) array() error {
	if err := c.enter(); err != nil {
		return err
	}
	c.dst = append(c.dst, '[')
	if c.pos = SkipJSONSpace(c.src, c.pos); c.pos < len(c.src) && c.src[c.pos] == ']' {
		c.pos++
		c.depth--
		c.dst = append(c.dst, ']')
		return nil
	}
	for {
		if err := c.value(); err != nil {
			return err
		}
		more, err := c.more(']')
		if err != nil {
			return err
		}
		if !more {
			c.depth--
			c.dst = append(c.dst, ']')
			return nil
		}
		c.dst = append(c.dst, ", "...)
	}
}

// more reads what follows an element: a comma (true) or the closing byte (false).
func (c *Canonicalizer) more(closing byte) (bool, error) {
	c.pos = SkipJSONSpace(c.src, c.pos)
	if c.pos >= len(c.src) {
		return false, c.fail("unexpected end")
	}
	switch c.src[c.pos] {
	case ',':
		c.pos++
		return true, nil
	case closing:
		c.pos++
		return false, nil
	}
	return false, c.fail("expected ',' or '" + string(closing) + "'")
}

func (c *Canonicalizer) object() error {
	if err := c.enter(); err != nil {
		return err
	}
	start, base := len(c.dst), len(c.members)
	c.dst = append(c.dst, '{')
	if c.pos = SkipJSONSpace(c.src, c.pos); c.pos < len(c.src) && c.src[c.pos] == '}' {
		c.pos++
		c.depth--
		c.dst = append(c.dst, '}')
		return nil
	}
	sorted := true
	for more := true; more; {
		if len(c.members) > base {
			c.dst = append(c.dst, ", "...)
		}
		m, err := c.name()
		if err != nil {
			return err
		}
		if err := c.value(); err != nil {
			return err
		}
		n := len(c.members)
		if n >= MaxJSONMembers {
			return c.fail(fmt.Sprintf("more than %d members", MaxJSONMembers))
		}
		m.end, m.order = c.offset(), int32(n)
		if n > base && compareNames(c.dst[c.base:], &c.members[n-1], &m) >= 0 {
			sorted = false
		}
		c.members = append(c.members, m)
		if more, err = c.more('}'); err != nil {
			return err
		}
	}
	if !sorted {
		c.reorder(start, c.members[base:])
	}
	c.members = c.members[:base]
	c.depth--
	c.dst = append(c.dst, '}')
	return nil
}

// offset returns the end of what was written, from the document's beginning. Records are bounded far below 2 GB.
func (c *Canonicalizer) offset() int32 { return int32(len(c.dst) - c.base) } //nolint:gosec // see above

// name reads a member's name and its colon.
func (c *Canonicalizer) name() (member, error) {
	var m member
	c.pos = SkipJSONSpace(c.src, c.pos)
	if c.pos >= len(c.src) || c.src[c.pos] != '"' {
		return m, c.fail("expected a name in quotes")
	}
	m.key = c.offset()
	size, escaped, err := c.text()
	if err != nil {
		return m, err
	}
	m.size, m.escaped = int32(size), escaped //nolint:gosec // see offset
	m.colon = c.offset()
	c.pos = SkipJSONSpace(c.src, c.pos)
	if c.pos >= len(c.src) || c.src[c.pos] != ':' {
		return m, c.fail("expected ':'")
	}
	c.pos++
	c.dst = append(c.dst, ": "...)
	return m, nil
}

// reorder rewrites the object that begins at dst[start] in the order of its names, the last of equal ones only.
func (c *Canonicalizer) reorder(start int, ms []member) {
	c.tmp = append(c.tmp[:0], c.dst[start:]...)
	shift := int32(start - c.base) //nolint:gosec // see offset
	for i := range ms {
		ms[i].key, ms[i].colon, ms[i].end = ms[i].key-shift, ms[i].colon-shift, ms[i].end-shift
	}
	buf := c.tmp
	slices.SortFunc(ms, func(a, b member) int {
		if d := compareNames(buf, &a, &b); d != 0 {
			return d
		}
		return int(b.order - a.order)
	})
	c.dst = append(c.dst[:start], '{')
	kept := -1
	for i := range ms {
		if kept >= 0 && compareNames(buf, &ms[kept], &ms[i]) == 0 {
			continue
		}
		if kept >= 0 {
			c.dst = append(c.dst, ", "...)
		}
		kept = i
		c.dst = append(c.dst, buf[ms[i].key:ms[i].end]...)
	}
}

// compareNames orders names by length and then by bytes, as jsonb does. buf is what their offsets refer to.
func compareNames(buf []byte, a, b *member) int {
	if a.size != b.size {
		return int(a.size - b.size)
	}
	x, y := buf[a.key+1:a.colon-1], buf[b.key+1:b.colon-1]
	if !a.escaped && !b.escaped {
		return bytes.Compare(x, y)
	}
	for len(x) > 0 && len(y) > 0 {
		p, n := firstByte(x)
		q, k := firstByte(y)
		if p != q {
			return int(p) - int(q)
		}
		x, y = x[n:], y[k:]
	}
	return len(x) - len(y)
}

// firstByte returns the first byte of canonically escaped text, unescaped, and how many bytes it takes there.
func firstByte(s []byte) (b byte, n int) {
	if s[0] != '\\' {
		return s[0], 1
	}
	switch s[1] {
	case 'u':
		v, _ := hex4(s[2:6])
		return byte(v), 6 //nolint:gosec // only control characters are written so
	default:
		return unescape(s[1]), 2
	}
}
