package integrity

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxRecord is the size that a record stays below, in bytes (also a CHECK of the log table).
const maxRecord = 65536

var errRecord = errors.New("malformed record")

// codec writes or reads the `name value` lines of a record: each kind describes its lines once, for both directions.
type codec struct {
	lines   []string // reading: what is left
	reading bool
	out     []byte
	err     error
}

func (c *codec) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: %s", errRecord, fmt.Sprintf(format, args...))
	}
}

// put writes one line.
func (c *codec) put(name, value string) {
	if c.err == nil {
		c.out = append(append(append(append(c.out, name...), ' '), value...), '\n')
	}
}

// peek tells whether the next line is called name.
func (c *codec) peek(name string) bool {
	return c.err == nil && len(c.lines) > 0 && strings.HasPrefix(c.lines[0], name+" ")
}

// get takes the next line, which must be called name.
func (c *codec) get(name string) string {
	if c.err != nil {
		return ""
	}
	if !c.peek(name) {
		c.fail("no line %q where it belongs", name)
		return ""
	}
	value := c.lines[0][len(name)+1:]
	c.lines = c.lines[1:]
	return value
}

func (c *codec) str(name string, v *string) {
	if !c.reading {
		c.put(name, percentEncode(*v))
		return
	}
	var ok bool
	if *v, ok = percentDecode(c.get(name)); !ok {
		c.fail("line %q: bad escape", name)
	}
}

// optional is str for a line that is left out when the string is empty.
func (c *codec) optional(name string, v *string) {
	if c.reading && c.peek(name) || !c.reading && *v != "" {
		c.str(name, v)
	}
}

func (c *codec) int64(name string, v *int64) {
	if !c.reading {
		c.put(name, strconv.FormatInt(*v, 10))
		return
	}
	var err error
	if *v, err = strconv.ParseInt(c.get(name), 10, 64); err != nil {
		c.fail("line %q: not an integer", name)
	}
}

// count is int64 for what is never negative.
func (c *codec) count(name string, v *int64) {
	c.int64(name, v)
	if *v < 0 {
		c.fail("line %q: negative", name)
	}
}

// positive is int64 for what is at least 1.
func (c *codec) positive(name string, v *int64) {
	c.int64(name, v)
	if *v < 1 {
		c.fail("line %q: not positive", name)
	}
}

// oneOf is str for one of a few words.
func (c *codec) oneOf(name string, v *string, words ...string) {
	c.str(name, v)
	if !slices.Contains(words, *v) {
		c.fail("line %q: unknown", name)
	}
}

func (c *codec) uint64(name string, v *uint64) {
	if !c.reading {
		c.put(name, strconv.FormatUint(*v, 10))
		return
	}
	var err error
	if *v, err = strconv.ParseUint(c.get(name), 10, 64); err != nil {
		c.fail("line %q: not an unsigned integer", name)
	}
}

func (c *codec) table(v *int16) {
	n := int64(*v)
	c.int64("table", &n)
	if n < 1 || n > 32767 {
		c.fail("line %q: out of range", "table")
	}
	*v = int16(n) //nolint:gosec // range checked above
}

func (c *codec) hash(name string, v *[32]byte) {
	if !c.reading {
		c.put(name, hex.EncodeToString(v[:]))
		return
	}
	b, err := hex.DecodeString(c.get(name))
	if err != nil || len(b) != len(v) {
		c.fail("line %q: not 64 hex digits", name)
		return
	}
	*v = [32]byte(b)
}

// hexString is a string of exactly n lower hex digits.
func (c *codec) hexString(name string, v *string, n int) {
	if c.reading {
		*v = c.get(name)
	}
	if b, err := hex.DecodeString(*v); err != nil || len(*v) != n || hex.EncodeToString(b) != *v {
		c.fail("line %q: not %d hex digits", name, n)
	}
	if !c.reading {
		c.put(name, *v)
	}
}

// timeLayout is RFC 3339 in UTC with exactly six decimals.
const timeLayout = "2006-01-02T15:04:05.000000Z"

func formatTime(t time.Time) string { return t.UTC().Format(timeLayout) }

func (c *codec) time(name string, v *time.Time) {
	if !c.reading {
		if y := v.UTC().Year(); y < 0 || y > 9999 {
			c.fail("line %q: year %d", name, y)
		}
		c.put(name, formatTime(*v))
		return
	}
	t, err := time.Parse(timeLayout, c.get(name))
	if err != nil {
		c.fail("line %q: not a time", name)
	}
	*v = t.UTC()
}

// bound is an end of a range: a time, or word where the range is open.
func (c *codec) bound(name, word string, t *time.Time, open *bool) {
	if c.reading && c.peek(name) && c.lines[0] == name+" "+word {
		c.get(name)
		*open = true
		return
	}
	if !c.reading && *open {
		c.put(name, word)
		return
	}
	c.time(name, t)
}

// bounds is the range of a partition: from and to, or `default 1`.
func (c *codec) bounds(prefix string, r *Range) {
	if c.reading && c.peek(prefix+"default") || !c.reading && r.Default {
		one := "1"
		c.str(prefix+"default", &one)
		if one != "1" {
			c.fail("line %q: not 1", prefix+"default")
		}
		*r = DefaultRange()
		return
	}
	c.bound(prefix+"from", "min", &r.From, &r.FromMin)
	c.bound(prefix+"to", "max", &r.To, &r.ToMax)
	if c.err == nil && !r.FromMin && !r.ToMax && !r.From.Before(r.To) {
		c.fail("empty range")
	}
}

func percentEncode(s string) string {
	const digits = "0123456789ABCDEF"
	plain := true
	for i := range len(s) {
		plain = plain && s[i] >= 0x21 && s[i] <= 0x7e && s[i] != '%'
	}
	if plain {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if ch := s[i]; ch >= 0x21 && ch <= 0x7e && ch != '%' {
			b.WriteByte(ch)
		} else {
			b.WriteByte('%')
			b.WriteByte(digits[ch>>4])
			b.WriteByte(digits[ch&15])
		}
	}
	return b.String()
}

func percentDecode(s string) (string, bool) {
	if !strings.Contains(s, "%") {
		return s, true
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if len(s)-i < 3 {
			return "", false
		}
		v, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil {
			return "", false
		}
		b = append(b, byte(v))
		i += 2
	}
	return string(b), true
}

// splitLines cuts the text into its lines, each of which must end in LF.
func splitLines(text []byte) ([]string, error) {
	if len(text) == 0 || len(text) >= maxRecord || text[len(text)-1] != '\n' {
		return nil, fmt.Errorf("%w: %d bytes, or no line end", errRecord, len(text))
	}
	if i := bytes.IndexFunc(text, func(r rune) bool { return r != '\n' && (r < 0x20 || r > 0x7e) }); i >= 0 {
		return nil, fmt.Errorf("%w: byte %d is not printable ASCII", errRecord, i)
	}
	return strings.Split(string(text[:len(text)-1]), "\n"), nil
}
