package ingest_test

import (
	"context"
	"encoding/csv"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/embedded"
	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
	"auditdb/pkg/ingest"
)

// stored lists the events as text, ordered by time: what a preset is expected to make of its fixture.
func (b *bed) stored() []string {
	b.t.Helper()
	rows, err := b.db.Pool().Query(b.t.Context(), `
SELECT concat_ws('|', to_char("timestamp" AT TIME ZONE 'UTC', 'HH24:MI:SS.US'), coalesce(principal_id, '-'), coalesce(organization_id, '-'), action,
  coalesce(target_resource_type, '-'), coalesce(target_resource_id, '-'), status, coalesce(outcome_description, '-'), coalesce(correlation_id, '-'), coalesce(event_uid, '-'))
FROM public.audit_log ORDER BY "timestamp", id`)
	if err != nil {
		b.t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		b.t.Fatal(err)
	}
	return all
}

func (b *bed) mapping(name string, settings ...string) {
	b.t.Helper()
	var err error
	if b.opts.Mapping, err = ingest.ParseMapping(name, settings); err != nil {
		b.t.Fatal(err)
	}
}

func wantLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestKubernetes(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	b.mapping(ingest.MappingKubernetes, "organization_id=prod")
	const id = "5c0e6d5e-1111-4e4e-9d5a-00000000000"
	if rep := b.run("testdata/presets/kubernetes.ndjson"); rep.Inserted != 6 || rep.Rejected != 0 {
		t.Errorf("report %+v", rep)
	}
	wantLines(t, b.stored(),
		"06:07:08.234567|system:serviceaccount:default:web|prod|get:pods|pods|default/web-0|success|-|"+id+"1|"+id+"1:ResponseComplete",
		"06:07:09.100000|jane|prod|create:pods/exec|pods|kube-system/dns|failure|Forbidden|"+id+"2|"+id+"2:ResponseComplete",
		"06:07:10.000001|system:anonymous|prod|get|-|/healthz?timeout=3s|attempt|-|"+id+"3|"+id+"3:RequestReceived",
		"06:07:10.000002|system:anonymous|prod|get|-|/healthz?timeout=3s|failure|-|"+id+"3|"+id+"3:ResponseComplete",
		"06:07:11.000000|admin|prod|delete:clusterroles|clusterroles|view|success|-|"+id+"4|"+id+"4:ResponseComplete",
		"06:07:12.000000|admin|prod|list:pods|pods|/api/v1/namespaces/default/pods?limit=500|success|-|"+id+"5|"+id+"5:ResponseComplete")
	b.checkWhole("testdata/presets/kubernetes.ndjson")
	b.checkLeaves()
}

func TestGitHub(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	b.mapping(ingest.MappingGitHub)
	if rep := b.run("testdata/presets/github.ndjson"); rep.Inserted != 4 || rep.Rejected != 0 {
		t.Errorf("report %+v", rep)
	}
	wantLines(t, b.stored(),
		"06:07:08.123000|octocat|acme-org|repo.create|repo|acme-org/tools|success|create|A1:B2|Xk1",
		"06:07:09.000000|583232|acme|org.sso_response_failed|org|-|failure|authentication|-|Xk2",
		"06:07:10.000000|octocat|acme-org|team.add_member|team|hubot|success|asked for|-|Xk3",
		"06:07:11.000000|hubot|acme-org|personal_access_token.access_denied|personal_access_token|hubot|failure|-|-|Xk4")
	b.checkWhole("testdata/presets/github.ndjson")
	b.checkLeaves()
}

// checkWhole compares details with the records, as jsonb.
func (b *bed) checkWhole(path string) {
	b.t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if n := b.count(`SELECT count(*) FROM public.audit_log WHERE details = $1::text::jsonb`, line); n != 1 {
			b.t.Errorf("%d events have as details %s", n, line)
		}
	}
}

