package ingest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"
	"pgregory.net/rapid"

	"auditdb/internal/fault"
	"auditdb/pkg/audit"
)

// mapOne maps a record as a run does and returns the row's columns that are not NULL.
func mapOne(tb testing.TB, m mapper, record string) (map[string]any, error) {
	tb.Helper()
	var e event
	e.reset()
	if err := m.mapRecord(tb.Context(), &e, []byte(record)); err != nil {
		return nil, err
	}
	var f fixed
	if err := f.complete(&e, 0); err != nil {
		return nil, err
	}
	var r row
	values := columnValues(audit.AuditLog().Names(), e.appendTuple(nil, make([]byte, audit.SaltSize), &r))
	for name, v := range values {
		if v == nil {
			delete(values, name)
		}
	}
	return values, nil
}

// TestMappingDocument runs the examples of docs/mapping.md.
func TestMappingDocument(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/mapping.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```\\w+ (mapping|event|row)\n(.*?)```").FindAllStringSubmatch(string(doc), -1)
	if len(blocks) < 9 || len(blocks)%3 != 0 {
		t.Fatalf("%d blocks", len(blocks))
	}
	for i := 0; i < len(blocks); i += 3 {
		if blocks[i][1]+blocks[i+1][1]+blocks[i+2][1] != "mappingeventrow" {
			t.Fatalf("example %d is not a mapping, an event and a row", i/3)
		}
		prog, err := compileMapping("docs/mapping.md", []byte(blocks[i][2]))
		if err != nil {
			t.Fatal(err)
		}
		got, err := mapOne(t, mapped{prog, nil}, blocks[i+1][2])
		if err != nil {
			t.Fatalf("example %d: %v", i/3, err)
		}
		text, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		have, _ := audit.CanonicalJSON(nil, text)
		want, err := audit.CanonicalJSON(nil, []byte(blocks[i+2][2]))
		if err != nil || !bytes.Equal(have, want) {
			t.Errorf("example %d: %v\ngot  %s\nwant %s", i/3, err, have, want)
		}
	}
}

