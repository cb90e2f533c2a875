package health

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"auditdb/internal/embedded"
	"auditdb/internal/pgtest"
	"auditdb/internal/redis"
)

// realRedis is asked as the program asks it.
type realRedis struct {
	*redis.Client
	breakers []string
}

func (r realRedis) Ping(ctx context.Context) error               { return r.Client.Ping(ctx).Err() }
func (r realRedis) Clock(ctx context.Context) (time.Time, error) { return r.Time(ctx).Result() }
func (r realRedis) Info(ctx context.Context) (string, error)     { return r.Client.Info(ctx).Result() }

func (r realRedis) Breakers(ctx context.Context) (map[string]time.Time, error) {
	known := map[string]time.Time{}
	for _, name := range r.breakers {
		until, _, err := redis.Breakers{Client: r.Client}.Look(ctx, name)
		if err != nil {
			return nil, err
		}
		known[name] = until
	}
	return known, nil
}

// redisFault is made on a Redis of its own.
type redisFault struct {
	check   string
	status  Status
	message string
	also    []string
	with    func(*Options)
	make    func(t *testing.T, server *embedded.Redis, c *goredis.Client)
}

// fillRedis writes 16 MB under a limit of 8 MB.
func fillRedis(policy string) func(t *testing.T, _ *embedded.Redis, c *goredis.Client) {
	return func(t *testing.T, _ *embedded.Redis, c *goredis.Client) {
		t.Helper()
		must(t, c.ConfigSet(t.Context(), "maxmemory-policy", policy).Err(), c.ConfigSet(t.Context(), "maxmemory", "8mb").Err())
		refused := false
		for n := range 1600 {
			if err := c.Set(t.Context(), fmt.Sprint(n), strings.Repeat("x", 10_000), 0).Err(); err != nil {
				refused = true
			}
		}
		if refused != (policy != "allkeys-lru") {
			t.Fatalf("writes were refused: %v", refused)
		}
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func configured(name, value string) func(t *testing.T, _ *embedded.Redis, c *goredis.Client) {
	return func(t *testing.T, _ *embedded.Redis, c *goredis.Client) {
		t.Helper()
		must(t, c.ConfigSet(t.Context(), name, value).Err())
	}
}

func redisFaults() []redisFault {
	return []redisFault{
		{check: "redis", status: Critical, message: "does not answer", make: func(t *testing.T, server *embedded.Redis, _ *goredis.Client) {
			t.Helper()
			must(t, server.Kill(t.Context()))
		}},
		{check: "redis", status: Critical, message: "no answer in time", make: func(t *testing.T, server *embedded.Redis, _ *goredis.Client) {
			t.Helper()
			must(t, syscall.Kill(server.PID(), syscall.SIGSTOP))
			t.Cleanup(func() { _ = syscall.Kill(server.PID(), syscall.SIGCONT) })
		}},
		{check: "redis", status: Critical, message: "NOAUTH", make: configured("requirepass", "other")},
		{check: "redis", status: Critical, message: "WRONGPASS", make: configured("requirepass", "other"), with: func(o *Options) {
			open := o.Redis
			o.Redis = func(ctx context.Context) (Redis, error) { return open(context.WithValue(ctx, passwordKey{}, "wrong")) }
		}},
		{check: "redis_memory", status: Critical, message: "of 8.0 MiB used", make: fillRedis("volatile-lru")},
		{check: "redis_evictions", status: Warning, message: "keys evicted", also: []string{"redis_memory"}, make: fillRedis("allkeys-lru")},
		{check: "redis_policy", status: Warning, message: "may take all of the host's memory", make: configured("maxmemory", "0")},
		{check: "redis_policy", status: Warning, message: "is noeviction", make: configured("maxmemory-policy", "noeviction")},
		{check: "redis_persistence", status: Warning, message: "cannot write its data to disk", make: func(t *testing.T, server *embedded.Redis, c *goredis.Client) {
			t.Helper()
			must(t, os.Mkdir(filepath.Join(server.Dir(), "dump.rdb"), 0o700), c.Set(t.Context(), "a", "b", 0).Err(), c.BgSave(t.Context()).Err())
			for !strings.Contains(c.Info(t.Context(), "persistence").Val(), "rdb_last_bgsave_status:err") {
				if t.Context().Err() != nil {
					t.Fatal("the save did not fail")
				}
				time.Sleep(10 * time.Millisecond)
			}
		}},
		{check: "redis_replication", status: Critical, message: "its link to the master is down", make: func(t *testing.T, _ *embedded.Redis, c *goredis.Client) {
			t.Helper()
			must(t, c.ReplicaOf(t.Context(), "127.0.0.1", "1").Err())
		}},
		{check: "redis_hit_ratio", status: Critical, message: "0.0% of 12", make: func(t *testing.T, _ *embedded.Redis, c *goredis.Client) {
			t.Helper()
			for range 1200 {
				if err := c.Get(t.Context(), "nothing").Err(); err != goredis.Nil { //nolint:errorlint // it is never wrapped
					t.Fatal(err)
				}
			}
		}},
		// The clock that is wrong is this program's: both of one machine are the same.
		{check: "redis_clock", status: Warning, message: "the clock of Redis is", make: func(*testing.T, *embedded.Redis, *goredis.Client) {}, with: func(o *Options) { o.Now = func() time.Time { return time.Now().Add(2 * time.Second) } }},
		{check: "breaker", status: Critical, message: "replica:one for another", make: func(t *testing.T, _ *embedded.Redis, c *goredis.Client) {
			t.Helper()
			must(t, redis.Breakers{Client: &redis.Client{UniversalClient: c}}.SetOpen(t.Context(), "replica:one", time.Now().Add(time.Minute)))
		}},
	}
}

type passwordKey struct{}

// Each fault of Redis is made on a real one: that check turns, and no unrelated one.
func TestRedisFaults(t *testing.T) {
	t.Parallel()
	for _, f := range redisFaults() {
		t.Run(f.check+" "+f.message, func(t *testing.T) {
			t.Parallel()
			server := pgtest.RedisServer(t, func(o *embedded.RedisOptions) {
				o.TCP = true
				o.Settings = "maxmemory 100mb\nmaxmemory-policy allkeys-lru"
			})
			c := goredis.NewClient(&goredis.Options{Addr: server.Addr()})
			t.Cleanup(func() { _ = c.Close() })
			o := Options{Now: time.Now, Only: []string{"redis", "breaker"}, Deep: true, Log: slog.New(slog.DiscardHandler), CheckTimeout: time.Second, Limits: unhurried()}
			o.Redis = func(ctx context.Context) (Redis, error) {
				address := "redis://" + server.Addr() + "/0"
				if password, ok := ctx.Value(passwordKey{}).(string); ok {
					address = "redis://:" + password + "@" + server.Addr() + "/0"
				}
				client, err := redis.Open(ctx, address, nil)
				if err != nil {
					return nil, err
				}
				return realRedis{client, []string{"replica:one", "replica:two"}}, nil
			}
			run := func() Report {
				started := time.Now()
				r, err := Run(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(started); took > o.CheckTimeout+20*time.Second {
					t.Errorf("it took %s", took)
				}
				return r
			}
			if sick := ill(run()); len(sick) > 0 {
				t.Fatalf("a healthy Redis: %+v", sick)
			}
			f.make(t, server, c)
			if f.with != nil {
				f.with(&o)
			}
			f.judge(t, run())
		})
	}
}

func (f redisFault) judge(t *testing.T, r Report) {
	t.Helper()
	sick := ill(r)
	if c := sick[f.check]; c.Status != f.status || !strings.Contains(c.Message, f.message) || c.Hint == "" {
		t.Errorf("%+v", r.Checks)
	}
	for name, c := range sick {
		if name != f.check && !strings.Contains(strings.Join(f.also, " "), name) {
			t.Errorf("an unrelated one turned as well: %+v", c)
		}
	}
}
