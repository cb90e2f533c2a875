package partitions

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// naive is the slow and obvious way to look into a list of partitions.
func naive(parts []Partition, us int64) int {
	return slices.IndexFunc(parts, func(p Partition) bool { return p.lower() <= us && (us < p.upper() || p.ToMax) })
}

// drawCatalog makes partitions that do not overlap, some beside each other and some with gaps, some with open ends or pending detach.
func drawCatalog(t *rapid.T) []Partition {
	edges := rapid.SliceOfNDistinct(rapid.Int64Range(-50, 50), 0, 20, rapid.ID[int64]).Draw(t, "edges")
	slices.Sort(edges)
	var parts []Partition
	for i := 0; i+1 < len(edges); i++ {
		if rapid.IntRange(0, 3).Draw(t, "gap") == 0 {
			continue
		}
		p := Partition{OID: uint32(i + 1), Bounds: fromMicros(edges[i], edges[i+1]), State: Attached, Kind: 'r'}
		if rapid.IntRange(0, 9).Draw(t, "pending") == 0 {
			p.State = DetachPending
		}
		parts = append(parts, p)
	}
	if len(parts) > 0 {
		parts[0].FromMin = rapid.Bool().Draw(t, "min")
		parts[len(parts)-1].ToMax = rapid.Bool().Draw(t, "max")
	}
	return parts
}

func shuffled(t *rapid.T, parts []Partition) []Partition {
	if len(parts) == 0 {
		return nil
	}
	return rapid.Permutation(parts).Draw(t, "order")
}

func TestCatalogFinds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		parts := drawCatalog(t)
		c := NewCatalog(shuffled(t, parts))
		for us := int64(-60); us <= 60; us++ {
			i := naive(parts, us)
			if i >= 0 && parts[i].State == DetachPending {
				i = -1
			}
			p, ok := c.Find(time.UnixMicro(us))
			if ok != (i >= 0) || ok && p.OID != parts[i].OID {
				t.Fatalf("Find(%d): %v %v, want %d", us, p, ok, i)
			}
		}
	})
}

func TestRoute(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := NewCatalog(shuffled(t, drawCatalog(t)))
		values := rapid.SliceOf(rapid.Int64Range(-60, 60)).Draw(t, "values")
		slices.Sort(values)
		next := 0
		c.Route(len(values), func(i int) int64 { return values[i] }, func(part, from, to int) {
			if from != next || to <= from {
				t.Fatalf("[%d, %d) after %d", from, to, next)
			}
			next = to
			for _, us := range values[from:to] {
				if want, ok := c.Find(time.UnixMicro(us)); ok != (part >= 0) || ok && &c.All()[part] != want {
					t.Fatalf("%d was sent to %d, want %v", us, part, want)
				}
			}
		})
		if next != len(values) {
			t.Fatalf("%d of %d values were sent", next, len(values))
		}
	})
}

func TestCatalogRanges(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		parts := drawCatalog(t)
		c := NewCatalog(shuffled(t, parts))
		ends := []int64{rapid.Int64Range(-60, 60).Draw(t, "from"), rapid.Int64Range(-60, 60).Draw(t, "to")}
		from, to := ends[0], ends[1]
		got := c.Range(time.UnixMicro(from), time.UnixMicro(to))
		var want []uint32
		for _, p := range parts {
			if from < to && p.lower() < to && p.upper() > from {
				want = append(want, p.OID)
			}
		}
		var oids []uint32
		for _, p := range got {
			oids = append(oids, p.OID)
		}
		if !slices.Equal(oids, want) {
			t.Fatalf("Range(%d, %d): %v, want %v", from, to, oids, want)
		}
		gaps := c.Gaps(time.UnixMicro(from), time.UnixMicro(to))
		for us := int64(-60); us <= 60; us++ {
			inGap := slices.ContainsFunc(gaps, func(b Bounds) bool { return b.Contains(time.UnixMicro(us)) })
			if inGap != (from <= us && us < to && naive(parts, us) < 0) {
				t.Fatalf("Gaps(%d, %d) = %v at %d", from, to, gaps, us)
			}
		}
		for i := 1; i < len(gaps); i++ {
			if !gaps[i-1].To.Before(gaps[i].From) {
				t.Fatalf("gaps %v are not in order, or touch", gaps)
			}
		}
	})
}

func TestCatalogKeepsApart(t *testing.T) {
	t.Parallel()
	c := NewCatalog([]Partition{
		{OID: 3, Bounds: fromMicros(10, 20), State: Attached},
		{OID: 1, Default: true, State: Attached},
		{OID: 2, Bounds: fromMicros(0, 10), State: Detached},
	})
	if c.Len() != 1 || c.Default() == nil || c.Default().OID != 1 || len(c.Leftovers()) != 1 {
		t.Errorf("%+v", c)
	}
	if _, ok := c.Find(time.UnixMicro(5)); ok {
		t.Error("a detached table takes no rows")
	}
}

