package indexes

import (
	"math"
	"slices"
	"strconv"
)

// queryModel is a query that is analyzed.
type queryModel struct {
	Query
	text       string  // with values in place of parameters
	before     float64 // the planner's cost with the indexes that are there
	modelled   float64 // ours
	ideal      float64 // with all that was thought of for it
	logic      *logic
	scans      []*scan
	reckoner   *reckoner
	tables     []*table
	candidates []*indexModel
	bundles    [][]*indexModel    // that are worth something together
	measured   map[string]float64 // by the indexes that are used: the planner's cost with hypothetical ones
	costs      map[string]float64 // what was reckoned already
	now        float64            // cost with what is chosen
}

// log is the gain of a query in orders of e.
func (q *queryModel) log(cost float64) float64 {
	return math.Max(0, math.Log(math.Max(q.before, 0.01)/math.Max(cost, 0.01)))
}

// run evaluates a query with more indexes than those that are there.
func (q *queryModel) run(more []*indexModel) path {
	config := configuration{}
	for _, t := range q.tables {
		config[t] = t.indexes
	}
	for _, m := range more {
		if slices.Contains(q.tables, m.table) {
			config[m.table] = append(slices.Clone(config[m.table]), m)
		}
	}
	v := &evaluation{reckoner: q.reckoner, indexes: config, scans: q.scans}
	return v.best(q.logic)
}

// cost is what a query costs with more indexes: what was measured of the way that it then takes, else what is reckoned; never more than
// now, since nobody has to use an index.
func (q *queryModel) cost(more []*indexModel) float64 {
	if len(more) == 0 {
		return q.before
	}
	name := nameOf(more)
	cost, ok := q.costs[name]
	if !ok {
		cost = q.reckon(more)
		q.costs[name] = cost
	}
	return cost
}

func (q *queryModel) reckon(more []*indexModel) float64 {
	p := q.run(more)
	used := onlyNew(p.uses)
	if len(used) == 0 {
		return q.before
	}
	if known, ok := q.measured[nameOf(used)]; ok {
		return math.Min(known, q.before)
	}
	return math.Min(p.total*q.correction(), q.before)
}

// correction is how far the model is off where it can be compared with the planner, within reason.
func (q *queryModel) correction() float64 {
	return math.Max(0.5, math.Min(q.before/math.Max(q.modelled, 0.01), 1))
}

// onlyNew are the indexes of a list that are not there yet, each once.
func onlyNew(uses []*indexModel) []*indexModel {
	var found []*indexModel
	for _, m := range uses {
		if !m.existing && !slices.Contains(found, m) {
			found = append(found, m)
		}
	}
	return found
}

// nameOf identifies a set of indexes.
func nameOf(set []*indexModel) string {
	ids := make([]int, len(set))
	for i, m := range set {
		ids[i] = m.id
	}
	slices.Sort(ids)
	name := make([]byte, 0, 8*len(ids))
	for _, id := range ids {
		name = append(strconv.AppendInt(name, int64(id), 10), ' ')
	}
	return string(name)
}

// concerned are the indexes of a set that a query might use.
func (q *queryModel) concerned(set []*indexModel) []*indexModel {
	return slices.DeleteFunc(slices.Clone(set), func(m *indexModel) bool { return !slices.Contains(q.candidates, m) })
}

// needed is a set without the members that others of it cover: hygiene would call those redundant. Of two that cover each other, as those of
// opposite directions do, the one that was thought of first stays.
func needed(set []*indexModel) []*indexModel {
	return slices.DeleteFunc(slices.Clone(set), func(m *indexModel) bool {
		return slices.ContainsFunc(set, func(o *indexModel) bool { return o != m && o.covers(m) && (o.id < m.id || !m.covers(o)) })
	})
}

// covers remembers what Definition.Covers says: sets are compared very often.
func (m *indexModel) covers(o *indexModel) bool {
	if m.table != o.table {
		return false
	}
	covered, known := m.covered[o]
	if !known {
		covered = m.def.Covers(o.def)
		m.covered[o] = covered
	}
	return covered
}
