package integrity

import (
	"math"
	"slices"
	"time"
)

// rangeKey is a range that can be compared and used in maps: its ends in Unix microseconds.
type rangeKey struct {
	from, to int64
	def      bool
}

func (r Range) key() rangeKey {
	if r.Default {
		return rangeKey{def: true}
	}
	k := rangeKey{from: math.MinInt64, to: math.MaxInt64}
	if !r.FromMin {
		k.from = r.From.UnixMicro()
	}
	if !r.ToMax {
		k.to = r.To.UnixMicro()
	}
	return k
}

// overlaps tells whether two ranges share a time. The default partition shares none.
func (k rangeKey) overlaps(o rangeKey) bool {
	return !k.def && !o.def && k.from < o.to && o.from < k.to
}

func (k rangeKey) compare(o rangeKey) int {
	switch {
	case k.def != o.def:
		if k.def {
			return 1
		}
		return -1
	case k.from != o.from:
		if k.from < o.from {
			return -1
		}
		return 1
	case k.to < o.to:
		return -1
	case k.to > o.to:
		return 1
	}
	return 0
}

func (k rangeKey) String() string {
	if k.def {
		return "default"
	}
	from, to := "min", "max"
	if k.from != math.MinInt64 {
		from = formatTime(time.UnixMicro(k.from))
	}
	if k.to != math.MaxInt64 {
		to = formatTime(time.UnixMicro(k.to))
	}
	return "[" + from + ", " + to + ")"
}

// String shows the range for people.
func (r Range) String() string { return r.key().String() }

func sortPartitions(parts []partition) {
	slices.SortFunc(parts, func(a, b partition) int { return a.ref.Range.key().compare(b.ref.Range.key()) })
}
