package cache

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"
)

// Keys in Redis, NN being the shard, all of a shard in one slot of a Cluster:
//
//	PREFIX:{NN}:v:NAMESPACE:SCOPE:DIGEST   a value
//	PREFIX:{NN}:expiry                     sorted set of NAMESPACE:SCOPE:DIGEST by when it expires, in milliseconds
//	PREFIX:{NN}:size                       the same by size in bytes
//	PREFIX:{NN}:total                      sum of the sizes
//	PREFIX:{NN}:l:NAMESPACE:SCOPE:DIGEST   for seconds: a process is loading the value
func (c *Cache) shardKey(shard int, what string) string {
	return c.o.Prefix + ":{" + string(hexDigits[shard/16]) + string(hexDigits[shard%16]) + "}:" + what
}

func (n *Namespace) valueKey(k Key) string {
	return n.c.shardKey(k.shard(), "v:") + k.member(n.name)
}

// valueOverhead is about what a value takes in Redis beside itself and its key: its entry, and its places in two indexes.
const valueOverhead = 350

// putScript keeps a value and stays within the limit of its shard: what has expired leaves the indexes, then what expires first makes room.
// An index that Redis has evicted in part starts again; what it knew expires by itself.
//
// KEYS: value, expiry, size, total. ARGV: value, member, cost, TTL in ms, limit, prefix of values. It returns how many it has evicted.
var putScript = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local ttl, limit, cost = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[3])
local there = redis.call('EXISTS', KEYS[2], KEYS[3], KEYS[4])
if there ~= 0 and there ~= 3 then redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4]) end
local function forget(member)
  local size = redis.call('ZSCORE', KEYS[3], member)
  redis.call('ZREM', KEYS[2], member)
  if size then
    redis.call('ZREM', KEYS[3], member)
    redis.call('DECRBY', KEYS[4], size)
  end
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 200)) do forget(member) end
forget(ARGV[2])
local evicted = 0
while (tonumber(redis.call('GET', KEYS[4])) or 0) + cost > limit do
  local first = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
  if not first then redis.call('SET', KEYS[4], 0) break end
  redis.call('UNLINK', ARGV[6] .. first)
  forget(first)
  evicted = evicted + 1
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ttl)
redis.call('ZADD', KEYS[2], now + ttl, ARGV[2])
redis.call('ZADD', KEYS[3], cost, ARGV[2])
redis.call('INCRBY', KEYS[4], cost)
for i = 2, 4 do
  if redis.call('PTTL', KEYS[i]) < ttl then redis.call('PEXPIRE', KEYS[i], ttl + 60000) end
