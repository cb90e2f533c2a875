package health

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
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

// ward is a server of its own with one migrated database, and what is asked of it.
type ward struct {
	*testing.T
	pg  *embedded.Postgres
	url string
	o   Options
}

func newWard(t *testing.T, change ...func(*embedded.Options)) *ward {
	t.Helper()
	pg := pgtest.Server(t, func(o *embedded.Options) {
		for name, value := range map[string]string{
			"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "autovacuum": "on", "max_prepared_transactions": "5", "max_connections": "30", "wal_level": "replica",
			"archive_mode": "on", "archive_command": "true", "max_replication_slots": "5", "max_locks_per_transaction": "64", "autovacuum_freeze_max_age": "100000",
		} {
			o.Settings[name] = value
		}
		if pgtest.Shared(t).Major() >= 18 { // where they are the default
			o.Initdb = []string{"--no-data-checksums"}
		}
		for _, f := range change {
			f(o)
		}
	})
	w := &ward{T: t, pg: pg, url: pg.URL("postgres")}
	pgtest.Migrate(t, w.url)
	now := time.Now().UTC()
	month := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	for n := -2; n <= 4; n++ {
		from, to := month.AddDate(0, n, 0), month.AddDate(0, n+1, 0)
		w.exec(fmt.Sprintf(`CREATE TABLE public.audit_log_%s PARTITION OF public.audit_log FOR VALUES FROM ('%s') TO ('%s')`, from.Format("2006_01"), from.Format(time.RFC3339), to.Format(time.RFC3339)),
			"ALTER TABLE public.audit_log_"+from.Format("2006_01")+" OWNER TO auditdb_admin",
			"CREATE TRIGGER audit_log_guard_truncate BEFORE TRUNCATE ON public.audit_log_"+from.Format("2006_01")+" FOR EACH STATEMENT EXECUTE FUNCTION auditdb.guard()")
	}
	w.o = Options{Open: opener(w.url), Migrations: pending, Now: time.Now, Log: slog.New(slog.DiscardHandler), Limits: unhurried()}
	return w
}

func opener(url string) func(context.Context) (*postgres.DB, error) {
	return func(ctx context.Context) (*postgres.DB, error) {
		return postgres.Open(ctx, postgres.Options{URL: url, Application: "health", MaxConns: MaxConns, StatementTimeout: 5 * time.Second, LockTimeout: time.Second, ConnectTimeout: 3 * time.Second, ReadOnly: true})
	}
}

func pending(ctx context.Context, db *postgres.DB) (int, bool, error) {
	r, err := migrations.Status(ctx, db)
	return r.Pending, r.Ahead, err
}

func (w *ward) connect(sql ...string) *pgx.Conn {
	w.Helper()
	conn, err := pgx.Connect(w.Context(), w.url)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = conn.Close(context.WithoutCancel(w.Context())) })
	for _, s := range sql {
		if _, err := conn.Exec(w.Context(), s); err != nil {
			w.Fatalf("%s: %v", s, err)
		}
	}
	return conn
}

func (w *ward) exec(sql ...string) {
	w.Helper()
	_ = w.connect(sql...).Close(w.Context())
}

