package audit

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// text copies the string at pos in canonical form. It returns the length of its content and whether what was written has escapes.
func (c *Canonicalizer) text() (size int, escaped bool, err error) {
	c.dst = append(c.dst, '"')
	start := len(c.dst)
	shrunk := 0 // bytes that escapes take more than what they stand for
	c.pos++
	for {
		n := plain(c.src[c.pos:])
		c.dst = append(c.dst, c.src[c.pos:c.pos+n]...)
		c.pos += n
		if c.pos >= len(c.src) {
			return 0, false, c.fail("unexpected end in a string")
		}
		if c.src[c.pos] == '"' {
			c.pos++
			size = len(c.dst) - start - shrunk
			c.dst = append(c.dst, '"')
			return size, shrunk > 0, nil
		}
		r, width, reason := decodeRune(c.src[c.pos:])
		if reason != "" {
			return 0, false, c.fail(reason)
		}
		c.pos += width
		before := len(c.dst)
		c.dst = appendEscaped(c.dst, r)
		if r < utf8.RuneSelf {
			shrunk += len(c.dst) - before - 1
		}
	}
}

// UnquoteJSON appends the content of the JSON string that begins at src[pos], which must be a quote, and returns where it ends.
// On an error, always a *JSONError, it returns dst as it was.
func UnquoteJSON(dst, src []byte, pos int) ([]byte, int, error) {
	out := dst
	pos++
	for {
		n := plain(src[pos:])
		out = append(out, src[pos:pos+n]...)
		pos += n
		if pos >= len(src) {
			return dst, 0, &JSONError{pos, "unexpected end in a string"}
		}
		if src[pos] == '"' {
			return out, pos + 1, nil
		}
		r, width, reason := decodeRune(src[pos:])
		if reason != "" {
			return dst, 0, &JSONError{pos, reason}
		}
		out = utf8.AppendRune(out, r)
		pos += width
	}
}

// plain returns how many bytes at the beginning of b are ASCII that a JSON string shows as it is.
func plain(b []byte) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	n := 0
	for ; len(b)-n >= 8; n += 8 {
		v := binary.LittleEndian.Uint64(b[n:])
		quote, slash := v^(ones*'"'), v^(ones*'\\')
		// The lowest flagged byte is exact; carries only spoil higher ones.
		stop := (v | (v - ones*0x20) | (quote - ones) | (slash - ones)) & highs
		if stop != 0 {
			return n + bits.TrailingZeros64(stop)/8
		}
	}
	for ; n < len(b); n++ {
		if ch := b[n]; ch < 0x20 || ch == '"' || ch == '\\' || ch >= utf8.RuneSelf {
			break
		}
	}
	return n
}

// decodeRune reads one character of a string's text: an escape or UTF-8. reason is set when there is none.
func decodeRune(b []byte) (r rune, width int, reason string) {
	switch {
	case b[0] == '\\':
		return decodeEscape(b)
	case b[0] < 0x20:
		return 0, 0, "control character in a string"
	case b[0] < utf8.RuneSelf:
		return rune(b[0]), 1, ""
	}
	r, width = utf8.DecodeRune(b)
	if r == utf8.RuneError && width == 1 {
		return 0, 0, "invalid UTF-8"
	}
	return r, width, ""
}

func decodeEscape(b []byte) (r rune, width int, reason string) {
	if len(b) < 2 {
		return 0, 0, "unexpected end in a string"
	}
	if b[1] != 'u' {
		if ch := unescape(b[1]); ch != 0 {
			return rune(ch), 2, ""
		}
		return 0, 0, "unknown escape"
	}
	r, ok := hex4(b[2:])
	switch {
	case !ok:
		return 0, 0, `\u without four hexadecimal digits`
	case r == 0:
		return 0, 0, `\u0000 cannot be stored`
	case r < 0xd800 || r > 0xdfff:
		return r, 6, ""
	case r > 0xdbff:
		return 0, 0, "lone surrogate"
	}
	if len(b) < 12 || b[6] != '\\' || b[7] != 'u' {
		return 0, 0, "lone surrogate"
	}
	low, ok := hex4(b[8:])
	if !ok || low < 0xdc00 || low > 0xdfff {
		return 0, 0, "lone surrogate"
	}
	return 0x10000 + (r-0xd800)<<10 + (low - 0xdc00), 12, ""
}

// unescape returns the character of a two-byte escape, 0 for an unknown one.
func unescape(b byte) byte {
	switch b {
	case '"', '\\', '/':
		return b
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return 0
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var r rune
	for _, ch := range b[:4] {
		switch {
		case ch >= '0' && ch <= '9':
			r = r<<4 | rune(ch-'0')
		case ch|0x20 >= 'a' && ch|0x20 <= 'f':
			r = r<<4 | rune(ch|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

// appendEscaped writes one character as PostgreSQL's escape_json does.
func appendEscaped(dst []byte, r rune) []byte {
	switch r {
	case '"', '\\':
		return append(dst, '\\', byte(r))
	case '\b':
		return append(dst, `\b`...)
	case '\f':
		return append(dst, `\f`...)
	case '\n':
		return append(dst, `\n`...)
	case '\r':
		return append(dst, `\r`...)
	case '\t':
		return append(dst, `\t`...)
	}
	if r < 0x20 {
		const hex = "0123456789abcdef"
		return append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
	}
	return utf8.AppendRune(dst, r)
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

// isWordByte tells the bytes that PostgreSQL's lexer takes as a part of a word.
func isWordByte(b byte) bool {
	return isDigit(b) || (b|0x20 >= 'a' && b|0x20 <= 'z') || b == '_' || b >= utf8.RuneSelf
}

// TextAt returns the content of the JSON string that begins at src[pos], which must be a quote, and where the string ends. Text
// without escapes aliases src; other text is appended to *scratch and aliases that. An error is always a *JSONError.
func TextAt(scratch *[]byte, src []byte, pos int) (text []byte, end int, err error) {
	if n := pos + 1 + plain(src[pos+1:]); n < len(src) && src[n] == '"' {
		return src[pos+1 : n : n], n + 1, nil
	}
	start := len(*scratch)
	out, end, err := UnquoteJSON(*scratch, src, pos)
	if err != nil {
		return nil, 0, err
	}
	*scratch = out
	return out[start:len(out):len(out)], end, nil
}
