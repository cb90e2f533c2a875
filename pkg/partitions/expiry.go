package partitions

import "time"

// After is the inverse of Before: the first moment from which on Before reaches t. A day that the month does not have becomes the first of the
// next one.
func (s Span) After(t time.Time, loc *time.Location) time.Time {
	wall := wallOf(t.Add(s.Time), loc).AddDate(0, 0, s.Days)
	y, m, d := wall.Date()
	first := time.Date(y, m+time.Month(s.Months), 1, 0, 0, 0, 0, time.UTC)
	next := first.AddDate(0, 1, 0)
	if day := first.AddDate(0, 0, d-1); day.Before(next) {
		return instantOf(day.Add(wall.Sub(time.Date(y, m, d, 0, 0, 0, 0, time.UTC))), loc)
	}
	return instantOf(next, loc)
}

// Expiry returns when a partition that ends at the key value to will have expired.
func (p Policy) Expiry(t Table, to time.Time) time.Time {
	if !t.Key.Kind.Instant() {
		to = instantOf(to, t.zone())
	}
	var expiry time.Time
	for _, s := range p.Keep {
		if at := s.After(to, t.zone()); at.After(expiry) {
			expiry = at
		}
	}
	return expiry
}