// TestMappingFunctions maps principal_id alone.
func TestMappingFunctions(t *testing.T) {
	t.Parallel()
	const record = `{"t":"2024-01-05T06:07:08Z","a":{"b":"x","c":["p",{"d":"q"},null],"e":""},"n":1.50,"big":12345678901234567890123,"yes":true,"no":null,"k.k":"dot","@m":"at",` +
		`"dup":1,"dup":"last","u":"Ünï\"c\u0001","s":"a,b,,c","exp":1e3,"0":"zero","obj":{}}`
	for value, want := range map[string]string{
		`a.b`: "x", `a.c.0`: "p", `a.c.1.d`: "q", `a.c.2`: "-", `a.c.3`: "-", `a.c`: "-", `a`: "-", `a.e`: "", `n`: "1.50", `big`: "12345678901234567890123", `yes`: "true",
		`no`: "-", `gone`: "-", `gone.a`: "-", `k\.k`: "dot", `\@m`: "at", `dup`: "last", `u`: "Ünï\"c\x01", `exp`: "1000", `"0"`: "zero", `a.b.c`: "-",
		`{ path: a.b }`: "x", `{ const: y }`: "y", `{ const: '' }`: "", `{ const: 7 }`: "7",
		`{ coalesce: [gone, a.e, a.b] }`: "", `{ coalesce: [gone, a.e, a.b], ignore: '' }`: "x", `{ coalesce: [gone, no] }`: "-", `{ path: a.b, ignore: [x] }`: "-",
		`{ template: '{a.b}-{n}' }`: "x-1.50", `{ template: '{a.b}{gone}' }`: "-", `{ template: '{a.b}[/{gone}]' }`: "x", `{ template: '{a.b}[/{n}]' }`: "x/1.50",
		`{ template: '{{[[{a.b}]]}}' }`: "{[x]}", `{ template: 'plain' }`: "plain", `{ template: '{u}{u}' }`: "Ünï\"c\x01Ünï\"c\x01", `{ template: '{k\.k}' }`: "dot",
		`{ map: a.b, values: { x: one, y: two } }`: "one", `{ map: n, values: { x: one }, default: none }`: "none", `{ map: gone, values: {}, default: none }`: "none", `{ map: n, values: {} }`: "-",
		`{ lower: u }`: "ünï\"c\x01", `{ lower: gone }`: "-",
		`{ split: s, on: ',' }`: "a", `{ split: s, on: ',', index: 2 }`: "", `{ split: s, on: ',', index: -1 }`: "c", `{ split: s, on: ',', index: 9 }`: "-", `{ split: s, on: ',', index: -5 }`: "-",
		`{ match: s, pattern: 'b.*' }`: "b,,c", `{ match: s, pattern: '(b),' }`: "b", `{ match: s, pattern: 'z' }`: "-", `{ match: s, pattern: '^(?P<first>\w)', as: '${first}$$$1' }`: "a$a",
		`{ match: s, pattern: '(z)?b' }`: "-", `{ match: { lower: { const: ABC } }, pattern: '.$', as: '' }`: "",
		`{ path: a.b, when: { n: 1.50 }, then: { const: other } }`: "other", `{ path: a.b, when: { n: [1, 2] }, then: { const: other } }`: "x",
		`{ path: a.b, when: { n: 1.50, gone: null }, then: gone }`: "x", `{ path: a.b, when: { yes: true, no: null }, then: k\.k }`: "dot",
		`{ path: gone, when: { yes: true }, then: a.e, ignore: '' }`: "-",
		`{ jq: .a.b }`: "x", `{ jq: .n }`: "1.50", `{ jq: .big }`: "12345678901234567890123", `{ jq: '.a.c | length' }`: "3", `{ jq: .gone }`: "-", `{ jq: empty }`: "-", `{ jq: '.a.b, "z"' }`: "x",
		`{ jq: .yes }`: "true", `{ jq: '0.5 + 0.25' }`: "0.75", `{ jq: $ENV.HOME }`: "-", `{ jq: .dup }`: "last", `{ jq: '.u | length' }`: "6",
	} {
		prog, err := compileMapping("m.yaml", []byte("version: 1\ncolumns:\n  timestamp: t\n  action: { const: a }\n  status: { const: s }\n  principal_id: "+value+"\n"))
		if err != nil {
			t.Errorf("%s: %v", value, err)
			continue
		}
		got, err := mapOne(t, mapped{prog, nil}, record)
		if err != nil {
			t.Errorf("%s: %v", value, err)
			continue
		}
		text, ok := got["principal_id"].(string)
		if !ok {
			text = "-"
		}
		if text != want {
			t.Errorf("%s: %q, want %q", value, text, want)
		}
	}
}

