package monitor

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"auditdb/internal/embedded"
	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
	"auditdb/pkg/partitions"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func connect(t *testing.T, url string, sql ...string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	for _, s := range sql {
		if _, err := conn.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	return conn
}

// A writer waits for one that is idle in its transaction, and a third one for the second: a tree of three, and no values in it.
func TestLocks(t *testing.T) {
	t.Parallel()
	url := pgtest.Server(t).URL("postgres")
	holder := connect(t, url, "CREATE TABLE t (i int PRIMARY KEY, s text)", "SET application_name = 'holder'", "BEGIN", "INSERT INTO t VALUES (1, 'secret')")
	look := connect(t, url)
	if list, err := Locks(t.Context(), look); err != nil || len(list) != 0 {
		t.Fatalf("nobody waits: %+v, %v", list, err)
	}
	var pids []int
	for _, sql := range []string{"ALTER TABLE t ADD COLUMN x text DEFAULT 'secret'", "INSERT INTO t VALUES (2, 'secret')"} {
		waiter := connect(t, url)
		pids = append(pids, int(waiter.PgConn().PID()))
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = waiter.Exec(t.Context(), sql)
		}()
		t.Cleanup(func() { <-done })
		for n := 0; n < len(pids) && t.Context().Err() == nil; {
			list, err := Locks(t.Context(), look)
			if err != nil {
				t.Fatal(err)
			}
			n = max(len(list)-1, 0)
		}
	}
	list, err := Locks(t.Context(), look)
	if err != nil || len(list) != 3 {
		t.Fatalf("%+v, %v", list, err)
	}
	for i, s := range list {
		if strings.Contains(s.Query, "secret") {
			t.Errorf("a value is shown: %s", s.Query)
		}
		if s.Depth != i || (i == 0) != (s.WaitSeconds == nil) {
			t.Errorf("%d: %+v", i, s)
		}
	}
	if list[0].Application != "holder" || list[0].State != "idle in transaction" || list[0].Blocks != 1 || list[0].PID != int(holder.PgConn().PID()) ||
		list[1].PID != pids[0] || list[1].Mode != "AccessExclusiveLock" || list[1].Object != "t" || list[2].PID != pids[1] || !slices.Equal(list[2].BlockedBy, pids[:1]) {
		t.Errorf("%+v", list)
	}
	if busy, err := Activity(t.Context(), look, 2); err != nil || len(busy) != 2 || busy[0].Application != "holder" || busy[1].Wait != "Lock:relation" {
		t.Errorf("%+v, %v", busy, err)
	}
	if _, err := holder.Exec(t.Context(), "COMMIT"); err != nil {
		t.Error(err)
	}
}

// However sessions wait for each other, each stands there once, below one that it waits for unless it begins a tree.
func TestTree(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 12).Draw(t, "n")
		list := make([]LockSession, n)
		for i := range list {
			list[i].PID = 100 + i
			list[i].BlockedBy = rapid.SliceOfN(rapid.IntRange(100, 100+n), 0, 3).Draw(t, "blocked by")
		}
		out := tree(slices.Clone(list))
		if len(out) != n {
			t.Fatalf("%d of %d", len(out), n)
		}
		seen := map[int]bool{}
		path := []int{}
		for _, s := range out {
			if seen[s.PID] {
				t.Fatalf("%d stands there twice", s.PID)
			}
			seen[s.PID] = true
			if s.Depth > len(path) {
				t.Fatalf("%d hangs in the air: %+v", s.PID, out)
			}
			if path = path[:s.Depth]; s.Depth > 0 && !slices.Contains(s.BlockedBy, path[s.Depth-1]) {
				t.Fatalf("%d does not wait for %d", s.PID, path[s.Depth-1])
			}
			path = append(path, s.PID)
		}
	})
}

