package pgtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/embedded"
)

// PgBouncer starts a PgBouncer of the test's own before server, with a pool mode and more lines of settings, and returns what gives the address
// of a database through it. Like a server that is missing, a missing PgBouncer fails the test.
func PgBouncer(tb testing.TB, server *embedded.Postgres, mode string, settings ...string) (address func(database string) string) {
	tb.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer"
	}
	dir, err := os.MkdirTemp("/tmp", "auditdb-pgbouncer-") //nolint:usetesting // another user must reach it, and a socket's name is short
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	lines := append([]string{
		"[databases]",
		fmt.Sprintf("* = host=%s port=%d user=postgres", server.Dir(), server.Port()),
		"[pgbouncer]",
		"listen_port = 6432",
		"unix_socket_dir = " + dir,
		"auth_type = any",
		"logfile = " + filepath.Join(dir, "log"),
		"pool_mode = " + mode,
	}, settings...)
	config := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(config, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(tb.Context()), program, config)
	if os.Geteuid() == 0 { // it refuses to run as root
		if err := asPostgres(cmd, dir); err != nil {
			tb.Fatal(err)
		}
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	address = func(database string) string {
		return fmt.Sprintf("postgres://postgres@/%s?host=%s&port=6432&sslmode=disable", database, dir)
	}
	eventually(tb, "PgBouncer answers", func(ctx context.Context) bool {
		conn, err := pgx.Connect(ctx, address(embedded.Superuser))
		return err == nil && conn.Close(ctx) == nil
	})
	return address
}

// asPostgres has cmd run as user postgres, to whom dir is given.
func asPostgres(cmd *exec.Cmd, dir string) error {
	u, err := user.Lookup("postgres")
	if err != nil {
		return fmt.Errorf("find a user for PgBouncer: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return fmt.Errorf("user %s: %w", u.Username, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return fmt.Errorf("user %s: %w", u.Username, err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	return os.Chown(dir, int(uid), int(gid))
}

// eventually waits until something is true, for as long as a server may take to start.
func eventually(tb testing.TB, what string, is func(context.Context) bool) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !is(ctx) {
		select {
		case <-ctx.Done():
			tb.Fatalf("%s: not within %s", what, limit)
		case <-tick.C:
		}
	}
}
