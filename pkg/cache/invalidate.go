package cache

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// removeScript takes values and their index entries away. KEYS: expiry, size, total. ARGV: prefix of values, members. It returns how many
// values there were, and about what they took.
var removeScript = redis.NewScript(`
local gone, bytes = 0, 0
for i = 2, #ARGV do
  local key, size = ARGV[1] .. ARGV[i], redis.call('ZSCORE', KEYS[2], ARGV[i])
  if redis.call('UNLINK', key) == 1 then
    gone = gone + 1
    bytes = bytes + (size or 0)
  end
  redis.call('ZREM', KEYS[1], ARGV[i])
  if size then
    redis.call('ZREM', KEYS[2], ARGV[i])
    redis.call('DECRBY', KEYS[3], size)
  end
end
return {gone, bytes}
`)

// countScript counts what removeScript would take away.
var countScript = redis.NewScript(`
local gone, bytes = 0, 0
for i = 2, #ARGV do
  gone = gone + redis.call('EXISTS', ARGV[1] .. ARGV[i])
  bytes = bytes + (redis.call('ZSCORE', KEYS[2], ARGV[i]) or 0)
end
return {gone, bytes}
`)

// Removed says what Drop has taken away.
type Removed struct {
	Local  int64 `json:"l1"`         // values of this process
	Shared int64 `json:"l2"`         // values in Redis
	Bytes  int64 `json:"size_bytes"` // about what those took in Redis
	Asked  int64 `json:"queries"`    // that were remembered for warming
}

// Add adds counts.
func (r *Removed) Add(more Removed) {
	r.Local += more.Local
	r.Shared += more.Shared
	r.Bytes += more.Bytes
	r.Asked += more.Asked
}

// Selection says which values are meant: those of a namespace ("": of all) whose scope is Scope or lies below it ("": all).
type Selection struct {
	Namespace string
	Scope     string
	Asked     bool // also what was asked, which a cache is warmed with
	DryRun    bool // only count them
}

func (s Selection) has(namespace, scope string) bool {
	return (s.Namespace == "" || s.Namespace == namespace) && within(scope, s.Scope)
}

// Drop drops values. It looks through all keys in Redis, as an index may be gone, a thousand at a time. Other processes drop theirs when
// they next fold their counters in. An error means that Redis, where there is one, may still have some: they expire within LongestTTL.
func (c *Cache) Drop(ctx context.Context, s Selection) (Removed, error) {
	var r Removed
	if c == nil {
		return r, nil
	}
	s.Scope = cleanScope(s.Scope)
	r.Local = c.dropLocal(s)
	if c.o.Redis == nil {
		return r, nil
	}
	var mu sync.Mutex
	err := c.eachMaster(ctx, func(ctx context.Context, node redis.Cmdable) error {
		return c.sweep(ctx, node, s, func(gone, bytes int64) {
			mu.Lock()
			defer mu.Unlock()
			r.Shared += gone
			r.Bytes += bytes
		})
	})
	if s.Asked && err == nil {
		r.Asked, err = c.forgetAsked(ctx, s)
	}
	if s.DryRun {
		return r, err
	}
	return r, errors.Join(err, c.announce(ctx, s))
}

// eachMaster calls f for every server that holds keys of its own, in a Cluster for several at once.
func (c *Cache) eachMaster(ctx context.Context, f func(ctx context.Context, node redis.Cmdable) error) error {
	if cluster, ok := c.o.Redis.(interface {
		ForEachMaster(ctx context.Context, fn func(ctx context.Context, client *redis.Client) error) error
	}); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return f(ctx, node) })
	}
	return f(ctx, c.o.Redis)
}

// sweep removes what is meant from one server.
func (c *Cache) sweep(ctx context.Context, node redis.Cmdable, s Selection, removed func(gone, bytes int64)) error {
	cursor := uint64(0)
	for {
		keys, next, err := node.Scan(ctx, cursor, c.o.Prefix+":{*}:v:*", 1000).Result()
		if err != nil {
			return err
		}
		if err := c.remove(ctx, keys, s, removed); err != nil {
			return err
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// remove takes those of the values away that are meant.
func (c *Cache) remove(ctx context.Context, keys []string, s Selection, removed func(gone, bytes int64)) error {
	var members [shards][]any
	for _, key := range keys {
		shard, member, ok := c.parseValueKey(key)
		if !ok {
			continue
		}
		if namespace, scope, ok := parseMember(member); !ok || s.has(namespace, scope) {
			members[shard] = append(members[shard], member)
		}
	}
	for shard, list := range members {
		if len(list) == 0 {
			continue
		}
		args := append([]any{c.shardKey(shard, "v:")}, list...)
		script := removeScript
		if s.DryRun {
			script = countScript
		}
		counts, err := script.Run(ctx, c.o.Redis, []string{c.shardKey(shard, "expiry"), c.shardKey(shard, "size"), c.shardKey(shard, "total")}, args...).Int64Slice()
		if err != nil {
			return err
		}
		removed(counts[0], counts[1])
	}
	return nil
}

// parseValueKey takes the key of a value in Redis apart.
func (c *Cache) parseValueKey(key string) (shard int, member string, ok bool) {
	rest, ok := strings.CutPrefix(key, c.o.Prefix+":{")
	if !ok {
		return 0, "", false
	}
	number, member, ok := strings.Cut(rest, "}:v:")
	for shard := range shards {
		if ok && c.shardKey(shard, "v:") == c.o.Prefix+":{"+number+"}:v:" {
			return shard, member, true
		}
	}
	return 0, "", false
}

func (c *Cache) dropLocal(s Selection) int64 {
	dropped := int64(0)
	for k, e := range c.local.All() {
		if s.has(e.from.name, e.scope) {
			if !s.DryRun {
				c.local.Invalidate(k)
			}
			dropped++
		}
	}
	return dropped
}

// What is kept of announcements: for longer than any process goes without folding.
const (
	announcements = 1000
	announcedFor  = time.Hour
)

// announce tells the other processes what to drop.
func (c *Cache) announce(ctx context.Context, s Selection) error {
	key := c.statsKey("dropped")
	_, err := c.o.Redis.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.XAdd(ctx, &redis.XAddArgs{Stream: key, MaxLen: announcements, Values: []string{"namespace", s.Namespace, "scope", s.Scope, "by", c.id}})
		p.PExpire(ctx, key, announcedFor)
		return nil
	})
	return err
}

// heed drops what other processes have announced since the last time; a process that has missed some drops all.
func (c *Cache) heed(ctx context.Context) error {
	since := c.heeded
	if since == "" {
		since = "0"
	}
	news, err := c.o.Redis.XRangeN(ctx, c.statsKey("dropped"), since, "+", announcements).Result()
	if err != nil {
		return err
	}
	if len(news) == announcements && news[0].ID != since {
		c.dropLocal(Selection{})
	}
	for _, m := range news {
		if m.ID == c.heeded || m.Values["by"] == c.id {
			continue
		}
		namespace, _ := m.Values["namespace"].(string)
		scope, _ := m.Values["scope"].(string)
		c.dropLocal(Selection{Namespace: namespace, Scope: scope})
	}
	if len(news) > 0 {
		c.heeded = news[len(news)-1].ID
	}
	return nil
}