func TestMappingTimes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ rule, value, want string }{
		{"w", `"2024-01-05T06:07:08.123456Z"`, "2024-01-05T06:07:08.123456Z"},
		{"w", `"2024-01-05T06:07:08.1234567Z"`, "finer than a microsecond"},
		{"w", `1704434828`, "not RFC 3339"},
		{"w", `null`, "timestamp is missing"},
		{"{ time: w }", `"2024-01-05T06:07:08+01:00"`, "2024-01-05T05:07:08.000000Z"},
		{"{ time: w, layouts: rfc3339_nano }", `"2024-01-05T06:07:08.123456789Z"`, "2024-01-05T06:07:08.123456Z"},
		{"{ time: w, layouts: [rfc3339], zone: Europe/Paris }", `"2024-07-05T06:07:08"`, "2024-07-05T04:07:08.000000Z"},
		{"{ time: w, layouts: [unix] }", `1704434828.123456`, "2024-01-05T06:07:08.123456Z"},
		{"{ time: w, layouts: [unix] }", `"1704434828"`, "2024-01-05T06:07:08.000000Z"},
		{"{ time: w, layouts: [unix] }", `1704434828.1234567`, "finer than a microsecond"},
		{"{ time: w, layouts: [unix] }", `1704434828.1234560`, "2024-01-05T06:07:08.123456Z"},
		{"{ time: w, layouts: [unix] }", `-1`, "1969-12-31T23:59:59.000000Z"},
		{"{ time: w, layouts: [unix] }", `1e9`, "2001-09-09T01:46:40.000000Z"},
		{"{ time: w, layouts: [unix] }", `99999999999999999999`, "none of the layouts"},
		{"{ time: w, layouts: [unix, unix_ms, unix_us, unix_ns] }", `1704434828123`, "2024-01-05T06:07:08.123000Z"},
		{"{ time: w, layouts: [unix, unix_ms, unix_us, unix_ns] }", `1704434828123456`, "2024-01-05T06:07:08.123456Z"},
		{"{ time: w, layouts: [unix, unix_ms, unix_us, unix_ns] }", `1704434828123456789`, "2024-01-05T06:07:08.123456Z"},
		{"{ time: w, layouts: ['2006-01-02 15:04:05'] }", `"2024-01-05 06:07:08"`, "no time zone"},
		{"{ time: w, layouts: ['2006-01-02 15:04:05 -0700'] }", `"2024-01-05 06:07:08.25 +0530"`, "2024-01-05T00:37:08.250000Z"},
		{"{ time: w, layouts: ['2006-01-02 15:04:05 MST'] }", `"2024-01-05 06:07:08 UTC"`, "2024-01-05T06:07:08.000000Z"},
		{"{ time: w, layouts: ['2006-01-02 15:04:05 MST'] }", `"2024-01-05 06:07:08 CET"`, "another time zone"},
		{"{ time: w, layouts: ['2006-01-02 15:04:05 MST'], zone: Europe/Paris }", `"2024-10-27 02:30:00 CET"`, "2024-10-27T01:30:00.000000Z"},
		{"{ time: w, layouts: ['2006-01-02 15:04:05', rfc3339], zone: UTC }", `"2024-01-05T06:07:08Z"`, "2024-01-05T06:07:08.000000Z"},
	} {
		prog, err := compileMapping("m.yaml", []byte("version: 1\ncolumns:\n  timestamp: "+test.rule+"\n  action: { const: a }\n  status: { const: s }\n"))
		if err != nil {
			t.Errorf("%s: %v", test.rule, err)
			continue
		}
		got, err := mapOne(t, mapped{prog, nil}, `{"w":`+test.value+`}`)
		text, _ := got["timestamp"].(string)
		if err != nil {
			text = err.Error()
		}
		if !strings.Contains(text, test.want) {
			t.Errorf("%s of %s: %s, want %s", test.rule, test.value, text, test.want)
		}
	}
}