func TestSlowStatements(t *testing.T) {
	t.Parallel()
	bare := connect(t, pgtest.Empty(t))
	if _, err := SlowStatements(t.Context(), bare, StatementOptions{Limit: 5}); fault.ClassOf(err) != fault.Config || !strings.Contains(fault.HintOf(err), "CREATE EXTENSION") {
		t.Fatalf("without the extension: %v", err)
	}
	if _, err := SlowStatements(t.Context(), bare, StatementOptions{Limit: 5, Sort: "weight"}); fault.ClassOf(err) != fault.Usage {
		t.Errorf("an unknown order: %v", err)
	}
	var there bool
	if err := bare.QueryRow(t.Context(), "SELECT count(*) > 0 FROM pg_available_extensions WHERE name = 'pg_stat_statements'").Scan(&there); err != nil {
		t.Fatal(err)
	}
	if !there {
		t.Log("this build of PostgreSQL has no pg_stat_statements")
		return
	}
	if _, err := bare.Exec(t.Context(), "CREATE SCHEMA s; CREATE EXTENSION pg_stat_statements SCHEMA s"); err != nil {
		t.Fatal(err)
	}
	if _, err := SlowStatements(t.Context(), bare, StatementOptions{Limit: 5}); fault.ClassOf(err) != fault.Config || !strings.Contains(err.Error(), "not loaded") {
		t.Errorf("not loaded: %v", err)
	}
	pg := pgtest.Server(t, func(o *embedded.Options) {
		if o.Settings == nil {
			o.Settings = map[string]string{}
		}
		o.Settings["shared_preload_libraries"] = "pg_stat_statements"
	})
	conn := connect(t, pg.URL("postgres"), `CREATE SCHEMA "S s"; CREATE EXTENSION pg_stat_statements SCHEMA "S s"`, "CREATE TABLE t AS SELECT g AS i, repeat('x', 500) AS s FROM generate_series(1, 40000) g",
		"SELECT count(*) FROM t WHERE s = 'secret value'", "SELECT count(*) FROM t WHERE s = 'secret value'", "SET search_path = ''")
	for _, by := range append(StatementOrders(), "") {
		found, err := SlowStatements(t.Context(), conn, StatementOptions{Limit: 50, Sort: by, MinCalls: 2})
		if err != nil {
			t.Fatalf("%s: %v", by, err)
		}
		at := slices.IndexFunc(found.Entries, func(s Statement) bool { return strings.HasPrefix(s.Query, "SELECT count(*) FROM t WHERE s = ") })
		if at < 0 || found.Entries[at].Calls != 2 || found.Entries[at].Hint == nil || !strings.Contains(*found.Entries[at].Hint, "index may be missing") || found.Since == nil || strings.Contains(found.Entries[at].Query, "secret") {
			t.Errorf("%s: %+v", by, found)
		}
	}
	if found, err := SlowStatements(t.Context(), conn, StatementOptions{Limit: 50, MinMean: time.Hour}); err != nil || len(found.Entries) != 0 {
		t.Errorf("none takes an hour: %+v, %v", found, err)
	}
	poor := connect(t, pg.URL("postgres"), `CREATE ROLE poor`, `GRANT USAGE ON SCHEMA "S s" TO poor`, `SET ROLE poor`)
	if found, err := SlowStatements(t.Context(), poor, StatementOptions{Limit: 50}); err != nil || found.Hidden == 0 {
		t.Errorf("with few rights: %+v, %v", found, err)
	}
}

// A standby that stands still lags behind in bytes, on its own side too.
func TestReplicas(t *testing.T) {
	t.Parallel()
	primary := pgtest.Server(t)
	conn := connect(t, primary.URL("postgres"), "SELECT pg_create_physical_replication_slot('idle', true)", "CREATE TABLE t (i int)")
	r, err := Replicas(t.Context(), conn)
	if err != nil || r.Standby || r.Receiver != nil || len(r.Standbys) != 0 || len(r.Slots) != 1 || r.Slots[0].Active || r.Slots[0].RetainedBytes == nil {
		t.Fatalf("alone: %+v, %v", r, err)
	}
	standby, caughtUp := pgtest.Standby(t, primary)
	caughtUp()
	conn = connect(t, primary.URL("postgres"))
	there := connect(t, standby.URL("postgres"), "SELECT pg_wal_replay_pause()")
	if _, err := conn.Exec(t.Context(), "INSERT INTO t SELECT generate_series(1, 10000)"); err != nil {
		t.Fatal(err)
	}
	for t.Context().Err() == nil {
		if r, err = Replicas(t.Context(), there); err != nil {
			t.Fatal(err)
		}
		if c := r.Receiver; c.UnreplayedBytes != nil && *c.UnreplayedBytes > 100_000 && c.Paused {
			break
		}
	}
	if !r.Standby || r.Receiver.Status == nil || *r.Receiver.Status != "streaming" {
		t.Errorf("on the standby: %+v", *r.Receiver)
	}
	for t.Context().Err() == nil {
		if r, err = Replicas(t.Context(), conn); err != nil || len(r.Standbys) != 1 {
			t.Fatalf("%+v, %v", r, err)
		}
		if s := r.Standbys[0]; *s.UnreplayedBytes > 100_000 && *s.UnflushedBytes == 0 && s.State == "streaming" {
			break
		}
	}
}

