package cmd

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"auditdb/internal/fault"
	"auditdb/internal/job"
	"auditdb/internal/postgres"
	"auditdb/internal/redis"
)

// Redis opens the configured Redis on first use; Main closes it. Without an address, and for one that does not answer (which a
// warning says), it is nil and work goes on without, unless redis.required is set.
func (a *App) Redis(ctx context.Context) (*redis.Client, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.Config.Redis.URL == "" && a.Config.Redis.Required {
		return nil, noRedisNamed()
	}
	if a.redis != nil || a.Config.Redis.URL == "" || a.redisGone {
		return a.redis, nil
	}
	client, err := redis.Open(ctx, a.Config.Redis.URL, a.Log)
	switch {
	case err == nil:
		a.redis = client
		return client, nil
	case ctx.Err() != nil || fault.ClassOf(err) == fault.Config:
		return nil, err
	case a.Config.Redis.Required:
		return nil, fault.New(fault.Unavailable, "start Redis, or set redis.required to false to go on without it", "redis is required: %w", err)
	}
	a.redisGone = true
	a.Log.LogAttrs(ctx, slog.LevelWarn, oneLine(fmt.Sprintf("going on without Redis, with PostgreSQL's locks alone: %v", err)))
	return nil, nil
}

func noRedisNamed() error {
	return fault.New(fault.Config, "name it with redis.url (AUDITDB_REDIS_URL), or set redis.required to false", "redis is required, but no address of it is configured")
}

// requireRedis opens Redis before a command that changes something, where redis.required is set.
func (a *App) requireRedis(ctx context.Context, command string) error {
	if !a.Config.Redis.Required || slices.Contains(readers(), strings.ReplaceAll(command, " ", ".")) {
		return nil
	}
	_, err := a.Redis(ctx)
	return err
}

// readers are the commands that open the database and change nothing in it.
func readers() []string {
	return []string{"doctor", "cache.stats", "migrate.status", "partition.list", "index.analyze", "index.list", "verify-integrity", "integrity.log", "integrity.checkpoint", "retention.plan", "retention.policy.list", "retention.hold.list", "retention.archive.search", "query"}
}

// StartJob records a run of the command called name in auditdb.job_run; Main finishes it with the exit code. tableID is the managed
// table that it is about, nil for none or several.
func (a *App) StartJob(ctx context.Context, db *postgres.DB, name string, tableID *int16) (*job.Run, error) {
	run, err := job.Start(ctx, db, job.Info{Name: name, TableID: tableID, Version: buildVersion().Version})
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.runs = append(a.runs, run)
	return run, nil
}

// Summarize keeps what job_run says about what this run has done: a small document, never rows or their values.
func (a *App) Summarize(summary any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.summary = summary
}

// close ends everything that was opened. Recorded runs get the exit code first.
func (a *App) close(ctx context.Context, code int) {
	ctx = a.trace.Within(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, run := range a.runs {
		run.Finish(ctx, code, a.summary)
	}
	a.runs = nil
	a.cache.Close(ctx)
	a.cache = nil
	for _, r := range a.routers {
		within(closeLimit, r.Close)
	}
	a.routers = nil
	if a.redis != nil {
		if err := a.redis.Close(); err != nil {
			a.Log.LogAttrs(ctx, slog.LevelDebug, "close Redis", slog.String("error", err.Error()))
		}
		a.redis = nil
	}
	if a.db != nil {
		within(closeLimit, a.db.Close)
		a.db = nil
	}
	a.limit()
	if err := a.trace.End(ctx, code); err != nil {
		a.Warn("%v", err)
	}
}

// closeLimit bounds waiting for connections that a panic has left in use; the end of the process closes them.
const closeLimit = 5 * time.Second

func within(limit time.Duration, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}
