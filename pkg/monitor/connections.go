package monitor

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Connections is who is connected, and how much room is left.
type Connections struct {
	Used     int64             `json:"used"`
	Max      int64             `json:"max"`      // max_connections
	Reserved int64             `json:"reserved"` // for superusers and privileged roles
	Groups   []ConnectionGroup `json:"groups"`
}

// ConnectionGroup is the connections of one application in one state. state is "" where it may not be seen.
type ConnectionGroup struct {
	User               string   `json:"user"`
	Application        string   `json:"application"`
	Database           string   `json:"database"`
	State              string   `json:"state"`
	Count              int64    `json:"count"`
	TransactionSeconds *float64 `json:"longest_transaction_seconds"`
	StateSeconds       *float64 `json:"longest_in_state_seconds"`
}

// ReadConnections groups the client connections of the whole server, the largest groups first.
func ReadConnections(ctx context.Context, q Querier) (*Connections, error) {
	c := &Connections{}
	if err := q.QueryRow(ctx, capacitySQL).Scan(&c.Max, &c.Reserved); err != nil {
		return nil, fmt.Errorf("read the connections: %w", err)
	}
	rows, err := q.Query(ctx, connectionsSQL)
	if err != nil {
		return nil, fmt.Errorf("read the connections: %w", err)
	}
	c.Groups, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (g ConnectionGroup, err error) {
		err = row.Scan(&g.User, &g.Application, &g.Database, &g.State, &g.Count, &g.TransactionSeconds, &g.StateSeconds)
		c.Used += g.Count
		return g, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the connections: %w", err)
	}
	return c, nil
}
