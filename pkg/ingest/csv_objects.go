package ingest

import (
	"bytes"
	"context"
	"unicode/utf8"

	"auditdb/internal/fault"
)

// csvObjects gives CSV records to a mapping file as objects of texts: the header's names are the keys, an empty field without quotes is
// left out.
type csvObjects struct {
	mapped
	names [][]byte // as JSON strings
}

func newCSVObjects(header []byte, to mapped) (*csvObjects, error) {
	m := &csvObjects{mapped: to}
	fields := csvFields{rest: header}
	known := false
	for fields.more() {
		name, _, err := fields.next(nil)
		switch {
		case err != nil:
			return nil, fault.New(fault.Data, "", "CSV header: %w", err)
		case !isStorable(name):
			return nil, fault.New(fault.Data, "", "CSV header: invalid UTF-8")
		}
		known = known || to.reads(name)
		m.names = append(m.names, append(appendJSONText(nil, bytes.TrimSpace(name)), ':'))
	}
	if !known {
		return nil, fault.New(fault.Data, "", "its content is not NDJSON, JSON or CSV with a header that the mapping knows")
	}
	return m, nil
}

// reads tells whether a member of records is used under this name.
func (p *program) reads(name []byte) bool {
	quoted := appendJSONText(nil, bytes.TrimSpace(name))
	for _, n := range p.root.children {
		if bytes.Equal(n.key, quoted[1:len(quoted)-1]) {
			return true
		}
	}
	return false
}

// readsHeader tells whether the first line is a CSV header with a name that the mapping uses.
func (p *program) readsHeader(b []byte) bool {
	line, _, _ := bytes.Cut(b, []byte{'\n'})
	for name := range bytes.SplitSeq(line, []byte{','}) {
		if utf8.Valid(name) && p.reads(bytes.Trim(name, " \"\r")) {
			return true
		}
	}
	return false
}

func (m *csvObjects) mapRecord(ctx context.Context, e *event, rec []byte) error {
	if !isStorable(rec) {
		return badRecord("invalid UTF-8 or a NUL byte: it cannot be stored")
	}
	text := []byte{'{'}
	fields := csvFields{rest: rec}
	n := 0
	for ; fields.more(); n++ {
		value, null, err := fields.next(&e.scratch)
		if err != nil {
			return err
		}
		if null || n >= len(m.names) {
			continue
		}
		if len(text) > 1 {
			text = append(text, ',')
		}
		text = appendJSONText(append(text, m.names[n]...), value)
	}
	if n != len(m.names) {
		return badf("%d fields, the header has %d", n, len(m.names))
	}
	return m.mapped.mapRecord(ctx, e, append(text, '}'))
}
