package ingest_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"auditdb/internal/fault"
	"auditdb/pkg/audit"
	"auditdb/pkg/ingest"
)

type rejectLine struct {
	Source string `json:"source"`
	Record int64  `json:"record"`
	Offset int64  `json:"offset"`
	Reason string `json:"reason"`
	Raw    string `json:"raw_base64"`
	Cut    bool   `json:"truncated"`
}

func readRejects(tb testing.TB, path string) []rejectLine {
	tb.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	var out []rejectLine
	dec := json.NewDecoder(bytes.NewReader(data))
	for {
		var l rejectLine
		err := dec.Decode(&l)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, l)
	}
}

// withRejects gives the bed a rejects file.
func (b *bed) withRejects() string {
	b.t.Helper()
	path := filepath.Join(b.t.TempDir(), "rejects")
	b.reopenRejects(path)
	b.opts.MaxBad = -1
	return path
}

func (b *bed) reopenRejects(path string) {
	b.t.Helper()
	f, err := ingest.OpenRejects(path)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = f.Close() })
	b.opts.Rejects = f
}

// event is a native event with one thing changed.
func event(old, with string) string {
	return strings.Replace(`{"timestamp":"2024-01-05T06:07:08Z","action":"a","status":"ok","details":{"k":"v"}}`, old, with, 1)
}

func badLines() []struct{ line, reason string } {
	return []struct{ line, reason string }{
		{`{"timestamp":"2024-01-05T06:07:08Z","action":"a"`, "invalid JSON at byte 48: unexpected end"},
		{`not JSON`, "invalid JSON at byte 0: expected a value"},
		{`[1]`, "the record is not a JSON object"},
		{event(`"a"`, `"a"}{`), "invalid JSON at byte 49: more text after the value"},
		{event(`"timestamp":"2024-01-05T06:07:08Z",`, ``), "timestamp is missing"},
		{event(`"action":"a",`, ``), "action is missing"},
		{event(`"ok"`, `null`), "status is missing"},
		{event(`"a"`, `5`), "action is not a string"},
		{event(`"2024-01-05T06:07:08Z"`, `1704434828`), "timestamp is not a string"},
		{event(`T06:07:08Z`, ``), "timestamp is not RFC 3339 (2006-01-02T15:04:05.000000Z)"},
		{event(`08Z`, `08`), "timestamp has no time zone: --time-zone says which is meant"},
		{event(`08Z`, `08.1234567Z`), "timestamp is finer than a microsecond"},
		{event(`2024-01-05`, `2024-02-30`), "timestamp is not a day of the calendar"},
		{event(`2024-01-05T06:07:08Z`, `infinity`), "timestamp is not RFC 3339 (2006-01-02T15:04:05.000000Z)"},
		{event(`2024-01-05`, `9024-01-05`), "timestamp is more than 48h0m0s in the future"},
		{event(`2024-01-05`, `2019-01-05`), "no partition for its timestamp 2019-01-05T06:07:08Z: --create-partitions makes it"},
		{event(`"k":"v"`, `"k":"\u0000"`), `\u0000 cannot be stored`},
		{event(`"k":"v"`, `"k":"\ud800"`), "lone surrogate"},
		{event(`"k":"v"`, "\"k\":\"\xff\""), "invalid UTF-8"},
		{event(`"a"`, `"\u0000"`), `\u0000 cannot be stored`},
		{event(`"a"`, "\"\xc3\""), "invalid UTF-8"},
		{event(`"a"`, `"`+strings.Repeat("a", 513)+`"`), "action has 513 bytes, the limit is 512"},
		{event(`"details"`, `"principal_id":"`+strings.Repeat("é", 600)+`","details"`), "principal_id has 1200 bytes, the limit is 1024"},
		{event(`"details"`, `"id":5,"details"`), "id cannot be given"},
		{event(`"details"`, `"recordedAt":"x","details"`), "recorded_at cannot be given"},
		{event(`"details"`, `"colour":"x","details"`), "unknown key (member 4 of the record): --unknown details keeps it"},
		{event(`"details"`, `"processing_latency":1.5,"details"`), "processing_latency is not an integer of 32 bits"},
		{event(`"details"`, `"processing_latency":2147483648,"details"`), "processing_latency is not an integer of 32 bits"},
		{event(`"k":"v"`, `"k":1e2000`), "exponent beyond"},
		{event(`"k":"v"`, `"k":01`), "malformed number"},
		{event(`"v"`, strings.Repeat("[", 600)+strings.Repeat("]", 600)), "nested more than"},
		{event(`"v"`, `tru`), "expected a value"},
		{event(`"k":"v"`, `"k":"`+strings.Repeat("x", 20<<20)+`"`), fmt.Sprintf("record of %d bytes, the limit is %d", len(event("", ""))+20<<20-1+0, ingest.MaxRecord)},
	}
}

