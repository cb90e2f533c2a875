package partitions

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestPartitionNames(t *testing.T) {
	t.Parallel()
	month := Bounds{From: at(t, "2026-11-01"), To: at(t, "2026-12-01")}
	long := strings.Repeat("a", 55)
	for _, c := range []struct {
		schema, table string
		bounds        Bounds
		want          string
	}{
		{"public", "audit_log", month, "audit_log_2026_11"},
		{"public", `We"ird %s Name`, month, `We"ird %s Name_2026_11`},
		{"public", long, month, long + "_2026_11"},
		{"public", long + "xxxxxxxx", month, ""},
		{"public", strings.Repeat("ü", 31), month, ""},
		{"public", "audit_log", Bounds{From: at(t, "2026-11-10"), To: at(t, "2026-12-01")}, ""},
	} {
		got := (Table{Schema: c.schema, Name: c.table, Interval: Monthly, Key: Key{Kind: KeyTimestamptz}}).PartitionName(c.bounds)
		if c.want != "" && got != c.want {
			t.Errorf("%s: %q, want %q", c.table, got, c.want)
		}
		if len(got) > maxName || !utf8.ValidString(got) || !strings.Contains(got, "_2026_11") {
			t.Errorf("%s: %q (%d bytes)", c.table, got, len(got))
		}
	}
}

func TestPartitionNamesDiffer(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		prefix := strings.Repeat("p", 55)
		one := Table{Schema: "s", Name: prefix + rapid.StringMatching(`[a-zé]{4}`).Draw(t, "one"), Interval: Hourly, Key: Key{Kind: KeyTimestamptz}, Location: time.UTC}
		other := one
		other.Name = prefix + rapid.StringMatching(`[a-zé]{4}`).Draw(t, "other")
		b := one.IntervalOf(time.UnixMicro(rapid.Int64Range(0, 4e15).Draw(t, "at")))
		a, o := one.PartitionName(b), other.PartitionName(b)
		if (one.Name != other.Name) != (a != o) {
			t.Fatalf("%s and %s: %s and %s", one.Name, other.Name, a, o)
		}
		for _, name := range []string{a, o, one.altName(b)} {
			if len(name) > maxName || !utf8.ValidString(name) {
				t.Fatalf("%q has %d bytes", name, len(name))
			}
		}
		if one.altName(b) == a {
			t.Fatalf("%s has no other name", a)
		}
	})
}

func TestDisplayName(t *testing.T) {
	t.Parallel()
	for _, c := range [][3]string{{"public", "audit_log", "public.audit_log"}, {"Audit", "e 1", `"Audit"."e 1"`}, {"a", "1st", `a."1st"`}, {"a", `q"q`, `a."q""q"`}} {
		if got := displayName(c[0], c[1]); got != c[2] {
			t.Errorf("%s, want %s", got, c[2])
		}
	}
}

