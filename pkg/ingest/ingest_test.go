package ingest_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/klauspost/compress/zstd"

	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
	"auditdb/pkg/ingest"
)

func TestNativeNDJSON(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	b.opts.BatchRows = 100
	path := write(t, "a.ndjson", events(0, 1050))
	rep := b.run(path)
	if rep.Inserted != 1050 || rep.Batches != 11 || rep.Rejected != 0 || rep.Checkpoint == nil {
		t.Fatalf("report %+v", rep)
	}
	if n := b.rows(); n != 1050 {
		t.Fatalf("%d rows", n)
	}
	b.checkLeaves()
	if n := b.count(`SELECT count(*) FROM public.audit_log WHERE details ->> 'n' = '17' AND principal_id = 'p4' AND data_classification = 'INTERNAL'`); n != 1 {
		t.Errorf("event 17 is not as it was given")
	}
	rep = b.run(path)
	if rep.Inserted != 0 || rep.Skipped != 1050 || rep.Read != 0 {
		t.Fatalf("second run: %+v", rep)
	}
	if n := b.count(`SELECT count(*) FROM auditdb.ingest_source WHERE finished_at IS NOT NULL AND size_bytes > 0`); n != 1 {
		t.Error("the source is not finished")
	}
}

func TestCloudTrail(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2023-07", 1)
	b.opts.Mapping, _ = ingest.ParseMapping(ingest.MappingCloudTrail, nil)
	files, err := filepath.Glob("testdata/cloudtrail/*.gz")
	if err != nil || len(files) != 3 {
		t.Fatalf("files %v, %v", files, err)
	}
	want := int64(0)
	for _, f := range files {
		want += int64(len(records(t, f)))
	}
	rep := b.run(files...)
	if rep.Inserted != want || len(rep.Sources) != 3 {
		t.Fatalf("%d records, report %+v", want, rep)
	}
	b.checkLeaves()
	if rep := b.run(files...); rep.Inserted != 0 || rep.Skipped != want {
		t.Fatalf("second run: %+v", rep)
	}
	for _, f := range files {
		for _, r := range records(t, f) {
			b.checkTrail(r)
		}
	}
}

// records decodes a CloudTrail file in the ordinary way.
func records(tb testing.TB, path string) []json.RawMessage {
	tb.Helper()
	f, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	var doc struct{ Records []json.RawMessage }
	if err := json.NewDecoder(z).Decode(&doc); err != nil {
		tb.Fatal(err)
	}
	return doc.Records
}

func (b *bed) checkTrail(raw json.RawMessage) {
	b.t.Helper()
	var r struct {
		EventTime, EventSource, EventName, EventID, RequestID, SharedEventID, RecipientAccountID string
		ErrorCode, ErrorMessage                                                                  string
		UserIdentity                                                                             struct{ Arn, PrincipalID, InvokedBy, AccountID string }
		Resources                                                                                []struct{ Type, ARN string }
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		b.t.Fatal(err)
	}
	first := func(v ...string) string {
		for _, s := range v {
			if s != "" {
				return s
			}
		}
		return "-"
	}
	outcome := first(r.ErrorCode, r.ErrorMessage)
	status := "success"
	if r.ErrorCode != "" {
		status = "failure"
		if r.ErrorMessage != "" {
			outcome = r.ErrorCode + ": " + r.ErrorMessage
		}
	}
	kind, arn := "-", "-"
	if len(r.Resources) > 0 {
		kind, arn = first(r.Resources[0].Type), first(r.Resources[0].ARN)
	}
	n := b.count(`SELECT count(*) FROM public.audit_log WHERE event_uid = $1 AND "timestamp" = $2::text::timestamptz AND action = $3 AND coalesce(principal_id, '-') = $4
  AND coalesce(organization_id, '-') = $5 AND coalesce(target_resource_type, '-') = $6 AND coalesce(target_resource_id, '-') = $7
  AND coalesce(outcome_description, '-') = $8 AND coalesce(correlation_id, '-') = $9 AND status = $10 AND details = $11::text::jsonb`,
		r.EventID, r.EventTime, strings.TrimSuffix(r.EventSource, ".amazonaws.com")+":"+r.EventName,
		first(r.UserIdentity.Arn, r.UserIdentity.PrincipalID, r.UserIdentity.InvokedBy, r.UserIdentity.AccountID),
		first(r.RecipientAccountID, r.UserIdentity.AccountID), kind, arn, outcome, first(r.SharedEventID, r.RequestID), status, string(raw))
	if n != 1 {
		b.t.Errorf("record %s is not in the table as the mapping says", r.EventID)
	}
}

