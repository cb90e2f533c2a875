package indexes

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

const hypotheticalSQL = `SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace JOIN pg_proc p ON p.pronamespace = n.oid AND p.proname = 'hypopg_create_index'
WHERE e.extname = 'hypopg' AND has_schema_privilege(n.oid, 'USAGE') AND has_function_privilege(p.oid, 'EXECUTE') LIMIT 1`

// hypothetical are the indexes of HypoPG, which only EXPLAIN of this session sees.
type hypothetical struct {
	schema string
}

// findHypothetical is nil where HypoPG is not installed in the database.
func findHypothetical(ctx context.Context, q Querier) (*hypothetical, error) {
	var h hypothetical
	switch err := q.QueryRow(ctx, hypotheticalSQL).Scan(&h.schema); {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil //nolint:nilnil // it is not there
	case err != nil:
		return nil, fmt.Errorf("look for HypoPG: %w", err)
	}
	return &h, nil
}

// knows says whether HypoPG can stand for an index in a query. It ignores predicates and expressions but of the first table of a query, and
// always through a partitioned table; and it has no GIN.
func (h *hypothetical) knows(m *indexModel, q *queryModel) bool {
	if m.def.Method == methodGIN {
		return false
	}
	plain := m.def.Predicate == ""
	for _, k := range m.def.Keys {
		plain = plain && k.Expression == ""
	}
	return plain || len(m.table.key) == 0 && len(q.scans) == 1
}

// cost plans a query with indexes that are not there. They are gone again afterwards: rolling back does not remove them.
func (h *hypothetical) cost(ctx context.Context, e *explainer, q *queryModel, set []*indexModel) (float64, error) {
	statements := make([]string, 0, len(set)+1)
	for _, m := range set {
		statements = append(statements, "SELECT "+h.schema+".hypopg_create_index("+quoteText(m.def.DDL())+")")
	}
	plan, err := readPlan(e.run(ctx, append(statements, explainSQL+q.text)...))
	if _, reset := e.run(ctx, "SELECT "+h.schema+".hypopg_reset()"); err == nil {
		err = reset
	}
	if err != nil {
		return 0, err
	}
	return plan.Total, nil
}
