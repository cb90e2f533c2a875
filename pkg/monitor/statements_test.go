package monitor

import (
	"slices"
	"strings"
	"testing"
	"time"

	"auditdb/internal/embedded"
	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
)

// An index is advised for what looks for rows, not for what has to read all of them.
func TestStatementAdvice(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"SELECT * FROM t WHERE a = $1":      "reads 1,234,567 blocks for 1 row a call: an index may be missing (auditdb index analyze)",
		"/* app */ update t set a = $1":     "reads 1,234,567 blocks for 1 row a call: an index may be missing (auditdb index analyze)",
		"CREATE INDEX CONCURRENTLY ON t(a)": "", "ANALYZE t": "", "COPY t TO STDOUT": "", "SELECT c FROM pg_class": "", "VACUUM t": "",
	} {
		got := Statement{Query: query, Calls: 2, Rows: 2, BlocksRead: 2 * 1234567}.advice()
		if (got == nil) != (want == "") || got != nil && *got != want {
			t.Errorf("%s: %v, want %q", query, got, want)
		}
	}
	if !(Statement{Query: `SELECT count(*) FROM auditdb.log`}).Own() || (Statement{Query: "SELECT 1 FROM public.audit_log"}).Own() {
		t.Error("auditdb's own statements are not told from others")
	}
}

// What statements took in a period comes from samples: those in the sample less what they had taken then, those that are new as they are, and all of
// them as they are after a reset.
func TestStatementsOfAPeriod(t *testing.T) {
	t.Parallel()
	pg := pgtest.Server(t, func(o *embedded.Options) { o.Settings["shared_preload_libraries"] = "pg_stat_statements" })
	url := pg.URL("postgres")
	conn := connect(t, url)
	started := time.Now()
	now := started.Add(10 * time.Hour) // samples are later than when counting began
	o := StatementOptions{Limit: 100, Period: 2 * time.Hour, Now: now}
	var there bool
	if err := conn.QueryRow(t.Context(), "SELECT count(*) > 0 FROM pg_available_extensions WHERE name = 'pg_stat_statements'").Scan(&there); err != nil {
		t.Fatal(err)
	}
	if !there {
		t.Log("this build of PostgreSQL has no pg_stat_statements")
		return
	}
	if err := RecordStatements(t.Context(), conn, now); fault.ClassOf(err) != fault.Config {
		t.Errorf("without the extension: %v", err)
	}
	conn = connect(t, url, "CREATE EXTENSION pg_stat_statements", "CREATE TABLE t (i int)")
	if _, err := SlowStatements(t.Context(), conn, o); fault.ClassOf(err) != fault.Config || fault.HintOf(err) != "auditdb migrate up" {
		t.Errorf("without auditdb's schema: %v", err)
	}
	pgtest.Migrate(t, url)
	if _, err := SlowStatements(t.Context(), conn, o); fault.ClassOf(err) != fault.Config || !strings.Contains(fault.HintOf(err), "health --record") {
		t.Errorf("without a sample: %v", err)
	}
	run := func(sql string, times int) {
		t.Helper()
		for range times {
			if _, err := conn.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
	}
	samples := func() (n int) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), "SELECT count(DISTINCT taken_at) FROM auditdb.health_sample WHERE check_name = 'statement:calls'").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	record := func(at time.Time, want int) {
		t.Helper()
		if err := RecordStatements(t.Context(), conn, at); err != nil {
			t.Fatal(err)
		}
		if n := samples(); n != want {
			t.Errorf("%d samples, want %d", n, want)
		}
	}
	period := func(o StatementOptions, query string) (*Statements, Statement) {
		t.Helper()
		found, err := SlowStatements(t.Context(), conn, o)
		if err != nil {
			t.Fatal(err)
		}
		at := slices.IndexFunc(found.Entries, func(s Statement) bool { return strings.HasPrefix(s.Query, query) })
		if at < 0 {
			return found, Statement{}
		}
		return found, found.Entries[at]
	}
	const old, fresh = "SELECT count(*) FROM t WHERE i = ", "SELECT max(i) FROM t"
	run(old+"7", 3)
	record(now.Add(-3*time.Hour), 1)
	record(now.Add(-150*time.Minute), 1) // within the hour
	run(old+"8", 2)
	record(now.Add(-90*time.Minute), 2)
	run(old+"9", 1)
	run(fresh, 4)
	for _, by := range StatementOrders() {
		if o.Sort = by; by == "max" {
			if _, err := SlowStatements(t.Context(), conn, o); fault.ClassOf(err) != fault.Usage {
				t.Errorf("the longest of a period: %v", err)
			}
			continue
		}
		found, s := period(o, old)
		if s.Calls != 3 || s.Unrecorded || s.MaxSeconds != nil || s.TotalSeconds <= 0 || s.MeanSeconds <= 0 || s.MeanSeconds > s.TotalSeconds || s.Rows != 3 || found.Since == nil || found.Since.Sub(now.Add(-3*time.Hour)).Abs() > time.Millisecond {
			t.Errorf("by %s: %+v since %v", by, s, found.Since)
		}
		if _, s := period(o, fresh); s.Calls != 4 || s.Unrecorded {
			t.Errorf("by %s: %+v", by, s)
		}
	}
	o.Sort = ""
	hour := o
	hour.Period = time.Hour
	if _, s := period(hour, old); s.Calls != 1 {
		t.Errorf("by the newer sample: %+v", s)
	}
	week := o
	week.Period = 7 * 24 * time.Hour
	if found, s := period(week, old); s.Calls != 3 || found.Since.Sub(now.Add(-3*time.Hour)).Abs() > time.Millisecond {
		t.Errorf("by the oldest sample: %+v since %v", s, found.Since)
	}
	record(now.Add(9*24*time.Hour), 1) // the old ones are gone
	run("DELETE FROM auditdb.health_sample", 1)
	record(started.Add(-time.Hour), 1)
	run("SELECT pg_stat_statements_reset()", 1)
	run(old+"1", 2)
	if found, s := period(o, old); s.Calls != 2 || s.Unrecorded || !found.Since.After(started) {
		t.Errorf("after a reset: %+v since %v", s, found.Since)
	}
	standby, caughtUp := pgtest.Standby(t, pg)
	caughtUp()
	if _, err := SlowStatements(t.Context(), connect(t, standby.URL("postgres")), o); fault.ClassOf(err) != fault.Config || !strings.Contains(err.Error(), "standby") {
		t.Errorf("on a standby, whose counters are its own: %v", err)
	}
}
