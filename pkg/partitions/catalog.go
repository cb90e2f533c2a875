package partitions

import (
	"slices"
	"sort"
	"time"
)

// Catalog is the set of a table's partitions at one moment, sorted by bounds. It never changes; take a new one to see changes.
type Catalog struct {
	parts    []Partition // ranges that are attached or pending detach, sorted; they do not overlap
	from, to []int64     // the ends of parts in µs, by themselves so that a search touches little memory
	byDef    *Partition
	left     []Partition
	foreign  []Partition
}

// NewCatalog sorts parts. The slice is not kept.
func NewCatalog(parts []Partition) *Catalog {
	c := &Catalog{parts: make([]Partition, 0, len(parts))}
	for _, p := range parts {
		switch {
		case p.State == Detached:
			c.left = append(c.left, p)
		case p.Foreign != "":
			c.foreign = append(c.foreign, p)
		case p.Default:
			c.byDef = &p
		case !p.Empty():
			c.parts = append(c.parts, p)
		}
	}
	slices.SortStableFunc(c.parts, func(a, b Partition) int { return compareBounds(a.Bounds, b.Bounds) })
	c.from, c.to = make([]int64, len(c.parts)), make([]int64, len(c.parts))
	for i, p := range c.parts {
		c.from[i], c.to[i] = p.lower(), p.upper()
	}
	return c
}

// Len is the number of range partitions.
func (c *Catalog) Len() int { return len(c.parts) }

// All returns the range partitions in order. The caller must not change it.
func (c *Catalog) All() []Partition { return c.parts }

// Default returns the default partition, nil when there is none.
func (c *Catalog) Default() *Partition { return c.byDef }

// Leftovers returns the tables that prune has detached: to be kept, or, interrupted, not yet dropped.
func (c *Catalog) Leftovers() []Partition { return c.left }

// Foreign returns the partitions whose bounds are no ranges of times. Where there are any, gaps and the runway are not known.
func (c *Catalog) Foreign() []Partition { return c.foreign }

// Find returns the attached partition whose range holds the key value t. The default partition and partitions pending detach, which take no
// rows of a range, are not found. It takes O(log n).
func (c *Catalog) Find(t time.Time) (*Partition, bool) {
	i := c.index(t.UnixMicro())
	if i < 0 || c.parts[i].State == DetachPending {
		return nil, false
	}
	return &c.parts[i], true
}

// index returns the partition that holds us, or -1.
func (c *Catalog) index(us int64) int {
	lo, n := 0, len(c.from)
	for n > 0 { // lo: how many lower ends are at or before us
		half := n >> 1
		if c.from[lo+half] <= us {
			lo += half + 1
			n -= half + 1
		} else {
			n = half
		}
	}
	if lo == 0 || (us >= c.to[lo-1] && c.to[lo-1] != maxMicros) {
		return -1
	}
	return lo - 1
}

// Range returns the partitions that hold any value of [from, to), in order.
func (c *Catalog) Range(from, to time.Time) []Partition {
	return c.Overlaps(Bounds{From: from, To: to})
}

// Overlaps returns the partitions whose range overlaps b, in order. The caller must not change it.
func (c *Catalog) Overlaps(b Bounds) []Partition {
	if b.Empty() {
		return nil
	}
	lower, upper := b.lower(), b.upper()
	first := sort.Search(len(c.to), func(i int) bool { return c.to[i] > lower })
	end := first + sort.Search(len(c.from)-first, func(i int) bool { return c.from[first+i] >= upper })
	return c.parts[first:end:end]
}

// Gaps returns the parts of [from, to) that no partition holds, in order.
func (c *Catalog) Gaps(from, to time.Time) []Bounds {
	return c.Uncovered(Bounds{From: from, To: to})
}

// Uncovered returns the parts of b that no partition holds, in order.
func (c *Catalog) Uncovered(b Bounds) []Bounds {
	if b.Empty() {
		return nil
	}
	over := c.Overlaps(b)
	taken := make([]Bounds, len(over))
	for i, p := range over {
		taken[i] = p.Bounds
	}
	return subtract(b, taken)
}

