package cache

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Status is how it stands with Redis.
type Status string

// How it may stand with Redis.
const (
	StatusOK           Status = "ok"
	StatusOff          Status = "not configured"
	StatusNotReachable Status = "not reachable"
	StatusReadOnly     Status = "read-only"
	StatusFull         Status = "out of memory"
	StatusFailed       Status = "answered with an error"
)

// StatusOf says how it stands with Redis after an error: it did not answer, or it did and could not.
func StatusOf(err error) Status {
	var answer redis.Error
	switch {
	case err == nil:
		return StatusOK
	case errors.As(err, &answer):
		return StatusFailed
	}
	return StatusNotReachable
}

// Stats is what is known about the cache: of all processes that share the Redis, or without one of this process.
type Stats struct {
	Scope           string      `json:"scope"` // process or shared
	L1              LocalStats  `json:"l1"`
	L2              SharedStats `json:"l2"`
	OverallHitRatio *float64    `json:"overall_hit_ratio"` // of all requests, null without any
	Totals
	Since       *time.Time `json:"since"` // the counters' last reset; null without any
	LastHour    *Period    `json:"last_hour"`
	Processes   []Process  `json:"processes"`
	Versions    []Version  `json:"versions"`     // of programs that used the cache within the last hour
	VersionSkew bool       `json:"version_skew"` // several of them
	Biggest     []Value    `json:"biggest"`
	Warnings    []string   `json:"warnings"`
}

// LocalStats is about L1.
type LocalStats struct {
	Enabled   bool     `json:"enabled"`
	Entries   int64    `json:"entries"` // in all processes that are running
	SizeBytes int64    `json:"size_bytes"`
	MaxBytes  int64    `json:"max_size_bytes"` // of one process
	Hits      int64    `json:"hits"`
	Misses    int64    `json:"misses"`
	HitRatio  *float64 `json:"hit_ratio"` // null without data
	Evictions int64    `json:"evictions"`
}

// SharedStats is about L2.
type SharedStats struct {
	Status      Status   `json:"status"`
	Keys        *int64   `json:"keys"`
	SizeBytes   *int64   `json:"size_bytes"` // with keys and indexes, about
	MaxBytes    int64    `json:"max_size_bytes"`
	Hits        int64    `json:"hits"`
	Misses      int64    `json:"misses"`
	HitRatio    *float64 `json:"hit_ratio"`
	Latency     *float64 `json:"latency_seconds"` // median of reads
	Latencies   Latency  `json:"latency"`
	Errors      int64    `json:"errors"`    // requests that went on without Redis
	Stored      int64    `json:"stored"`    // values written
	Evictions   int64    `json:"evictions"` // values that made room for others under max_size_bytes
	Rejected    Rejected `json:"rejected"`
	Policy      *string  `json:"maxmemory_policy"`
	MaxMemory   *int64   `json:"maxmemory_bytes"` // of the servers; 0: no limit
	UsedMemory  *int64   `json:"used_memory_bytes"`
	EvictedKeys *int64   `json:"server_evicted_keys"` // by the servers since they started
}

// Rejected counts values that were found in Redis and not taken.
type Rejected struct {
	Version int64 `json:"version"` // written by another version
	Foreign int64 `json:"foreign"` // not by this cache, or for another key
	Damaged int64 `json:"damaged"` // truncated or changed
	Expired int64 `json:"expired"`
}

// Latency holds percentiles, to about a fifth; null without data.
type Latency struct {
	P50 *float64 `json:"p50_seconds"`
	P95 *float64 `json:"p95_seconds"`
	P99 *float64 `json:"p99_seconds"`
}

// Totals is what counters say by namespace.
type Totals struct {
	LoadLatency Latency          `json:"load_latency"` // of what was loaded from the source
	Namespaces  []NamespaceStats `json:"namespaces"`
}