func TestCompressionAndFormats(t *testing.T) {
	t.Parallel()
	lines := events(0, 60)
	array := "[" + strings.TrimSuffix(strings.ReplaceAll(lines, "\n", ",\n"), ",\n") + "]"
	gz := func(parts ...string) string {
		var buf bytes.Buffer
		for _, p := range parts {
			z := gzip.NewWriter(&buf)
			_, _ = io.WriteString(z, p)
			_ = z.Close()
		}
		return buf.String()
	}
	zs := func(s string) string {
		z, _ := zstd.NewWriter(nil)
		return string(z.EncodeAll([]byte(s), nil))
	}
	csv := "timestamp,action,status,principalId,details\n"
	for i := range 60 {
		csv += fmt.Sprintf("2024-01-02T03:04:%02dZ,\"a,\"\"b\"\"\",ok,,\"{\"\"n\"\":%d}\"\r\n", i, i)
	}
	tests := map[string]string{
		"ndjson": lines, "array": array, "records": `{"Records": ` + array + `,"y":[1,{"Records":[{}]}]}`,
		"gzip": gz(lines[:len(lines)/2], lines[len(lines)/2:]), "zstd": zs(array), "crlf": strings.ReplaceAll(lines, "\n", "\r\n"),
		"no last line end": strings.TrimSuffix(lines, "\n"), "byte order mark": "\xef\xbb\xbf" + lines, "blank lines": "\n \n" + strings.ReplaceAll(lines, "\n", "\n\n"),
		"two documents": gz(array, "\n", array[:1]+array[1:]), "csv": csv, "csv gz": gz(csv),
	}
	for name, content := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			b.months("2024-01", 1)
			path := write(t, "in", content)
			rep := b.run(path)
			want := int64(60)
			if name == "two documents" {
				want = 120
			}
			if rep.Read != want || rep.Inserted != 60 || b.rows() != 60 {
				t.Fatalf("report %+v, %d rows", rep, b.rows())
			}
			b.checkLeaves()
			if rep := b.run(path); rep.Skipped != want || rep.Read != 0 {
				t.Errorf("second run: %+v", rep)
			}
		})
	}
}

func TestEmptySources(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	for _, content := range []string{"", "\n\n", "[]", `{"Records":[]}`, "timestamp,action,status\n"} {
		if rep := b.run(write(t, "in", content)); rep.Read != 0 || rep.Checkpoint != nil {
			t.Errorf("%q: %+v", content, rep)
		}
	}
}

