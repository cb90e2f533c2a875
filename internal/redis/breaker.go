package redis

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// Breakers lets the processes that use this Redis know of each other's open circuit breakers.
type Breakers struct{ Client *Client }

func breakerKey(name string) string { return "auditdb:breaker:" + name }

func failuresKey(name string) string { return "auditdb:failures:" + name }

// Look says until when others found a dependency broken, zero: they did not, and how many calls have failed one after the other.
func (b Breakers) Look(ctx context.Context, name string) (until time.Time, failures uint32, err error) {
	asked := b.Client.Pipeline() // not MGET: in a cluster the keys are in different slots
	open, count := asked.Get(ctx, breakerKey(name)), asked.Get(ctx, failuresKey(name))
	if _, err := asked.Exec(ctx); err != nil && !errors.Is(err, goredis.Nil) {
		return time.Time{}, 0, fmt.Errorf("look for an open circuit breaker: %w", err)
	}
	if ms, err := open.Int64(); err == nil { // a foreign value says nothing
		until = time.UnixMilli(ms)
	}
	if n, err := count.Uint64(); err == nil {
		failures = uint32(min(n, math.MaxUint32))
	}
	return until, failures, nil
}

// Failed counts one more failure and says how many there are. They are forgotten when none follows within a time.
func (b Breakers) Failed(ctx context.Context, name string, within time.Duration) (failures uint32, err error) {
	asked := b.Client.Pipeline()
	count := asked.Incr(ctx, failuresKey(name))
	asked.PExpire(ctx, failuresKey(name), within)
	if _, err := asked.Exec(ctx); err != nil {
		return 0, fmt.Errorf("count a failure: %w", err)
	}
	return uint32(min(max(count.Val(), 0), math.MaxUint32)), nil
}

// SetOpen says that a dependency is broken. It is forgotten by itself.
func (b Breakers) SetOpen(ctx context.Context, name string, until time.Time) error {
	if err := b.Client.Set(ctx, breakerKey(name), until.UnixMilli(), 0).Err(); err != nil {
		return fmt.Errorf("tell of an open circuit breaker: %w", err)
	}
	if err := b.Client.PExpireAt(ctx, breakerKey(name), until).Err(); err != nil {
		return fmt.Errorf("tell of an open circuit breaker: %w", err)
	}
	return nil
}

// SetClosed says that it works again: failures are forgotten.
func (b Breakers) SetClosed(ctx context.Context, name string) error {
	asked := b.Client.Pipeline()
	asked.Unlink(ctx, breakerKey(name))
	asked.Unlink(ctx, failuresKey(name))
	if _, err := asked.Exec(ctx); err != nil {
		return fmt.Errorf("tell of a closed circuit breaker: %w", err)
	}
	return nil
}
