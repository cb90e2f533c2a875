package cmd

import (
	"context"
	"time"

	"auditdb/internal/breaker"
	"auditdb/internal/postgres"
	"auditdb/internal/redis"
	"auditdb/pkg/alert"
	"auditdb/pkg/archive"
)

// breakerSettings are those of the configuration.
func (a *App) breakerSettings(shared *redis.Client) breaker.Settings {
	c := a.Config.Breaker
	s := breaker.Settings{Failures: uint32(c.Failures), Timeout: c.Timeout, Reset: c.Reset, Now: a.Now} //nolint:gosec // at least 1
	if shared != nil {
		s.Shared = redis.Breakers{Client: shared}
	}
	return s
}

// guard is the circuit breaker before a dependency beside the database and its replicas: one for a process, which processes that have opened Redis
// share. spared: calls that nobody needs to be made now, which what others found keeps from being made too. bounded calls end after breaker.timeout.
func (a *App) guard(name string, spared, bounded bool) *breaker.Breaker {
	a.mu.Lock()
	defer a.mu.Unlock()
	if b := a.breakers[name]; b != nil {
		return b
	}
	s := a.breakerSettings(a.redis)
	s.Counts = breaker.Gone
	if !spared && s.Shared != nil {
		s.Shared = announced{s.Shared}
	}
	if !bounded {
		s.Timeout = -1
	}
	b := breaker.New(name, s)
	if a.breakers == nil {
		a.breakers = map[string]*breaker.Breaker{}
	}
	a.breakers[name] = b
	return b
}

// announced tells others what became of calls and is not kept from a call by what they found: nothing else can stand in for an archive store or a receiver of
// alerts, so each run asks at least once.
type announced struct{ breaker.Shared }

// Look gives the failures alone, which a call that succeeds ends.
func (s announced) Look(ctx context.Context, name string) (until time.Time, failures uint32, err error) {
	_, failures, err = s.Shared.Look(ctx, name)
	return time.Time{}, failures, err
}

// By names that begin with the kind processes know the circuit breakers.
func anchorBreaker(address string) string { return "anchor:" + postgres.RedactURL(address) }

func alertBreaker(t alert.Target) string { return "alert:" + t.Name() }

func archiveBreaker(address string) string { return "archive:" + archive.Base(address) }

// breakerNames are those of all circuit breakers that the configuration may have.
func (a *App) breakerNames() []string {
	c := a.Config
	var names []string
	for _, url := range c.Database.Replicas {
		names = append(names, postgres.BreakerName(url))
	}
	for _, address := range c.Integrity.Anchors {
		names = append(names, anchorBreaker(address))
	}
	if targets, err := a.alertTargets(); err == nil {
		for _, t := range targets {
			names = append(names, alertBreaker(t))
		}
	}
	if c.Archive.URL != "" {
		names = append(names, archiveBreaker(c.Archive.URL))
	}
	return names
}
