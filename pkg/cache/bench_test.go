package cache_test

import (
	"fmt"
	"testing"
	"time"

	"auditdb/pkg/cache"
)

// What L1 costs: a hit stays under a microsecond.
func BenchmarkL1(b *testing.B) {
	c, err := cache.New(b.Context(), cache.Options{Now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close(b.Context())
	n := c.Namespace("rows")
	keys := make([]cache.Key, 10_000)
	value := make([]byte, 1000)
	for i := range keys {
		keys[i] = n.Key("1/2/3", fmt.Sprint(i))
		n.Put(b.Context(), cache.Item{Key: keys[i], Value: value})
	}
	b.Run("hit", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, ok := n.Get(b.Context(), keys[i%len(keys)]); !ok {
				b.Fatal("a miss")
			}
		}
	})
	b.Run("put", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			n.Put(b.Context(), cache.Item{Key: keys[i%len(keys)], Value: value})
		}
	})
}
