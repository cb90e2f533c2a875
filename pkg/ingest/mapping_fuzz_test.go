package ingest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"auditdb/internal/fault"
	"auditdb/pkg/audit"
)

const fuzzMapping = `version: 1
select: { k: [x, null] }
columns:
  timestamp: { time: { coalesce: [t, t2] }, layouts: [unix_ms, rfc3339_nano, '2006-01-02 15:04:05 MST'] }
  action: { coalesce: [{ template: '{a.b}[/{a.c.0}]' }, { lower: a }, { const: z }] }
  status: { map: s, values: { a: b }, default: c }
  principal_id: { match: p, pattern: '^(\w+)@(.*)$', as: '${2}.${1}', when: { 'a.b': x }, then: { split: p, on: '@', index: -1 } }
  processing_latency: l
  target_resource_id: { jq: '.a | tostring' }
  details: { raw: true, drop: [a.b, p] }
event_uid: [u, a.b]
`

func FuzzMappedRecord(f *testing.F) {
	f.Add([]byte(`{"k":"x","t":1704434828123,"a":{"b":"x","c":["y"]},"s":"a","p":"a@b","l":5,"u":"u"}`))
	f.Add([]byte(`{"t2":"2024-01-05 06:07:08 CET","a":[{"b":1}],"p":"ä@\u0001","u":"","u":"x","a":{"b":true}}`))
	prog, err := compileMapping("m.yaml", []byte(fuzzMapping))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var e event
		e.reset()
		err := mapped{prog, nil}.mapRecord(t.Context(), &e, b)
		if err != nil || (&fixed{}).complete(&e, 0) != nil {
			return
		}
		checkEvent(t, &e)
	})
}

// checkEvent makes sure that the table can hold an event.
func checkEvent(t *testing.T, e *event) {
	t.Helper()
	for c := range columnCount {
		if e.text[c] != nil && !isStorable(e.text[c]) {
			t.Fatalf("%s is not text: %q", c.name(), e.text[c])
		}
	}
	if e.details == nil {
		return
	}
	again, err := audit.CanonicalJSON(nil, e.details)
	if err != nil || !bytes.Equal(again, e.details) {
		t.Fatalf("details %s is not canonical: %v", e.details, err)
	}
}

func FuzzMappingFile(f *testing.F) {
	f.Add([]byte(fuzzMapping), []byte(`{"k":"x","t":1704434828123,"a":{"b":"x","c":["y"]},"s":"a","p":"a@b","l":5,"u":"u"}`))
	for _, name := range []string{MappingKubernetes, MappingGitHub} {
		text, err := presetFiles.ReadFile("presets/" + name + ".yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, []byte(`{}`))
	}
	f.Fuzz(func(t *testing.T, text, record []byte) {
		prog, err := compileMapping("m.yaml", text)
		if err != nil {
			if fault.ClassOf(err) != fault.Config || !strings.HasPrefix(err.Error(), "m.yaml:") {
				t.Fatalf("error %v", err)
			}
			return
		}
		if bytes.Contains(text, []byte("jq")) {
			return // expressions may run for as long as they are given
		}
		var e event
		e.reset()
		if err := (mapped{prog, nil}).mapRecord(t.Context(), &e, record); err != nil {
			var syntax *audit.JSONError
			var bad badRecord
			if !errors.As(err, &syntax) && !errors.As(err, &bad) && !errors.Is(err, errUnselected) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if (&fixed{}).complete(&e, 0) == nil {
			checkEvent(t, &e)
		}
	})
}

func FuzzPgAudit(f *testing.F) {
	content, err := os.ReadFile("testdata/presets/pgaudit.csv")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(content)
	f.Fuzz(func(t *testing.T, b []byte) {
		n, bad := readAll(t, b, FormatCSV, MappingPgAudit, false)
		m, worse := readAll(t, b, FormatCSV, MappingPgAudit, true)
		if n != m || len(bad) != len(worse) {
			t.Fatalf("%d records and %d rejects, byte by byte %d and %d", n, len(bad), m, len(worse))
		}
		var e event
		e.reset()
		if (&pgAudit{}).mapRecord(context.Background(), &e, b) == nil {
			checkEvent(t, &e)
		}
	})
}
