package partitions

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/embedded"
	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
)

// A lock table that has no room for many partitions at once is no obstacle: they are made one by one then.
func TestCreateWithFewLocks(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, func(o *embedded.Options) {
		o.Settings["max_locks_per_transaction"], o.Settings["max_connections"], o.Settings["max_prepared_transactions"] = "10", "12", "0"
		o.Settings["max_wal_senders"], o.Settings["autovacuum_max_workers"], o.Settings["max_worker_processes"] = "0", "1", "1"
	})
	setup := []string{`CREATE TABLE events (k timestamptz, a text, b text, c text) PARTITION BY RANGE (k)`}
	for i := range 8 {
		setup = append(setup, fmt.Sprintf(`CREATE INDEX ON events (a, b, c, (%d))`, i))
	}
	b := on(t, server.URL("postgres"), setup...)
	tab := b.table("events")
	tab.Interval = Daily
	made := b.create(tab, exactly(t, "2026-01-01", "2026-03-02"))
	if len(made) != 60 || b.catalog(tab).Len() != 60 || len(b.ledger.events) != 60 {
		t.Errorf("%d made, %d there, %d recorded", len(made), b.catalog(tab).Len(), len(b.ledger.events))
	}
	done, _ := b.realClock().prune(tab, PruneOptions{OlderThan: ptr(at(t, "2026-02-01")), MaxDrop: ptr(1000)})
	if len(done) != 31 || b.catalog(tab).Len() != 29 {
		t.Errorf("%d pruned, %d left", len(done), b.catalog(tab).Len())
	}
}

func ptr[T any](v T) *T { return &v }

// Autovacuum that only tidies up gives way to a prune; one that prevents wraparound does not, and is named when waiting ends.
func TestPruneBesideAutovacuum(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, func(o *embedded.Options) {
		o.Settings["autovacuum_naptime"], o.Settings["autovacuum_vacuum_cost_delay"], o.Settings["autovacuum_vacuum_cost_limit"] = "1s", "100ms", "1"
		o.Settings["autovacuum_vacuum_threshold"], o.Settings["autovacuum_vacuum_insert_threshold"] = "10", "-1"
	})
	b := on(t, server.URL("postgres"),
		`CREATE TABLE events (k timestamptz, a text) PARTITION BY RANGE (k)`,
		`CREATE TABLE tidy PARTITION OF events FOR VALUES FROM ('2024-01-01Z') TO ('2024-02-01Z')`,
		`CREATE TABLE wrap PARTITION OF events FOR VALUES FROM ('2024-02-01Z') TO ('2024-03-01Z') WITH (autovacuum_freeze_max_age = 100000)`,
		`CREATE TABLE newest PARTITION OF events FOR VALUES FROM ('2024-03-01Z') TO ('2024-04-01Z')`,
		`INSERT INTO events SELECT m, repeat('x', 1000) FROM unnest('{2024-01-05Z,2024-02-05Z}'::timestamptz[]) m, generate_series(1, 3000)`,
		`DELETE FROM tidy WHERE ctid < '(200,0)'`,
		// More transaction ids than the partition may be old.
		`CREATE UNLOGGED TABLE ids (i int); DO $$ BEGIN FOR i IN 1..110000 LOOP BEGIN INSERT INTO ids VALUES (i); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$`).realClock()
	vacuum := `SELECT pid FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' AND query LIKE 'autovacuum: VACUUM%%public.%s%%'`
	for _, name := range []string{"tidy", "wrap"} {
		sql := fmt.Sprintf("SELECT count(*) FROM ("+vacuum+") v", name)
		await(t, "autovacuum of "+name, func() bool { return value[int64](b, sql) == 1 })
	}
	tab := b.table("events")
	started := time.Now()
	b.o.Wait = 4 * time.Second
	b.w = NewWorker(b.o)
	done, _, err := b.tryPrune(tab, before(t, "2025-01-01"))
	wantClass(t, err, fault.Locked)
	if got := goneNames(done); len(got) != 1 || got[0] != "tidy" || err == nil || !strings.Contains(err.Error(), "autovacuum worker to prevent wraparound") {
		t.Errorf("%v, %v", got, err)
	}
	if took := time.Since(started); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
	if made := b.create(tab, exactly(t, "2024-04-01", "2024-06-01")); len(made) != 2 {
		t.Errorf("%+v", made)
	}
	p := b.catalog(tab).All()[0]
	if p.Name != "wrap" || p.State != Attached || p.mark != "" {
		t.Errorf("%+v", p)
	}
}

