package job_test

import (
	"context"
	"os"
	"testing"
	"time"

	"auditdb/internal/job"
	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func open(t *testing.T, address string) *postgres.DB {
	t.Helper()
	db, err := postgres.Open(t.Context(), postgres.Options{URL: address, Application: "job.test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

func TestRunIsRecorded(t *testing.T) {
	t.Parallel()
	db := open(t, pgtest.DB(t))
	table := int16(1)
	ctx, cancel := context.WithCancel(t.Context())
	run, err := job.Start(ctx, db, job.Info{Name: "partition.create", TableID: &table, Version: "v1"})
	if err != nil || !run.Recorded() {
		t.Fatal(err)
	}
	var name, version, host, osUser, dbUser string
	var pid, backend int
	var unfinished, beating bool
	if err := db.Pool().QueryRow(t.Context(), `SELECT job, version, host, os_user, db_user, pid, backend_pid, finished_at IS NULL AND exit_code IS NULL, heartbeat_at >= started_at - interval '1 s'
		FROM auditdb.job_run WHERE table_id = 1`).Scan(&name, &version, &host, &osUser, &dbUser, &pid, &backend, &unfinished, &beating); err != nil {
		t.Fatal(err)
	}
	if name != "partition.create" || version != "v1" || host == "" || osUser == "" || dbUser != "postgres" || pid != os.Getpid() || backend == 0 || !unfinished || !beating {
		t.Error(name, version, host, osUser, dbUser, pid, backend, unfinished, beating)
	}
	cancel() // as a signal does
	run.Finish(ctx, 143, map[string]any{"created": 3})
	run.Finish(t.Context(), 0, nil)
	var code, created int
	if err := db.Pool().QueryRow(t.Context(), `SELECT exit_code, (summary->>'created')::int FROM auditdb.job_run WHERE finished_at IS NOT NULL`).Scan(&code, &created); err != nil {
		t.Fatal(err)
	}
	if code != 143 || created != 3 {
		t.Errorf("exit code %d, created %d", code, created)
	}
}

func TestKilledRunIsSeen(t *testing.T) {
	t.Parallel()
	db := open(t, pgtest.DB(t))
	run, err := job.Start(t.Context(), db, job.Info{Name: "ingest", Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	defer run.Finish(t.Context(), 0, nil)
	if killed, err := job.Killed(t.Context(), db, 5); err != nil || len(killed) != 0 {
		t.Fatalf("a living run counts as killed: %v, %v", killed, err)
	}
	if _, err := db.Pool().Exec(t.Context(), `INSERT INTO auditdb.job_run (job, started_at, heartbeat_at, host, pid, version) VALUES ('ingest', now() - interval '1 h', now() - interval '5 min', 'h', 42, 'v0')`); err != nil {
		t.Fatal(err)
	}
	killed, err := job.Killed(t.Context(), db, 5)
	if err != nil || len(killed) != 1 || killed[0].PID != 42 || killed[0].Host != "h" || time.Since(killed[0].Heartbeat) < 4*time.Minute {
		t.Errorf("%+v, %v", killed, err)
	}
}

func TestHeartbeat(t *testing.T) {
	t.Parallel()
	db := open(t, pgtest.DB(t))
	ctx, cancel := context.WithCancel(t.Context())
	run, err := job.Start(ctx, db, job.Info{Name: "ingest", Version: "v1", Beat: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	cancel() // a run that is stopping still lives
	first := heartbeat(t, db)
	for heartbeat(t, db).Equal(first) && t.Context().Err() == nil {
		if _, err := db.Pool().Exec(t.Context(), `SELECT pg_sleep(0.01)`); err != nil {
			t.Fatal(err)
		}
	}
	run.Finish(t.Context(), 0, nil)
}

func heartbeat(t *testing.T, db *postgres.DB) (at time.Time) {
	t.Helper()
	if err := db.Pool().QueryRow(t.Context(), `SELECT heartbeat_at FROM auditdb.job_run`).Scan(&at); err != nil {
		t.Fatal(err)
	}
	return at
}

func TestWithoutSchemaOrRight(t *testing.T) {
	t.Parallel()
	plain := open(t, pgtest.Empty(t))
	run, err := job.Start(t.Context(), plain, job.Info{Name: "partition.create", Version: "v1"})
	if err != nil || run.Recorded() {
		t.Fatal(err)
	}
	run.Finish(t.Context(), 0, nil)

	limited, err := postgres.Open(t.Context(), postgres.Options{URL: pgtest.DB(t) + "&options=-c%20role%3Dauditdb_writer", Application: "job.test"})
	if err != nil {
		t.Fatal(err)
	}
	defer limited.Close()
	run, err = job.Start(t.Context(), limited, job.Info{Name: "partition.create", Version: "v1"})
	if err != nil || run.Recorded() {
		t.Fatalf("without a right: %v", err)
	}
	run.Finish(t.Context(), 0, nil)
}

func TestServerGoneIsAnError(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t)
	db := open(t, server.URL("postgres"))
	if err := server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := job.Start(t.Context(), db, job.Info{Name: "x", Version: "v1"}); err == nil {
		t.Error("no error")
	}
}
