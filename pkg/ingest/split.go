package ingest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"

	"auditdb/internal/fault"
)

// MaxRecord is the size of the largest record that is taken, in bytes; a larger one is rejected without being held in memory.
const MaxRecord = 16 << 20

// The formats of input that are known.
const (
	FormatNDJSON = "ndjson" // one JSON object a line
	FormatJSON   = "json"   // arrays of objects, or objects with a member Records that is one; one after another
	FormatCSV    = "csv"    // RFC 4180 with a header
)

// splitter cuts a source into records without understanding them.
type splitter interface {
	// next appends the next record's bytes to dst. io.EOF is the end; an error of class data means that nothing after it can be read,
	// while what came before is good. A record above MaxRecord is taken from the input and given as oversize, with nothing appended.
	next(dst []byte) (out []byte, rec found, err error)
}

// found says where a record was and what is known about it.
type found struct {
	offset   int64     // of its first byte in the decompressed content
	open     bool      // the input ended before the record's terminator: it may still grow
	oversize *oversize // it is too large
}

// oversize stands for a record that was not kept.
type oversize struct {
	size  int64
	sum   [sha256.Size]byte
	start []byte // its first bytes
}

const oversizeStart = 4096

// standIn is what is hashed in the place of an oversize record's bytes.
func (o *oversize) standIn() []byte { return fmt.Appendf(nil, "\x00%d %x", o.size, o.sum) }

func (o *oversize) reason() string {
	return fmt.Sprintf("record of %d bytes, the limit is %d", o.size, MaxRecord)
}

// collector gathers the bytes of one record and stops keeping them when there are too many.
type collector struct {
	dst   []byte
	start int
	size  int64
	over  *oversizeSum
}

type oversizeSum struct {
	oversize
	hash interface {
		io.Writer
		Sum([]byte) []byte
	}
}

func (c *collector) add(b []byte) {
	c.size += int64(len(b))
	if c.over == nil && c.size > MaxRecord {
		kept := c.dst[c.start:]
		c.over = &oversizeSum{hash: sha256.New()}
		c.over.start = bytes.Clone(append(kept[:min(len(kept), oversizeStart):min(len(kept), oversizeStart)], b[:min(len(b), oversizeStart)]...))
		c.over.start = c.over.start[:min(len(c.over.start), oversizeStart)]
		_, _ = c.over.hash.Write(kept) // a hash never fails
		c.dst = c.dst[:c.start]
	}
	if c.over != nil {
		_, _ = c.over.hash.Write(b)
		return
	}
	c.dst = append(c.dst, b...)
}

// done returns the record's place, with what is to be said when it was too large.
func (c *collector) done(offset int64, open bool) found {
	rec := found{offset: offset, open: open}
	if c.over != nil {
		c.over.size = c.size
		c.over.hash.Sum(c.over.sum[:0])
		rec.oversize = &c.over.oversize
	}
	return rec
}

// newSplitter finds out the format, unless it is given, and returns a splitter for it.
func newSplitter(s *window, format string) (splitter, string, error) {
	if b := s.ahead(3); bytes.HasPrefix(b, []byte("\xef\xbb\xbf")) {
		s.skip(3)
	}
	if format == "" {
		format = detect(s)
	}
	if s.err != nil && len(s.bytes()) == 0 {
		return nil, format, s.err
	}
	switch format {
	case FormatNDJSON:
		return &lineSplitter{s: s}, format, nil
	case FormatJSON:
		return &jsonSplitter{s: s}, format, nil
	case FormatCSV:
		return &csvSplitter{s: s}, format, nil
	}
	return nil, "", fault.New(fault.Usage, "formats are ndjson, json and csv", "unknown format %q", format)
}

// detectWithin is how many bytes of a source its format is told by.
const detectWithin = 4096

// detect tells the format by the first bytes: '[' is an array, '{"Records": [' the object around one, '{' NDJSON, anything else CSV, unless
// only its first line is neither a JSON object nor a header that names one of our columns.
func detect(s *window) string {
	first, ok := s.peek()
	switch {
	case !ok:
		return FormatNDJSON
	case first == '[':
		return FormatJSON
	case first != '{':
		if b := s.ahead(detectWithin); bytes.Contains(b, []byte("\n{")) && !isHeader(b) {
			return FormatNDJSON
		}
		return FormatCSV
	}
	b := bytes.TrimLeft(s.ahead(detectWithin)[1:], " \t\r\n")
	for _, want := range []string{`"Records"`, ":", "["} {
		if !bytes.HasPrefix(b, []byte(want)) {
			return FormatNDJSON
		}
		b = bytes.TrimLeft(b[len(want):], " \t\r\n")
	}
	return FormatJSON
}

// isHeader tells whether the first line names a column, be it in CSV or in what is like it.
func isHeader(b []byte) bool {
	line, _, _ := bytes.Cut(b, []byte{'\n'})
	return namesColumn(line, ',') || foreignSeparator(line) != ""
}

func namesColumn(line []byte, separator byte) bool {
	for name := range bytes.SplitSeq(line, []byte{separator}) {
		if _, ok := nativeColumn(bytes.Trim(name, " \"\r")); ok {
			return true
		}
	}
	return false
}

// foreignSeparator names what stands between the columns of a header where that is no comma, "" for anything else.
func foreignSeparator(line []byte) string {
	for name, separator := range map[string]byte{"semicolons": ';', "tabs": '\t', "vertical bars": '|'} {
		if !namesColumn(line, ',') && bytes.IndexByte(line, separator) >= 0 && namesColumn(line, separator) {
			return name
		}
	}
	return ""
}

// lineSplitter gives the lines that are not blank, without their end.
type lineSplitter struct{ s *window }

func (l *lineSplitter) next(dst []byte) ([]byte, found, error) {
	for {
		c := collector{dst: dst, start: len(dst)}
		offset := l.s.offset
		ended, err := l.line(&c)
		if err != nil {
			return dst, found{}, err
		}
		if !ended && c.size == 0 {
			return dst, found{}, io.EOF
		}
		if c.over == nil {
			line := c.dst[c.start:]
			if len(line) > 0 && line[len(line)-1] == '\r' {
				c.dst = c.dst[:len(c.dst)-1]
			}
			if len(bytes.TrimLeft(line, " \t\r")) == 0 {
				continue
			}
		}
		return c.dst, c.done(offset, !ended), nil
	}
}

// line collects up to the next end of line; ended is false when the content ends first. A read error drops what was begun.
func (l *lineSplitter) line(c *collector) (ended bool, err error) {
	for {
		b := l.s.bytes()
		if n := bytes.IndexByte(b, '\n'); n >= 0 {
			c.add(b[:n])
			l.s.skip(n + 1)
			return true, nil
		}
		c.add(b)
		l.s.skip(len(b))
		if !l.s.fill() {
			return false, l.s.err
		}
	}
}

// endsEarly makes the error that ends a source in the middle.
func endsEarly(what string, offset int64) error {
	return fault.New(fault.Data, "get a complete copy of the file and run again: only what is missing is added", "%s at byte %d", what, offset)
}
