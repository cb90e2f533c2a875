package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/internal/redis"
	"auditdb/pkg/cache"
	"auditdb/pkg/partitions"
)

// cacheDocuments lists the documents of the cache commands.
func cacheDocuments() map[string]any {
	return map[string]any{"cache.stats": cacheStatsDoc{}, "cache.clear": cacheDropDoc{}, "cache.invalidate": cacheDropDoc{}, "cache.warm": cacheWarmDoc{}}
}

func newCacheCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Look at the cache of query results, empty it, fill it",
		Long: "Results of queries are kept in the process and, where redis.url names one, in Redis for all processes. They are never wrong, since their keys\n" +
			"hold all that they depend on: nothing has to be invalidated for right answers. Without Redis everything works, more slowly.",
		Example: "  auditdb cache stats\n  auditdb cache invalidate public.audit_log\n  auditdb cache clear",
	}
	cmd.AddCommand(newCacheStatsCmd(app), newCacheClearCmd(app), newCacheInvalidateCmd(app), newCacheWarmCmd(app))
	return cmd
}

// Cache opens the cache on first use; Main closes it. It is nil where cache.enabled is false. Without Redis, or with one that does not answer
// and is not required, it is in the process alone.
func (a *App) Cache(ctx context.Context) (*cache.Cache, error) {
	if !a.Config.Cache.Enabled {
		return nil, nil
	}
	client, err := a.Redis(ctx)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cache != nil {
		return a.cache, nil
	}
	c, err := a.newCache(ctx, client)
	if err != nil {
		return nil, err
	}
	a.cache = c
	return c, nil
}

// newCache makes a cache as configured, in the process alone where client is nil. Whoever calls it closes it.
func (a *App) newCache(ctx context.Context, client *redis.Client) (*cache.Cache, error) {
	o := cache.Options{
		MaxSize: a.Config.Cache.MaxSize, SharedMax: a.Config.Cache.SharedMaxSize, TTL: a.Config.Cache.TTL, Secret: []byte(a.Config.Cache.Secret),
		Version: buildVersion().Version, Now: a.Now, Log: a.Log,
	}
	if client != nil {
		o.Redis = client.UniversalClient
	}
	c, err := cache.New(ctx, o)
	if err != nil {
		return nil, fault.New(fault.Config, "see auditdb config show", "%w", err)
	}
	return c, nil
}

// cacheScopeOf is what the keys of all cached results of a table begin with.
func cacheScopeOf(server postgres.ServerInfo, t partitions.Table) string {
	return fmt.Sprintf("%d/%d/%d", server.SystemID, server.DatabaseOID, t.OID)
}

// forgetCached drops what is cached of tables whose rows have gone, after that was committed. Redis not answering is a warning that says
// until when it may keep them.
func (a *App) forgetCached(ctx context.Context, command string, tables ...partitions.Table) {
	ctx = context.WithoutCancel(ctx) // what is gone is gone, even if the command was interrupted then
	c, status, err := a.openCache(ctx)
	if err == nil && status == cache.StatusOff {
		return
	}
	if err == nil && status == cache.StatusNotReachable {
		err = errors.New("Redis does not answer")
	}
	var server postgres.ServerInfo
	if err == nil {
		server, err = a.serverInfo(ctx, command)
	}
	for _, t := range tables {
		if err == nil {
			_, err = c.Drop(ctx, cache.Selection{Scope: cacheScopeOf(server, t)})
		}
	}
	if err != nil {
		a.Log.LogAttrs(ctx, slog.LevelWarn, oneLine("cached results of rows that have gone may stay in Redis until "+
			a.Now().Add(cache.LongestTTL(a.Config.Cache.TTL)).UTC().Format("2006-01-02 15:04:05Z")+": "+err.Error()))
	}
}

func (a *App) serverInfo(ctx context.Context, command string) (postgres.ServerInfo, error) {
	db, err := a.Postgres(ctx, command)
	if err != nil {
		return postgres.ServerInfo{}, err
	}
	return db.Info(ctx)
}

// cacheTables finds the tables that a command is about: the one that is named, or all that are managed.
func cacheTables(ctx context.Context, db *postgres.DB, name string) ([]partitions.Table, error) {
	names := []string{name}
	if name == "" {
		var err error
		if names, err = partitions.Registered(ctx, db.Pool()); err != nil {
			return nil, err
		}
		if len(names) == 0 {
			names = []string{partitions.DefaultTable}
		}
	}
	tables := make([]partitions.Table, 0, len(names))
	for _, n := range names {
		t, err := partitions.ResolveToRead(ctx, db, n)
		if err != nil {
			return nil, err
		}
		tables = append(tables, t)
	}
	return tables, nil
}

func percent(ratio *float64) string {
	if ratio == nil {
		return "-"
	}
	return strconv.FormatFloat(100**ratio, 'f', 1, 64) + " %"
}

func orNone(s string) string {
	if strings.TrimSpace(s) == "" {
		return "-"
	}
	return s
}