// NamespaceStats is about one part of the cache.
type NamespaceStats struct {
	Namespace      string   `json:"namespace"`
	Requests       int64    `json:"requests"`
	LocalHits      int64    `json:"l1_hits"`
	LocalRatio     *float64 `json:"l1_hit_ratio"`
	SharedHits     int64    `json:"l2_hits"`
	SharedRatio    *float64 `json:"l2_hit_ratio"` // of those that were not in L1
	Misses         int64    `json:"misses"`
	HitRatio       *float64 `json:"hit_ratio"`
	LocalEvictions int64    `json:"l1_evictions"`
	Evictions      int64    `json:"l2_evictions"`
	TooLarge       int64    `json:"too_large"` // values not kept for their size
	Loads          int64    `json:"loads"`
	LoadLatency    Latency  `json:"load_latency"`
}

// Period is what was counted within a time.
type Period struct {
	Requests  int64            `json:"requests"`
	LocalHits int64            `json:"l1_hits"`
	L1Ratio   *float64         `json:"l1_hit_ratio"`
	L2Hits    int64            `json:"l2_hits"`
	L2Ratio   *float64         `json:"l2_hit_ratio"`
	HitRatio  *float64         `json:"overall_hit_ratio"`
	Latencies Latency          `json:"l2_latency"`
	Errors    int64            `json:"l2_errors"`
	Parts     []NamespaceStats `json:"namespaces"`
}

// Process is one that runs and has used the cache.
type Process struct {
	ID        string    `json:"id"` // host, process id, and when it started
	Version   string    `json:"version"`
	Format    int       `json:"format"`
	Entries   int       `json:"entries"`
	SizeBytes int64     `json:"size_bytes"`
	Seen      time.Time `json:"seen"`
}

// Version is one of the program and of the format of its values.
type Version struct {
	Version string `json:"version"`
	Format  int    `json:"format"`
}

// Value is one in Redis.
type Value struct {
	Key       string `json:"key"`
	Namespace string `json:"namespace"`
	Scope     string `json:"scope"`
	SizeBytes int64  `json:"size_bytes"`
}

// Stats reads the counters of all processes and looks at Redis. Redis not answering is a status and no error; then the counters are
// those of this process.
func (c *Cache) Stats(ctx context.Context) Stats {
	s := Stats{Scope: "process", L2: SharedStats{Status: StatusOff}, Processes: []Process{}, Versions: []Version{}, Biggest: []Value{}, Warnings: []string{}}
	if c == nil {
		s.total(nil)
		return s
	}
	s.L2.MaxBytes = c.o.SharedMax
	s.L1 = LocalStats{Enabled: true, MaxBytes: c.o.MaxSize, Entries: int64(c.local.EstimatedSize()), SizeBytes: int64(c.local.WeightedSize())} //nolint:gosec // below MaxSize
	c.fold.Lock()
	news, folded := c.news(), maps.Clone(c.folded)
	c.fold.Unlock()
	if c.o.Redis != nil {
		s.L2.Status = StatusNotReachable
		if total, ok := c.readShared(ctx, &s, news); ok {
			s.Scope = "shared"
			s.total(total)
			return s
		}
	}
	for field, n := range folded {
		news[field] += n
	}
	s.total(news)
	return s
}

// total fills in what counters say since the last reset.
func (s *Stats) total(fields map[string]int64) {
	p, sum := summarize(fields)
	s.Namespaces, s.OverallHitRatio = p.Parts, p.HitRatio
	s.LoadLatency = sum.latency(loadTimesName)
	s.L1.Hits, s.L1.Misses, s.L1.HitRatio, s.L1.Evictions = p.LocalHits, p.Requests-p.LocalHits, p.L1Ratio, sum.of(localEvictions)
	s.L2.Hits, s.L2.Misses, s.L2.HitRatio = p.L2Hits, sum.of(sharedMisses), p.L2Ratio
	s.L2.Latencies, s.L2.Latency, s.L2.Errors = p.Latencies, p.Latencies.P50, p.Errors
	s.L2.Stored, s.L2.Evictions = sum.of(sharedStored), sum.of(sharedEvictions)
	s.L2.Rejected = Rejected{Version: sum.of(otherVersion), Foreign: sum.of(foreign), Damaged: sum.of(damaged), Expired: sum.of(expired)}
}

// sums are counters by name.
type sums map[string]int64

func (s sums) of(what counter) int64 { return s[counterNames[what]] }

