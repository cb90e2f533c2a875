package partitions

import (
	"slices"
	"testing"
	"time"
	_ "time/tzdata"

	"pgregory.net/rapid"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func at(t *testing.T, text string) time.Time {
	t.Helper()
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04", time.DateOnly} {
		if got, err := time.Parse(layout, text); err == nil {
			return got.UTC()
		}
	}
	t.Fatalf("%q is no time", text)
	return time.Time{}
}

func TestIntervals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		interval    Interval
		zone, now   string
		from, to    string
		label       string
		description string
	}{
		{Yearly, "UTC", "2026-11-23 07:00", "2026-01-01", "2027-01-01", "2026", ""},
		{Quarterly, "UTC", "2026-12-31 23:59", "2026-10-01", "2027-01-01", "2026_q4", ""},
		{Monthly, "UTC", "2024-02-29 12:00", "2024-02-01", "2024-03-01", "2024_02", "leap month"},
		{Weekly, "UTC", "2027-01-01 00:00", "2026-12-28", "2027-01-04", "2026_w53", "ISO year"},
		{Weekly, "UTC", "2024-12-31 00:00", "2024-12-30", "2025-01-06", "2025_w01", "ISO year"},
		{Daily, "UTC", "2024-02-29 23:59", "2024-02-29", "2024-03-01", "2024_02_29", "leap day"},
		{Hourly, "UTC", "2026-11-23 07:59", "2026-11-23 07:00", "2026-11-23 08:00", "2026_11_23_07", ""},
		{Daily, "Europe/Paris", "2026-03-29 12:00", "2026-03-28 23:00", "2026-03-29 22:00", "2026_03_29", "23 hours"},
		{Daily, "Europe/Paris", "2026-10-25 12:00", "2026-10-24 22:00", "2026-10-25 23:00", "2026_10_25", "25 hours"},
		{Monthly, "Europe/Paris", "2026-03-31 22:30", "2026-03-31 22:00", "2026-04-30 22:00", "2026_04", "next month already in Paris"},
		{Hourly, "Europe/Paris", "2026-10-25 00:30", "2026-10-25 00:00", "2026-10-25 01:00", "2026_10_25_02", "first 02"},
		{Hourly, "Europe/Paris", "2026-10-25 01:30", "2026-10-25 01:00", "2026-10-25 02:00", "2026_10_25_02b", "second 02"},
		{Hourly, "Europe/Paris", "2026-10-25 02:30", "2026-10-25 02:00", "2026-10-25 03:00", "2026_10_25_03", "after it"},
		{Hourly, "Europe/Paris", "2026-03-29 01:30", "2026-03-29 01:00", "2026-03-29 02:00", "2026_03_29_03", "no 02"},
		{Hourly, "Asia/Kolkata", "2026-05-01 00:00", "2026-04-30 23:30", "2026-05-01 00:30", "2026_05_01_05", "half hours"},
		{Daily, "Asia/Kolkata", "2026-05-01 20:00", "2026-05-01 18:30", "2026-05-02 18:30", "2026_05_02", ""},
		{Daily, "America/St_Johns", "2026-03-08 12:00", "2026-03-08 03:30", "2026-03-09 02:30", "2026_03_08", "23 hours"},
		{Daily, "America/St_Johns", "2010-11-07 12:00", "2010-11-07 02:30", "2010-11-08 03:30", "2010_11_07", "the clock goes back over midnight"},
		{Daily, "America/Sao_Paulo", "2018-11-04 12:00", "2018-11-04 03:00", "2018-11-05 02:00", "2018_11_04", "midnight does not exist"},
		{Daily, "Pacific/Apia", "2011-12-30 09:00", "2011-12-29 10:00", "2011-12-30 10:00", "2011_12_29", "the day after it does not exist"},
		{Daily, "Pacific/Apia", "2011-12-30 11:00", "2011-12-30 10:00", "2011-12-31 10:00", "2011_12_31", ""},
		{"6h", "UTC", "2026-11-23 07:59", "2026-11-23 06:00", "2026-11-23 12:00", "2026_11_23_06", "from midnight"},
		{"6h", "Europe/Paris", "2026-10-25 01:30", "2026-10-24 22:00", "2026-10-25 05:00", "2026_10_25_00", "7 hours"},
		{"2h", "Europe/Paris", "2026-03-29 01:30", "2026-03-29 01:00", "2026-03-29 02:00", "2026_03_29_03", "02 to 04 begins at 03"},
		{"5h", "UTC", "2000-01-01 04:59", "2000-01-01 00:00", "2000-01-01 05:00", "2000_01_01_00", ""},
		{"5h", "UTC", "1999-12-31 23:59", "1999-12-31 19:00", "2000-01-01 00:00", "1999_12_31_19", "before the first"},
		{"15d", "UTC", "2000-01-16 12:00", "2000-01-16", "2000-01-31", "2000_01_16", ""},
		{"10d", "Europe/Paris", "2026-10-25 12:00", "2026-10-20 22:00", "2026-10-30 23:00", "2026_10_21", "241 hours"},
		{"2w", "UTC", "2000-01-03 00:00", "2000-01-03", "2000-01-17", "2000_w01", "from a Monday"},
		{"2w", "UTC", "2000-01-02 00:00", "1999-12-20", "2000-01-03", "1999_w51", ""},
		{"2mo", "UTC", "2026-12-23", "2026-11-01", "2027-01-01", "2026_11", ""},
		{"5mo", "UTC", "1999-12-31", "1999-08-01", "2000-01-01", "1999_08", ""},
		{"5y", "UTC", "2026-12-23", "2025-01-01", "2030-01-01", "2025", ""},
		{"5y", "UTC", "1999-12-23", "1995-01-01", "2000-01-01", "1995", ""},
		{Hourly, "Australia/Lord_Howe", "2026-04-04 15:10", "2026-04-04 15:00", "2026-04-04 15:30", "2026_04_05_01b", "half an hour of summer time"},
	} {
		t.Run(string(c.interval)+" "+c.zone+" "+c.now, func(t *testing.T) {
			t.Parallel()
			loc, now := zone(t, c.zone), at(t, c.now)
			from, to := c.interval.Floor(now, loc), c.interval.Next(now, loc)
			if !from.Equal(at(t, c.from)) || !to.Equal(at(t, c.to)) {
				t.Errorf("%s: [%s, %s), want [%s, %s)", c.description, from, to, c.from, c.to)
			}
			if got := c.interval.Label(from, loc); got != c.label {
				t.Errorf("%s: label %q, want %q", c.description, got, c.label)
			}
		})
	}
}

