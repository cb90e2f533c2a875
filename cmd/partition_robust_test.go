package cmd

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/tidwall/gjson"

	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
)

// hostile makes a database's defaults work against whoever relies on them.
const hostile = `DO $$ BEGIN
  EXECUTE format('ALTER DATABASE %I SET timezone = ''America/St_Johns''', current_database());
  EXECUTE format('ALTER DATABASE %I SET datestyle = ''SQL, DMY''', current_database());
  EXECUTE format('ALTER DATABASE %I SET intervalstyle = ''sql_standard''', current_database());
  EXECUTE format('ALTER DATABASE %I SET search_path = ''''', current_database());
  EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = ''serializable''', current_database());
  EXECUTE format('ALTER DATABASE %I SET bytea_output = ''escape''', current_database());
  EXECUTE format('ALTER DATABASE %I SET standard_conforming_strings = off', current_database());
  EXECUTE format('ALTER DATABASE %I SET statement_timeout = ''250ms''', current_database());
  EXECUTE format('ALTER DATABASE %I SET lock_timeout = ''1ms''', current_database());
  EXECUTE format('ALTER DATABASE %I SET enable_partition_pruning = off', current_database());
END $$`

// json runs a command that has to end with 0 and gives its document.
func (p process) json(args ...string) gjson.Result {
	p.t.Helper()
	cmd, stdout, stderr := p.command(p.t.Context(), append(args, "-o", "json")...)
	if err := cmd.Run(); err != nil || !json.Valid(stdout.Bytes()) {
		p.t.Fatalf("auditdb %s: %v: %s%s", strings.Join(args, " "), err, stdout, stderr)
	}
	return gjson.ParseBytes(stdout.Bytes())
}

func strangeNames() []string {
	long := strings.Repeat("n", 55)
	return []string{`We"ird %s Name`, long + "12345678", long + "87654321", "select", "naïve_журнал_表", strings.Repeat("ж", 31), "UPPER", `a.b`, `back\slash 'quote' $1 {}`}
}

// Every command that copies or converts takes every name, under the same settings: a plain table becomes a partitioned one, its history is cut,
// a default partition drained, and all is put back into a plain table, with every row.
func TestTablesAreConvertedUnderEveryName(t *testing.T) {
	t.Parallel()
	names := strangeNames()
	p := processes(t, pgtest.DB(t))
	p.exec(`CREATE SCHEMA "Über ""all"`)
	for _, name := range names {
		table := pgx.Identifier{`Über "all`, name}.Sanitize()
		p.exec(fmt.Sprintf(`CREATE TABLE %s (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "K ""%%s" timestamptz NOT NULL);
			INSERT INTO %[1]s ("K ""%%s") SELECT date_trunc('month', now(), 'UTC') - make_interval(days => i) FROM generate_series(1, 200) i`, table))
	}
	p.exec(hostile)
	for i, name := range names { //nolint:paralleltest // names of new tables must not be taken by the others
		t.Run(name, func(t *testing.T) {
			p := p
			p.t = t
			table, rest := pgx.Identifier{`Über "all`, name}.Sanitize(), fmt.Sprintf(`"Über ""all"."the ""rest %%s %d"`, i)
			count := func() string { return p.scan("SELECT count(*) FROM " + table) }
			p.json("partition", "convert", table, "--key", `K "%s`, "--ahead", "1")
			var history string
			for _, part := range p.json("partition", "list", table).Get("tables.0.partitions").Array() {
				if history == "" {
					history = part.Get("name").Str
				}
			}
			p.json("partition", "split", pgx.Identifier{`Über "all`, history}.Sanitize(), "--interval", "monthly")
			if n := count(); n != "200" {
				t.Errorf("%s rows after split", n)
			}
			p.exec(fmt.Sprintf(`CREATE TABLE %s PARTITION OF %s DEFAULT; INSERT INTO %[2]s ("K ""%%s") VALUES (date_trunc('month', now(), 'UTC') - interval '3 years')`, rest, table))
			p.json("partition", "drain", table)
			if n := p.scan("SELECT count(*) FROM " + rest); n != "0" {
				t.Errorf("%s rows are left in the default partition", n)
			}
			if code, text := p.run(t.Context(), "partition", "check", table); code != 0 && code != 4 {
				t.Errorf("check: exit %d: %s", code, text)
			}
			p.must("partition", "adopt", table, "--register", "--key", `K "%s`, "--integrity", "off")
			p.exec(`DELETE FROM auditdb.managed_table WHERE schema_name LIKE 'Über%'`)
			p.json("partition", "undo", table, "--mode", "copy", "--yes")
			if part := p.scan("SELECT relispartition FROM pg_class WHERE oid = (SELECT tableoid FROM " + table + " LIMIT 1)"); part != "f" || count() != "201" {
				t.Errorf("in the end: %s rows, in partitions: %s", count(), part)
			}
		})
	}
}

