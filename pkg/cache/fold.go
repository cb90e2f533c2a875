package cache

import (
	"context"
	"encoding/json"
	"log/slog"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// The counters of all processes in Redis, in one slot of a Cluster:
//
//	PREFIX:{stats}:total      hash of NAMESPACE:COUNTER since the last reset, and "since", when that was, in seconds since 1970
//	PREFIX:{stats}:m:MINUTE   the same for one minute since 1970, for two hours
//	PREFIX:{stats}:processes  hash of the processes that are running, each a presence with when it was last seen
//	PREFIX:{stats}:dropped    stream of what was invalidated, for the L1 of the others
func (c *Cache) statsKey(what string) string { return c.o.Prefix + ":{stats}:" + what }

const (
	sinceField    = "since"
	minuteFor     = 2 * time.Hour
	presentWithin = time.Minute // a process that was not seen for longer has died
)

// presence is what a process tells the others about itself.
type presence struct {
	Version   string `json:"version"`
	Format    int    `json:"format"`
	Entries   int    `json:"entries"`
	SizeBytes int64  `json:"size_bytes"`
	MaxBytes  int64  `json:"max_size_bytes"`
	Seen      int64  `json:"seen"` // seconds since 1970
}

func (c *Cache) presence() presence {
	return presence{
		Version: c.o.Version, Format: formatVersion, Entries: c.local.EstimatedSize(),
		SizeBytes: int64(c.local.WeightedSize()), MaxBytes: c.o.MaxSize, Seen: c.o.Now().Unix(), //nolint:gosec // below MaxSize
	}
}

// foldRegularly folds the counters in until ctx ends.
func (c *Cache) foldRegularly(ctx context.Context) {
	tick := time.NewTicker(defaultFold)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		limited, cancel := context.WithTimeout(ctx, time.Second)
		c.logFold(limited, c.foldIn(limited, true))
		cancel()
	}
}

// leave folds in for the last time.
func (c *Cache) leave(ctx context.Context) { c.logFold(ctx, c.foldIn(ctx, false)) }

func (c *Cache) logFold(ctx context.Context, err error) {
	if err != nil {
		c.o.Log.LogAttrs(ctx, slog.LevelDebug, "the cache's counters were not folded in", slog.String("cause", err.Error()))
	}
}

// foldIn adds what was counted since the last time to the counters of all processes, and heeds what others have announced. What could not
// be added is added the next time.
func (c *Cache) foldIn(ctx context.Context, staying bool) error {
	done, err := c.o.Guard.Allow()
	if err != nil {
		return err
	}
	c.fold.Lock()
	defer c.fold.Unlock()
	news, asked := c.news(), c.takeAsked()
	if err = c.send(ctx, news, asked, staying); err != nil {
		c.giveBackAsked(asked)
	} else {
		c.keepFolded(news)
		if staying {
			err = c.heed(ctx)
		}
	}
	done(err)
	return err
}

// news lists what was counted and not folded in yet, by field.
func (c *Cache) news() map[string]int64 {
	news := map[string]int64{}
	for _, n := range c.parts() {
		n.each(func(name string, value int64) {
			field := n.name + ":" + name
			if value -= c.folded[field]; value != 0 {
				news[field] = value
			}
		})
	}
	return news
}

// each calls f for every counter, buckets of histograms among them.
func (c *counters) each(f func(name string, value int64)) {
	for i := range counterCount {
		f(counterNames[i], c.value(i))
	}
	for i := range bucketCount {
		f(sharedTimesName+strconv.Itoa(i), c.sharedTimes[i].Load())
		f(loadTimesName+strconv.Itoa(i), c.loadTimes[i].Load())
	}
}

// What precedes the number of a histogram's bucket in a field, and the format and version of a program.
const (
	versionName     = "@version "
	sharedTimesName = "l2_time_"
	loadTimesName   = "load_time_"
)

func (c *Cache) keepFolded(news map[string]int64) {
	for field, n := range news {
		c.folded[field] += n
	}
}

// send adds news to the counters in Redis, in one transaction.
func (c *Cache) send(ctx context.Context, news map[string]int64, asked map[question]int64, staying bool) error {
	now := c.o.Now()
	minute, total := c.statsKey("m:"+strconv.FormatInt(now.Unix()/60, 10)), c.statsKey("total")
	_, err := c.o.Redis.TxPipelined(ctx, func(p redis.Pipeliner) error {
		if len(news) > 0 {
			p.HSetNX(ctx, total, sinceField, now.Unix())
			p.HIncrBy(ctx, minute, versionName+strconv.Itoa(formatVersion)+" "+c.o.Version, 1)
			p.PExpire(ctx, minute, minuteFor)
		}
		for field, n := range news {
			p.HIncrBy(ctx, total, field, n)
			p.HIncrBy(ctx, minute, field, n)
		}
		c.sendAsked(ctx, p, asked)
		if !staying {
			p.HDel(ctx, c.statsKey("processes"), c.id)
			return nil
		}
		me, err := json.Marshal(c.presence())
		if err != nil {
			return err
		}
		p.HSet(ctx, c.statsKey("processes"), c.id, me)
		p.PExpire(ctx, c.statsKey("processes"), minuteFor)
		return nil
	})
	return err
}
