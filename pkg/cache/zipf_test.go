package cache_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"auditdb/internal/pgtest"
	"auditdb/pkg/cache"
)

// zipf draws ranks below n whose frequency falls with the power s of the rank.
func zipf(r *rand.Rand, n int, s float64) func() int {
	sums := make([]float64, n)
	total := 0.0
	for i := range sums {
		total += 1 / math.Pow(float64(i+1), s)
		sums[i] = total
	}
	return func() int {
		at, _ := slices.BinarySearch(sums, r.Float64()*total)
		return min(at, n-1)
	}
}

// 1,000 distinct queries, s = 1.1, answers of some kilobytes: after a warm-up at least nine of ten come from the cache, even though L1 has room for a
// tenth of them only, and while one partition in fifty changes all the time.
func TestZipf(t *testing.T) {
	t.Parallel()
	address := pgtest.Redis(t)
	const distinct, warmUp, asked = 1000, 5000, 20_000
	for name, limits := range map[string]cache.Options{
		"roomy": {}, "small L1": {MaxSize: 400 << 10, Prefix: "small"}, "L1 alone": {Prefix: "alone"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if limits.Now = time.Now; name != "L1 alone" {
				limits.Redis = connect(t, address)
			}
			c := newCache(t, limits)
			n := c.Namespace("rows")
			r := rand.New(rand.NewPCG(3, 4))
			next := zipf(r, distinct, 1.1)
			generation := 0
			loaded := 0
			for i := range warmUp + asked {
				if i == warmUp {
					loaded = 0
				}
				if i%500 == 0 {
					generation++
				}
				q := next()
				changing := ""
				if q%50 == 49 {
					changing = fmt.Sprint(generation)
				}
				want := fmt.Sprintf("%d %s ", q, changing) + strings.Repeat("row ", 1000)
				k := n.Key("1/2/3", fmt.Sprint(q), changing)
				hits, err := n.Fetch(t.Context(), []cache.Key{k}, func(context.Context, []cache.Key) ([]cache.Item, error) {
					loaded++
					return []cache.Item{{Key: k, Value: []byte(want)}}, nil
				})
				if err != nil || string(hits[0].Value) != want {
					t.Fatalf("query %d: %.30q, %v", q, hits[0].Value, err)
				}
			}
			ratio := 1 - float64(loaded)/asked
			t.Logf("hit ratio %.1f %%, L1 alone %.1f %%", 100*ratio, 100**c.Stats(t.Context()).L1.HitRatio)
			if ratio < 0.9 {
				t.Errorf("hit ratio %.1f %% after the warm-up", 100*ratio)
			}
		})
	}
}
