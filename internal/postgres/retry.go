package postgres

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// RetryPolicy bounds Retry. Its zero value tries for 10 s with pauses from 50 ms to 2 s.
type RetryPolicy struct {
	First   time.Duration                        // pause before the second try; 0: 50 ms
	Max     time.Duration                        // longest pause; 0: 2 s
	Within  time.Duration                        // no new try after this; 0: 10 s
	Also    func(error) bool                     // further errors to try again after
	OnRetry func(err error, pause time.Duration) // told before each pause
}

// Retry calls fn until it succeeds, fails for good, or the policy's time is over; then the last error is returned.
// Tried again are lost connections (08…, and the network's), serialization failures, deadlocks, lock timeouts, too many
// connections and servers that shut down or start. fn must be safe to repeat: never a COMMIT whose answer was lost.
func Retry(ctx context.Context, p RetryPolicy, fn func(context.Context) error) error {
	if p.First <= 0 {
		p.First = 50 * time.Millisecond
	}
	if p.Max <= 0 {
		p.Max = 2 * time.Second
	}
	if p.Within <= 0 {
		p.Within = 10 * time.Second
	}
	pauses := &backoff.ExponentialBackOff{InitialInterval: p.First, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: p.Max}
	options := []backoff.RetryOption{backoff.WithBackOff(pauses), backoff.WithMaxElapsedTime(p.Within)}
	if p.OnRetry != nil {
		options = append(options, backoff.WithNotify(p.OnRetry))
	}
	var last error
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		last = fn(ctx)
		if last != nil && ctx.Err() == nil && !isTransient(last) && (p.Also == nil || !p.Also(last)) {
			return struct{}{}, backoff.Permanent(last)
		}
		return struct{}{}, last
	}, options...)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil && last != nil {
		return errors.Join(context.Cause(ctx), last)
	}
	if last != nil {
		return last
	}
	return err
}

// jitter is a full-jitter pause: anything up to first·2^try, at most longest, and never 0.
func jitter(try int, first, longest time.Duration) time.Duration {
	limit := longest
	if try < 16 && first<<try < longest {
		limit = first << try
	}
	return time.Millisecond + rand.N(limit) //nolint:gosec // spreads load; no secret depends on it
}

// pause waits for d and says whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
