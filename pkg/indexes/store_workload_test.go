package indexes

import (
	"context"
	"strings"
	"testing"

	"auditdb/internal/embedded"
	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
)

// counting is a server that counts statements; nil: this build of PostgreSQL cannot.
func counting(t *testing.T) *embedded.Postgres {
	t.Helper()
	if !fresh(t).available("pg_stat_statements") {
		t.Log("this build of PostgreSQL has no pg_stat_statements")
		return nil
	}
	return pgtest.Server(t, func(o *embedded.Options) {
		if o.Settings == nil {
			o.Settings = map[string]string{}
		}
		o.Settings["shared_preload_libraries"] = "pg_stat_statements"
	})
}

func (b *base) uncounted(message, hint string) {
	b.Helper()
	_, err := CountedWorkload(b.Context(), b.db)
	if fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), message) || !strings.Contains(fault.HintOf(err), hint) || !strings.Contains(fault.HintOf(err), "--queries") {
		b.Errorf("%v (%s), want %s (%s)", err, fault.HintOf(err), message, hint)
	}
}

// What is counted is read of old versions of the extension too, whose columns are others, and what cannot be read is explained.
func TestCountedWorkload(t *testing.T) {
	t.Parallel()
	bare := fresh(t)
	bare.uncounted("is not installed", "CREATE EXTENSION")
	server := counting(t)
	if server == nil {
		return
	}
	bare.exec("CREATE EXTENSION pg_stat_statements")
	bare.uncounted("must be loaded", "shared_preload_libraries")
	for _, version := range []string{" VERSION '1.4'", " VERSION '1.7'", " VERSION '1.8'", ""} {
		b := &base{T: t, url: server.URL("postgres")}
		b.db = b.open(b.url)
		b.exec(`DROP SCHEMA IF EXISTS "S s" CASCADE`, `CREATE SCHEMA "S s"`, "DROP TABLE IF EXISTS t", "CREATE TABLE t (a int)", `CREATE EXTENSION pg_stat_statements SCHEMA "S s"`+version,
			`SELECT "S s".pg_stat_statements_reset()`, "SELECT a FROM t WHERE a = 7", "SELECT a FROM t WHERE a = 8")
		w, err := CountedWorkload(t.Context(), b.db)
		if err != nil {
			t.Fatalf("%q: %v", version, err)
		}
		found := false
		for _, q := range w.Queries {
			found = found || q.Text == "SELECT a FROM t WHERE a = $1" && q.Calls == 2
		}
		if !found || (w.Since != nil) != (version == "") {
			t.Errorf("%q: since %v, %v", version, w.Since, w.Queries)
		}
	}
	b := &base{T: t, url: server.URL("postgres")}
	b.exec("CREATE ROLE poor LOGIN")
	poor := &base{T: t, url: strings.Replace(b.url, "postgres://postgres@", "postgres://poor@", 1)}
	poor.db = poor.open(poor.url)
	poor.uncounted(`permission denied for schema S s`, `GRANT USAGE ON SCHEMA "S s"`)
	b.exec(`GRANT USAGE ON SCHEMA "S s" TO poor`, `REVOKE ALL ON "S s".pg_stat_statements FROM PUBLIC`)
	poor.uncounted(`permission denied`, `SELECT ON "S s".pg_stat_statements`)
	b.exec(`GRANT SELECT ON "S s".pg_stat_statements TO poor`)
	w, err := CountedWorkload(t.Context(), poor.db)
	if err != nil {
		t.Fatal(err)
	}
	hidden := 0
	for _, l := range w.LeftOut {
		if strings.Contains(l.Reason, "pg_read_all_stats") {
			hidden++
		}
	}
	if hidden != 1 {
		t.Errorf("what is hidden is said %d times: %v", hidden, w.LeftOut)
	}
}