// Every command that works on partitions takes every name, under settings that are against it.
func TestPartitionCommandsTakeEveryName(t *testing.T) {
	t.Parallel()
	names := strangeNames()
	p := processes(t, pgtest.Empty(t))
	p.exec(`CREATE SCHEMA "Über ""all"; CREATE SCHEMA "the attic"`)
	for i, name := range names {
		p.exec(fmt.Sprintf(`CREATE TABLE "Über ""all".%s (id bigint GENERATED ALWAYS AS IDENTITY, "K ""%%s" %s NOT NULL) PARTITION BY RANGE ("K ""%%s")`,
			pgx.Identifier{name}.Sanitize(), []string{"timestamptz", "timestamp", "date"}[i%3]))
	}
	p.exec(hostile)
	for _, name := range names { //nolint:paralleltest // names of new tables must not be taken by the others
		t.Run(name, func(t *testing.T) {
			p := p
			p.t = t
			table := pgx.Identifier{`Über "all`, name}.Sanitize()
			at := []string{table, "--time-zone", "America/St_Johns"}
			created := p.json(append([]string{"partition", "create", "--interval", "monthly", "--from", "2024-01", "--to", "2024-05"}, at...)...)
			if n := created.Get("tables.0.created.#").Int(); n != 4 {
				t.Fatalf("%d partitions were made: %s", n, created)
			}
			if again := p.json(append([]string{"partition", "create", "--interval", "monthly", "--from", "2024-01", "--to", "2024-05"}, at...)...); again.Get("tables.0.created.#").Int() != 0 {
				t.Errorf("made again: %s", again)
			}
			p.exec(fmt.Sprintf(`INSERT INTO %s ("K ""%%s") SELECT make_timestamptz(2024, m, 15, 0, 0, 0, 'UTC') FROM generate_series(1, 4) m`, table))
			listed := p.json("partition", "list", table)
			if listed.Get("tables.0.partitions.#").Int() != 4 || listed.Get("tables.0.interval").Str != "monthly" {
				t.Errorf("listed: %s", listed)
			}
			before := created.Get("tables.0.created.1.from").Str
			pruned := p.json("partition", "prune", table, "--older-than", "2024-02-02", "--yes")
			if pruned.Get("tables.0.pruned.#").Int() != 1 || pruned.Get("tables.0.pruned.0.rows").Int() != 1 || pruned.Get("tables.0.pruned.0.to").Str != before {
				t.Errorf("pruned: %s", pruned)
			}
			detached := p.json("partition", "prune", table, "--older-than", "2024-03-02", "--action", "detach", "--detach-schema", `"the attic"`, "--yes")
			if detached.Get("tables.0.pruned.#").Int() != 1 || detached.Get("tables.0.pruned.0.schema").Str != "the attic" {
				t.Errorf("detached: %s", detached)
			}
			left := created.Get("tables.0.created.3.name").Str
			if n := p.scan(fmt.Sprintf(`SELECT count(*) FROM %s`, pgx.Identifier{`Über "all`, left}.Sanitize())); n != "1" {
				t.Errorf("%s rows in the last partition", n)
			}
			if final := p.json("partition", "finalize", table); final.Get("tables.0.finalized.#").Int() != 0 {
				t.Errorf("finalized: %s", final)
			}
			if n := p.json("partition", "list", table).Get("tables.0.partitions.#").Int(); n != 3 {
				t.Errorf("%d partitions are listed in the end", n)
			}
		})
	}
}

