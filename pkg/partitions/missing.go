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
	Ranges   []Bounds       // instead of From and To: the whole intervals that any of these touches
	Ahead    int            // around now: the current interval and so many after it
	Behind   int            // around now: so many before it

	// Around now, gaps are also filled from the oldest partition on that reaches beyond Retained. The zero time: from the oldest.
	// What ends at or before Retained is made for From and To only.
	Retained time.Time

	Pruned []Bounds // ranges that were pruned and do not come back
	Limits Bounds   // what the key can hold; the zero value: the years 1 to 9999
}

func (s Spec) exact() bool { return !s.From.IsZero() || !s.To.IsZero() }

// Windows returns the ranges that spec asks for, as whole intervals, in order and without overlaps.
func (s Spec) Windows(existing *Catalog, now time.Time) []Bounds {
	switch {
	case len(s.Ranges) > 0:
		return s.wholeIntervals()
	case s.exact():
		return []Bounds{{From: s.Interval.Floor(s.From, s.zone()), To: s.Interval.Next(s.To.Add(-time.Microsecond), s.zone())}}
	}
	from := s.Interval.Shift(now, -s.Behind, s.zone())
	if oldest, ok := oldestRetained(existing, s.Retained); ok && oldest.Before(from) {
		from = oldest
	}
	return []Bounds{{From: from, To: s.Interval.Shift(now, s.Ahead+1, s.zone())}}
}

// wholeIntervals returns the intervals that Ranges touch.
func (s Spec) wholeIntervals() []Bounds {
	var out []Bounds
	for _, r := range s.Ranges {
		for at := r.From; at.Before(r.To); at = out[len(out)-1].To {
			from := s.Interval.Floor(at, s.zone())
			out = append(out, Bounds{From: from, To: s.Interval.Next(from, s.zone())})
		}
	}
	slices.SortFunc(out, compareBounds)
	return slices.CompactFunc(out, Bounds.Equal)
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
	var missing []Bounds
	limits := spec.Limits
	if limits.Empty() {
		limits = KeyTimestamptz.limits()
	}
	for _, window := range spec.Windows(existing, now) {
		var taken []Bounds
		for _, p := range existing.Overlaps(window) {
			taken = append(taken, p.Bounds)
		}
		if !limits.Covers(window) {
			return nil, fault.New(fault.Usage, "choose a range within these years", "%s: partitions lie within the years %d to %d",
				window.Text(), limits.From.Year(), limits.To.Add(-time.Microsecond).Year())
		}
		taken = append(taken, spec.Pruned...)
		slices.SortFunc(taken, compareBounds)
		for _, free := range subtract(window, taken) {
			missing = append(missing, spec.cut(free, maxMissing+1-len(missing))...)
			if len(missing) > maxMissing {
				return nil, fault.New(fault.Refused, "take a longer --interval or a shorter range",
					"more than %d %s partitions would be made for %s", maxMissing, spec.Interval, window.Text())
			}
		}
	}
	return missing, nil
}

// cut divides a free range at the boundaries of intervals, into at most n pieces.
func (s Spec) cut(free Bounds, n int) (pieces []Bounds) {
	for at := free.From; at.Before(free.To) && len(pieces) < n; {
		next := s.Interval.Next(at, s.zone())
		if next.After(free.To) {
			next = free.To
		}
		if s.exact() || s.Retained.IsZero() || next.After(s.Retained) {
			pieces = append(pieces, Bounds{From: at, To: next})
		}
		at = next
	}
	return pieces
}
