package indexes

import (
	"math"
	"math/bits"
	"slices"
)

func (l *logic) isJoin() bool {
	return len(l.in) == 2 && (l.node.Type == "Hash Join" || l.node.Type == "Nested Loop" || l.node.Type == "Merge Join")
}

// bare is a join's input without the node that keeps its rows.
func (l *logic) bare() *logic {
	for len(l.in) == 1 && len(l.subs) == 0 && (l.node.Type == "Hash" || l.node.Type == "Materialize" || l.node.Type == "Memoize") {
		l = l.in[0]
	}
	return l
}

// unit is what a group of inner joins joins.
type unit struct {
	logic *logic
	ways  []path
	scans []int
}

// edge is a condition between two units; share is of the pairs that pass.
type edge struct {
	a, b  int
	share float64
}

// joinGroup are inner joins whose order is free.
type joinGroup struct {
	units []unit
	edges []edge
}

// most units whose order is looked for; the joins of more stay in the order that they have.
const mostUnits = 8

func (v *evaluation) joined(l *logic) []path {
	if l.node.JoinType != "Inner" {
		return v.outerJoin(l)
	}
	g := &joinGroup{}
	v.collect(l, g, true)
	if len(g.units) > mostUnits {
		return v.through(l)
	}
	return v.orders(l, g)
}

// collect takes a tree of inner joins apart, and returns the units of it, a set of bits. A join with subqueries of its own is a unit, unless
// it is the one at the top.
func (v *evaluation) collect(l *logic, g *joinGroup, top bool) uint {
	l = l.bare()
	if !l.isJoin() || l.node.JoinType != "Inner" || len(l.subs) > 0 && !top {
		g.units = append(g.units, unit{logic: l, ways: v.ways(l), scans: l.scanIDs()})
		return 1 << (len(g.units) - 1)
	}
	left, right := v.collect(l.in[0], g, false), v.collect(l.in[1], g, false)
	share := l.node.Rows / math.Max(1, l.in[0].bare().node.Rows*l.in[1].bare().node.Rows)
	for _, c := range l.joins {
		a := g.unitOf(c.from.id)
		for _, other := range c.others {
			if b := g.unitOf(other); a >= 0 && b >= 0 && a != b && (left>>a&1 == 1) != (left>>b&1 == 1) && !slices.ContainsFunc(g.edges, func(e edge) bool { return e.a == b && e.b == a }) {
				g.edges = append(g.edges, edge{a, b, share})
				share = 1 // it belongs to all conditions of the join together
			}
		}
	}
	return left | right
}

// scanIDs are the scans of a node and below it.
func (l *logic) scanIDs() []int {
	if l.scan != nil {
		return []int{l.scan.id}
	}
	var ids []int
	for _, in := range l.in {
		ids = append(ids, in.scanIDs()...)
	}
	return ids
}

func (g *joinGroup) unitOf(scan int) int {
	return slices.IndexFunc(g.units, func(u unit) bool { return slices.Contains(u.scans, scan) })
}

// size is how many rows a set of units has when it is joined, and how wide they are.
func (g *joinGroup) size(set uint) (rows, width float64) {
	rows = 1
	for i, u := range g.units {
		if set>>i&1 == 1 {
			rows *= math.Max(u.logic.node.Rows, 1)
			width += u.logic.node.Width
		}
	}
	for _, e := range g.edges {
		if set>>e.a&1 == 1 && set>>e.b&1 == 1 {
			rows *= e.share
		}
	}
	return math.Max(rows, 1), width
}

func (g *joinGroup) linked(set uint, u int) bool {
	return slices.ContainsFunc(g.edges, func(e edge) bool { return e.a == u && set>>e.b&1 == 1 || e.b == u && set>>e.a&1 == 1 })
}

// orders looks for the best order of the joins, one unit after the other.
func (v *evaluation) orders(l *logic, g *joinGroup) []path {
	all := uint(1)<<len(g.units) - 1
	best := make([][]path, all+1)
	for set := uint(1); set <= all; set++ {
		if bits.OnesCount(set) == 1 {
			best[set] = g.units[bits.TrailingZeros(set)].ways
			continue
		}
		for u := range g.units {
			rest := set &^ (1 << u)
			if set>>u&1 == 0 || len(best[rest]) == 0 {
				continue
			}
			if g.linked(rest, u) || len(g.edges) < len(g.units)-1 {
				best[set] = append(best[set], v.pair(g, rest, u, best[rest])...)
			}
		}
		best[set] = prune(best[set])
	}
	if len(best[all]) == 0 {
		return v.through(l)
	}
	return best[all]
}