func TestPgAudit(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	b.mapping(ingest.MappingPgAudit)
	const path = "testdata/presets/pgaudit.csv"
	rep := b.run(path)
	if rep.Inserted != 3 || rep.Rejected != 0 || rep.Unselected != 4 || rep.Skipped != 4 {
		t.Errorf("report %+v", rep)
	}
	wantLines(t, b.stored(),
		"06:07:08.123000|app|shop|pg.read.select|TABLE|public.account|attempt|-|6597a5bc.1267|6597a5bc.1267:1",
		`06:07:09.000000|app|shop|pg.write.insert|TABLE|public.account|failure|23505: duplicate key value violates unique constraint "account_pkey"|6597a5bc.1267|6597a5bc.1267:2`,
		"06:07:10.000000|app|shop|pg.ddl.create table|TABLE|public.t|attempt|-|6597a5bc.1267|6597a5bc.1267:4")
	if n := b.count(`SELECT count(*) FROM public.audit_log WHERE details ->> 'message' LIKE E'%select *\nfrom account%' AND details -> 'process_id' = '4711'
		AND details ->> 'query_id' = '-5514201331142541' AND NOT details ? 'hint'`); n != 1 {
		t.Error("details is not the record")
	}
	if rep := b.run(path); rep.Skipped != 7 || rep.Read != 0 {
		t.Errorf("again: %+v", rep)
	}
	// An error at the beginning of a batch belongs to the last line of the one before it.
	small := newBed(t)
	small.months("2024-01", 1)
	small.opts.Mapping, small.opts.BatchRows = b.opts.Mapping, 1
	if rep := small.run(path); rep.Inserted != 3 {
		t.Errorf("one by one: %+v", rep)
	}
	if n := small.count(`SELECT count(*) FROM public.audit_log WHERE status = 'failure'`); n != 0 {
		t.Errorf("%d failures: the look ahead is one batch", n)
	}
}

// TestPgAuditZones reads times of servers that do not log in UTC.
func TestPgAuditZones(t *testing.T) {
	t.Parallel()
	line := `%s,"app","shop",4711,"[local]",6597a5bc.1267,%d,"SELECT",%[1]s,3/17,0,LOG,00000,"AUDIT: SESSION,1,1,READ,SELECT,,,select 1,<none>",,,,,,,,,"psql","client backend",,0` + "\n"
	var in strings.Builder
	for i, at := range []string{"2024-10-27 02:30:00.000 CEST", "2024-10-27 02:30:00.000 CET", "2024-10-27 12:00:00.000 EST", "2024-10-27 12:00:00.000 -03", "2024-10-27 12:00:00.000 UTC"} {
		fmt.Fprintf(&in, line, at, i)
	}
	for zone, want := range map[string][]string{
		"":             {"12:00:00.000000", "15:00:00.000000"},
		"Europe/Paris": {"00:30:00.000000", "01:30:00.000000", "12:00:00.000000", "15:00:00.000000"},
	} {
		b := newBed(t)
		b.months("2024-10", 1)
		b.mapping(ingest.MappingPgAudit)
		b.opts.MaxBad = -1
		if zone != "" {
			b.opts.Mapping.Local, _ = time.LoadLocation(zone)
		}
		rep := b.run(write(t, "log.csv", in.String()))
		if int(rep.Rejected) != 5-len(want) {
			t.Errorf("%s: report %+v", zone, rep)
		}
		var times []string
		for _, s := range b.stored() {
			times = append(times, s[:15])
		}
		wantLines(t, times, want...)
	}
}

