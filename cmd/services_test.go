package cmd

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/pgtest"
	"auditdb/internal/redis"
	"auditdb/pkg/partitions"
)

// useRedis asks for Redis twice, as two steps of a command would, and prints whether it was there.
func useRedis(app *App, cmd *cobra.Command) error {
	for range 2 {
		client, err := app.Redis(cmd.Context())
		if err != nil {
			return err
		}
		if client != nil {
			_, err = app.Out.Write([]byte("there\n"))
		} else {
			_, err = app.Out.Write([]byte("without\n"))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func TestRedisIsOptional(t *testing.T) {
	t.Setenv("AUDITDB_REDIS_REQUIRED", "")
	t.Setenv("AUDITDB_REDIS_URL", "")
	t.Setenv("REDIS_URL", "")
	if code, out, stderr := run(t, useRedis); code != 0 || out != "without\nwithout\n" || stderr != "" {
		t.Errorf("not configured: exit %d, %s%s", code, out, stderr)
	}
	if code, out, stderr := run(t, useRedis, "--redis-url", pgtest.Redis(t)); code != 0 || out != "there\nthere\n" || stderr != "" {
		t.Errorf("running: exit %d, %s%s", code, out, stderr)
	}
	const gone = "redis://:Tr0ub4dor@127.0.0.1:1"
	t.Setenv("REDIS_URL", gone)
	code, out, stderr := run(t, useRedis)
	if code != 0 || out != "without\nwithout\n" || strings.Count(stderr, "auditdb: warning: going on without Redis") != 1 || strings.Contains(stderr, "Tr0ub4dor") {
		t.Errorf("gone: exit %d, %s%s", code, out, stderr)
	}
	t.Setenv("AUDITDB_REDIS_REQUIRED", "true")
	if code, _, stderr = run(t, useRedis); code != 3 || !strings.Contains(stderr, "redis is required") || strings.Contains(stderr, "Tr0ub4dor") {
		t.Errorf("gone but required: exit %d, %s", code, stderr)
	}
	t.Setenv("REDIS_URL", "http://:Tr0ub4dor@x")
	if code, _, stderr = run(t, useRedis); code != 2 || strings.Contains(stderr, "Tr0ub4dor") {
		t.Errorf("no Redis address: exit %d, %s", code, stderr)
	}
}

// A lock in Redis whose owner is dead holds nothing up for good: PostgreSQL's decides.
func TestDeadHolderInRedis(t *testing.T) {
	t.Parallel()
	address, url := pgtest.Redis(t), pgtest.DB(t)
	dead, err := redis.Open(t.Context(), address, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dead.Close() })
	try := func(app *App, cmd *cobra.Command) error {
		ctx := cmd.Context()
		db, err := app.Postgres(ctx, "partition.create")
		if err != nil {
			return err
		}
		table, err := partitions.Resolve(ctx, db, partitions.DefaultTable)
		if err != nil {
			return err
		}
		server, err := db.Info(ctx)
		if err != nil {
			return err
		}
		key := fmt.Sprintf("auditdb:lock:%d:%d:%s", server.SystemID, server.DatabaseOID, partitions.LockName(table))
		if err := dead.Set(ctx, key, "token pid 1 on gone", time.Hour).Err(); err != nil {
			return err
		}
		_, release, err := partitionLock(app, db)(ctx, table)
		if err != nil {
			return err
		}
		defer release()
		holders, err := db.Holders(ctx, partitions.LockName(table))
		if err == nil && len(holders) != 1 {
			t.Errorf("holders in PostgreSQL: %v", holders)
		}
		return err
	}
	code, _, stderr := run(t, try, "--redis-url", address, "--database-url", url, "--wait", "200ms")
	if code != 0 || strings.Count(stderr, "auditdb: warning: going on with PostgreSQL's lock") != 1 || !strings.Contains(stderr, "pid 1 on gone") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

func TestRunIsRecorded(t *testing.T) {
	t.Parallel()
	url := pgtest.DB(t)
	code, _, stderr := run(t, func(app *App, cmd *cobra.Command) error {
		db, err := app.Postgres(cmd.Context(), "try this")
		if err != nil {
			return err
		}
		if again, err := app.Postgres(cmd.Context(), "other"); err != nil || again != db {
			t.Errorf("opened twice: %v", err)
		}
		if _, err := app.StartJob(cmd.Context(), db, "try.this", nil); err != nil {
			return err
		}
		app.Summarize(map[string]int{"done": 3})
		var name string
		if err := db.Pool().QueryRow(cmd.Context(), "SELECT current_setting('application_name')").Scan(&name); err != nil || name != "auditdb/try.this" {
			t.Errorf("application_name %s, %v", name, err)
		}
		<-cmd.Context().Done() // a run that ends by --timeout is recorded too
		return context.Cause(cmd.Context())
	}, "--database-url", url, "--timeout", "2s")
	if code != 124 {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	code, _, stderr = run(t, func(app *App, cmd *cobra.Command) error {
		db, err := app.Postgres(cmd.Context(), "look")
		if err != nil {
			return err
		}
		var exit, done int
		err = db.Pool().QueryRow(cmd.Context(), "SELECT exit_code, (summary->>'done')::int FROM auditdb.job_run WHERE job = 'try.this'").Scan(&exit, &done)
		if exit != 124 || done != 3 {
			t.Errorf("recorded: exit %d, done %d", exit, done)
		}
		return err
	}, "--database-url", url)
	if code != 0 {
		t.Errorf("exit %d: %s", code, stderr)
	}
}
