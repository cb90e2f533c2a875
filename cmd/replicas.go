package cmd

import (
	"context"
	"time"

	"auditdb/internal/postgres"
	"auditdb/pkg/monitor"
)

// replicaConns is how many connections a run has to each replica at most.
const replicaConns = 2

// replicas are those of the configuration, for reads that change nothing afterwards; nil: there are none. call bounds one read of a replica, 0: not at all.
// Main closes them.
func (a *App) replicas(ctx context.Context, db *postgres.DB, command string, call time.Duration) (*postgres.Router, error) {
	c := a.Config
	if len(c.Database.Replicas) == 0 {
		return nil, nil //nolint:nilnil // none is configured
	}
	client, err := a.Redis(ctx)
	if err != nil {
		return nil, err
	}
	settings := a.breakerSettings(client)
	switch {
	case call <= 0:
		settings.Timeout = -1
	case call > settings.Timeout:
		settings.Timeout = call
	}
	r := postgres.NewRouter(db, postgres.RouterOptions{
		URLs: c.Database.Replicas, Application: command, MaxConns: replicaConns, MaxLag: c.Database.MaxReplicaLag, Breaker: settings, Now: a.Now, Log: a.Log,
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	a.routers = append(a.routers, r)
	return r, nil
}

// configuredReplicas looks at the replicas of the configuration, for monitor replicas.
func (a *App) configuredReplicas(ctx context.Context, db *postgres.DB) ([]monitor.ConfiguredReplica, error) {
	r, err := a.replicas(ctx, db, "monitor.replicas", 0)
	if err != nil || r == nil {
		return []monitor.ConfiguredReplica{}, err
	}
	var list []monitor.ConfiguredReplica
	for _, s := range r.States(ctx) {
		one := monitor.ConfiguredReplica{Name: s.Name, Usable: s.Usable, LagBytes: s.LagBytes, Paused: s.Paused, Breaker: string(s.Breaker)}
		if s.Reason != "" {
			one.Reason = &s.Reason
		} else {
			seconds := s.Lag.Seconds()
			one.LagSeconds = &seconds
		}
		list = append(list, one)
	}
	return list, nil
}