// latency makes percentiles of the histogram whose fields start with name.
func (s sums) latency(name string) Latency {
	counts := make([]int64, bucketCount)
	for i := range counts {
		counts[i] = s[name+strconv.Itoa(i)]
	}
	at := func(share float64) *float64 {
		d, ok := percentile(counts, share)
		if !ok {
			return nil
		}
		seconds := d.Seconds()
		return &seconds
	}
	return Latency{P50: at(0.5), P95: at(0.95), P99: at(0.99)}
}

func (s sums) namespace(name string) NamespaceStats {
	hits, misses := s.of(localHits), s.of(localMisses)
	n := NamespaceStats{
		Namespace: name, Requests: hits + misses, LocalHits: hits, LocalRatio: ratio(hits, hits+misses),
		SharedHits: s.of(sharedHits), SharedRatio: ratio(s.of(sharedHits), s.of(sharedHits)+s.of(sharedMisses)),
		LocalEvictions: s.of(localEvictions), Evictions: s.of(sharedEvictions), TooLarge: s.of(tooLarge), Loads: s.of(loads), LoadLatency: s.latency(loadTimesName),
	}
	n.Misses, n.HitRatio = n.Requests-n.LocalHits-n.SharedHits, ratio(n.LocalHits+n.SharedHits, n.Requests)
	return n
}

func ratio(part, whole int64) *float64 {
	if whole <= 0 {
		return nil
	}
	r := float64(part) / float64(whole)
	return &r
}

// summarize adds counters up by namespace and in all.
func summarize(fields map[string]int64) (Period, sums) {
	by, all := map[string]sums{}, sums{}
	for field, n := range fields {
		namespace, name, ok := strings.Cut(field, ":")
		if !ok || !plainName().MatchString(namespace) {
			continue
		}
		if by[namespace] == nil {
			by[namespace] = sums{}
		}
		by[namespace][name] += n
		all[name] += n
	}
	p := Period{Parts: []NamespaceStats{}}
	for _, name := range slices.Sorted(maps.Keys(by)) {
		p.Parts = append(p.Parts, by[name].namespace(name))
	}
	total := all.namespace("")
	p.Requests, p.LocalHits, p.L1Ratio, p.L2Hits, p.L2Ratio, p.HitRatio = total.Requests, total.LocalHits, total.LocalRatio, total.SharedHits, total.SharedRatio, total.HitRatio
	p.Latencies, p.Errors = all.latency(sharedTimesName), all.of(sharedErrors)
	return p, all
}

// biggestShown is how many of the biggest values are shown.
const biggestShown = 10

// tidyScript takes what has expired out of a shard's indexes. KEYS: expiry, size, total.
var tidyScript = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local gone = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 5000)
for _, member in ipairs(gone) do
  local size = redis.call('ZSCORE', KEYS[2], member)
  redis.call('ZREM', KEYS[1], member)
  if size then
    redis.call('ZREM', KEYS[2], member)
    redis.call('DECRBY', KEYS[3], size)
  end
