package redis_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
	"auditdb/internal/redis"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func open(t *testing.T, address string) *redis.Client {
	t.Helper()
	c, err := redis.Open(t.Context(), address, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// watched opens a client and tells when it warns that a lock was lost.
func watched(t *testing.T, address string) (*redis.Client, <-chan struct{}) {
	t.Helper()
	lost := make(losses, 1)
	c, err := redis.Open(t.Context(), address, slog.New(slog.NewTextHandler(lost, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, lost
}

type losses chan struct{}

func (l losses) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("Redis lock lost")) {
		l <- struct{}{}
	}
	return len(line), nil
}

// short is a time to live that tests can wait for.
const short = 300 * time.Millisecond

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	for address, class := range map[string]fault.Class{
		"redis://:secret-77@127.0.0.1:1/0":                                           fault.Unavailable,
		"redis://:secret-77@127.0.0.1:1,127.0.0.1:2/0":                               fault.Unavailable,
		"redis://:secret-77@127.0.0.1:1/0?master_name=m&sentinel_password=secret-77": fault.Unavailable,
		"unix:///nonexistent/secret.sock":                                            fault.Unavailable,
		"redis://:secret-77@127.0.0.1:port/0":                                        fault.Config,
		"http://:secret-77@127.0.0.1":                                                fault.Config,
		"secret-77":                                                                  fault.Config,
	} {
		var logged bytes.Buffer
		log := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
		_, err := redis.Open(t.Context(), address, log)
		if fault.ClassOf(err) != class {
			t.Errorf("%s: %v of class %q, want %q", address, err, fault.ClassOf(err), class)
		}
		if redis.IsGone(err) != (class == fault.Unavailable) {
			t.Errorf("%s: gone is %t: %v", address, redis.IsGone(err), err)
		}
		if err != nil && strings.Contains(err.Error()+fault.HintOf(err)+logged.String(), "secret-77") {
			t.Errorf("the password is shown: %v %s", err, logged.String())
		}
	}
}

func TestSilentServerIsGone(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	_, err = redis.Open(t.Context(), "redis://"+listener.Addr().String(), nil)
	if !redis.IsGone(err) {
		t.Errorf("a server that never answers: %v", err)
	}
}

func TestWrongPasswordIsNotGone(t *testing.T) {
	t.Parallel()
	address := pgtest.Redis(t)
	c := open(t, address)
	if err := c.ConfigSet(t.Context(), "requirepass", "right").Err(); err != nil {
		t.Fatal(err)
	}
	_, err := redis.Open(t.Context(), address, nil)
	if err == nil || redis.IsGone(err) || fault.ClassOf(err) != fault.Unavailable {
		t.Errorf("without the password: %v", err)
	}
}

func TestLockExcludesAndNamesOwner(t *testing.T) {
	t.Parallel()
	address := pgtest.Redis(t)
	a, b := open(t, address), open(t, address)
	lock, err := a.Lock(t.Context(), "x", time.Minute, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Lock(t.Context(), "x", time.Minute, 100*time.Millisecond)
	if fault.ClassOf(err) != fault.Locked || !strings.Contains(err.Error(), "pid ") {
		t.Errorf("held lock: %v", err)
	}
	taken := make(chan error, 1)
	go func() {
		lock, err := b.Lock(t.Context(), "x", time.Minute, time.Minute)
		if err == nil {
			lock.Release()
		}
		taken <- err
	}()
	lock.Release()
	lock.Release()
	if err := <-taken; err != nil {
		t.Fatal(err)
	}
	if n := a.Exists(t.Context(), "auditdb:lock:x").Val(); n != 0 {
		t.Error("the key stays behind")
	}
}

func TestLockIsRenewed(t *testing.T) {
	t.Parallel()
	c, lost := watched(t, pgtest.Redis(t))
	lock, err := c.Lock(t.Context(), "x", short, 0)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-lost:
		t.Fatal("lost")
	case <-time.After(4 * short):
	}
	if _, err := c.Lock(t.Context(), "x", short, 0); fault.ClassOf(err) != fault.Locked {
		t.Errorf("after several times its time to live: %v", err)
	}
	lock.Release()
}

func TestReleaseByOwnerOnly(t *testing.T) {
	t.Parallel()
	c, lost := watched(t, pgtest.Redis(t))
	lock, err := c.Lock(t.Context(), "x", short, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Set(t.Context(), "auditdb:lock:x", "somebody else", 0).Err(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-lost:
	case <-time.After(20 * time.Second):
		t.Fatal("the loss was not noticed")
	}
	lock.Release()
	if got := c.Get(t.Context(), "auditdb:lock:x").Val(); got != "somebody else" {
		t.Errorf("another owner's lock was changed to %q", got)
	}
}

func TestLockSurvivesCancel(t *testing.T) {
	t.Parallel()
	c := open(t, pgtest.Redis(t))
	ctx, cancel := context.WithCancel(t.Context())
	lock, err := c.Lock(ctx, "x", short, 0)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := c.Lock(ctx, "y", short, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	lock.Release()
	if n := c.Exists(t.Context(), "auditdb:lock:x").Val(); n != 0 {
		t.Error("not released")
	}
}

func TestServerGoneWhileLocked(t *testing.T) {
	t.Parallel()
	server := pgtest.RedisServer(t)
	c, lost := watched(t, server.URL())
	lock, err := c.Lock(t.Context(), "x", short, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-lost:
	case <-time.After(20 * time.Second):
		t.Fatal("the loss was not noticed")
	}
	lock.Release()
	if _, err := c.Lock(t.Context(), "y", short, time.Minute); !redis.IsGone(err) {
		t.Errorf("lock without a server: %v", err)
	}
}

func TestLockManyAtOnce(t *testing.T) {
	t.Parallel()
	c := open(t, pgtest.Redis(t))
	var inside, runs atomic.Int32
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			lock, err := c.Lock(t.Context(), "x", 10*time.Second, time.Minute)
			if err != nil {
				t.Error(err)
				return
			}
			if inside.Add(1) != 1 {
				t.Error("two at once")
			}
			inside.Add(-1)
			runs.Add(1)
			lock.Release()
		})
	}
	wg.Wait()
	if runs.Load() != 10 {
		t.Errorf("%d runs", runs.Load())
	}
}

// What cannot be read is named; a password never is.
func TestBadURL(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"redis://:QZX@127.0.0.1:xx/0":   `redis://:***@127.0.0.1:xx/0: invalid port ":xx"`,
		"http://:QZX@h":                 "invalid URL scheme: http",
		"redis://:QZX@h/zero":           `invalid database number: "zero"`,
		"redis://u:QZX/QZX@h:1/0":       "its password is not written",
		"redis://:QZX@h?dial_timeout=x": "dial_timeout",
	} {
		err := redis.CheckURL(address)
		if fault.ClassOf(err) != fault.Config || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "QZX") || fault.HintOf(err) == "" {
			t.Errorf("%s: %v", address, err)
		}
	}
	if err := redis.CheckURL("rediss://u:p@h:6380/3"); err != nil {
		t.Error(err)
	}
}