// TestMappingErrors names the place of what is wrong.
func TestMappingErrors(t *testing.T) {
	t.Parallel()
	const head = "version: 1\ncolumns:\n  timestamp: t\n  action: { const: a }\n  status: "
	for text, want := range map[string]string{
		"":                                 "m.yaml: the mapping file is empty",
		"a: [":                             "m.yaml:1: did not find",
		"[]":                               "m.yaml:1:1: a mapping file must be a list of keys and values",
		"version: 2":                       "m.yaml:1:10: the version must be 1",
		"columns: {timestamp: t}":          "m.yaml:1:1: version: 1 is missing",
		"version: 1":                       "m.yaml:1:1: columns is missing",
		"version: 1\nversion: 1":           `m.yaml:2:1: "version" stands twice`,
		"version: 1\ncolumns: {action: a}": "m.yaml:1:1: the column timestamp is missing",
		"version: 1\ncolumns: {id: a}":     "m.yaml:2:11: id cannot be given",
		"version: 1\ncolumns: {principalId: a, principal_id: b}": "m.yaml:2:27: principal_id stands twice",
		"version: 1\nfoo: 1":                          `m.yaml:2:1: unknown key "foo"`,
		head + "x\n---\na: 1":                         "m.yaml: more than one YAML document",
		head + "{ }":                                  "m.yaml:5:11: there is no function",
		head + "[x]":                                  "m.yaml:5:11: a value must be a list of keys and values",
		head + "*x":                                   "m.yaml: unknown anchor 'x' referenced",
		head + "&x y\n  ttl: *x":                      "m.yaml:6:8: aliases are not taken",
		head + "":                                     "m.yaml:5:10: a path must be text",
		head + "a..b":                                 `m.yaml:5:11: path "a..b": an empty step`,
		head + "a.#.b":                                `m.yaml:5:11: path "a.#.b": '#' is no part of a plain path`,
		head + "'@this'":                              `'@' is no part of a plain path: write \@ for the character itself, or use jq`,
		head + `'a\'`:                                 "the path ends with a backslash",
		head + "{ upper: x }":                         `m.yaml:5:13: unknown function "upper": the functions are path,`,
		head + "{ path: x, const: y }":                "m.yaml:5:22: path and const are two functions",
		head + "{ path: x, on: y }":                   `m.yaml:5:22: path has no option "on"`,
		head + "{ time: x }":                          "m.yaml:5:13: time is for the column timestamp alone",
		head + "{ raw: true }":                        "m.yaml:5:13: raw is for the column details alone",
		head + "{ map: x }":                           "m.yaml:5:13: map needs values",
		head + "{ map: x, values: [a] }":              "m.yaml:5:29: values must be a list of keys and values",
		head + "{ split: x }":                         "m.yaml:5:13: split needs on",
		head + "{ split: x, on: '' }":                 "m.yaml:5:27: on must not be empty",
		head + "{ split: x, on: a, index: b }":        "m.yaml:5:37: index must be a number",
		head + "{ match: x }":                         "m.yaml:5:13: match needs a pattern",
		head + "{ match: x, pattern: '(' }":           "m.yaml:5:32: pattern: missing closing )",
		head + "{ match: x, pattern: a, as: $1 }":     `m.yaml:5:39: the pattern has no group "1"`,
		head + "{ template: '{x' }":                   "m.yaml:5:23: template: { without }",
		head + "{ template: 'x}' }":                   "m.yaml:5:23: template: } without {",
		head + "{ template: '[x' }":                   "m.yaml:5:23: template: [ without ]",
		head + "{ template: 'x]' }":                   "m.yaml:5:23: template: ] without [",
		head + "{ template: '[[x]' }":                 "m.yaml:5:23: template: ] without [",
		head + "{ template: '[a[b]]' }":               "m.yaml:5:23: template: [ within",
		head + "{ template: '{}' }":                   `m.yaml:5:23: path "": an empty step`,
		head + "{ jq: '.[' }":                         "m.yaml:5:17: jq: unexpected EOF",
		head + "{ jq: 'nothing(1)' }":                 "m.yaml:5:17: jq: function not defined: nothing/1",
		head + "{ jq: 'import \"x\" as x; 1' }":       "m.yaml:5:17: jq:",
		head + "{ jq: input }":                        "m.yaml:5:17: jq: input(s)/0 is not allowed",
		head + "{ coalesce: [] }":                     "m.yaml:5:23: the list is empty",
		head + "{ path: x, when: { y: 1 } }":          "m.yaml:5:13: when and then go together",
		head + "{ path: x, ignore: [null] }":          "m.yaml:5:31: ignore must be text",
		head + "s\nevent_uid: []":                     "m.yaml:6:12: the list is empty",
		head + "s\n  event_uid: x\nevent_uid: x":      "event_uid is given twice",
		head + "s\n  details: { drop: [a], jq: . }":   "m.yaml:6:12: drop goes with raw: true",
		head + "s\n  details: { raw: true, path: x }": "m.yaml:6:12: details has more than one source",
		head + "s\n  details: { const: x }":           `m.yaml:6:14: details is made by raw, path or jq, not by "const"`,
		head + "s\n  details: { raw: false }":         "m.yaml:6:19: raw must be true",
		"version: 1\ncolumns: { timestamp: { time: t, layouts: [x] } }":          `m.yaml:2:44: layout "x": a layout is rfc3339`,
		"version: 1\ncolumns: { timestamp: { time: t, layouts: ['%Y-%m'] } }":    "a layout is rfc3339",
		"version: 1\ncolumns: { timestamp: { time: t, layouts: ['15:04:05'] } }": "a layout is rfc3339",
		"version: 1\ncolumns: { timestamp: { time: t, zone: Mars/Olympus } }":    `m.yaml:2:40: unknown zone "Mars/Olympus"`,
		"version: 1\ncolumns: { timestamp: { time: t, foo: x } }":                `m.yaml:2:34: time has no option "foo"`,
		"version: 1\nselect: x\ncolumns: {timestamp: t}":                         "m.yaml:2:9: conditions must be a list of keys and values",
		head + strings.Repeat("{ lower: ", 40) + "x" + strings.Repeat("}", 40):   "functions are nested more than 32 deep",
	} {
		_, err := compileMapping("m.yaml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
			continue
		}
		if fault.ClassOf(err) != fault.Config {
			t.Errorf("%q: class %s", text, fault.ClassOf(err))
		}
	}
	path := filepath.Join(t.TempDir(), "m.yaml")
	if err := os.WriteFile(path, []byte("version: 1\ncolumns: {timestamp: t, action: a}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ParseMapping(path, nil); err == nil || !strings.Contains(err.Error(), "column status is missing") {
		t.Errorf("without status: %v", err)
	}
	if _, err := ParseMapping(path, []string{"status=success"}); err != nil {
		t.Errorf("with --set status: %v", err)
	}
}

// TestMappingRejects says why, without the event's values.
func TestMappingRejects(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		`{ jq: '.secret | tonumber' }`:      "principal_id: its jq expression fails",
		`{ jq: '.secret | error' }`:         "principal_id: its jq expression fails",
		`{ jq: '[.secret]' }`:               "principal_id: its jq expression gives an object or an array",
		`{ jq: '"/w==" | @base64d' }`:       "principal_id: its jq expression gives bytes that are not text",
		`{ jq: '"AA==" | @base64d' }`:       "principal_id: its jq expression gives bytes that are not text",
		`{ jq: 'def f: f; f' }`:             "principal_id: its jq expression fails",
		`{ jq: '[limit(3; repeat(1))][2]'}`: "",
	} {
		prog, err := compileMapping("m.yaml", []byte("version: 1\ncolumns:\n  timestamp: t\n  action: { const: a }\n  status: { const: s }\n  principal_id: "+value+"\n"))
		if err != nil {
			t.Errorf("%s: %v", value, err)
			continue
		}
		_, err = mapOne(t, mapped{prog, nil}, `{"t":"2024-01-05T06:07:08Z","secret":"QZX"}`)
		if (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("%s: %v, want %q", value, err, want)
		}
	}
	prog, err := compileMapping("m.yaml", []byte("version: 1\ncolumns:\n  timestamp: t\n  action: a\n  status: { const: s }\n  processing_latency: ms\n"))
	if err != nil {
		t.Fatal(err)
	}
	for record, want := range map[string]string{
		`{"t":"2024-01-05T06:07:08Z"}`:                   "action is missing",
		`{"t":"2024-01-05T06:07:08Z","a":"x","ms":1.5}`:  "processing_latency: processing_latency is not an integer of 32 bits",
		`{"t":"2024-01-05T06:07:08Z","a":"x","ms":"12"}`: "",
		`[1]`:                                 "the record is not a JSON object",
		`{"t":"2024-01-05T06:07:08Z","a":"x"`: "invalid JSON at byte 35: unexpected end",
	} {
		if _, err := mapOne(t, mapped{prog, nil}, record); (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("%s: %v, want %q", record, err, want)
		}
	}
}