// In every zone, intervals follow each other without gap or overlap, Floor finds the one around a moment, and no two have one name.
func TestIntervalsTile(t *testing.T) {
	t.Parallel()
	zones := []string{
		"UTC", "Europe/Paris", "Asia/Kolkata", "America/St_Johns", "Australia/Lord_Howe", "America/Sao_Paulo", "Pacific/Apia", "America/Havana",
		"Africa/Cairo", "Asia/Beirut", "Africa/Casablanca", "Antarctica/Troll", "Pacific/Kwajalein", "Asia/Kathmandu",
	}
	locations := make([]*time.Location, len(zones))
	for i, z := range zones {
		locations[i] = zone(t, z)
	}
	rapid.Check(t, func(t *rapid.T) {
		i := drawInterval(t)
		loc := rapid.SampledFrom(locations).Draw(t, "zone")
		now := time.UnixMicro(rapid.Int64Range(0, 2_200_000_000_000_000).Draw(t, "now")).UTC()
		from := i.Floor(now, loc)
		labels := map[string]bool{}
		for range 30 {
			to := i.Next(from, loc)
			if !to.After(from) {
				t.Fatalf("%s %s: [%s, %s)", i, loc, from, to)
			}
			mid := from.Add(to.Sub(from) / 2)
			for _, in := range []time.Time{from, mid, to.Add(-time.Microsecond)} {
				if !i.Floor(in, loc).Equal(from) || !i.Next(in, loc).Equal(to) {
					t.Fatalf("%s %s: %s lies in [%s, %s), not [%s, %s)", i, loc, in, i.Floor(in, loc), i.Next(in, loc), from, to)
				}
			}
			label := i.Label(from, loc)
			if labels[label] {
				t.Fatalf("%s %s: two intervals are called %s", i, loc, label)
			}
			labels[label] = true
			from = to
		}
	})
}

// drawInterval makes intervals with names and others.
func drawInterval(t *rapid.T) Interval {
	if rapid.Bool().Draw(t, "named") {
		return rapid.SampledFrom(Intervals()).Draw(t, "interval")
	}
	n := rapid.OneOf(rapid.IntRange(1, 31), rapid.IntRange(1, 1000)).Draw(t, "times")
	return times(n, rapid.SampledFrom([]unit{unitHour, unitDay, unitWeek, unitMonth, unitYear}).Draw(t, "unit"))
}

// Two neighbours tell their interval, whatever the zone, and what is told has them as whole ones.
func TestInferTimes(t *testing.T) {
	t.Parallel()
	var zones []*time.Location
	for _, name := range []string{"UTC", "Europe/Paris", "Asia/Kolkata", "America/St_Johns", "America/Sao_Paulo", "Pacific/Apia", "Africa/Cairo"} {
		zones = append(zones, zone(t, name))
	}
	rapid.Check(t, func(t *rapid.T) {
		i, loc := drawInterval(t), rapid.SampledFrom(zones).Draw(t, "zone")
		first := i.Floor(time.Unix(rapid.Int64Range(946_684_800, 1_900_000_000).Draw(t, "now"), 0), loc)
		second := i.Next(first, loc)
		a, b := Bounds{From: first, To: second}, Bounds{From: second, To: i.Next(second, loc)}
		got, ok := NewCatalog([]Partition{{Bounds: a, State: Attached}, {Bounds: b, State: Attached}}).Interval(loc)
		regular := i.Shift(first, -1, loc).Add(3 * b.To.Sub(b.From)).Equal(b.To) // no change of the clock, no months of different lengths
		if regular && !ok {
			t.Fatalf("%s %s: nothing told by %s and %s", i, loc, a.Text(), b.Text())
		}
		if ok && !got.isWhole(b, loc) {
			t.Fatalf("%s %s: %s was told by %s and %s", i, loc, got, a.Text(), b.Text())
		}
	})
	one := Partition{Bounds: Bounds{From: at(t, "2000-01-01"), To: at(t, "2026-01-01")}, State: Attached}
	if i, ok := NewCatalog([]Partition{one}).Interval(time.UTC); ok {
		t.Errorf("one partition of 26 years is no interval: %s", i)
	}
}

