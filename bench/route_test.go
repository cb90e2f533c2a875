//go:build bench

package bench

import (
	"fmt"
	"testing"
	"time"

	"auditdb/pkg/partitions"
)

// catalogOf is a catalog of n daily partitions.
func catalogOf(n int) *partitions.Catalog {
	parts := make([]partitions.Partition, n)
	for i, s := range spans(time.Date(1995, 1, 1, 0, 0, 0, 0, time.UTC), n, 0, 1) {
		parts[i] = partitions.Partition{Name: fmt.Sprint("p", i), State: partitions.Attached, Bounds: partitions.Bounds{From: s.from, To: s.to}}
	}
	return partitions.NewCatalog(parts)
}

// lookup measures the library itself: one value among 100,000 partitions, and a million sorted ones over 1,000.
func (b *bench) lookup() []row {
	const events = 1_000_000
	large := catalogOf(100_000)
	moments := make([]time.Time, 1024)
	for i := range moments { // all over the catalog, in no order
		moments[i] = large.All()[i*7919%large.Len()].From.Add(time.Hour)
	}
	find := testing.Benchmark(func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if _, ok := large.Find(moments[i&1023]); !ok {
				b.Fatal("not found")
			}
		}
	})

	c := catalogOf(1_000)
	first, last := c.All()[0].From.UnixMicro(), c.All()[c.Len()-1].To.UnixMicro()
	sorted := make([]int64, events)
	for i := range sorted {
		sorted[i] = first + int64(float64(last-first)*float64(i)/events)
	}
	targets := make([]*partitions.Partition, events)
	merge := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			c.Route(events, func(i int) int64 { return sorted[i] }, func(part, from, to int) {
				for i := range targets[from:to] { // both say for every event where it goes
					targets[from+i] = &c.All()[part]
				}
			})
			if targets[events-1] == nil {
				b.Fatal("not found")
			}
		}
	})
	search := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			for i, us := range sorted {
				p, ok := c.Find(time.UnixMicro(us))
				if !ok {
					b.Fatal("not found")
				}
				targets[i] = p
			}
		}
	})
	each := func(r testing.BenchmarkResult) float64 { return float64(r.NsPerOp()) / events }
	return []row{
		{name: "lookup among 100,000 partitions", figure: fmt.Sprintf("%d ns", find.NsPerOp()), bar: "< 100 ns"},
		{
			name: "route 1,000,000 sorted over 1,000 / a search each", figure: fmt.Sprintf("%.2f ns each", each(merge)), baseline: fmt.Sprintf("%.2f ns each", each(search)),
			ratio: fmt.Sprintf("1/%.1f", each(search)/each(merge)), bar: "≤ 1/10",
		},
	}
}
