package ingest

import (
	"io"
)

// jsonSplitter gives the elements of JSON arrays, and of the arrays called Records in objects, one document after another. It follows
// strings and brackets only: elements are checked by whoever maps them, and one bad element does not spoil the next.
type jsonSplitter struct {
	s     *window
	state jsonState
	inner bool // the array is a member of an object
}

type jsonState int

const (
	betweenDocuments jsonState = iota
	firstElement               // after '['
	laterElement               // after an element
	firstMember                // after '{'
	laterMember                // after a member
)

func (j *jsonSplitter) next(dst []byte) ([]byte, found, error) {
	for {
		ch, ok := j.s.peek()
		if !ok {
			return dst, found{}, j.atEnd()
		}
		switch j.state {
		case betweenDocuments:
			if err := j.open(ch); err != nil {
				return dst, found{}, err
			}
		case firstMember, laterMember:
			if err := j.member(ch); err != nil {
				return dst, found{}, err
			}
		case firstElement, laterElement:
			if ch == ']' {
				j.s.skip(1)
				j.closeArray()
				continue
			}
			if j.state == laterElement {
				if ch != ',' {
					return dst, found{}, j.malformed()
				}
				j.s.skip(1)
				if _, ok := j.s.peek(); !ok {
					return dst, found{}, j.atEnd()
				}
			}
			j.state = laterElement
			return j.element(dst)
		}
	}
}

func (j *jsonSplitter) atEnd() error {
	switch {
	case j.s.err != nil:
		return j.s.err
	case j.state == betweenDocuments:
		return io.EOF
	}
	return endsEarly("the JSON document ends too early,", j.s.offset)
}

func (j *jsonSplitter) malformed() error {
	return endsEarly("the JSON document is malformed", j.s.offset)
}

func (j *jsonSplitter) open(ch byte) error {
	switch ch {
	case '[':
		j.state, j.inner = firstElement, false
	case '{':
		j.state = firstMember
	default:
		return j.malformed()
	}
	j.s.skip(1)
	return nil
}

func (j *jsonSplitter) closeArray() {
	j.state = betweenDocuments
	if j.inner {
		j.state = laterMember
	}
}

// member reads a member of the outer object: the array Records is entered, any other value is passed over.
func (j *jsonSplitter) member(ch byte) error {
	switch {
	case ch == '}':
		j.s.skip(1)
		j.state = betweenDocuments
		return nil
	case j.state == laterMember && ch != ',':
		return j.malformed()
	case j.state == laterMember:
		j.s.skip(1)
		ch, _ = j.s.peek()
	}
	if ch != '"' {
		return j.malformed()
	}
	name := collector{}
	if err := j.value(&name); err != nil {
		return err
	}
	if ch, _ = j.s.peek(); ch != ':' {
		return j.malformed()
	}
	j.s.skip(1)
	ch, _ = j.s.peek()
	if string(name.dst) == `"Records"` && ch == '[' {
		j.s.skip(1)
		j.state, j.inner = firstElement, true
		return nil
	}
	j.state = laterMember
	return j.value(&discard{})
}

// element collects one element of the array.
func (j *jsonSplitter) element(dst []byte) ([]byte, found, error) {
	offset := j.s.offset
	c := collector{dst: dst, start: len(dst)}
	if err := j.value(&c); err != nil {
		return dst, found{}, err
	}
	return c.dst, c.done(offset, false), nil
}

// sink takes the bytes of a value.
type sink interface{ add([]byte) }

type discard struct{}

func (*discard) add([]byte) {}

// value hands over one value: up to its closing bracket or quote, or, for other words, up to the next ',', ']', '}', ':' or space.
func (j *jsonSplitter) value(to sink) error {
	var v valueScan
	for {
		b := j.s.bytes()
		n, done := v.scan(b)
		to.add(b[:n])
		j.s.skip(n)
		if done {
			return nil
		}
		if !j.s.fill() {
			return j.atEnd()
		}
	}
}

// valueScan finds the end of a JSON value that comes in pieces.
type valueScan struct {
	depth   int
	text    bool // within a string
	escaped bool // after a backslash
	word    bool // within a number or a word
}

// scan returns how many bytes of b belong to the value and whether it ended.
func (v *valueScan) scan(b []byte) (n int, done bool) {
	for n < len(b) {
		if v.text {
			n += v.scanText(b[n:])
			if !v.text && v.depth == 0 {
				return n, true
			}
			continue
		}
		switch b[n] {
		case '"':
			if v.word && v.depth == 0 {
				return n, true
			}
			v.text = true
		case '{', '[':
			if v.word && v.depth == 0 {
				return n, true
			}
			v.depth++
		case '}', ']':
			if v.depth == 0 {
				return n, true
			}
			if v.depth--; v.depth == 0 {
				return n + 1, true
			}
		case ',', ':', ' ', '\t', '\r', '\n':
			if v.depth == 0 {
				return n, true
			}
		default:
			v.word = v.depth == 0
		}
		n++
	}
	return n, false
}

// scanText goes on within a string and returns how many bytes it took; text is false after the closing quote.
func (v *valueScan) scanText(b []byte) int {
	for i, ch := range b {
		switch {
		case v.escaped:
			v.escaped = false
		case ch == '\\':
			v.escaped = true
		case ch == '"':
			v.text = false
			return i + 1
		}
	}
	return len(b)
}
