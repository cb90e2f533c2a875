// Package breaker keeps a dependency that has failed again and again from being asked for a while, so that callers do not all wait for it.
package breaker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"auditdb/internal/fault"
)

// State is what a breaker does with calls.
type State string

// The states.
const (
	Closed   State = "closed"    // calls go through
	Open     State = "open"      // calls are refused
	HalfOpen State = "half-open" // one call is let through to try
)

// Settings of a breaker. Zero values are the defaults.
type Settings struct {
	Failures uint32        // one after the other that open it; 5
	Timeout  time.Duration // of one call; 30 s; negative: none
	Reset    time.Duration // how long it stays open at first; 60 s. It doubles each time that the try fails.
	MaxReset time.Duration // at most; 10 min
	Now      func() time.Time
	// Counts says whether an error is one of the dependency; nil: every error but a caller's own end.
	Counts func(error) bool
	Shared Shared // nil: the process keeps it to itself
	// Changed is told when it opens and closes.
	Changed func(name string, s State, until time.Time)
}

// Shared lets processes know of each other's open breakers, and of failures: each of many short runs sees a single one. It may fail: then each goes by
// what it sees itself.
type Shared interface {
	// Look says until when others found the dependency broken, zero: they did not, and how many calls have failed one after the other.
	Look(ctx context.Context, name string) (until time.Time, failures uint32, err error)
	// Failed counts one more failure and says how many there are. They are forgotten when none follows within a time.
	Failed(ctx context.Context, name string, within time.Duration) (failures uint32, err error)
	SetOpen(ctx context.Context, name string, until time.Time) error
	// SetClosed forgets failures too.
	SetClosed(ctx context.Context, name string) error
}

// OpenError says that a call was refused.
type OpenError struct {
	Name  string
	Until time.Time
}

// Error says until when.
func (e *OpenError) Error() string {
	return fmt.Sprintf("%s has failed too often: not asked again before %s", e.Name, e.Until.UTC().Format(time.TimeOnly))
}

// Breaker stands before one dependency. It is safe for concurrent use.
type Breaker struct {
	name string
	s    Settings

	mu     sync.Mutex
	inner  *gobreaker.TwoStepCircuitBreaker[struct{}]
	reset  time.Duration // of the inner one
	until  time.Time     // while it is open
	asked  time.Time     // when others were last asked
	shared time.Time     // until when they found it broken
	failed bool          // somebody's last call failed, as far as is known
}

// sharedEvery is how long an answer of others counts.
const sharedEvery = time.Second

// New makes a breaker. name identifies the dependency, without secrets.
func New(name string, s Settings) *Breaker {
	s.Failures = cmp.Or(s.Failures, 5)
	s.Timeout = cmp.Or(s.Timeout, 30*time.Second)
	s.Reset = cmp.Or(s.Reset, time.Minute)
	s.MaxReset = max(cmp.Or(s.MaxReset, 10*time.Minute), s.Reset)
	if s.Counts == nil {
		s.Counts = func(error) bool { return true }
	}
	b := &Breaker{name: name, s: s, reset: s.Reset}
	b.inner = b.closed(s.Reset, s.Failures)
	return b
}

func (b *Breaker) closed(reset time.Duration, failures uint32) *gobreaker.TwoStepCircuitBreaker[struct{}] {
	return gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name: b.name, MaxRequests: 1, Timeout: reset,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= failures },
	})
}

// opened is one that has just opened.
func (b *Breaker) opened(reset time.Duration) *gobreaker.TwoStepCircuitBreaker[struct{}] {
	inner := b.closed(reset, 1)
	if done, err := inner.Allow(); err == nil {
		done(errors.New("it failed"))
	}
	return inner
}

// Do calls fn with a context that ends after the time of one call, unless the breaker is open: then the error is an OpenError of class unavailable.
func (b *Breaker) Do(ctx context.Context, fn func(context.Context) error) error {
	if until := b.others(ctx); !until.IsZero() {
		return b.refused(until)
	}
	inner := b.current()
	done, err := inner.Allow()
	if err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.refused(b.until)
	}
	err = b.call(ctx, fn)
	failed := err != nil && ctx.Err() == nil && b.s.Counts(err)
	before := inner.State()
	switch {
	case failed:
		done(err)
		b.count(ctx, inner)
	case err != nil && before == gobreaker.StateHalfOpen && ctx.Err() != nil:
		done(err) // nothing is known: it stays as it was
	default:
		done(nil)
		b.forget(ctx)
	}
	b.settle(ctx, inner, before)
	return err
}

