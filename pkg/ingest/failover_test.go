package ingest_test

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/embedded"
	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
	"auditdb/pkg/ingest"
)

// both is an address with two hosts.
func both(t *testing.T, one, other *embedded.Postgres) string {
	t.Helper()
	u, err := url.Parse(one.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("host", one.Dir()+","+other.Dir())
	q.Set("port", strconv.Itoa(one.Port())+","+strconv.Itoa(other.Port()))
	u.RawQuery = q.Encode()
	return u.String()
}

func statement(t *testing.T, pg *embedded.Postgres, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), pg.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// failover is a primary with a standby, and a run that knows both.
func failover(t *testing.T, settings string) (primary, standby *embedded.Postgres, b *bed, caughtUp func()) {
	t.Helper()
	primary = pgtest.Server(t)
	pgtest.Migrate(t, primary.URL("postgres"))
	straight := openBed(t, primary.URL("postgres"))
	straight.months("2024-01", 1)
	standby, caughtUp = pgtest.Standby(t, primary)
	if settings != "" {
		statement(t, primary, settings)
		statement(t, primary, "SELECT pg_reload_conf()")
	}
	b = openBed(t, both(t, primary, standby))
	b.keys = straight.keys
	b.opts.BatchRows, b.opts.Jobs, b.opts.Wait = 50, 2, time.Minute
	return primary, standby, b, caughtUp
}

// TestFailover kills the primary in mid-run and promotes its synchronous standby: the run goes on there, and nothing is missing or twice.
func TestFailover(t *testing.T) {
	t.Parallel()
	primary, standby, b, _ := failover(t, "ALTER SYSTEM SET synchronous_standby_names = '*'")
	batches := make(chan struct{}, 10000)
	b.opts.OnProgress = func(int, int) { batches <- struct{}{} }
	path := write(t, "log", bare(0, 10000))
	done := make(chan error, 1)
	var rep ingest.Report
	go func() {
		sources, err := ingest.Expand([]string{path}, "", nil)
		if err == nil {
			rep, err = ingest.Run(t.Context(), b.opts, sources)
		}
		done <- err
	}()
	for range 40 {
		<-batches
	}
	if err := primary.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	statement(t, standby, "SELECT pg_promote()")
	if err := <-done; err != nil || rep.Inserted != 10000 {
		t.Fatalf("report %+v, error %v", rep, err)
	}
	b.once(10000)
}

// TestFailoverThatLosesCommits promotes a standby that does not have all that was committed: the run says so, and the next one adds what is
// missing.
func TestFailoverThatLosesCommits(t *testing.T) {
	t.Parallel()
	primary, standby, b, caughtUp := failover(t, "")
	batches := make(chan struct{})
	goOn := make(chan struct{})
	n := 0
	b.opts.Jobs, b.opts.BatchRows = 1, 100
	b.opts.OnProgress = func(int, int) {
		if n++; n == 10 || n == 20 {
			batches <- struct{}{}
			<-goOn
		}
	}
	path := write(t, "log", bare(0, 10000))
	done := make(chan error, 1)
	go func() {
		sources, err := ingest.Expand([]string{path}, "", nil)
		if err == nil {
			_, err = ingest.Run(t.Context(), b.opts, sources)
		}
		done <- err
	}()
	<-batches
	caughtUp()
	statement(t, standby, "SELECT pg_wal_replay_pause()")
	if err := standby.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	goOn <- struct{}{}
	<-batches
	if err := primary.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := standby.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	statement(t, standby, "SELECT pg_promote()")
	goOn <- struct{}{}
	err := <-done
	if fault.ClassOf(err) != fault.Data || !strings.Contains(err.Error(), "lost records that it had committed") || !strings.Contains(fault.HintOf(err), "run again") {
		t.Fatalf("error %v", err)
	}
	again := openBed(t, standby.URL("postgres"))
	again.opts.Log = b.opts.Log
	b = again
	lost := 10000 - b.rows()
	if rep := b.run(path); rep.Inserted != lost || lost == 0 {
		t.Errorf("%d were missing, report %+v", lost, rep)
	}
	b.once(10000)
}

// TestConnectionsAreLostInMidRun ends every session now and then, those with locks too.
func TestConnectionsAreLostInMidRun(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	b.opts.BatchRows, b.opts.Jobs, b.opts.Wait = 50, 3, time.Minute
	killer := openBed(t, b.db.Pool().Config().ConnString())
	n := 0
	b.opts.OnProgress = func(int, int) {
		if n++; n%20 == 0 {
			killer.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'auditdb/ingest-test'`)
		}
	}
	if rep := b.run(write(t, "log", bare(0, 10000))); rep.Inserted != 10000 {
		t.Errorf("report %+v", rep)
	}
	b.once(10000)
}

// TestOutsideEveryPartition rejects rows that no partition takes, until somebody makes one.
func TestOutsideEveryPartition(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	b.opts.BatchRows, b.opts.MaxBad = 10, -1
	n := 0
	var reasons []string
	b.opts.OnReject = func(r ingest.Reject) { reasons = append(reasons, r.Reason) }
	b.opts.OnProgress = func(int, int) {
		if n++; n == 5 {
			b.months("2024-02", 1)
		}
	}
	var in strings.Builder
	for i := range 100 {
		in.WriteString(event("2024-01-05", []string{"2024-01-05", "2024-02-05"}[i%2]) + "\n")
	}
	rep := b.run(write(t, "log", in.String()))
	if rep.Inserted+rep.Rejected+rep.Duplicate != 100 || rep.Rejected == 0 || rep.Rejected > 40 || len(reasons) != int(rep.Rejected) || reasons[0] != "no partition for its timestamp 2024-02-05T06:07:08Z: --create-partitions makes it" {
		t.Errorf("report %+v, reasons %v", rep, reasons)
	}
	b.checkLeaves()
}
