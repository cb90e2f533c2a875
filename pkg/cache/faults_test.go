package cache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"auditdb/internal/pgtest"
	auditredis "auditdb/internal/redis"
	"auditdb/pkg/cache"
)

// model is a source whose values change, read by several goroutines through caches as several processes would, with the breaker and the
// time limit of a real one. No read may ever give less than what was committed before it asked.
type model struct {
	caches      []*cache.Cache
	generations [50]atomic.Int64
	reads, l2   atomic.Int64
}

func startModel(t *testing.T, address string) *model {
	t.Helper()
	m := &model{}
	for range 3 {
		client, err := auditredis.Open(t.Context(), address, nil)
		if err != nil {
			t.Fatal(err)
		}
		c, err := cache.New(t.Context(), cache.Options{Redis: client.UniversalClient, Now: time.Now, MaxSize: 20_000, TTL: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		m.caches = append(m.caches, c)
		t.Cleanup(func() {
			c.Close(context.WithoutCancel(t.Context()))
			_ = client.Close()
		})
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() { m.read(ctx, t, m.caches[i%len(m.caches)], uint64(i)) })
	}
	wg.Go(func() { m.write(ctx) })
	t.Cleanup(func() {
		stop()
		wg.Wait()
	})
	return m
}

func (m *model) write(ctx context.Context) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			m.generations[rand.IntN(len(m.generations))].Add(1)
		}
	}
}

func (m *model) read(ctx context.Context, t *testing.T, c *cache.Cache, seed uint64) {
	t.Helper()
	n := c.Namespace("rows")
	r := rand.New(rand.NewPCG(seed, 7))
	for ctx.Err() == nil {
		var ids []int
		var asked []int64
		var keys []cache.Key
		for range 1 + r.IntN(5) {
			id := r.IntN(len(m.generations))
			g := m.generations[id].Load()
			ids, asked = append(ids, id), append(asked, g)
			keys = append(keys, n.Key(fmt.Sprintf("1/2/%d", id), "rows", fmt.Sprint(g)))
		}
		hits, err := n.Fetch(ctx, keys, func(_ context.Context, missing []cache.Key) ([]cache.Item, error) {
			items := make([]cache.Item, len(missing))
			for i, k := range missing {
				at := 0
				for keys[at] != k {
					at++
				}
				g := m.generations[ids[at]].Load() // the snapshot may be newer than the question
				items[i] = cache.Item{Key: n.Key(fmt.Sprintf("1/2/%d", ids[at]), "rows", fmt.Sprint(g)), Value: value(ids[at], g)}
			}
			return items, nil
		})
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			t.Errorf("a read failed: %v", err)
			return
		}
		m.reads.Add(1)
		for i, h := range hits {
			var id int
			var g int64
			if _, err := fmt.Sscanf(string(h.Value), "%d@%d ", &id, &g); err != nil || id != ids[i] || g < asked[i] || string(h.Value) != string(value(id, g)) {
				t.Errorf("%.30q for %d at %d or later", h.Value, ids[i], asked[i])
				return
			}
			if h.Level == cache.L2 {
				m.l2.Add(1)
			}
		}
	}
}

func value(id int, generation int64) []byte {
	return []byte(fmt.Sprintf("%d@%d ", id, generation) + strings.Repeat("row ", 400))
}

// goesOn waits until many more reads were answered, right as all are checked.
func (m *model) goesOn(t *testing.T) {
	t.Helper()
	from := m.reads.Load()
	eventually(t, "reads go on", func() bool { return m.reads.Load() > from+200 })
}

// recovers waits until values come from Redis again.
func (m *model) recovers(t *testing.T) {
	t.Helper()
	from := m.l2.Load()
	eventually(t, "values come from Redis", func() bool { return m.l2.Load() > from+20 })
}

// A Redis that is killed, full, read-only, or asks for a password costs time and nothing else.
func TestFaultsOfOneServer(t *testing.T) {
	t.Parallel()
	server := pgtest.RedisServer(t)
	address := server.URL()
	m := startModel(t, address)
	m.recovers(t)
	admin := func(what string, do func(c redis.UniversalClient) error) {
		t.Helper()
		if err := do(connect(t, address)); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	config := func(name, value string) func(redis.UniversalClient) error {
		return func(c redis.UniversalClient) error { return c.ConfigSet(t.Context(), name, value).Err() }
	}

	stop(t, server)
	m.goesOn(t)
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.recovers(t)

	admin("fill up", config("maxmemory", "1mb"))
	m.goesOn(t)
	eventually(t, "Redis is out of memory", func() bool {
		s := m.caches[0].Stats(t.Context())
		return s.L2.Status == cache.StatusFull && strings.Contains(strings.Join(s.Warnings, " "), "out of memory")
	})
	admin("free", config("maxmemory", "0"))
	m.recovers(t)

	admin("make a replica", func(c redis.UniversalClient) error { return c.ReplicaOf(t.Context(), "127.0.0.1", "1").Err() })
	m.goesOn(t)
	eventually(t, "Redis is read-only", func() bool { return m.caches[0].Stats(t.Context()).L2.Status == cache.StatusReadOnly })
	if _, err := m.caches[0].Drop(t.Context(), cache.Selection{}); err == nil {
		t.Error("a read-only server says that it has dropped everything")
	}
	admin("make a primary", func(c redis.UniversalClient) error { return c.ReplicaOf(t.Context(), "NO", "ONE").Err() })
	m.recovers(t)

	keep := connect(t, address) // stays logged in
	if err := keep.ConfigSet(t.Context(), "requirepass", "changed").Err(); err != nil {
		t.Fatal(err)
	}
	if err := keep.ClientKillByFilter(t.Context(), "TYPE", "normal", "SKIPME", "yes").Err(); err != nil {
		t.Fatal(err)
	}
	m.goesOn(t)
	eventually(t, "the password is refused", func() bool { return m.caches[0].Stats(t.Context()).L2.Status == cache.StatusNotReachable })
	if err := keep.ConfigSet(t.Context(), "requirepass", "").Err(); err != nil {
		t.Fatal(err)
	}
	m.recovers(t)
}
