package postgres_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/embedded"
	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
)

// pgbouncer starts a PgBouncer before server and returns the address of database through it.
func pgbouncer(t *testing.T, server *embedded.Postgres, database, mode string, settings ...string) string {
	t.Helper()
	return pgtest.PgBouncer(t, server, mode, settings...)(database)
}

func databaseOf(t *testing.T, address string) string {
	t.Helper()
	config, err := pgx.ParseConfig(address)
	if err != nil {
		t.Fatal(err)
	}
	return config.Database
}

func TestTransactionPooling(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string][]string{
		"defaults":    nil,
		"one server":  {"default_pool_size = 1"},
		"round robin": {"server_round_robin = 1", "min_pool_size = 5"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			direct := pgtest.Empty(t)
			database := databaseOf(t, direct)
			pooled := pgbouncer(t, pgtest.Shared(t), database, "transaction", settings...)

			// Another application uses the same pooler with its own settings.
			neighbour, err := pgx.Connect(t.Context(), pooled+"&default_query_exec_mode=simple_protocol")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = neighbour.Close(t.Context()) }()

			db := open(t, postgres.Options{URL: pooled, Application: "ingest", LockTimeout: 123 * time.Millisecond})
			if db.Pooling() != postgres.PoolingTransaction {
				t.Fatalf("pooling: %s", db.Pooling())
			}
			_, err = db.Lock(t.Context(), "x", 0)
			wantClass(t, err, fault.Config)
			if !strings.Contains(err.Error(), "transaction-pooled") || postgres.Hint(err) == "" {
				t.Errorf("%v, hint %q", err, postgres.Hint(err))
			}
			err = db.Tx(t.Context(), func(tx pgx.Tx) error {
				for name, want := range map[string]string{"search_path": "", "lock_timeout": "123ms", "TimeZone": "UTC", "statement_timeout": "0", "IntervalStyle": "postgres"} {
					if got := show(t, tx, name); got != want {
						t.Errorf("in a transaction: %s is %q, want %q", name, got, want)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for i := range 20 {
				wg.Go(func() {
					var n int
					if err := db.Pool().QueryRow(t.Context(), `SELECT $1::int + 1`, i).Scan(&n); err != nil || n != i+1 {
						t.Errorf("%d, %v", n, err)
					}
				})
			}
			wg.Wait()
			for range 10 {
				var path string
				if err := neighbour.QueryRow(t.Context(), `SELECT current_setting('search_path')`).Scan(&path); err != nil || path != `"$user", public` {
					t.Errorf("the neighbour's search_path is %q, %v", path, err)
				}
			}
		})
	}
}

func TestSessionPooling(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string][]string{"defaults": nil, "two servers": {"default_pool_size = 2"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			direct := pgtest.Empty(t)
			pooled := pgbouncer(t, pgtest.Shared(t), databaseOf(t, direct), "session", settings...)
			db := open(t, postgres.Options{URL: pooled, MaxConns: 1})
			if db.Pooling() != postgres.PoolingSession {
				t.Fatalf("pooling: %s", db.Pooling())
			}
			if got := show(t, db.Pool(), "search_path"); got != "" {
				t.Errorf("search_path is %q", got)
			}
			lock, err := db.Lock(t.Context(), "x", 0)
			if err != nil {
				t.Fatal(err)
			}
			other := open(t, postgres.Options{URL: direct})
			_, err = other.Lock(t.Context(), "x", 0)
			wantClass(t, err, fault.Locked)
			lock.Release()
			again, err := other.Lock(t.Context(), "x", 0)
			if err != nil {
				t.Fatal(err)
			}
			again.Release()
		})
	}
}

func TestDirectConnectionIsNotPooled(t *testing.T) {
	t.Parallel()
	db := open(t, postgres.Options{URL: pgtest.Empty(t)})
	if db.Pooling() != postgres.PoolingNone {
		t.Errorf("pooling: %s", db.Pooling())
	}
}

func TestPoolSize(t *testing.T) {
	t.Parallel()
	address := pgtest.Empty(t)
	for url, want := range map[string]int32{address: 8, address + "&pool_max_conns=3": 3} {
		if got := open(t, postgres.Options{URL: url}).Pool().Config().MaxConns; got != want {
			t.Errorf("%d connections, want %d", got, want)
		}
	}
	if got := open(t, postgres.Options{URL: address + "&pool_max_conns=3", MaxConns: 2}).Pool().Config().MaxConns; got != 2 {
		t.Errorf("%d connections, want 2", got)
	}
}
