package embedded_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/embedded"
	"auditdb/internal/fault"
)

func start(t *testing.T, o embedded.Options) *embedded.Postgres {
	t.Helper()
	p, err := embedded.StartPostgres(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		gone(t, p.Dir())
	})
	return p
}

func gone(t *testing.T, dir string) {
	t.Helper()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there (%v)", dir, err)
	}
}

func query(t *testing.T, url, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	var s string
	if err := conn.QueryRow(t.Context(), sql).Scan(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

func exec1(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func TestSocketOnly(t *testing.T) {
	t.Parallel()
	p := start(t, embedded.Options{Settings: map[string]string{"cluster_name": `it's`}})
	for sql, want := range map[string]string{
		"SHOW listen_addresses": "",
		"SHOW cluster_name":     "it's",
		"SHOW server_encoding":  "UTF8",
		"SELECT current_user":   embedded.Superuser,
	} {
		if got := query(t, p.URL("postgres"), sql); got != want {
			t.Errorf("%s: got %q, want %q", sql, got, want)
		}
	}
	if p.TCPURL("postgres") != "" {
		t.Error("a TCP address without TCP")
	}
	info, err := os.Stat(p.Dir())
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode of the directory: %v, %v", info, err)
	}
}

func TestRestartKeepsData(t *testing.T) {
	t.Parallel()
	p := start(t, embedded.Options{})
	exec1(t, p.URL("postgres"), "CREATE TABLE t AS SELECT 7 AS n")
	first := p.PID()
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.PID() != 0 {
		t.Error("a process id after Kill")
	}
	if _, err := pgx.Connect(t.Context(), p.URL("postgres")); err == nil {
		t.Error("connected to a killed server")
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := query(t, p.URL("postgres"), "SELECT n::text FROM t"); got != "7" {
		t.Errorf("after Kill: %q", got)
	}
	if p.PID() == first {
		t.Error("the same process after Kill")
	}
	if err := p.Configure(map[string]string{"max_connections": "17"}); err != nil {
		t.Fatal(err)
	}
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := query(t, p.URL("postgres"), "SHOW max_connections"); got != "17" {
		t.Errorf("after Restart: %q", got)
	}
}

func TestStopAfterKillAndTwice(t *testing.T) {
	t.Parallel()
	p := start(t, embedded.Options{})
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 2 {
		if err := p.Stop(ended); err != nil {
			t.Fatal(err)
		}
	}
	gone(t, p.Dir())
	if err := p.Start(t.Context()); err == nil {
		t.Error("started after Stop")
	}
}

func TestStopWithSessionsAndCancelledContext(t *testing.T) {
	t.Parallel()
	p := start(t, embedded.Options{})
	conn, err := pgx.Connect(t.Context(), p.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Stop(ended); err != nil {
		t.Fatal(err)
	}
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	p := start(t, embedded.Options{TCP: true, Password: "s3cret/word"})
	for _, url := range []string{p.URL("postgres"), p.TCPURL("postgres")} {
		query(t, url, "SELECT current_user")
		wrong := strings.Replace(url, "s3cret", "other", 1)
		conn, err := pgx.Connect(t.Context(), wrong)
		if err == nil {
			_ = conn.Close(t.Context())
			t.Errorf("a wrong password was taken: %s", wrong)
		}
	}
}

func TestTCPAlwaysAsks(t *testing.T) {
	t.Parallel()
	p := start(t, embedded.Options{TCP: true})
	query(t, p.TCPURL("postgres"), "SELECT current_user")
	if c, err := pgx.Connect(t.Context(), fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", p.Port())); err == nil {
		_ = c.Close(t.Context())
		t.Error("connected by TCP without a password")
	}
}

func TestStartRefusals(t *testing.T) {
	t.Parallel()
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]embedded.Options{
		"not empty":   {Dir: full},
		"too long":    {Dir: filepath.Join("/tmp", strings.Repeat("x", 100))},
		"bad setting": {Settings: map[string]string{"no_such_setting": "1"}},
		"no programs": {BinDir: t.TempDir()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := embedded.StartPostgres(t.Context(), o)
			if err == nil {
				t.Fatal("started", p.Stop(t.Context()))
			}
			t.Log(err)
		})
	}
	t.Cleanup(func() {
		if _, err := os.Stat(filepath.Join(full, "mine")); err != nil {
			t.Error(err)
		}
	})
}

func TestCancelledStartLeavesNothing(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	dir := filepath.Join("/tmp", "auditdb-cancel-"+fmt.Sprint(os.Getpid()))
	p, err := embedded.StartPostgres(ctx, embedded.Options{Dir: dir})
	if err == nil { // a very fast machine
		if err := p.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
	gone(t, dir)
}

func TestFindPostgres(t *testing.T) {
	t.Parallel()
	dir, major, err := embedded.FindPostgres(t.Context(), embedded.MinPostgres)
	if err != nil {
		t.Fatal(err)
	}
	resolved, err := filepath.EvalSymlinks(dir)
	if err != nil || resolved != dir || major < embedded.MinPostgres {
		t.Errorf("got %s (really %s), %d, %v", dir, resolved, major, err)
	}
	_, _, err = embedded.FindPostgres(t.Context(), 99)
	if fault.ClassOf(err) != fault.Config || fault.HintOf(err) == "" {
		t.Errorf("version 99: %v", err)
	}
	links := t.TempDir()
	for _, name := range []string{"initdb", "postgres"} {
		if err := os.Symlink(filepath.Join(dir, name), filepath.Join(links, name)); err != nil {
			t.Fatal(err)
		}
	}
	if got, _, err := embedded.Inspect(t.Context(), links); err != nil || got != dir {
		t.Errorf("through links: %s, %v", got, err)
	}
}

func TestFindPostgresByEnvironment(t *testing.T) {
	dir, _, err := embedded.FindPostgres(t.Context(), embedded.MinPostgres)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(embedded.BinEnv, dir)
	if got, _, err := embedded.FindPostgres(t.Context(), embedded.MinPostgres); err != nil || got != dir {
		t.Errorf("got %s, %v", got, err)
	}
	t.Setenv(embedded.BinEnv, t.TempDir())
	if _, _, err := embedded.FindPostgres(t.Context(), embedded.MinPostgres); fault.ClassOf(err) != fault.Config {
		t.Errorf("an empty directory: %v", err)
	}
}

func startRedis(t *testing.T, o embedded.RedisOptions) *embedded.Redis {
	t.Helper()
	r, err := embedded.StartRedis(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if r.Dir() != "" {
			gone(t, r.Dir())
		}
	})
	return r
}

func TestRedis(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]embedded.RedisOptions{"installed": {Installed: true}, "in process": {InProcess: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startRedis(t, o)
			if r.InProcess() != o.InProcess {
				t.Errorf("in process: %v", r.InProcess())
			}
			if got := redis(t, r, "SET a b"); got != "+OK" {
				t.Errorf("SET: %q", got)
			}
			if err := r.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := r.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := redis(t, r, "PING"); got != "+PONG" {
				t.Errorf("after Kill: %q", got)
			}
		})
	}
}

