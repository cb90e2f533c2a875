package partitions

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"auditdb/internal/fault"
)

// Interval is the length of a table's partitions: a name, or N times a unit as 6h, 15d, 2w, 3mo, 5y. All begin at boundaries of the calendar
// and clock of the table's time zone; weeks begin on Monday (ISO 8601). N times a unit counts from a fixed day, so that the boundaries do not
// depend on when a table was made: hours from midnight where a day has a whole number of them and else, like days, from 2000-01-01, weeks from
// Monday 2000-01-03, months and years from January 2000.
type Interval string

// The intervals with names.
const (
	Hourly    Interval = "hourly"
	Daily     Interval = "daily"
	Weekly    Interval = "weekly"
	Monthly   Interval = "monthly"
	Quarterly Interval = "quarterly"
	Yearly    Interval = "yearly"
)

// Intervals lists those with names, the shortest first.
func Intervals() []Interval { return []Interval{Hourly, Daily, Weekly, Monthly, Quarterly, Yearly} }

// unit is what an interval has N of, as it is written.
type unit string

const (
	unitHour  unit = "h"
	unitDay   unit = "d"
	unitWeek  unit = "w"
	unitMonth unit = "mo"
	unitYear  unit = "y"
)

// maxTimes is the most units that an interval may have.
const maxTimes = 9999

// ParseInterval reads a name of an interval or a number of units, and returns the form to keep: 1d is daily, 12mo is yearly, 48h is 2d. An error
// has class usage.
func ParseInterval(s string) (Interval, error) {
	for _, i := range Intervals() {
		if s == string(i) {
			return i, nil
		}
	}
	if n, u, ok := splitInterval(s); ok {
		return times(n, u), nil
	}
	hint := "one of hourly, daily, weekly, monthly, quarterly, yearly, or a number of h, d, w, mo, y such as 6h"
	if strings.TrimLeft(s, "0123456789") == "m" {
		hint = "write " + s + "o for months; the shortest interval is an hour"
	}
	return "", fault.New(fault.Usage, hint, "unknown interval %q", s)
}

// splitInterval reads "15d".
func splitInterval(s string) (n int, u unit, ok bool) {
	rest := strings.TrimLeft(s, "0123456789")
	n, err := strconv.Atoi(s[:len(s)-len(rest)])
	if err != nil || n < 1 || n > maxTimes || s[0] == '0' || s[0] == '+' {
		return 0, "", false
	}
	switch u = unit(rest); u {
	case unitHour, unitDay, unitWeek, unitMonth, unitYear:
		return n, u, true
	}
	return 0, "", false
}

// times is the interval of n units, in the form that is kept.
func times(n int, u unit) Interval {
	switch {
	case u == unitHour && n%24 == 0:
		n, u = n/24, unitDay
	case u == unitMonth && n%12 == 0:
		n, u = n/12, unitYear
	}
	switch {
	case n == 3 && u == unitMonth:
		return Quarterly
	case n > 1:
		return Interval(strconv.Itoa(n) + string(u))
	}
	return map[unit]Interval{unitHour: Hourly, unitDay: Daily, unitWeek: Weekly, unitMonth: Monthly, unitYear: Yearly}[u]
}

// units says how many of which unit i has.
func (i Interval) units() (n int, u unit) {
	switch i {
	case Hourly:
		return 1, unitHour
	case Daily:
		return 1, unitDay
	case Weekly:
		return 1, unitWeek
	case Monthly:
		return 1, unitMonth
	case Quarterly:
		return 3, unitMonth
	case Yearly:
		return 1, unitYear
	}
	if n, u, ok := splitInterval(string(i)); ok {
		return n, u
	}
	return 1, unitMonth // the zero value
}

// Hours says that i is shorter than a day or no whole number of days.
func (i Interval) Hours() bool {
	_, u := i.units()
	return u == unitHour
}

