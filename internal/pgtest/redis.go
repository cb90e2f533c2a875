package pgtest

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"auditdb/internal/embedded"
)

// Redis starts a redis-server of the test's own and returns its address. It is stopped when the test ends.
func Redis(tb testing.TB) string {
	tb.Helper()
	return RedisServer(tb).URL()
}

// RedisServer is Redis for tests that kill and restart the server, or change how it starts.
func RedisServer(tb testing.TB, change ...func(*embedded.RedisOptions)) *embedded.Redis {
	tb.Helper()
	o := embedded.RedisOptions{Installed: true}
	for _, f := range change {
		f(&o)
	}
	r, err := embedded.StartRedis(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), limit)
		defer cancel()
		if err := r.Stop(ctx); err != nil {
			tb.Error(err)
		}
	})
	return r
}

// adminOf returns a client of one server by which a test sets it up.
func adminOf(tb testing.TB, r *embedded.Redis) *redis.Client {
	tb.Helper()
	c := redis.NewClient(&redis.Options{Addr: r.Addr()})
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

func inStep(ctx context.Context, replica *redis.Client) bool {
	return strings.Contains(replica.Info(ctx, "replication").Val(), "master_link_status:up")
}

// RedisSentinels starts a primary with a replica under three sentinels, which take a server for dead after half a second, and returns
// the address to use and the primary.
func RedisSentinels(tb testing.TB) (address string, primary *embedded.Redis) {
	tb.Helper()
	tcp := func(o *embedded.RedisOptions) { o.TCP = true }
	primary = RedisServer(tb, tcp)
	host, port, err := net.SplitHostPort(primary.Addr())
	if err != nil {
		tb.Fatal(err)
	}
	replica := RedisServer(tb, tcp, func(o *embedded.RedisOptions) { o.Settings = "replicaof " + host + " " + port })
	var sentinels []string
	for range 3 {
		s := RedisServer(tb, tcp, func(o *embedded.RedisOptions) {
			o.Sentinel = true
			o.Settings = fmt.Sprintf("sentinel monitor cache %s %s 2\nsentinel down-after-milliseconds cache 500\nsentinel failover-timeout cache 3000\n", host, port)
		})
		sentinels = append(sentinels, s.Addr())
	}
	eventually(tb, "the replica is in step", func(ctx context.Context) bool { return inStep(ctx, adminOf(tb, replica)) })
	for _, s := range sentinels {
		c := redis.NewSentinelClient(&redis.Options{Addr: s})
		tb.Cleanup(func() { _ = c.Close() })
		eventually(tb, "the sentinels know each other and the replica", func(ctx context.Context) bool {
			master := c.Master(ctx, "cache").Val()
			return master["num-other-sentinels"] == "2" && master["num-slaves"] == "1"
		})
	}
	return "redis://" + strings.Join(sentinels, ",") + "/0?master_name=cache", primary
}

// RedisCluster starts three primaries with a replica each, and returns the address to use and the primaries. A primary that has been dead for a
// second is replaced.
func RedisCluster(tb testing.TB) (address string, primaries []*embedded.Redis) {
	tb.Helper()
	const masters, slots = 3, 16384
	var all []*embedded.Redis
	var addrs []string
	for range 2 * masters {
		bus := freeBusPort(tb)
		r := RedisServer(tb, func(o *embedded.RedisOptions) {
			o.TCP = true
			o.Settings = fmt.Sprintf("cluster-enabled yes\ncluster-config-file nodes.conf\ncluster-node-timeout 1000\ncluster-port %d\nrepl-diskless-sync-delay 0\n", bus)
		})
		all, addrs = append(all, r), append(addrs, fmt.Sprintf("%s@%d", r.Addr(), bus))
	}
	ctx := tb.Context()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal("set up the cluster: ", err)
		}
	}
	first := adminOf(tb, all[0])
	for i, r := range all {
		if i < masters {
			must(adminOf(tb, r).ClusterAddSlotsRange(ctx, i*slots/masters, (i+1)*slots/masters-1).Err())
		}
		if i > 0 {
			addr, bus, _ := strings.Cut(addrs[i], "@")
			host, port, _ := net.SplitHostPort(addr)
			must(first.Do(ctx, "CLUSTER", "MEET", host, port, bus).Err())
		}
	}
	for i := range masters {
		id := adminOf(tb, all[i]).ClusterMyID(ctx).Val()
		replica := adminOf(tb, all[masters+i])
		eventually(tb, "the replica knows its primary", func(ctx context.Context) bool { return replica.ClusterReplicate(ctx, id).Err() == nil })
	}
	for _, r := range all[masters:] { // one that never was in step may not take over
		eventually(tb, "the replica is in step", func(ctx context.Context) bool { return inStep(ctx, adminOf(tb, r)) })
	}
	for _, r := range all {
		c := adminOf(tb, r)
		eventually(tb, "the cluster is whole", func(ctx context.Context) bool {
			info := c.ClusterInfo(ctx).Val()
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:6") && strings.Count(c.ClusterNodes(ctx).Val(), "slave ") >= masters
		})
	}
	urls := make([]string, len(all))
	for i, r := range all {
		urls[i] = r.Addr()
	}
	return "redis://" + strings.Join(urls, ",") + "/0", all[:masters]
}

// freeBusPort finds a port for a node's cluster bus.
func freeBusPort(tb testing.TB) int {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		tb.Fatal("find a free port: ", l.Addr())
	}
	return addr.Port
}
