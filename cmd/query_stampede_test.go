package cmd

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/tidwall/gjson"

	"auditdb/internal/pgtest"
)

// Processes that ask the same at the same time: those that find that another one is loading the answer wait for it, and a marker of a process
// that has died holds nobody up for long. All answers are right.
func TestQueryStampede(t *testing.T) {
	t.Parallel()
	url, address := pgtest.DB(t), pgtest.Redis(t)
	o, err := redis.ParseURL(address)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(o)
	t.Cleanup(func() { _ = client.Close() })
	key := t.TempDir() + "/key"
	finish(t, url, "integrity", "keygen", "-f", key)
	finish(t, url, "partition", "create", "--from", "2026-01", "--to", "2026-02")
	env := append(os.Environ(), "DATABASE_URL="+url, "AUDITDB_REDIS_URL="+address, "AUDITDB_INTEGRITY_KEY_FILE="+key, "HOME="+t.TempDir())
	auditdb := func(args ...string) string {
		c := exec.CommandContext(t.Context(), "auditdb", args...)
		c.Env = env
		out, err := c.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %v: %s", args, err, out)
		}
		return string(out)
	}
	on(t, url, `INSERT INTO public.audit_log ("timestamp", action, status) SELECT '2026-01-05Z'::timestamptz + n * interval '1 second', 'a', 's' FROM generate_series(1, 500) n`)
	auditdb("integrity", "seal", "--yes")
	ask := func(n int) (sources []string) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				doc := gjson.Parse(auditdb("query", "--count", "-q", "-o", "json"))
				if doc.Get("count").Int() != 500 {
					t.Errorf("%s", doc)
				}
				mu.Lock()
				defer mu.Unlock()
				sources = append(sources, doc.Get("source").String())
			})
		}
		wg.Wait()
		return sources
	}
	ask(1)
	if got := ask(1); got[0] != "l2" {
		t.Fatalf("from %s", got)
	}
	value, marker := stored(t, client)
	text, err := client.Get(t.Context(), value).Result()
	if err != nil {
		t.Fatal(err)
	}
	// Another process is loading it: who asks waits, and finds it.
	set(t, client, marker, "somebody", 0)
	if err := client.Del(t.Context(), value).Err(); err != nil {
		t.Fatal(err)
	}
	before := marks(t, client)
	var other sync.WaitGroup
	other.Go(func() {
		for deadline := time.Now().Add(time.Minute); marks(t, client) < before+1; { // it has tried to set the marker
			if time.Now().After(deadline) {
				t.Error("nobody looks whether another one loads")
				break
			}
		}
		set(t, client, value, text, time.Minute)
		if err := client.Del(t.Context(), marker).Err(); err != nil {
			t.Error(err)
		}
	})
	for _, source := range ask(1) {
		if source != "l2" {
			t.Errorf("one who should have waited read from %s", source)
		}
	}
	other.Wait()
	// It has died: its marker ends, and the answer comes from the database.
	set(t, client, marker, "somebody", 500*time.Millisecond)
	if err := client.Del(t.Context(), value).Err(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(ask(4), " "); !strings.Contains(got, "primary") {
		t.Errorf("read from %s", got)
	}
}

// stored finds the one value in Redis, and names the marker of whoever loads it.
func stored(t *testing.T, client *redis.Client) (value, marker string) {
	t.Helper()
	keys, err := client.Keys(t.Context(), "*:v:*").Result()
	if err != nil || len(keys) != 1 {
		t.Fatalf("%v, %v", keys, err)
	}
	return keys[0], strings.Replace(keys[0], ":v:", ":l:", 1)
}

// marks is how often Redis was asked to set something.
func marks(t *testing.T, client *redis.Client) int {
	t.Helper()
	info, err := client.Info(t.Context(), "commandstats").Result()
	if err != nil {
		t.Error(err)
	}
	_, calls, _ := strings.Cut(info, "cmdstat_set:calls=")
	calls, _, _ = strings.Cut(calls, ",")
	n, _ := strconv.Atoi(calls)
	return n
}

func set(t *testing.T, client *redis.Client, key, value string, ttl time.Duration) {
	t.Helper()
	if err := client.Set(t.Context(), key, value, ttl).Err(); err != nil {
		t.Error(err)
	}
}
