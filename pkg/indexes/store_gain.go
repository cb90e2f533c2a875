package indexes

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

const (
	gainQueries = 50 // planned again at most, the first ones
	gainSQL     = `SELECT set_config('search_path', $1, true), set_config('statement_timeout', '10s', true), set_config('plan_cache_mode', 'force_generic_plan', true),
  set_config('max_parallel_workers_per_gather', '0', true)`
)

// Cost is what the planner now thinks of queries, summed over their calls; nil: none of them could be planned. They are only planned, in
// read-only transactions, under the role's own search path.
func (a *Applier) Cost(ctx context.Context, queries []Helped) *float64 {
	var total float64
	planned := false
	for _, q := range queries[:min(len(queries), gainQueries)] {
		if cost, err := a.cost(ctx, q.Query); err == nil {
			total, planned = total+cost*q.Calls, true
		}
	}
	if !planned {
		return nil
	}
	return &total
}

func (a *Applier) cost(ctx context.Context, query string) (cost float64, err error) {
	parameters, err := plannable(query)
	if err != nil {
		return 0, err
	}
	err = a.o.DB.TxWith(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, gainSQL, a.o.DB.UserSearchPath()); err != nil {
			return err
		}
		explain := "EXPLAIN (FORMAT JSON) " + query
		if parameters > 0 {
			if err := execute(ctx, tx.Conn(), "PREPARE auditdb_gain AS "+query); err != nil {
				return err
			}
			defer func() { _ = execute(context.WithoutCancel(ctx), tx.Conn(), "DEALLOCATE auditdb_gain") }() // fails where the transaction has: then it is gone with the session
			explain = "EXPLAIN (FORMAT JSON) EXECUTE auditdb_gain(" + strings.TrimSuffix(strings.Repeat("NULL, ", parameters), ", ") + ")"
		}
		read := tx.Conn().PgConn().ExecParams(ctx, explain, nil, nil, nil, nil).Read()
		if read.Err != nil || len(read.Rows) == 0 {
			return fmt.Errorf("plan a query again: %w", read.Err)
		}
		var plans []struct {
			Plan struct {
				Cost float64 `json:"Total Cost"`
			}
		}
		if err := json.Unmarshal(read.Rows[0][0], &plans); err != nil || len(plans) == 0 {
			return fmt.Errorf("read a plan: %w", err)
		}
		cost = plans[0].Plan.Cost
		return nil
	})
	return cost, err
}