// count adds a failure to those of other processes, and opens the breaker where together they are too many.
func (b *Breaker) count(ctx context.Context, inner *gobreaker.TwoStepCircuitBreaker[struct{}]) {
	if b.s.Shared == nil {
		return
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), sharedEvery/10)
	defer cancel()
	n, err := b.s.Shared.Failed(limit, b.name, b.s.Reset)
	b.mu.Lock()
	b.failed = true
	open := err == nil && n >= b.s.Failures && inner == b.inner && inner.State() == gobreaker.StateClosed
	if open {
		b.inner, b.until = b.opened(b.reset), b.s.Now().Add(b.reset)
	}
	until := b.until
	b.mu.Unlock()
	if open {
		b.tell(ctx, Open, until)
	}
}

// forget ends the row of failures that processes count together.
func (b *Breaker) forget(ctx context.Context) {
	b.mu.Lock()
	failed := b.failed && b.s.Shared != nil
	b.failed = false
	b.mu.Unlock()
	if failed {
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), sharedEvery/10)
		defer cancel()
		_ = b.s.Shared.SetClosed(limit, b.name) // else they are forgotten by themselves
	}
}

func (b *Breaker) call(ctx context.Context, fn func(context.Context) error) error {
	if b.s.Timeout > 0 {
		limit, cancel := context.WithTimeout(ctx, b.s.Timeout)
		defer cancel()
		ctx = limit
	}
	return fn(ctx)
}

func (b *Breaker) refused(until time.Time) error {
	return fault.New(fault.Unavailable, "wait until it is tried again, or mend it", "%w", &OpenError{b.name, until})
}

func (b *Breaker) current() *gobreaker.TwoStepCircuitBreaker[struct{}] {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.inner
}

// settle notes that the breaker has opened or closed. Where a try has failed, it stays open for twice as long.
func (b *Breaker) settle(ctx context.Context, inner *gobreaker.TwoStepCircuitBreaker[struct{}], before gobreaker.State) {
	after := inner.State()
	if after == before {
		return
	}
	b.mu.Lock()
	if inner != b.inner {
		b.mu.Unlock()
		return
	}
	state := Closed
	switch after {
	case gobreaker.StateOpen:
		state = Open
		if before == gobreaker.StateHalfOpen {
			b.reset = min(2*b.reset, b.s.MaxReset)
			b.inner = b.opened(b.reset)
		}
		b.until = b.s.Now().Add(b.reset)
	case gobreaker.StateClosed:
		b.reset, b.until = b.s.Reset, time.Time{}
		b.inner = b.closed(b.reset, b.s.Failures)
	case gobreaker.StateHalfOpen:
		state = HalfOpen
	}
	until := b.until
	b.mu.Unlock()
	b.tell(ctx, state, until)
}

func (b *Breaker) tell(ctx context.Context, state State, until time.Time) {
	if b.s.Shared != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sharedEvery)
		defer cancel()
		if state == Open {
			_ = b.s.Shared.SetOpen(ctx, b.name, until) // others will find out by themselves
		} else {
			_ = b.s.Shared.SetClosed(ctx, b.name)
		}
	}
	if b.s.Changed != nil {
		b.s.Changed(b.name, state, until)
	}
}

// others says until when other processes found the dependency broken, where this one has nothing to say of its own yet.
func (b *Breaker) others(ctx context.Context) time.Time {
	if b.s.Shared == nil {
		return time.Time{}
	}
	now := b.s.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.until.IsZero() { // it goes by what it saw itself
		return time.Time{}
	}
	if b.asked.IsZero() || now.Sub(b.asked) >= sharedEvery {
		limit, cancel := context.WithTimeout(ctx, sharedEvery/10)
		defer cancel()
		b.asked = now
		if until, failures, err := b.s.Shared.Look(limit, b.name); err == nil {
			b.shared, b.failed = until, b.failed || failures > 0
		}
	}
	if now.Before(b.shared) {
		return b.shared
	}
	return time.Time{}
}

// State is what the breaker does now, and until when.
func (b *Breaker) State() (State, time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch b.inner.State() {
	case gobreaker.StateOpen:
		return Open, b.until
	case gobreaker.StateHalfOpen:
		return HalfOpen, time.Time{}
	case gobreaker.StateClosed:
	}
	return Closed, time.Time{}
}
