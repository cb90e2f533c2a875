package health

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"auditdb/internal/fault"
)

// Redis is what is asked of it.
type Redis interface {
	Addr() string
	Ping(ctx context.Context) error
	Clock(ctx context.Context) (time.Time, error)
	// Info reads INFO: of one server, or of one of a cluster's.
	Info(ctx context.Context) (string, error)
	// Breakers says until when the processes that share it let the dependencies of the configuration alone; zero: they do not.
	Breakers(ctx context.Context) (map[string]time.Time, error)
	Close() error
}

func redisChecks() []check {
	list := []check{
		standard("redis", redisGroup, inMillis, 10, 100, lookRedis),
		standard("redis_memory", redisGroup, inPercent, 80, 95, lookRedisMemory),
		standard("redis_clock", redisGroup, inSeconds, 1, 5, lookRedisClock).deeper(),
		standard("redis_policy", redisGroup, "", neverReach, neverReach, lookRedisPolicy).deeper(),
		standard("redis_evictions", redisGroup, inCount, anyAtAll, neverReach, lookRedisEvictions).deeper(),
		standard("redis_persistence", redisGroup, "", neverReach, neverReach, lookRedisPersistence).deeper(),
		standard("redis_replication", redisGroup, "", neverReach, neverReach, lookRedisReplication).deeper(),
		standard("redis_hit_ratio", redisGroup, inPercent, 80, 50, lookRedisHits).lower().deeper(),
	}
	list = append(list, standard("breaker", replication, inCount, neverReach, anyAtAll, lookBreakers).deeper())
	for i := range list {
		list[i].on = onRedis
	}
	return list
}

// askRedis makes all the checks of Redis, one after the other: they take no time.
func (p *probe) askRedis(ctx context.Context, chosen []check, results []Result) {
	wanted := false
	for _, c := range chosen {
		wanted = wanted || c.on == onRedis
	}
	if !wanted {
		return
	}
	limit, cancel := context.WithTimeout(ctx, p.o.CheckTimeout)
	defer cancel()
	r := &redisProbe{o: p.o}
	down := r.connect(limit)
	if r.client != nil {
		defer func() { _ = r.client.Close() }() // it was only read
	}
	for i := range chosen {
		c := &chosen[i]
		switch {
		case c.on != onRedis:
		case p.o.Redis == nil:
			results[i] = c.result(skip("no Redis is configured"))
		case down != nil && c.name == "redis":
			results[i] = c.result(finding{status: Critical, message: unreached(down), hint: cmp.Or(fault.HintOf(down), "start Redis; until then work goes on with PostgreSQL's locks and without a shared cache")})
		case down != nil:
			results[i] = c.result(unaskedAs("Redis does not answer"))
		default:
			f, err := c.look(limit, &probe{o: p.o, redisState: r}, c)
			if err != nil {
				results[i] = c.failed(err, "")
				continue
			}
			results[i] = c.result(f)
		}
	}
}

// redisProbe is what is known of Redis.
type redisProbe struct {
	o       Options
	client  Redis
	latency time.Duration
	skew    time.Duration
	trip    time.Duration
	info    map[string]string
	noInfo  error // the user may not call INFO
}

func (r *redisProbe) connect(ctx context.Context) (err error) {
	if r.o.Redis == nil {
		return nil
	}
	if r.client, err = r.o.Redis(ctx); err != nil {
		return err
	}
	var trips [3]time.Duration
	for i := range trips {
		before := r.o.Now()
		if err := r.client.Ping(ctx); err != nil {
			return err
		}
		trips[i] = r.o.Now().Sub(before)
	}
	r.latency = max(min(trips[0], trips[1]), min(max(trips[0], trips[1]), trips[2]))
	before := r.o.Now()
	if at, err := r.client.Clock(ctx); err == nil {
		r.trip = r.o.Now().Sub(before)
		r.skew = at.Sub(before.Add(r.trip / 2))
	}
	var text string
	text, r.noInfo = r.client.Info(ctx)
	r.info = parseInfo(text)
	return nil
}

// parseInfo reads what INFO answers: lines of name:value.
func parseInfo(text string) map[string]string {
	info := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && !strings.HasPrefix(name, "#") {
			info[name] = value
		}
	}
	return info
}

func (r *redisProbe) number(name string) float64 {
	n, _ := strconv.ParseFloat(r.info[name], 64)
	return n
}

// denied is the finding of a check that needs INFO where the user may not call it.
func (r *redisProbe) denied() (finding, bool) {
	if r.noInfo == nil {
		return finding{}, false
	}
	return finding{status: Unknown, message: "INFO is refused: " + oneLine(r.noInfo.Error()), hint: "ACL SETUSER … +info +ping +time"}, true
}

func lookRedis(_ context.Context, p *probe, _ *check) (finding, error) {
	r := p.redisState
	ms := float64(r.latency) / float64(time.Millisecond)
	version := r.info["redis_version"]
	return measured(round(ms), "look at the load of Redis and at the network", "Redis%s at %s answers in %.2f ms", suffix(" ", version), r.client.Addr(), ms), nil
}

const leastFragmented = 64 * megabyte // a small server always looks fragmented

