package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/embedded"
)

// Standby makes a hot standby of the test's own that follows primary by streaming replication, and returns it with a function that waits until
// it has what the primary has by then. The primary is restarted for that: its data are copied while it stands still, for which no more programs
// are needed than those of the server.
func Standby(tb testing.TB, primary *embedded.Postgres, change ...func(*embedded.Options)) (standby *embedded.Postgres, caughtUp func()) {
	tb.Helper()
	standby = Server(tb, change...)
	ctx, cancel := context.WithTimeout(tb.Context(), limit)
	defer cancel()
	if err := errors.Join(standby.Shutdown(ctx), primary.Shutdown(ctx)); err != nil {
		tb.Fatal(err)
	}
	if err := cloneData(primary.DataDir(), standby.DataDir()); err != nil {
		tb.Fatal(err)
	}
	err := standby.Configure(map[string]string{
		"unix_socket_directories": standby.Dir(), "port": fmt.Sprint(standby.Port()), "hot_standby": "on",
		"primary_conninfo": fmt.Sprintf("host=%s port=%d user=%s", primary.Dir(), primary.Port(), embedded.Superuser),
	})
	if err == nil {
		err = errors.Join(primary.Start(ctx), standby.Start(ctx))
	}
	if err != nil {
		tb.Fatal(err)
	}
	return standby, func() {
		tb.Helper()
		var at string
		scan(tb.Context(), tb, primary.URL(embedded.Superuser), "SELECT pg_current_wal_insert_lsn()::text", &at)
		eventually(tb, "the standby has caught up", func(ctx context.Context) bool {
			there := false
			scan(ctx, tb, standby.URL(embedded.Superuser), "SELECT coalesce(pg_last_wal_replay_lsn() >= '"+at+"', false)", &there)
			return there
		})
	}
}

// scan reads one value.
func scan(ctx context.Context, tb testing.TB, url, sql string, dest any) {
	tb.Helper()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := conn.QueryRow(ctx, sql).Scan(dest); err != nil {
		tb.Fatal(err)
	}
}

// cloneData replaces a cluster's data with those of another, which are marked as a standby's; everything belongs to whom the directory did.
func cloneData(from, to string) error {
	info, err := os.Stat(to)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(to)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(to, "standby.signal"), nil, 0o600); err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("the owner of a directory is not known")
	}
	return filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o600)
		if d.IsDir() {
			mode = 0o700
		}
		return errors.Join(os.Chmod(path, mode), os.Chown(path, int(owner.Uid), int(owner.Gid)))
	})
}
