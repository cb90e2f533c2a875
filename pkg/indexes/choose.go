package indexes

import (
	"math"
	"slices"
)

// Mode is what a choice of indexes weighs.
type Mode string

// The modes.
const (
	ModeBalanced Mode = "balanced" // what queries gain against what writes pay
	ModeRead     Mode = "read"     // queries first
)

// Budget bounds a choice. Zero values are the mode's defaults.
type Budget struct {
	Mode           Mode
	MaxIndexes     int
	MaxSize        int64   // bytes of all new indexes
	MaxWrite       float64 // bytes of WAL that new indexes of one table add to each inserted row
	MinImprovement float64 // of the cost of a query that an index helps: 0.1 is a tenth
}

// prices are what speaks against an index, in shares of all that could be gained.
type prices struct {
	each    float64 // index
	perByte float64 // of WAL for each row inserted
	perSize float64 // an index as large as all tables
	linear  float64 // is in favour of it: the part of the worth that is cost over all calls, see value
}

// roomOfSmall is how many bytes indexes may take where that is no more than twice the tables' own size.
const roomOfSmall = 580 << 20

func (b Budget) withDefaults(heap float64) (Budget, prices) {
	p := prices{each: 0.0015, perByte: 0.00002, perSize: 0.01, linear: 0.7}
	if b.Mode == ModeRead {
		p = prices{each: 0.0008, perByte: 0.000004, perSize: 0.01, linear: 0.5}
	}
	if b.MaxIndexes == 0 {
		b.MaxIndexes = map[Mode]int{ModeRead: 30, ModeBalanced: 25}[b.Mode]
	}
	if b.MaxSize == 0 {
		b.MaxSize = int64(max(heap, min(2*heap, roomOfSmall), 64<<20))
	}
	if b.MaxWrite == 0 {
		b.MaxWrite = map[Mode]float64{ModeRead: math.Inf(1), ModeBalanced: 720}[b.Mode]
	}
	if b.MinImprovement == 0 {
		b.MinImprovement = 0.1
	}
	return b, p
}

// chooser looks for the indexes that a workload is best served by.
type chooser struct {
	budget   Budget
	prices   prices
	queries  []*queryModel
	heap     float64 // bytes of all tables
	chosen   []*indexModel
	linear   float64 // what could be gained
	weighted float64
	logs     float64
	touched  map[*indexModel][]*queryModel
	within   map[*indexModel][]*indexModel // see narrower
}

func newChooser(queries []*queryModel, b Budget, heap float64) *chooser {
	c := &chooser{queries: queries, heap: max(heap, 1), touched: map[*indexModel][]*queryModel{}, within: map[*indexModel][]*indexModel{}}
	c.budget, c.prices = b.withDefaults(heap)
	for _, q := range queries {
		q.now = q.cost(nil)
		c.linear += q.Calls * (q.before - q.ideal)
		if gain := q.log(q.ideal); gain > 0 {
			c.logs += gain
			c.weighted += gain * math.Sqrt(q.Calls)
		}
		for _, m := range q.candidates {
			c.touched[m] = append(c.touched[m], q)
		}
	}
	return c
}

// value is the worth of a query's cost, as a share of all that could be gained: a part of it is cost over all calls, the rest how
// many times cheaper each query becomes.
func (c *chooser) value(q *queryModel, cost float64) float64 {
	v := 0.0
	if c.linear > 0 {
		v += c.prices.linear * q.Calls * (q.before - cost) / c.linear
	}
	if c.logs > 0 {
		v += (1 - c.prices.linear) * (0.7*q.log(cost)/c.logs + 0.3*q.log(cost)*math.Sqrt(q.Calls)/math.Max(c.weighted, 1e-9))
	}
	return v
}

// price is what speaks against an index.
func (c *chooser) price(m *indexModel) float64 {
	return c.prices.each + c.prices.perByte*m.wal*m.share() + c.prices.perSize*m.size/c.heap
}

// share is how much of the database's rows a table has room for: writes to a large log weigh more than those to a small table.
func (m *indexModel) share() float64 {
	if len(m.table.key) > 0 {
		return 1
	}
	return 0.35
}

// score is the worth of a set, less its price.
func (c *chooser) score(set []*indexModel) float64 {
	total := 0.0
	set = needed(set)
	for _, q := range c.queries {
		total += c.value(q, q.cost(q.concerned(set)))
	}
	for _, m := range set {
		total -= c.price(m)
	}
	return total
}

// gain is what more indexes add to the score. They may take the place of what they cover. Where they do not pay for what
// the indexes grow by, it is none.
func (c *chooser) gain(more []*indexModel) float64 {
	next := needed(append(slices.Clone(c.chosen), more...))
	changed := slices.Clone(more)
	total, saved, size, much := 0.0, 0.0, 0.0, false
	for _, m := range c.chosen {
		if !slices.Contains(next, m) {
			changed = append(changed, m)
			total += c.price(m)
			size -= m.size
		}
	}
	for _, m := range more {
		if slices.Contains(next, m) {
			total -= c.price(m)
			size += m.size
		}
	}
	seen := map[*queryModel]bool{}
	for _, m := range changed {
		for _, q := range c.touched[m] {
			if !seen[q] {
				seen[q] = true
				cost := q.cost(q.concerned(next))
				total += c.value(q, cost) - c.value(q, q.now)
				saved += q.Calls * (q.now - cost)
				much = much || cost <= q.now/muchCheaper
			}
		}
	}
	if !much && saved < c.upkeep(size) {
		return math.Min(total, 0)
	}
	return total
}

// take adds indexes to the choice.
func (c *chooser) take(more []*indexModel) {
	c.chosen = needed(append(c.chosen, more...))
	c.refresh()
}