// Nor does autovacuum of a default partition, which new partitions need for a moment, keep them from being made, also where a reader stays
// until the next worker is at it.
func TestCreateBesideAutovacuum(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, func(o *embedded.Options) {
		o.Settings["autovacuum_naptime"], o.Settings["autovacuum_vacuum_cost_delay"], o.Settings["autovacuum_vacuum_cost_limit"] = "1s", "100ms", "1"
		o.Settings["autovacuum_vacuum_threshold"], o.Settings["autovacuum_vacuum_insert_threshold"] = "10", "-1"
	})
	b := on(t, server.URL("postgres"),
		`CREATE TABLE events (k timestamptz, a text) PARTITION BY RANGE (k)`, `CREATE TABLE rest PARTITION OF events DEFAULT`,
		`INSERT INTO events SELECT '2024-01-05Z', repeat('x', 1000) FROM generate_series(1, 3000)`, `DELETE FROM rest WHERE ctid < '(200,0)'`)
	worker := func() int64 {
		return value[int64](b, `SELECT coalesce(min(l.pid), 0) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE a.backend_type = 'autovacuum worker' AND l.relation = 'public.rest'::regclass AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted`)
	}
	await(t, "autovacuum of the default partition", func() bool { return worker() != 0 })
	first := worker()
	reader, err := b.conn().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Exec(t.Context(), "LOCK TABLE public.rest IN ACCESS SHARE MODE"); err != nil {
		t.Fatal(err)
	}
	b.o.Wait = time.Minute // the vacuum would take an hour
	b.w = NewWorker(b.o)
	tab, ask := b.table("events"), exactly(t, "2026-04-01", "2026-06-01")
	ended := make(chan error, 1)
	var made []Created
	go func() {
		var err error
		made, _, err = b.tryCreate(tab, ask)
		ended <- err
	}()
	await(t, "another worker", func() bool { pid := worker(); return pid != 0 && pid != first })
	if err := reader.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil || len(made) != 2 {
		t.Errorf("%+v, %v", made, err)
	}
}

// await waits until something is true.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-limit.C:
			t.Fatalf("%s: not within a minute", what)
		case <-tick.C:
		}
	}
}

// While a reader keeps its transaction open, partitions are made and rows go in; a prune waits, gives up in the end with the reader's name and
// nothing pending; and once the reader is gone everything goes.
func TestWorkBesideAReader(t *testing.T) {
	t.Parallel()
	for name, setup := range map[string]string{"plain": ``, "with a default": `CREATE TABLE audit_log_rest PARTITION OF audit_log DEFAULT`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := old(t, setup)
			tab := b.table("audit_log")
			conn := b.conn()
			reader, err := conn.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := reader.Exec(t.Context(), "SET application_name = 'the report'; SELECT count(*) FROM audit_log_2024_02, audit_log LIMIT 1; SELECT pg_sleep(0.6)"); err != nil {
				t.Fatal(err)
			}
			inserts := b.inserting()
			if setup == "" {
				if made := b.create(tab, exactly(t, "2025-01-01", "2026-01-01")); len(made) != 12 {
					t.Errorf("%d made beside the reader", len(made))
				}
			}
			b.o.Wait = 4 * time.Second
			b.w = NewWorker(b.o)
			done, _, err := b.tryPrune(tab, before(t, "2024-04-01"))
			wantClass(t, err, fault.Locked)
			want := fmt.Sprintf("pid %d (the report) of user postgres in a transaction for ", conn.PgConn().PID())
			if len(done) != 0 || err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "idle in transaction") || !strings.Contains(err.Error(), "last statement: ") {
				t.Errorf("%+v, %v", done, err)
			}
			for _, p := range b.catalog(tab).All() {
				if p.State != Attached || p.mark != "" {
					t.Errorf("left: %+v", p)
				}
			}
			worst, rows := inserts()
			if rows == 0 || worst > 3*time.Second {
				t.Errorf("%d inserts, the slowest took %s", rows, worst)
			}
			if err := reader.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			done, _ = b.prune(tab, before(t, "2024-04-01"))
			if len(done) != 3 || len(b.catalog(tab).Leftovers()) != 0 {
				t.Errorf("after the reader: %v", goneNames(done))
			}
			if n := value[int64](b, "SELECT count(*) FROM public.audit_log"); n != rows {
				t.Errorf("%d rows are left of %d", n, rows)
			}
		})
	}
}