func TestGrownAndChangedSource(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	b.opts.BatchRows = 10
	path := write(t, "log", events(0, 25))
	b.run(path)
	rewrite(t, path, events(0, 25)+events(25, 8))
	if rep := b.run(path); rep.Inserted != 8 || rep.Skipped != 25 || b.rows() != 33 {
		t.Fatalf("grown: %+v", rep)
	}
	b.opts.BatchRows = 7 // other batches than before
	if rep := b.run(path); rep.Skipped != 33 || rep.Read != 0 {
		t.Fatalf("again: %+v", rep)
	}
	changed := strings.Replace(events(0, 33), "a.3", "a.4", 1)
	for name, content := range map[string]string{"changed": changed, "shorter": events(0, 20), "other": events(100, 40)} {
		rewrite(t, path, content)
		if _, err := b.try(path); fault.ClassOf(err) != fault.Refused {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if b.rows() != 33 {
		t.Errorf("%d rows", b.rows())
	}
	rewrite(t, path, events(0, 40))
	b.opts.Mapping, _ = ingest.ParseMapping(ingest.MappingNative, []string{"organization_id=acme"})
	if _, err := b.try(path); fault.ClassOf(err) != fault.Refused {
		t.Errorf("other mapping: error %v", err)
	}
}

func TestUnfinishedLastLine(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	b.opts.MaxBad = -1
	all := events(0, 11)
	path := write(t, "log", all[:len(all)-30])
	if rep := b.run(path); rep.Inserted != 10 || rep.Rejected != 1 {
		t.Fatalf("cut: %+v", rep)
	}
	rewrite(t, path, all)
	if rep := b.run(path); rep.Inserted != 1 || rep.Skipped != 10 || rep.Rejected != 0 || b.rows() != 11 {
		t.Fatalf("whole: %+v", rep)
	}
}

func TestDuplicates(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	b.opts.BatchRows = 50
	b.run(write(t, "one", events(0, 120)+events(100, 20)))
	rep := b.run(write(t, "two", events(60, 160)))
	if rep.Inserted != 100 || rep.Duplicate != 60 || b.rows() != 220 {
		t.Fatalf("report %+v, %d rows", rep, b.rows())
	}
	b.checkLeaves()
}

func TestTwoJobsOnOneSource(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	b.opts.BatchRows, b.opts.Jobs = 37, 3
	path := write(t, "log", events(0, 2000)+events(500, 500))
	rep := b.run(path)
	if rep.Inserted != 2000 || rep.Duplicate != 500 || b.rows() != 2000 {
		t.Fatalf("report %+v", rep)
	}
	b.checkLeaves()
	if rep := b.run(path); rep.Skipped != 2500 {
		t.Errorf("second run: %+v", rep)
	}
}

func TestTwoRunsOnOneSource(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	b.opts.BatchRows = 20
	path := write(t, "log", events(0, 1000))
	type result struct {
		rep ingest.Report
		err error
	}
	results := make(chan result, 4)
	for range 4 {
		go func() {
			sources, err := ingest.Expand([]string{path}, "", nil)
			if err != nil {
				results <- result{err: err}
				return
			}
			rep, err := ingest.Run(t.Context(), b.opts, sources)
			results <- result{rep, err}
		}()
	}
	var inserted, skipped int64
	for range 4 {
		r := <-results
		if r.err != nil {
			t.Error(r.err)
		}
		inserted += r.rep.Inserted
		skipped += r.rep.Skipped
	}
	if inserted != 1000 || skipped != 3000 || b.rows() != 1000 {
		t.Errorf("inserted %d, skipped %d, %d rows", inserted, skipped, b.rows())
	}
}

func TestLockedSource(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	path := write(t, "log", events(0, 10))
	lock, err := b.db.Lock(t.Context(), fmt.Sprintf("ingest:%d:%s", *b.opts.Table.ManagedID, path), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	b.opts.Wait = 50 * time.Millisecond
	if _, err := b.try(path); fault.ClassOf(err) != fault.Locked {
		t.Errorf("error %v", err)
	}
}

func TestKeyIsNeeded(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	b.opts.Log = nil
	path := write(t, "log", events(0, 10))
	_, err := b.try(path)
	if fault.ClassOf(err) != fault.Config || !strings.Contains(fault.HintOf(err), "integrity keygen") {
		t.Errorf("error %v, hint %q", err, fault.HintOf(err))
	}
	b.opts.DryRun = true
	if _, err := b.try(path); fault.ClassOf(err) != fault.Config {
		t.Errorf("dry run: error %v", err)
	}
	b.opts.DryRun = false
	b.exec(`UPDATE auditdb.managed_table SET integrity = 'off'`)
	if rep := b.run(path); rep.Inserted != 10 || rep.Checkpoint != nil {
		t.Errorf("integrity off: %+v", rep)
	}
	if rep := b.run(path); rep.Skipped != 10 {
		t.Errorf("integrity off, again: %+v", rep)
	}
	b.exec(`UPDATE auditdb.managed_table SET block_ids = false`)
	if _, err := b.try(path); fault.ClassOf(err) != fault.Usage {
		t.Errorf("without block ids: error %v", err)
	}
}

func TestStdin(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	for i, want := range []int64{30, 0} {
		sources, err := ingest.Expand([]string{"-"}, "my stream", strings.NewReader(events(0, 30)))
		if err != nil {
			t.Fatal(err)
		}
		rep, err := ingest.Run(t.Context(), b.opts, sources)
		if err != nil || rep.Inserted != want || rep.Sources[0].Name != "my stream" {
			t.Errorf("run %d: %+v, %v", i, rep, err)
		}
	}
	if _, err := ingest.Expand([]string{"-"}, "", nil); fault.ClassOf(err) != fault.Usage {
		t.Errorf("without a name: %v", err)
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	b.opts.BatchRows = 10
	path := write(t, "log", events(0, 3000))
	ctx, cancel := context.WithCancel(t.Context())
	b.opts.OnProgress = func(int, int) { cancel() }
	sources, _ := ingest.Expand([]string{path}, "", nil)
	rep, err := ingest.Run(ctx, b.opts, sources)
	if !errors.Is(err, context.Canceled) || rep.Inserted == 0 || rep.Inserted != b.rows() {
		t.Fatalf("report %+v, error %v, %d rows", rep, err, b.rows())
	}
	b.opts.OnProgress = nil
	if again := b.run(path); again.Inserted+rep.Inserted != 3000 || b.rows() != 3000 {
		t.Errorf("then %+v", again)
	}
}

// TestLeastPrivilege ingests as a user who has the ingest role and nothing else.
func TestLeastPrivilege(t *testing.T) {
	t.Parallel()
	address := pgtest.DB(t)
	owner := openBed(t, address)
	owner.months("2024-01", 1)
	owner.exec(`GRANT INSERT ON public.audit_log_2024_01 TO auditdb_ingest`) // partition create does
	user := fmt.Sprintf("ingester_%d", time.Now().UnixNano())
	owner.exec(`CREATE ROLE ` + user + ` LOGIN PASSWORD 'x'; GRANT auditdb_ingest TO ` + user)
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.WithoutCancel(t.Context()), address)
		if err == nil {
			_, _ = conn.Exec(context.WithoutCancel(t.Context()), `DROP OWNED BY `+user+`; DROP ROLE `+user)
			_ = conn.Close(context.WithoutCancel(t.Context()))
		}
	})
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(user, "x")
	b := openBed(t, u.String())
	b.opts.BatchRows = 10
	b.run(write(t, "one", events(0, 30)))
	if rep := b.run(write(t, "two", events(20, 30))); rep.Inserted != 20 || rep.Duplicate != 10 {
		t.Errorf("report %+v", rep)
	}
	owner.checkLeaves()
}

func TestExpand(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"b", "a", ".hidden", "sub/c", ".git/d"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		rewrite(t, filepath.Join(dir, name), "x")
	}
	if err := os.Symlink(filepath.Join(dir, "a"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	sources, err := ingest.Expand([]string{dir}, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range sources {
		got = append(got, strings.TrimPrefix(s.Name, dir))
	}
	if want := "/a /b /link /sub/c"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{filepath.Join(dir, "gone")}, {dir, filepath.Join(dir, "a")}, {pipe}} {
		if _, err := ingest.Expand(args, "", nil); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%v: %v", args, err)
		}
	}
	if _, err := ingest.Expand([]string{dir}, "name", nil); fault.ClassOf(err) != fault.Usage {
		t.Errorf("one name for many: %v", err)
	}
	b := newBed(t)
	b.months("2024-01", 1)
	go func() {
		f, err := os.OpenFile(pipe, os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(f, events(0, 10))
		_ = f.Close()
	}()
	if sources, err = ingest.Expand([]string{pipe}, "p", nil); err != nil {
		t.Fatal(err)
	}
	if rep, err := ingest.Run(t.Context(), b.opts, sources); err != nil || rep.Inserted != 10 {
		t.Errorf("pipe: %+v, %v", rep, err)
	}
}