func TestBadRecords(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	b.opts.BatchRows = 8
	path := b.withRejects()
	var in strings.Builder
	bad := badLines()
	for i, l := range bad {
		in.WriteString(l.line + "\n")
		in.WriteString(event(`"a"`, fmt.Sprintf(`"good.%d"`, i)) + "\n")
	}
	source := write(t, "bad", in.String())
	rep := b.run(source)
	if rep.Inserted != int64(len(bad)) || rep.Rejected != int64(len(bad)) || b.rows() != int64(len(bad)) {
		t.Errorf("report %+v", rep)
	}
	lines := readRejects(t, path)
	if len(lines) != len(bad) {
		t.Fatalf("%d rejects of %d", len(lines), len(bad))
	}
	offset := int64(0)
	for i, l := range lines {
		raw, err := base64.StdEncoding.DecodeString(l.Raw)
		if err != nil || (string(raw) != bad[i].line && len(bad[i].line) < ingest.MaxRecord) {
			t.Errorf("reject %d: raw %.40q", i, raw)
		}
		if l.Cut != (len(bad[i].line) > ingest.MaxRecord) {
			t.Errorf("reject %d: truncated %t of %d bytes", i, l.Cut, len(bad[i].line))
		}
		want := bad[i].reason
		if strings.HasPrefix(want, "record of") {
			want = "record of "
		}
		if !strings.Contains(l.Reason, want) || l.Source != source || l.Record != int64(2*i+1) || l.Offset != offset {
			t.Errorf("reject %d: record %d, offset %d (want %d), reason %q, want %q", i, l.Record, l.Offset, offset, l.Reason, bad[i].reason)
		}
		offset += int64(len(bad[i].line) + 1 + len(event(`"a"`, fmt.Sprintf(`"good.%d"`, i))) + 1)
	}
	b.checkLeaves()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	// Nothing is rejected or written twice.
	b.reopenRejects(path)
	if rep := b.run(source); rep.Read != 0 || rep.Skipped != int64(2*len(bad)) || len(readRejects(t, path)) != len(bad) {
		t.Errorf("second run: %+v", rep)
	}
}

func TestRejectLimit(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	b.opts.BatchRows = 5
	source := write(t, "in", events(0, 12)+"broken\n"+events(12, 10)+"broken\n"+events(22, 3))
	rep, err := b.try(source)
	if fault.ClassOf(err) != fault.Data || rep.Inserted != 10 || b.rows() != 10 || !strings.Contains(err.Error(), "record 13") {
		t.Fatalf("report %+v, error %v", rep, err)
	}
	b.opts.MaxBad = 1
	if rep, err = b.try(source); err == nil || rep.Rejected != 1 || b.rows() != 19 || !strings.Contains(err.Error(), "record 24") ||
		!strings.HasPrefix(err.Error(), "the limit of 1 rejected records") || strings.Count(err.Error(), source) != 1 {
		t.Fatalf("limit 1: report %+v, error %v, %d rows", rep, err, b.rows())
	}
	if rep = b.run(source); rep.Rejected != 1 || b.rows() != 25 {
		t.Fatalf("then: %+v", rep)
	}
}