// What one process says of a dependency another one reads; a foreign value and the end of the time say nothing.
func TestBreakers(t *testing.T) {
	t.Parallel()
	b := redis.Breakers{Client: open(t, pgtest.Redis(t))}
	ctx := t.Context()
	is := func(want bool) {
		t.Helper()
		if until, failures, err := b.Look(ctx, "x"); err != nil || until.IsZero() == want || failures != 0 {
			t.Errorf("%s, %d failures, %v", until, failures, err)
		}
	}
	is(false)
	if err := b.SetOpen(ctx, "x", time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	is(true)
	if err := b.SetClosed(ctx, "x"); err != nil {
		t.Fatal(err)
	}
	is(false)
	if err := b.Client.Set(ctx, "auditdb:breaker:x", "soon", 0).Err(); err != nil {
		t.Fatal(err)
	}
	is(false)
	for want := range uint32(3) {
		if n, err := b.Failed(ctx, "x", time.Minute); err != nil || n != want+1 {
			t.Errorf("%d failures, %v", n, err)
		}
	}
	if _, n, err := b.Look(ctx, "x"); err != nil || n != 3 {
		t.Errorf("%d failures, %v", n, err)
	}
	if left := b.Client.PTTL(ctx, "auditdb:failures:x").Val(); left <= 0 || left > time.Minute {
		t.Errorf("they are kept for %s", left)
	}
	if err := b.SetClosed(ctx, "x"); err != nil {
		t.Fatal(err)
	}
	is(false)
}
