package indexes

import (
	"math"
	"slices"
	"strings"
)

// evaluation reckons one query under one configuration.
type evaluation struct {
	*reckoner
	indexes configuration
	scans   []*scan
}

// configuration are the indexes that each table has, or would have.
type configuration map[*table][]*indexModel

// best is the cheapest way to run a query.
func (v *evaluation) best(l *logic) path {
	return cheapest(v.ways(l))
}

func cheapest(ways []path) path {
	return slices.MinFunc(ways, func(a, b path) int { return descending(b.total, a.total) })
}

// ways are the ways to get a node's rows that may turn out best, the cheapest and those in an order that helps. There is always one.
func (v *evaluation) ways(l *logic) []path {
	var found []path
	switch {
	case l.scan != nil:
		found = v.scanWays(l)
	case l.node.Type == "Limit" && len(l.in) == 1:
		found = v.limited(l)
	case l.node.Type == "Sort" && len(l.in) == 1:
		found = v.sorted(l)
	case l.node.Type == "Aggregate" && len(l.in) == 1:
		found = v.aggregated(l)
	case l.isJoin():
		found = v.joined(l)
	default:
		found = v.through(l)
	}
	if l.scan == nil {
		for _, sub := range l.subs { // of a filter of groups or joins, or a common table expression
			saved := sub.node.Total - v.best(sub).total
			for i := range found {
				found[i].total -= saved
				found[i].uses = append(slices.Clone(found[i].uses), v.best(sub).uses...)
			}
		}
	}
	return prune(found)
}

// scanWays are the ways to read a table.
func (v *evaluation) scanWays(l *logic) []path {
	s := l.scan
	found := []path{{money: s.cost}}
	for _, m := range v.indexes[s.table] {
		found = append(found, v.paths(s, m, nil, 1)...)
	}
	for _, c := range s.clauses {
		if c.kind == clauseOr {
			found = append(found, v.either(s, c)...)
		}
	}
	for _, sub := range l.subs {
		best := v.best(sub)
		often := 1.0
		if sub.node.Relationship == "SubPlan" && !strings.Contains(l.scan.nodes[0].Filter, "hashed SubPlan") {
			rest := s.cost.total
			for _, leaf := range s.leaves {
				rest -= leaf.pages*v.seqPage + leaf.tuples*v.cpuTuple
			}
			often = math.Max(1, rest/math.Max(sub.node.Total, 0.01))
		}
		for i := range found {
			calls := often
			if i > 0 { // reckoned without the subquery
				calls = math.Min(often, math.Max(1, found[i].fetched))
				found[i].total += calls * best.total
			} else {
				found[i].total += calls * (best.total - sub.node.Total)
			}
			found[i].uses = append(slices.Clone(found[i].uses), best.uses...)
		}
	}
	return found
}

// either reads the rows of a condition with OR by an index for each of its arms.
func (v *evaluation) either(s *scan, c *clause) []path {
	p := path{}
	costs := map[uint32]money{}
	for _, arm := range c.arms {
		var chosen *indexModel
		var chosenCosts map[uint32]money
		least := math.Inf(1)
		for _, m := range v.indexes[s.table] {
			one, ok := v.armCosts(s, m, arm)
			if total := sum(one); ok && total < least {
				chosen, chosenCosts, least = m, one, total
			}
		}
		if chosen == nil {
			return nil
		}
		p.uses = append(p.uses, chosen)
		for oid, one := range chosenCosts {
			costs[oid] = money{total: costs[oid].total + one.total}
		}
	}
	for i, l := range s.leaves {
		one := v.bitmapScan(probe{leaf: l, all: c.shares[l.oid], filters: float64(len(s.clauses)), conditions: float64(len(c.arms)), arrays: 1, loops: 1, totalPages: v.totalPages}, costs[l.oid])
		if p.total += one.total; i == 0 {
			p.startup = one.startup
		}
		p.fetched += c.shares[l.oid] * l.tuples
	}
	return []path{p}
}

func sum(costs map[uint32]money) (total float64) {
	for _, m := range costs {
		total += m.total
	}
	return total
}

// armCosts is what it costs to find the rows of one arm in an index, by leaf.
func (v *evaluation) armCosts(s *scan, m *indexModel, arm []*clause) (map[uint32]money, bool) {
	all := append(slices.Clone(arm), s.clauses...)
	u := s.fit(m, all)
	if u == nil {
		return nil, false
	}
	costs := map[uint32]money{}
	if m.def.Method == methodGIN {
		for _, c := range arm {
			if c.key == m.keys[0] && c.keywords > 0 && ginServes(m.def.Keys[0].OpClass, c.kind) {
				for _, l := range s.leaves {
					costs[l.oid] = v.gin(v.probeOf(s, m, &use{clauses: arm, arrays: 1, checks: []*clause{c}}, l, 1), c.keywords)
				}
				return costs, true
			}
		}
		return nil, false
	}
	if m.def.Method != BTree || !slices.ContainsFunc(u.bounds, func(c *clause) bool { return slices.Contains(arm, c) }) {
		return nil, false
	}
	for _, l := range s.leaves {
		costs[l.oid] = v.btree(v.probeOf(s, m, u, l, 1))
	}
	return costs, true
}