// TestPgAuditServer reads the csvlog of a server with the extension, in which statements succeed, fail, and are refused.
func TestPgAuditServer(t *testing.T) {
	t.Parallel()
	const debian = "/usr/lib/postgresql/15"
	if _, err := os.Stat(debian + "/lib/pgaudit.so"); err != nil {
		t.Skip("pgaudit is not installed")
	}
	pg := pgtest.Server(t, func(o *embedded.Options) {
		o.BinDir = debian + "/bin"
		o.Settings["shared_preload_libraries"] = "pgaudit"
		o.Settings["logging_collector"] = "on"
		o.Settings["log_destination"] = "csvlog"
		o.Settings["log_directory"] = "csvlog"
		o.Settings["log_filename"] = "postgresql.log"
		o.Settings["log_timezone"] = "Europe/Paris"
	})
	psql := func(user, sql string) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(pg.BinDir(), "psql"), "-Xq", "-d", pg.URL("postgres"), "-c", sql)
		cmd.Env = append(os.Environ(), "PGOPTIONS=-c role="+user)
		_ = cmd.Run() // some are meant to fail
	}
	psql("none", "CREATE EXTENSION pgaudit")
	psql("none", "ALTER SYSTEM SET pgaudit.log = 'all'")
	psql("none", "SELECT pg_reload_conf()")
	psql("none", "CREATE ROLE nobody; CREATE TABLE account (id int PRIMARY KEY, note text)")
	psql("none", "INSERT INTO account VALUES (1, 'a, \"b\"\n''c''')")
	psql("none", "INSERT INTO account VALUES (1, 'again')")
	psql("nobody", "SELECT * FROM account")
	psql("none", "SELECT\n*\nFROM account")
	psql("none", "SELECT no_such_thing")
	psql("none", "DO $$ BEGIN INSERT INTO account VALUES (2, 'x'); PERFORM 1/0; END $$")
	files, err := filepath.Glob(filepath.Join(pg.DataDir(), "csvlog", "*.csv"))
	if err != nil || len(files) != 1 {
		t.Fatalf("csvlog %v, %v", files, err)
	}
	address := pg.URL("postgres")
	pgtest.Migrate(t, address)
	b := openBed(t, address)
	now := time.Now().UTC()
	b.months(now.Format("2006-01"), 1)
	b.mapping(ingest.MappingPgAudit)
	if b.opts.Mapping.Local, err = time.LoadLocation("Europe/Paris"); err != nil {
		t.Fatal(err)
	}
	content := awaitLine(t, files[0], "division by zero")
	path := write(t, "log.csv", content)
	rep := b.run(path)
	r := csv.NewReader(strings.NewReader(content))
	all, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	audits := 0
	for _, rec := range all {
		if strings.HasPrefix(rec[13], "AUDIT: ") {
			audits++
		}
	}
	if int(rep.Inserted) != audits || int(rep.Unselected) != len(all)-audits || audits < 6 {
		t.Errorf("%d lines, %d of pgaudit, report %+v", len(all), audits, rep)
	}
	failed := []string{}
	for _, s := range b.stored() {
		if f := strings.Split(s, "|"); f[6] == "failure" {
			failed = append(failed, f[3]+" "+f[7])
		}
	}
	wantLines(t, failed, `pg.write.insert 23505: duplicate key value violates unique constraint "account_pkey"`, "pg.function.do 22012: division by zero", "pg.write.insert 22012: division by zero")
	if n := b.count(`SELECT count(*) FROM public.audit_log WHERE "timestamp" BETWEEN now() - interval '10 minutes' AND now()`); int(n) != audits {
		t.Errorf("%d of %d events have their time", n, audits)
	}
}

// awaitLine reads a file as soon as it has some text.
func awaitLine(t *testing.T, path, text string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(content), text) && content[len(content)-1] == '\n' {
			return string(content)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s is not in %s", text, path)
		}
	}
}

// TestPgAuditFolder leaves the other logs of a server out.
func TestPgAuditFolder(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	b.mapping(ingest.MappingPgAudit)
	csvlog, err := os.ReadFile("testdata/presets/pgaudit.csv")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	rewrite(t, filepath.Join(dir, "postgresql.csv"), string(csvlog))
	rewrite(t, filepath.Join(dir, "postgresql.log"), "2024-01-05 06:07:08.123 UTC [4711] LOG:  starting, slowly\n")
	rewrite(t, filepath.Join(dir, "postgresql.json"), `{"timestamp":"2024-01-05 06:07:08.123 UTC","message":"AUDIT: x"}`+"\n")
	if rep := b.run(dir); rep.Inserted != 3 || len(rep.LeftOut) != 2 {
		t.Errorf("report %+v", rep)
	}
	b.opts.Format = ingest.FormatNDJSON
	if _, err := b.try(dir); fault.ClassOf(err) != fault.Usage {
		t.Errorf("as NDJSON: %v", err)
	}
}
