package cmd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/pgtest"
)

// traffic is writers and readers of a table that go on whatever is done to it. No writer may see an error, and no reader fewer rows than
// were there when it began.
type traffic struct {
	t        *testing.T
	stop     context.CancelFunc
	done     sync.WaitGroup
	inserted atomic.Int64
}

// startTraffic begins it. insert adds one row, count reads how many there are.
func startTraffic(t *testing.T, url, insert, count string, before int64) *traffic {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	x := &traffic{t: t, stop: stop}
	x.inserted.Store(before)
	x.loop(ctx, url, func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, insert); err != nil {
			return err
		}
		x.inserted.Add(1)
		return nil
	})
	for _, level := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead} {
		x.loop(ctx, url, func(conn *pgx.Conn) error {
			least := x.inserted.Load()
			return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: level, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
				var n int64
				if err := tx.QueryRow(ctx, count).Scan(&n); err != nil {
					return err
				}
				if n < least {
					t.Errorf("%s: %d rows, of %d", level, n, least)
				}
				return nil
			})
		})
	}
	return x
}

func (x *traffic) loop(ctx context.Context, url string, fn func(*pgx.Conn) error) {
	x.t.Helper()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		x.t.Fatal(err)
	}
	x.done.Go(func() {
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		for ctx.Err() == nil {
			if err := fn(conn); err != nil && ctx.Err() == nil {
				x.t.Errorf("traffic: %v", err)
				return
			}
			timer := time.NewTimer(2 * time.Millisecond) // leaves the processors to others
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
		}
	})
}

// end stops the traffic and returns how many rows there have to be. A row whose answer was cut off may be there beside.
func (x *traffic) end() int64 {
	x.stop()
	x.done.Wait()
	return x.inserted.Load()
}

// auditdb starts the program on a database.
func auditdb(t *testing.T, url string, args ...string) (*exec.Cmd, *strings.Builder) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "auditdb", args...)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+url, "HOME="+t.TempDir())
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, &out
}