// TestPathsAreGJSONs compares paths in random documents with gjson's, on canonical text.
func TestPathsAreGJSONs(t *testing.T) {
	t.Parallel()
	name := rapid.SampledFrom([]string{"a", "b", "0", "1", "a.b", "ä", "x\"y", "@t", "", "a b"})
	var value func(depth int) *rapid.Generator[any]
	value = func(depth int) *rapid.Generator[any] {
		if depth == 0 {
			return rapid.OneOf(rapid.Just[any](nil), rapid.Just[any](true), rapid.Map(rapid.Int(), func(i int) any { return i }), rapid.Map(rapid.String(), func(s string) any { return strings.ReplaceAll(s, "\x00", "") }))
		}
		return rapid.OneOf(value(0),
			rapid.Map(rapid.MapOfN(name, rapid.Deferred(func() *rapid.Generator[any] { return value(depth - 1) }), 0, 5), func(m map[string]any) any { return m }),
			rapid.Map(rapid.SliceOfN(rapid.Deferred(func() *rapid.Generator[any] { return value(depth - 1) }), 0, 4), func(s []any) any { return s }))
	}
	escape := strings.NewReplacer(".", `\.`, "@", `\@`, `"`, `\"`)
	rapid.Check(t, func(t *rapid.T) {
		text, err := json.Marshal(map[string]any{"a": value(3).Draw(t, "a"), "b": value(2).Draw(t, "b")})
		if err != nil {
			t.Skip()
		}
		doc, err := audit.CanonicalJSON(nil, text)
		if err != nil {
			t.Skip()
		}
		steps := append([]string{rapid.SampledFrom([]string{"a", "b"}).Draw(t, "first")}, rapid.SliceOfN(name.Filter(func(s string) bool { return s != "" }), 0, 3).Draw(t, "steps")...)
		for i := range steps {
			steps[i] = escape.Replace(steps[i])
		}
		path := strings.Join(steps, ".")
		split, err := splitPath(path)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		root := &pathNode{index: -1, slot: -1}
		root.at(split).slot = 0
		slots := make([][]byte, 1)
		root.collect(doc, slots)
		if want := gjson.GetBytes(doc, path); string(slots[0]) != want.Raw {
			t.Fatalf("%s of %s: %s, want %s", path, doc, slots[0], want.Raw)
		}
		if len(split) > 1 {
			checkWithout(t, root, doc, split)
		}
	})
}