// limited takes the first rows.
func (v *evaluation) limited(l *logic) []path {
	in := l.in[0].node
	share := math.Min(1, l.node.Rows/math.Max(in.Rows, 1))
	if in.Rows <= l.node.Rows {
		share = math.Min(1, (l.node.Total-in.Startup)/math.Max(in.Total-in.Startup, 1e-9))
	}
	found := v.ways(l.in[0])
	for i, p := range found {
		found[i].total = p.part(share)
	}
	return found
}

// sorted sorts what is not in order already.
func (v *evaluation) sorted(l *logic) []path {
	in := l.in[0].node
	own := money{l.node.Startup - in.Total, l.node.Total - in.Total}
	var found []path
	for _, p := range v.ways(l.in[0]) {
		common := inOrder(p.order, l.order)
		if common == len(l.order) {
			found = append(found, p)
			continue
		}
		found = append(found, path{money{p.total + own.startup, p.total + own.total}, l.order, p.uses, p.fetched})
		if common > 0 {
			found = append(found, v.sortGroups(l, p, common))
		}
	}
	return found
}

// sortGroups sorts rows that are in order by the first keys already, group by group: cost_incremental_sort.
func (v *evaluation) sortGroups(l *logic, p path, common int) path {
	rows := math.Max(l.node.Rows, 1)
	groups := 1.0
	for _, k := range l.order[:common] {
		if k.scan >= 0 {
			groups *= v.scans[k.scan].table.distinct(k.key, rows)
		}
	}
	groups = math.Max(1, math.Min(groups, rows))
	one := v.sort(1.5*rows/groups, l.node.Width, 0)
	return path{
		money:   money{p.startup + (p.total-p.startup)/groups + one.startup, p.total + groups*one.total + rows*(v.cpuTuple+2*v.cpuOperator) + 2*groups*v.cpuTuple},
		order:   l.order,
		uses:    p.uses,
		fetched: p.fetched,
	}
}

// inOrder says how many of the wanted keys, from the first on, an order has.
func inOrder(order, wanted []sortKey) int {
	n := 0
	for n < len(order) && n < len(wanted) && order[n] == wanted[n] {
		n++
	}
	return n
}

// grouped says whether rows of an order have equal group keys next to each other.
func grouped(order, keys []sortKey) bool {
	if len(order) < len(keys) {
		return false
	}
	for _, k := range keys {
		if !slices.ContainsFunc(order[:len(keys)], func(o sortKey) bool { return o.key == k.key && o.scan == k.scan }) {
			return false
		}
	}
	return true
}

func (v *evaluation) aggregated(l *logic) []path {
	n, in := l.node, l.in[0].node
	own := n.Total - in.Total
	var found []path
	for _, p := range v.ways(l.in[0]) {
		switch n.Strategy {
		case "Plain":
			if l.order != nil && inOrder(p.order, l.order) == len(l.order) {
				total := p.part(1/math.Max(in.Rows, 1)) + v.cpuTuple
				found = append(found, path{money{total, total}, nil, p.uses, p.fetched})
			}
			total := p.total + own
			found = append(found, path{money{total, total}, nil, p.uses, p.fetched})
		case "Sorted":
			found = append(found, path{money{p.startup + n.Startup - in.Startup, p.total + own}, p.order, p.uses, p.fetched})
		default:
			if l.order != nil && grouped(p.order, l.order) {
				found = append(found, path{money{p.startup, p.total + own}, p.order, p.uses, p.fetched})
			}
			found = append(found, path{money{p.total + n.Startup - in.Total, p.total + own}, nil, p.uses, p.fetched})
		}
	}
	return found
}

// through is for nodes that take their inputs' rows as they come.
func (v *evaluation) through(l *logic) []path {
	if len(l.in) == 0 {
		return []path{{money: money{l.node.Startup, l.node.Total}}}
	}
	if len(l.in) == 1 {
		in := l.in[0].node
		found := v.ways(l.in[0])
		for i, p := range found {
			found[i].money = money{p.startup + l.node.Startup - in.Startup, p.total + l.node.Total - in.Total}
			if l.node.Type == "Hash" {
				found[i].order = nil
			}
		}
		return found
	}
	p := path{money: money{l.node.Startup, l.node.Total}}
	for _, in := range l.in {
		best := v.best(in)
		p.total += best.total - in.node.Total
		p.uses = append(p.uses, best.uses...)
	}
	return []path{p}
}

// widest is how many ways of a node are remembered.
const widest = 10

// prune drops ways that are no better than another one in anything.
func prune(ways []path) []path {
	slices.SortStableFunc(ways, func(a, b path) int { return descending(b.total, a.total) })
	var kept []path
	for _, p := range ways {
		worse := slices.ContainsFunc(kept, func(k path) bool {
			return k.startup <= p.startup*1.000001 && inOrder(k.order, p.order) == len(p.order)
		})
		if !worse && len(kept) < widest {
			kept = append(kept, p)
		}
	}
	return kept
}