func TestDayLengths(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][]time.Duration{
		"Europe/Paris":     {23 * time.Hour, 25 * time.Hour},
		"America/St_Johns": {23 * time.Hour, 25 * time.Hour},
		"Asia/Kolkata":     nil,
	} {
		loc := zone(t, name)
		var odd []time.Duration
		for day := Daily.Floor(at(t, "2026-01-02"), loc); day.Year() == 2026; day = Daily.Next(day, loc) {
			if d := Daily.Next(day, loc).Sub(day); d != 24*time.Hour {
				odd = append(odd, d)
			}
		}
		if !slices.Equal(odd, want) {
			t.Errorf("%s: days that have not 24 hours: %v, want %v", name, odd, want)
		}
	}
}

func TestShift(t *testing.T) {
	t.Parallel()
	if got := Monthly.Shift(at(t, "2026-03-31 10:00"), -1, time.UTC); !got.Equal(at(t, "2026-02-01")) {
		t.Error(got)
	}
	if got := Monthly.Shift(at(t, "2026-01-31 10:00"), 13, time.UTC); !got.Equal(at(t, "2027-02-01")) {
		t.Error(got)
	}
}

func TestSpanBefore(t *testing.T) {
	t.Parallel()
	paris := zone(t, "Europe/Paris")
	for _, c := range []struct {
		span      Span
		loc       *time.Location
		from, out string
	}{
		{Span{Months: 1}, time.UTC, "2026-03-31 08:00", "2026-02-28 08:00"},
		{Span{Months: 1}, time.UTC, "2024-03-31 08:00", "2024-02-29 08:00"},
		{Span{Months: 12}, time.UTC, "2024-02-29", "2023-02-28"},
		{Span{Months: 13}, time.UTC, "2026-01-15", "2024-12-15"},
		{Span{Days: 90}, time.UTC, "2026-03-31", "2025-12-31"},
		{Span{Days: 1}, paris, "2026-03-29 22:00", "2026-03-28 23:00"},
		{Span{Time: 36 * time.Hour}, paris, "2026-03-29 22:00", "2026-03-28 10:00"},
		{Span{Months: 1, Days: 1}, time.UTC, "2026-03-31", "2026-02-27"},
	} {
		if got := c.span.Before(at(t, c.from), c.loc); !got.Equal(at(t, c.out)) {
			t.Errorf("%+v before %s: %s, want %s", c.span, c.from, got, c.out)
		}
	}
}

func TestInfer(t *testing.T) {
	t.Parallel()
	paris := zone(t, "Europe/Paris")
	for _, i := range Intervals() {
		from := i.Floor(at(t, "2026-05-13 10:00"), paris)
		if got, ok := Infer(Bounds{From: from, To: i.Next(from, paris)}, paris); !ok || got != i {
			t.Errorf("%s: %s %v", i, got, ok)
		}
	}
	if _, ok := Infer(Bounds{From: at(t, "2026-01-01"), To: at(t, "2026-03-01")}, time.UTC); ok {
		t.Error("two months are no interval")
	}
}

func TestParseInterval(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Interval{
		"weekly": Weekly, "6h": "6h", "15d": "15d", "2w": "2w", "5y": "5y", "1h": Hourly, "1d": Daily, "1w": Weekly, "1mo": Monthly, "3mo": Quarterly,
		"12mo": Yearly, "1y": Yearly, "24mo": "2y", "18mo": "18mo", "24h": Daily, "36h": "36h", "48h": "2d", "7d": "7d",
	} {
		if i, err := ParseInterval(text); err != nil || i != want {
			t.Errorf("%s: %s %v, want %s", text, i, err, want)
		}
	}
	for _, text := range []string{"", "minutely", "0h", "5", "h", "-1d", "+2d", "06h", "5m", "5 d", "10000d", "1.5y", "6H", "99999999999999999999h"} {
		if i, err := ParseInterval(text); err == nil {
			t.Errorf("%q was taken for %s", text, i)
		}
	}
}

func FuzzParseInterval(f *testing.F) {
	for _, s := range []string{"weekly", "6h", "12mo", "9999y", "0d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		i, err := ParseInterval(s)
		if err != nil {
			return
		}
		if again, err := ParseInterval(string(i)); err != nil || again != i {
			t.Errorf("%q became %s, and then %s: %v", s, i, again, err)
		}
		now := time.Date(2026, 11, 23, 7, 0, 0, 0, time.UTC)
		if from, to := i.Floor(now, time.UTC), i.Next(now, time.UTC); from.After(now) || !to.After(now) {
			t.Errorf("%s: [%s, %s) does not hold %s", i, from, to, now)
		}
	})
}