// One run over several tables: what stands in the way of one is no matter for the others, and the exit code is the worst.
func TestTablesAreIsolated(t *testing.T) {
	t.Parallel()
	p := processes(t, pgtest.DB(t))
	p.must("partition", "create")
	p.exec(`CREATE TABLE public.busy (LIKE public.audit_log) PARTITION BY RANGE (timestamp); CREATE TABLE public.calm (LIKE public.audit_log) PARTITION BY RANGE (timestamp);
		CREATE TABLE public.vexed (LIKE public.audit_log) PARTITION BY RANGE (timestamp); CREATE VIEW public.vexed_2024_01 AS SELECT 1 AS one`)
	for _, name := range []string{"audit_log", "busy", "calm", "vexed"} {
		p.must("partition", "create", name, "--from", "2024-01", "--to", "2024-03")
	}
	p.exec(`INSERT INTO auditdb.managed_table (schema_name, table_name, integrity) VALUES ('public', 'busy', 'off'), ('public', 'calm', 'off'), ('public', 'vexed', 'off');
		CREATE VIEW public.needs AS SELECT * FROM public.vexed_2024_02`)
	conn, err := pgx.Connect(t.Context(), p.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	if _, err := conn.Exec(t.Context(), `BEGIN; SET application_name = 'sits here'; LOCK TABLE public.busy IN SHARE UPDATE EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	cmd, stdout, stderr := p.command(t.Context(), "partition", "create", "--from", "2025-01", "--to", "2025-03", "--wait", "1s", "-o", "json")
	_ = cmd.Run()
	doc := gjson.ParseBytes(stdout.Bytes())
	if code := cmd.ProcessState.ExitCode(); code != 5 || doc.Get("failed.#").Int() != 1 || doc.Get("failed.0.table").Str != "public.busy" || doc.Get("failed.0.class").Str != "locked" ||
		!strings.Contains(doc.Get("failed.0.error").Str, "(sits here)") {
		t.Errorf("create: exit %d: %s%s", code, stdout, stderr)
	}
	if n := p.scan(`SELECT count(*) FROM pg_inherits WHERE inhparent IN ('public.calm'::regclass, 'public.vexed'::regclass) AND pg_get_expr((SELECT relpartbound FROM pg_class WHERE oid = inhrelid), 0) LIKE '%2025-%'`); n != "4" {
		t.Errorf("%s partitions were made", n)
	}
	cmd, stdout, stderr = p.command(t.Context(), "partition", "prune", "--older-than", "2024-03-01", "--wait", "2s", "--yes", "-o", "json")
	_ = cmd.Run()
	doc = gjson.ParseBytes(stdout.Bytes())
	if code := cmd.ProcessState.ExitCode(); code != 5 || doc.Get("failed.#").Int() != 1 || doc.Get("failed.0.table").Str != "public.busy" ||
		doc.Get(`tables.#(table=="public.audit_log").pruned.#`).Int() != 2 || doc.Get(`tables.#(table=="public.calm").pruned.#`).Int() != 2 ||
		doc.Get(`tables.#(table=="public.vexed").pruned.#`).Int() != 1 || !strings.Contains(doc.Get("plan.skipped").Raw, "view public.needs depends on it") {
		t.Errorf("prune: exit %d: %s%s", code, stdout, stderr)
	}
	if _, err := conn.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if pruned := p.json("partition", "prune", "--older-than", "2024-03-01", "--yes"); pruned.Get(`tables.#(table=="public.busy").pruned.#`).Int() != 1 { // the newest stays
		t.Errorf("afterwards: %s", pruned)
	}
	p.must("verify-integrity")
}

// Work that cannot be recorded because somebody holds the log waits for --wait, names the holder, and leaves nothing.
func TestWaitForTheLog(t *testing.T) {
	t.Parallel()
	for name, setup := range map[string]string{"plain": ``, "with a default": `CREATE TABLE public.audit_log_rest PARTITION OF public.audit_log DEFAULT`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := processes(t, pgtest.DB(t))
			p.must("partition", "create", "--from", "2024-01", "--to", "2024-03")
			if setup != "" {
				p.exec(setup)
			}
			conn, err := pgx.Connect(t.Context(), p.url)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close(t.Context()) }()
			// The lock of appends, as partition work itself asks for it.
			if _, err := conn.Exec(t.Context(), fmt.Sprintf(`SET application_name = 'seals for hours'; BEGIN; SELECT pg_advisory_xact_lock(%d)`, postgres.LockKey("log"))); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"partition", "create", "--wait", "1s"}, {"partition", "prune", "--older-than", "2024-02-01", "--yes", "--wait", "1s"}} {
				started := time.Now()
				code, text := p.run(t.Context(), args...)
				if took := time.Since(started); code != 5 || !strings.Contains(text, fmt.Sprintf("blocked by pid %d (seals for hours)", conn.PgConn().PID())) || took > 20*time.Second {
					t.Errorf("%v: exit %d after %s: %s", args, code, took, text)
				}
			}
			if _, err := conn.Exec(t.Context(), "ROLLBACK"); err != nil {
				t.Fatal(err)
			}
			p.clean()
			p.must("partition", "prune", "--older-than", "2024-02-01", "--yes")
			p.must("verify-integrity")
		})
	}
}

