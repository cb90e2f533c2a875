package ingest

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"hash/maphash"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"auditdb/pkg/audit"
)

// readAll splits and maps a whole source as a run does, and checks what must hold whatever the input is.
func readAll(t *testing.T, content []byte, format, mapping string, slow bool) (records int, bad []badEvent) {
	t.Helper()
	var r io.Reader = bytes.NewReader(content)
	if slow {
		r = iotest.OneByteReader(r)
	}
	in, err := openInput(r)
	if err != nil {
		return 0, nil
	}
	defer in.close()
	m, err := ParseMapping(mapping, nil)
	if err != nil {
		t.Fatal(err)
	}
	m.UnknownToDetails = true
	src := &source{}
	rd := &reading{run: &run{opts: Options{Format: format, Mapping: m}}, src: src, win: newWindow(in), record: 1}
	if err := rd.begin(); err != nil {
		return 0, nil
	}
	p := &preparer{fixed: &fixed{}, now: benchNow, seed: maphash.MakeSeed()}
	h := audit.NewHasher(audit.AuditLog())
	whole := &leaf{from: math.MinInt64, to: math.MaxInt64}
	c := chunk{limit: 1 << 16}
	var b batch
	for end := error(nil); end == nil; {
		c.reset(src, int64(records+1))
		for end == nil && len(c.records) < 100 {
			end = c.read(rd.split)
		}
		if err := p.prepare(t.Context(), &b, &c); err != nil {
			t.Fatal(err)
		}
		if err := b.seal(h, func(int64) *leaf { return whole }, 0); err != nil {
			t.Fatal(err)
		}
		records += len(c.records)
		bad = append(bad, b.bad...)
		if len(b.order)+b.dropped+b.unselected+len(b.bad) != len(c.records) {
			t.Fatalf("%d records became %d rows, %d duplicates and %d rejects", len(c.records), len(b.order), b.dropped, len(b.bad))
		}
		checkStream(t, &b)
		if end != nil && !errors.Is(end, io.EOF) {
			break
		}
	}
	return records, bad
}

