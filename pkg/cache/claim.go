package cache

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Claims keep many who miss the same value at the same time from all loading it. They only save work: who waits does so for a short time,
// then looks again, and loads what is still missing whatever others do. So nothing depends on a marker, on whoever set it, or on Redis.

const (
	claimFor  = 2 * time.Second // a marker lasts, and somebody waits for one, at most: the one who loads may have died
	firstLook = 2 * time.Millisecond
	lastLook  = 50 * time.Millisecond

	notKept = "not kept" // a marker's value after a load whose value was not stored: waiting would be for nothing
)

// unmarkScript takes a marker away, or says that nothing was kept, if it still is whose value is ARGV[1].
var unmarkScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] ~= '' then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) else redis.call('DEL', KEYS[1]) end
return 1
`)

// claims are those of this process, each with what is closed at its end.
type claims struct {
	mu   sync.Mutex
	open map[[32]byte]chan struct{}
}

// take gives the end of another's claim, or takes it.
func (c *claims) take(k Key) (theirs <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if end, ok := c.open[k.digest]; ok {
		return end
	}
	if c.open == nil {
		c.open = map[[32]byte]chan struct{}{}
	}
	c.open[k.digest] = make(chan struct{})
	return nil
}

func (c *claims) end(k Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.open[k.digest])
	delete(c.open, k.digest)
}

// Claim is asked by whoever has missed a value that can be kept, before loading it. If another, here or in another process, is loading it, Claim
// waits until that has ended, two seconds at most, and waited is true: the value may be there by now. Else done is to be called once after
// the load, with whether the value was kept.
func (n *Namespace) Claim(ctx context.Context, k Key) (done func(kept bool), waited bool) {
	none := func(bool) {}
	if n == nil {
		return none, false
	}
	ctx, cancel := context.WithTimeout(ctx, claimFor)
	defer cancel()
	if theirs := n.c.claims.take(k); theirs != nil {
		select {
		case <-theirs:
		case <-ctx.Done():
		}
		return none, true
	}
	marker, value := n.c.shardKey(k.shard(), "l:"+k.member(n.name)), rand.Text()
	switch set, found := n.c.mark(ctx, marker, value); {
	case set:
		return func(kept bool) {
			n.c.unmark(ctx, marker, value, kept)
			n.c.claims.end(k)
		}, false
	case found == "" || found == notKept:
		return func(bool) { n.c.claims.end(k) }, false
	}
	defer n.c.claims.end(k)
	n.c.await(ctx, marker)
	return none, true
}

// mark sets a marker where there is none. found is what stands there otherwise, "" where that is not known.
func (c *Cache) mark(ctx context.Context, marker, value string) (set bool, found string) {
	c.ask(ctx, func(ctx context.Context) error {
		pipe := c.o.Redis.Pipeline()
		mine := pipe.SetArgs(ctx, marker, value, redis.SetArgs{Mode: "NX", TTL: claimFor})
		now := pipe.Get(ctx, marker)
		_, err := pipe.Exec(ctx)
		set, found = mine.Err() == nil, now.Val()
		return err
	})
	return set, found
}

// unmark ends a claim, also of a caller that has been cancelled.
func (c *Cache) unmark(ctx context.Context, marker, value string, kept bool) {
	instead := notKept
	if kept {
		instead = ""
	}
	c.ask(context.WithoutCancel(ctx), func(ctx context.Context) error {
		return unmarkScript.Run(ctx, c.o.Redis, []string{marker}, value, instead, claimFor.Milliseconds()).Err()
	})
}

// await looks from time to time whether the load that a marker stands for is still going on.
func (c *Cache) await(ctx context.Context, marker string) {
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		loading := false
		if !c.ask(ctx, func(ctx context.Context) error {
			found, err := c.o.Redis.Get(ctx, marker).Result()
			loading = err == nil && found != notKept
			return err
		}) || !loading {
			return
		}
	}
}
