package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"auditdb/internal/breaker"
	"auditdb/internal/embedded"
	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
)

// pair is a primary with a real streaming standby.
type pair struct {
	*testing.T
	primary, standby *embedded.Postgres
	caughtUp         func()
	db               *postgres.DB
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{T: t, primary: pgtest.Server(t)}
	p.standby, p.caughtUp = pgtest.Standby(t, p.primary)
	p.db = open(t, postgres.Options{URL: p.primary.URL("postgres")})
	run(t, p.db, "CREATE TABLE public.r (i int)")
	p.caughtUp()
	return p
}

func (p *pair) router(o postgres.RouterOptions, urls ...string) *postgres.Router {
	o.URLs, o.Now = urls, time.Now
	if o.Wait == 0 {
		o.Wait = 5 * time.Second // of a busy machine
	}
	r := postgres.NewRouter(p.db, o)
	p.Cleanup(r.Close)
	return r
}

// count reads the rows, and says where.
func count(t *testing.T, r *postgres.Router) (rows int, from string, err error) {
	t.Helper()
	err = r.Read(t.Context(), func(ctx context.Context, db *postgres.DB, name string) error {
		from = name
		return db.Pool().QueryRow(ctx, "SELECT count(*) FROM public.r").Scan(&rows)
	})
	return rows, from, err
}

// What was committed before a read is in it, and it is read from the replica.
func TestRouterReadsItsWrites(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	r := p.router(postgres.RouterOptions{}, p.standby.URL("postgres"))
	for i := range 50 {
		run(t, p.db, "INSERT INTO public.r VALUES (1)")
		if i%10 == 0 {
			run(t, p.db, "SELECT pg_switch_wal()")
		}
		rows, from, err := count(t, r)
		if err != nil || rows != i+1 || from == "" {
			t.Fatalf("%d: %d rows from %q, %v", i, rows, from, err)
		}
	}
	if s := r.States(t.Context())[0]; !s.Usable || s.LagBytes == nil || *s.LagBytes != 0 || s.Connection != "streaming" || s.Breaker != breaker.Closed {
		t.Errorf("%+v", s)
	}
}

// A replica that is paused, stopped or promoted is passed over, and used again when it is well.
func TestRouterPassesOver(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	ctx := t.Context()
	r := p.router(postgres.RouterOptions{Wait: 100 * time.Millisecond, Breaker: breaker.Settings{Reset: 50 * time.Millisecond}}, p.standby.URL("postgres"))
	there := open(t, postgres.Options{URL: p.standby.URL("postgres"), ReadOnly: true})
	run(t, there, "SELECT pg_wal_replay_pause()")
	run(t, p.db, "INSERT INTO public.r VALUES (1)")
	if rows, from, err := count(t, r); err != nil || rows != 1 || from != "" {
		t.Errorf("paused: %d rows from %q, %v", rows, from, err)
	}
	run(t, there, "SELECT pg_wal_replay_resume()")
	recovers := func(what string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			rows, from, err := count(t, r)
			if err != nil || rows != 1 {
				t.Fatalf("%s: %d rows from %q, %v", what, rows, from, err)
			}
			if from != "" {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: the replica is not used again", what)
			}
		}
	}
	recovers("resumed")
	if err := p.standby.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if rows, from, err := count(t, r); err != nil || rows != 1 || from != "" {
			t.Errorf("killed: %d rows from %q, %v", rows, from, err)
		}
	}
	if err := p.standby.Start(ctx); err != nil {
		t.Fatal(err)
	}
	recovers("started again")
	again := open(t, postgres.Options{URL: p.standby.URL("postgres"), ReadOnly: true})
	run(t, again, "SELECT pg_promote()")
	run(t, again, "INSERT INTO public.r VALUES (2), (3)") // history parts here
	if rows, from, err := count(t, r); err != nil || rows != 1 || from != "" {
		t.Errorf("promoted: %d rows from %q, %v", rows, from, err)
	}
	if s := r.States(ctx)[0]; s.Usable || !strings.Contains(s.Reason, "promoted") {
		t.Errorf("%+v", s)
	}
}

// proxy stands before a server, and can delay, cut off in the middle of an answer, reset, or swallow everything.
type proxy struct {
	listener net.Listener
	target   string
	mode     atomic.Int32
}