// inserting has two clients insert until the function is called, which returns how long the slowest insert took and how many there were.
func (b *base) inserting() (stop func() (worst time.Duration, rows int64)) {
	type result struct {
		worst time.Duration
		rows  int64
	}
	ctx, cancel := context.WithCancel(b.t.Context())
	results := make(chan result, 2)
	for range cap(results) {
		conn := b.conn()
		go func() {
			var r result
			defer func() { results <- r }()
			for ctx.Err() == nil {
				started := time.Now()
				if _, err := conn.Exec(context.WithoutCancel(ctx), "INSERT INTO audit_log (timestamp, action, status) VALUES (now(), 'a', 'b')"); err != nil {
					b.t.Errorf("insert: %v", err)
					return
				}
				r.rows++
				r.worst = max(r.worst, time.Since(started))
			}
		}()
	}
	return func() (worst time.Duration, rows int64) {
		cancel()
		for range cap(results) {
			r := <-results
			worst, rows = max(worst, r.worst), rows+r.rows
		}
		return worst, rows
	}
}

// A standby, behind it a real primary, can be read; every change is refused before anything is tried.
func TestHotStandby(t *testing.T) {
	t.Parallel()
	primary := pgtest.Server(t)
	on(t, primary.URL("postgres"), `CREATE TABLE events (k timestamptz) PARTITION BY RANGE (k)`,
		`CREATE TABLE a PARTITION OF events FOR VALUES FROM ('2024-01-01Z') TO ('2024-02-01Z')`, `INSERT INTO events VALUES ('2024-01-05Z')`).db.Close()
	standby, caughtUp := pgtest.Standby(t, primary)
	p := on(t, primary.URL("postgres"), `CREATE TABLE b PARTITION OF events FOR VALUES FROM ('2024-02-01Z') TO ('2024-03-01Z')`, `ANALYZE events`)
	caughtUp()
	b := on(t, standby.URL("postgres")+"&target_session_attrs=any").realClock()
	tab := b.table("events")
	c := b.catalog(tab)
	if c.Len() != 2 || c.All()[1].Name != "b" {
		t.Errorf("%+v", c.All())
	}
	if sizes, err := b.w.ExactSizes(t.Context(), tab, c.All()); err != nil || len(sizes) != 2 {
		t.Errorf("%v, %v", sizes, err)
	}
	if _, err := b.w.Review(t.Context(), tab, c); err != nil {
		t.Error(err)
	}
	_, _, err := b.tryCreate(tab, CreateOptions{})
	refusedByStandby(t, err)
	_, _, err = b.tryPrune(tab, before(t, "2024-02-01"))
	refusedByStandby(t, err)
	_, err = b.finalize(tab)
	refusedByStandby(t, err)
	if _, err := b.w.DraftCreate(t.Context(), tab, CreateOptions{}); err != nil {
		t.Errorf("what would be done: %v", err)
	}
	if n := p.catalog(p.table("events")).Len(); n != 2 {
		t.Errorf("%d partitions on the primary", n)
	}
}

func refusedByStandby(t *testing.T, err error) {
	t.Helper()
	wantClass(t, err, fault.Unavailable)
	if err == nil || !strings.Contains(err.Error(), "hot standby") || !strings.Contains(fault.HintOf(err), "primary") {
		t.Errorf("%v; hint %q", err, fault.HintOf(err))
	}
}

// Behind a pooler that gives every transaction another session, partitions are read as they are, whatever the sessions' settings, and changes
// are refused; one that keeps sessions is as good as none.
func TestPoolers(t *testing.T) {
	t.Parallel()
	direct := old(t, hostile)
	config, err := pgx.ParseConfig(direct.url)
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"transaction", "session"} {
		b := on(t, pgtest.PgBouncer(t, pgtest.Shared(t), mode)(config.Database)).realClock()
		tab := b.table("public.audit_log")
		c := b.catalog(tab)
		if c.Len() != 6 || c.All()[0].Text() != "[2024-01-01 00:00:00, 2024-02-01 00:00:00)" {
			t.Errorf("%s: %+v", mode, c.All())
		}
		if _, err := b.w.DraftPrune(t.Context(), tab, before(t, "2024-03-01")); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
		made, _, err := b.tryCreate(tab, exactly(t, "2023-01-01", "2023-02-01"))
		done, _, err2 := b.tryPrune(tab, before(t, "2023-06-01"))
		if mode == "session" {
			if err != nil || err2 != nil || len(made) != 1 || len(done) != 1 {
				t.Errorf("%+v %v, %+v %v", made, err, done, err2)
			}
			continue
		}
		for _, err := range []error{err, err2} {
			wantClass(t, err, fault.Config)
			if err == nil || !strings.Contains(err.Error(), "transaction-pooled") {
				t.Error(err)
			}
		}
	}
}