// auditdb's own statements, and those of the catalogs, are no workload: each is left out, for one and the same reason.
func TestCountedWithoutOwnStatements(t *testing.T) {
	t.Parallel()
	server := counting(t)
	if server == nil {
		return
	}
	b := &base{T: t, url: server.URL("postgres")}
	b.exec("CREATE EXTENSION pg_stat_statements", "CREATE SCHEMA auditdb", "CREATE TABLE auditdb.policy AS SELECT n AS id, n % 5000 AS t FROM generate_series(1, 40000) n",
		"CREATE VIEW public.policies AS SELECT * FROM auditdb.policy", "CREATE TABLE orders AS SELECT n AS oid, n % 5000 AS cid, jsonb_build_object('k', n % 4000) AS d FROM generate_series(1, 40000) n", "VACUUM ANALYZE")
	b.db = b.open(b.url)
	b.exec("SELECT pg_stat_statements_reset()")
	for range 3 {
		b.exec("SELECT * FROM auditdb.policy WHERE t = 7", "SELECT * FROM policies WHERE id = 7", "SELECT relname FROM pg_class WHERE relname = 'x'", "SELECT table_name FROM information_schema.tables WHERE table_name = 'x'",
			"CREATE TEMPORARY TABLE gone (a int)", "INSERT INTO gone SELECT id FROM auditdb.policy", "DROP TABLE gone", "SELECT * FROM orders WHERE cid = 7", "SELECT * FROM orders WHERE d ->> 'k' = '17'")
	}
	for range 2 { // the second time, the first one's own statements have been counted
		w, err := CountedWorkload(t.Context(), b.db)
		if err != nil {
			t.Fatal(err)
		}
		a, err := Analyze(t.Context(), b.db, AnalyzeOptions{Workload: w, Budget: Budget{Mode: ModeRead}})
		if err != nil || a.Queries != 2 || a.Calls != 6 {
			t.Fatalf("%+v, %v", a, err)
		}
		calls := 0.0
		for _, l := range a.LeftOut {
			if l.Reason == notOfUsers && (strings.Contains(l.Query, "policy") || strings.Contains(l.Query, "policies") || strings.Contains(l.Query, "'x'") || strings.Contains(l.Query, "relname =") || strings.Contains(l.Query, "table_name =")) {
				calls += l.Calls
			} else if l.Reason != notOfUsers && !strings.Contains(l.Query, "utility statements") {
				t.Errorf("left out: %+v", l)
			}
		}
		if calls != 15 {
			t.Errorf("%g calls of auditdb and of the catalogs were left out: %v", calls, a.LeftOut)
		}
		for _, r := range a.Recommendations {
			if r.Definition.Table != "orders" {
				t.Error(r.DDL)
			}
		}
	}
}

// A standby counts for itself, and what it has counted is analyzed there.
func TestCountedOnAStandby(t *testing.T) {
	t.Parallel()
	primary := counting(t)
	if primary == nil {
		return
	}
	p := &base{T: t, url: primary.URL("postgres")}
	p.exec("CREATE EXTENSION pg_stat_statements", "CREATE TABLE orders AS SELECT n AS oid, n % 5000 AS cid FROM generate_series(1, 40000) n", "VACUUM ANALYZE orders")
	standby, caughtUp := pgtest.Standby(t, primary, func(o *embedded.Options) {
		if o.Settings == nil {
			o.Settings = map[string]string{}
		}
		o.Settings["shared_preload_libraries"] = "pg_stat_statements"
	})
	caughtUp()
	s := &base{T: t, url: standby.URL("postgres")}
	s.db = s.open(s.url)
	s.exec("SELECT * FROM orders WHERE cid = 7")
	w, err := CountedWorkload(t.Context(), s.db)
	if err != nil {
		t.Fatal(err)
	}
	a, err := Analyze(context.WithoutCancel(t.Context()), s.db, AnalyzeOptions{Workload: w, Budget: Budget{Mode: ModeRead}})
	if err != nil || len(a.Recommendations) != 1 {
		t.Fatalf("%+v, %v", a, err)
	}
	if _, _, err := Hygiene(t.Context(), s.db, HygieneOptions{Now: later()}); err != nil {
		t.Error(err)
	}
}
