package pgtest_test

import (
	"context"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func TestDatabasesAreSeparate(t *testing.T) {
	t.Parallel()
	for i := range 8 {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			conn := connect(t, pgtest.Empty(t))
			if _, err := conn.Exec(t.Context(), "CREATE TABLE t (n int)"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestMigratedDatabase(t *testing.T) {
	t.Parallel()
	for i := range 8 {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			conn := connect(t, pgtest.DB(t))
			var n int
			if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM public.audit_log").Scan(&n); err != nil || n != 0 {
				t.Errorf("rows: %d, %v", n, err)
			}
			if _, err := conn.Exec(t.Context(), "DROP TABLE public.audit_log"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDatabaseIsDroppedWithItsSessions(t *testing.T) {
	t.Parallel()
	var name string
	t.Run("uses one", func(t *testing.T) { // not parallel: the rest looks at what it left
		conn, err := pgx.Connect(t.Context(), pgtest.Empty(t))
		if err != nil {
			t.Fatal(err)
		}
		name = conn.Config().Database
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
	})
	var there bool
	conn := connect(t, pgtest.Shared(t).URL("postgres"))
	if err := conn.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name).Scan(&there); err != nil || there {
		t.Errorf("database %s: there %v, %v", name, there, err)
	}
}

func TestOwnServer(t *testing.T) {
	t.Parallel()
	pg := pgtest.Server(t)
	if err := pg.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := pg.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	connect(t, pg.URL("postgres"))
	if pgtest.Redis(t) == "" {
		t.Error("no Redis")
	}
}