end
return #gone
`)

// readShared fills in what Redis knows, and returns the counters of all processes with news added.
func (c *Cache) readShared(ctx context.Context, s *Stats, news map[string]int64) (map[string]int64, bool) {
	for shard := range shards { // what cannot be tidied is counted
		if err := tidyScript.Run(ctx, c.o.Redis, []string{c.shardKey(shard, "expiry"), c.shardKey(shard, "size"), c.shardKey(shard, "total")}).Err(); err != nil {
			break
		}
	}
	now := c.o.Now()
	pipe := c.o.Redis.Pipeline()
	total, processes := pipe.HGetAll(ctx, c.statsKey("total")), pipe.HGetAll(ctx, c.statsKey("processes"))
	var minutes []*redis.MapStringStringCmd
	for minute := now.Unix()/60 - 59; minute <= now.Unix()/60; minute++ {
		minutes = append(minutes, pipe.HGetAll(ctx, c.statsKey("m:"+strconv.FormatInt(minute, 10))))
	}
	var counts []*redis.IntCmd
	var sizes []*redis.StringCmd
	var biggest []*redis.ZSliceCmd
	for shard := range shards {
		counts = append(counts, pipe.ZCard(ctx, c.shardKey(shard, "expiry")))
		sizes = append(sizes, pipe.Get(ctx, c.shardKey(shard, "total")))
		biggest = append(biggest, pipe.ZRevRangeWithScores(ctx, c.shardKey(shard, "size"), 0, biggestShown-1))
	}
	_, _ = pipe.Exec(ctx) // each answer is looked at
	if total.Err() != nil || !c.readServers(ctx, s) {
		return nil, false
	}
	c.readProcesses(s, processes.Val(), now)
	hour := maps.Clone(news)
	for _, m := range minutes {
		addFields(hour, m.Val())
	}
	p, _ := summarize(hour)
	s.LastHour = &p
	s.readVersions(hour)
	all := maps.Clone(news)
	addFields(all, total.Val())
	if since, ok := all[sinceField]; ok {
		at := time.Unix(since, 0).UTC()
		s.Since = &at
	}
	var keys, size int64
	for shard := range shards {
		keys += counts[shard].Val()
		n, _ := sizes[shard].Int64() // none: 0
		size += n
		for _, z := range biggest[shard].Val() {
			s.Biggest = append(s.Biggest, c.describe(shard, z))
		}
	}
	s.L2.Keys, s.L2.SizeBytes = &keys, &size
	slices.SortFunc(s.Biggest, func(a, b Value) int { return cmp.Or(cmp.Compare(b.SizeBytes, a.SizeBytes), cmp.Compare(a.Key, b.Key)) })
	s.Biggest = s.Biggest[:min(len(s.Biggest), biggestShown)]
	return all, true
}

func addFields(to map[string]int64, from map[string]string) {
	for field, text := range from {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			to[field] += n
		}
	}
}

func (c *Cache) describe(shard int, z redis.Z) Value {
	member, _ := z.Member.(string)
	namespace, scope, _ := parseMember(member)
	return Value{Key: c.shardKey(shard, "v:") + member, Namespace: namespace, Scope: scope, SizeBytes: int64(z.Score)}
}

// readProcesses lists those that were seen lately; this one is listed when it has values.
func (c *Cache) readProcesses(s *Stats, all map[string]string, now time.Time) {
	s.L1.Entries, s.L1.SizeBytes = 0, 0
	own, _ := json.Marshal(c.presence()) // numbers and a string
	if c.local.EstimatedSize() > 0 {
		all[c.id] = string(own)
	}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		var p presence
		if json.Unmarshal([]byte(all[id]), &p) != nil || now.Sub(time.Unix(p.Seen, 0)) > presentWithin {
			continue
		}
		s.Processes = append(s.Processes, Process{ID: id, Version: p.Version, Format: p.Format, Entries: p.Entries, SizeBytes: p.SizeBytes, Seen: time.Unix(p.Seen, 0).UTC()})
		s.L1.Entries += int64(p.Entries)
		s.L1.SizeBytes += p.SizeBytes
	}
}

func (s *Stats) readVersions(hour map[string]int64) {
	seen := map[Version]bool{}
	for field := range hour {
		if rest, ok := strings.CutPrefix(field, versionName); ok {
			format, version, _ := strings.Cut(rest, " ")
			if n, err := strconv.Atoi(format); err == nil {
				seen[Version{version, n}] = true
			}
		}
	}
	for _, p := range s.Processes {
		seen[Version{p.Version, p.Format}] = true
	}
	s.Versions = slices.SortedFunc(maps.Keys(seen), func(a, b Version) int {
		return cmp.Or(cmp.Compare(a.Version, b.Version), cmp.Compare(a.Format, b.Format))
	})
	if s.VersionSkew = len(s.Versions) > 1; s.VersionSkew {
		s.Warnings = append(s.Warnings, "several versions of the program share the cache: where their formats differ they replace each other's values")
	}
}

// Reset sets the counters of all processes back to nothing. What processes have counted and not folded in yet comes after it.
func (c *Cache) Reset(ctx context.Context) error {
	if c.o.Redis == nil {
		return nil
	}
	_, err := c.o.Redis.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Del(ctx, c.statsKey("total"))
		p.HSet(ctx, c.statsKey("total"), sinceField, c.o.Now().Unix())
		return nil
	})
	return err
}
