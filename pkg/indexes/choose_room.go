package indexes

import (
	"math"
	"slices"
)

// spent is what a set takes of each part of the budget, as a share of it.
func (c *chooser) spent(set []*indexModel) (count, size, write float64) {
	of := map[*table]float64{}
	set = needed(set)
	for _, m := range set {
		size += m.size / float64(c.budget.MaxSize)
		of[m.table] += m.wal / c.budget.MaxWrite
		write = math.Max(write, of[m.table])
	}
	return float64(len(set)) / float64(c.budget.MaxIndexes), size, write
}

// excess is how far a set goes beyond the budget, 0 within it.
func (c *chooser) excess(set []*indexModel) float64 {
	count, size, write := c.spent(set)
	return math.Max(0, count-1) + math.Max(0, size-1) + math.Max(0, write-1)
}

func (c *chooser) affordable(set []*indexModel) bool { return c.excess(set) == 0 }

// makeRoom takes items that do not fit, or not beside what is there, where the set is worth more with one of them and without what is worth least
// for its share of the budget.
func (c *chooser) makeRoom(items []item) (better bool) {
	for _, i := range items {
		set := slices.DeleteFunc(slices.Clone(i.set), func(m *indexModel) bool { return slices.Contains(c.chosen, m) })
		if len(set) == 0 || c.gain(set) <= minGain {
			continue
		}
		if cut := c.cut(append(slices.Clone(c.chosen), set...), set); cut != nil && c.score(cut) > c.score(c.chosen)+minGain {
			c.chosen, better = needed(cut), true
			c.refresh()
			c.clean()
		}
	}
	return better
}

// cut takes members out of a set, or puts narrower ones in their place, whatever loses least for the room it makes, until the set is within
// the budget. It keeps some; nil: that cannot be done.
func (c *chooser) cut(set, keep []*indexModel) []*indexModel {
	for excess := c.excess(set); excess > 0; excess = c.excess(set) {
		var best []*indexModel
		least := math.Inf(1)
		for i, m := range set {
			if slices.Contains(keep, m) {
				continue
			}
			for _, other := range append(c.narrower(m), nil) {
				next := slices.Delete(slices.Clone(set), i, i+1)
				touched := c.touched[m]
				if other != nil {
					if slices.Contains(set, other) {
						continue
					}
					next = append(next, other)
				}
				room := excess - c.excess(next)
				if room <= 0 {
					continue
				}
				if lost := c.lost(touched, set, next) / room; lost < least {
					best, least = next, lost
				}
			}
		}
		if best == nil {
			return nil
		}
		set = best
	}
	return set
}

// lost is what some queries lose when one set takes another's place.
func (c *chooser) lost(queries []*queryModel, before, after []*indexModel) (lost float64) {
	before, after = needed(before), needed(after)
	for _, q := range queries {
		lost += c.value(q, q.cost(q.concerned(before))) - c.value(q, q.cost(q.concerned(after)))
	}
	return math.Max(lost, 0)
}

// narrower are the candidates that serve the searches of m, or some of them, with less: fewer included columns, or fewer keys.
func (c *chooser) narrower(m *indexModel) []*indexModel {
	if known, ok := c.within[m]; ok {
		return known
	}
	found := []*indexModel{}
	for _, q := range c.touched[m] {
		for _, o := range q.candidates {
			if o != m && o.table == m.table && o.size < m.size && bareOf(o.def).PrefixOf(bareOf(m.def)) && !slices.Contains(found, o) {
				found = append(found, o)
			}
		}
	}
	c.within[m] = found
	return found
}
