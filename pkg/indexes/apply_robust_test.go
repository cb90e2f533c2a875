package indexes

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
	"auditdb/pkg/plan"
)

// Partitions that appear, go and are detached while the others get their index are no trouble.
func TestApplyWhilePartitionsChange(t *testing.T) {
	t.Parallel()
	b := parted(t)
	r := create(onParted(column("who"), column("id")))
	a := b.applier()
	steps := 0
	meanwhile := func(plan.Result) {
		switch steps++; steps {
		case 1: // it comes with an index of its own, which PostgreSQL makes
			b.exec(`CREATE TABLE "A b".late (LIKE `+partedTable+`)`, `INSERT INTO "A b".late SELECT n, '2027-02-02', 'x' FROM generate_series(1, 100) n`,
				`ALTER TABLE `+partedTable+` ATTACH PARTITION "A b".late FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')`)
		case 2:
			b.exec(`ALTER TABLE ` + partedTable + ` DETACH PARTITION "A b".y25`)
		case 4:
			b.exec(`DROP TABLE "A b".y26b`, `CREATE TABLE "A b".y26c PARTITION OF "A b"."y26 ""q""" FOR VALUES IN ('c')`)
		}
	}
	err := a.Locked(t.Context(), r, func(ctx context.Context) error {
		d, err := a.Draft(ctx, r)
		if err != nil {
			return err
		}
		return a.Apply(ctx, d, meanwhile)
	})
	if err != nil {
		t.Fatal(err)
	}
	b.complete(partedTable, r.Definition, 3)
	if again := b.applied(r); len(again) != 0 {
		t.Errorf("%q", again)
	}
}

// Two runs at once end with one index, and so does a run after a stranger's CREATE INDEX CONCURRENTLY that is still going on.
func TestApplyTwice(t *testing.T) {
	t.Parallel()
	b := parted(t)
	r := create(onParted(column("id")))
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			if _, err := b.apply(b.applier(), r); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	b.complete(partedTable, r.Definition, 3)
	if n := len(b.load(partedTable)); n != 5 {
		t.Errorf("%d indexes", n)
	}
}

