package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// Breakers lets the processes that use this Redis know of each other's open circuit breakers.
type Breakers struct{ Client *Client }

func breakerKey(name string) string { return "auditdb:breaker:" + name }

// OpenUntil says until when others found a dependency broken; zero: they did not.
func (b Breakers) OpenUntil(ctx context.Context, name string) (time.Time, error) {
	text, err := b.Client.Get(ctx, breakerKey(name)).Result()
	if errors.Is(err, goredis.Nil) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("look for an open circuit breaker: %w", err)
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, nil //nolint:nilerr // a foreign value says nothing
	}
	return time.UnixMilli(ms), nil
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

// SetClosed says that it works again.
func (b Breakers) SetClosed(ctx context.Context, name string) error {
	if err := b.Client.Unlink(ctx, breakerKey(name)).Err(); err != nil {
		return fmt.Errorf("tell of a closed circuit breaker: %w", err)
	}
	return nil
}
