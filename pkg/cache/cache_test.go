package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"auditdb/internal/embedded"
	"auditdb/internal/pgtest"
	auditredis "auditdb/internal/redis"
	"auditdb/pkg/cache"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// always lets every call through, so that a test sees Redis and not a breaker.
type always struct{}

func (always) Allow() (func(error), error) { return func(error) {}, nil }

// patient is a time limit that a busy machine keeps.
const patient = 5 * time.Second

func newCache(t *testing.T, o cache.Options) *cache.Cache {
	t.Helper()
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Timeout == 0 {
		o.Timeout = patient
	}
	if o.Guard == nil {
		o.Guard = always{}
	}
	c, err := cache.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.WithoutCancel(t.Context())) })
	return c
}

func connect(t *testing.T, address string) redis.UniversalClient {
	t.Helper()
	client, err := auditredis.Open(t.Context(), address, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client.UniversalClient
}

func get(t *testing.T, n *cache.Namespace, k cache.Key) (string, cache.Level) {
	t.Helper()
	h, ok := n.Get(t.Context(), k)
	if ok != (h.Level != cache.Missing) {
		t.Fatalf("found is %t at level %s", ok, h.Level)
	}
	return string(h.Value), h.Level
}

func wants(t *testing.T, n *cache.Namespace, k cache.Key, value string, level cache.Level) {
	t.Helper()
	if v, l := get(t, n, k); v != value || l != level {
		t.Fatalf("%.40q from %s, want %.40q from %s", v, l, value, level)
	}
}

func TestLevels(t *testing.T) {
	t.Parallel()
	address := pgtest.Redis(t)
	one, two := newCache(t, cache.Options{Redis: connect(t, address)}), newCache(t, cache.Options{Redis: connect(t, address)})
	rows, rows2 := one.Namespace("rows"), two.Namespace("rows")
	for name, value := range map[string]string{"empty": "", "short": "x", "long": strings.Repeat("audit ", 20_000), "random": noise(64 << 10)} {
		k := rows.Key("1/2/3", name, "generation 7")
		wants(t, rows, k, "", cache.Missing)
		rows.Put(t.Context(), cache.Item{Key: k, Value: []byte(value)})
		wants(t, rows, k, value, cache.L1)
		wants(t, rows2, rows2.Key("1/2/3", name, "generation 7"), value, cache.L2)
		wants(t, rows2, k, value, cache.L1)
		wants(t, rows2, rows2.Key("1/2/3", name, "generation 8"), "", cache.Missing)
		wants(t, two.Namespace("counts"), two.Namespace("counts").Key("1/2/3", name, "generation 7"), "", cache.Missing)
	}
}

func noise(n int) string {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

func TestKeyTellsPartsApart(t *testing.T) {
	t.Parallel()
	c := newCache(t, cache.Options{})
	n := c.Namespace("rows")
	seen := map[cache.Key]string{}
	for _, parts := range [][]string{{"1", "a", "b"}, {"1", "ab"}, {"1", "ab", ""}, {"1", "", "ab"}, {"1/a", "b"}, {"1"}, {"", "1"}} {
		k := n.Key(parts[0], parts[1:]...)
		if other, ok := seen[k]; ok {
			t.Errorf("%q and %s have one key", parts, other)
		}
		seen[k] = fmt.Sprintf("%q", parts)
	}
}

func TestGetManyMixesLevels(t *testing.T) {
	t.Parallel()
	address := pgtest.Redis(t)
	one, two := newCache(t, cache.Options{Redis: connect(t, address)}), newCache(t, cache.Options{Redis: connect(t, address)})
	n, n2 := one.Namespace("rows"), two.Namespace("rows")
	keys := []cache.Key{n.Key("1", "a"), n.Key("1", "b"), n.Key("1", "c")}
	n2.Put(t.Context(), cache.Item{Key: keys[0], Value: []byte("A")}, cache.Item{Key: keys[2], Value: []byte("C"), Skip: true})
	n.Put(t.Context(), cache.Item{Key: keys[1], Value: []byte("B")})
	hits := n.GetMany(t.Context(), keys)
	got := fmt.Sprintf("%s %s, %s %s, %s", hits[0].Value, hits[0].Level, hits[1].Value, hits[1].Level, hits[2].Level)
	if want := "A l2, B l1, missing"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestFetchLoadsOnce(t *testing.T) {
	t.Parallel()
	c := newCache(t, cache.Options{Redis: connect(t, pgtest.Redis(t))})
	n := c.Namespace("rows")
	keys := []cache.Key{n.Key("1", "a"), n.Key("1", "b")}
	var calls atomic.Int64
	entered, release := make(chan struct{}), make(chan struct{})
	load := func(_ context.Context, missing []cache.Key) ([]cache.Item, error) {
		if calls.Add(1) == 1 {
			close(entered)
		}
		<-release
		items := make([]cache.Item, len(missing))
		for i, k := range missing {
			items[i] = cache.Item{Key: k, Value: []byte("loaded")}
		}
		return items, nil
	}
	var wg sync.WaitGroup
	const callers = 50
	for range callers {
		wg.Go(func() {
			hits, err := n.Fetch(t.Context(), keys, load)
			if err != nil || len(hits) != 2 || string(hits[1].Value) != "loaded" {
				t.Errorf("%v %v", hits, err)
			}
		})
	}
	<-entered
	close(release)
	wg.Wait()
	if n := calls.Load(); n != 1 { // also those who looked before the load and came to join after it
		t.Errorf("%d callers loaded %d times", callers, n)
	}
	wants(t, n, keys[0], "loaded", cache.L1)
}

func TestFetchPassesErrorsOn(t *testing.T) {
	t.Parallel()
	c := newCache(t, cache.Options{})
	n := c.Namespace("rows")
	keys := []cache.Key{n.Key("1", "a")}
	broken := errors.New("broken")
	for _, load := range []func(context.Context, []cache.Key) ([]cache.Item, error){
		func(context.Context, []cache.Key) ([]cache.Item, error) { return nil, broken },
		func(context.Context, []cache.Key) ([]cache.Item, error) { return nil, nil },
		func(context.Context, []cache.Key) ([]cache.Item, error) { panic("out of tune") },
	} {
		if _, err := n.Fetch(t.Context(), keys, load); err == nil {
			t.Error("no error")
		}
	}
	wants(t, n, keys[0], "", cache.Missing)
}

func TestFetchIsNotCancelledByAnother(t *testing.T) {
	t.Parallel()
	c := newCache(t, cache.Options{})
	n := c.Namespace("rows")
	keys := []cache.Key{n.Key("1", "a")}
	first, cancel := context.WithCancel(t.Context())
	entered := make(chan struct{})
	ended := make(chan error)
	go func() {
		_, err := n.Fetch(first, keys, func(ctx context.Context, _ []cache.Key) ([]cache.Item, error) {
			close(entered)
			<-ctx.Done()
			return nil, ctx.Err()
		})
		ended <- err
	}()
	<-entered
	second := make(chan error)
	go func() {
		_, err := n.Fetch(t.Context(), keys, func(_ context.Context, missing []cache.Key) ([]cache.Item, error) {
			return []cache.Item{{Key: missing[0], Value: []byte("mine")}}, nil
		})
		second <- err
	}()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the cancelled one: %v", err)
	}
	if err := <-second; err != nil {
		t.Errorf("the other: %v", err)
	}
	wants(t, n, keys[0], "mine", cache.L1)
}

func TestNilCacheKeepsNothing(t *testing.T) {
	t.Parallel()
	var c *cache.Cache
	n := c.Namespace("rows")
	k := n.Key("1", "a")
	n.Put(t.Context(), cache.Item{Key: k})
	wants(t, n, k, "", cache.Missing)
	hits, err := n.Fetch(t.Context(), []cache.Key{k}, func(context.Context, []cache.Key) ([]cache.Item, error) {
		return []cache.Item{{Key: k, Value: []byte("v")}}, nil
	})
	if err != nil || hits[0].Level != cache.Loaded {
		t.Errorf("%v %v", hits, err)
	}
	if _, err := c.Drop(t.Context(), cache.Selection{}); err != nil {
		t.Error(err)
	}
	c.Close(t.Context())
}

// clock is set by hand.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d)) }

func TestValuesExpire(t *testing.T) {
	t.Parallel()
	address := pgtest.Redis(t)
	client := connect(t, address)
	var now clock
	now.at.Store(time.Now().UnixNano())
	one := newCache(t, cache.Options{Redis: client, Now: now.now, TTL: time.Hour})
	n := one.Namespace("rows")
	k := n.Key("1", "a")
	n.Put(t.Context(), cache.Item{Key: k, Value: []byte("v"), TTL: 20 * time.Hour})
	keys, err := client.Keys(t.Context(), "*:v:*").Result()
	if err != nil || len(keys) != 1 {
		t.Fatal(keys, err)
	}
	if ttl := client.PTTL(t.Context(), keys[0]).Val(); ttl <= 11*time.Hour || ttl > 12*time.Hour {
		t.Errorf("Redis keeps it for %s", ttl)
	}
	if err := client.Persist(t.Context(), keys[0]).Err(); err != nil {
		t.Fatal(err)
	}
	now.advance(13 * time.Hour)
	two := newCache(t, cache.Options{Redis: client, Now: now.now, TTL: time.Hour})
	wants(t, two.Namespace("rows"), k, "", cache.Missing)
	if s := two.Stats(t.Context()); s.L2.Rejected.Expired != 1 {
		t.Errorf("rejected: %+v", s.L2.Rejected)
	}
}

func TestLocalIsBounded(t *testing.T) {
	t.Parallel()
	c := newCache(t, cache.Options{MaxSize: 1 << 20})
	n := c.Namespace("rows")
	for i := range 5000 {
		n.Put(t.Context(), cache.Item{Key: n.Key("1", fmt.Sprint(i)), Value: make([]byte, 1000)})
	}
	n.Put(t.Context(), cache.Item{Key: n.Key("1", "huge"), Value: make([]byte, 2<<20)})
	wants(t, n, n.Key("1", "huge"), "", cache.Missing)
	eventually(t, "the cache is within its limit", func() bool { return c.Stats(t.Context()).L1.SizeBytes <= 1<<20 })
	s := c.Stats(t.Context())
	if s.L1.Evictions < 3000 || s.L1.Entries > 1200 || s.L1.Entries < 500 || s.Scope != "process" || s.L2.Status != cache.StatusOff || s.Namespaces[0].TooLarge != 1 {
		t.Errorf("%+v", s)
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("it never came that %s", what)
		}
	}
}

func TestSharedIsBounded(t *testing.T) {
	t.Parallel()
	client := connect(t, pgtest.Redis(t))
	const limit = 4 << 20
	c := newCache(t, cache.Options{Redis: client, SharedMax: limit})
	n := c.Namespace("rows")
	memory := func() int64 {
		var used int64
		for line := range strings.Lines(client.Info(t.Context(), "memory").Val()) {
			if _, err := fmt.Sscanf(line, "used_memory:%d", &used); err == nil {
				return used
			}
		}
		return 0
	}
	before := memory()
	last := cache.Key{}
	for i := range 200 {
		items := make([]cache.Item, 20)
		for j := range items {
			last = n.Key("1", fmt.Sprint(i), fmt.Sprint(j))
			items[j] = cache.Item{Key: last, Value: []byte(noise(3000))}
		}
		n.Put(t.Context(), items...)
	}
	s := c.Stats(t.Context())
	if s.L2.Evictions < 2000 || *s.L2.SizeBytes > limit || *s.L2.SizeBytes < limit/2 || *s.L2.Keys < 500 {
		t.Errorf("evictions %d, size %d, keys %d", s.L2.Evictions, *s.L2.SizeBytes, *s.L2.Keys)
	}
	if grown := memory() - before; grown > limit*5/4 {
		t.Errorf("Redis has grown by %d bytes, the limit is %d", grown, limit)
	}
	keys, err := client.Keys(t.Context(), "*:v:*").Result()
	if err != nil || int64(len(keys)) != *s.L2.Keys {
		t.Errorf("%d values, the index says %d: %v", len(keys), *s.L2.Keys, err)
	}
	if len(s.Biggest) != 10 || s.Biggest[0].SizeBytes < 3000 || s.Biggest[0].Namespace != "rows" {
		t.Errorf("biggest: %+v", s.Biggest)
	}
	two := newCache(t, cache.Options{Redis: client})
	wants(t, two.Namespace("rows"), last, noise(3000), cache.L2)
}

func TestIndexStartsAgainAfterItsLoss(t *testing.T) {
	t.Parallel()
	client := connect(t, pgtest.Redis(t))
	c := newCache(t, cache.Options{Redis: client})
	n := c.Namespace("rows")
	put := func(from, to int) {
		for i := from; i < to; i++ {
			n.Put(t.Context(), cache.Item{Key: n.Key("1", fmt.Sprint(i)), Value: []byte("v")})
		}
	}
	put(0, 200)
	sizes, err := client.Keys(t.Context(), "*:size").Result()
	if err != nil || len(sizes) != 16 {
		t.Fatal(sizes, err)
	}
	if err := client.Del(t.Context(), sizes...).Err(); err != nil {
		t.Fatal(err)
	}
	put(200, 400)
	if keys := *c.Stats(t.Context()).L2.Keys; keys != 200 {
		t.Errorf("%d keys in the index, want the 200 since its loss", keys)
	}
	removed, err := c.Drop(t.Context(), cache.Selection{})
	if err != nil || removed.Shared != 400 || removed.Local != 400 {
		t.Errorf("removed %+v, want all 400: %v", removed, err)
	}
	if s := c.Stats(t.Context()); *s.L2.Keys != 0 || *s.L2.SizeBytes != 0 {
		t.Errorf("left: %d keys, %d bytes", *s.L2.Keys, *s.L2.SizeBytes)
	}
}

func TestDropScopes(t *testing.T) {
	t.Parallel()
	address := pgtest.Redis(t)
	one, two := newCache(t, cache.Options{Redis: connect(t, address)}), newCache(t, cache.Options{Redis: connect(t, address)})
	scopes := []string{"1/2/3", "1/2/3/4", "1/2/33", "1/5"}
	for _, name := range []string{"rows", "counts"} {
		for _, scope := range scopes {
			n := one.Namespace(name)
			n.Put(t.Context(), cache.Item{Key: n.Key(scope, "k"), Value: []byte(scope)})
			wants(t, two.Namespace(name), n.Key(scope, "k"), scope, cache.L2)
		}
	}
	if r, err := one.Drop(t.Context(), cache.Selection{Namespace: "rows", Scope: "1/2/3"}); err != nil || r.Shared != 2 || r.Local != 2 || r.Bytes == 0 {
		t.Errorf("%+v %v", r, err)
	}
	fold(t, two)
	for _, c := range []*cache.Cache{one, two} {
		for _, name := range []string{"rows", "counts"} {
			n := c.Namespace(name)
			for _, scope := range scopes {
				want := cache.L1
				if name == "rows" && strings.HasPrefix(scope+"/", "1/2/3/") {
					want = cache.Missing
				}
				if _, level := get(t, n, n.Key(scope, "k")); level != want {
					t.Errorf("%s %s: %s, want %s", name, scope, level, want)
				}
			}
		}
	}
}

// fold makes a cache do what it does every ten seconds.
func fold(t *testing.T, c *cache.Cache) {
	t.Helper()
	if err := c.Fold(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestStatsOfAllProcesses(t *testing.T) {
	t.Parallel()
	address := pgtest.Redis(t)
	client := connect(t, address)
	one, two := newCache(t, cache.Options{Redis: client, Version: "1.0"}), newCache(t, cache.Options{Redis: client, Version: "2.0"})
	n, n2 := one.Namespace("rows"), two.Namespace("rows")
	k := n.Key("1", "a")
	n.Get(t.Context(), k)
	n.Put(t.Context(), cache.Item{Key: k, Value: []byte("v")})
	n.Get(t.Context(), k)
	n2.Get(t.Context(), k)
	fold(t, one)
	fold(t, two)
	one.Close(t.Context())
	n2.Get(t.Context(), k) // not folded in yet, and counted by the process itself
	s := two.Stats(t.Context())
	if s.Scope != "shared" || s.L1.Hits != 2 || s.L1.Misses != 2 || s.L2.Hits != 1 || s.L2.Misses != 1 || *s.OverallHitRatio != 0.75 || s.L2.Latency == nil ||
		s.L2.Status != cache.StatusOK || *s.L2.Policy != "noeviction" || s.L1.Entries != 1 || len(s.Processes) != 1 || !s.VersionSkew || s.Since == nil {
		t.Errorf("%+v", s)
	}
	if h := s.LastHour; h.Requests != 4 || *h.HitRatio != 0.75 || len(h.Parts) != 1 {
		t.Errorf("last hour: %+v", h)
	}
	if err := two.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	fold(t, two)
	if s := two.Stats(t.Context()); s.L1.Hits != 1 || s.L1.Misses != 0 || s.LastHour.Requests != 4 {
		t.Errorf("after the reset: %+v, last hour %+v", s.L1, s.LastHour)
	}
}

func TestWithoutRedisThatAnswers(t *testing.T) {
	t.Parallel()
	server := pgtest.RedisServer(t)
	c := newCache(t, cache.Options{Redis: connect(t, server.URL())})
	n := c.Namespace("rows")
	put := func(name string) cache.Key {
		k := n.Key("1", name)
		n.Put(t.Context(), cache.Item{Key: k, Value: []byte(name)})
		return k
	}
	before := put("before")
	stop(t, server)
	during := put("during")
	wants(t, n, before, "before", cache.L1)
	wants(t, n, during, "during", cache.L1)
	wants(t, n, n.Key("1", "unknown"), "", cache.Missing)
	if s := c.Stats(t.Context()); s.Scope != "process" || s.L2.Status != cache.StatusNotReachable || s.L1.Hits != 2 || s.L2.Errors == 0 {
		t.Errorf("%+v", s)
	}
	if _, err := c.Drop(t.Context(), cache.Selection{}); err == nil {
		t.Error("Drop says that Redis has nothing left, and could not know")
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := put("after")
	wants(t, n, before, "", cache.Missing) // a new server is empty, and L1 was invalidated
	other := newCache(t, cache.Options{Redis: connect(t, server.URL())})
	wants(t, other.Namespace("rows"), after, "after", cache.L2)
}

func stop(t *testing.T, server *embedded.Redis) {
	t.Helper()
	if err := server.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestBadOptions(t *testing.T) {
	t.Parallel()
	for _, o := range []cache.Options{{}, {Now: time.Now, Prefix: "a*"}, {Now: time.Now, Prefix: "{a}"}, {Now: time.Now, MaxSize: -1}, {Now: time.Now, TTL: -1}} {
		if _, err := cache.New(t.Context(), o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}

func TestBadValuesAreReplaced(t *testing.T) {
	t.Parallel()
	client := connect(t, pgtest.Redis(t))
	secret := []byte("a secret of the database")
	source := newCache(t, cache.Options{Redis: client, Secret: secret})
	n := source.Namespace("rows")
	value := strings.Repeat("right ", 500)
	k, other := n.Key("1", "a"), n.Key("1", "b")
	n.Put(t.Context(), cache.Item{Key: k, Value: []byte(value)})
	name := onlyValue(t, client)
	good := client.Get(t.Context(), name).Val()
	n.Put(t.Context(), cache.Item{Key: other, Value: []byte("of another key")})
	var foreign string
	for _, key := range client.Keys(t.Context(), "*:v:*").Val() {
		if key != name {
			foreign = client.Get(t.Context(), key).Val()
		}
	}
	unkeyed := newCache(t, cache.Options{Redis: client, Prefix: "forged"})
	unkeyed.Namespace("rows").Put(t.Context(), cache.Item{Key: k, Value: []byte("forged")})
	forged := client.Get(t.Context(), strings.Replace(name, cache.DefaultPrefix, "forged", 1)).Val()
	bad := map[string]string{
		"empty": "", "foreign text": "hello", "of another key": foreign, "older version": good[:4] + "\x00" + good[5:], "newer version": good[:4] + "\x7f" + good[5:],
		"without a secret": forged, "longer": good + "x", "doubled": good + good, "flags": good[:5] + "\x00" + good[6:],
	}
	for i := range len(good) {
		bad[fmt.Sprintf("cut at %d", i)] = good[:i]
		flipped := []byte(good)
		flipped[i] ^= 0x10
		bad[fmt.Sprintf("changed at %d", i)] = string(flipped)
	}
	for what, raw := range bad {
		if err := client.Set(t.Context(), name, raw, time.Minute).Err(); err != nil {
			t.Fatal(err)
		}
		reader := newCache(t, cache.Options{Redis: client, Secret: secret})
		r := reader.Namespace("rows")
		if v, level := get(t, r, k); level != cache.Missing {
			t.Errorf("%s: returned %.20q", what, v)
		}
		hits, err := r.Fetch(t.Context(), []cache.Key{k}, func(context.Context, []cache.Key) ([]cache.Item, error) {
			return []cache.Item{{Key: k, Value: []byte(value)}}, nil
		})
		if err != nil || !bytes.Equal(hits[0].Value, []byte(value)) {
			t.Errorf("%s: %v", what, err)
		}
		reader.Close(t.Context())
		if v := client.Get(t.Context(), name).Val(); len(v) != len(good) {
			t.Errorf("%s: not replaced", what)
		}
	}
	if err := client.Del(t.Context(), name).Err(); err != nil {
		t.Fatal(err)
	}
	if err := client.LPush(t.Context(), name, "a list").Err(); err != nil {
		t.Fatal(err)
	}
	reader := newCache(t, cache.Options{Redis: client, Secret: secret})
	r := reader.Namespace("rows")
	hits := r.GetMany(t.Context(), []cache.Key{k, other})
	if hits[0].Level != cache.Missing || hits[1].Level != cache.L2 {
		t.Errorf("beside a list: %v", hits)
	}
	r.Put(t.Context(), cache.Item{Key: k, Value: []byte(value)})
	if v := client.Get(t.Context(), name).Val(); len(v) != len(good) {
		t.Error("the list is still there")
	}
	if s := reader.Stats(t.Context()); s.L2.Rejected.Foreign == 0 || s.L2.Rejected.Damaged == 0 || s.L2.Rejected.Version == 0 {
		t.Errorf("rejected: %+v", s.L2.Rejected)
	}
}

func onlyValue(t *testing.T, client redis.UniversalClient) string {
	t.Helper()
	keys, err := client.Keys(t.Context(), "*:v:*").Result()
	if err != nil || len(keys) != 1 {
		t.Fatal(keys, err)
	}
	return keys[0]
}
