// Package cache keeps values in the process (L1) and in Redis (L2), and never lets either decide what is right: whatever a value depends on
// is part of its key, so that what changed has another key. Redis being down, full, read-only or lying costs time and nothing else: what
// it gives is checked against its key and a checksum, and is a miss when anything is wrong.
package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/sync/singleflight"
)

// What Options stand for when they are zero.
const (
	DefaultMaxSize   = 200 << 20
	DefaultTTL       = 300 * time.Second
	DefaultMaxValue  = 1 << 20
	DefaultSharedMax = 256 << 20
	DefaultPrefix    = "auditdb:cache"
	defaultTimeout   = 50 * time.Millisecond
	defaultFold      = 10 * time.Second
)

// LongestTTL is how long values are kept at most, whatever their items say, where others are kept for ttl.
func LongestTTL(ttl time.Duration) time.Duration { return 12 * ttl }

// Guard decides whether Redis may be asked, and learns how it went: a circuit breaker. done is called once with what the call returned.
type Guard interface {
	Allow() (done func(error), err error)
}

// Options say how a cache works.
type Options struct {
	Redis     redis.UniversalClient // one server, a Cluster or Sentinels; nil: no L2
	Guard     Guard                 // before Redis; nil: a breaker of the cache's own
	Prefix    string                // of all keys in Redis; "": DefaultPrefix
	MaxSize   int64                 // bytes of L1; 0: DefaultMaxSize
	SharedMax int64                 // bytes that all processes together keep in Redis under Prefix; 0: DefaultSharedMax
	MaxValue  int                   // bytes of one value, larger ones are not kept; 0: DefaultMaxValue
	TTL       time.Duration         // of values that name none; 0: DefaultTTL
	Timeout   time.Duration         // of one call of Redis; 0: 50 ms
	Secret    []byte                // under which values in Redis are authenticated; nil: a checksum that anybody can make
	Version   string                // of the program, for the statistics
	Now       func() time.Time      // the clock, with a monotonic part
	Log       *slog.Logger          // nil: no log
}

// Cache is an L1 and, with Redis, an L2 behind it. Its methods may be called from many goroutines. Values that it gives are shared and must
// not be changed.
type Cache struct {
	o       Options
	local   *otter.Cache[[32]byte, entry]
	codec   *codec
	flights singleflight.Group
	claims  claims
	taking  atomic.Int32 // answers of Redis that are being put into L1

	mu         sync.Mutex
	namespaces map[string]*Namespace
	asked      map[question]int64 // since the last fold

	fold      sync.Mutex       // one fold at a time; guards folded and heeded
	folded    map[string]int64 // what Redis has been told of each counter
	heeded    string           // the last announcement that was heeded
	id        string           // of this process, among all that share the Redis
	stop      context.CancelFunc
	done      chan struct{} // closed when the background work has ended
	closeOnce sync.Once
}

// entry is a value in L1.
type entry struct {
	value []byte
	from  *Namespace
	scope string
	ttl   time.Duration // when it was put
}

// entryOverhead is about what an entry takes in memory beside its value.
const entryOverhead = 200

// New makes a cache. With Redis it folds its counters into those of all processes every ten seconds and at Close. It does not
// connect: a Redis that is down is found by the first use, and costs that one at most Options.Timeout.
func New(ctx context.Context, o Options) (*Cache, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	c := &Cache{o: o, codec: &codec{o.Secret, o.MaxValue}, namespaces: map[string]*Namespace{}, asked: map[question]int64{}, folded: map[string]int64{}, id: processID(o.Now())}
	local, err := otter.New(&otter.Options[[32]byte, entry]{
		MaximumWeight: uint64(o.MaxSize),                                                                               //nolint:gosec // positive
		Weigher:       func(_ [32]byte, e entry) uint32 { return uint32(len(e.value) + len(e.scope) + entryOverhead) }, //nolint:gosec // at most MaxValue
		ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[[32]byte, entry]) time.Duration {
			return max(e.Value.ttl, 1)
		}),
		OnAtomicDeletion: func(e otter.DeletionEvent[[32]byte, entry]) {
			if e.Cause == otter.CauseOverflow {
				e.Value.from.count(localEvictions, 1)
			}
		},
		Executor: c.upkeep,
		Logger:   &otter.NoopLogger{},
	})
	if err != nil {
		return nil, fmt.Errorf("make the cache in the process: %w", err)
	}
	c.local = local
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop, c.done = stop, make(chan struct{})
	if o.Redis == nil {
		close(c.done)
		return c, nil
	}
	go func() {
		defer close(c.done)
		c.foldRegularly(background)
	}()
	return c, nil
}

