package indexes

import (
	"strings"
	"testing"
	"time"
)

// Whatever a workload holds, it is planned at most, and what cannot be is reported.
func TestAnalyzeGarbage(t *testing.T) {
	t.Parallel()
	b := fresh(
		t, "CREATE TABLE t (a int, b text)", "INSERT INTO t SELECT n, n FROM generate_series(1, 20000) n", "CREATE TABLE trace (n int)", "ANALYZE t",
		`CREATE FUNCTION leaves(x int) RETURNS int VOLATILE LANGUAGE plpgsql AS $$ BEGIN INSERT INTO trace VALUES (x); RETURN x; END $$`,
		// A constant call of this one is run by the planner: the server does not let it write.
		`CREATE FUNCTION lies(x int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN INSERT INTO trace VALUES (x); RETURN x; END $$`,
		`CREATE FUNCTION passes(x int) RETURNS int IMMUTABLE LANGUAGE sql AS $$ SELECT leaves(x) $$`,
		`CREATE FUNCTION sleeps() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(300); RETURN 1; END $$`,
	)
	long := "SELECT * FROM t WHERE b IN ('" + strings.Repeat("x", 10<<20) + "')"
	statements := []string{
		"SELECT a FROM t WHERE a = 7", "SELECT leaves(a) FROM t WHERE a = leaves(3)", "SELECT a FROM t WHERE a = lies(3)", "SELECT a FROM t WHERE a = passes(3)", "SELECT a FROM t WHERE a = sleeps()", "INSERT INTO trace SELECT a FROM t", "UPDATE t SET b = 'lost'",
		"DELETE FROM t", "WITH gone AS (DELETE FROM t RETURNING a) SELECT * FROM gone WHERE a = 9", "MERGE INTO t USING trace ON n = a WHEN MATCHED THEN DELETE", "TRUNCATE t", "DROP TABLE t",
		"DO $$ BEGIN DELETE FROM t; END $$", "CREATE INDEX ON t (a)", "SELECT 1 FROM t; DROP TABLE t", "EXPLAIN ANALYZE DELETE FROM t", "SELECT a INTO stolen FROM t", "CREATE TABLE stolen AS SELECT a FROM t", "COPY t TO PROGRAM 'false'",
		"SELECT FROM WHERE", "SELEKT", "SELECT * FROM t WHERE b = 'cut o", "SELECT * FROM t WHERE b = '\xff\xfe'", "SELECT * FROM t WHERE a = $1 AND b = $3", "SELECT $0 FROM t", "SELECT (((((", long, ")", "\x00", "SELECT * FROM nowhere.t", "EXECUTE x", "SELECT pg_advisory_lock(1) FROM t FOR UPDATE",
	}
	w := &Workload{Source: sourceFile}
	for _, s := range statements {
		w.add(s, 1)
	}
	w.merge()
	start := time.Now()
	a := b.analyze(w, Budget{})
	if took := time.Since(start); took > 4*planTimeout {
		t.Errorf("it took %s", took)
	}
	if len(a.Recommendations) != 1 || a.Recommendations[0].Definition.KeyText() != "a" {
		t.Errorf("%+v", a.Recommendations)
	}
	left := ""
	for _, l := range a.LeftOut {
		if len(l.Query) > 4*shownQuery || l.Reason == "" {
			t.Errorf("%d bytes are shown: %s", len(l.Query), l.Reason)
		}
		left += l.Reason + "\n"
	}
	for _, reason := range []string{"42601", "42P01", "0A000", "25006", "57014", "UTF-8", "longer than", "not closed", "zero byte", "several statements", "read no rows"} {
		if !strings.Contains(left, reason) {
			t.Errorf("nothing is left out for %s:\n%s", reason, left)
		}
	}
	rows, traces := value[int](b, "SELECT count(*) FROM public.t WHERE b <> 'lost'"), value[int](b, "SELECT count(*) FROM public.trace")
	if rows != 20000 || traces != 0 || value[int](b, "SELECT count(*) FROM pg_class WHERE relname = 'stolen'") != 0 || len(b.load("public.t")) != 0 {
		t.Errorf("%d rows, %d traces: something was run", rows, traces)
	}
}
