package cmd

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"auditdb/internal/fault"
)

func TestParseSpan(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]Span{
		"36h": {Hours: 36}, "90d": {Days: 90}, "2w": {Days: 14}, "13mo": {Months: 13}, "7y": {Months: 84}, "0d": {},
		"1y6mo": {Months: 18}, "1y2w3d4h": {Months: 12, Days: 17, Hours: 4}, "007d": {Days: 7},
	} {
		if got, err := ParseSpan(in); err != nil || got != want {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
	for in, hint := range map[string]string{
		"": "units", "d": "units", "5": "units", "5m": "mo for months", "1y5m": "mo for months", "5min": "units", "5 d": "units", "-5d": "units",
		"+5d": "units", "1.5d": "units", "5D": "units", "5d5d": "each unit once", "5d1y": "larger ones first", "2y24mo1y": "each unit once",
		"99999999999999999999d": "too large", "9999999999d": "too large", "4000000d": "too large", "2562048h": "too large", "1000000y": "too large", "5d ": "units", "٥d": "units",
	} {
		got, err := ParseSpan(in)
		if err == nil || fault.ClassOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), hint) {
			t.Errorf("%q: %+v, %v, hint %q, want %q", in, got, err, fault.HintOf(err), hint)
		}
	}
}

func TestSpanBefore(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ span, from, want string }{
		{"1mo", "2025-03-31T10:11:12.5Z", "2025-02-28T10:11:12.5Z"},
		{"1mo", "2024-03-31T00:00:00Z", "2024-02-29T00:00:00Z"},
		{"1y", "2024-02-29T00:00:00Z", "2023-02-28T00:00:00Z"},
		{"4y", "2024-02-29T00:00:00Z", "2020-02-29T00:00:00Z"},
		{"12mo", "2025-01-15T00:00:00Z", "2024-01-15T00:00:00Z"},
		{"13mo", "2025-01-31T00:00:00Z", "2023-12-31T00:00:00Z"},
		{"1mo1d", "2025-03-31T00:00:00Z", "2025-02-27T00:00:00Z"},
		{"365d", "2025-01-01T00:00:00Z", "2024-01-02T00:00:00Z"},
		{"36h", "2025-01-02T00:00:00Z", "2024-12-31T12:00:00Z"},
		{"0d", "2025-01-02T00:00:00.000001Z", "2025-01-02T00:00:00.000001Z"},
		// Clocks went forward on 30 March and back on 26 October 2025 in Berlin: a day is a day, 24 h are 24 h.
		{"1d", "2025-03-31T00:00:00+02:00", "2025-03-30T00:00:00+01:00"},
		{"24h", "2025-03-31T00:00:00+02:00", "2025-03-29T23:00:00+01:00"},
		{"1d", "2025-10-27T00:00:00+01:00", "2025-10-26T00:00:00+02:00"},
		{"6mo", "2025-09-30T12:00:00+02:00", "2025-03-30T12:00:00+02:00"},
	}
	for _, test := range tests {
		span, err := ParseSpan(test.span)
		if err != nil {
			t.Fatal(err)
		}
		from, err := time.Parse(time.RFC3339Nano, test.from)
		if err != nil {
			t.Fatal(err)
		}
		if _, offset := from.Zone(); offset != 0 {
			from = from.In(berlin)
		}
		if got := span.Before(from).Format(time.RFC3339Nano); got != test.want {
			t.Errorf("%s before %s: %s, want %s", test.span, test.from, got, test.want)
		}
	}
}

func TestParseTime(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2025, 3, 31, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]string{
		"2025-01-31T12:00:00Z": "2025-01-31T12:00:00Z", "2025-01-31T12:00:00.123456+02:00": "2025-01-31T10:00:00.123456Z",
		"2025-01-31T12:00Z": "2025-01-31T12:00:00Z", "2025-01-31": "2025-01-30T23:00:00Z", "2025-07": "2025-06-30T22:00:00Z",
		"1mo": "2025-02-28T13:00:00Z", "90d": "2024-12-31T13:00:00Z", "0d": "2025-03-31T12:00:00Z",
	} {
		if got, err := ParseTime(in, now, berlin); err != nil || got.UTC().Format(time.RFC3339Nano) != want {
			t.Errorf("%s: %s, %v, want %s", in, got.UTC().Format(time.RFC3339Nano), err, want)
		}
	}
	for in, hint := range map[string]string{
		"": "span back", "yesterday": "span back", "2025-02-30": "span back", "2025-13": "span back", "2025": "units", "90m": "mo for months",
		"2025-01-31 12:00:00": "span back", "2025-01-31T12:00:00": "span back",
	} {
		if got, err := ParseTime(in, now, time.UTC); fault.ClassOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), hint) {
			t.Errorf("%q: %v, %v, hint %q", in, got, err, fault.HintOf(err))
		}
	}
}

func anySpan(t *rapid.T) Span {
	return Span{
		Months: rapid.IntRange(0, 1200).Draw(t, "months"),
		Days:   rapid.IntRange(0, 5000).Draw(t, "days"),
		Hours:  rapid.IntRange(0, 5000).Draw(t, "hours"),
	}
}

// written is the shortest form that ParseSpan reads back.
func written(s Span) string {
	var b strings.Builder
	put := func(n int, unit string) {
		if n != 0 {
			fmt.Fprintf(&b, "%d%s", n, unit)
		}
	}
	put(s.Months/12, "y")
	put(s.Months%12, "mo")
	put(s.Days, "d")
	put(s.Hours, "h")
	if b.Len() == 0 {
		return "0d"
	}
	return b.String()
}

func TestSpanProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		span := anySpan(t)
		back, err := ParseSpan(written(span))
		if err != nil || back != span {
			t.Errorf("%+v → %s → %+v, %v", span, written(span), back, err)
		}
		at := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "at"), 0).UTC()
		before := span.Before(at)
		if before.After(at) {
			t.Errorf("%s before %s is later: %s", written(span), at, before)
		}
		months := Span{Months: span.Months}
		got := months.Before(at)
		if want := at.Year()*12 + int(at.Month()) - span.Months; got.Year()*12+int(got.Month()) != want {
			t.Errorf("%d months before %s are %s", span.Months, at, got)
		}
		if got.Day() != at.Day() && (got.Day() > at.Day() || got.AddDate(0, 0, 1).Day() != 1) {
			t.Errorf("%d months before %s are %s, not the same day or the month's last", span.Months, at, got)
		}
	})
}

func FuzzParseTime(f *testing.F) {
	for _, seed := range []string{"", "90d", "1y6mo", "2025-01", "2025-01-31", "2025-01-31T12:00:00Z", "5m", "0000-01", "99999d", "9999-12-31T23:59:59.999999999-14:00"} {
		f.Add(seed)
	}
	now := time.Date(2025, 3, 31, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseTime(s, now, time.UTC)
		if err != nil {
			if fault.ClassOf(err) != fault.Usage || fault.HintOf(err) == "" {
				t.Errorf("%q: class %s, hint %q", s, fault.ClassOf(err), fault.HintOf(err))
			}
			return
		}
		if looksLikeSpan(s) && got.After(now) {
			t.Errorf("the span %q leads to %s", s, got)
		}
	})
}