// upkeep runs what L1 has to do after reads and writes: on another goroutine, which writes and reads that follow each other closely share; but
// after an answer of Redis there is one write alone, and waking somebody for it would take longer than the upkeep.
func (c *Cache) upkeep(task func()) {
	if c.taking.Load() > 0 {
		task()
		return
	}
	go task()
}

// plainPrefix is what a prefix may consist of: nothing that means something in a pattern or in a Cluster.
var plainPrefix = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9:_.-]{1,100}$`) })

func (o *Options) complete() error {
	if o.Now == nil {
		return errors.New("make a cache: it has no clock")
	}
	o.Prefix = cmp.Or(o.Prefix, DefaultPrefix)
	o.MaxSize = cmp.Or(o.MaxSize, DefaultMaxSize)
	o.SharedMax = cmp.Or(o.SharedMax, DefaultSharedMax)
	o.MaxValue = cmp.Or(o.MaxValue, DefaultMaxValue)
	o.TTL = cmp.Or(o.TTL, DefaultTTL)
	o.Timeout = cmp.Or(o.Timeout, defaultTimeout)
	if !plainPrefix().MatchString(o.Prefix) {
		return fmt.Errorf("make a cache: the prefix %q has other characters than letters, digits and :_.-", o.Prefix)
	}
	if o.MaxSize < 0 || o.SharedMax < 0 || o.MaxValue < 0 || o.TTL < 0 || o.Timeout < 0 {
		return errors.New("make a cache: sizes and times cannot be negative")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Guard == nil {
		o.Guard = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
			Name:        "cache",
			MaxRequests: 1,
			Timeout:     time.Second,
			ReadyToTrip: func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= 3 },
		})
	}
	return nil
}

func processID(now time.Time) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + " " + strconv.Itoa(os.Getpid()) + " " + strconv.FormatInt(now.UnixNano(), 36)
}

// Close folds the counters in a last time, within a second, and ends everything that the cache has running. Redis stays open.
func (c *Cache) Close(ctx context.Context) {
	if c == nil {
		return
	}
	c.closeOnce.Do(func() {
		c.stop()
		<-c.done
		if c.o.Redis != nil {
			limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			c.leave(limited)
		}
		c.local.StopAllGoroutines()
	})
}

// Namespace is a part of the cache with counters of its own, such as all pages of rows.
type Namespace struct {
	c    *Cache
	name string
	counters
}

var plainName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`) })

// Namespace returns the part of that name: lower-case letters, digits and hyphens. It is nil, and keeps nothing, for a nil cache.
func (c *Cache) Namespace(name string) *Namespace {
	if c == nil {
		return nil
	}
	if !plainName().MatchString(name) {
		name = "other"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.namespaces[name]
	if n == nil {
		n = &Namespace{c: c, name: name}
		c.namespaces[name] = n
	}
	return n
}

// parts lists the namespaces.
func (c *Cache) parts() []*Namespace {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*Namespace, 0, len(c.namespaces))
	for _, n := range c.namespaces {
		all = append(all, n)
	}
	return all
}

// Level says where a value came from.
type Level uint8

// The levels of a value.
const (
	Missing Level = iota // nowhere
	L1                   // the process
	L2                   // Redis
	Loaded               // from its source, just now
)

// String is the level's short name.
func (l Level) String() string { return [...]string{"missing", "l1", "l2", "loaded"}[l] }

// Hit is a value with where it came from.
type Hit struct {
	Value []byte
	Level Level
}

// Item is a value to keep.
type Item struct {
	Key   Key
	Value []byte        // also an empty one: that nothing is there is worth knowing too
	TTL   time.Duration // 0: Options.TTL; at most LongestTTL of that
	Skip  bool          // do not keep it
}

// Get looks for one value in the process, then in Redis.
func (n *Namespace) Get(ctx context.Context, key Key) (Hit, bool) {
	if n == nil {
		return Hit{}, false
	}
	if e, ok := n.c.local.GetIfPresent(key.digest); ok {
		n.hits.add(key)
		return Hit{e.value, L1}, true
	}
	n.misses.add(key)
	hits := []Hit{{}}
	n.getShared(ctx, []Key{key}, hits)
	return hits[0], hits[0].Level != Missing
}

