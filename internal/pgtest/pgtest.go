// Package pgtest gives tests real servers: one private PostgreSQL for a test binary, a database of its own for each test. A server that
// cannot be started fails the tests; it never skips them.
package pgtest

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"auditdb/internal/embedded"
)

// BinEnv names the environment variable with the directory of the PostgreSQL programs to test with.
const BinEnv = "AUDITDB_TEST_PG_BIN"

// templateName is the database that DB clones.
const templateName = "auditdb_template"

// limit bounds each thing that is done to a server before or after a test.
const limit = 2 * time.Minute

// shared is the test binary's server, which tests cannot be given in another way.
var shared binary

type binary struct {
	mu       sync.Mutex
	pg       *embedded.Postgres
	err      error
	template func() error
	count    atomic.Int64
}

// Main runs the tests of a package that needs PostgreSQL: func TestMain(m *testing.M) { pgtest.Main(m) }. It stops the server at the end,
// and fails when all tests passed but goroutines were left running.
func Main(m *testing.M) {
	os.Exit(Run(m))
}

// Run is Main for a TestMain that has more to do: it returns the exit code.
func Run(m interface{ Run() int }) int {
	code := m.Run()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := shared.stop(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "stop the test server:", err)
		return 1
	}
	if code != 0 {
		return code
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, "goroutines outlived the tests:", err)
		return 1
	}
	return 0
}

// DB returns the address of a new database with auditdb's schema, cloned from a template that the migrations made. It is dropped when the
// test ends, even with sessions in it.
func DB(tb testing.TB) string {
	tb.Helper()
	pg := shared.server(tb)
	if err := shared.template(); err != nil {
		tb.Fatal("make the template database:", err)
	}
	return create(tb, pg, templateName)
}

// Empty returns the address of a new database with nothing in it, dropped when the test ends.
func Empty(tb testing.TB) string {
	tb.Helper()
	return create(tb, shared.server(tb), "template0")
}

// Server starts a server of the test's own, to be killed, restarted or set up as the test likes. It is stopped when the test ends.
func Server(tb testing.TB, change ...func(*embedded.Options)) *embedded.Postgres {
	tb.Helper()
	o := options()
	for _, f := range change {
		f(&o)
	}
	ctx, cancel := context.WithTimeout(tb.Context(), limit)
	defer cancel()
	pg, err := embedded.StartPostgres(ctx, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), limit)
		defer cancel()
		if err := pg.Stop(ctx); err != nil {
			tb.Error(err)
		}
	})
	return pg
}

// Shared returns the test binary's server, for its programs (BinDir) and version. Tests must not stop it.
func Shared(tb testing.TB) *embedded.Postgres {
	tb.Helper()
	return shared.server(tb)
}

// Migrate applies auditdb's migrations to a database, as DB's template has them.
func Migrate(tb testing.TB, url string) {
	tb.Helper()
	if err := migrate(tb.Context(), url); err != nil {
		tb.Fatal(err)
	}
}

// options are those of a server whose data need not survive a power cut.
func options() embedded.Options {
	return embedded.Options{
		BinDir: os.Getenv(BinEnv),
		Settings: map[string]string{
			"fsync":                     "off",
			"full_page_writes":          "off",
			"synchronous_commit":        "off",
			"shared_buffers":            "32MB",
			"max_wal_size":              "1GB",
			"wal_level":                 "logical",
			"max_connections":           "200",
			"max_prepared_transactions": "20",
			"max_locks_per_transaction": "512",
			"autovacuum_naptime":        "1d",
			"log_statement":             "none",
		},
	}
}

// server starts the shared server on first use.
func (b *binary) server(tb testing.TB) *embedded.Postgres {
	tb.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pg == nil && b.err == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), limit)
		defer cancel()
		b.pg, b.err = embedded.StartPostgres(ctx, options())
		b.template = sync.OnceValue(b.makeTemplate)
	}
	if b.err != nil {
		tb.Fatal("start the test server:", b.err)
	}
	return b.pg
}

func (b *binary) stop(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pg == nil {
		return nil
	}
	return b.pg.Stop(ctx)
}

// makeTemplate is not bound to the first test that asks, whose context may end.
func (b *binary) makeTemplate() error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := admin(ctx, b.pg, "CREATE DATABASE "+templateName+" TEMPLATE template0"); err != nil {
		return err
	}
	if err := migrate(ctx, b.pg.URL(templateName)); err != nil {
		return err
	}
	return admin(ctx, b.pg, "ALTER DATABASE "+templateName+" ALLOW_CONNECTIONS false")
}

// create makes a database from a template.
func create(tb testing.TB, pg *embedded.Postgres, template string) string {
	tb.Helper()
	name := "test_" + strconv.FormatInt(shared.count.Add(1), 10)
	ctx, cancel := context.WithTimeout(tb.Context(), limit)
	defer cancel()
	if err := admin(ctx, pg, "CREATE DATABASE "+name+" TEMPLATE "+template); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), limit)
		defer cancel()
		if err := admin(ctx, pg, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
			tb.Error(err)
		}
	})
	return pg.URL(name)
}

// admin runs one statement outside the tests' databases.
func admin(ctx context.Context, pg *embedded.Postgres, sql string) error {
	conn, err := pgx.Connect(ctx, pg.URL(embedded.Superuser))
	if err != nil {
		return fmt.Errorf("connect to the test server: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}
