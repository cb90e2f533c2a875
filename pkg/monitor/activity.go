package monitor

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/postgres"
)

// Counters are a server's totals at one moment.
type Counters struct {
	Version      string
	Uptime       float64 // seconds
	Standby      bool
	Transactions int64
	BlocksHit    int64
	BlocksRead   int64
	RowsInserted int64
	At           time.Time // by the server's clock
}

// ReadCounters reads the totals.
func ReadCounters(ctx context.Context, q Querier) (c Counters, err error) {
	err = q.QueryRow(ctx, countersSQL).Scan(&c.Version, &c.Uptime, &c.Standby, &c.Transactions, &c.BlocksHit, &c.BlocksRead, &c.RowsInserted, &c.At)
	if err != nil {
		return c, fmt.Errorf("read the server's counters: %w", err)
	}
	return c, nil
}

// Rates are what happened between two moments, a second. Null where there is nothing to divide by, or the server was restarted or its statistics
// were reset in between.
type Rates struct {
	Transactions *float64 `json:"transactions_per_second"`
	RowsInserted *float64 `json:"rows_inserted_per_second"`
	HitRatio     *float64 `json:"cache_hit_ratio"`
}

// RatesSince compares with earlier counters.
func (c Counters) RatesSince(before Counters) (r Rates) {
	seconds := c.At.Sub(before.At).Seconds()
	if seconds <= 0 || c.Uptime < before.Uptime || c.Transactions < before.Transactions || c.BlocksHit < before.BlocksHit {
		return r
	}
	transactions, rows := float64(c.Transactions-before.Transactions)/seconds, float64(c.RowsInserted-before.RowsInserted)/seconds
	r.Transactions, r.RowsInserted = &transactions, &rows
	hit, read := c.BlocksHit-before.BlocksHit, c.BlocksRead-before.BlocksRead
	if hit+read > 0 {
		ratio := float64(hit) / float64(hit+read)
		r.HitRatio = &ratio
	}
	return r
}

// MissingGrant is what a role lacks to see the sessions of others; "": nothing.
func MissingGrant(ctx context.Context, q Querier) (grant string, err error) {
	if err := q.QueryRow(ctx, missingGrantSQL).Scan(&grant); err != nil {
		return "", fmt.Errorf("read the rights of the role: %w", err)
	}
	return grant, nil
}

// Session is a session that does something, or holds a transaction open.
type Session struct {
	PID                int      `json:"pid"`
	Application        string   `json:"application"`
	User               string   `json:"user"`
	Database           string   `json:"database"`
	State              string   `json:"state"`
	Wait               string   `json:"wait"` // type:event
	TransactionSeconds *float64 `json:"transaction_seconds"`
	QuerySeconds       *float64 `json:"query_seconds"`
	Query              string   `json:"query"` // without literals, at most 200 characters
}

// Activity lists the sessions that are not idle, the longest transactions first.
func Activity(ctx context.Context, q Querier, limit int) ([]Session, error) {
	rows, err := q.Query(ctx, activitySQL, limit)
	if err != nil {
		return nil, fmt.Errorf("read the sessions: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s Session, err error) {
		err = row.Scan(&s.PID, &s.Application, &s.User, &s.Database, &s.State, &s.Wait, &s.TransactionSeconds, &s.QuerySeconds, &s.Query)
		s.Query = postgres.Shape(s.Query, shapeLimit)
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the sessions: %w", err)
	}
	return list, nil
}
