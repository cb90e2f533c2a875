package partitions

import (
	"fmt"
	"strings"
	"time"

	"auditdb/internal/fault"
)

// Interval is the length of a table's partitions. All begin at calendar boundaries of the table's time zone; weeks begin on Monday (ISO 8601).
type Interval string

// The intervals.
const (
	Hourly    Interval = "hourly"
	Daily     Interval = "daily"
	Weekly    Interval = "weekly"
	Monthly   Interval = "monthly"
	Quarterly Interval = "quarterly"
	Yearly    Interval = "yearly"
)

// Intervals lists all, the shortest first.
func Intervals() []Interval { return []Interval{Hourly, Daily, Weekly, Monthly, Quarterly, Yearly} }

// ParseInterval reads a name of an interval. An error has class usage.
func ParseInterval(s string) (Interval, error) {
	for _, i := range Intervals() {
		if s == string(i) {
			return i, nil
		}
	}
	return "", fault.New(fault.Usage, "one of hourly, daily, weekly, monthly, quarterly, yearly", "unknown interval %q", s)
}

// Floor returns the start, in UTC, of the interval that t lies in.
func (i Interval) Floor(t time.Time, loc *time.Location) time.Time {
	if i == Hourly {
		from, _ := hourOf(t, loc)
		return from
	}
	start := i.startOf(wallOf(t, loc))
	// A clock put back over midnight shows a day again that has ended, or one that has not begun.
	for instantOf(start, loc).After(t) {
		start = i.step(start, -1)
	}
	for {
		next := i.step(start, 1)
		if instantOf(next, loc).After(t) {
			return instantOf(start, loc)
		}
		start = next
	}
}

// Next returns the start, in UTC, of the interval after the one that t lies in. It is always after t.
func (i Interval) Next(t time.Time, loc *time.Location) time.Time {
	if i == Hourly {
		_, to := hourOf(t, loc)
		return to
	}
	start := i.startOf(wallOf(t, loc))
	for instantOf(start, loc).After(t) {
		start = i.step(start, -1)
	}
	for {
		start = i.step(start, 1)
		if at := instantOf(start, loc); at.After(t) { // a zone may skip a whole day
			return at
		}
	}
}

// Shift goes n intervals forth from, or with a negative n back before, the interval that t lies in, and returns its start.
func (i Interval) Shift(t time.Time, n int, loc *time.Location) time.Time {
	t = i.Floor(t, loc)
	for ; n > 0; n-- {
		t = i.Next(t, loc)
	}
	for ; n < 0; n++ {
		t = i.Floor(t.Add(-time.Microsecond), loc)
	}
	return t
}

// startOf returns the wall-clock start of the interval around a wall-clock reading; both are carried as UTC.
func (i Interval) startOf(wall time.Time) time.Time {
	y, m, d := wall.Date()
	switch i {
	case Hourly:
		return wall.Truncate(time.Hour)
	case Daily:
	case Weekly:
		d -= (int(wall.Weekday()) + 6) % 7
	case Monthly:
		d = 1
	case Quarterly:
		m, d = (m-1)/3*3+1, 1
	case Yearly:
		m, d = 1, 1
	}
	return time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
}

// step goes n whole intervals from the wall-clock start of one.
func (i Interval) step(start time.Time, n int) time.Time {
	switch i {
	case Hourly:
		return start.Add(time.Duration(n) * time.Hour)
	case Daily:
		return start.AddDate(0, 0, n)
	case Weekly:
		return start.AddDate(0, 0, 7*n)
	case Monthly:
	case Quarterly:
		return start.AddDate(0, 3*n, 0)
	case Yearly:
		return start.AddDate(n, 0, 0)
	}
	return start.AddDate(0, n, 0)
}

// wallOf reads a clock in loc; the reading is carried as UTC.
func wallOf(t time.Time, loc *time.Location) time.Time {
	_, offset := t.In(loc).Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// instantOf returns when a clock in loc shows a reading: the first time where it does so twice, and the moment of change where the clock is
// put forward over it.
func instantOf(wall time.Time, loc *time.Location) time.Time {
	if loc == time.UTC {
		return wall
	}
	_, before := wall.Add(-26 * time.Hour).In(loc).Zone()
	_, after := wall.Add(26 * time.Hour).In(loc).Zone()
	a := wall.Add(-time.Duration(before) * time.Second)
	b := wall.Add(-time.Duration(after) * time.Second)
	aShows, bShows := wallOf(a, loc).Equal(wall), wallOf(b, loc).Equal(wall)
	switch {
	case aShows && bShows && b.Before(a):
		return b
	case aShows:
		return a
	case bShows:
		return b
	}
	change, _ := a.In(loc).ZoneBounds()
	return change.UTC()
}

// hourOf returns the hour of a clock in loc that t lies in. Where the clock is changed, the hour ends and another begins, so that each has at
// most 60 minutes and none has two offsets.
func hourOf(t time.Time, loc *time.Location) (from, to time.Time) {
	local := t.In(loc)
	_, offset := local.Zone()
	shift := time.Duration(offset) * time.Second
	from = wallOf(t, loc).Truncate(time.Hour).Add(-shift)
	to = from.Add(time.Hour)
	start, end := local.ZoneBounds()
	if !start.IsZero() && from.Before(start) {
		from = start.UTC()
	}
	if !end.IsZero() && end.Before(to) {
		to = end.UTC()
	}
	return from, to
}

// Label is the part of a partition's name that says which interval begins at from: 2026, 2026_q4, 2026_11, 2026_w48, 2026_11_23,
// 2026_11_23_05, and 2026_10_25_02b for an hour that a clock shows for the second time.
func (i Interval) Label(from time.Time, loc *time.Location) string {
	wall := wallOf(from, loc)
	y, m, d := wall.Date()
	var b strings.Builder
	switch i {
	case Yearly:
		fmt.Fprintf(&b, "%04d", y)
	case Quarterly:
		fmt.Fprintf(&b, "%04d_q%d", y, (m-1)/3+1)
	case Monthly:
		fmt.Fprintf(&b, "%04d_%02d", y, m)
	case Weekly:
		y, w := wall.ISOWeek()
		fmt.Fprintf(&b, "%04d_w%02d", y, w)
	case Daily:
		fmt.Fprintf(&b, "%04d_%02d_%02d", y, m, d)
	case Hourly:
		fmt.Fprintf(&b, "%04d_%02d_%02d_%02d", y, m, d, wall.Hour())
		if repeatedHour(from, loc) {
			b.WriteByte('b')
		}
	}
	return b.String()
}

// repeatedHour says whether a clock in loc has shown the hour of t before its last change.
func repeatedHour(t time.Time, loc *time.Location) bool {
	start, _ := t.In(loc).ZoneBounds()
	if start.IsZero() || t.Sub(start) > 48*time.Hour {
		return false
	}
	last := wallOf(start.Add(-time.Microsecond), loc) // the last reading before the clock was changed
	return !wallOf(t, loc).Truncate(time.Hour).After(last)
}

// Infer returns the interval that b is one whole of, in loc.
func Infer(b Bounds, loc *time.Location) (Interval, bool) {
	if b.FromMin || b.ToMax || b.Empty() {
		return "", false
	}
	for _, i := range Intervals() {
		if i.Floor(b.From, loc).Equal(b.From) && i.Next(b.From, loc).Equal(b.To) {
			return i, true
		}
	}
	return "", false
}