func TestOverlapping(t *testing.T) {
	t.Parallel()
	c := NewCatalog([]Partition{
		{Name: "a", Bounds: fromMicros(0, 10), State: Attached},
		{Name: "b", Bounds: fromMicros(10, 20), State: Attached},
		{Name: "c", Bounds: fromMicros(15, 30), State: Attached},
		{Name: "d", Bounds: fromMicros(5, 12), State: Detached},
		{Name: "e", Bounds: fromMicros(5, 12), State: Detached},
		{Name: "f", Bounds: fromMicros(40, maxMicros), State: Detached},
	})
	var got []string
	for _, o := range c.Overlapping() {
		got = append(got, o.One.Name+o.Other.Name+strconv.FormatInt(o.lower(), 10)+"-"+strconv.FormatInt(o.upper(), 10))
	}
	if want := []string{"ad5-10", "ae5-10", "db10-12", "eb10-12", "bc15-20"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestRunway(t *testing.T) {
	t.Parallel()
	c := NewCatalog([]Partition{
		{Bounds: fromMicros(0, 10), State: Attached},
		{Bounds: fromMicros(10, 30), State: Attached},
		{Bounds: fromMicros(40, 50), State: Attached},
	})
	for us, want := range map[int64]int64{-1: 0, 0: 30, 9: 21, 29: 1, 35: 0, 45: 5, 50: 0} {
		if got, forever := c.Runway(time.UnixMicro(us)); got != time.Duration(want)*time.Microsecond || forever {
			t.Errorf("at %d: %s, want %d µs", us, got, want)
		}
	}
	endless := NewCatalog([]Partition{{Bounds: Bounds{FromMin: true, ToMax: true}, State: Attached}})
	if _, forever := endless.Runway(time.UnixMicro(0)); !forever {
		t.Error("MAXVALUE has no end")
	}
	far := NewCatalog([]Partition{{Bounds: Bounds{From: at(t, "2026-01-01"), To: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}, State: Attached}})
	if got, _ := far.Runway(at(t, "2026-02-01")); got < 290*365*24*time.Hour {
		t.Errorf("a far end: %s", got)
	}
}

func TestCatalogInterval(t *testing.T) {
	t.Parallel()
	odd := Partition{Bounds: Bounds{From: at(t, "2026-03-01"), To: at(t, "2026-03-11")}, State: Attached}
	daily := Partition{Bounds: Bounds{From: at(t, "2026-02-28"), To: at(t, "2026-03-01")}, State: Attached}
	if i, ok := NewCatalog([]Partition{odd, daily}).Interval(time.UTC); !ok || i != Daily {
		t.Error(i, ok)
	}
	if _, ok := NewCatalog([]Partition{odd}).Interval(time.UTC); ok {
		t.Error("ten days are no interval")
	}
}

func days(n int) []Partition {
	parts := make([]Partition, n)
	from := time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range parts {
		to := from.Add(24 * time.Hour)
		parts[i] = Partition{OID: uint32(i + 1), Name: "p" + strconv.Itoa(i), Bounds: Bounds{From: from, To: to}, State: Attached, Kind: 'r'}
		from = to
	}
	return parts
}

// moments are spread over all partitions, so that no branch and no cache line is remembered.
func moments(c *Catalog) []time.Time {
	first, last := c.from[0], c.to[len(c.to)-1]
	out := make([]time.Time, 1024)
	seed := uint64(1)
	for i := range out {
		seed = seed*6364136223846793005 + 1442695040888963407
		out[i] = time.UnixMicro(first + int64(seed>>1)%(last-first))
	}
	return out
}

func BenchmarkFind(b *testing.B) {
	for _, n := range []int{10, 1_000, 100_000} {
		c := NewCatalog(days(n))
		when := moments(c)
		b.Run("binary/"+strconv.Itoa(n), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				if _, ok := c.Find(when[i&1023]); !ok {
					b.Fatal("not found")
				}
			}
		})
		b.Run("linear/"+strconv.Itoa(n), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				if naive(c.All(), when[i&1023].UnixMicro()) < 0 {
					b.Fatal("not found")
				}
			}
		})
	}
}

func BenchmarkRoute(b *testing.B) {
	const events = 1_000_000
	c := NewCatalog(days(1_000))
	first, last := c.from[0], c.to[len(c.to)-1]
	sorted := make([]int64, events)
	for i := range sorted {
		sorted[i] = first + int64(float64(last-first)*float64(i)/events)
	}
	targets := make([]int32, events) // both say for every event where it goes
	b.Run("merge", func(b *testing.B) {
		for b.Loop() {
			sent := 0
			c.Route(events, func(i int) int64 { return sorted[i] }, func(part, from, to int) {
				sent += to - from
				for i := range targets[from:to] {
					targets[from+i] = int32(part)
				}
			})
			if sent != events || targets[events-1] != int32(c.Len()-1) {
				b.Fatal("not found")
			}
		}
	})
	b.Run("spans", func(b *testing.B) { // what ingest needs: where one partition's events end
		for b.Loop() {
			sent := 0
			c.Route(events, func(i int) int64 { return sorted[i] }, func(_, from, to int) { sent += to - from })
			if sent != events {
				b.Fatal("not found")
			}
		}
	})
	b.Run("search", func(b *testing.B) {
		for b.Loop() {
			for i, us := range sorted {
				at := c.index(us)
				if at < 0 {
					b.Fatal("not found")
				}
				targets[i] = int32(at)
			}
		}
	})
}