func TestParseBounds(t *testing.T) {
	t.Parallel()
	for expr, want := range map[string]string{
		"FOR VALUES FROM ('2026-11-01 00:00:00+00') TO ('2026-12-01 00:00:00+00')":              "[2026-11-01 00:00:00, 2026-12-01 00:00:00)",
		"FOR VALUES FROM ('2026-11-01 05:30:00+05:30') TO ('2026-12-01 00:00:00-03:30')":        "[2026-11-01 00:00:00, 2026-12-01 03:30:00)",
		"FOR VALUES FROM ('1880-01-01 00:09:21+00:09:21') TO ('1880-01-02 00:00:00.000001+00')": "[1880-01-01 00:00:00, 1880-01-02 00:00:00.000001)",
		"FOR VALUES FROM ('2026-11-01 00:00:00.5') TO ('2026-12-01 00:00:00.123456')":           "[2026-11-01 00:00:00.5, 2026-12-01 00:00:00.123456)",
		"FOR VALUES FROM ('2026-11-01') TO ('2026-12-01')":                                      "[2026-11-01 00:00:00, 2026-12-01 00:00:00)",
		"FOR VALUES FROM (MINVALUE) TO ('2026-12-01')":                                          "[-infinity, 2026-12-01 00:00:00)",
		"FOR VALUES FROM ('2026-12-01') TO (MAXVALUE)":                                          "[2026-12-01 00:00:00, infinity)",
		"FOR VALUES FROM ('-infinity') TO ('infinity')":                                         "[-infinity, infinity)",
		"FOR VALUES FROM ('0044-03-15 BC') TO ('0001-01-01 00:00:00+00')":                       "[-0043-03-15 00:00:00, 0001-01-01 00:00:00)",
		"FOR VALUES FROM ('12026-11-01 00:00:00+00') TO ('294276-12-31 23:59:59.999999+00')":    "[12026-11-01 00:00:00, 294276-12-31 23:59:59.999999)",
	} {
		b, isDefault, err := ParseBounds(expr, KeyTimestamptz)
		if err != nil || isDefault || b.Text() != want {
			t.Errorf("%s: %s %v %v, want %s", expr, b.Text(), isDefault, err, want)
		}
	}
	if _, isDefault, err := ParseBounds("DEFAULT", KeyDate); err != nil || !isDefault {
		t.Error("DEFAULT")
	}
	for _, expr := range []string{
		"", "FOR VALUES IN ('a')", "FOR VALUES WITH (modulus 2, remainder 1)", "FOR VALUES FROM ('01.11.2026') TO ('2026-12-01')",
		"FOR VALUES FROM ('2026-11-01', 'a') TO ('2026-12-01', 'b')", "FOR VALUES FROM ('2026-02-30') TO ('2026-12-01')", "FOR VALUES FROM ('2026-11-01') TO (5)",
		"FOR VALUES FROM ('2026-11-01 25:00:00') TO ('2026-12-01')", "FOR VALUES FROM ('2026-11-01x') TO ('2026-12-01')",
	} {
		if b, _, err := ParseBounds(expr, KeyTimestamptz); err == nil {
			t.Errorf("%s was read as %s", expr, b.Text())
		}
	}
	infinite, _, err := ParseBounds("FOR VALUES FROM ('infinity') TO (MAXVALUE)", KeyTimestamptz)
	if err != nil || infinite.Contains(at(t, "2026-01-01")) {
		t.Errorf("%s %v", infinite.Text(), err)
	}
}

// What is written as a literal is read back as the same bounds.
func TestLiteralsRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]KeyKind{KeyTimestamptz, KeyTimestamp, KeyDate}).Draw(t, "kind")
		draw := func(label string) time.Time {
			us := rapid.Int64Range(-200_000_000_000_000_000, 9_000_000_000_000_000_000).Draw(t, label)
			if kind == KeyDate {
				us -= us % 86_400_000_000
			}
			return time.UnixMicro(us).UTC()
		}
		b := Bounds{From: draw("from"), To: draw("to"), FromMin: rapid.Bool().Draw(t, "min"), ToMax: rapid.Bool().Draw(t, "max")}
		got, _, err := ParseBounds(Key{Column: "k", Kind: kind}.ForValues(b), kind)
		if err != nil || !got.Equal(b) {
			t.Fatalf("%s became %s: %v", b.Text(), got.Text(), err)
		}
	})
}

func FuzzParseBounds(f *testing.F) {
	f.Add("FOR VALUES FROM ('2026-11-01 00:00:00+00') TO (MAXVALUE)")
	f.Add("FOR VALUES FROM ('0044-03-15 BC') TO ('12026-11-01 00:00:00.5-03:30')")
	f.Fuzz(func(t *testing.T, expr string) {
		b, isDefault, err := ParseBounds(expr, KeyTimestamptz)
		if err != nil || isDefault || b.FromMin || b.ToMax {
			return
		}
		again, _, err := ParseBounds(Key{Column: "k", Kind: KeyTimestamptz}.ForValues(b), KeyTimestamptz)
		if err != nil || !again.Equal(b) {
			t.Errorf("%q: %s became %s: %v", expr, b.Text(), again.Text(), err)
		}
	})
}
