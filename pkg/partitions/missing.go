package partitions

import (
	"slices"
	"time"

	"auditdb/internal/fault"
)

// maxMissing is the most partitions that one plan may make for a table; more is taken for a mistake in the interval or the range.
const maxMissing = 20_000

// Spec says which partitions a table should have. All times are key values.
type Spec struct {
	Interval Interval
	Zone     *time.Location // of interval arithmetic; nil: UTC
	From, To time.Time      // exactly the whole intervals that this range touches; zero: around now
	Ahead    int            // around now: the current interval and so many after it
	Behind   int            // around now: so many before it

	// Around now, gaps are also filled from the oldest partition on that reaches beyond Retained. The zero time: from the oldest.
	Retained time.Time

	Pruned      []Bounds // ranges that were pruned and do not come back by themselves
	AllowPruned bool     // they do
}

// Window returns the ranges that spec asks for: whole intervals.
func (s Spec) Window(existing *Catalog, now time.Time) Bounds {
	if !s.From.IsZero() || !s.To.IsZero() {
		return Bounds{From: s.Interval.Floor(s.From, s.zone()), To: s.Interval.Next(s.To.Add(-time.Microsecond), s.zone())}
	}
	from := s.Interval.Shift(now, -s.Behind, s.zone())
	if oldest, ok := oldestRetained(existing, s.Retained); ok && oldest.Before(from) {
		from = oldest
	}
	return Bounds{From: from, To: s.Interval.Shift(now, s.Ahead+1, s.zone())}
}

func (s Spec) zone() *time.Location {
	if s.Zone == nil {
		return time.UTC
	}
	return s.Zone
}

// oldestRetained returns where the oldest partition that reaches beyond retained begins; one without a lower end counts from its upper end.
func oldestRetained(c *Catalog, retained time.Time) (time.Time, bool) {
	for _, p := range c.All() {
		if !retained.IsZero() && !p.ToMax && !p.To.After(retained) {
			continue
		}
		if !p.FromMin {
			return p.From, true
		}
		if !p.ToMax {
			return p.To, true
		}
	}
	return time.Time{}, false
}

// Missing returns the ranges that a table needs partitions for: spec's whole intervals, narrowed to their parts that no partition holds. It
// is pure; now is a key value.
func Missing(existing *Catalog, spec Spec, now time.Time) ([]Bounds, error) {
	window := spec.Window(existing, now)
	var taken []Bounds
	for _, p := range existing.Overlaps(window) {
		taken = append(taken, p.Bounds)
	}
	if !spec.AllowPruned {
		taken = append(taken, spec.Pruned...)
	}
	slices.SortFunc(taken, compareBounds)
	var missing []Bounds
	for _, free := range subtract(window, taken) {
		for at := free.From; at.Before(free.To); {
			next := spec.Interval.Next(at, spec.zone())
			if next.After(free.To) {
				next = free.To
			}
			aroundNow := spec.From.IsZero() && spec.To.IsZero()
			if !aroundNow || spec.Retained.IsZero() || next.After(spec.Retained) {
				missing = append(missing, Bounds{From: at, To: next})
			}
			if len(missing) > maxMissing {
				return nil, fault.New(fault.Refused, "take a longer --interval or a shorter range",
					"more than %d %s partitions would be made for %s", maxMissing, spec.Interval, window.Text())
			}
			at = next
		}
	}
	return missing, nil
}
