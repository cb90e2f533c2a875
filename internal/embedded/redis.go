package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// RedisOptions say how to start a Redis server. The zero value takes an installed redis-server, else one inside this process.
type RedisOptions struct {
	Dir       string // as in Options
	InProcess bool   // never use redis-server
	Installed bool   // never fall back to a server inside this process
	TCP       bool   // listen on a free port of 127.0.0.1 as well, the same after a restart
	Sentinel  bool   // start a sentinel; needs TCP
	Settings  string // further lines of its configuration file
	Log       *slog.Logger
}

// Redis is a private Redis server without persistence. Its methods may be called from several goroutines.
type Redis struct {
	program  string
	options  RedisOptions
	port     int // 0: only the socket
	dir      string
	account  *account
	log      *slog.Logger
	watchdog *watchdog

	mu   sync.Mutex
	proc *process
	mini *miniredis.Miniredis // instead of all above
	gone bool
}

// StartRedis starts redis-server on a socket in a directory of its own, ended like StartPostgres's server; where it is not installed, a
// server inside this process on a free port of 127.0.0.1.
func StartRedis(ctx context.Context, o RedisOptions) (*Redis, error) {
	r := &Redis{log: o.Log, options: o}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	program, err := exec.LookPath("redis-server")
	switch {
	case err != nil && o.Installed:
		return nil, fmt.Errorf("find an installed Redis: %w", err)
	case err != nil || o.InProcess:
		if r.mini, err = miniredis.Run(); err != nil {
			return nil, fmt.Errorf("start a Redis inside this process: %w", err)
		}
		return r, nil
	}
	r.program = program
	if r.account, err = serverAccount(); err != nil {
		return nil, err
	}
	if r.dir, err = makeDir(o.Dir, kindRedis, r.account); err != nil {
		return nil, err
	}
	if err := r.configure(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(r.dir))
	}
	if r.watchdog, err = watch(ctx, r.dir, r.pidFile(), "TERM", "redis-server"); err != nil {
		return nil, errors.Join(err, os.RemoveAll(r.dir))
	}
	if err := r.Start(ctx); err != nil {
		return nil, errors.Join(err, r.Stop(ctx))
	}
	return r, nil
}

// configure writes the configuration file, which a sentinel and a node of a cluster write to as well.
func (r *Redis) configure(ctx context.Context) error {
	if r.options.TCP {
		port, err := freePort(ctx)
		if err != nil {
			return err
		}
		r.port = port
	}
	lines := fmt.Sprintf("port %d\nbind 127.0.0.1\nunixsocket %q\nunixsocketperm 700\npidfile %q\ndir %q\ndaemonize no\n", r.port, r.socket(), r.pidFile(), r.dir)
	if !r.options.Sentinel {
		lines += "save \"\"\nappendonly no\n"
	}
	if err := os.WriteFile(r.configFile(), []byte(lines+r.options.Settings+"\n"), 0o600); err != nil {
		return fmt.Errorf("configure Redis: %w", err)
	}
	return r.account.own(r.configFile())
}

// Start starts the server again after Kill, empty, and waits until it answers. A running server is left alone.
func (r *Redis) Start(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.gone:
		return errors.New("start Redis: it was stopped for good")
	case r.mini != nil:
		if err := r.mini.Restart(); err != nil {
			return fmt.Errorf("start Redis again: %w", err)
		}
		return nil
	case r.proc != nil && !r.proc.ended():
		return nil
	}
	args := []string{r.configFile()}
	if r.options.Sentinel {
		args = append(args, "--sentinel")
	}
	c := r.account.command(context.WithoutCancel(ctx), r.dir, r.program, args...)
	proc, err := launch(c, filepath.Join(r.dir, logName), r.account)
	if err != nil {
		return err
	}
	r.proc = proc
	if err := r.ready(ctx); err != nil {
		return errors.Join(err, r.proc.stop(ctx, syscall.SIGTERM))
	}
	r.log.LogAttrs(ctx, slog.LevelDebug, "private Redis started", slog.Int("pid", proc.cmd.Process.Pid), slog.String("dir", r.dir))
	return nil
}

// ready waits until the server answers PING, for at most 30 seconds.
func (r *Redis) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopGrace)
	defer cancel()
	err := poll(ctx, 5*time.Millisecond, func() bool { return r.proc.ended() || ping(ctx, r.socket()) })
	switch {
	case r.proc.ended():
		return fmt.Errorf("start Redis: it ended at once: %s", logTail(r.dir))
	case err != nil:
		return fmt.Errorf("wait for Redis: %w: %s", err, logTail(r.dir))
	}
	return nil
}

// ping says whether a Redis on the socket answers PING with PONG and has written its pid file.
func ping(ctx context.Context, socket string) bool {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return false
		}
	}
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return false
	}
	answer := make([]byte, 64)
	n, err := conn.Read(answer)
	return err == nil && strings.HasPrefix(string(answer[:n]), "+PONG")
}

// Kill ends the server at once; Start brings it back empty.
func (r *Redis) Kill(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.gone:
		return nil
	case r.mini != nil:
		r.mini.Close()
		return nil
	}
	return r.proc.stop(ctx, syscall.SIGKILL)
}

// Stop ends the server for good and removes its directory. It may be called twice, and works when ctx has ended.
func (r *Redis) Stop(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone {
		return nil
	}
	r.gone = true
	if r.mini != nil {
		r.mini.Close()
		return nil
	}
	var err error
	if r.proc != nil {
		err = r.proc.stop(ctx, syscall.SIGTERM)
	}
	return errors.Join(err, r.watchdog.end(r.dir))
}

// Detach lets the server outlive this process. StopDetached ends it by its directory. A server inside this process cannot be detached.
func (r *Redis) Detach() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.mini != nil:
		return errors.New("detach Redis: it runs inside this process")
	case r.gone:
		return nil
	}
	r.gone = true
	return r.watchdog.dismiss()
}

// URL returns the server's address: unix://… or redis://….
func (r *Redis) URL() string {
	if r.mini != nil {
		return "redis://" + r.mini.Addr()
	}
	if r.port > 0 {
		return "redis://" + r.Addr()
	}
	return "unix://" + r.socket()
}

// Addr is the server's host and port; "" where it only listens on a socket.
func (r *Redis) Addr() string {
	if r.port == 0 {
		return ""
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port))
}

// InProcess says whether the server runs inside this process.
func (r *Redis) InProcess() bool { return r.mini != nil }

// Dir is the server's directory, which names it to StopDetached; empty for a server inside this process.
func (r *Redis) Dir() string { return r.dir }

// PID is the server's process id, or 0 when it does not run or runs inside this process.
func (r *Redis) PID() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.proc == nil || r.proc.ended() {
		return 0
	}
	return r.proc.cmd.Process.Pid
}

func (r *Redis) socket() string     { return filepath.Join(r.dir, "redis.sock") }
func (r *Redis) configFile() string { return filepath.Join(r.dir, "redis.conf") }
func (r *Redis) pidFile() string    { return filepath.Join(r.dir, "redis.pid") }
