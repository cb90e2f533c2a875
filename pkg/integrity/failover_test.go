package integrity

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/pgtest"
)

// on is the fixture with its database on another server.
func (f *fixture) on(url string) *fixture {
	f.t.Helper()
	g, table := *f, *f.table
	g.db, g.table, g.log = openDB(f.t, url), &table, NewLog(f.log.keys)
	return &g
}

// A standby that was promoted behind the log: the loss is found by external checkpoints, its cause is named, and once it was accepted the
// log goes on. On the standby itself everything can be verified.
func TestFailoverThatLostCommits(t *testing.T) {
	t.Parallel()
	primary := pgtest.Server(t)
	admin, err := pgx.Connect(t.Context(), primary.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Exec(t.Context(), "CREATE DATABASE audit"); err != nil {
		t.Fatal(err)
	}
	if err := admin.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	pgtest.Migrate(t, primary.URL("audit"))
	f := fixtureAt(t, primary.URL("audit"))
	f.batch(0, 20)
	f.db.Close()
	standby, caughtUp := pgtest.Standby(t, primary)
	f = f.on(primary.URL("audit"))
	f.batch(1, 20)
	kept := f.clean().Checkpoint
	caughtUp()
	g := f.on(standby.URL("audit"))
	if r := g.clean(); r.RowsChecked != 40 {
		t.Error("on the standby:", r.RowsChecked)
	}
	g.must("ALTER SYSTEM SET primary_conninfo = ''")
	g.must("SELECT pg_reload_conf()")
	for g.int("SELECT count(*) FROM pg_stat_wal_receiver") > 0 && t.Context().Err() == nil {
		continue
	}
	f.batch(2, 20)
	f.batch(2, 20)
	lost := f.clean().Checkpoint
	f.db.Close()
	if err := primary.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.must("SELECT pg_promote()")
	g = f.on(standby.URL("audit"))
	anchors := func(o *VerifyOptions) {
		o.Anchors = []External{{Source: "kept", Note: kept.Note}, {Source: "lost", Note: lost.Note}}
	}
	g.clean(func(o *VerifyOptions) { o.Anchors = []External{{Source: "kept", Note: kept.Note}} })
	checkLoss(t, g.verify(anchors), "log_truncated/error", "timeline 1 to 2")
	g.block += 100
	g.batch(2, 5) // work goes on by itself, and says so
	if n := g.int("SELECT count(*) FROM auditdb.log WHERE record LIKE E'auditdb/1 recovery\\n%event timeline%timeline 2%'"); n != 1 {
		t.Errorf("%d records of the timeline", n)
	}
	checkLoss(t, g.verify(anchors), "log_forked/error", "on timeline 2 since record")
	if _, err := g.log.AcceptLoss(t.Context(), g.db, time.Now(), -1, lost.Size, "failover"); err != nil {
		t.Fatal(err)
	}
	g.batch(0, 5)
	if r := g.clean(anchors); !strings.Contains(r.Assurance, "kept covers") || !strings.Contains(r.Assurance, "lost NOT MET, its loss was accepted") {
		t.Error(r.Assurance)
	}
}

func checkLoss(t *testing.T, r *Report, want, says string) {
	t.Helper()
	if !slices.Equal(r.types(), []string{want}) || !strings.Contains(r.text(), says) || !strings.Contains(r.Findings[0].Hint, "accept-loss --size") {
		t.Errorf("want %s that says %q:\n%s", want, says, r.text())
	}
}

// must runs one statement outside of a transaction.
func (f *fixture) must(sql string) {
	f.t.Helper()
	if _, err := f.db.Pool().Exec(f.t.Context(), sql); err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
}
