package cmd

import (
	"errors"
	"io/fs"

	"auditdb/internal/breaker"
	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/internal/redis"
	"auditdb/pkg/alert"
	"auditdb/pkg/archive"
	"auditdb/pkg/integrity/anchors"
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
// share. What was asked for wrongly, or is not allowed, is no failure of the dependency. bounded calls end after breaker.timeout.
func (a *App) guard(name string, bounded bool) *breaker.Breaker {
	a.mu.Lock()
	defer a.mu.Unlock()
	if b := a.breakers[name]; b != nil {
		return b
	}
	s := a.breakerSettings(a.redis)
	s.Counts = isFailure
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

// isFailure says whether an error means that a dependency does not work, as opposed to an answer that one does not like.
func isFailure(err error) bool {
	if class := fault.ClassOf(err); class != "" && class != fault.Unavailable && class != fault.Timeout {
		return false
	}
	return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, anchors.ErrWriteOnly) &&
		!alert.IsRefusal(err) && !anchors.IsRefusal(err)
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