// The commands themselves on a standby: what reads works without more ado, what changes something ends with 3 and changes nothing.
func TestPartitionCommandsOnAStandby(t *testing.T) {
	t.Parallel()
	primary := pgtest.Server(t)
	pgtest.Migrate(t, primary.URL("postgres"))
	first := processes(t, primary.URL("postgres"))
	first.must("partition", "create", "--from", "2024-01", "--to", "2024-03")
	first.exec("CREATE TABLE public.plain (k timestamptz NOT NULL); INSERT INTO public.plain VALUES (now())")
	standby, caughtUp := pgtest.Standby(t, primary)
	caughtUp()
	p := first
	p.url = standby.URL("postgres")
	if n := p.json("partition", "list").Get("tables.0.partitions.#").Int(); n != 2 {
		t.Errorf("%d partitions are listed", n)
	}
	if code, text := p.run(t.Context(), "partition", "check"); code != 4 || !strings.Contains(text, "runway") {
		t.Errorf("check: exit %d: %s", code, text)
	}
	for _, args := range [][]string{
		{"partition", "create"},
		{"partition", "prune", "--older-than", "2024-02-01", "--yes"},
		{"partition", "finalize"},
		{"partition", "drain"},
		{"partition", "split", "audit_log_2024_01", "--interval", "daily"},
		{"partition", "undo", "audit_log", "--mode", "copy", "--yes"},
		{"partition", "convert", "plain", "--key", "k"},
		{"partition", "adopt", "audit_log", "--register", "--key", "timestamp"},
	} {
		if code, text := p.run(t.Context(), args...); code != 3 || !strings.Contains(text, "hot standby") || !strings.Contains(text, "hint: name the primary") {
			t.Errorf("%v: exit %d: %s", args, code, text)
		}
	}
}

// Behind a pooler that changes the session with every transaction the commands read, and refuse to change anything.
func TestPartitionCommandsBehindAPooler(t *testing.T) {
	t.Parallel()
	p := processes(t, pgtest.DB(t))
	p.must("partition", "create", "--from", "2024-01", "--to", "2024-03")
	p.exec("CREATE TABLE public.plain (k timestamptz NOT NULL)")
	p.exec(hostile)
	config, err := pgx.ParseConfig(p.url)
	if err != nil {
		t.Fatal(err)
	}
	pooled := p
	pooled.url = pgtest.PgBouncer(t, pgtest.Shared(t), "transaction")(config.Database)
	if listed := pooled.json("partition", "list", "public.audit_log"); listed.Get("tables.0.partitions.1.from").Str != "2024-02-01T00:00:00.000000Z" {
		t.Errorf("listed: %s", listed)
	}
	for _, args := range [][]string{
		{"partition", "create"},
		{"partition", "prune", "--older-than", "2024-02-01", "--yes"},
		{"partition", "finalize"},
		{"partition", "drain"},
		{"partition", "split", "public.audit_log_2024_01", "--interval", "daily"},
		{"partition", "undo", "public.audit_log", "--mode", "copy", "--yes"},
		{"partition", "convert", "public.plain", "--key", "k"},
	} {
		if code, text := pooled.run(t.Context(), args...); code != 2 || !strings.Contains(text, "transaction-pooled") || !strings.Contains(text, "hint: connect to the server itself or to a session-mode pool") {
			t.Errorf("%v: exit %d: %s", args, code, text)
		}
	}
	p.url = pgtest.PgBouncer(t, pgtest.Shared(t), "session")(config.Database)
	if n := p.json("partition", "prune", "public.audit_log", "--older-than", "2024-02-01", "--yes").Get("tables.0.pruned.#").Int(); n != 1 {
		t.Errorf("%d pruned in session mode", n)
	}
}
