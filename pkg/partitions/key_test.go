package partitions

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"auditdb/internal/fault"
)

func TestKeyLiterals(t *testing.T) {
	t.Parallel()
	when := at(t, "2026-11-01")
	for _, c := range []struct {
		key          Key
		literal, sql string
	}{
		{Key{Kind: KeyUUIDv7}, "'019a3ccc-c800-0000-0000-000000000000'", "uuid"},
		{Key{Kind: KeyUUIDv7, LeastV7: true}, "'019a3ccc-c800-7000-8000-000000000000'", "uuid"},
		{Key{Kind: KeyEpochS}, "'1793491200'", "bigint"},
		{Key{Kind: KeyEpochMS}, "'1793491200000'", "bigint"},
		{Key{Kind: KeyEpochUS}, "'1793491200000000'", "bigint"},
		{Key{Kind: KeyEpochNS}, "'1793491200000000000'", "bigint"},
		{Key{Kind: KeyTimestamptz}, "'2026-11-01 00:00:00+00'", "timestamptz"},
		{Key{Kind: KeyTimestamp}, "'2026-11-01 00:00:00'", "timestamp"},
		{Key{Kind: KeyDate}, "'2026-11-01'", "date"},
	} {
		c.key.Column = "k"
		if c.key.Kind == KeyUUIDv7 {
			c.literal = fmt.Sprintf("'%012x", when.UnixMilli())
			c.literal = c.literal[:9] + "-" + c.literal[9:] + map[bool]string{false: uuidTail, true: leastV7}[c.key.LeastV7] + "'"
		}
		got := c.key.literal(when)
		if got != c.literal {
			t.Errorf("%+v: %s, want %s", c.key, got, c.literal)
		}
		b, _, err := c.key.parse("FOR VALUES FROM (" + got + ") TO (MAXVALUE)")
		if err != nil || !b.From.Equal(when) || !b.ToMax {
			t.Errorf("%+v: %s was read as %s: %v", c.key, got, b.Text(), err)
		}
		if want := `"k" IS NOT NULL AND "k" >= ` + got + "::" + c.sql; c.key.within(b) != want {
			t.Errorf("%s, want %s", c.key.within(b), want)
		}
	}
}

// Whatever the kind, a bound that the kind can hold is written and read back unchanged.
func TestKeyKindsRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		key := Key{Column: "k", Kind: rapid.SampledFrom(KeyKinds()).Draw(t, "kind"), LeastV7: rapid.Bool().Draw(t, "style")}
		limits := key.Kind.limits()
		draw := func(label string) time.Time {
			return time.Unix(rapid.Int64Range(limits.From.Unix(), limits.To.Unix()).Draw(t, label)/86400*86400, 0).UTC()
		}
		b := Bounds{From: draw("from"), To: draw("to"), FromMin: rapid.Bool().Draw(t, "min"), ToMax: rapid.Bool().Draw(t, "max")}
		got, _, err := key.parse(key.ForValues(b))
		if err != nil || !got.Equal(b) {
			t.Fatalf("%+v: %s became %s: %v", key, key.ForValues(b), got.Text(), err)
		}
	})
}

func TestForeignBounds(t *testing.T) {
	t.Parallel()
	for kind, bounds := range map[KeyKind][]string{
		KeyUUIDv7: {
			"'019a3ccc-c800-7000-8000-000000000001'", "'019a3ccc-c800-4000-8000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'", "'2026-11-01'",
			"'019A3CCC-C800-0000-0000-000000000000'", "'infinity'", "5",
		},
		KeyEpochNS: {"'1793491200000000001'", "'2026-11-01'", "'-infinity'", "'9223372036854775808'", "'1.5'", "'+5'", "'05'", "''"},
		KeyEpochUS: {fmt.Sprintf("'%d'", math.MaxInt64), fmt.Sprintf("'%d'", math.MinInt64)},
		KeyEpochMS: {fmt.Sprintf("'%d'", math.MaxInt64/1000), fmt.Sprintf("'%d'", math.MinInt64)},
		KeyEpochS:  {fmt.Sprintf("'%d'", math.MaxInt64/1_000_000), "'-9223372036855'"},
		KeyDate:    {"'019a3ccc-c800-0000-0000-000000000000'", "'1793491200'"},
	} {
		for _, bound := range bounds {
			expr := "FOR VALUES FROM (" + bound + ") TO (MAXVALUE)"
			if b, _, err := ParseBounds(expr, kind); fault.ClassOf(err) != fault.Data {
				t.Errorf("%s as %s: %s %v", expr, kind, b.Text(), err)
			}
		}
	}
	if _, _, err := (Key{Kind: KeyUUIDv7, LeastV7: true}).parse("FOR VALUES FROM ('019a3ccc-c800-0000-0000-000000000000') TO (MAXVALUE)"); err == nil {
		t.Error("bounds of two styles in one table")
	}
	if b, _, err := ParseBounds("FOR VALUES FROM ('-9223372036854775000') TO ('-1')", KeyEpochUS); err != nil || b.To.Year() != 1969 {
		t.Error(b, err)
	}
}

func TestInferEpoch(t *testing.T) {
	t.Parallel()
	month := Bounds{From: at(t, "2026-11-01"), To: at(t, "2026-12-01")}
	open := Bounds{FromMin: true, To: at(t, "1990-01-01")}
	for _, kind := range epochKinds() {
		key := Key{Kind: kind}
		if got, ok := inferEpoch([]string{"DEFAULT", key.ForValues(month), key.ForValues(open)}); !ok || got != kind {
			t.Errorf("%s: %s %v", kind, got, ok)
		}
		if got, ok := inferEpoch([]string{key.ForValues(month), key.ForValues(Bounds{From: at(t, "2201-01-01"), ToMax: true})}); ok {
			t.Errorf("%s: one bound is not likely, but %s", kind, got)
		}
	}
	for _, exprs := range [][]string{nil, {"DEFAULT"}, {"FOR VALUES FROM (MINVALUE) TO (MAXVALUE)"}, {"FOR VALUES FROM ('0') TO ('1000000')"}, {"FOR VALUES IN ('1793491200')"}} {
		if got, ok := inferEpoch(exprs); ok {
			t.Errorf("%v: %s", exprs, got)
		}
	}
}

func FuzzParseKeyBounds(f *testing.F) {
	for i, s := range []string{"'019a3ccc-c800-7000-8000-000000000000'", "'1793491200000'", "'-5'", "MINVALUE", "'infinity'"} {
		f.Add(uint8(i), s, "MAXVALUE")
	}
	f.Fuzz(func(t *testing.T, n uint8, from, to string) {
		kind := KeyKinds()[int(n)%len(KeyKinds())]
		expr := "FOR VALUES FROM (" + from + ") TO (" + to + ")"
		b, isDefault, err := ParseBounds(expr, kind)
		if err != nil || isDefault || kind == KeyDate || b.From.Year() > 294_276 || b.To.Year() > 294_276 {
			return
		}
		key := Key{Column: "k", Kind: kind, LeastV7: strings.Contains(from, leastV7)}
		if again, _, err := ParseBounds(key.ForValues(b), kind); err != nil || !again.Equal(b) {
			t.Errorf("%s %q: %s became %s: %v", kind, expr, b.Text(), again.Text(), err)
		}
	})
}
