package breaker

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"auditdb/internal/fault"
)

var errBroken = errors.New("broken")

func fail(context.Context) error { return errBroken }

func work(context.Context) error { return nil }

// board is what processes share.
type board struct {
	mu     sync.Mutex
	until  map[string]time.Time
	failed map[string]uint32
	err    error
}

func (s *board) Look(_ context.Context, name string) (time.Time, uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.until[name], s.failed[name], s.err
}

func (s *board) Failed(_ context.Context, name string, _ time.Duration) (uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = map[string]uint32{}
	}
	s.failed[name]++
	return s.failed[name], s.err
}

func (s *board) SetOpen(_ context.Context, name string, until time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until[name] = until
	return s.err
}

func (s *board) SetClosed(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.until, name)
	delete(s.failed, name)
	return s.err
}

func isOpen(err error) bool {
	var open *OpenError
	return errors.As(err, &open) && fault.ClassOf(err) == fault.Unavailable
}

// Five failures open it; one try is let through after its time; a failed try doubles it; one that works closes it.
func TestOpens(t *testing.T) {
	t.Parallel()
	var changes []State
	b := New("x", Settings{Reset: 30 * time.Millisecond, MaxReset: 100 * time.Millisecond, Now: time.Now, Changed: func(_ string, s State, _ time.Time) { changes = append(changes, s) }})
	ctx := t.Context()
	for i := range 5 {
		if err := b.Do(ctx, fail); !errors.Is(err, errBroken) {
			t.Fatalf("%d: %v", i, err)
		}
	}
	if s, until := b.State(); s != Open || until.IsZero() || !isOpen(b.Do(ctx, work)) {
		t.Fatalf("not open: %s", s)
	}
	wait := func() time.Duration {
		began := time.Now()
		for isOpen(b.Do(ctx, fail)) {
			time.Sleep(time.Millisecond)
		}
		return time.Since(began)
	}
	first, second, third := wait(), wait(), wait()
	if first < 20*time.Millisecond || second < 55*time.Millisecond || third < 95*time.Millisecond {
		t.Errorf("%s, %s, %s", first, second, third)
	}
	for isOpen(b.Do(ctx, work)) {
		time.Sleep(time.Millisecond)
	}
	if s, _ := b.State(); s != Closed {
		t.Errorf("it stays %s", s)
	}
	for range 4 {
		_ = b.Do(ctx, fail)
	}
	if s, _ := b.State(); s != Closed {
		t.Error("four failures open it")
	}
	if len(changes) == 0 || changes[0] != Open || changes[len(changes)-1] != Closed {
		t.Errorf("%v", changes)
	}
}

// The end of a caller's context is no failure of the dependency; a call that lasts too long is cancelled, and is one.
func TestContexts(t *testing.T) {
	t.Parallel()
	b := New("x", Settings{Failures: 1, Timeout: 10 * time.Millisecond, Now: time.Now})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Do(gone, func(ctx context.Context) error { return ctx.Err() }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if s, _ := b.State(); s != Closed {
		t.Error("a caller's end opens it")
	}
	if err := b.Do(t.Context(), func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if s, _ := b.State(); s != Open {
		t.Error("a call that hangs does not open it")
	}
	picky := New("x", Settings{Failures: 1, Now: time.Now, Counts: func(err error) bool { return !errors.Is(err, errBroken) }})
	_ = picky.Do(t.Context(), fail)
	if s, _ := picky.State(); s != Closed {
		t.Error("an error that does not count opens it")
	}
}

// Another process does not ask again what one has found broken; when what they share fails, each goes by itself.
func TestShared(t *testing.T) {
	t.Parallel()
	s := &board{until: map[string]time.Time{}}
	now := time.Now()
	clock := func() time.Time { return now }
	one, other := New("x", Settings{Failures: 1, Now: clock, Shared: s}), New("x", Settings{Failures: 1, Now: clock, Shared: s})
	_ = one.Do(t.Context(), fail)
	if err := other.Do(t.Context(), work); !isOpen(err) {
		t.Errorf("%v", err)
	}
	now = now.Add(2 * time.Minute)
	if err := other.Do(t.Context(), work); err != nil {
		t.Errorf("%v", err)
	}
	s.err = errBroken
	alone := New("y", Settings{Failures: 1, Now: clock, Shared: s})
	if err := alone.Do(t.Context(), work); err != nil {
		t.Errorf("%v", err)
	}
}

// Short runs that fail once each open it together, unless one of them succeeds in between.
func TestCountedTogether(t *testing.T) {
	t.Parallel()
	s := &board{until: map[string]time.Time{}}
	run := func(fn func(context.Context) error) error {
		return New("x", Settings{Now: time.Now, Shared: s}).Do(t.Context(), fn)
	}
	for _, fn := range []func(context.Context) error{fail, fail, fail, fail, work, fail, fail, fail, fail} {
		if err := run(fn); isOpen(err) {
			t.Fatal(err)
		}
	}
	if err := run(fail); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	if err := run(work); !isOpen(err) {
		t.Errorf("after five failures: %v", err)
	}
}

// Of many callers of a half-open breaker one tries.
func TestOneTries(t *testing.T) {
	t.Parallel()
	b := New("x", Settings{Failures: 1, Reset: time.Millisecond, Now: time.Now})
	_ = b.Do(t.Context(), fail)
	time.Sleep(5 * time.Millisecond)
	gate := make(chan struct{})
	var tried sync.WaitGroup
	var mu sync.Mutex
	calls := 0
	for range 20 {
		tried.Go(func() {
			_ = b.Do(t.Context(), func(context.Context) error {
				mu.Lock()
				calls++
				mu.Unlock()
				<-gate
				return nil
			})
		})
	}
	time.Sleep(20 * time.Millisecond)
	close(gate)
	tried.Wait()
	if calls > 2 {
		t.Errorf("%d callers tried", calls)
	}
}
