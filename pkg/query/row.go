package query

import (
	"bytes"
	"encoding/json"
	"iter"
	"slices"
	"strings"
	"unicode/utf8"
)

// Row is one row as the server wrote it, each value as text, nil for NULL.
type Row struct {
	layout *layout
	values [][]byte
}

// newRow copies values, which the driver uses again, into one piece of memory.
func newRow(l *layout, values [][]byte) Row {
	size := 0
	for _, v := range values {
		size += len(v)
	}
	all := make([]byte, 0, size)
	r := Row{layout: l, values: make([][]byte, len(values))}
	for i, v := range values {
		if v != nil {
			start := len(all)
			all = append(all, v...)
			r.values[i] = all[start:len(all):len(all)]
		}
	}
	return r
}

// Text is the value of a column for people and CSV: times as RFC 3339, "" for NULL and for a column that is not there.
func (r Row) Text(name string) string {
	i := r.layout.find(name)
	if i < 0 {
		return ""
	}
	return r.text(i)
}

func (r Row) text(i int) string {
	switch v := string(r.values[i]); r.layout.columns[i].oid {
	case oidTimestamptz, oidTimestamp:
		return timeText(v)
	case oidBool:
		return map[string]string{"t": "true", "f": "false"}[v]
	default:
		return v
	}
}

// Cells are the values of all columns, as Text gives them.
func (r Row) Cells() []string {
	cells := make([]string, len(r.values))
	for i := range r.values {
		cells[i] = r.text(i)
	}
	return cells
}

// Brief are the columns that say most about a row.
func (r Row) Brief() []string {
	const most = 7
	var names []string
	for _, i := range r.layout.order {
		names = append(names, r.layout.columns[i].name)
	}
	for _, name := range []string{"action", "status", "principal_id", "target_resource_type", "target_resource_id"} {
		if r.layout.find(name) >= 0 {
			names = append(names, name)
		}
	}
	for _, c := range r.layout.columns {
		if len(names) < most && !slices.Contains(names, c.name) {
			names = append(names, c.name)
		}
	}
	return names[:min(len(names), most)]
}

// position is where the row stands in the order of the answer.
func (r Row) position() []string {
	at := make([]string, len(r.layout.order))
	for i, c := range r.layout.order {
		at[i] = string(r.values[c])
	}
	return at
}

// Members are the columns with their values, for documents.
func (r Row) Members() iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		for i, c := range r.layout.columns {
			if !yield(c.name, r.value(i)) {
				return
			}
		}
	}
}

// value is what stands in documents: numbers keep their digits.
func (r Row) value(i int) any {
	v := r.values[i]
	switch oid := r.layout.columns[i].oid; {
	case v == nil:
		return nil
	case oid == oidBool:
		return v[0] == 't'
	case isNumber(oid, v):
		return json.Number(v)
	case (oid == oidJSON || oid == oidJSONB) && json.Valid(v):
		return json.RawMessage(v)
	}
	return r.text(i)
}

// isNumber says whether JSON has a number for the value: not for NaN and infinities.
func isNumber(oid uint32, v []byte) bool {
	switch oid {
	case oidInt2, oidInt4, oidInt8, oidOID:
		return true
	case oidNumeric, oidFloat4, oidFloat8:
		return v[len(v)-1] >= '0' && v[len(v)-1] <= '9'
	}
	return false
}

// AppendJSON appends the row as one line of JSON without a newline. Numbers keep the digits that the server wrote.
func (r Row) AppendJSON(b []byte) []byte {
	b = append(b, '{')
	for i, c := range r.layout.columns {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, c.name)
		b = append(b, ':')
		b = r.appendValue(b, i)
	}
	return append(b, '}')
}

func (r Row) appendValue(b []byte, i int) []byte {
	v := r.values[i]
	if v == nil {
		return append(b, "null"...)
	}
	switch oid := r.layout.columns[i].oid; {
	case oid == oidBool:
		return append(b, r.text(i)...)
	case isNumber(oid, v):
		return append(b, v...)
	case oid == oidJSON || oid == oidJSONB:
		to := bytes.NewBuffer(b)
		if json.Compact(to, v) == nil {
			return to.Bytes()
		}
	}
	return appendString(b, r.text(i))
}

// appendString writes a JSON string without the escapes that only HTML needs.
func appendString(b []byte, s string) []byte {
	if plain(s) {
		return append(append(append(b, '"'), s...), '"')
	}
	to := bytes.NewBuffer(b)
	enc := json.NewEncoder(to)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil { // no string fails
		return append(b, `""`...)
	}
	return bytes.TrimSuffix(to.Bytes(), []byte("\n"))
}

func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// timeText turns a time as the server writes it, in UTC under DateStyle ISO, into RFC 3339 with microseconds. Infinity and years outside of
// 0001 to 9999 stay as they are.
func timeText(s string) string {
	const seconds = len("2006-01-02 15:04:05")
	if len(s) < seconds || s[4] != '-' || s[10] != ' ' {
		return s
	}
	rest, zone := s[seconds:], ""
	if cut, ok := strings.CutSuffix(rest, "+00"); ok {
		rest, zone = cut, "Z"
	}
	if rest == "" {
		rest = "."
	}
	if rest[0] != '.' || len(rest) > 7 || strings.Trim(rest[1:], "0123456789") != "" {
		return s
	}
	return s[:10] + "T" + s[11:seconds] + rest + "000000"[:7-len(rest)] + zone
}