// redis sends one inline command and returns the first line of the answer.
func redis(t *testing.T, r *embedded.Redis, command string) string {
	t.Helper()
	scheme, addr, _ := strings.Cut(r.URL(), "://")
	network := "tcp"
	if scheme == "unix" {
		network = "unix"
	}
	conn, err := (&net.Dialer{}).DialContext(t.Context(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	words := strings.Fields(command)
	var wire strings.Builder
	fmt.Fprintf(&wire, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&wire, "$%d\r\n%s\r\n", len(w), w)
	}
	if _, err := conn.Write([]byte(wire.String())); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// servers are what the helper process printed.
type servers struct {
	pgPID, redisPID int
	pgDir, redisDir string
	url             string
}

func runHelper(t *testing.T, mode string) (*exec.Cmd, *bufio.Writer, servers) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), self)
	c.Env = append(os.Environ(), helperEnv+"="+mode)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var s servers
	if _, err := fmt.Fscan(out, &s.pgPID, &s.pgDir, &s.redisPID, &s.redisDir, &s.url); err != nil {
		t.Fatal("read the helper's answer:", err, c.Wait())
	}
	return c, bufio.NewWriter(in), s
}

func running(pid int) bool { return syscall.Kill(pid, 0) == nil }

func (s servers) await(t *testing.T) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		_, err1 := os.Stat(s.pgDir)
		_, err2 := os.Stat(s.redisDir)
		if os.IsNotExist(err1) && os.IsNotExist(err2) {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("after 30 s: %s: %v, %s: %v, postgres runs: %v, redis runs: %v", s.pgDir, err1, s.redisDir, err2, running(s.pgPID), running(s.redisPID))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestServersEndWithTheirParent(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(c *exec.Cmd, in *bufio.Writer) error{
		"SIGKILL": func(c *exec.Cmd, _ *bufio.Writer) error { return c.Process.Kill() },
		"SIGINT to the process group": func(c *exec.Cmd, _ *bufio.Writer) error {
			return syscall.Kill(-c.Process.Pid, syscall.SIGINT)
		},
		"panic": func(_ *exec.Cmd, in *bufio.Writer) error {
			if _, err := in.WriteString("\n"); err != nil {
				return err
			}
			return in.Flush()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, in, s := runHelper(t, "wait")
			if !running(s.pgPID) || !running(s.redisPID) {
				t.Fatal("the servers do not run")
			}
			if err := end(c, in); err != nil {
				t.Fatal(err)
			}
			_ = c.Wait() // killed
			s.await(t)
			if conn, err := pgx.Connect(t.Context(), s.url); err == nil {
				_ = conn.Close(t.Context())
				t.Error("the server still answers")
			}
		})
	}
}

func TestDetach(t *testing.T) {
	t.Parallel()
	c, _, s := runHelper(t, "detach")
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := query(t, s.url, "SELECT current_user"); got != embedded.Superuser {
		t.Errorf("a detached server: %q", got)
	}
	for _, dir := range []string{s.pgDir, s.redisDir} {
		if err := embedded.StopDetached(t.Context(), dir); err != nil {
			t.Error(err)
		}
		gone(t, dir)
	}
	if _, err := pgx.Connect(t.Context(), s.url); err == nil {
		t.Error("the server still answers")
	}
	if err := embedded.StopDetached(t.Context(), t.TempDir()); fault.ClassOf(err) != fault.Usage {
		t.Errorf("a directory of somebody else: %v", err)
	}
}