// pair joins a set of units with one more.
func (v *evaluation) pair(g *joinGroup, set uint, u int, ways []path) []path {
	rows, width := g.size(set)
	one := g.units[u]
	oneRows, oneWidth := math.Max(one.logic.node.Rows, 1), one.logic.node.Width
	result, _ := g.size(set | 1<<u)
	inner, outer := cheapest(one.ways), cheapest(ways)
	both := append(slices.Clone(inner.uses), outer.uses...)
	hashed := func(outer, inner path, h money) path {
		return path{money{outer.startup + inner.total + h.startup, outer.total + inner.total + h.total}, nil, both, 0}
	}
	found := []path{
		hashed(outer, inner, v.hash(rows, width, oneRows, oneWidth, result, 1)),
		hashed(inner, outer, v.hash(oneRows, oneWidth, rows, width, result, 1)),
	}
	if s := one.logic.scan; s != nil {
		var scans []int
		for i, other := range g.units {
			if set>>i&1 == 1 {
				scans = append(scans, other.scans...)
			}
		}
		found = append(found, v.looped(s, scans, ways, rows, result, 1)...)
	}
	if oneRows <= 2 { // a cross join with next to nothing
		for _, p := range ways {
			found = append(found, path{money{p.startup + inner.startup, p.total + rows*(inner.total-inner.startup) + inner.startup + v.cpuTuple*result}, p.order, both, 0})
		}
	}
	return found
}

// looped reads s by an index once for each outer row. matched is the share of the matches that are read until it is known enough.
func (v *evaluation) looped(s *scan, outer []int, ways []path, rows, result, matched float64) []path {
	var found []path
	for _, m := range v.indexes[s.table] {
		for _, in := range v.paths(s, m, outer, math.Max(rows, 1)) {
			each := in.startup + (in.total-in.startup)*matched
			for _, p := range ways {
				found = append(found, path{money{p.startup + in.startup, p.total + rows*each + v.cpuTuple*result}, p.order, append(slices.Clone(p.uses), m), 0})
			}
		}
	}
	return prune(found)
}

// outerJoin is for joins that keep, or only test, the rows of one side.
func (v *evaluation) outerJoin(l *logic) []path {
	a, b := l.in[0].bare(), l.in[1].bare()
	kept, other := a, b
	switch l.node.JoinType {
	case "Right", "Right Anti", "Right Semi":
		kept, other = b, a
	}
	first, second := v.best(a), v.best(b)
	own := money{l.node.Startup - l.in[1].node.Total, l.node.Total - l.in[0].node.Total - l.in[1].node.Total}
	found := []path{{money{second.total + math.Max(own.startup, 0), first.total + second.total + math.Max(own.total, 0)}, nil, append(slices.Clone(first.uses), second.uses...), 0}}
	if l.node.JoinType == "Full" {
		return found
	}
	if s := other.scan; s != nil {
		matched := 1.0
		if l.node.JoinType != "Left" && l.node.JoinType != "Right" {
			matched = math.Min(1, 2/(1+s.matches(kept.scanIDs())))
		}
		found = append(found, v.looped(s, kept.scanIDs(), v.ways(kept), math.Max(kept.node.Rows, 1), l.node.Rows, matched)...)
	}
	if s := kept.scan; s != nil && (l.node.JoinType == "Semi" || l.node.JoinType == "Right Semi") { // by the other side's different rows
		best := v.best(other)
		rows := math.Max(other.node.Rows, 1)
		for _, c := range other.joinsWith(s.id) {
			rows = math.Min(rows, c.from.table.distinct(c.key, rows))
		}
		best.total += 2 * v.cpuOperator * other.node.Rows
		found = append(found, v.looped(s, other.scanIDs(), []path{{money: best.money, uses: best.uses}}, rows, l.node.Rows, 1)...)
	}
	return found
}

// joinsWith are the conditions of a single table's scan with another one.
func (l *logic) joinsWith(id int) []*clause {
	if l.scan == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(l.scan.joins), func(c *clause) bool { return !slices.Contains(c.others, id) || c.key == "" })
}

// matches is how many rows of s one row of the outer scans finds.
func (s *scan) matches(outer []int) float64 {
	n := 0.0
	clauses := s.available(outer)
	for _, l := range s.leaves {
		n += shareOf(clauses, l) * l.tuples
	}
	return n
}