// Inner returns the gaps between the first and the last partition.
func (c *Catalog) Inner() []Bounds {
	if len(c.parts) == 0 {
		return nil
	}
	return c.Uncovered(fromMicros(c.from[0], c.to[len(c.to)-1]))
}

// Overlap is a range that two tables hold.
type Overlap struct {
	Bounds
	One, Other Partition
}

// Overlapping returns the ranges that an attached partition shares with another one, which PostgreSQL never allows, or with a table that was
// detached and whose range has been made again.
func (c *Catalog) Overlapping() []Overlap {
	all := append(slices.Clone(c.parts), c.left...)
	slices.SortStableFunc(all, func(a, b Partition) int { return compareBounds(a.Bounds, b.Bounds) })
	var found []Overlap
	var open []Partition // those that may reach into the next one
	for _, p := range all {
		open = slices.DeleteFunc(open, func(o Partition) bool { return o.upper() <= p.lower() })
		for _, o := range open {
			if o.Overlaps(p.Bounds) && (o.State != Detached || p.State != Detached) {
				found = append(found, Overlap{fromMicros(p.lower(), min(o.upper(), p.upper())), o, p})
			}
		}
		open = append(open, p)
	}
	return found
}

// Runway returns how long, from the key value now on, rows find a partition without a gap; 0 means that now has none. forever is true when
// the last one has no upper end.
func (c *Catalog) Runway(now time.Time) (runway time.Duration, forever bool) {
	us := now.UnixMicro()
	end := us
	for i := c.index(us); i >= 0 && i < len(c.parts) && c.from[i] <= end && c.parts[i].State == Attached; i++ {
		if end = c.to[i]; end == maxMicros {
			return 0, true
		}
	}
	return time.Duration(min(end-us, maxMicros/1000)) * time.Microsecond, false
}

// Interval returns the interval of the newest partitions that are whole ones, in loc: one with a name, or N times a unit where two neighbours
// agree on it.
func (c *Catalog) Interval(loc *time.Location) (Interval, bool) {
	for i := len(c.parts) - 1; i >= 0 && i >= len(c.parts)-8; i-- {
		if iv, ok := Infer(c.parts[i].Bounds, loc); ok {
			return iv, true
		}
		if i == 0 {
			break
		}
		if iv, ok := inferTimes(c.parts[i-1].Bounds, c.parts[i].Bounds, loc); ok {
			return iv, true
		}
	}
	return "", false
}

// Route sends n key values, which come in ascending order as microseconds since 1970, to their partitions: fn gets each run of neighbours
// [from, to) that Find would send to one partition, by its place in All, or that have none: -1. It looks at few of the values: for each
// partition that has any it takes O(log n), since it gallops to the partition's end.
func (c *Catalog) Route(n int, value func(i int) int64, fn func(part, from, to int)) {
	part := 0
	for from := 0; from < n; {
		us := value(from)
		part += gallop(len(c.to)-part, func(i int) bool { return c.to[part+i] > us || c.to[part+i] == maxMicros })
		end, target := int64(maxMicros), -1
		switch {
		case part == len(c.to):
		case c.from[part] > us:
			end = c.from[part]
		default:
			if end = c.to[part]; c.parts[part].State != DetachPending {
				target = part
			}
		}
		to := n
		if end != maxMicros {
			to = from + gallop(n-from, func(i int) bool { return value(from+i) >= end })
		}
		fn(target, from, to)
		from = to
	}
}

// gallop returns the first i in [0, n) for which is holds, n if there is none; is must not hold for any before one for which it holds. It takes
// O(log i).
func gallop(n int, is func(i int) bool) int {
	high := 1
	for high < n && !is(high-1) {
		high *= 2
	}
	low := high / 2
	return low + sort.Search(min(high, n)-low, func(i int) bool { return is(low + i) })
}
