package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/embedded"
	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func open(t *testing.T, o postgres.Options) *postgres.DB {
	t.Helper()
	db, err := postgres.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

func show(t *testing.T, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, name string,
) string {
	t.Helper()
	var v string
	if err := q.QueryRow(t.Context(), "SELECT current_setting($1, true)", name).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func run(t *testing.T, db *postgres.DB, sql ...string) {
	t.Helper()
	for _, s := range sql {
		if _, err := db.Pool().Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// as gives url's database for another role.
func as(t *testing.T, address, user, password string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(user)
	if password != "" {
		u.User = url.UserPassword(user, password)
	}
	return u.String()
}

func wantClass(t *testing.T, err error, class fault.Class) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one of class %s", class)
	}
	if got := postgres.Class(err); got != class {
		t.Fatalf("class of %q is %s, want %s", err, got, class)
	}
}

func TestSessionSettings(t *testing.T) {
	t.Parallel()
	address := pgtest.Empty(t)
	admin := open(t, postgres.Options{URL: address})
	run(t, admin, `CREATE ROLE odd_settings LOGIN`, `ALTER ROLE odd_settings SET statement_timeout = '5s'`, `ALTER ROLE odd_settings SET search_path = "My Schema", public`,
		`ALTER ROLE odd_settings SET "TimeZone" = 'America/St_Johns'`, `ALTER ROLE odd_settings SET "DateStyle" = 'German, DMY'`, `ALTER ROLE odd_settings SET "IntervalStyle" = 'iso_8601'`,
		`ALTER ROLE odd_settings SET synchronous_commit = off`, `ALTER ROLE odd_settings SET extra_float_digits = -15`, `ALTER ROLE odd_settings SET idle_session_timeout = '1s'`,
		`ALTER ROLE odd_settings SET client_encoding = 'LATIN1'`, `ALTER ROLE odd_settings SET default_transaction_isolation = 'serializable'`)
	t.Cleanup(func() { _, _ = admin.Pool().Exec(context.WithoutCancel(t.Context()), `DROP ROLE odd_settings`) })
	db := open(t, postgres.Options{URL: as(t, address, "odd_settings", ""), Application: "partition.create", LockTimeout: 100 * time.Millisecond, StatementTimeout: time.Hour})
	conn, err := db.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	want := map[string]string{
		"application_name": "auditdb/partition.create", "TimeZone": "UTC", "DateStyle": "ISO, MDY", "IntervalStyle": "postgres", "search_path": "",
		"statement_timeout": "1h", "lock_timeout": "100ms", "idle_in_transaction_session_timeout": "10min", "idle_session_timeout": "0", "client_encoding": "UTF8",
		"extra_float_digits": "1", "synchronous_commit": "on", "default_transaction_isolation": "read committed",
	}
	if pgtest.Shared(t).Major() >= 17 {
		want["transaction_timeout"] = "0"
	}
	for name, value := range want {
		if got := show(t, db.Pool(), name); got != value {
			t.Errorf("pool: %s is %q, want %q", name, got, value)
		}
		if got := show(t, conn, name); got != value {
			t.Errorf("dedicated connection: %s is %q, want %q", name, got, value)
		}
	}
	if got := db.UserSearchPath(); got != `"My Schema", public` {
		t.Errorf("user's search path is %q", got)
	}
	var path string
	handle := db.SQL("")
	defer func() { _ = handle.Close() }()
	if err := handle.QueryRowContext(t.Context(), "SHOW search_path").Scan(&path); err != nil || path != `""` && path != "" {
		t.Errorf("database/sql: search_path %q, %v", path, err)
	}
}

func TestRemoteApplyIsKept(t *testing.T) {
	t.Parallel()
	address := pgtest.Empty(t)
	admin := open(t, postgres.Options{URL: address})
	run(t, admin, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = remote_apply', current_database()); END $$`)
	if got := show(t, open(t, postgres.Options{URL: address}).Pool(), "synchronous_commit"); got != "remote_apply" {
		t.Errorf("synchronous_commit is %s", got)
	}
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, func(o *embedded.Options) { o.TCP, o.Password = true, "right-pw-1" })
	wrong := as(t, server.TCPURL("postgres"), "postgres", "wrong-secret-1")
	cases := map[string]struct {
		url   string
		class fault.Class
		says  string
	}{
		"wrong password":   {wrong, fault.Unavailable, "28P01"},
		"missing database": {server.URL("nowhere_db"), fault.Unavailable, "3D000"},
		"refused port":     {"postgres://u:wrong-secret-1@127.0.0.1:1/d", fault.Unavailable, "refused"},
		"no socket":        {"host=/nonexistent-dir user=u password=wrong-secret-1 dbname=d", fault.Unavailable, "no such file"},
		"no such host":     {"postgres://u:wrong-secret-1@host.invalid/d", fault.Unavailable, "host.invalid"},
		"broken URL":       {"postgres://u:wrong-secret-1/x@h:99999999/d", fault.Config, `"99999999" is no port`},
		"broken keyword":   {"host=h password='wrong-secret-1", fault.Config, "its password is not written"},
		"broken setting":   {"postgres://h/d?sslmode=maybe", fault.Config, "sslmode"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var logged bytes.Buffer
			log := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
			db, err := postgres.Open(t.Context(), postgres.Options{URL: c.url, Log: log})
			if err == nil {
				db.Close()
			}
			wantClass(t, err, c.class)
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q does not say %q", err, c.says)
			}
			if postgres.Hint(err) == "" {
				t.Errorf("%q has no hint", err)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q has several lines", err)
			}
			if all := err.Error() + logged.String() + postgres.Hint(err); strings.Contains(all, "wrong-secret-1") {
				t.Errorf("the password is shown: %s", all)
			}
		})
	}
}

