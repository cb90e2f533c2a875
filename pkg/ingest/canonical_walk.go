package ingest

import (
	"bytes"
	"iter"

	"auditdb/pkg/audit"
)

// canonicalMembers yields the members of an object in canonical text (audit.CanonicalJSON), which may go on after the object. Names
// stay as they are written, in canonical escapes. Anything but an object has no members.
func canonicalMembers(b []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		if len(b) == 0 || b[0] != '{' {
			return
		}
		for pos := 1; pos < len(b) && b[pos] == '"'; {
			end := stringEnd(b, pos)
			key := b[pos+1 : end-1]
			value := end + len(": ")
			end = valueEnd(b, value)
			if !yield(key, b[value:end:end]) {
				return
			}
			pos = end + len(", ")
		}
	}
}

// stringEnd returns the end of the string that begins at pos.
func stringEnd(b []byte, pos int) int {
	for pos++; ; {
		k := bytes.IndexByte(b[pos:], '"')
		if k < 0 {
			return len(b)
		}
		slashes := 0
		for i := pos + k - 1; i >= pos && b[i] == '\\'; i-- {
			slashes++
		}
		if pos += k + 1; slashes%2 == 0 {
			return pos
		}
	}
}

// valueEnd returns the end of the value that begins at pos.
func valueEnd(b []byte, pos int) int {
	depth := 0
	for pos < len(b) {
		switch b[pos] {
		case '"':
			pos = stringEnd(b, pos)
			if depth == 0 {
				return pos
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return pos
			}
			if depth--; depth == 0 {
				return pos + 1
			}
		case ',':
			if depth == 0 {
				return pos
			}
		}
		pos++
	}
	return pos
}

// scalar returns a string's content or a number's text; nil for an empty string, null, and everything else.
func (e *event) scalar(value []byte) []byte {
	switch {
	case len(value) == 0:
	case value[0] == '"':
		text, _, err := audit.TextAt(&e.scratch, value, 0)
		if err != nil || len(text) == 0 {
			return nil
		}
		return text
	case value[0] == '-' || (value[0] >= '0' && value[0] <= '9'):
		return value
	}
	return nil
}