end
return evicted
`)

// ask calls Redis within Options.Timeout if the guard lets it, and says whether it was asked and answered. An answer that is an error of the
// one command, such as a key of another type, is an answer.
func (c *Cache) ask(ctx context.Context, call func(ctx context.Context) error) bool {
	if c.o.Redis == nil || ctx.Err() != nil {
		return false
	}
	done, err := c.o.Guard.Allow()
	if err != nil {
		return false
	}
	limited, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	err = call(limited)
	switch {
	case err == nil || errors.Is(err, redis.Nil) || redis.HasErrorPrefix(err, "WRONGTYPE"):
		done(nil)
		return true
	case ctx.Err() != nil:
		done(nil) // the caller's end is not Redis's fault
		return false
	}
	done(err)
	if cluster, ok := c.o.Redis.(interface{ ReloadState(ctx context.Context) }); ok {
		cluster.ReloadState(ctx) // in the background: a replica may have taken over
	}
	c.o.Log.LogAttrs(ctx, slog.LevelDebug, "the cache goes on without Redis", slog.String("cause", err.Error()))
	return false
}

// getShared fills the hits that are missing from Redis, and keeps what it finds in the process too.
func (n *Namespace) getShared(ctx context.Context, keys []Key, hits []Hit) {
	if n.c.o.Redis == nil {
		return
	}
	at := make([]int, 0, len(keys))
	for i, h := range hits {
		if h.Level == Missing {
			at = append(at, i)
		}
	}
	answers := make([]*redis.StringCmd, len(at))
	start := n.c.o.Now()
	ok := n.c.ask(ctx, func(ctx context.Context) error {
		if len(at) == 1 {
			answers[0] = n.c.o.Redis.Get(ctx, n.valueKey(keys[at[0]]))
			return answers[0].Err()
		}
		pipe := n.c.o.Redis.Pipeline()
		for i, j := range at {
			answers[i] = pipe.Get(ctx, n.valueKey(keys[j]))
		}
		_, err := pipe.Exec(ctx)
		return err
	})
	now := n.c.o.Now()
	if ok {
		n.sharedTimes.observe(now.Sub(start))
	} else {
		n.count(sharedErrors, 1)
	}
	for i, j := range at {
		// A Cluster may have answered in part.
		if a := answers[i]; a != nil && (ok || a.Err() == nil || errors.Is(a.Err(), redis.Nil)) {
			hits[j] = n.take(keys[j], a, now)
		}
	}
}

// take checks what Redis has given.
func (n *Namespace) take(k Key, answer *redis.StringCmd, now time.Time) Hit {
	raw, err := answer.Bytes()
	if errors.Is(err, redis.Nil) {
		n.count(sharedMisses, 1)
		return Hit{}
	}
	var value []byte
	var expires time.Time
	if err != nil {
		err = errForeign
	} else {
		value, expires, err = n.c.codec.decode(k, raw, now)
	}
	if err == nil {
		n.count(sharedHits, 1)
		n.c.taking.Add(1)
		n.putLocal(k, value, expires.Sub(now))
		n.c.taking.Add(-1)
		return Hit{value, L2}
	}
	n.count(sharedMisses, 1)
	switch {
	case errors.Is(err, errVersion):
		n.count(otherVersion, 1)
	case errors.Is(err, errExpired):
		n.count(expired, 1)
	case errors.Is(err, errForeign):
		n.count(foreign, 1)
	default:
		n.count(damaged, 1)
	}
	return Hit{}
}

// putShared keeps values in Redis.
func (n *Namespace) putShared(ctx context.Context, items []Item, now time.Time) {
	calls := make([]putCall, 0, len(items))
	for _, it := range items {
		calls = append(calls, n.putCall(it, now))
	}
	var stored, bytes, evicted int64
	ok := n.c.ask(ctx, func(ctx context.Context) error {
		again := calls
		for try := 0; try < 2 && len(again) > 0; try++ {
			pipe := n.c.o.Redis.Pipeline()
			answers := make([]*redis.Cmd, len(again))
			for i, call := range again {
				if try == 0 {
					answers[i] = putScript.EvalSha(ctx, pipe, call.keys, call.args...)
				} else {
					answers[i] = putScript.Eval(ctx, pipe, call.keys, call.args...)
				}
			}
			_, err := pipe.Exec(ctx)
			var unknown []putCall
			for i, a := range answers {
				switch gone, failed := a.Int64(); {
				case failed == nil:
					stored, bytes, evicted = stored+1, bytes+again[i].cost, evicted+gone
				case redis.HasErrorPrefix(failed, "NOSCRIPT"):
					unknown = append(unknown, again[i])
				}
			}
			if again = unknown; len(again) == 0 && err != nil && !redis.HasErrorPrefix(err, "NOSCRIPT") {
				return err
			}
		}
		return nil
	})
	n.count(sharedStored, stored)
	n.count(sharedBytes, bytes)
	n.count(sharedEvictions, evicted)
	if !ok {
		n.count(sharedErrors, 1)
	}
}

// putCall is one call of putScript.
type putCall struct {
	keys []string
	args []any
	cost int64
}

func (n *Namespace) putCall(it Item, now time.Time) putCall {
	raw := n.c.codec.encode(it.Key, it.Value, now.Add(it.TTL))
	shard, member := it.Key.shard(), it.Key.member(n.name)
	prefix := n.c.shardKey(shard, "v:")
	cost := int64(len(raw) + len(prefix) + 3*len(member) + valueOverhead)
	return putCall{
		keys: []string{prefix + member, n.c.shardKey(shard, "expiry"), n.c.shardKey(shard, "size"), n.c.shardKey(shard, "total")},
		args: []any{raw, member, cost, max(it.TTL.Milliseconds(), 1), n.c.o.SharedMax / shards, prefix},
		cost: cost,
	}
}