// checkStream parses what would be copied.
func checkStream(t *testing.T, b *batch) {
	t.Helper()
	n := 0
	scan := audit.NewTupleScanner(audit.AuditLog(), func(r audit.Row) error {
		if r.ID != b.id(n) || r.Salt == nil || r.Timestamp < audit.MinTimestamp || r.Timestamp > audit.MaxTimestamp {
			t.Fatalf("row %d: id %d, time %d", n, r.ID, r.Timestamp)
		}
		n++
		return nil
	})
	for _, s := range b.shares {
		if _, err := io.Copy(scan, b.reader(s)); err != nil {
			t.Fatal(err)
		}
		if err := scan.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n != len(b.order) {
		t.Fatalf("%d rows in the stream, %d in the batch", n, len(b.order))
	}
}

const goodEvent = `{"timestamp":"2024-01-05T06:07:08.5Z","action":"a","status":"s","event_uid":"x","details":{"b":1,"a":[1.50,"é\n"]}}`

func FuzzNDJSON(f *testing.F) {
	f.Add([]byte(goodEvent + "\n" + goodEvent + "\r\n\n{}\n[\nx"))
	f.Add([]byte(`{"action":"a","action":null,"tim\u0065stamp":"2024-01-05T06:07:08+14:00","status":"","zz":{"a":{}},"details":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, bad := readAll(t, b, FormatNDJSON, MappingNative, false)
		m, worse := readAll(t, b, FormatNDJSON, MappingNative, true)
		if n != m || len(bad) != len(worse) {
			t.Fatalf("%d records and %d rejects, byte by byte %d and %d", n, len(bad), m, len(worse))
		}
	})
}

func FuzzJSON(f *testing.F) {
	f.Add([]byte(`[` + goodEvent + `, ` + goodEvent + `,{"a":}, 5 ]`))
	f.Add([]byte(`{"a":[1,"]"],"Records":[` + goodEvent + `],"b":{}}[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, bad := readAll(t, b, FormatJSON, MappingNative, false)
		m, worse := readAll(t, b, FormatJSON, MappingNative, true)
		if n != m || len(bad) != len(worse) {
			t.Fatalf("%d records and %d rejects, byte by byte %d and %d", n, len(bad), m, len(worse))
		}
		var all []json.RawMessage
		if json.Unmarshal(b, &all) == nil && n != len(all) && len(b) > 0 && !isNull(b) {
			t.Fatalf("%d records of an array of %d", n, len(all))
		}
	})
}

func isNull(b []byte) bool { return string(bytes.TrimSpace(b)) == "null" }

func FuzzCloudTrail(f *testing.F) {
	f.Add([]byte(`{"eventTime":"2023-07-10T11:42:36Z","eventSource":"s3.amazonaws.com","eventName":"X","userIdentity":{"arn":"a\"\\","accountId":1},"resources":[{"ARN":"r"}],"errorCode":"e"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		readAll(t, b, FormatNDJSON, MappingCloudTrail, false)
	})
}

func FuzzCSV(f *testing.F) {
	f.Add([]byte("timestamp,action,status,x,details\n2024-01-05T06:07:08Z,\"a\"\"b\n\",s,,\"{}\"\r\n,,,\n\"\"\"\"\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, bad := readAll(t, b, FormatCSV, MappingNative, false)
		m, worse := readAll(t, b, FormatCSV, MappingNative, true)
		if n != m || len(bad) != len(worse) {
			t.Fatalf("%d records and %d rejects, byte by byte %d and %d", n, len(bad), m, len(worse))
		}
		compareCSV(t, b)
	})
}

// compareCSV reads with the standard library, which takes the same grammar but folds line ends, and compares records and fields.
func compareCSV(t *testing.T, b []byte) {
	t.Helper()
	if bytes.ContainsAny(b, "\r") || bytes.HasPrefix(b, []byte("\xef\xbb\xbf")) {
		return
	}
	r := csv.NewReader(bytes.NewReader(b))
	r.FieldsPerRecord = -1
	want, err := r.ReadAll()
	if err != nil {
		return
	}
	in, err := openInput(bytes.NewReader(b))
	if err != nil || in.name != "" {
		return
	}
	sp := &csvSplitter{s: newWindow(in)}
	for _, record := range want {
		raw, _, err := sp.next(nil)
		if err != nil {
			t.Fatalf("%q: %v, want %q", b, err, record)
		}
		fields := csvFields{rest: raw}
		for _, field := range record {
			if !fields.more() {
				t.Fatalf("%q: too few fields", raw)
			}
			got, null, err := fields.next(nil)
			if err != nil || string(got) != field || (null && field != "") {
				t.Fatalf("%q: field %q, %v, want %q", raw, got, err, field)
			}
		}
		if fields.more() {
			t.Fatalf("%q: too many fields", raw)
		}
	}
	if _, _, err := sp.next(nil); !errors.Is(err, io.EOF) {
		t.Fatalf("%q: more records than %d, %v", b, len(want), err)
	}
}

func FuzzAny(f *testing.F) {
	f.Add([]byte("\x1f\x8b\x08\x00"))
	f.Add([]byte("\x28\xb5\x2f\xfd"))
	f.Add([]byte(goodEvent))
	f.Fuzz(func(t *testing.T, b []byte) { readAll(t, b, "", MappingNative, false) })
}

func FuzzTimestamp(f *testing.F) {
	for _, s := range []string{"2024-02-29T23:59:59.999999+05:30", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "2024-01-05 06:07:08z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseTimestamp([]byte(s), nil)
		want, wantErr := time.Parse(time.RFC3339Nano, strings.ToUpper(s))
		switch {
		case err == nil && wantErr != nil:
			if len(s) < 11 || s[10] != ' ' { // a space for the T is ours, and RFC 3339's
				t.Fatalf("%q: taken, %v", s, wantErr)
			}
		case err == nil && got != audit.TimestampMicros(want):
			t.Fatalf("%q: %d, want %d", s, got, audit.TimestampMicros(want))
		case err != nil && wantErr == nil && want.Nanosecond()%1000 == 0 && len(s) <= len("2006-01-02T15:04:05.999999Z07:00") && want.Year() > 0 && !strings.Contains(s, ","):
			if i := strings.IndexByte(s, '.'); i < 0 || strings.Trim(s[i+1:min(len(s), i+8)], "0123456789") != "" {
				t.Fatalf("%q: refused, %v", s, err)
			}
		}
	})
}

func TestTimestamps(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		at := time.UnixMicro(rapid.Int64Range(-62135596800000000, 253402300799999999).Draw(t, "micros")).UTC()
		zone := time.FixedZone("", 60*rapid.IntRange(-23*60, 23*60).Draw(t, "offset"))
		if y := at.In(zone).Year(); y < 1 || y > 9999 {
			return
		}
		got, err := parseTimestamp([]byte(at.In(zone).Format(time.RFC3339Nano)), nil)
		if err != nil || got != audit.TimestampMicros(at) {
			t.Fatalf("%s: %d, %v, want %d", at.In(zone).Format(time.RFC3339Nano), got, err, audit.TimestampMicros(at))
		}
	})
	paris, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseTimestamp([]byte("2024-07-01T12:00:00"), paris)
	if want := audit.TimestampMicros(time.Date(2024, 7, 1, 10, 0, 0, 0, time.UTC)); err != nil || got != want {
		t.Errorf("in Paris: %d, %v, want %d", got, err, want)
	}
}

func TestColumnsAreTheTables(t *testing.T) {
	t.Parallel()
	cols := audit.AuditLog().Columns()
	if len(cols) != int(columnCount) {
		t.Fatalf("%d columns, the format has %d", columnCount, len(cols))
	}
	for i, c := range cols {
		if got, ok := nativeColumn([]byte(c.Name)); !ok || int(got) != i {
			t.Errorf("%s is column %d, not %d", c.Name, got, i)
		}
		if column(i).isText() != (c.Type == "text") {
			t.Errorf("%s is %s", c.Name, c.Type)
		}
		words := strings.Split(c.Name, "_")
		for k := range words[1:] {
			words[k+1] = strings.ToUpper(words[k+1][:1]) + words[k+1][1:]
		}
		if got, ok := nativeColumn([]byte(strings.Join(words, ""))); !ok || int(got) != i {
			t.Errorf("%s is not known as %s", c.Name, strings.Join(words, ""))
		}
	}
}

func TestPreparingAllocatesNothing(t *testing.T) { //nolint:paralleltest // counts allocations
	data := sampleEvents(t, 1000)
	m := Mapping{Name: MappingNative}
	p := &preparer{fixed: &fixed{}, now: benchNow, seed: maphash.MakeSeed()}
	h := audit.NewHasher(audit.AuditLog())
	whole := &leaf{from: math.MinInt64, to: math.MaxInt64}
	c := chunk{limit: maxBatchBytes}
	c.reset(&source{mapper: m.newMapper()}, 1)
	in, err := openInput(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for sp := (&lineSplitter{s: newWindow(in)}); c.read(sp) == nil; {
		continue
	}
	var b batch
	if n := testing.AllocsPerRun(10, func() {
		if err := p.prepare(t.Context(), &b, &c); err != nil {
			t.Fatal(err)
		}
		if err := b.seal(h, func(int64) *leaf { return whole }, 0); err != nil {
			t.Fatal(err)
		}
	}); n > 5 || len(b.order) != 1000 {
		t.Errorf("%v allocations for %d rows", n, len(b.order))
	}
}