// Floor returns the start, in UTC, of the interval that t lies in.
func (i Interval) Floor(t time.Time, loc *time.Location) time.Time {
	if i == Hourly { // every hour of the clock, also one that is shown twice
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
	if i == Hourly { // every hour of the clock, also one that is shown twice
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
	n, u := i.units()
	y, m, d := wall.Date()
	midnight := time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	const day, hour = 24 * 60 * 60, 60 * 60
	switch u {
	case unitHour:
		if 24%n == 0 {
			return time.Date(y, m, d, wall.Hour()/n*n, 0, 0, 0, time.UTC)
		}
		return time.Unix(floorTo(wall.Unix()-epoch2000, int64(n)*hour)+epoch2000, 0).UTC()
	case unitDay:
		return time.Unix(floorTo(midnight.Unix()-epoch2000, int64(n)*day)+epoch2000, 0).UTC()
	case unitWeek:
		const monday = epoch2000 + 2*day
		return time.Unix(floorTo(midnight.Unix()-monday, int64(n)*7*day)+monday, 0).UTC()
	case unitMonth:
		return time.Date(2000, time.Month(1+floorTo(int64((y-2000)*12+int(m)-1), int64(n))), 1, 0, 0, 0, 0, time.UTC)
	case unitYear:
	}
	return time.Date(2000+int(floorTo(int64(y-2000), int64(n))), 1, 1, 0, 0, 0, 0, time.UTC)
}

// epoch2000 is 2000-01-01, a Saturday, in seconds since 1970.
const epoch2000 = 946_684_800

// floorTo is the greatest multiple of step that is not greater than n.
func floorTo(n, step int64) int64 {
	if n < 0 {
		return -((-n + step - 1) / step * step)
	}
	return n / step * step
}

// step goes k whole intervals from the wall-clock start of one.
func (i Interval) step(start time.Time, k int) time.Time {
	n, u := i.units()
	switch u {
	case unitHour:
		return start.Add(time.Duration(k*n) * time.Hour)
	case unitDay:
		return start.AddDate(0, 0, k*n)
	case unitWeek:
		return start.AddDate(0, 0, 7*k*n)
	case unitMonth:
		return start.AddDate(0, k*n, 0)
	case unitYear:
	}
	return start.AddDate(k*n, 0, 0)
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
// 2026_11_23_05, and 2026_10_25_02b for an hour that a clock shows for the second time. N times a unit is labelled as one is.
func (i Interval) Label(from time.Time, loc *time.Location) string {
	wall := wallOf(from, loc)
	y, m, d := wall.Date()
	if i == Quarterly {
		return fmt.Sprintf("%04d_q%d", y, (m-1)/3+1)
	}
	switch _, u := i.units(); u {
	case unitYear:
		return fmt.Sprintf("%04d", y)
	case unitMonth:
		return fmt.Sprintf("%04d_%02d", y, m)
	case unitWeek:
		y, w := wall.ISOWeek()
		return fmt.Sprintf("%04d_w%02d", y, w)
	case unitDay:
		return fmt.Sprintf("%04d_%02d_%02d", y, m, d)
	case unitHour:
	}
	label := fmt.Sprintf("%04d_%02d_%02d_%02d", y, m, d, wall.Hour())
	if repeatedHour(from, loc) {
		label += "b"
	}
	return label
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

// Infer returns the interval that b is one whole of, in loc, if it has a name.
func Infer(b Bounds, loc *time.Location) (Interval, bool) {
	for _, i := range Intervals() {
		if i.isWhole(b, loc) {
			return i, true
		}
	}
	return "", false
}

// isWhole says whether b is exactly one interval.
func (i Interval) isWhole(b Bounds, loc *time.Location) bool {
	return !b.FromMin && !b.ToMax && !b.Empty() && i.Floor(b.From, loc).Equal(b.From) && i.Next(b.From, loc).Equal(b.To)
}

// inferTimes returns the N times a unit that both of two neighbours are, with the longest unit that does. One range alone is not enough: many a
// table has one for all that came before.
func inferTimes(a, b Bounds, loc *time.Location) (Interval, bool) {
	if a.FromMin || b.ToMax || !a.To.Equal(b.From) || b.Empty() {
		return "", false
	}
	from, to := wallOf(b.From, loc), wallOf(b.To, loc)
	length := int(to.Sub(from).Round(time.Hour) / time.Hour)
	span := (to.Year()-from.Year())*12 + int(to.Month()) - int(from.Month())
	for _, c := range []struct {
		n int
		u unit
	}{{span / 12, unitYear}, {span, unitMonth}, {length / (7 * 24), unitWeek}, {length / 24, unitDay}, {length, unitHour}} {
		if c.n < 1 || c.n > maxTimes {
			continue
		}
		if i := times(c.n, c.u); i.isWhole(a, loc) && i.isWhole(b, loc) {
			return i, true
		}
	}
	return "", false
}
