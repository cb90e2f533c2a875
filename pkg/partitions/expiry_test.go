package partitions

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A partition expires at the first moment at which the cutoff reaches its end, to a microsecond, whatever the months and the clock do.
func TestExpiry(t *testing.T) {
	t.Parallel()
	zones := []*time.Location{time.UTC, zone(t, "Europe/Paris"), zone(t, "Asia/Kolkata"), zone(t, "America/St_Johns")}
	rapid.Check(t, func(t *rapid.T) {
		tab := Table{Key: Key{Kind: rapid.SampledFrom([]KeyKind{KeyTimestamptz, KeyTimestamp}).Draw(t, "kind")}, Location: rapid.SampledFrom(zones).Draw(t, "zone")}
		interval := rapid.SampledFrom([]Interval{Daily, Weekly, Monthly, Yearly}).Draw(t, "interval")
		to := interval.Floor(time.Unix(rapid.Int64Range(946_684_800, 1_900_000_000).Draw(t, "to"), 0), tab.keyZone())
		p := Policy{}
		for range rapid.IntRange(1, 2).Draw(t, "rules") {
			p.Keep = append(p.Keep, Span{Months: rapid.IntRange(0, 100).Draw(t, "months"), Days: rapid.IntRange(0, 100).Draw(t, "days")})
		}
		expiry := p.Expiry(tab, to)
		if p.Cutoff(tab, expiry).Before(to) {
			t.Fatalf("%+v: %s expires at %s, when the cutoff is %s", p.Keep, to, expiry, p.Cutoff(tab, expiry))
		}
		if before := expiry.Add(-time.Microsecond); !p.Cutoff(tab, before).Before(to) {
			t.Fatalf("%+v: %s expires at %s, but has at %s, when the cutoff is %s", p.Keep, to, expiry, before, p.Cutoff(tab, before))
		}
	})
}