// checkWithout drops what the path leads to and compares with the standard library's view.
func checkWithout(t *rapid.T, root *pathNode, doc []byte, steps []string) {
	got := root.without(nil, doc)
	canonical, err := audit.CanonicalJSON(nil, got)
	if err != nil || !bytes.Equal(canonical, got) {
		t.Fatalf("%s is not canonical: %v", got, err)
	}
	var whole any
	if err := json.Unmarshal(doc, &whole); err != nil {
		t.Fatal(err)
	}
	at := whole
	for i, step := range steps {
		object, ok := at.(map[string]any)
		if !ok {
			break
		}
		if i == len(steps)-1 {
			delete(object, step)
		}
		at = object[step]
	}
	text, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	want, err := audit.CanonicalJSON(nil, text)
	if err != nil {
		t.Skip()
	}
	var a, b any
	if json.Unmarshal(got, &a) != nil || json.Unmarshal(want, &b) != nil || fmt.Sprint(a) != fmt.Sprint(b) {
		t.Fatalf("without %v: %s, want %s", steps, got, want)
	}
}

func TestCSVThroughMapping(t *testing.T) {
	t.Parallel()
	prog, err := compileMapping("m.yaml", []byte("version: 1\ncolumns:\n  timestamp: time\n  action: what\n  status: { coalesce: [how, { const: attempt }] }\n  principal_id: 'the user'\n"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := newCSVObjects([]byte(`time,what,how,"the user","a""b"`), mapped{prog, nil})
	if err != nil {
		t.Fatal(err)
	}
	got, err := mapOne(t, m, `2024-01-05T06:07:08Z,"log, in",,"",x`)
	if err != nil || got["action"] != "log, in" || got["status"] != "attempt" || got["principal_id"] != "" {
		t.Errorf("%v, %v", got, err)
	}
	if raw, ok := got["details"].(json.RawMessage); !ok || string(raw) != `{"a\"b": "x", "time": "2024-01-05T06:07:08Z", "what": "log, in", "the user": ""}` {
		t.Errorf("details %s", raw)
	}
	if _, err := mapOne(t, m, "a,b"); err == nil || err.Error() != "2 fields, the header has 5" {
		t.Errorf("short record: %v", err)
	}
	if _, err := newCSVObjects([]byte("this,is,none"), mapped{prog, nil}); fault.ClassOf(err) != fault.Data {
		t.Errorf("foreign header: %v", err)
	}
}

func TestEpochs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		at := time.UnixMicro(rapid.Int64Range(minEpoch, maxEpoch).Draw(t, "micros")).UTC()
		micros := at.UnixMicro()
		for name, text := range map[string]string{
			"unix_us": strconv.FormatInt(micros, 10),
			"unix_ms": decimal(micros, 3),
			"unix":    decimal(micros, 6),
		} {
			got, err := namedLayout(name)([]byte(text), nil)
			if err != nil || got != audit.TimestampMicros(at) {
				t.Fatalf("%s of %s: %d, %v, want %d", name, text, got, err, audit.TimestampMicros(at))
			}
		}
	})
}

// decimal writes n / 10^digits.
func decimal(n int64, digits int) string {
	sign := ""
	if n < 0 {
		sign, n = "-", -n
	}
	text := fmt.Sprintf("%0*d", digits+1, n)
	return sign + text[:len(text)-digits] + "." + text[len(text)-digits:]
}
