// Package monitor reads what a server is doing now: who waits for whom, which statements take its time, who is connected, how far its standbys
// are, how its tables grow. It changes nothing and needs nothing of auditdb's own schema.
package monitor

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"auditdb/internal/postgres"
)

// Querier is what reads need: a pool, a connection or a transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// shapeLimit is how many characters of a statement are shown.
const shapeLimit = 200

// LockSession is a session that waits for a lock or keeps others waiting.
type LockSession struct {
	PID                int      `json:"pid"`   // 0: prepared transactions, see pg_prepared_xacts
	Depth              int      `json:"depth"` // 0: it waits for nobody
	BlockedBy          []int    `json:"blocked_by"`
	Blocks             int      `json:"blocks"` // sessions that wait for it directly
	Application        string   `json:"application"`
	User               string   `json:"user"`
	Database           string   `json:"database"`
	Client             string   `json:"client"`
	Backend            string   `json:"backend"`
	State              string   `json:"state"`
	WaitSeconds        *float64 `json:"wait_seconds"`        // null: it does not wait
	TransactionSeconds *float64 `json:"transaction_seconds"` // null: it is in none, or that may not be seen
	Mode               string   `json:"mode"`                // of the lock that it waits for
	Object             string   `json:"object"`
	Query              string   `json:"query"` // without literals, at most 200 characters
}

// Locks lists who waits for whom: each session that waits for nobody, then those that wait for it, and so on.
func Locks(ctx context.Context, q Querier) ([]LockSession, error) {
	rows, err := q.Query(ctx, locksSQL)
	if err != nil {
		return nil, fmt.Errorf("look for sessions that wait for locks: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s LockSession, err error) {
		err = row.Scan(&s.PID, &s.BlockedBy, &s.Application, &s.User, &s.Database, &s.Client, &s.Backend, &s.State, &s.WaitSeconds, &s.TransactionSeconds, &s.Mode, &s.Object, &s.Query)
		s.Query = postgres.Shape(s.Query, shapeLimit)
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("look for sessions that wait for locks: %w", err)
	}
	return tree(list), nil
}

// tree puts sessions below the first of those that they wait for. Sessions that wait for each other in a circle, which the server is about to
// break, begin a tree of their own.
func tree(list []LockSession) []LockSession {
	waiters := map[int][]int{} // by the pid that is waited for: positions
	for i := range list {
		slices.Sort(list[i].BlockedBy)
		list[i].BlockedBy = slices.Compact(list[i].BlockedBy)
		for _, pid := range list[i].BlockedBy {
			waiters[pid] = append(waiters[pid], i)
		}
	}
	out := make([]LockSession, 0, len(list))
	done := make([]bool, len(list))
	var place func(at, depth int)
	place = func(at, depth int) {
		if done[at] {
			return
		}
		done[at] = true
		list[at].Depth, list[at].Blocks = depth, len(waiters[list[at].PID])
		out = append(out, list[at])
		for _, w := range waiters[list[at].PID] {
			place(w, depth+1)
		}
	}
	for _, roots := range []bool{true, false} {
		for i := range list {
			if !roots || len(list[i].BlockedBy) == 0 {
				place(i, 0)
			}
		}
	}
	return out
}
