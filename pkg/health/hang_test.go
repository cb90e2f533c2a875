package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"auditdb/internal/embedded"
	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
)

// processes lists a process and its children.
func processes(t *testing.T, pid int) []int {
	t.Helper()
	all := []int{pid}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended meanwhile
		}
		_, after, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(after)
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if len(fields) > 1 && err == nil && fields[1] == strconv.Itoa(pid) {
			all = append(all, child)
		}
	}
	return all
}

// stop holds processes until the returned function lets them go on. Those that have ended by themselves, as autovacuum's do, need not be held.
func stop(t *testing.T, pids ...int) (goOn func()) {
	t.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
	return func() {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGCONT) // a backend may have ended
		}
	}
}

// swallower stands between client and server until it passes nothing on any more, without a word.
type swallower struct {
	listener net.Listener
	server   string
	swallow  atomic.Bool
	after    int64 // bytes of the server that it passes on
	passed   atomic.Int64
	wait     sync.WaitGroup
	mu       sync.Mutex
	conns    []net.Conn
}

func newSwallower(t *testing.T, server string) *swallower {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &swallower{listener: l, server: server}
	s.wait.Go(s.accept)
	return s
}

func (s *swallower) accept() {
	for {
		client, err := s.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", s.server) //nolint:noctx // it is closed at the end
		if err != nil {
			_ = client.Close()
			continue
		}
		s.mu.Lock()
		s.conns = append(s.conns, client, server)
		s.mu.Unlock()
		s.wait.Go(func() { s.pass(server, client, false) })
		s.wait.Go(func() { s.pass(client, server, true) })
	}
}

func (s *swallower) pass(to, from net.Conn, answers bool) {
	buffer := make([]byte, 4096)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if answers && s.after > 0 && s.passed.Add(int64(n)) > s.after {
			s.swallow.Store(true)
		}
		if s.swallow.Load() {
			continue
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (s *swallower) close() {
	_ = s.listener.Close()
	s.mu.Lock()
	for _, c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.wait.Wait()
}

// noneLeft waits until no goroutine of the driver is left, while the server still hangs.
func noneLeft(t *testing.T) {
	t.Helper()
	stacks := make([]byte, 1<<20)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		all := string(stacks[:runtime.Stack(stacks, true)])
		if !strings.Contains(all, "jackc/pgx") && !strings.Contains(all, "jackc/puddle") {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("goroutines are left:\n%s", all)
			return
		}
	}
}

// A server that hangs is critical in time, in whatever way it hangs, and nothing is left behind.
func TestHang(t *testing.T) { //nolint:paralleltest // it counts goroutines
	pg := pgtest.Server(t, func(o *embedded.Options) { o.TCP = true })
	pgtest.Migrate(t, pg.URL("postgres"))
	const limit, slack = 2 * time.Second, 20 * time.Second // the server hangs far longer; a busy machine does not answer in time to the second
	base := Options{Open: opener(pg.URL("postgres")), Migrations: pending, Now: time.Now, Log: slog.New(slog.DiscardHandler), CheckTimeout: limit / 2}
	through := func(t *testing.T, after int64) Options {
		t.Helper()
		u, err := url.Parse(pg.TCPURL("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		s := newSwallower(t, u.Host)
		t.Cleanup(s.close)
		s.after = after
		s.swallow.Store(after == 0)
		u.Host = s.listener.Addr().String()
		o := base
		o.Open = opener(u.String())
		return o
	}
	for name, hang := range map[string]func(t *testing.T) Options{ //nolint:paralleltest // they count goroutines
		"the whole server is stopped": func(t *testing.T) Options {
			t.Helper()
			t.Cleanup(stop(t, processes(t, pg.PID())...))
			return base
		},
		"it stops between two questions": func(t *testing.T) Options {
			t.Helper()
			o := base
			o.Migrations = func(ctx context.Context, db *postgres.DB) (int, bool, error) {
				t.Cleanup(stop(t, processes(t, pg.PID())...))
				return pending(ctx, db)
			}
			return o
		},
		"a backend stops in the middle of a query": func(t *testing.T) Options {
			t.Helper()
			o := base
			o.Migrations = func(ctx context.Context, db *postgres.DB) (int, bool, error) {
				conn, err := db.Pool().Acquire(ctx)
				if err != nil {
					return 0, false, err
				}
				defer conn.Release()
				goOn := stop(t, int(conn.Conn().PgConn().PID()))
				t.Cleanup(goOn)
				_, err = conn.Exec(ctx, "SELECT 1")
				return 0, false, err
			}
			return o
		},
		"the network swallows everything":           func(t *testing.T) Options { t.Helper(); return through(t, 0) },
		"the network swallows the end of the login": func(t *testing.T) Options { t.Helper(); return through(t, 300) },
		"the network swallows what comes later":     func(t *testing.T) Options { t.Helper(); return through(t, 6000) },
	} {
		for _, over := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, with a limit for all: %v", name, over), func(t *testing.T) {
				o := hang(t)
				ctx, most := t.Context(), 2*o.CheckTimeout+checkMargin+slack
				if over {
					limited, cancel := context.WithTimeout(t.Context(), limit)
					defer cancel()
					ctx, most = limited, limit+slack
				}
				started := time.Now()
				r, err := Run(ctx, o)
				took := time.Since(started)
				if err != nil || r.Status != Critical || r.Checks[0].Name != Connection || r.Checks[0].Hint == "" || r.Reached() {
					t.Errorf("%+v, %v", r, err)
				}
				if took > most {
					t.Errorf("it took %s, and may take %s", took, most)
				}
				noneLeft(t)
			})
		}
	}
}
