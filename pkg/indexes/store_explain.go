package indexes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	planSettingsSQL = `SELECT set_config('search_path', $1, true), set_config('statement_timeout', $2, true), set_config('max_parallel_workers_per_gather', '0', true), set_config('jit', 'off', true)`
	costSettingsSQL = `SELECT current_setting('seq_page_cost')::float8, current_setting('random_page_cost')::float8, current_setting('cpu_tuple_cost')::float8, current_setting('cpu_index_tuple_cost')::float8,
  current_setting('cpu_operator_cost')::float8, (SELECT setting::float8 FROM pg_settings WHERE name = 'effective_cache_size'), (SELECT setting::float8 * 1024 FROM pg_settings WHERE name = 'work_mem'), current_setting('block_size')::float8, current_setting('server_version_num')::int`
	// withoutIndexesSQL makes the planner show all conditions and all sorting: nothing is hidden in an index.
	withoutIndexesSQL = `SELECT set_config('enable_indexscan', 'off', true), set_config('enable_indexonlyscan', 'off', true), set_config('enable_bitmapscan', 'off', true), set_config('enable_mergejoin', 'off', true),
  set_config('enable_incremental_sort', 'off', true), set_config('enable_memoize', 'off', true), set_config('enable_tidscan', 'off', true)`
	genericSQL   = `SELECT set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_partition_pruning', 'off', true)`
	prepared     = "auditdb_analyze"
	parameterSQL = `SELECT parameter_types::text[] FROM pg_prepared_statements WHERE name = '` + prepared + `'`
	explainSQL   = "EXPLAIN (VERBOSE, FORMAT JSON) "
)

// explainer plans statements and never runs one. Each is planned in a savepoint that is rolled back, so that no lock of a table is held
// longer than that, in a read-only transaction with a statement_timeout.
type explainer struct {
	tx    pgx.Tx
	cost  costSettings
	major int
}

func newExplainer(ctx context.Context, tx pgx.Tx, searchPath string, timeout time.Duration) (*explainer, error) {
	e := &explainer{tx: tx}
	if _, err := tx.Exec(ctx, planSettingsSQL, searchPath, strconv.FormatInt(timeout.Milliseconds(), 10)); err != nil {
		return nil, fmt.Errorf("prepare to plan: %w", err)
	}
	c := &e.cost
	var version int
	if err := tx.QueryRow(ctx, costSettingsSQL).Scan(&c.seqPage, &c.randomPage, &c.cpuTuple, &c.cpuIndexTuple, &c.cpuOperator, &c.cachePages, &c.workMem, &c.block, &version); err != nil {
		return nil, fmt.Errorf("read the planner's settings: %w", err)
	}
	e.major = version / 10000
	return e, nil
}

// run sends statements between SAVEPOINT and ROLLBACK TO, in one round trip, and returns the first column of the last one's first row.
// Each is a message of its own: a text that holds several statements is an error.
func (e *explainer) run(ctx context.Context, statements ...string) ([]byte, error) {
	all := append(append([]string{"SAVEPOINT auditdb_plan"}, statements...), "ROLLBACK TO SAVEPOINT auditdb_plan")
	pipeline := e.tx.Conn().PgConn().StartPipeline(ctx)
	for _, s := range all {
		pipeline.SendQueryParams(s, nil, nil, nil, nil)
	}
	if err := pipeline.Sync(); err != nil {
		return nil, errors.Join(err, pipeline.Close())
	}
	answer, failed := e.results(pipeline, len(statements))
	if err := pipeline.Close(); failed == nil {
		failed = err
	}
	if failed != nil && !e.broken() {
		if err := execute(ctx, e.tx.Conn(), "ROLLBACK TO SAVEPOINT auditdb_plan"); err != nil {
			return nil, err
		}
	}
	return answer, failed
}

func (e *explainer) results(pipeline *pgconn.Pipeline, wanted int) (answer []byte, failed error) {
	for n := 0; ; n++ {
		result, err := pipeline.GetResults()
		if err != nil {
			if failed = err; e.broken() {
				return nil, failed
			}
			continue
		}
		reader, ok := result.(*pgconn.ResultReader)
		if !ok { // the end of the pipeline
			return answer, failed
		}
		read := reader.Read()
		if failed == nil {
			failed = read.Err
		}
		if n == wanted && len(read.Rows) > 0 {
			answer = read.Rows[0][0]
		}
	}
}

// broken says whether the connection is gone.
func (e *explainer) broken() bool { return e.tx.Conn().IsClosed() }

// plan gives the planner's plan of a statement without parameters; bare: one that uses no index.
func (e *explainer) plan(ctx context.Context, query string, bare bool) (*planNode, error) {
	if bare {
		return readPlan(e.run(ctx, withoutIndexesSQL, explainSQL+query))
	}
	return readPlan(e.run(ctx, explainSQL+query))
}

// generic gives the plan without indexes of a statement with parameters, over all partitions, and the types of the parameters. Since
// PostgreSQL 16 EXPLAIN (GENERIC_PLAN) makes it; before, a prepared statement, which is dropped again.
func (e *explainer) generic(ctx context.Context, query string) (*planNode, []string, error) {
	if _, err := e.run(ctx, "PREPARE "+prepared+" AS "+query); err != nil {
		return nil, nil, err
	}
	defer func() { _ = execute(context.WithoutCancel(ctx), e.tx.Conn(), "DEALLOCATE "+prepared) }() // it fails where the session has ended
	var types []string
	if err := e.tx.QueryRow(ctx, parameterSQL).Scan(&types); err != nil {
		return nil, nil, fmt.Errorf("read types of parameters: %w", err)
	}
	if e.major >= 16 {
		if plan, err := readPlan(e.run(ctx, withoutIndexesSQL, genericSQL, "EXPLAIN (GENERIC_PLAN, VERBOSE, FORMAT JSON) "+query)); err == nil {
			return plan, types, nil
		}
	}
	values := strings.TrimSuffix(strings.Repeat("NULL, ", len(types)), ", ")
	plan, err := readPlan(e.run(ctx, withoutIndexesSQL, genericSQL, explainSQL+"EXECUTE "+prepared+"("+values+")"))
	return plan, types, err
}

func readPlan(answer []byte, err error) (*planNode, error) {
	if err != nil {
		return nil, err
	}
	var plans []struct{ Plan *planNode }
	if err := json.Unmarshal(answer, &plans); err != nil {
		return nil, fmt.Errorf("read a plan: %w", err)
	}
	if len(plans) == 0 || plans[0].Plan == nil {
		return nil, errors.New("EXPLAIN gave no plan")
	}
	return plans[0].Plan, nil
}
