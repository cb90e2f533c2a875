package cache

import "context"

// Fold is what the cache does every ten seconds.
func (c *Cache) Fold(ctx context.Context) error { return c.foldIn(ctx, true) }