// Whoever lacks a right is told which.
func TestMissingRightsAreNamed(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t)
	b := on(t, server.URL("postgres"),
		`CREATE ROLE worker LOGIN; CREATE ROLE landlord; CREATE SCHEMA s; CREATE SCHEMA attic; GRANT USAGE ON SCHEMA s TO landlord`,
		`CREATE TABLE s.events (k timestamptz) PARTITION BY RANGE (k)`, `CREATE TABLE s.p PARTITION OF s.events FOR VALUES FROM ('2024-01-01Z') TO ('2024-02-01Z')`,
		`CREATE TABLE s.q PARTITION OF s.events FOR VALUES FROM ('2024-02-01Z') TO ('2024-03-01Z')`,
		`ALTER TABLE s.events OWNER TO landlord; ALTER TABLE s.p OWNER TO landlord; ALTER TABLE s.q OWNER TO landlord`)
	u, err := url.Parse(b.url)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User("worker")
	poor := on(t, u.String()).realClock()
	for _, step := range []struct {
		name string
		work func() error
		hint string
		then string
	}{
		{"find", func() error { _, err := Resolve(t.Context(), poor.db, "s.events"); return err }, `GRANT USAGE ON SCHEMA "s" TO "worker"`, `GRANT USAGE ON SCHEMA s TO worker`},
		{"create", func() error {
			_, _, err := poor.tryCreate(poor.table("s.events"), exactly(t, "2025-01-01", "2025-02-01"))
			return err
		}, `GRANT "landlord" TO`, `GRANT landlord TO worker`},
		{"create in the schema", func() error {
			_, _, err := poor.tryCreate(poor.table("s.events"), exactly(t, "2025-01-01", "2025-02-01"))
			return err
		}, `GRANT USAGE, CREATE ON SCHEMA "s" TO "landlord"`, `GRANT CREATE ON SCHEMA s TO landlord; CREATE TABLE s.rest PARTITION OF s.events DEFAULT; INSERT INTO s.events VALUES ('2025-01-05Z'); REVOKE landlord FROM worker`},
		{"prune", func() error { _, _, err := poor.tryPrune(poor.table("s.events"), before(t, "2024-02-01")); return err }, `GRANT "landlord" TO`, `GRANT landlord TO worker`},
		{"default", func() error {
			_, _, err := poor.tryCreate(poor.table("s.events"), exactly(t, "2025-01-01", "2025-02-01"))
			return err
		}, `GRANT SELECT`, `DROP TABLE s.rest`},
		{"attic", func() error {
			_, _, err := poor.tryPrune(poor.table("s.events"), detachTo(t, "2024-02-01", "attic"))
			return err
		}, `GRANT USAGE, CREATE ON SCHEMA "attic" TO "landlord"`, `GRANT USAGE, CREATE ON SCHEMA attic TO landlord`},
		{"all", func() error {
			_, err := poor.finalize(poor.table("s.events"))
			if err == nil && !b.exists("attic.p") {
				t.Error("the detached table is not in its schema")
			}
			if err == nil {
				_, _, err = poor.tryCreate(poor.table("s.events"), exactly(t, "2025-01-01", "2025-02-01"))
			}
			if err == nil {
				_, _, err = poor.tryPrune(poor.table("s.events"), before(t, "2024-03-01"))
			}
			return err
		}, "", ""},
	} {
		err := step.work()
		if step.hint == "" {
			if err != nil {
				t.Errorf("%s: %v", step.name, err)
			}
			continue
		}
		wantClass(t, err, fault.Permission)
		if !strings.Contains(fault.HintOf(err), step.hint) {
			t.Errorf("%s: %v; hint %q", step.name, err, fault.HintOf(err))
		}
		b.exec(step.then)
	}
}
