package cmd

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/pkg/cache"
)

// cacheStatsDoc is auditdb.cache.stats.v1.
type cacheStatsDoc struct {
	cache.Stats
	Reset bool `json:"reset"` // the counters were set back, after they were read
}

func newCacheStatsCmd(app *App) *cobra.Command {
	var reset bool
	var every *time.Duration
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Show hit ratios, sizes, evictions and latencies of the cache",
		Long: "The counters of all processes that share the Redis, since the last reset and over the last hour, and what Redis keeps now. Processes that run\n" +
			"add theirs every ten seconds, others when they end. Without Redis, or while it does not answer, there is this process alone.",
		Example: "  auditdb cache stats\n  auditdb cache stats -o json\n  auditdb cache stats --reset",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if reset && *every > 0 {
				return usage(cmd.CommandPath(), "", "--reset and --watch do not go together")
			}
			return app.watch(cmd.Context(), "cache stats", *every, func(ctx context.Context) error { return runCacheStats(ctx, app, reset) })
		},
	}
	cmd.Flags().BoolVar(&reset, "reset", false, "set the counters back once they are shown; those of the last hour stay")
	every = watchFlag(cmd.Flags())
	return cmd
}

func runCacheStats(ctx context.Context, app *App, reset bool) error {
	c, status, err := app.openCache(ctx)
	if err != nil {
		return err
	}
	doc := cacheStatsDoc{Stats: c.Stats(ctx)}
	if status == cache.StatusNotReachable {
		doc.L2.Status = status
	}
	if doc.L2.Status == cache.StatusNotReachable && app.Config.Redis.Required {
		return fault.New(fault.Unavailable, "start Redis, or set redis.required to false", "cache stats: Redis is required and does not answer")
	}
	if reset && doc.Scope == "shared" {
		if err := c.Reset(ctx); err != nil {
			return fault.New(fault.Unavailable, "see auditdb cache stats for the state of Redis", "cache stats: set the counters back: %w", err)
		}
		doc.Reset = true
	}
	return app.Emit("cache.stats", doc, doc.print)
}

// openCache opens the cache, and says what is known of Redis before it was asked for anything.
func (a *App) openCache(ctx context.Context) (*cache.Cache, cache.Status, error) {
	c, err := a.Cache(ctx)
	switch {
	case err != nil:
		return nil, "", err
	case c == nil || a.Config.Redis.URL == "":
		return c, cache.StatusOff, nil
	case a.redisGone:
		return c, cache.StatusNotReachable, nil
	}
	return c, cache.StatusOK, nil
}

func (d cacheStatsDoc) print(t *output.Table) {
	switch {
	case !d.L1.Enabled:
		t.Line("The cache is off: cache.enabled is false.")
		return
	case d.Scope == "shared" && d.Since != nil:
		t.Line("All processes, since %s: %s answered from the cache.", output.Cell(*d.Since), percent(d.OverallHitRatio))
	case d.Scope == "shared":
		t.Line("All processes: nothing was counted yet.")
	default:
		t.Line("This process alone. Redis: %s.", d.L2.Status)
	}
	t.Line("")
	t.Header("level", "state", "entries", "size", "limit", "hits", "misses", "hit ratio", "evictions")
	t.Row("L1", "process", d.L1.Entries, output.Size(d.L1.SizeBytes), output.Size(d.L1.MaxBytes), d.L1.Hits, d.L1.Misses, percent(d.L1.HitRatio), d.L1.Evictions)
	t.Row("L2", string(d.L2.Status), d.L2.Keys, sizeCell(d.L2.SizeBytes), output.Size(d.L2.MaxBytes), d.L2.Hits, d.L2.Misses, percent(d.L2.HitRatio), d.L2.Evictions)
	d.printParts(t)
	if h := d.LastHour; h != nil {
		t.Line("Last hour: %s, %s answered from the cache (L1 %s, L2 %s).", countOf(int(h.Requests), "request"), percent(h.HitRatio), percent(h.L1Ratio), percent(h.L2Ratio))
	}
	if l := d.L2.Latencies; l.P50 != nil {
		t.Line("Reads from Redis: half within %s, 95 %% within %s, 99 %% within %s.", latencyText(l.P50), latencyText(l.P95), latencyText(l.P99))
	}
	if r := d.L2.Rejected; r != (cache.Rejected{}) {
		t.Line("Values in Redis that were not taken: %d of another version, %d foreign, %d damaged, %d expired.", r.Version, r.Foreign, r.Damaged, r.Expired)
	}
	if d.L2.Errors > 0 {
		t.Line("Requests that went on without Redis: %d.", d.L2.Errors)
	}
	if d.L2.Policy != nil {
		t.Line("Redis uses %s of memory, limit %s, policy %s, and has evicted %s by itself.", output.Cell(sizeCell(d.L2.UsedMemory)),
			map[bool]string{true: "none", false: output.Cell(sizeCell(d.L2.MaxMemory))}[*d.L2.MaxMemory == 0], *d.L2.Policy, countOf(int(*d.L2.EvictedKeys), "key"))
	}
	d.printValues(t)
	for _, w := range d.Warnings {
		t.Line("Warning: %s.", w)
	}
	if d.Reset {
		t.Line("The counters were set back.")
	}
}

func (d cacheStatsDoc) printParts(t *output.Table) {
	if len(d.Namespaces) == 0 {
		return
	}
	t.Line("")
	t.Header("part", "requests", "L1 hits", "L2 hits", "misses", "hit ratio", "last hour", "too large")
	for _, n := range d.Namespaces {
		var hour *float64
		if d.LastHour != nil {
			for _, h := range d.LastHour.Parts {
				if h.Namespace == n.Namespace {
					hour = h.HitRatio
				}
			}
		}
		t.Row(n.Namespace, n.Requests, n.LocalHits, n.SharedHits, n.Misses, percent(n.HitRatio), percent(hour), n.TooLarge)
	}
	t.Line("")
}

func (d cacheStatsDoc) printValues(t *output.Table) {
	if len(d.Biggest) > 0 {
		t.Line("")
		t.Line("Biggest values:")
		t.Header("part", "scope", "size")
		for _, v := range d.Biggest[:min(len(d.Biggest), 3)] {
			t.Row(v.Namespace, v.Scope, output.Size(v.SizeBytes))
		}
	}
	for _, p := range d.Processes {
		t.Line("Process %s: version %s, format %d, %s in L1.", p.ID, orNone(p.Version), p.Format, countOf(p.Entries, "value"))
	}
	if d.VersionSkew {
		text := ""
		for i, v := range d.Versions {
			text += map[bool]string{true: ", "}[i > 0] + fmt.Sprintf("%s (format %d)", orNone(v.Version), v.Format)
		}
		t.Line("Versions within the last hour: %s.", text)
	}
}

func latencyText(seconds *float64) string {
	if seconds == nil {
		return "-"
	}
	return time.Duration(*seconds * float64(time.Second)).String()
}
