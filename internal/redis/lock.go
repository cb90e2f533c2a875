package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"auditdb/internal/fault"
)

const (
	keyPrefix      = "auditdb:lock:"
	defaultTTL     = 30 * time.Second
	firstPause     = 20 * time.Millisecond
	maxPause       = 250 * time.Millisecond
	cleanupTimeout = 2 * time.Second

	// The value starts with the owner's token; what follows only names the owner.
	releaseScript = `if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) else return 0 end`
	renewScript   = `if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("PEXPIRE", KEYS[1], ARGV[2]) else return 0 end`
)

// Lock is a lock in Redis that belongs to one owner until Release, or until it could not be renewed in time.
type Lock struct{ release func() }

// Lock takes the lock called name, waiting up to wait (0: not at all); then a fault.Locked error names the owner. It is renewed at a third
// of ttl (0: 30 s) and ends by itself ttl after its owner died. The name should hold what makes it unique among all that share the
// Redis, such as the database cluster's system identifier. Redis not answering is a GoneError: go on without it.
func (c *Client) Lock(ctx context.Context, name string, ttl, wait time.Duration) (*Lock, error) {
	if ttl <= 0 {
		ttl = defaultTTL
	}
	key, value := keyPrefix+name, rand.Text()+" "+owner()
	waitCtx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for try := 0; ; try++ {
		taken, err := c.take(ctx, key, value, ttl)
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		if taken {
			return c.hold(ctx, key, value, ttl), nil
		}
		if try == 0 {
			c.log.LogAttrs(ctx, slog.LevelInfo, "waiting for another run", slog.String("lock", name), slog.String("holder", c.holder(ctx, key)), slog.String("where", "redis"))
		}
		if !pause(waitCtx, try) {
			if ctx.Err() != nil {
				return nil, fmt.Errorf("lock %s: %w", name, context.Cause(ctx))
			}
			return nil, fault.New(fault.Locked, "wait for that run to end, or allow more time with --wait", "lock %s: held in Redis by %s", name, c.holder(ctx, key))
		}
	}
}

// take sets the key when nobody has it. An answer that was lost may have set it: the value tells.
func (c *Client) take(ctx context.Context, key, value string, ttl time.Duration) (bool, error) {
	err := c.SetArgs(ctx, key, value, goredis.SetArgs{Mode: "NX", TTL: ttl}).Err()
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, goredis.Nil) {
		return false, c.wrap(ctx, err)
	}
	now, err := c.Get(ctx, key).Result()
	if err != nil && !errors.Is(err, goredis.Nil) {
		return false, c.wrap(ctx, err)
	}
	return now == value, nil
}

func (c *Client) holder(ctx context.Context, key string) string {
	value, err := c.Get(ctx, key).Result()
	if err != nil {
		return "another run that has just ended"
	}
	if _, who, ok := strings.Cut(value, " "); ok {
		return who
	}
	return "an unknown owner"
}

func owner() string {
	host, err := os.Hostname()
	if err != nil {
		host = "an unknown host"
	}
	return fmt.Sprintf("pid %d on %s", os.Getpid(), host)
}

// hold renews the lock until it is released.
func (c *Client) hold(ctx context.Context, key, value string, ttl time.Duration) *Lock {
	ctx = context.WithoutCancel(ctx)
	renewing, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := c.renew(renewing, key, value, ttl); err != nil {
			c.log.LogAttrs(ctx, slog.LevelWarn, "Redis lock lost; PostgreSQL's lock still holds", slog.String("lock", strings.TrimPrefix(key, keyPrefix)), slog.String("cause", err.Error()))
		}
	}()
	var once sync.Once
	return &Lock{release: func() {
		once.Do(func() {
			stop()
			<-ended
			limited, cancel := context.WithTimeout(ctx, cleanupTimeout)
			defer cancel()
			if err := c.Eval(limited, releaseScript, []string{key}, value).Err(); err != nil {
				c.log.LogAttrs(ctx, slog.LevelDebug, "Redis lock not released, it ends by itself", slog.Duration("within", ttl))
			}
		})
	}}
}

var errNotOurs = errors.New("it expired or somebody else has it")

// renew returns nil when ctx ends and an error once the lock is no longer ours for sure.
func (c *Client) renew(ctx context.Context, key, value string, ttl time.Duration) error {
	tick := time.NewTicker(ttl / 3)
	defer tick.Stop()
	failed := 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		limited, cancel := context.WithTimeout(ctx, max(ttl/3, time.Millisecond))
		renewed, err := c.Eval(limited, renewScript, []string{key}, value, ttl.Milliseconds()).Int()
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil && renewed == 0:
			return errNotOurs
		case err == nil:
			failed = 0
		default:
			if failed++; failed >= 2 { // two thirds of ttl gone, and the third try would come too late
				return c.wrap(ctx, err)
			}
		}
	}
}

// Release frees the lock if it is still ours, also when the context was cancelled; it is safe to call twice.
func (l *Lock) Release() { l.release() }

func pause(ctx context.Context, try int) bool {
	limit := maxPause
	if try < 8 {
		limit = min(firstPause<<try, maxPause)
	}
	t := time.NewTimer(time.Millisecond + mathrand.N(limit)) //nolint:gosec // spreads load; no secret depends on it
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
