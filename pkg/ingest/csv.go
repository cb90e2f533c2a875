package ingest

import (
	"bytes"
	"context"
	"fmt"
	"time"
	"unicode/utf8"

	"auditdb/internal/fault"
)

// nativeCSV maps CSV records whose header has the table's column names. An empty field without quotes is NULL, one
// with quotes is the empty text.
type nativeCSV struct {
	local   *time.Location
	columns []csvColumn
}

// csvColumn is one column of a CSV file.
type csvColumn struct {
	column column
	extra  []byte // not a column of the table: its name as a JSON member, quotes and colon included
}

// newNativeCSV reads the header. Without unknown, a name that is no column refuses the whole file.
func newNativeCSV(header []byte, local *time.Location, unknown bool) (*nativeCSV, error) {
	if separator := foreignSeparator(header); separator != "" {
		return nil, fault.New(fault.Data, "write it with commas, and with quotes around fields that hold one", "CSV header: its fields are separated by %s, not by commas", separator)
	}
	m := &nativeCSV{local: local}
	seen := map[column]bool{}
	var foreign []byte // the first name that is no column
	fields := csvFields{rest: header}
	for fields.more() {
		name, _, err := fields.next(nil)
		if err != nil {
			return nil, fault.New(fault.Data, "", "CSV header: %w", err)
		}
		c, known := nativeColumn(bytes.TrimSpace(name))
		switch {
		case known && c.isOurs():
			return nil, fault.New(fault.Data, "leave the column out", "CSV header: %s cannot be given", c.name())
		case known && seen[c]:
			return nil, fault.New(fault.Data, "", "CSV header: %s stands twice", c.name())
		case known:
			seen[c] = true
			m.columns = append(m.columns, csvColumn{column: c})
		case unknown && !utf8.Valid(name):
			return nil, fault.New(fault.Data, "", "CSV header: invalid UTF-8")
		default:
			if foreign == nil {
				foreign = append([]byte{}, name...)
			}
			m.columns = append(m.columns, csvColumn{extra: append(appendJSONText(nil, name), ':')})
		}
	}
	switch {
	case len(seen) == 0:
		return nil, fault.New(fault.Data, "--mapping takes events of any other shape: docs/mapping.md", "its content is not NDJSON, JSON or a CSV with a known header")
	case foreign != nil && !unknown:
		return nil, fault.New(fault.Data, "--unknown details puts it into details", "CSV header: unknown column %s", keyName(foreign))
	}
	return m, nil
}

func (m *nativeCSV) mapRecord(_ context.Context, e *event, rec []byte) error {
	if !utf8.Valid(rec) {
		return badRecord("invalid UTF-8")
	}
	if bytes.IndexByte(rec, 0) >= 0 {
		return badRecord("NUL byte: it cannot be stored")
	}
	fields := csvFields{rest: rec}
	var extra []byte
	n := 0
	for ; fields.more(); n++ {
		value, null, err := fields.next(&e.scratch)
		if err != nil {
			return err
		}
		if n >= len(m.columns) {
			continue
		}
		c := m.columns[n]
		switch {
		case c.extra == nil:
			err = m.take(e, c.column, value, null)
		case !null:
			extra = append(appendJSONText(append(extra, c.extra...), value), ',')
		}
		if err != nil {
			return err
		}
	}
	if n != len(m.columns) {
		return badf("%d fields, the header has %d", n, len(m.columns))
	}
	if len(extra) > 0 {
		return e.mergeDetails(extra)
	}
	return nil
}

func (m *nativeCSV) take(e *event, c column, value []byte, null bool) error {
	e.given[c] = true
	if null {
		return nil
	}
	var err error
	switch c {
	case colTimestamp:
		e.micros, err = parseTimestamp(value, m.local)
		e.hasTime = err == nil
	case colLatency:
		e.latency, err = parseLatency(value)
		e.hasLat = err == nil
	case colDetails:
		start := len(e.scratch)
		out, jsonErr := e.canon.Append(e.scratch, value)
		if jsonErr != nil {
			return fmt.Errorf("details: %w", jsonErr)
		}
		e.scratch, e.details = out, out[start:len(out):len(out)]
	default:
		e.text[c] = value
	}
	return err
}

// csvFields reads the fields of one record (RFC 4180).
type csvFields struct {
	rest []byte
	done bool
}

func (f *csvFields) more() bool { return !f.done }

// next returns the next field; null is an empty one without quotes. Fields with doubled quotes are written to scratch.
func (f *csvFields) next(scratch *[]byte) (value []byte, null bool, err error) {
	if len(f.rest) == 0 || f.rest[0] != '"' {
		n := bytes.IndexByte(f.rest, ',')
		if n < 0 {
			n, f.done = len(f.rest), true
		}
		value = f.rest[:n:n]
		f.rest = f.rest[min(n+1, len(f.rest)):]
		if bytes.IndexByte(value, '"') >= 0 {
			return nil, false, badRecord("quote in a field that does not begin with one")
		}
		return value, n == 0, nil
	}
	value, n, err := quotedField(f.rest, scratch)
	if err != nil {
		return nil, false, err
	}
	switch {
	case n == len(f.rest):
		f.done = true
	case f.rest[n] != ',':
		return nil, false, badRecord("text after the closing quote of a field")
	default:
		n++
	}
	f.rest = f.rest[n:]
	return value, false, nil
}

// quotedField reads a field in quotes at the beginning of b and returns its content and its end.
func quotedField(b []byte, scratch *[]byte) (value []byte, end int, err error) {
	var copied []byte
	start := 0
	if scratch != nil {
		copied, start = *scratch, len(*scratch)
	}
	doubled := false
	for pos := 1; ; {
		k := bytes.IndexByte(b[pos:], '"')
		if k < 0 {
			return nil, 0, badRecord("the closing quote of a field is missing")
		}
		end = pos + k + 1
		if end < len(b) && b[end] == '"' {
			copied = append(copied, b[pos:end]...)
			doubled = true
			pos = end + 1
			continue
		}
		if !doubled {
			return b[1 : end-1 : end-1], end, nil
		}
		copied = append(copied, b[pos:end-1]...)
		if scratch != nil {
			*scratch = copied
		}
		return copied[start:len(copied):len(copied)], end, nil
	}
}

// appendJSONText writes valid UTF-8 without NUL as a JSON string.
func appendJSONText(dst, text []byte) []byte {
	dst = append(dst, '"')
	for _, ch := range text {
		switch {
		case ch == '"' || ch == '\\':
			dst = append(dst, '\\', ch)
		case ch < 0x20:
			dst = fmt.Appendf(dst, `\u%04x`, ch)
		default:
			dst = append(dst, ch)
		}
	}
	return append(dst, '"')
}