func TestConnectionsAndRates(t *testing.T) {
	t.Parallel()
	pg := pgtest.Server(t)
	conn := connect(t, pg.URL("postgres"), "SET application_name = 'me'", "BEGIN")
	c, err := ReadConnections(t.Context(), conn)
	if err != nil || c.Used < 1 || c.Max < c.Reserved || !slices.ContainsFunc(c.Groups, func(g ConnectionGroup) bool {
		return g.Application == "me" && g.Count == 1 && g.TransactionSeconds != nil
	}) {
		t.Errorf("%+v, %v", c, err)
	}
	before, err := ReadCounters(t.Context(), conn)
	if err != nil || before.Uptime <= 0 || before.Standby {
		t.Errorf("%+v, %v", before, err)
	}
	after := before
	after.At, after.Uptime, after.Transactions, after.BlocksHit = before.At.Add(2*time.Second), before.Uptime+2, before.Transactions+10, before.BlocksHit+5
	if r := after.RatesSince(before); *r.Transactions != 5 || *r.HitRatio != 1 || *r.RowsInserted != 0 {
		t.Errorf("%+v", r)
	}
	after.Uptime = before.Uptime / 2
	if r := after.RatesSince(before); r.Transactions != nil {
		t.Errorf("a restart in between: %+v", r)
	}
}

// Who may not see the sessions of others is told so.
func TestMissingGrant(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.Server(t).URL("postgres"), `CREATE ROLE "no body"`, "CREATE ROLE watcher IN ROLE pg_monitor")
	for role, want := range map[string]string{"postgres": "", "watcher": "", "no body": `GRANT pg_monitor TO "no body"`} {
		if _, err := conn.Exec(t.Context(), "SET ROLE "+pgx.Identifier{role}.Sanitize()); err != nil {
			t.Fatal(err)
		}
		if grant, err := MissingGrant(t.Context(), conn); err != nil || grant != want {
			t.Errorf("%s: %q, %v", role, grant, err)
		}
		if _, err := conn.Exec(t.Context(), "RESET ROLE"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestGrowth(t *testing.T) {
	t.Parallel()
	day := func(n int) time.Time { return time.Date(2026, 1, 1+n, 0, 0, 0, 0, time.UTC) }
	var parts []partitions.Partition
	for n := range 10 {
		parts = append(parts, partitions.Partition{Bounds: partitions.Bounds{From: day(n), To: day(n + 1)}, State: partitions.Attached, Kind: 'r', RowsEstimate: 100, SizeBytes: int64(1000 * (n + 1))})
	}
	parts[5].SizeBytes = -1
	parts = append(parts, partitions.Partition{Default: true, State: partitions.Attached, Kind: 'r', RowsEstimate: -1, SizeBytes: 7})
	g := Growth(partitions.Table{Schema: "public", Name: "t"}, partitions.NewCatalog(parts), day(8)) // 0 to 7 are closed, 5 is not known
	if g.Partitions != 11 || g.Rows != nil || *g.SizeBytes != 49007 || g.UnknownSizes != 1 || g.Counted != 6 || *g.BytesPerDay != (8+7+5+4+3+2)*1000/6.0 || *g.RowsPerDay != 100 || *g.In30Days != int64(30**g.BytesPerDay) {
		t.Errorf("%+v", g)
	}
	if g := Growth(partitions.Table{}, partitions.NewCatalog(nil), day(0)); g.BytesPerDay != nil || g.Counted != 0 {
		t.Errorf("%+v", g)
	}
}
