package cmd

import (
	"context"

	"auditdb/pkg/query"
)

// queryCache is how answers are cached. This process ends with its answer, so that only Redis is worth the trouble: without it nothing is cached.
func (o queryOptions) queryCache(ctx context.Context, app *App) (query.CacheOptions, error) {
	if o.noCache || o.streams(app) || o.archives != query.NoArchives {
		return query.CacheOptions{}, nil
	}
	client, err := app.Redis(ctx)
	if err != nil || client == nil {
		return query.CacheOptions{}, err
	}
	c, err := app.Cache(ctx)
	return query.CacheOptions{Cache: c, TTL: app.Config.Cache.TTL, PHI: app.Config.Cache.PHI, Fresh: o.fresh}, err
}
