//go:build bench

package bench

import (
	"cmp"
	"container/list"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/maypok86/otter/v2"

	"auditdb/internal/embedded"
	"auditdb/internal/redis"
	"auditdb/pkg/cache"
)

// cacheKeys are how many values the caches in the process hold, of cacheValue bytes each.
const (
	cacheKeys  = 100_000
	cacheValue = 1 << 10
	cacheOps   = 500_000
)

// store is a cache in the process: get and set by the number of a key.
type store struct {
	name     string
	get, set func(i int)
}

// local measures the cache in the process against bare ones.
func (b *bench) local() []row {
	stores, end := b.stores(cacheKeys)
	order := make([]int, 1<<16)
	for i := range order {
		order[i] = rand.IntN(cacheKeys)
	}
	var rows []row
	for _, what := range []string{"get", "set"} {
		for _, workers := range []int{1, 2} {
			rows = append(rows, b.compareStores(what, workers, stores, order)...)
		}
	}
	end()
	return append(rows, b.sizes())
}

// compareStores takes the stores in turn, round by round.
func (b *bench) compareStores(what string, workers int, stores []store, order []int) []row {
	times := make([][]float64, len(stores))
	for range b.rounds {
		for i, s := range stores {
			op := s.get
			if what == "set" {
				op = s.set
			}
			times[i] = append(times[i], perOp(workers, order, op))
		}
	}
	var rows []row
	for i, s := range stores[1:] {
		bar := ""
		if s.name == "otter" {
			bar = "<= 1.3x"
		}
		rows = append(rows, row{
			fmt.Sprintf("L1 %s, %d at once, against %s", what, workers, s.name), nanoseconds(times[0]), nanoseconds(times[i+1]), ratios(times[0], times[i+1]), bar,
		})
	}
	return rows
}

// perOp is how long one operation takes, in nanoseconds, with as many goroutines.
func perOp(workers int, order []int, op func(int)) float64 {
	var wg sync.WaitGroup
	start := time.Now()
	for w := range workers {
		wg.Go(func() {
			for i := range cacheOps / workers {
				op(order[(i+w*777)&(len(order)-1)])
			}
		})
	}
	wg.Wait()
	return float64(time.Since(start).Nanoseconds()) / cacheOps
}

func nanoseconds(times []float64) string { return fmt.Sprintf("%.0f ns", medianTime(times)) }

