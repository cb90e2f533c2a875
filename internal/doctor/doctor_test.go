package doctor_test

import (
	"testing"
	"time"

	"auditdb/internal/doctor"
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
