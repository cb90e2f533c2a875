package indexes

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// result puts the choice into words.
func (a *analyst) result() *Analysis {
	r := &Analysis{LeftOut: a.leftOut, Queries: len(a.queries), Hypothetical: a.hypo != nil, Notes: a.notes}
	c := newChooser(a.queries, a.o.Budget, a.heap())
	chosen := c.choose()
	write := map[*table]float64{}
	for _, m := range chosen {
		r.Recommendations = append(r.Recommendations, a.recommend(m, chosen))
		write[m.table] += m.wal
		r.WriteBytes = math.Max(r.WriteBytes, write[m.table])
	}
	for _, q := range a.queries {
		r.Calls += q.Calls
		r.CostBefore += q.before * q.Calls
		r.CostAfter += q.cost(q.concerned(chosen)) * q.Calls
	}
	for _, t := range a.tables {
		r.Tables = append(r.Tables, t.oid)
		r.Notes = append(r.Notes, t.outdone(chosen)...)
	}
	slices.SortStableFunc(r.Recommendations, func(x, y Recommendation) int { return descending(*x.Benefit, *y.Benefit) })
	return r
}

// outdone says which of the indexes that are there the new ones make redundant.
func (t *table) outdone(chosen []*indexModel) (notes []string) {
	for _, i := range t.indexes {
		by := slices.IndexFunc(chosen, func(m *indexModel) bool { return m.covers(i) })
		if by >= 0 {
			notes = append(notes, fmt.Sprintf("index %s is redundant once %s is there: index hygiene says so then", i.def.DisplayName(), chosen[by].def.DisplayName()))
		}
	}
	return notes
}

// recommend describes one member of a choice by what the others would do without it.
func (a *analyst) recommend(m *indexModel, chosen []*indexModel) Recommendation {
	without := slices.DeleteFunc(slices.Clone(chosen), func(o *indexModel) bool { return o == m })
	r := Recommend(ActionCreate, m.def, "", evidenceModel)
	var before, after float64
	for _, q := range a.queries {
		with := q.cost(q.concerned(chosen))
		alone := q.cost(q.concerned(without))
		if alone-with < 0.01*alone {
			continue
		}
		r.Queries = append(r.Queries, Helped{Query: q.Text, Calls: q.Calls, CostBefore: alone, CostAfter: with})
		before, after = before+alone*q.Calls, after+with*q.Calls
		if used := onlyNew(q.run(q.concerned(chosen)).uses); slices.Contains(used, m) {
			if _, ok := q.measured[nameOf(used)]; ok {
				r.Evidence = evidenceHypothetical
			}
		}
	}
	size := int64(m.size)
	benefit := before - after
	r.Benefit, r.CostBefore, r.CostAfter, r.SizeBytes, r.WritePenalty = &benefit, &before, &after, &size, &m.wal
	r.Confidence = "medium"
	if r.Evidence == evidenceHypothetical {
		r.Confidence = "high"
	} else if m.def.Method != BTree {
		r.Confidence = "low"
	}
	slices.SortStableFunc(r.Queries, func(x, y Helped) int {
		return descending((x.CostBefore-x.CostAfter)*x.Calls, (y.CostBefore-y.CostAfter)*y.Calls)
	})
	r.Reason = a.reason(m, r.Queries)
	return r
}

// What recommendations of an analysis rest on.
const (
	evidenceHypothetical = "hypopg"     // plans with hypothetical indexes
	evidenceModel        = "cost model" // the planner's estimates of rows, and its formulas
)

func (a *analyst) reason(m *indexModel, helped []Helped) string {
	var parts []string
	switch {
	case m.def.Method == methodGIN && isTrigram(m.def.Keys[0].OpClass):
		parts = append(parts, "finds text within texts")
	case m.def.Method == methodGIN:
		parts = append(parts, "finds what documents hold")
	case m.def.Method == methodBRIN:
		parts = append(parts, "skips pages without rows of a range, at next to no cost of writes")
	default:
		parts = append(parts, "finds rows by "+m.def.KeyText())
	}
	if m.def.Predicate != "" {
		parts = append(parts, fmt.Sprintf("holds %.3g%% of the rows only", m.kept*100))
	}
	if len(m.def.Include) > 0 {
		parts = append(parts, "answers without a look at the table where its pages are all visible")
	}
	if len(helped) > 0 && helped[0].CostAfter > 0 {
		parts = append(parts, fmt.Sprintf("makes %d of the queries cheaper, the one that gains most %.3g times", len(helped), helped[0].CostBefore/helped[0].CostAfter))
	}
	return strings.Join(parts, "; ")
}

// Together joins what a workload needs and what hygiene asks for. Of the indexes that both make, those that others cover are left out.
func Together(needs, others []Recommendation) []Recommendation {
	all := append(slices.Clone(needs), others...)
	return slices.DeleteFunc(slices.Clone(all), func(r Recommendation) bool {
		return r.Action == ActionCreate && slices.ContainsFunc(all, func(o Recommendation) bool { return o.replaces(r) })
	})
}

// replaces says whether one index that is to be made serves all that another would. Of two alike the one with a known benefit stays.
func (r Recommendation) replaces(o Recommendation) bool {
	same := r.Action == ActionCreate && r.Definition.Schema == o.Definition.Schema && r.Definition.Table == o.Definition.Table
	if !same || !r.Definition.Covers(o.Definition) {
		return false
	}
	return !o.Definition.Covers(r.Definition) || r.Benefit != nil && o.Benefit == nil
}
