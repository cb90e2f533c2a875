package migrations_test

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/embedded"
	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
	"auditdb/migrations"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func open(t *testing.T, address string) *postgres.DB {
	t.Helper()
	db, err := postgres.Open(t.Context(), postgres.Options{URL: address, Application: "migrate.test", MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

func run(t *testing.T, db *postgres.DB, sql ...string) {
	t.Helper()
	for _, s := range sql {
		if _, err := db.Pool().Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func as(t *testing.T, address, user string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(user)
	return u.String()
}

func status(t *testing.T, db *postgres.DB) migrations.Report {
	t.Helper()
	r, err := migrations.Status(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func up(t *testing.T, db *postgres.DB, o migrations.Options) migrations.Result {
	t.Helper()
	r, err := migrations.Up(t.Context(), db, o)
	if err != nil {
		t.Fatalf("%v, hint %q", err, fault.HintOf(err))
	}
	return r
}

func apply(ctx context.Context, address string) error {
	db, err := postgres.Open(ctx, postgres.Options{URL: address, MaxConns: 2})
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = migrations.Up(ctx, db, migrations.Options{Wait: time.Minute})
	return err
}

// catalog describes everything that the migrations make, in order to compare databases.
func catalog(t *testing.T, db *postgres.DB) string {
	t.Helper()
	var text string
	if err := db.Pool().QueryRow(t.Context(), `
SELECT string_agg(x, E'\n' ORDER BY x) FROM (
  SELECT format('%s %s %s %s', c.relkind, c.oid::regclass, pg_get_userbyid(c.relowner), c.relacl::text) AS x FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'auditdb' OR n.nspname = 'public'
  UNION ALL SELECT format('%s.%s %s %s %s %s', a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attstorage, a.attacl::text)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ('auditdb', 'public') AND a.attnum > 0
  UNION ALL SELECT pg_get_constraintdef(o.oid) || o.conrelid::regclass FROM pg_constraint o JOIN pg_namespace n ON n.oid = o.connamespace WHERE n.nspname IN ('auditdb', 'public')
  UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
  UNION ALL SELECT pg_get_functiondef(p.oid) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'auditdb') s`).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

func TestUpTwiceDownAndUpAgain(t *testing.T) {
	t.Parallel()
	db := open(t, pgtest.Empty(t))
	before := status(t, db)
	if before.Current != 0 || before.Pending == 0 || before.Pending != len(before.Migrations) || before.Ahead || before.Migrations[0].AppliedAt != nil {
		t.Fatalf("empty database: %+v", before)
	}
	first := up(t, db, migrations.Options{})
	if first.From != 0 || first.To != before.Target || len(first.Applied) != before.Pending {
		t.Fatalf("first: %+v", first)
	}
	made := catalog(t, db)
	second := up(t, db, migrations.Options{})
	if len(second.Applied) != 0 || second.From != before.Target || second.To != before.Target || len(second.Plan.Steps) != 0 {
		t.Errorf("second: %+v", second)
	}
	after := status(t, db)
	if after.Current != after.Target || after.Pending != 0 || time.Since(*after.Migrations[0].AppliedAt) > time.Hour {
		t.Errorf("status: %+v", after)
	}
	var owner string
	if err := db.Pool().QueryRow(t.Context(), `SELECT tableowner FROM pg_tables WHERE schemaname = 'auditdb' AND tablename = 'goose_db_version'`).Scan(&owner); err != nil || owner != "auditdb_admin" {
		t.Errorf("the version table's owner is %q, %v", owner, err)
	}
	var managed string
	if err := db.Pool().QueryRow(t.Context(), `SELECT concat_ws(' ', schema_name, table_name, time_column, key_kind, partition_interval, time_zone, ahead, integrity, block_ids) FROM auditdb.managed_table`).Scan(&managed); err != nil ||
		managed != "public audit_log timestamp timestamptz monthly UTC 3 on t" {
		t.Errorf("registered: %s, %v", managed, err)
	}
	versions := []int64{0}
	for _, m := range before.Migrations[:len(before.Migrations)-1] {
		versions = append(versions, m.Version)
	}
	for _, to := range slices.Backward(versions) {
		down, err := migrations.Down(t.Context(), db, migrations.Options{To: to})
		if err != nil || down.To != to || len(down.Applied) != 1 {
			t.Fatalf("down to %d: %+v, %v", to, down, err)
		}
		if r := status(t, db); r.Current != to {
			t.Fatalf("after down to %d: %+v", to, r)
		}
	}
	var left int
	if err := db.Pool().QueryRow(t.Context(), `SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ('auditdb', 'public') AND c.relname !~ '^goose_db_version'`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d relations are left, %v", left, err)
	}
	up(t, db, migrations.Options{To: 3})
	if r := status(t, db); r.Current != 3 {
		t.Errorf("up to 3: %+v", r)
	}
	up(t, db, migrations.Options{})
	if again := catalog(t, db); again != made {
		t.Errorf("the schema differs after down and up:\n%s", difference(made, again))
	}
	down, err := migrations.Down(t.Context(), db, migrations.Options{})
	if err != nil || len(down.Applied) != before.Pending {
		t.Errorf("all the way down: %+v, %v", down, err)
	}
}

func difference(a, b string) string {
	var out []string
	la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
	for _, l := range la {
		if !slices.Contains(lb, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range lb {
		if !slices.Contains(la, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}

func TestPlans(t *testing.T) {
	t.Parallel()
	db := open(t, pgtest.Empty(t))
	all := status(t, db).Migrations
	newest, before := all[len(all)-1], all[len(all)-2]
	p, err := migrations.PlanUp(t.Context(), db, 2)
	if err != nil {
		t.Fatal(err)
	}
	last := p.Steps[len(p.Steps)-1]
	if last.Name != "00002_registry" || !strings.Contains(last.SQL, "CREATE TABLE auditdb.managed_table") || strings.Contains(last.SQL, "goose") || len(p.Skipped) != len(all)-2 {
		t.Errorf("%+v", p)
	}
	if status(t, db).Current != 0 {
		t.Error("planning changed the database")
	}
	if _, err := migrations.PlanUp(t.Context(), db, 77); fault.ClassOf(err) != fault.Usage {
		t.Errorf("unknown version: %v", err)
	}
	up(t, db, migrations.Options{})
	p, err = migrations.PlanDown(t.Context(), db, 3)
	if err != nil || len(p.Steps) != len(all)-3 || p.Steps[0].Name != *newest.Name || !p.Steps[0].Destructive {
		t.Errorf("%+v, %v", p, err)
	}
	if migrations.Previous(status(t, db)) != before.Version {
		t.Error("previous version")
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	address := pgtest.Empty(t)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if err := apply(t.Context(), address); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if r := status(t, open(t, address)); r.Pending != 0 {
		t.Errorf("%+v", r)
	}
}

// Roles are cluster-wide: migrations of several databases of a new server make them at the same time.
func TestManyDatabasesAtOnce(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t)
	admin := open(t, server.URL("postgres"))
	var wg sync.WaitGroup
	for i := range 6 {
		name := fmt.Sprintf("d%d", i)
		run(t, admin, "CREATE DATABASE "+name)
		wg.Go(func() {
			if err := apply(t.Context(), server.URL(name)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestLockedMigration(t *testing.T) {
	t.Parallel()
	db := open(t, pgtest.Empty(t))
	lock, err := db.Lock(t.Context(), "migrate", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	if _, err := migrations.Up(t.Context(), db, migrations.Options{}); fault.ClassOf(err) != fault.Locked {
		t.Errorf("%v", err)
	}
}

func TestDownRefusesToLoseRows(t *testing.T) {
	t.Parallel()
	for name, insert := range map[string]string{
		"public.audit_log":      `CREATE TABLE public.p PARTITION OF public.audit_log DEFAULT; INSERT INTO public.audit_log ("timestamp", action, status) VALUES (now(), 'a', 's')`,
		"auditdb.hold":          `INSERT INTO auditdb.hold (reason) VALUES ('court')`,
		"auditdb.managed_table": `INSERT INTO auditdb.managed_table (schema_name, table_name) VALUES ('public', 'other')`,
		"auditdb.checkpoint":    `INSERT INTO auditdb.checkpoint (size, root, note) VALUES (1, decode(repeat('00', 32), 'hex'), 'n')`,
		"auditdb.ingest_source": `INSERT INTO auditdb.ingest_source (table_id, name, format, mapping, mapping_sha256, head_sha256, head_bytes) VALUES (1, 'n', 'f', 'm', '', '', 0)`,
		"auditdb.job_run":       `INSERT INTO auditdb.job_run (job, version) VALUES ('ingest', 'v')`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := open(t, pgtest.DB(t))
			run(t, db, `INSERT INTO auditdb.job_run (job, version) VALUES ('migrate.up', 'v')`)
			for _, sql := range strings.Split(insert, "; ") {
				run(t, db, sql)
			}
			_, planned := migrations.PlanDown(t.Context(), db, 0)
			_, err := migrations.Down(t.Context(), db, migrations.Options{})
			for _, err := range []error{planned, err} {
				if fault.ClassOf(err) != fault.Refused || !strings.Contains(err.Error(), name+" has rows") {
					t.Errorf("%v", err)
				}
			}
			if r := status(t, db); r.Pending != 0 {
				t.Errorf("something was taken back: %+v", r)
			}
		})
	}
}

func TestForeignTableIsLeftAlone(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"table":     `CREATE TABLE public.audit_log (id int)`,
		"view":      `CREATE VIEW public.audit_log AS SELECT 1 AS id`,
		"old index": `CREATE TABLE public.audit_log_old (id int CONSTRAINT audit_log_pkey PRIMARY KEY)`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := open(t, pgtest.Empty(t))
			run(t, db, sql)
			before := catalog(t, db)
			_, err := migrations.Up(t.Context(), db, migrations.Options{})
			if fault.ClassOf(err) != fault.Refused || !strings.Contains(err.Error(), "public.audit_log") || !strings.Contains(fault.HintOf(err), "RENAME") {
				t.Errorf("%v, hint %q", err, fault.HintOf(err))
			}
			if catalog(t, db) != before {
				t.Error("something was changed")
			}
		})
	}
}

func TestDatabaseAhead(t *testing.T) {
	t.Parallel()
	db := open(t, pgtest.DB(t))
	run(t, db, `INSERT INTO auditdb.goose_db_version (version_id, is_applied) VALUES (99, true)`)
	r := status(t, db)
	if !r.Ahead || r.Current != 99 || r.Pending != 0 || r.Migrations[len(r.Migrations)-1].Name != nil {
		t.Errorf("%+v", r)
	}
	if again := up(t, db, migrations.Options{}); len(again.Applied) != 0 {
		t.Errorf("%+v", again)
	}
}

func TestOrdinaryOwner(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t)
	admin := open(t, server.URL("postgres"))
	run(t, admin, `CREATE ROLE maker LOGIN CREATEROLE`, `CREATE ROLE plain LOGIN`, `CREATE ROLE member LOGIN`, `CREATE ROLE guest LOGIN`)
	for _, owner := range []string{"plain", "maker", "member"} {
		run(t, admin, `CREATE DATABASE of_`+owner+` OWNER `+owner)
	}
	owned := func(owner string) *postgres.DB { return open(t, as(t, server.URL("of_"+owner), owner)) }

	// Neither roles nor the right to make them: the error says what to run, and what it says works.
	plain := owned("plain")
	_, err := migrations.Up(t.Context(), plain, migrations.Options{})
	hint := fault.HintOf(err)
	if fault.ClassOf(err) != fault.Permission || !strings.Contains(hint, "CREATE ROLE auditdb_admin NOLOGIN;") || !strings.Contains(hint, `GRANT auditdb_admin TO "plain"`) {
		t.Fatalf("%v, hint %q", err, hint)
	}
	// A CREATEROLE user who owns the database needs nobody.
	maker := owned("maker")
	up(t, maker, migrations.Options{})
	up(t, maker, migrations.Options{})
	if _, err := migrations.Down(t.Context(), maker, migrations.Options{}); err != nil {
		t.Fatal(err)
	}
	up(t, maker, migrations.Options{})

	// The roles exist now, but this user may not act as their owner.
	_, err = migrations.Up(t.Context(), plain, migrations.Options{})
	if fault.ClassOf(err) != fault.Permission {
		t.Fatalf("%v", err)
	}
	super := open(t, server.URL("of_plain"))
	_, sql, _ := strings.Cut(fault.HintOf(err), ": ")
	for statement := range strings.SplitSeq(strings.TrimSuffix(sql, ";"), ";") {
		run(t, super, statement)
	}
	up(t, plain, migrations.Options{})

	// A member of auditdb_admin, made by a superuser beforehand.
	grant := `GRANT auditdb_admin TO member`
	if server.Major() >= 16 {
		grant += ` WITH SET TRUE`
	}
	run(t, admin, grant)
	up(t, owned("member"), migrations.Options{})

	// Somebody without any right gets a clear message.
	guest := open(t, as(t, server.URL("of_member"), "guest"))
	if _, err := migrations.Status(t.Context(), guest); postgres.Class(err) != fault.Permission {
		t.Errorf("status for a guest: %v", err)
	}
}

func TestUnfriendlySettings(t *testing.T) {
	t.Parallel()
	address := pgtest.Empty(t)
	db := open(t, address)
	run(t, db, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = nowhere', current_database());
		EXECUTE format('ALTER DATABASE %I SET "DateStyle" = ''German''', current_database()); EXECUTE format('ALTER DATABASE %I SET statement_timeout = ''2s''', current_database());
		EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = serializable', current_database()); END $$`)
	if err := apply(t.Context(), address); err != nil {
		t.Fatal(err)
	}
}

func TestOldServerAndStandbyAreRefused(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, func(o *embedded.Options) { o.Settings["default_transaction_read_only"] = "on" })
	_, err := migrations.Up(t.Context(), open(t, server.URL("postgres")), migrations.Options{})
	if postgres.Class(err) != fault.Unavailable || postgres.Hint(err) == "" {
		t.Errorf("read-only server: %v", err)
	}
}

// roleConn is a session that has only the rights of role.
func roleConn(t *testing.T, address, role string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	if _, err := conn.Exec(t.Context(), `SET ROLE `+role); err != nil {
		t.Fatal(err)
	}
	return conn
}

// A version that came between the confirmation and the lock is not taken back with the others.
func TestDownTakesBackOnlyWhatWasConfirmed(t *testing.T) {
	t.Parallel()
	db := open(t, pgtest.Empty(t))
	up(t, db, migrations.Options{To: 4})
	confirmed, err := migrations.PlanDown(t.Context(), db, 3)
	if err != nil || len(confirmed.Steps) != 1 {
		t.Fatal(confirmed.Steps, err)
	}
	up(t, db, migrations.Options{})
	o := migrations.Options{To: 3, Confirmed: &confirmed}
	_, err = migrations.Down(t.Context(), db, o)
	if fault.ClassOf(err) != fault.Refused || !strings.Contains(err.Error(), "00005_operations was not in the confirmed plan") {
		t.Error(err)
	}
	if again := up(t, db, migrations.Options{}); len(again.Applied) != 0 {
		t.Errorf("something was taken back: %v", again.Applied)
	}
	if confirmed, err = migrations.PlanDown(t.Context(), db, 3); err != nil {
		t.Fatal(err)
	}
	if down, err := migrations.Down(t.Context(), db, o); err != nil || len(down.Applied) != len(confirmed.Steps) {
		t.Error(down.Applied, err)
	}
}
