package partitions

import (
	"context"
	"slices"
	"sync"
	"time"
)

// ensureRows is the most rows that are moved out of a default partition on the way.
const ensureRows = 200_000

// Creator makes partitions that rows need while they are being taken in. It may be used by several goroutines.
type Creator struct {
	Worker  *Worker
	DryRun  bool         // only say what would be made
	OnDraft func(*Draft) // is told every plan; nil: nobody is

	mu     sync.Mutex
	unmade []Unmade // by the last Ensure for each range
}

// Ensure makes a partition for each interval of t that one of the ranges touches (key values; a range may be as short as one microsecond),
// under the table's lock, and returns the catalog that it found and what it made. Intervals wholly before the table's retention and ranges
// that were pruned are not made, and a range that cannot be made by itself does not stop the others: WhyNot tells of those. An error is one
// that concerns all. It bounds nothing in the future: that is the caller's business.
func (c *Creator) Ensure(ctx context.Context, t Table, ranges []Bounds) (found *Catalog, made []Partition, err error) {
	if c.DryRun {
		d, err := c.draft(ctx, t, ranges)
		if err != nil {
			return nil, nil, err
		}
		c.keep(ranges, d.Pruned, d.Refused)
		return d.Catalog, d.Creates(), nil
	}
	err = c.Worker.Locked(ctx, t, func(ctx context.Context) error {
		d, err := c.draft(ctx, t, ranges)
		if err != nil {
			return err
		}
		found = d.Catalog
		created, unmade, err := c.Worker.createFor(ctx, d)
		for _, p := range created {
			made = append(made, p.Partition)
		}
		c.keep(ranges, d.Pruned, unmade)
		return err
	})
	return found, made, err
}

// WhyNot says why Ensure made no partition that holds the key value at; "" when it was not asked to, made one, or has no particular reason.
func (c *Creator) WhyNot(at time.Time) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, u := range c.unmade {
		if u.Contains(at) {
			return u.Err.Error()
		}
	}
	return ""
}

// keep remembers what was not made for ranges, in the place of what was known about them before.
func (c *Creator) keep(ranges []Bounds, pruned, unmade []Unmade) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unmade = slices.DeleteFunc(c.unmade, func(u Unmade) bool { return slices.ContainsFunc(ranges, u.Overlaps) })
	c.unmade = append(append(c.unmade, pruned...), unmade...)
}

func (c *Creator) draft(ctx context.Context, t Table, ranges []Bounds) (*Draft, error) {
	d, err := c.Worker.DraftCreate(ctx, t, CreateOptions{Ranges: ranges, MoveRowLimit: ensureRows})
	if err == nil && c.OnDraft != nil {
		c.OnDraft(d)
	}
	return d, err
}