func medianTime(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// ratios compares round by round.
func ratios(a, b []float64) string {
	each := make([]float64, len(a))
	for i := range a {
		each[i] = a[i] / b[i]
	}
	return fmt.Sprintf("%.2fx (%.2f-%.2f)", medianTime(each), slices.MinFunc(each, cmp.Compare), slices.MaxFunc(each, cmp.Compare))
}

// stores makes filled ones, auditdb's first.
func (b *bench) stores(keys int) (all []store, end func()) {
	ctx := context.Background()
	c, err := cache.New(ctx, cache.Options{Now: time.Now, MaxSize: 4 << 30})
	if err != nil {
		b.t.Fatal(err)
	}
	n := c.Namespace("rows")
	own, digests := make([]cache.Key, keys), make([][32]byte, keys)
	for i := range own {
		own[i] = n.Key("1/2/3", fmt.Sprint(i))
		for j := range digests[i] {
			digests[i][j] = byte(rand.Uint32())
		}
	}
	value := make([]byte, cacheValue)
	// What auditdb asks of otter: limits in bytes and a time for each entry.
	bare := otter.Must(&otter.Options[[32]byte, []byte]{
		MaximumWeight: 4 << 30, Weigher: func(_ [32]byte, v []byte) uint32 { return uint32(len(v)) },
		ExpiryCalculator: otter.ExpiryWriting[[32]byte, []byte](cache.DefaultTTL),
	})
	hashicorp, err := lru.New[[32]byte, []byte](keys)
	if err != nil {
		b.t.Fatal(err)
	}
	simple := &listLRU{most: keys, order: list.New(), at: map[[32]byte]*list.Element{}}
	all = []store{
		{"auditdb", func(i int) { n.Get(ctx, own[i]) }, func(i int) { n.Put(ctx, cache.Item{Key: own[i], Value: value}) }},
		{"otter", func(i int) { bare.GetIfPresent(digests[i]) }, func(i int) { bare.Set(digests[i], value) }},
		{"golang-lru", func(i int) { hashicorp.Get(digests[i]) }, func(i int) { hashicorp.Add(digests[i], value) }},
		{"a list under a mutex", func(i int) { simple.get(digests[i]) }, func(i int) { simple.set(digests[i], value) }},
	}
	for _, s := range all {
		for i := range keys {
			s.set(i)
		}
	}
	return all, func() {
		c.Close(ctx)
		bare.StopAllGoroutines()
	}
}

// listLRU is the textbook's.
type listLRU struct {
	mu    sync.Mutex
	most  int
	order *list.List
	at    map[[32]byte]*list.Element
}

type listEntry struct {
	key   [32]byte
	value []byte
}

func (l *listLRU) get(k [32]byte) ([]byte, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.at[k]
	if !ok {
		return nil, false
	}
	l.order.MoveToFront(e)
	entry, _ := e.Value.(*listEntry)
	return entry.value, true
}

func (l *listLRU) set(k [32]byte, v []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.at[k]; ok {
		e.Value = &listEntry{k, v}
		l.order.MoveToFront(e)
		return
	}
	l.at[k] = l.order.PushFront(&listEntry{k, v})
	if l.order.Len() > l.most {
		last := l.order.Back()
		entry, _ := l.order.Remove(last).(*listEntry)
		delete(l.at, entry.key)
	}
}

// sizes compares a hit among a million values with one among a thousand.
func (b *bench) sizes() row {
	times := map[int][]float64{}
	for _, keys := range []int{1_000, 1_000_000} {
		ctx := context.Background()
		c, err := cache.New(ctx, cache.Options{Now: time.Now, MaxSize: 4 << 30})
		if err != nil {
			b.t.Fatal(err)
		}
		n := c.Namespace("rows")
		own := make([]cache.Key, keys)
		for i := range own {
			own[i] = n.Key("1/2/3", fmt.Sprint(i))
			n.Put(ctx, cache.Item{Key: own[i]})
		}
		order := make([]int, 1<<16)
		for i := range order {
			order[i] = rand.IntN(keys)
		}
		for range b.rounds {
			times[keys] = append(times[keys], perOp(1, order, func(i int) { n.Get(ctx, own[i]) }))
		}
		c.Close(ctx)
	}
	return row{"L1 hit among 1,000,000, against 1,000", nanoseconds(times[1_000_000]), nanoseconds(times[1_000]), ratios(times[1_000_000], times[1_000]), "< 1 us"}
}

// fromRedis compares a hit in Redis, checked and unpacked, with a bare GET of what is stored, and with one of the value as it is.
func (b *bench) fromRedis() []row {
	ctx := context.Background()
	server, err := embedded.StartRedis(ctx, embedded.RedisOptions{Installed: true})
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = server.Stop(ctx) }()
	client, err := redis.Open(ctx, server.URL(), nil)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	const reads = 2000 // each of another value, which L1 does not have yet
	open := func() *cache.Cache {
		c, err := cache.New(ctx, cache.Options{Redis: client.UniversalClient, Now: time.Now, Timeout: 5 * time.Second})
		if err != nil {
			b.t.Fatal(err)
		}
		return c
	}
	var rows []row
	for _, size := range []int{1_000, 30_000} {
		c := open()
		n := c.Namespace("rows")
		keys := make([]cache.Key, reads)
		for i := range keys {
			keys[i] = n.Key("1/2/3", fmt.Sprint(size, i))
			value := eventLike(size)
			n.Put(ctx, cache.Item{Key: keys[i], Value: value})
			if err := client.Set(ctx, fmt.Sprint("plain", i), value, 0).Err(); err != nil {
				b.t.Fatal(err)
			}
		}
		stored, err := client.Keys(ctx, "*:v:*").Result()
		if err != nil || len(stored) != reads {
			b.t.Fatal(len(stored), err)
		}
		times := [3][]float64{}
		for range b.rounds {
			fresh := open()
			part := fresh.Namespace("rows")
			times[0] = append(times[0], b.trips(reads, func(i int) bool { h, _ := part.Get(ctx, keys[i]); return h.Level == cache.L2 }))
			times[1] = append(times[1], b.trips(reads, func(i int) bool { return bareGet(ctx, client, stored[i]) }))
			times[2] = append(times[2], b.trips(reads, func(i int) bool { return bareGet(ctx, client, fmt.Sprint("plain", i)) }))
			fresh.Close(ctx)
		}
		name := fmt.Sprintf("L2 hit, %d bytes, against GET of ", size)
		rows = append(
			rows,
			row{name + "what is stored", nanoseconds(times[0]), nanoseconds(times[1]), ratios(times[0], times[1]), "<= 1.5x"},
			row{name + "the value as it is", nanoseconds(times[0]), nanoseconds(times[2]), ratios(times[0], times[2]), ""},
		)
		if _, err := c.Drop(ctx, cache.Selection{}); err != nil {
			b.t.Fatal(err)
		}
		c.Close(ctx)
	}
	return rows
}

func bareGet(ctx context.Context, client *redis.Client, key string) bool {
	_, err := client.Get(ctx, key).Bytes()
	return err == nil
}

// trips is how long a read takes, in nanoseconds.
func (b *bench) trips(reads int, read func(i int) bool) float64 {
	start := time.Now()
	for i := range reads {
		if !read(i) {
			b.t.Fatal("the value did not come from Redis")
		}
	}
	return float64(time.Since(start).Nanoseconds()) / float64(reads)
}

// eventLike makes bytes that compress as events do.
func eventLike(size int) []byte {
	var text strings.Builder
	for text.Len() < size {
		fmt.Fprintf(&text, `{"action":"user.login","status":"success","principal_id":"user-%d","event_uid":"%016x%016x","details":{"ip":"10.%d.%d.%d"}}`,
			rand.IntN(5000), rand.Uint64(), rand.Uint64(), rand.IntN(255), rand.IntN(255), rand.IntN(255))
	}
	return []byte(text.String()[:size])
}
