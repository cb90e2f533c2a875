package monitor

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Replication is how far a server's standbys are, or, on a standby, how far itself.
type Replication struct {
	Standby  bool      `json:"standby"` // the server asked is one itself
	Standbys []Standby `json:"standbys"`
	Receiver *Receiver `json:"receiver"` // null on a primary
	Slots    []Slot    `json:"slots"`

	Configured []ConfiguredReplica `json:"configured"`
}

// ConfiguredReplica is a server of database.replicas as queries see it.
type ConfiguredReplica struct {
	Name       string   `json:"name"`
	Usable     bool     `json:"usable"`
	Reason     *string  `json:"reason"`      // why it is not
	LagBytes   *int64   `json:"lag_bytes"`   // behind the primary; null: not known
	LagSeconds *float64 `json:"lag_seconds"` // at most
	Paused     bool     `json:"paused"`
	Breaker    string   `json:"breaker"`
}

// Standby is a connected standby, or a client that reads the WAL as one does. What the role may not see is null.
type Standby struct {
	Application        string   `json:"application"`
	Client             string   `json:"client"`
	State              string   `json:"state"`
	Sync               string   `json:"sync_state"`
	UnsentBytes        *int64   `json:"unsent_bytes"`
	UnflushedBytes     *int64   `json:"unflushed_bytes"`
	UnreplayedBytes    *int64   `json:"unreplayed_bytes"`
	ReplayDelaySeconds *float64 `json:"replay_delay_seconds"` // null: nothing was written of late
}

// Receiver is how far the standby itself is.
type Receiver struct {
	Status             *string  `json:"status"` // null: it is not connected to a primary
	Sender             *string  `json:"sender"`
	UnreplayedBytes    *int64   `json:"unreplayed_bytes"`     // received, not replayed; null: it restores from an archive
	ReplayDelaySeconds *float64 `json:"replay_delay_seconds"` // 0: all that was received is replayed
	Paused             bool     `json:"paused"`
}

// Slot is a replication slot, which keeps WAL until its consumer has it.
type Slot struct {
	Name          string `json:"name"`
	Type          string `json:"type"`
	Active        bool   `json:"active"`
	RetainedBytes *int64 `json:"retained_bytes"`
	WALStatus     string `json:"wal_status"`
}

// Replicas reads the state of replication.
func Replicas(ctx context.Context, q Querier) (*Replication, error) {
	r := &Replication{Standbys: []Standby{}, Configured: []ConfiguredReplica{}}
	wrap := func(err error) (*Replication, error) {
		return nil, fmt.Errorf("read the state of replication: %w", err)
	}
	if err := q.QueryRow(ctx, roleSQL).Scan(&r.Standby); err != nil {
		return wrap(err)
	}
	if r.Standby {
		c := &Receiver{}
		if err := q.QueryRow(ctx, receiverSQL).Scan(&c.Status, &c.Sender, &c.UnreplayedBytes, &c.ReplayDelaySeconds, &c.Paused); err != nil {
			return wrap(err)
		}
		r.Receiver = c
	} else {
		rows, err := q.Query(ctx, standbysSQL)
		if err != nil {
			return wrap(err)
		}
		r.Standbys, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (s Standby, err error) {
			err = row.Scan(&s.Application, &s.Client, &s.State, &s.Sync, &s.UnsentBytes, &s.UnflushedBytes, &s.UnreplayedBytes, &s.ReplayDelaySeconds)
			return s, err
		})
		if err != nil {
			return wrap(err)
		}
	}
	rows, err := q.Query(ctx, slotsSQL)
	if err != nil {
		return wrap(err)
	}
	r.Slots, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (s Slot, err error) {
		err = row.Scan(&s.Name, &s.Type, &s.Active, &s.RetainedBytes, &s.WALStatus)
		return s, err
	})
	if err != nil {
		return wrap(err)
	}
	return r, nil
}