// GetMany looks for several values, in one round trip where they are not in the process. Hits have the order of keys.
func (n *Namespace) GetMany(ctx context.Context, keys []Key) []Hit {
	hits := make([]Hit, len(keys))
	if n == nil {
		return hits
	}
	missing := false
	for i, k := range keys {
		if e, ok := n.c.local.GetIfPresent(k.digest); ok {
			hits[i] = Hit{e.value, L1}
			n.hits.add(k)
			continue
		}
		missing = true
		n.misses.add(k)
	}
	if missing {
		n.getShared(ctx, keys, hits)
	}
	return hits
}

// Put keeps values in the process and in Redis. What does not fit, or cannot be stored, is not kept: that is no error.
func (n *Namespace) Put(ctx context.Context, items ...Item) {
	if n == nil {
		return
	}
	var keep []Item // for Redis
	for _, it := range items {
		switch {
		case it.Skip:
			continue
		case len(it.Value) > n.c.o.MaxValue:
			n.count(tooLarge, 1)
			continue
		}
		if it.TTL <= 0 {
			it.TTL = n.c.o.TTL
		}
		it.TTL = min(it.TTL, LongestTTL(n.c.o.TTL))
		n.putLocal(it.Key, it.Value, it.TTL)
		if n.c.o.Redis != nil {
			keep = append(keep, it)
		}
	}
	if len(keep) > 0 {
		n.putShared(ctx, keep, n.c.o.Now())
	}
}

func (n *Namespace) putLocal(k Key, value []byte, ttl time.Duration) {
	n.c.local.Set(k.digest, entry{value: value, from: n, scope: k.scope, ttl: ttl})
}

// Fetch gets values and loads those that are missing, once for all who miss the same at the same time. load gets the missing keys and
// returns an item for each, in their order; an item's key may be another than the one that was missing, where what the value depends on
// has changed in between. An error of load is the answer of all who waited for it, except that nobody is cancelled with another.
func (n *Namespace) Fetch(ctx context.Context, keys []Key, load func(ctx context.Context, missing []Key) ([]Item, error)) ([]Hit, error) {
	hits := n.GetMany(ctx, keys)
	var missing []Key
	var at []int
	for i, h := range hits {
		if h.Level == Missing {
			missing = append(missing, keys[i])
			at = append(at, i)
		}
	}
	if len(missing) == 0 {
		return hits, nil
	}
	items, err := n.loadOnce(ctx, missing, load)
	if err != nil {
		return nil, err
	}
	for i, it := range items {
		hits[at[i]] = Hit{it.Value, Loaded}
	}
	return hits, nil
}

// loadOnce joins a load of the same keys that is under way, or starts one.
func (n *Namespace) loadOnce(ctx context.Context, missing []Key, load func(ctx context.Context, missing []Key) ([]Item, error)) ([]Item, error) {
	if n == nil {
		return loadAll(ctx, missing, load)
	}
	name := strings.Builder{}
	for _, k := range missing {
		_, _ = name.Write(k.digest[:]) // never fails
	}
	for {
		mine := false
		flight := n.c.flights.DoChan(name.String(), func() (any, error) {
			mine = true
			if items := n.inProcess(missing); items != nil { // loaded by another since this one looked
				return items, nil
			}
			start := n.c.o.Now()
			items, err := loadAll(ctx, missing, load)
			if err != nil {
				return nil, err
			}
			n.count(loads, int64(len(items)))
			n.loadTimes.observe(n.c.o.Now().Sub(start))
			n.Put(ctx, items...)
			return items, nil
		})
		var r singleflight.Result
		select {
		case r = <-flight:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		switch items, ok := r.Val.([]Item); {
		case ok:
			return items, nil
		case !mine && ctx.Err() == nil && (errors.Is(r.Err, context.Canceled) || errors.Is(r.Err, context.DeadlineExceeded)):
			continue // the one that loaded was cancelled, not this one
		default:
			return nil, r.Err
		}
	}
}

// inProcess returns the items of keys, or nil if one of them is not in the process.
func (n *Namespace) inProcess(keys []Key) []Item {
	items := make([]Item, len(keys))
	for i, k := range keys {
		e, ok := n.c.local.GetIfPresent(k.digest)
		if !ok {
			return nil
		}
		items[i] = Item{Key: k, Value: e.value}
	}
	return items
}

// loadAll calls load. A panic of it becomes an error, since it may run on a goroutine of its own, where it would end the process.
func loadAll(ctx context.Context, missing []Key, load func(ctx context.Context, missing []Key) ([]Item, error)) (items []Item, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("load values for the cache: panic: %v", p)
		}
	}()
	items, err = load(ctx, missing)
	if err == nil && len(items) != len(missing) {
		return nil, fmt.Errorf("load values for the cache: %d for %d keys", len(items), len(missing))
	}
	return items, err
}
