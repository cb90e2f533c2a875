package cache

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// counter is what a namespace counts.
type counter uint8

const (
	localHits counter = iota
	localMisses
	localEvictions
	sharedHits
	sharedMisses
	sharedErrors // calls of Redis that failed or were not made because others had
	sharedStored
	sharedBytes
	sharedEvictions
	loads
	tooLarge
	otherVersion // values found in Redis and not taken, by reason
	foreign
	damaged
	expired
	counterCount
)

// counterNames are the counters' names in Redis. They stay what they are: other versions of the program add to the same.
var counterNames = [counterCount]string{
	"l1_hits", "l1_misses", "l1_evictions", "l2_hits", "l2_misses", "l2_errors", "l2_stored", "l2_stored_bytes", "l2_evictions",
	"loads", "too_large", "bad_version", "bad_foreign", "bad_damaged", "bad_expired",
}

// counters are those of one namespace in this process.
type counters struct {
	hits, misses striped // of L1, where an operation takes no longer than counting it in one place
	counts       [counterCount]atomic.Int64
	sharedTimes  histogram // of reads from Redis
	loadTimes    histogram // of Fetch's loads
}

// striped is a counter that processors do not take from each other's caches at every turn: keys spread over its parts.
type striped [16]struct {
	n atomic.Int64
	_ [56]byte // the rest of a cache line
}

func (s *striped) add(k Key) { s[k.digest[1]%uint8(len(s))].n.Add(1) }

func (s *striped) sum() (total int64) {
	for i := range s {
		total += s[i].n.Load()
	}
	return total
}

// value is what was counted so far.
func (c *counters) value(what counter) int64 {
	switch what {
	case localHits:
		return c.hits.sum()
	case localMisses:
		return c.misses.sum()
	}
	return c.counts[what].Load()
}

func (c *counters) count(what counter, n int64) {
	if n != 0 {
		c.counts[what].Add(n)
	}
}

// buckets of a histogram: four to each doubling of a microsecond, up to half a minute.
const (
	bucketsPerDoubling = 4
	bucketCount        = 25 * bucketsPerDoubling
)

// histogram counts durations by their order of magnitude, to about a fifth.
type histogram [bucketCount]atomic.Int64

func (h *histogram) observe(d time.Duration) { h[bucketOf(d)].Add(1) }

func bucketOf(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 1))
	doubling := bits.Len64(us) - 1
	part := int((us << 2 >> doubling) & 3)
	return min(doubling*bucketsPerDoubling+part, bucketCount-1)
}

// bucketTop is the longest duration in a bucket.
func bucketTop(bucket int) time.Duration {
	doubling, part := bucket/bucketsPerDoubling, bucket%bucketsPerDoubling
	return time.Duration(bucketsPerDoubling+part+1) * time.Microsecond << doubling / bucketsPerDoubling
}

// percentile is the duration that the given share of what was counted stays within; false when nothing was.
func percentile(counts []int64, share float64) (time.Duration, bool) {
	total := int64(0)
	for _, n := range counts {
		total += n
	}
	if total == 0 {
		return 0, false
	}
	rank := int64(share * float64(total))
	for i, n := range counts {
		if rank -= n; rank < 0 {
			return bucketTop(i), true
		}
	}
	return bucketTop(len(counts) - 1), true
}