func lookRedisMemory(_ context.Context, p *probe, _ *check) (finding, error) {
	r := p.redisState
	if f, no := r.denied(); no {
		return f, nil
	}
	used, most := r.number("used_memory"), r.number("maxmemory")
	f := finding{message: fmt.Sprintf("%s used, no maxmemory is set", size(used)), hint: "raise maxmemory, or set maxmemory-policy to allkeys-lru for a cache"}
	if most > 0 {
		f = measured(percent(used, most), f.hint, "%s of %s used (%.0f%%)", size(used), size(most), percent(used, most))
	}
	if fragmented := r.number("mem_fragmentation_ratio"); used > leastFragmented && fragmented > 1.5 {
		f.message += fmt.Sprintf("; fragmented %.1f times", fragmented)
		f.hint = "CONFIG SET activedefrag yes"
		f = f.as(Warning)
	}
	return f, nil
}

func lookRedisClock(_ context.Context, p *probe, c *check) (finding, error) {
	r := p.redisState
	if c.warning != nil && r.trip.Seconds() > *c.warning {
		return skip("Redis answers too slowly (%s) to compare clocks", span(r.trip)), nil
	}
	return measured(round(r.skew.Abs().Seconds()), "synchronize the clocks of both hosts: locks expire by them", "the clock of Redis is %s off", span(r.skew.Abs())), nil
}

// lookBreakers says which dependencies the processes that share this Redis have found broken. Each process has breakers of its own, too, of which a run
// of health knows nothing.
func lookBreakers(ctx context.Context, p *probe, _ *check) (finding, error) {
	known, err := p.redisState.client.Breakers(ctx)
	if err != nil {
		return finding{}, err
	}
	if len(known) == 0 {
		return skip("nothing that has a circuit breaker is configured: replicas, anchors, archives, receivers of alerts"), nil
	}
	now := p.o.Now()
	var open []string
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if until := known[name]; until.After(now) {
			open = append(open, fmt.Sprintf("%s for another %s", name, seconds(math.Ceil(until.Sub(now).Seconds()))))
		}
	}
	if len(open) == 0 {
		return measured(0, "", "%s, all closed", plural(len(known), "circuit breaker")), nil
	}
	return measured(float64(len(open)), "look whether it answers (auditdb monitor replicas, integrity checkpoint, retention archive verify, alert test ask it all the same); it is tried again by itself", "not asked, because it failed again and again: %s", strings.Join(open, ", ")), nil
}

func lookRedisPolicy(_ context.Context, p *probe, _ *check) (finding, error) {
	r := p.redisState
	if f, no := r.denied(); no {
		return f, nil
	}
	policy := r.info["maxmemory_policy"]
	switch {
	case r.number("maxmemory") == 0:
		return finding{status: Warning, message: "maxmemory is not set: Redis may take all of the host's memory", hint: "CONFIG SET maxmemory …; CONFIG SET maxmemory-policy allkeys-lru"}, nil
	case policy == "noeviction":
		return finding{status: Warning, message: "maxmemory-policy is noeviction: a full Redis refuses to keep results and locks", hint: "CONFIG SET maxmemory-policy allkeys-lru"}, nil
	}
	return finding{message: "maxmemory-policy is " + policy}, nil
}

func lookRedisEvictions(_ context.Context, p *probe, _ *check) (finding, error) {
	r := p.redisState
	if f, no := r.denied(); no {
		return f, nil
	}
	evicted, rejected := r.number("evicted_keys"), r.number("rejected_connections")
	return measured(evicted+rejected, "give Redis more memory (maxmemory), or more connections (maxclients)", "%.0f keys evicted and %.0f connections rejected since Redis started %s ago",
		evicted, rejected, seconds(r.number("uptime_in_seconds"))), nil
}

func lookRedisPersistence(_ context.Context, p *probe, _ *check) (finding, error) {
	r := p.redisState
	if f, no := r.denied(); no {
		return f, nil
	}
	switch {
	case r.info["loading"] == "1":
		return finding{status: Warning, message: "Redis is loading its data", hint: "wait until it has"}, nil
	case r.info["rdb_last_bgsave_status"] == "err" || r.info["aof_last_write_status"] == "err":
		return finding{status: Warning, message: "Redis cannot write its data to disk; by default it then refuses writes", hint: "look at its log and its disk"}, nil
	}
	return finding{message: "nothing failed"}, nil
}

func lookRedisReplication(_ context.Context, p *probe, _ *check) (finding, error) {
	r := p.redisState
	if f, no := r.denied(); no {
		return f, nil
	}
	switch {
	case r.info["role"] == "slave" && r.info["master_link_status"] != "up":
		return finding{status: Critical, message: "this Redis is a replica, and its link to the master is down", hint: "look at the master, or name it (or its sentinels) in redis.url"}, nil
	case r.info["role"] == "slave":
		return finding{status: Warning, message: "this Redis is a replica: it takes no locks and keeps no results", hint: "name the master or its sentinels in redis.url"}, nil
	case r.info["connected_slaves"] == "0":
		return skip("it has no replicas"), nil
	}
	return finding{message: "it has " + r.info["connected_slaves"] + " replicas"}, nil
}

func lookRedisHits(_ context.Context, p *probe, _ *check) (finding, error) {
	r := p.redisState
	if f, no := r.denied(); no {
		return f, nil
	}
	hits, misses := r.number("keyspace_hits"), r.number("keyspace_misses")
	if hits+misses < 1000 {
		return skip("only %.0f reads so far", hits+misses), nil
	}
	return measured(percent(hits, hits+misses), "auditdb cache stats shows its own part", "%.1f%% of %.0f reads were found, of all that use this Redis", percent(hits, hits+misses), hits+misses), nil
}