func TestRejectsSurviveACrash(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	path := b.withRejects()
	source := write(t, "in", "broken\n"+events(0, 3)+"{}\n")
	b.run(source)
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// As after a crash between the rejects file and the COMMIT, in the middle of a line.
	b.exec(`DELETE FROM auditdb.ingest_range`)
	b.exec(`UPDATE auditdb.ingest_source SET finished_at = NULL`)
	rewrite(t, path, string(want[:len(want)-20]))
	b.reopenRejects(path)
	b.run(source)
	if got, _ := os.ReadFile(path); !bytes.Equal(got, want) {
		t.Errorf("rejects are\n%s\nwant\n%s", got, want)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ingest.OpenRejects(path); fault.ClassOf(err) != fault.Usage {
		t.Errorf("a file that others may read: %v", err)
	}
}

func TestTruncatedGzip(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	_, _ = io.WriteString(z, events(0, 5000))
	_ = z.Close()
	source := write(t, "in.gz", buf.String()[:buf.Len()/2])
	other := write(t, "other", events(6000, 10))
	rep, err := b.try(source, other)
	if fault.ClassOf(err) != fault.Data || !strings.Contains(err.Error(), "truncated gzip") {
		t.Fatalf("error %v", err)
	}
	if rep.Inserted < 1010 || rep.Inserted > 4900 || rep.Inserted != b.rows() || rep.Sources[1].Inserted != 10 {
		t.Fatalf("report %+v", rep)
	}
	rewrite(t, source, buf.String())
	if again := b.run(source); again.Inserted+rep.Inserted != 5010 {
		t.Errorf("repaired: %+v", again)
	}
}

func TestMalformedArray(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	for in, want := range map[string]int64{
		`[` + event("", "") + `,` + event("", "") + ` ` + event("", "") + `]`: 2,
		`[` + event("", "") + `,` + event("", "")[:40]:                        1,
		`[` + event("", ""):                   1,
		`{"Records":[` + event("", "") + `]`:  1,
		`{"Records":[` + event("", "") + `]]`: 1,
	} {
		rep, err := b.try(write(t, "in", in))
		if fault.ClassOf(err) != fault.Data || rep.Inserted != want {
			t.Errorf("%.60s: %+v, %v", in, rep, err)
		}
	}
	b.opts.MaxBad = -1
	if rep := b.run(write(t, "in", `[`+event("", "")+`,{"a":},5,`+event("", "")+`]`)); rep.Inserted != 2 || rep.Rejected != 2 {
		t.Errorf("bad elements: %+v", rep)
	}
}

func TestCSVRecords(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	path := b.withRejects()
	header := "timestamp,action,status,principal_id,data_classification,details,processing_latency\n"
	at := "2024-01-05T06:07:08Z,"
	rep := b.run(write(t, "in", header+
		at+"one,ok,,,,\n"+
		at+"two,ok,\"\",\"\",\"{\"\"x\"\": [1]}\",-5\n"+
		at+"\"three\nlines\n\",ok,p,PHI,null,\n"+
		at+"stray\"quote,ok,,,,\n"+
		at+"four,ok,,,\n"+
		at+"five,ok,,,,x\n"+
		at+"six,ok,,,{,\n"+
		at+"\"seven\"x,ok,,,,\n"+
		at+"eight,\xff,,,,\n"+
		at+"nine,ok,,,\"{\"\"a\"\":1e2}\",7"))
	if rep.Inserted != 4 || rep.Rejected != 6 {
		for _, l := range readRejects(t, path) {
			t.Log(l.Record, l.Reason)
		}
		t.Fatalf("report %+v", rep)
	}
	for _, want := range []string{
		`action = 'one' AND principal_id IS NULL AND data_classification IS NULL AND details IS NULL AND processing_latency IS NULL AND retention_policy = 'standard'`,
		`action = 'two' AND principal_id = '' AND data_classification = '' AND details = '{"x": [1]}' AND processing_latency = -5`,
		`action = E'three\nlines\n' AND details = 'null'`,
		`action = 'nine' AND details::text = '{"a": 100}'`,
	} {
		if b.count(`SELECT count(*) FROM public.audit_log WHERE `+want) != 1 {
			t.Errorf("no row with %s", want)
		}
	}
	for _, h := range []string{"timestamp,action,status,colour\n", "timestamp,action,action,status\n", "timestamp,action,status,id\n"} {
		if _, err := b.try(write(t, "in", h+"x\n")); fault.ClassOf(err) != fault.Data {
			t.Errorf("%s: %v", h, err)
		}
	}
}

func TestUnknownKeysAndSettings(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	mapping, err := ingest.ParseMapping(ingest.MappingNative, []string{"organizationId=acme", "processing_latency=9"})
	if err != nil {
		t.Fatal(err)
	}
	mapping.UnknownToDetails, mapping.Local = true, time.FixedZone("X", 3600)
	b.opts.Mapping = mapping
	b.opts.MaxBad = -1
	rep := b.run(write(t, "in",
		`{"timestamp":"2024-01-05T06:07:08","action":"one","status":"s","colour":"r\"d","k":1,"details":{"k":2}}`+"\n"+
			`{"timestamp":"2024-01-05T06:07:08Z","action":"two","status":"s","x":{"b":1,"a":[]},"organization_id":"other"}`+"\n"+
			`{"timestamp":"2024-01-05T06:07:08Z","action":"three","status":"s","x":1,"details":[1]}`+"\n"),
		write(t, "in.csv", "timestamp,action,status,shade,details\n2024-01-05T06:07:08,four,s,\"a\"\"b\",\n2024-01-05T06:07:08,five,s,,{}\n"))
	if rep.Inserted != 4 || rep.Rejected != 1 {
		t.Fatalf("report %+v", rep)
	}
	for _, want := range []string{
		`action = 'one' AND details = '{"k": 2, "colour": "r\"d"}' AND "timestamp" = '2024-01-05T05:07:08Z' AND organization_id = 'acme' AND processing_latency = 9`,
		`action = 'two' AND details = '{"x": {"a": [], "b": 1}}' AND organization_id = 'acme'`,
		`action = 'four' AND details = '{"shade": "a\"b"}'`,
		`action = 'five' AND details = '{}'`,
	} {
		if b.count(`SELECT count(*) FROM public.audit_log WHERE `+want) != 1 {
			t.Errorf("no row with %s", want)
		}
	}
	for _, bad := range []string{"x=1", "action", "timestamp=2024-01-01T00:00:00Z", "id=5", "details={}", "status=" + strings.Repeat("x", 65), "processing_latency=x"} {
		if _, err := ingest.ParseMapping(ingest.MappingNative, []string{bad}); fault.ClassOf(err) != fault.Usage {
			t.Errorf("--set %.20s: %v", bad, err)
		}
	}
	if _, err := ingest.ParseMapping("syslog", nil); fault.ClassOf(err) != fault.Usage {
		t.Errorf("unknown mapping: %v", err)
	}
}

// TestHugeLineIsNotHeld reads a line of 200 MB.
func TestHugeLineIsNotHeld(t *testing.T) { //nolint:paralleltest // measures memory
	b := newBed(t)
	b.months("2024-01", 1)
	b.opts.MaxBad = -1
	huge := io.MultiReader(strings.NewReader(event("", "")+"\n{\"x\":\""), io.LimitReader(endless{}, 200<<20), strings.NewReader("\"}\n"+event(`"a"`, `"b"`)+"\n"))
	sources, err := ingest.Expand([]string{"-"}, "huge", huge)
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	rep, err := ingest.Run(t.Context(), b.opts, sources)
	runtime.ReadMemStats(&after)
	if err != nil || rep.Inserted != 2 || rep.Rejected != 1 {
		t.Fatalf("report %+v, %v", rep, err)
	}
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 80<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func TestReadBackFindsAChangedRow(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	b.exec(`CREATE FUNCTION public.spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.action = 'a.3' THEN NEW.action := 'a.4'; END IF; RETURN NEW; END $$`)
	b.exec(`CREATE TRIGGER spoil BEFORE INSERT ON public.audit_log_2024_01 FOR EACH ROW EXECUTE FUNCTION public.spoil()`)
	if _, err := b.try(write(t, "in", events(0, 50))); fault.ClassOf(err) != fault.Integrity || b.rows() != 0 {
		t.Errorf("error %v, %d rows", err, b.rows())
	}
}

func TestCanonicalIsTheServersOwn(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	path := write(t, "in", event(`{"k":"v"}`, `{"zz":1.50e1,"a":-0.0,"\u0061":"\u00e9\n","":[]}`)+"\n")
	b.run(path)
	var details string
	if err := b.db.Pool().QueryRow(t.Context(), `SELECT details::text FROM public.audit_log`).Scan(&details); err != nil {
		t.Fatal(err)
	}
	want, _ := audit.CanonicalJSON(nil, []byte(`{"zz":1.50e1,"a":-0.0,"\u0061":"\u00e9\n","":[]}`))
	if details != string(want) {
		t.Errorf("%s is not %s", details, want)
	}
}
