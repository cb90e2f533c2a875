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
		i := rapid.SampledFrom(Intervals()).Draw(t, "interval")
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
	if i, err := ParseInterval("weekly"); err != nil || i != Weekly {
		t.Error(i, err)
	}
	if _, err := ParseInterval("minutely"); err == nil {
		t.Error("unknown interval taken")
	}
}
