package partitions

import "context"

// Creator makes partitions that rows need while they are being taken in. It may be used by several goroutines.
type Creator struct {
	Worker  *Worker
	DryRun  bool         // only say what would be made
	OnDraft func(*Draft) // is told every plan; nil: nobody is
}

// Ensure makes a partition for each interval of t that one of the ranges touches (key values; a range may be as short as one microsecond),
// under the table's lock, and returns the catalog that it found and what it made. Intervals wholly before the table's retention and ranges
// that were pruned are not made. It bounds nothing in the future: that is the caller's business.
func (c *Creator) Ensure(ctx context.Context, t Table, ranges []Bounds) (found *Catalog, made []Partition, err error) {
	if c.DryRun {
		d, err := c.draft(ctx, t, ranges)
		if err != nil {
			return nil, nil, err
		}
		return d.Catalog, d.Creates(), nil
	}
	err = c.Worker.Locked(ctx, t, func(ctx context.Context) error {
		d, err := c.draft(ctx, t, ranges)
		if err != nil {
			return err
		}
		found = d.Catalog
		created, err := c.Worker.ApplyCreate(ctx, d, nil)
		for _, p := range created {
			made = append(made, p.Partition)
		}
		return err
	})
	return found, made, err
}

func (c *Creator) draft(ctx context.Context, t Table, ranges []Bounds) (*Draft, error) {
	d, err := c.Worker.DraftCreate(ctx, t, CreateOptions{Ranges: ranges})
	if err == nil && c.OnDraft != nil {
		c.OnDraft(d)
	}
	return d, err
}
