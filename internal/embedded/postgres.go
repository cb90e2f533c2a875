package embedded

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Superuser is the name of the one role that a new server has.
const Superuser = "postgres"

// Options say how to start a PostgreSQL server. The zero value finds an installed server and starts it in a new temporary directory.
type Options struct {
	BinDir   string            // directory of initdb and postgres; empty: FindPostgres
	Dir      string            // directory to make, or an empty one; removed by Stop; at most 80 bytes; empty: a new temporary one
	Settings map[string]string // lines of postgresql.conf
	Initdb   []string          // further arguments of initdb
	Env      []string          // further variables of the server's environment, "NAME=value"
	TCP      bool              // listen on a free port of 127.0.0.1 too, always with a password
	Password string            // of the superuser, then also asked for on the socket; empty: the socket trusts whoever can open it
	Log      *slog.Logger      // nil: silent
}

// Postgres is a private PostgreSQL server. Its methods may be called from several goroutines.
type Postgres struct {
	binDir   string
	major    int
	dir      string
	port     int
	tcp      bool
	password string // always asked for by TCP
	local    bool   // the socket asks for the password too
	env      []string
	account  *account
	log      *slog.Logger
	watchdog *watchdog

	mu   sync.Mutex // guards proc and the server's state
	proc *process
	gone bool // stopped or detached
}

// StartPostgres makes a cluster, starts its server and waits until it answers. As root the server runs as user postgres or nobody. It ends
// with this process, however that ends, and its directory goes with it, unless Detach was called.
func StartPostgres(ctx context.Context, o Options) (*Postgres, error) {
	p := &Postgres{port: 5432, tcp: o.TCP, password: o.Password, local: o.Password != "", env: o.Env, log: o.Log}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if o.BinDir == "" {
		p.binDir, p.major, err = FindPostgres(ctx, MinPostgres)
	} else {
		p.binDir, p.major, err = Inspect(ctx, o.BinDir)
	}
	if err != nil {
		return nil, err
	}
	if p.account, err = serverAccount(); err != nil {
		return nil, err
	}
	if p.account != nil && !reachable(p.binDir) {
		return nil, fmt.Errorf("start %s as user %s: the directory is not open to that user", p.binDir, p.account.name)
	}
	if p.password == "" {
		p.password = rand.Text()
	}
	if o.TCP {
		if p.port, err = freePort(ctx); err != nil {
			return nil, err
		}
	}
	if p.dir, err = makeDir(o.Dir, kindPostgres, p.account); err != nil {
		return nil, err
	}
	if p.watchdog, err = watch(ctx, p.dir, p.pidFile(), "QUIT", p.dir); err != nil {
		return nil, errors.Join(err, os.RemoveAll(p.dir))
	}
	if err := p.create(ctx, o.Settings, o.Initdb); err != nil {
		return nil, errors.Join(err, p.Stop(ctx))
	}
	if err := p.Start(ctx); err != nil {
		return nil, errors.Join(err, p.Stop(ctx))
	}
	return p, nil
}

// create runs initdb and writes the settings.
func (p *Postgres) create(ctx context.Context, settings map[string]string, more []string) error {
	secret := filepath.Join(p.dir, "password")
	if err := os.WriteFile(secret, []byte(p.password+"\n"), 0o600); err != nil {
		return fmt.Errorf("write the server's password: %w", err)
	}
	if err := p.account.own(secret); err != nil {
		return err
	}
	local := "trust"
	if p.local {
		local = "scram-sha-256"
	}
	args := []string{
		"--pgdata=" + p.DataDir(), "--username=" + Superuser, "--auth-local=" + local, "--auth-host=scram-sha-256", "--pwfile=" + secret,
		"--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions",
	}
	initdb := p.account.command(ctx, p.dir, filepath.Join(p.binDir, "initdb"), append(args, more...)...)
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("run initdb: %w: %s", err, strings.TrimSpace(string(out)))
	}
	if err := os.Remove(secret); err != nil {
		return fmt.Errorf("remove the server's password: %w", err)
	}
	base := map[string]string{
		"listen_addresses":           "",
		"port":                       strconv.Itoa(p.port),
		"unix_socket_directories":    p.dir,
		"unix_socket_permissions":    "0700",
		"dynamic_shared_memory_type": "mmap", // in the data directory, so that a killed server leaves nothing in /dev/shm
		"logging_collector":          "off",
		"log_destination":            "stderr",
	}
	if p.tcp {
		base["listen_addresses"] = "127.0.0.1"
	}
	maps.Copy(base, settings)
	return p.Configure(base)
}

// Configure adds lines to postgresql.conf, where the last one for a setting counts. They take effect when the server starts again.
func (p *Postgres) Configure(settings map[string]string) error {
	var conf strings.Builder
	conf.WriteString("\n")
	for _, k := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&conf, "%s = '%s'\n", k, strings.ReplaceAll(settings[k], "'", "''"))
	}
	file := filepath.Join(p.DataDir(), "postgresql.conf")
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("open the server's configuration: %w", err)
	}
	_, err = f.WriteString(conf.String())
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the server's configuration: %w", err)
	}
	return nil
}

// Start starts the server again after Shutdown or Kill and waits until it takes connections. A running server is left alone.
func (p *Postgres) Start(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return errors.New("start PostgreSQL: it was stopped for good")
	}
	if p.proc != nil && !p.proc.ended() {
		return nil
	}
	c := p.account.command(context.WithoutCancel(ctx), p.dir, filepath.Join(p.binDir, "postgres"), "-D", p.DataDir())
	c.Env = append(c.Env, p.env...)
	proc, err := launch(c, p.LogFile(), p.account)
	if err != nil {
		return err
	}
	p.proc = proc
	if err := p.ready(ctx); err != nil {
		return errors.Join(err, p.proc.stop(ctx, syscall.SIGQUIT))
	}
	p.log.LogAttrs(ctx, slog.LevelDebug, "private PostgreSQL started",
		slog.Int("pid", proc.cmd.Process.Pid), slog.Int("version", p.major), slog.String("dir", p.dir))
	return nil
}

