package partitions

import "context"

// CreatorOptions say how a Creator works.
type CreatorOptions = Options

// Creator makes partitions that rows need while they are being taken in. It may be used by several goroutines.
type Creator struct{ w *Worker }

// NewCreator returns a creator.
func NewCreator(o CreatorOptions) *Creator { return &Creator{w: NewWorker(o)} }

// Ensure makes a partition for each interval of t that one of the ranges touches (key values; a range may be as short as one microsecond),
// under the table's lock, and returns the catalog as it is afterwards and what it made. Intervals wholly before the table's retention and
// ranges that were pruned are not made: the catalog shows them as gaps. It bounds nothing in the future: that is the caller's business.
func (c *Creator) Ensure(ctx context.Context, t Table, ranges []Bounds) (*Catalog, []Partition, error) {
	var made []Partition
	err := c.w.Locked(ctx, t, func(ctx context.Context) error {
		d, err := c.w.DraftCreate(ctx, t, CreateOptions{Ranges: ranges})
		if err != nil {
			return err
		}
		created, err := c.w.ApplyCreate(ctx, d, nil)
		for _, p := range created {
			made = append(made, p.Partition)
		}
		return err
	})
	after, loadErr := Load(ctx, c.w.o.DB.Pool(), t)
	if err == nil {
		err = loadErr
	}
	return after, made, err
}