func TestApplyBesideABuild(t *testing.T) {
	t.Parallel()
	b := parted(t)
	// An old snapshot keeps the stranger's build from ending.
	old, stranger := b.conn(), b.conn()
	if _, err := old.Exec(t.Context(), `BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1`); err != nil {
		t.Fatal(err)
	}
	built := make(chan error, 1)
	go func() {
		_, err := stranger.Exec(t.Context(), `CREATE INDEX CONCURRENTLY strange ON "A b".y25 (id)`)
		built <- err
	}()
	for value[int](b, `SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for old%' AND datname = current_database()`) == 0 {
		time.Sleep(10 * time.Millisecond) // until it waits
	}
	r := create(onParted(column("id")))
	impatient := NewApplier(Options{DB: b.db, Wait: 300 * time.Millisecond})
	if _, err := b.apply(impatient, r); fault.ClassOf(err) != fault.Locked || !strings.Contains(err.Error(), "an index is being built by pid") {
		t.Errorf("%v", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := b.apply(NewApplier(Options{DB: b.db, Wait: time.Minute}), r)
		done <- err
	}()
	if _, err := old.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-built; err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	b.complete(partedTable, r.Definition, 3)
	if !strings.Contains(b.load(partedTable)[1].DDL()+b.load(partedTable)[2].DDL()+b.load(partedTable)[3].DDL()+b.load(partedTable)[4].DDL(), `"strange"`) {
		t.Error("what was built was not taken")
	}
}

// A build that waits for an old transaction is ended by the watchdog, with its name; nothing invalid stays, and a cancel is no different.
func TestApplyBlocked(t *testing.T) {
	t.Parallel()
	b := parted(t)
	old := b.conn()
	if _, err := old.Exec(t.Context(), `SET application_name = 'old one'; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1`); err != nil {
		t.Fatal(err)
	}
	r := create(onParted(column("id")))
	steps, err := b.apply(NewApplier(Options{DB: b.db, Wait: 700 * time.Millisecond}), r)
	if postgres.Class(err) != fault.Locked || !strings.Contains(err.Error(), "old one") {
		t.Errorf("%v after %q", err, steps)
	}
	leaves := func() (n int) {
		for _, i := range b.load(partedTable) {
			if !i.Partitioned {
				n++
			}
		}
		return n
	}
	if n := leaves(); n != 0 {
		t.Errorf("%d indexes of partitions are left", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	a := NewApplier(Options{DB: b.db, Wait: time.Minute, Told: func(b Building) {
		if b.Waiting != "" {
			cancel()
		}
	}})
	err = a.Locked(ctx, r, func(ctx context.Context) error {
		d, err := a.Draft(ctx, r)
		if err != nil {
			return err
		}
		return a.Apply(ctx, d, nil)
	})
	if err == nil || ctx.Err() == nil {
		t.Error(err)
	}
	if n := leaves(); n != 0 {
		t.Errorf("%d indexes of partitions are left after a cancel", n)
	}
	if _, err := old.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	b.applied(r)
	b.complete(partedTable, r.Definition, 3)
}

// Who may not change the table is told what is missing, before anything is done.
func TestApplyRights(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t)
	b := &base{T: t, url: server.URL("postgres")}
	b.db = b.open(b.url)
	b.exec(`CREATE ROLE owner`, `CREATE ROLE heir LOGIN NOINHERIT IN ROLE owner`, `CREATE ROLE nobody LOGIN`, `CREATE ROLE homeless LOGIN IN ROLE owner`, `CREATE SCHEMA s`, `GRANT USAGE ON SCHEMA s TO PUBLIC`,
		`CREATE TABLE s.t (id int, at date) PARTITION BY RANGE (at)`, `CREATE TABLE s.t1 PARTITION OF s.t FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')`,
		`ALTER TABLE s.t OWNER TO owner`, `ALTER TABLE s.t1 OWNER TO owner`, `GRANT SELECT ON s.t TO PUBLIC`)
	r := create(Definition{Schema: "s", Table: "t", Method: BTree, Keys: []Key{column("id")}})
	as := func(role string) *Applier {
		db := b.open(strings.Replace(b.url, "postgres://postgres@", "postgres://"+role+"@", 1))
		return NewApplier(Options{DB: db, Wait: time.Second})
	}
	_, err := b.apply(as("nobody"), r)
	if postgres.Class(err) != fault.Permission || !strings.Contains(fault.HintOf(err), `GRANT "owner"`) {
		t.Errorf("%v (%s)", err, fault.HintOf(err))
	}
	_, err = b.apply(as("homeless"), r)
	if postgres.Class(err) != fault.Permission || !strings.Contains(fault.HintOf(err), `GRANT CREATE ON SCHEMA "s"`) {
		t.Errorf("%v (%s)", err, fault.HintOf(err))
	}
	b.exec(`GRANT CREATE ON SCHEMA s TO owner`)
	if _, err = b.apply(as("heir"), r); err != nil {
		t.Errorf("%v (%s)", err, fault.HintOf(err))
	}
	b.complete("s.t", r.Definition, 1)
}

// A transaction pooler cannot keep a lock; a session pooler can.
func TestApplyPooled(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"session", "transaction"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			b := fresh(t, `CREATE TABLE t (id int)`)
			b.db = b.open(pgtest.PgBouncer(t, pgtest.Shared(t), mode)(value[string](b, "SELECT current_database()::text")))
			_, err := b.apply(b.applier(), create(on(column("id"))))
			if mode == "session" && err != nil || mode == "transaction" && fault.ClassOf(err) != fault.Config {
				t.Error(err)
			}
		})
	}
}