func (c *chooser) refresh() {
	for _, q := range c.queries {
		q.now = q.cost(q.concerned(c.chosen))
	}
}

// item is one or several indexes that are taken together.
type item struct {
	set  []*indexModel
	gain float64 // when it was last looked at
}

// choose finds a good set within the budget: it grows greedily by gain, then members are exchanged, and then room is made for what did not
// fit, until nothing gets better.
func (c *chooser) choose() []*indexModel {
	items := c.items()
	for range mostPasses {
		c.grow(slices.Clone(items))
		better := c.improve()
		if !c.makeRoom(items) && !better {
			break
		}
	}
	c.clean()
	return c.chosen
}

const (
	mostPasses = 4
	minGain    = 1e-6 // what a step has to gain
)

func (c *chooser) items() []item {
	var all []item
	known := map[string]bool{}
	add := func(set []*indexModel) {
		if id := nameOf(set); len(set) > 0 && !known[id] {
			known[id] = true
			all = append(all, item{set: set, gain: math.Inf(1)})
		}
	}
	for _, q := range c.queries {
		for _, m := range q.candidates {
			add([]*indexModel{m})
		}
		for _, b := range q.bundles {
			add(b)
		}
	}
	return all
}

// grow takes items while they are worth their price. The gain of an item hardly ever grows when others are taken, so only those that
// might be best are looked at again.
func (c *chooser) grow(items []item) {
	for {
		best := -1
		slices.SortStableFunc(items, func(a, b item) int { return descending(a.gain, b.gain) })
		for i := range items {
			if items[i].gain <= 0 || best >= 0 && items[i].gain <= items[best].gain {
				break
			}
			items[i].set = slices.DeleteFunc(slices.Clone(items[i].set), func(m *indexModel) bool { return slices.Contains(c.chosen, m) })
			if items[i].gain = -1; len(items[i].set) == 0 || !c.affordable(append(slices.Clone(c.chosen), items[i].set...)) {
				continue
			}
			if items[i].gain = c.gain(items[i].set); items[i].gain > 0 && (best < 0 || items[i].gain > items[best].gain) {
				best = i
			}
		}
		if best < 0 {
			return
		}
		c.take(items[best].set)
		items = slices.Delete(items, best, best+1)
	}
}

// improve drops members that no longer pay, and exchanges members for others of the same table that are worth more.
func (c *chooser) improve() bool {
	c.clean()
	better := false
	for _, m := range slices.Clone(c.chosen) {
		if !slices.Contains(c.chosen, m) {
			continue
		}
		without := slices.DeleteFunc(slices.Clone(c.chosen), func(o *indexModel) bool { return o == m })
		score := c.score(c.chosen)
		best, bestScore := c.chosen, score
		c.chosen = without
		c.refresh()
		for _, other := range c.rivals(m) {
			set := needed(append(slices.Clone(without), other))
			if s := c.score(set); s > bestScore+minGain && c.affordable(set) {
				best, bestScore = set, s
			}
		}
		c.chosen = best
		c.refresh()
		better = better || bestScore > score+minGain
	}
	c.clean()
	return better
}

// mostRivals bounds how many indexes are tried in another one's place.
const mostRivals = 25

// rivals are the indexes worth most without m, of the queries that it helps.
func (c *chooser) rivals(m *indexModel) []*indexModel {
	var all []item
	for _, q := range c.touched[m] {
		for _, o := range q.candidates {
			if o != m && o.table == m.table && !slices.Contains(c.chosen, o) && !slices.ContainsFunc(all, func(i item) bool { return i.set[0] == o }) {
				all = append(all, item{set: []*indexModel{o}})
			}
		}
	}
	for i := range all {
		all[i].gain = c.gain(all[i].set)
	}
	all = slices.DeleteFunc(all, func(i item) bool { return i.gain <= 0 })
	slices.SortStableFunc(all, func(a, b item) int { return descending(a.gain, b.gain) })
	var best []*indexModel
	for _, i := range all[:min(len(all), mostRivals)] {
		best = append(best, i.set[0])
	}
	return best
}

// clean drops members, the least worth first, until each is worth its price, is used, and helps some query enough.
func (c *chooser) clean() {
	for {
		worst, least := -1, 0.0
		score := c.score(c.chosen)
		for i, m := range c.chosen {
			without := slices.Delete(slices.Clone(c.chosen), i, i+1)
			lost := score - c.score(without)
			if !c.helps(m, without) {
				lost = math.Min(lost, -1)
			}
			if lost <= least {
				worst, least = i, lost
			}
		}
		if worst < 0 {
			return
		}
		c.chosen = slices.Delete(slices.Clone(c.chosen), worst, worst+1)
		c.refresh()
	}
}

// helps says whether some query is cheaper by a notable part with m than without it, and m pays for its size.
func (c *chooser) helps(m *indexModel, without []*indexModel) bool {
	notable, much, saved := false, false, 0.0
	for _, q := range c.touched[m] {
		before := q.cost(q.concerned(without))
		notable = notable || before-q.now >= c.budget.MinImprovement*before
		much = much || q.now <= before/muchCheaper
		saved += q.Calls * (before - q.now)
	}
	return notable && (much || saved >= c.upkeep(m.size))
}

// muchCheaper is how many times cheaper a query becomes by an index that need not pay for its size by many calls.
const muchCheaper = 1.5

// upkeep is what the planner thinks that writing so many bytes and reading them once costs, page after page: two calls that become somewhat
// cheaper do not pay for an index as large as the table.
func (c *chooser) upkeep(bytes float64) float64 {
	if len(c.queries) == 0 {
		return 0
	}
	settings := c.queries[0].reckoner.costSettings
	return 2 * bytes / settings.block * settings.seqPage
}
