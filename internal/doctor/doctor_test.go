package doctor_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"auditdb/internal/doctor"
	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func examine(t *testing.T, address string, o doctor.Options) map[string]doctor.Check {
	t.Helper()
	db, err := postgres.Open(t.Context(), postgres.Options{URL: address})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if o.Now == nil {
		o.Now = time.Now
	}
	report, err := doctor.Examine(t.Context(), db, o)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]doctor.Check{}
	for _, c := range report.Checks {
		found[c.Command+": "+c.Name] = c
	}
	return found
}

func TestClock(t *testing.T) {
	t.Parallel()
	address := pgtest.DB(t)
	for shift, want := range map[time.Duration]doctor.Status{0: doctor.OK, time.Minute: doctor.Problem, -time.Minute: doctor.Problem, 3 * time.Second: doctor.Warning} {
		checks := examine(t, address, doctor.Options{Now: func() time.Time { return time.Now().Add(shift) }})
		if got := checks["all: clock"].Status; got != want {
			t.Errorf("off by %s: %s, want %s", shift, got, want)
		}
	}
}

func TestSearchPathThatHidesTheTable(t *testing.T) {
	t.Parallel()
	address := pgtest.DB(t)
	db, err := postgres.Open(t.Context(), postgres.Options{URL: address})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, sql := range []string{
		`CREATE SCHEMA other`, `CREATE TABLE other.audit_log ()`,
		`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = other, public', current_database()); END $$`,
	} {
		if _, err := db.Pool().Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if c := examine(t, address, doctor.Options{})["all: search path"]; c.Status != doctor.Warning {
		t.Errorf("%+v", c)
	}
}

// A lock on a table is waited for, and whoever holds it is named when that is too long.
func TestWaitsForTableLocks(t *testing.T) {
	t.Parallel()
	db, err := postgres.Open(t.Context(), postgres.Options{URL: pgtest.DB(t), LockTimeout: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	holder, err := db.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Close(t.Context()) }()
	if _, err := holder.Exec(t.Context(), `CREATE TABLE public.leaf PARTITION OF public.audit_log FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')`); err != nil {
		t.Fatal(err)
	}
	if _, err := holder.Exec(t.Context(), `BEGIN; LOCK TABLE public.audit_log IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	o := doctor.Options{Now: time.Now, LockTimeout: 20 * time.Millisecond, Wait: 300 * time.Millisecond}
	_, err = doctor.Examine(t.Context(), db, o)
	if pid := fmt.Sprintf("pid %d", holder.PgConn().PID()); fault.ClassOf(err) != fault.Locked || !strings.Contains(err.Error(), pid) {
		t.Errorf("%v does not name %s", err, pid)
	}
	o.Wait = time.Minute
	done := make(chan error, 1)
	go func() {
		_, err := doctor.Examine(t.Context(), db, o)
		done <- err
	}()
	waiting := func() (n int) {
		if err := holder.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'public.leaf'::regclass`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for waiting() == 0 {
		select {
		case err := <-done:
			t.Fatalf("did not wait: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	if _, err := holder.Exec(t.Context(), `ROLLBACK`); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestPendingAndAhead(t *testing.T) {
	t.Parallel()
	address := pgtest.DB(t)
	if c := examine(t, address, doctor.Options{Pending: 2})["migrate up: schema"]; c.Status != doctor.Missing || *c.Hint != "auditdb migrate up" {
		t.Errorf("%+v", c)
	}
	if c := examine(t, address, doctor.Options{Ahead: true})["migrate up: schema"]; c.Status != doctor.Warning {
		t.Errorf("%+v", c)
	}
	if _, ok := examine(t, address, doctor.Options{Pending: 2, Commands: []string{"ingest"}})["migrate up: schema"]; ok {
		t.Error("a command that was not asked for")
	}
}