func TestDebugLogHasNoArguments(t *testing.T) {
	t.Parallel()
	var logged bytes.Buffer
	log := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	db := open(t, postgres.Options{URL: pgtest.Empty(t), Log: log})
	var n int
	if err := db.Pool().QueryRow(t.Context(), "SELECT length($1::text)", "payload-7").Scan(&n); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Pool().Exec(t.Context(), "SELECT ($1::text)::int", "payload-7"); err == nil {
		t.Fatal("text became a number")
	}
	if text := logged.String(); !strings.Contains(text, "SELECT length($1::text)") || !strings.Contains(text, "22P02") || strings.Contains(text, "payload-7") {
		t.Errorf("log: %s", text)
	}
}

func TestWaitForDB(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t)
	if err := server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := postgres.Open(t.Context(), postgres.Options{URL: server.URL("postgres"), WaitForDB: 300 * time.Millisecond}); err == nil {
		t.Fatal("opened a stopped server")
	} else {
		wantClass(t, err, fault.Unavailable)
	}
	opened := make(chan error, 1)
	go func() {
		db, err := postgres.Open(t.Context(), postgres.Options{URL: server.URL("postgres"), WaitForDB: time.Minute})
		if err == nil {
			db.Close()
		}
		opened <- err
	}()
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	// A refusal is final.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := postgres.Open(ctx, postgres.Options{URL: server.URL("nowhere"), WaitForDB: time.Hour})
	wantClass(t, err, fault.Unavailable)
	if ctx.Err() != nil {
		t.Error("waited for a database that does not exist")
	}
}

