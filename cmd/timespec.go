package cmd

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"auditdb/internal/config"
	"auditdb/internal/fault"
)

// Span is a calendar distance in time: months differ in length, and days where clocks are changed.
type Span struct {
	Months, Days, Hours int
}

// The largest counts of a Span. Hours are a time.Duration, which ends after 292 years: one more would turn round and lead to the future.
const (
	maxSpanMonths = 12 * 10_000
	maxSpanDays   = 3_660_000
	maxSpanHours  = int(math.MaxInt64 / time.Hour)
)

const spanHint = "units are h, d, w, mo and y, as in 90d, 13mo, 7y"

// ParseSpan reads a span such as 36h, 90d, 2w, 13mo, 7y or 1y6mo: each unit once, larger ones first. m is refused, since it
// could mean minutes or months.
func ParseSpan(s string) (Span, error) {
	var span Span
	rest, last := s, len(spanUnits())
	for rest != "" || s == "" {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		letters := len(rest[digits:]) - len(strings.TrimLeft(rest[digits:], "abcdefghijklmnopqrstuvwxyz"))
		count, unit := rest[:digits], rest[digits:digits+letters]
		rest = rest[digits+letters:]
		if digits == 0 || letters == 0 {
			return Span{}, badSpan(s, spanHint)
		}
		n, err := strconv.Atoi(count)
		if err != nil {
			return Span{}, badSpan(s, "the number is too large")
		}
		if last, err = span.add(s, n, unit, last); err != nil {
			return Span{}, err
		}
	}
	return span, nil
}

// spanUnits lists the units from the smallest to the largest.
func spanUnits() []string { return []string{"h", "d", "w", "mo", "y"} }

// add adds n units, which must be smaller than the last one, and returns the unit's rank.
func (s *Span) add(whole string, n int, unit string, last int) (int, error) {
	rank := -1
	for i, u := range spanUnits() {
		if u == unit {
			rank = i
		}
	}
	switch {
	case unit == "m":
		return 0, badSpan(whole, "m could be minutes or months: write mo for months, h for hours")
	case rank < 0:
		return 0, badSpan(whole, spanHint)
	case rank >= last:
		return 0, badSpan(whole, "each unit once, the larger ones first, as in 1y6mo")
	}
	if n > maxSpanDays { // and so do the products below not overflow
		return 0, badSpan(whole, "the number is too large")
	}
	switch unit {
	case "h":
		s.Hours += n
	case "d":
		s.Days += n
	case "w":
		s.Days += 7 * n
	case "mo":
		s.Months += n
	case "y":
		s.Months += 12 * n
	}
	if s.Months > maxSpanMonths || s.Days > maxSpanDays || s.Hours > maxSpanHours {
		return 0, badSpan(whole, "the number is too large")
	}
	return rank, nil
}

func badSpan(s, hint string) error {
	return fault.New(fault.Usage, hint, "%q is no span of time", s)
}

// Before goes back from t by calendar: months first, a day that the month does not have becoming its last (31 March less a month is
// 28 or 29 February), then days, both in t's location, then hours.
func (s Span) Before(t time.Time) time.Time {
	year, month, day := t.Date()
	first := time.Date(year, month-time.Month(s.Months), 1, 0, 0, 0, 0, t.Location())
	day = min(day, daysIn(first.Year(), first.Month()))
	hour, minute, second := t.Clock()
	back := t
	if s.Months != 0 || s.Days != 0 {
		back = time.Date(first.Year(), first.Month(), day-s.Days, hour, minute, second, t.Nanosecond(), t.Location())
	}
	return back.Add(-time.Duration(s.Hours) * time.Hour)
}

func daysIn(year int, month time.Month) int {
	return time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

const timeHint = "write 2025-01-31T12:00:00Z, 2025-01-31, 2025-01, or a span back from now: 90d, 13mo, 7y"

// ParseTime reads a moment: RFC 3339, as tables show it (with a space), YYYY-MM-DD or YYYY-MM (the start of the day or month in loc), or a span back from now by
// calendar arithmetic in loc.
func ParseTime(s string, now time.Time, loc *time.Location) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02T15:04Z07:00"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{time.DateOnly, "2006-01"} {
		if t, err := time.ParseInLocation(layout, s, loc); err == nil {
			return t, nil
		}
	}
	if looksLikeSpan(s) {
		span, err := ParseSpan(s)
		if err != nil {
			return time.Time{}, err
		}
		return span.Before(now.In(loc)), nil
	}
	return time.Time{}, fault.New(fault.Usage, timeHint, "%q is no time", s)
}

func looksLikeSpan(s string) bool {
	return s != "" && s[0] >= '0' && s[0] <= '9' && !strings.ContainsAny(s, "-:T ")
}

// durationValue is a flag in Go's duration syntax plus d for days.
type durationValue time.Duration

// Set reads the flag.
func (d *durationValue) Set(s string) error {
	parsed, err := config.ParseDuration(s)
	if err != nil {
		return err
	}
	if parsed < 0 {
		return fmt.Errorf("%q is negative", s)
	}
	*d = durationValue(parsed)
	return nil
}

// Type is how help names the value.
func (*durationValue) Type() string { return "duration" }

// String is the value in the syntax that Set reads.
func (d *durationValue) String() string { return config.FormatDuration(time.Duration(*d)) }

// durationFlag adds a flag in Go's duration syntax plus d for days. The value is read through the returned pointer.
func durationFlag(f *pflag.FlagSet, name string, def time.Duration, help string) *time.Duration {
	d := def
	f.Var((*durationValue)(&d), name, help)
	return &d
}

// sizeValue is a flag with a number of bytes.
type sizeValue int64

// Set reads the flag.
func (v *sizeValue) Set(s string) error {
	n, err := config.ParseSize(s)
	if err != nil {
		return err
	}
	*v = sizeValue(n)
	return nil
}

// Type is how help names the value.
func (*sizeValue) Type() string { return "size" }

// String is the value in bytes.
func (v *sizeValue) String() string { return strconv.FormatInt(int64(*v), 10) }

// sizeFlag adds a flag with a number of bytes: 1048576, 64kB, 200MB, 2GiB. The value is read through the returned pointer.
func sizeFlag(f *pflag.FlagSet, name string, def int64, help string) *int64 {
	n := def
	f.Var((*sizeValue)(&n), name, help)
	return &n
}