// until waits for a condition in SQL.
func (w *ward) until(condition string) {
	w.Helper()
	conn := w.connect()
	for deadline := time.Now().Add(20 * time.Second); ; {
		var is bool
		if err := conn.QueryRow(w.Context(), "SELECT "+condition).Scan(&is); err != nil {
			w.Fatalf("%s: %v", condition, err)
		}
		if is {
			_ = conn.Close(w.Context())
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("it never came to %s", condition)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// hold opens a session that does something until the returned function ends it.
func (w *ward) hold(sql ...string) (end func()) {
	w.Helper()
	conn := w.connect(sql...)
	return func() { _ = conn.Close(context.WithoutCancel(w.Context())) }
}

// busy runs a statement in a session of its own until the returned function breaks it off.
func (w *ward) busy(sql string, before ...string) (end func()) {
	conn := w.connect(before...)
	ctx, cancel := context.WithCancel(w.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = conn.Exec(ctx, sql)
	}()
	w.until(fmt.Sprintf("EXISTS (SELECT FROM pg_stat_activity WHERE pid = %d AND (wait_event_type = 'Lock' OR wait_event = 'PgSleep'))", conn.PgConn().PID()))
	return func() {
		cancel()
		<-done
		_ = conn.Close(context.WithoutCancel(w.Context()))
	}
}

func (w *ward) run(o Options) Report {
	w.Helper()
	r, err := Run(w.Context(), o)
	if err != nil {
		w.Fatal(err)
	}
	return r
}

// ill lists the checks that are not well.
func ill(r Report) map[string]Result {
	found := map[string]Result{}
	for _, c := range r.Checks {
		if c.Status != OK && c.Status != Skipped {
			found[c.Name] = c
		}
	}
	return found
}

// unhurried are limits for a machine that is busy with other tests: how quickly it answers is not asked.
func unhurried() map[string]Limits {
	return map[string]Limits{"connection": limit(60_000, 60_000), "redis": limit(60_000, 60_000)}
}

func limit(warning, critical float64) Limits { return Limits{Warning: &warning, Critical: &critical} }

// A plain pg_monitor role finds a healthy server healthy; one with nothing says what it would need. Nothing is written.
func TestRights(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	w.exec("CREATE ROLE watcher LOGIN IN ROLE pg_monitor", "CREATE ROLE nobody LOGIN", "CREATE ROLE auditor LOGIN IN ROLE pg_monitor, auditdb_reader")
	var before, after string
	conn := w.connect("CHECKPOINT")
	scan := func(into *string) {
		if err := conn.QueryRow(t.Context(), "SELECT pg_current_wal_insert_lsn()::text").Scan(into); err != nil {
			t.Fatal(err)
		}
	}
	scan(&before)
	for role, want := range map[string][]string{"watcher": nil, "auditor": nil, "nobody": {"connections", "idle_in_transaction", "long_transaction", "xmin_horizon", "replication_lag", "standbys"}} {
		o := w.o
		o.Open = opener(strings.Replace(w.url, "postgres@", role+"@", 1))
		report := w.run(o)
		var unknown []string
		for name, c := range ill(report) {
			if c.Status != Unknown || c.Hint != "GRANT pg_monitor TO "+role {
				t.Errorf("%s: %+v", role, c)
			}
			unknown = append(unknown, name)
		}
		slices.Sort(unknown)
		slices.Sort(want)
		if !slices.Equal(unknown, want) {
			t.Errorf("%s: unknown are %v", role, unknown)
		}
	}
	if scan(&after); after != before {
		var records string
		_ = conn.QueryRow(t.Context(), "SELECT pg_wal_lsn_diff($1, $2)::text", after, before).Scan(&records)
		t.Logf("the WAL grew by %s bytes, of the server's own", records)
	}
}

// All checks together, as a role that has no more than pg_monitor and three connections, find a healthy server healthy and write nothing, on a standby too.
func TestHarmless(t *testing.T) {
	t.Parallel()
	bare, err := pgx.Connect(t.Context(), pgtest.Empty(t))
	if err != nil {
		t.Fatal(err)
	}
	var counts bool // not all builds of PostgreSQL have pg_stat_statements
	if err := bare.QueryRow(t.Context(), "SELECT count(*) > 0 FROM pg_available_extensions WHERE name = 'pg_stat_statements'").Scan(&counts); err != nil {
		t.Fatal(err)
	}
	_ = bare.Close(t.Context())
	w := newWard(t, func(o *embedded.Options) {
		if counts {
			o.Settings["shared_preload_libraries"] = "pg_stat_statements"
		}
	})
	w.exec("CREATE ROLE watcher LOGIN IN ROLE pg_monitor, auditdb_reader CONNECTION LIMIT 3")
	if counts {
		w.exec("CREATE EXTENSION pg_stat_statements")
	}
	w.exec("VACUUM (FREEZE)") // who is the first to read a page after it was changed tidies it
	standby, caughtUp := pgtest.Standby(t, w.pg)
	caughtUp()
	for name, url := range map[string]string{"primary": w.url, "standby": standby.URL("postgres")} {
		o := w.o
		o.Open, o.Deep = opener(strings.Replace(url, "postgres@", "watcher@", 1)), true
		for sick, c := range ill(w.run(o)) {
			if !slices.Contains(lacks(w.pg.Major()), sick) {
				t.Errorf("%s: %+v", name, c)
			}
		}
		if !counts {
			continue
		}
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		var statements int
		var wrote string
		err = conn.QueryRow(t.Context(), "SELECT count(*), coalesce(string_agg(query, E'\\n') FILTER (WHERE wal_bytes > 0), '') FROM pg_stat_statements WHERE userid = 'watcher'::regrole").Scan(&statements, &wrote)
		if _ = conn.Close(t.Context()); err != nil || statements < 20 || wrote != "" {
			t.Errorf("%s: of %d statements wrote: %s, %v", name, statements, wrote, err)
		}
	}
}

// A standby is looked at as one, and a paused replay is seen.
func TestStandby(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	standby, caughtUp := pgtest.Standby(t, w.pg)
	caughtUp()
	o := w.o
	o.Replicas = 1
	if sick := ill(w.run(o)); len(sick) > 0 {
		t.Errorf("primary: %+v", sick)
	}
	o.Replicas = 2
	if c := ill(w.run(o))["standbys"]; c.Status != Critical || !strings.Contains(c.Message, "1 attached, 2 replicas configured") {
		t.Errorf("a replica is missing: %+v", c)
	}
	o = w.o
	o.Open = opener(standby.URL("postgres"))
	if sick := ill(w.run(o)); len(sick) > 0 {
		t.Errorf("standby: %+v", sick)
	}
	there, err := pgx.Connect(t.Context(), standby.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = there.Close(context.WithoutCancel(t.Context())) }()
	if _, err := there.Exec(t.Context(), "SELECT pg_wal_replay_pause()"); err != nil {
		t.Fatal(err)
	}
	if sick := ill(w.run(o)); len(sick) != 1 || sick["replay_delay"].Status != Warning || !strings.Contains(sick["replay_delay"].Message, "paused") {
		t.Errorf("paused: %+v", sick)
	}
}

// What is down is a finding; what hangs is one too, in time.
func TestDown(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	w.o.CheckTimeout = 500 * time.Millisecond
	if err := w.pg.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	r := w.run(w.o)
	if sick := ill(r); r.Status != Critical || len(sick) != 1 || sick[Connection].Hint == "" {
		t.Errorf("a server that is down: %+v", sick)
	}
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	for _, names := range [][]string{{"partitions"}, {"redis"}, {"xid_age", "jobs"}} {
		o := w.o
		o.Only = names
		if r := w.run(o); r.Status != Critical || r.Checks[0].Name != Connection || r.Reached() {
			t.Errorf("only %v: %+v", names, r)
		}
	}
	o := w.o
	o.Skip = []string{"connectivity"}
	if r := w.run(o); r.Status != Critical || r.Checks[0].Name != Connection {
		t.Errorf("without connectivity: %+v", r)
	}
}

// Limits of the configuration that say nothing are refused, and those of a figure that should be high are taken as such.
func TestLimits(t *testing.T) {
	t.Parallel()
	for name, l := range map[string]Limits{"long_transaction": limit(7200, 3600), "cache_hit": limit(90, 98), "partition_coverage": limit(1, 2)} {
		if _, err := (Options{Limits: map[string]Limits{name: l}}).choose(); fault.ClassOf(err) != fault.Config {
			t.Errorf("%s: %v", name, err)
		}
	}
	w := newWard(t)
	w.o.Limits["partition_coverage"] = limit(3, 1)
	if r := w.run(w.o); r.Status != OK {
		t.Errorf("four are ready: %+v", ill(r))
	}
	w.detach(3, 5)
	if sick := ill(w.run(w.o)); sick["partition_coverage"].Status != Warning {
		t.Errorf("two are ready: %+v", sick)
	}
}

// A session that somebody ends is no finding, a server that goes is, whatever it was asked last.
func TestLost(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	o := w.o
	var done sync.Once
	o.Migrations = func(ctx context.Context, db *postgres.DB) (int, bool, error) {
		done.Do(func() { //nolint:contextcheck // that of the test
			w.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'auditdb/health'")
		})
		return pending(ctx, db)
	}
	if r := w.run(o); r.Status != OK {
		t.Errorf("its sessions were ended: %+v", ill(r))
	}
	o.Migrations = func(ctx context.Context, db *postgres.DB) (int, bool, error) {
		if err := w.pg.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		return pending(ctx, db)
	}
	if r := w.run(o); r.Status != Critical || r.Checks[0].Name != Connection || !strings.Contains(r.Checks[0].Message, "went away") || len(ill(r)) != 1 {
		t.Errorf("the server has gone: %+v", ill(r))
	}
}

// A job that did its work and found something is reported by the check of what it found, and has not failed; one that failed before it ever
// succeeded has.
func TestJobs(t *testing.T) {
	t.Parallel()
	url := pgtest.DB(t)
	w := &ward{T: t, url: url}
	o := Options{Open: opener(url), Migrations: pending, Now: time.Now, Only: []string{"jobs"}, Log: slog.New(slog.DiscardHandler)}
	for _, c := range []struct {
		codes []int // the newest last
		want  Status
	}{
		{[]int{4}, OK}, {[]int{0, 4}, OK}, {[]int{4, 4}, OK}, {[]int{1}, Warning}, {[]int{0, 3}, Warning}, {[]int{1, 5}, Warning}, {[]int{1, 0}, OK}, {[]int{5}, OK},
	} {
		w.exec("DELETE FROM auditdb.job_run")
		for i, code := range c.codes {
			w.exec(fmt.Sprintf("INSERT INTO auditdb.job_run (job, started_at, finished_at, exit_code, version) VALUES ('verify-integrity', now() - interval '%d minutes', now(), %d, 'x')", len(c.codes)-i, code))
		}
		if r := w.run(o); r.Status != c.want {
			t.Errorf("exit codes %v: %+v", c.codes, r.Checks)
		}
	}
}

// Samples of an earlier run make rates.
func TestRecord(t *testing.T) {
	t.Parallel()
	url := pgtest.DB(t)
	now := time.Now()
	var said bytes.Buffer
	o := Options{Open: opener(url), Migrations: pending, Now: func() time.Time { return now }, Deep: true, Record: true, Only: []string{"deadlocks", "temp_files", "disk_forecast"}, Log: slog.New(slog.NewTextHandler(&said, nil))}
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Checks {
		if c.Status != OK && c.Name != "disk_forecast" || c.Name == "deadlocks" && c.Value == nil {
			t.Errorf("%+v", c)
		}
	}
	if said.Len() > 0 {
		t.Error(said.String())
	}
}

func TestParseLimit(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]float64{"70": 70, "90%": 90, "30s": 30, "5m": 300, "2h": 7200, "1d": 86400, "500MB": 500 << 20, "1.5GB": 1.5 * (1 << 30), "2 MiB": 2 << 20, "10ms": 0.01, "5 %": 5} {
		unit := inSeconds
		if strings.HasSuffix(text, "B") {
			unit = bytesHour
		} else if strings.HasSuffix(text, "%") {
			unit = inPercent
		}
		if got, err := ParseLimit(text, unit); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	if got, err := ParseLimit("10ms", inMillis); err != nil || got != 10 {
		t.Errorf("%v, %v", got, err)
	}
	for _, text := range []string{"", "much", "5 parsecs", "-", "%", "NaN", "inf", "-1", "1e400", "0x10", "500MB", "90%"} {
		if got, err := ParseLimit(text, inSeconds); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func FuzzParseLimit(f *testing.F) {
	f.Add("10ms", "ms")
	f.Fuzz(func(_ *testing.T, text, unit string) { _, _ = ParseLimit(text, unit) })
}