const (
	passes int32 = iota
	delays
	truncates
	resets
	swallows
)

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x := &proxy{listener: l, target: target}
	var wait sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wait.Wait() })
	wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wait.Go(func() { x.serve(t.Context(), c) })
		}
	})
	return x
}

func (x *proxy) serve(ctx context.Context, c net.Conn) {
	defer func() { _ = c.Close() }()
	var d net.Dialer
	s, err := d.DialContext(ctx, "unix", x.target)
	if err != nil {
		return
	}
	defer func() { _ = s.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.Close(); _ = s.Close() })
	defer stop()
	done := make(chan struct{})
	go func() { defer close(done); _, _ = io.Copy(s, c); _ = s.Close() }()
	buffer := make([]byte, 512)
	for {
		n, err := s.Read(buffer)
		if err != nil {
			break
		}
		switch x.mode.Load() {
		case delays:
			time.Sleep(30 * time.Millisecond)
		case truncates:
			n /= 2
			_, _ = c.Write(buffer[:n])
			_ = c.Close()
		case resets:
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
			_ = c.Close()
		case swallows:
			continue
		}
		if _, err := c.Write(buffer[:n]); err != nil {
			break
		}
	}
	_ = c.Close()
	<-done
}

// Behind a network that delays, cuts off, resets and swallows, reads are right, and the replica is used again afterwards.
func TestRouterBehindBadNetwork(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	x := newProxy(t, fmt.Sprintf("%s/.s.PGSQL.%d", p.standby.Dir(), p.standby.Port()))
	address := "postgres://postgres@" + x.listener.Addr().String() + "/postgres?sslmode=disable"
	r := p.router(postgres.RouterOptions{Breaker: breaker.Settings{Failures: 2, Timeout: time.Second, Reset: 50 * time.Millisecond}}, address)
	run(t, p.db, "INSERT INTO public.r SELECT generate_series(1, 1000)")
	for _, mode := range []int32{passes, delays, truncates, resets, swallows, passes} {
		x.mode.Store(mode)
		used := ""
		for range 6 {
			rows, from, err := count(t, r)
			if err != nil || rows != 1000 {
				t.Errorf("mode %d: %d rows from %q, %v", mode, rows, from, err)
			}
			used += from
		}
		if (mode == truncates || mode == resets || mode == swallows) && used != "" {
			t.Errorf("mode %d: a broken replica answered", mode)
		}
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, from, _ := count(t, r); from != "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the replica is not used again")
		}
	}
}

// While the primary is down a replica that is not too far behind serves; an error of the query itself is no reason to go elsewhere; a server
// of another cluster is never read.
func TestRouterWithoutPrimary(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	run(t, p.db, "INSERT INTO public.r VALUES (1)")
	p.caughtUp()
	r := p.router(postgres.RouterOptions{MaxLag: time.Hour}, p.standby.URL("postgres"))
	calls := 0
	err := r.Read(t.Context(), func(ctx context.Context, db *postgres.DB, _ string) error {
		calls++
		_, err := db.Pool().Exec(ctx, "SELECT nothing")
		return err
	})
	if postgres.SQLState(err) != "42703" || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
	other := pgtest.Server(t)
	stranger := p.router(postgres.RouterOptions{}, other.URL("postgres"))
	if _, from, err := count(t, stranger); err != nil || from != "" {
		t.Errorf("another cluster: from %q, %v", from, err)
	}
	strict := p.router(postgres.RouterOptions{MaxLag: time.Nanosecond}, p.standby.URL("postgres"))
	if err := p.primary.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rows, from, err := count(t, r); err != nil || rows != 1 || from == "" {
		t.Errorf("without primary: %d rows from %q, %v", rows, from, err)
	}
	if _, from, err := count(t, strict); err == nil || from != "" {
		t.Errorf("too far behind: from %q, %v", from, err)
	}
	if err := p.router(postgres.RouterOptions{}).Read(t.Context(), func(context.Context, *postgres.DB, string) error { return errors.New("asked") }); err == nil || err.Error() != "asked" {
		t.Errorf("without replicas: %v", err)
	}
}