// finish runs the program to its end, which has to be a good one.
func finish(t *testing.T, url string, args ...string) {
	t.Helper()
	cmd, out := auditdb(t, url, args...)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("auditdb %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// killed runs the program and ends it with SIGKILL at a random moment within limit.
func killed(t *testing.T, url string, limit time.Duration, args ...string) {
	t.Helper()
	cmd, out := auditdb(t, url, args...)
	timer := time.NewTimer(rand.N(limit))
	<-timer.C
	_ = cmd.Process.Kill() // it may have come to its end
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != -1) {
		t.Fatalf("auditdb %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// convertKilled kills a convert at random moments, each time on a table of its own, with traffic, and runs it again.
func convertKilled(t *testing.T, times, rows int) {
	t.Helper()
	url := pgtest.Empty(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	var limit time.Duration
	for i := range times + 1 {
		table := fmt.Sprintf(`"T %d"`, i)
		exec := func(sql string) {
			if _, err := conn.Exec(t.Context(), strings.ReplaceAll(sql, "$T", table)); err != nil {
				t.Fatal(sql, err)
			}
		}
		exec(`CREATE TABLE $T (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL, who text)`)
		exec(fmt.Sprintf(`INSERT INTO $T (at, who) SELECT now() - g * interval '1 minute', g FROM generate_series(1, %d) g`, rows))
		exec(`CREATE INDEX ON $T (who)`)
		args := []string{"partition", "convert", table, "--key", "at", "--wait", "60s"}
		if i == 0 { // how long it takes
			started := time.Now()
			finish(t, url, args...)
			limit = time.Since(started)
			continue
		}
		x := startTraffic(t, url, strings.ReplaceAll("INSERT INTO $T (at) VALUES (now())", "$T", table), "SELECT count(*) FROM "+table, int64(rows))
		killed(t, url, limit, args...)
		finish(t, url, args...)
		want := x.end()
		var n, ids int64
		var left int
		if err := conn.QueryRow(t.Context(), fmt.Sprintf(`SELECT count(*), count(DISTINCT id), (SELECT count(*) FROM pg_class WHERE relname LIKE 'auditdb%%') + (SELECT count(*) FROM pg_constraint WHERE conname LIKE 'auditdb%%')
  + (SELECT count(*) FROM pg_index WHERE NOT indisvalid) + (SELECT greatest(0, 3 - count(*)) FROM pg_inherits WHERE inhparent = %s::regclass) FROM %s`, "'"+table+"'", table)).Scan(&n, &ids, &left); err != nil {
			t.Fatal(err)
		}
		if n < want || n > want+1 || ids != n || left != 0 {
			t.Errorf("%s: %d rows with %d ids instead of %d, %d leftovers", table, n, ids, want, left)
		}
	}
}

func TestConvertKilled(t *testing.T) {
	t.Parallel()
	convertKilled(t, 3, 5000)
}

// predecessor is an audit log as older applications have it.
const predecessor = `CREATE TABLE audit_log (id serial PRIMARY KEY, "timestamp" timestamptz NOT NULL, processing_latency int, action varchar(100) NOT NULL, status varchar(20) NOT NULL,
  principal_id varchar(255), organization_id varchar(255), target_resource_type varchar(100), target_resource_id varchar(255), outcome_description text, correlation_id varchar(64), data_classification varchar(20),
  retention_policy varchar(50), event_version varchar(10), hash varchar(64), hash_algorithm varchar(10), ttl varchar(50), archived_at timestamptz, details jsonb);
CREATE INDEX ON audit_log (principal_id, "timestamp");
INSERT INTO audit_log ("timestamp", action, status, principal_id, details, hash) SELECT now() - (g %% 90) * interval '1 day', 'a' || g %% 7, 'ok', 'p' || g %% 99, jsonb_build_object('n', g), md5(g::text) FROM generate_series(1, %d) g`

// adoptKilled kills an adoption by copy at random moments, each time in a database of its own, with traffic, and runs it again.
func adoptKilled(t *testing.T, times, kills, rows int, flags ...string) {
	t.Helper()
	var limit time.Duration
	args := append([]string{"partition", "adopt", "audit_log"}, flags...)
	for i := range times + 1 {
		url := pgtest.Empty(t)
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), fmt.Sprintf(predecessor, rows)); err != nil {
			t.Fatal(err)
		}
		x := startTraffic(t, url, `INSERT INTO audit_log ("timestamp", action, status) VALUES (now(), 'live', 'ok')`, "SELECT count(*) FROM audit_log", int64(rows))
		if i > 0 {
			for range kills {
				killed(t, url, limit, args...)
			}
		}
		started := time.Now()
		finish(t, url, args...)
		if i == 0 { // how long it takes
			limit = time.Since(started)
		}
		want := x.end()
		var n, ids, old, live int64
		var left int
		if err := conn.QueryRow(t.Context(), `SELECT count(*), count(DISTINCT id), count(*) FILTER (WHERE action = 'live'), (SELECT count(*) FROM (SELECT id, "timestamp", action::text, details, hash::text FROM audit_log_old EXCEPT SELECT id, "timestamp", action, details, hash FROM audit_log) x),
  (SELECT count(*) FROM pg_class WHERE relname LIKE 'auditdb\_%' AND relkind <> 'i') + (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'auditdb\_copy%') + (SELECT count(*) FROM pg_proc WHERE proname LIKE 'auditdb\_copy%') FROM audit_log`).Scan(&n, &ids, &live, &old, &left); err != nil {
			t.Fatal(err)
		}
		if n < want || n > want+1 || ids != n || old != 0 || left != 0 || live == 0 {
			t.Errorf("%d rows with %d ids instead of %d, %d rows differ, %d leftovers, %d came in meanwhile", n, ids, want, old, left, live)
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAdoptKilled(t *testing.T) {
	t.Parallel()
	adoptKilled(t, 2, 1, 10_000)
}