func TestTx(t *testing.T) {
	t.Parallel()
	db := open(t, postgres.Options{URL: pgtest.Empty(t)})
	run(t, db, `CREATE TABLE public.t (i int PRIMARY KEY)`)
	count := func() (n int) {
		if err := db.Pool().QueryRow(t.Context(), `SELECT count(*) FROM public.t`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	insert := func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO public.t VALUES (1)`)
		return err
	}
	sentinel := errors.New("no")
	err := db.Tx(t.Context(), func(tx pgx.Tx) error { return errors.Join(insert(t.Context(), tx), sentinel) })
	if !errors.Is(err, sentinel) || count() != 0 {
		t.Fatalf("failed transaction: %v, %d rows", err, count())
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = db.Tx(ctx, func(tx pgx.Tx) error {
		if err := insert(ctx, tx); err != nil {
			return err
		}
		cancel()
		_, err := tx.Exec(ctx, `SELECT pg_sleep(60)`)
		return err
	})
	if err == nil || count() != 0 {
		t.Fatalf("cancelled transaction: %v, %d rows", err, count())
	}
	func() {
		defer func() { _ = recover() }()
		_ = db.Tx(t.Context(), func(tx pgx.Tx) error { _ = insert(t.Context(), tx); panic("oops") })
	}()
	if count() != 0 || db.Pool().Stat().AcquiredConns() != 0 {
		t.Fatalf("panic: %d rows, %d connections out", count(), db.Pool().Stat().AcquiredConns())
	}
	if err := db.Tx(t.Context(), func(tx pgx.Tx) error { return insert(t.Context(), tx) }); err != nil || count() != 1 {
		t.Fatalf("good transaction: %v, %d rows", err, count())
	}
	wantClass(t, db.Tx(t.Context(), func(tx pgx.Tx) error { return insert(t.Context(), tx) }), fault.Data)
}

// A cancelled statement ends on the server too.
func TestCancelReachesServer(t *testing.T) {
	t.Parallel()
	db := open(t, postgres.Options{URL: pgtest.Empty(t)})
	conn, err := db.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(ctx, `SELECT pg_sleep(600)`)
		done <- err
	}()
	sleeping := func() (n int) {
		if err := db.Pool().QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND pid = $1`, conn.PgConn().PID()).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	eventually(t, "the statement runs", func() bool { return sleeping() == 1 })
	cancel()
	if err := <-done; err == nil {
		t.Fatal("no error")
	}
	eventually(t, "the statement ends", func() bool { return sleeping() == 0 })
}

func TestInfo(t *testing.T) {
	t.Parallel()
	address := pgtest.Empty(t)
	db := open(t, postgres.Options{URL: address})
	info, err := db.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.VersionNum/10000 != pgtest.Shared(t).Major() || info.SystemID == 0 || info.Timeline != 1 || info.InRecovery || info.User != "postgres" || !info.Superuser || info.DatabaseOID == 0 {
		t.Errorf("%+v", info)
	}
	run(t, db, `CREATE ROLE info_reader LOGIN`)
	t.Cleanup(func() { _, _ = db.Pool().Exec(context.WithoutCancel(t.Context()), `DROP ROLE info_reader`) })
	little, err := open(t, postgres.Options{URL: as(t, address, "info_reader", "")}).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if little.Superuser || little.SystemID != info.SystemID || little.Timeline != 1 {
		t.Errorf("as an ordinary role: %+v", little)
	}
}

// standby turns a stopped server's next start into a hot standby.
func standby(t *testing.T, server *embedded.Postgres) {
	t.Helper()
	if err := server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(server.DataDir(), "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestStandbyAndDemotedPrimary(t *testing.T) {
	t.Parallel()
	first, second := pgtest.Server(t), pgtest.Server(t)
	standby(t, first)

	alone := open(t, postgres.Options{URL: first.URL("postgres")})
	if _, err := alone.Pool().Exec(t.Context(), `SELECT 1`); err != nil {
		t.Errorf("read from a standby: %v", err)
	}
	_, err := alone.Pool().Exec(t.Context(), `CREATE TABLE public.t ()`)
	wantClass(t, err, fault.Unavailable)
	if postgres.SQLState(err) != postgres.ReadOnlySQLTransaction || postgres.Hint(err) == "" {
		t.Errorf("write to a standby: %v, hint %q", err, postgres.Hint(err))
	}
	_, err = alone.Lock(t.Context(), "x", 0)
	wantClass(t, err, fault.Unavailable)
	if !strings.Contains(err.Error(), "standby") {
		t.Errorf("lock on a standby: %v", err)
	}

	both := "host=" + first.Dir() + "," + second.Dir() + " user=postgres dbname=postgres sslmode=disable"
	db := open(t, postgres.Options{URL: both})
	run(t, db, `CREATE TABLE public.t (i int)`) // found the primary behind the standby
	info, err := db.Info(t.Context())
	if err != nil || info.InRecovery {
		t.Fatalf("%+v, %v", info, err)
	}

	// The primary is demoted, the other promoted: connections move.
	standby(t, second)
	promote := open(t, postgres.Options{URL: first.URL("postgres")})
	if _, err := promote.Pool().Exec(t.Context(), `SELECT pg_promote()`); err != nil {
		t.Fatal(err)
	}
	write := func(ctx context.Context) error {
		return db.Tx(ctx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `CREATE TABLE public.moved ()`)
			return err
		})
	}
	if err := postgres.Retry(t.Context(), postgres.RetryPolicy{Within: 20 * time.Second}, write); err != nil {
		t.Fatal(err)
	}
	info, err = db.Info(t.Context())
	if err != nil || info.Timeline != 2 {
		t.Errorf("after the switch: %+v, %v", info, err)
	}
}

// A pool with connections to a server that turned read-only under it drops them.
func TestReadOnlyConnectionsAreDropped(t *testing.T) {
	t.Parallel()
	db := open(t, postgres.Options{URL: pgtest.Empty(t)})
	run(t, db, `SET default_transaction_read_only = on`)
	create := func() error {
		return db.Tx(t.Context(), func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), `CREATE TABLE public.t ()`)
			return err
		})
	}
	if err := create(); postgres.SQLState(err) != postgres.ReadOnlySQLTransaction {
		t.Fatalf("want 25006, got %v", err)
	}
	if err := create(); err != nil {
		t.Errorf("the connection was kept: %v", err)
	}
}

// eventually waits for a condition that another process brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}

// A server may get a request to cancel late: nobody else is given the connection that it was sent for.
func TestCancelledConnectionIsNotGivenOn(t *testing.T) {
	t.Parallel()
	db := open(t, postgres.Options{URL: pgtest.Empty(t), MaxConns: 1})
	pid := func() (n int) {
		t.Helper()
		if err := db.Pool().QueryRow(t.Context(), `SELECT pg_backend_pid()`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := pid()
	if again := pid(); again != before {
		t.Fatalf("backend %d after %d: one connection was to be kept", again, before)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := db.Pool().Exec(ctx, `SELECT pg_sleep(60)`); err == nil {
		t.Fatal("the statement was not cancelled")
	}
	if after := pid(); after == before {
		t.Errorf("backend %d is used on after its statement was cancelled", after)
	}
}
