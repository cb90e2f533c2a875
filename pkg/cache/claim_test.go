package cache_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"auditdb/internal/pgtest"
	"auditdb/pkg/cache"
)

// Two caches that share a Redis are two processes: one loads, the other waits until that has ended, and finds the value.
func TestClaimAcrossProcesses(t *testing.T) {
	t.Parallel()
	address := pgtest.Redis(t)
	a := newCache(t, cache.Options{Redis: connect(t, address), Prefix: t.Name()}).Namespace("rows")
	asked := make(asking, 1)
	other := connect(t, address)
	other.AddHook(asked)
	b := newCache(t, cache.Options{Redis: other, Prefix: t.Name()}).Namespace("rows")
	k := a.Key("1/2/3", "k")
	done, waited := a.Claim(t.Context(), k)
	if waited {
		t.Fatal("waited for nobody")
	}
	var loaded atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if _, waited := b.Claim(t.Context(), k); !waited || !loaded.Load() {
			t.Errorf("waited: %v, loaded: %v", waited, loaded.Load())
		}
		if hit, ok := b.Get(t.Context(), k); !ok || hit.Level != cache.L2 {
			t.Errorf("found in %s", hit.Level)
		}
	}()
	<-asked
	// Another key is nobody's.
	free, waited := b.Claim(t.Context(), b.Key("1/2/3", "other"))
	if waited {
		t.Error("waited for another key")
	}
	free(true)
	a.Put(t.Context(), cache.Item{Key: k, Value: []byte("v")})
	loaded.Store(true)
	done(true)
	<-ended
	if again, waited := b.Claim(t.Context(), k); waited {
		t.Error("the claim has not ended")
	} else {
		again(true)
	}
}

// asking tells when the first claim has been answered.
type asking chan struct{}

func (asking) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (asking) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (a asking) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		if slices.ContainsFunc(cmds, func(c redis.Cmder) bool { return c.Name() == "set" }) {
			select {
			case a <- struct{}{}:
			default:
			}
		}
		return err
	}
}

// Whoever loads may die: its marker ends by itself, and nobody waits longer than for that.
func TestClaimOfTheDead(t *testing.T) {
	t.Parallel()
	client := connect(t, pgtest.Redis(t))
	dead := newCache(t, cache.Options{Redis: client, Prefix: t.Name()}).Namespace("rows")
	alive := newCache(t, cache.Options{Redis: client, Prefix: t.Name()}).Namespace("rows")
	k := dead.Key("1/2/3", "k")
	if _, waited := dead.Claim(t.Context(), k); waited {
		t.Fatal("waited for nobody")
	}
	start := time.Now()
	if _, waited := alive.Claim(t.Context(), k); !waited {
		t.Error("did not wait")
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("waited for %s", took)
	}
	for deadline := time.Now().Add(patient); ; {
		done, waited := alive.Claim(t.Context(), k)
		if !waited {
			done(true)
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the marker does not end")
		}
	}
}

// What could not be kept is not waited for by the next ones: they would find nothing, one after the other.
func TestClaimOfWhatIsNotKept(t *testing.T) {
	t.Parallel()
	client := connect(t, pgtest.Redis(t))
	a := newCache(t, cache.Options{Redis: client, Prefix: t.Name()}).Namespace("rows")
	b := newCache(t, cache.Options{Redis: client, Prefix: t.Name()}).Namespace("rows")
	k := a.Key("1/2/3", "k")
	done, _ := a.Claim(t.Context(), k)
	done(false)
	first, waitedB := b.Claim(t.Context(), k)
	second, waitedA := a.Claim(t.Context(), k)
	if waitedA || waitedB {
		t.Fatal("waited for what is not kept")
	}
	first(true)
	second(true)
}

// Without Redis, or with one that is gone, a process still loads once at a time, and nobody waits for Redis.
func TestClaimWithoutRedis(t *testing.T) {
	t.Parallel()
	server := pgtest.RedisServer(t)
	client := connect(t, server.URL())
	if err := server.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]cache.Options{"none": {}, "gone": {Redis: client, Timeout: 50 * time.Millisecond}} {
		n := newCache(t, o).Namespace("rows")
		k := n.Key("1/2/3", "k")
		done, waited := n.Claim(t.Context(), k)
		if waited {
			t.Fatalf("%s: waited for nobody", name)
		}
		var loaded atomic.Bool
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if d, waited := n.Claim(t.Context(), k); !waited {
					if !loaded.Load() {
						t.Errorf("%s: two load at once", name)
					}
					d(true)
				}
			})
		}
		loaded.Store(true)
		done(true)
		wg.Wait()
	}
	var none *cache.Namespace
	done, waited := none.Claim(t.Context(), cache.Key{})
	if done(true); waited {
		t.Error("no cache: waited")
	}
}
