package indexes

import (
	"context"
	"math"
	"strings"
)

// shares finds out what part of the rows passes conditions, by asking the planner. It remembers the answers.
type shares struct {
	explainer *explainer
	harmless  func(text string) bool        // whether an expression may be computed for some rows
	known     map[string]map[uint32]float64 // rows by leaf, by what was asked
}

// measure sets the shares of all conditions of a scan.
func (m *shares) measure(ctx context.Context, s *scan) error {
	for _, c := range s.clauses {
		if err := m.clause(ctx, s, c); err != nil {
			return err
		}
	}
	for _, c := range s.joins {
		c.guess(s)
	}
	return nil
}

func (m *shares) clause(ctx context.Context, s *scan, c *clause) error {
	for _, arm := range c.arms {
		for _, a := range arm {
			if err := m.clause(ctx, s, a); err != nil {
				return err
			}
		}
	}
	if len(c.others) > 0 || len(parseExpr(c.raw).params()) > 0 || strings.Contains(c.raw, "SubPlan") {
		c.guess(s)
		return nil
	}
	rows, err := m.ask(ctx, s.table, c.text)
	if err != nil {
		return err
	}
	if rows == nil {
		c.guess(s)
		return nil
	}
	c.set(s, func(l *leaf) float64 { return rows[l.oid] / math.Max(l.tuples, 1) })
	return m.adjustExpression(ctx, s, c)
}

// set gives a condition its share of each leaf, and of all together.
func (c *clause) set(s *scan, of func(*leaf) float64) {
	c.shares = make(map[uint32]float64, len(s.leaves))
	var passed, all float64
	for _, l := range s.leaves {
		share := math.Max(0, math.Min(1, of(l)))
		c.shares[l.oid] = share
		passed, all = passed+share*l.tuples, all+l.tuples
	}
	if c.share = 1; all > 0 {
		c.share = passed / all
	}
}

// guess is for values that are not known when planning, by the planner's own defaults.
func (c *clause) guess(s *scan) {
	c.set(s, func(l *leaf) float64 {
		switch c.kind {
		case clauseEqual:
			return 1 / s.table.distinct(c.key, l.tuples)
		case clauseAny:
			return math.Min(1, 10/s.table.distinct(c.key, l.tuples))
		case clauseRange, clauseRow:
			return 1. / 3
		case clausePrefix, clauseInfix, clauseContains, clauseHas, clauseMember:
			return 0.005
		}
		return 0.5
	})
}

// adjustExpression corrects what the planner assumes of expressions, which have no statistics until an index is on them: lower(x) has
// about as many values as x, and of others a few rows tell what part of them passes.
func (m *shares) adjustExpression(ctx context.Context, s *scan, c *clause) error {
	if c.kind != clauseEqual && c.kind != clauseRange || !strings.HasPrefix(c.key, expressionKey) {
		return nil
	}
	if col := s.table.columns[folded(c.key)]; col != nil && c.kind == clauseEqual {
		c.set(s, func(l *leaf) float64 { return math.Min(c.shares[l.oid], 1/col.distinctOf(l.tuples)) })
		return nil
	}
	if !c.constant || !m.harmless(strings.TrimPrefix(c.key, expressionKey)) {
		return nil
	}
	share, ok, err := m.explainer.sampleShare(ctx, s.table, c.text)
	if err == nil && ok {
		c.set(s, func(*leaf) float64 { return share })
	}
	return err
}

// folded is the column that a key is the lower or upper case of; "": it is something else.
func folded(key string) string {
	e := parseExpr(strings.TrimPrefix(key, expressionKey))
	if e.kind != exprCall || e.name != "lower" && e.name != "upper" || len(e.args) != 1 {
		return ""
	}
	if cols := e.columns(); len(cols) == 1 {
		return cols[0].name
	}
	return ""
}

// ask plans a scan with one condition and returns the rows that the planner expects of each leaf; nil: the condition cannot stand alone.
func (m *shares) ask(ctx context.Context, t *table, text string) (map[uint32]float64, error) {
	query := "SELECT 1 FROM " + relationKey(t.schema, t.name) + " WHERE " + text
	if known, ok := m.known[query]; ok {
		return known, nil
	}
	plan, err := m.explainer.plan(ctx, query, false)
	if err != nil {
		if ctx.Err() != nil || m.explainer.broken() {
			return nil, err
		}
		m.known[query] = nil
		return nil, nil
	}
	byName := map[string]uint32{}
	for _, l := range t.leaves {
		byName[relationKey(l.schema, l.name)] = l.oid
	}
	rows := map[uint32]float64{}
	plan.walk(func(n *planNode) {
		if oid, ok := byName[relationKey(n.Schema, n.Relation)]; ok {
			rows[oid] = n.Rows
		}
	})
	m.known[query] = rows
	return rows, nil
}