// ready waits until the server takes connections, for at most a minute.
func (p *Postgres) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var last error
	err := poll(ctx, 20*time.Millisecond, func() bool {
		if p.proc.ended() {
			return true
		}
		var conn *pgconn.PgConn
		if conn, last = pgconn.Connect(ctx, p.URL(Superuser)); last == nil {
			last = conn.Close(ctx)
			return true
		}
		return false
	})
	switch {
	case p.proc.ended():
		return fmt.Errorf("start PostgreSQL: it ended at once: %s", logTail(p.dir))
	case err != nil:
		return fmt.Errorf("wait for PostgreSQL: %w: %s", errors.Join(err, last), logTail(p.dir))
	}
	return last
}

// Shutdown stops the server in the orderly way, ending sessions, and keeps its data for Start. When ctx ends first, the server is stopped
// without a checkpoint.
func (p *Postgres) Shutdown(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shutdown(ctx)
}

func (p *Postgres) shutdown(ctx context.Context) error {
	if p.proc == nil || p.gone {
		return nil
	}
	return p.proc.stop(ctx, syscall.SIGINT, syscall.SIGQUIT)
}

// Restart is Shutdown and Start.
func (p *Postgres) Restart(ctx context.Context) error {
	if err := p.Shutdown(ctx); err != nil {
		return err
	}
	return p.Start(ctx)
}

// Kill ends the server and all its backends with SIGKILL, as a power cut would, and keeps its data for Start.
func (p *Postgres) Kill(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc == nil || p.gone || p.proc.ended() {
		return nil
	}
	pid := p.proc.cmd.Process.Pid
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil { // so that it starts no more children
		return fmt.Errorf("hold process %d: %w", pid, err)
	}
	backends := children(ctx, pid)
	for _, c := range append([]int{pid}, backends...) {
		if err := syscall.Kill(c, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill process %d: %w", c, err)
		}
	}
	select {
	case <-p.proc.done:
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of process %d: %w", pid, ctx.Err())
	}
	ctx, cancel := context.WithTimeout(ctx, stopGrace)
	defer cancel()
	return poll(ctx, 5*time.Millisecond, func() bool { return !slices.ContainsFunc(backends, alive) })
}

// Stop ends the server for good and removes its directory. It may be called twice, and works when ctx has ended.
func (p *Postgres) Stop(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return nil
	}
	err := p.shutdown(ctx)
	p.gone = true
	removeSegment(p.pidFile())
	return errors.Join(err, p.watchdog.end(p.dir))
}

// Detach lets the server outlive this process. StopDetached ends it by its directory.
func (p *Postgres) Detach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return nil
	}
	p.gone = true
	return p.watchdog.dismiss()
}

// URL returns the address of a database through the server's socket.
func (p *Postgres) URL(database string) string {
	q := url.Values{"host": {p.dir}, "port": {strconv.Itoa(p.port)}, "sslmode": {"disable"}}
	u := url.URL{Scheme: "postgres", User: url.User(Superuser), Path: "/" + database, RawQuery: q.Encode()}
	if p.local {
		u.User = url.UserPassword(Superuser, p.password)
	}
	return u.String()
}

// TCPURL returns the address of a database by TCP, with the password; it is empty unless Options.TCP was set.
func (p *Postgres) TCPURL(database string) string {
	if !p.tcp {
		return ""
	}
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(Superuser, p.password), Path: "/" + database,
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)), RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Dir is the server's directory: it holds the socket, the data and the log, and names the server to StopDetached.
func (p *Postgres) Dir() string { return p.dir }

// DataDir is the cluster's data directory.
func (p *Postgres) DataDir() string { return filepath.Join(p.dir, "data") }

// LogFile is the server's log.
func (p *Postgres) LogFile() string { return filepath.Join(p.dir, logName) }

// BinDir is the directory of the server's programs.
func (p *Postgres) BinDir() string { return p.binDir }

// Major is the server's major version.
func (p *Postgres) Major() int { return p.major }

// Port is the port number, which is part of the socket's name.
func (p *Postgres) Port() int { return p.port }

// PID is the postmaster's process id, or 0 when the server does not run.
func (p *Postgres) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc == nil || p.proc.ended() {
		return 0
	}
	return p.proc.cmd.Process.Pid
}

func (p *Postgres) pidFile() string { return filepath.Join(p.DataDir(), "postmaster.pid") }

// freePort asks the system for a port of 127.0.0.1 that nobody listens on.
func freePort(ctx context.Context) (int, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, fmt.Errorf("find a free port: unexpected address %s", l.Addr())
	}
	return addr.Port, nil
}

// removeSegment removes the shared memory segment that a killed server named in its pid file. After an orderly stop there is neither.
func removeSegment(pidFile string) {
	raw, err := os.ReadFile(pidFile)
	if err != nil {
		return
	}
	const line = 6 // "key id", the seventh line of postmaster.pid
	lines := strings.Split(string(raw), "\n")
	if len(lines) <= line {
		return
	}
	if fields := strings.Fields(lines[line]); len(fields) == 2 {
		if id, err := strconv.Atoi(fields[1]); err == nil {
			dropSegment(id)
		}
	}
}
