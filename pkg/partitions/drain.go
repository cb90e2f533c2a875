package partitions

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/pkg/plan"
)

const drainPurpose = "drain"

// DrainOptions say which rows leave a default partition.
type DrainOptions struct {
	MaxFuture   time.Duration // rows that lie further ahead of now stay
	AllowPruned bool          // also make ranges again that were pruned

	Until  time.Time                 // stop copying after this, with ErrIncomplete; zero: never
	OnRows func(rows, ofAbout int64) // told how it goes on; nil: nobody is
}

// LeftReason says why rows stay in a default partition.
type LeftReason string

// Why rows stay.
const (
	LeftNull     LeftReason = "null_key"
	LeftInfinite LeftReason = "infinite"
	LeftFuture   LeftReason = "future"       // later than now and MaxFuture
	LeftRange    LeftReason = "out_of_range" // earlier than partitions can lie
	LeftNotMade  LeftReason = "not_made"     // no partition was made for them: the range was pruned, is past its retention, or was refused
)

// Left is how many rows stay in a default partition for one reason.
type Left struct {
	Reason LeftReason `json:"reason"`
	Rows   int64      `json:"rows"`
}

// DraftDrain plans partitions for all rows of the table's default partition that lie between the years 1 and 9999 and are not further ahead
// than allowed. It changes nothing. A table without a default partition has nothing to drain.
func (w *Worker) DraftDrain(ctx context.Context, t Table, o DrainOptions) (*Draft, error) {
	create := CreateOptions{AllowPruned: o.AllowPruned, Until: o.Until, OnRows: o.OnRows, purpose: drainPurpose}
	c, err := Load(ctx, w.o.DB.Pool(), t)
	if err != nil {
		return nil, err
	}
	if d := c.Default(); d != nil && d.Kind == 'r' {
		if create.Ranges, err = w.touched(ctx, t, *d, w.drainable(t, o)); err != nil {
			return nil, err
		}
	}
	if len(create.Ranges) == 0 {
		d := &Draft{Table: t, Catalog: c, options: create, Plan: plan.Plan{Action: "partition.drain " + t.String(), AsOf: w.o.Now()}}
		if c.Default() != nil {
			_, err = w.leftCopy(ctx, d)
		}
		return d, err
	}
	d, err := w.DraftCreate(ctx, t, create)
	if err == nil {
		d.Plan.Action = "partition.drain " + t.String()
	}
	return d, err
}

// drainable is the range of keys that get partitions.
func (w *Worker) drainable(t Table, o DrainOptions) Bounds {
	b := t.Key.Kind.limits()
	if end := t.KeyTime(w.o.Now().Add(o.MaxFuture)); end.Before(b.To) {
		b.To = end
	}
	return b
}

// touched returns the intervals that the rows of p within b lie in: the first row, the first one after its interval, and so on.
func (w *Worker) touched(ctx context.Context, t Table, p Partition, b Bounds) (intervals []Bounds, err error) {
	err = w.read(ctx, "look through "+p.String(), func(tx pgx.Tx) error {
		intervals = nil
		for rest := b; !rest.Empty() && len(intervals) <= maxMissing; {
			first, ok, err := firstKey(ctx, tx, t, p, rest, false)
			if err != nil || !ok {
				return err
			}
			in := t.IntervalOf(first)
			intervals = append(intervals, in)
			rest.From = in.To
		}
		return nil
	})
	return intervals, err
}

// DrainLeft counts the rows that are in the table's default partition, by why they stay. With d, a drain that has not been carried out, its
// rows do not count.
func (w *Worker) DrainLeft(ctx context.Context, t Table, o DrainOptions, d *Draft) (left []Left, err error) {
	c, err := Load(ctx, w.o.DB.Pool(), t)
	if err != nil || c.Default() == nil || c.Default().Kind != 'r' {
		return nil, err
	}
	err = w.read(ctx, "count rows of "+c.Default().String(), func(tx pgx.Tx) error {
		left, err = countLeft(ctx, tx, t, *c.Default(), w.drainable(t, o))
		return err
	})
	if err != nil {
		return nil, err
	}
	var out []Left
	for _, l := range left {
		if l.Reason == LeftNotMade && d != nil {
			l.Rows -= d.Moves()
		}
		if l.Rows > 0 {
			out = append(out, l)
		}
	}
	return out, nil
}

// leftCopy looks for what an interrupted run of the same purpose has left of a copy of the default partition. The draft is then to go on with
// it; a copy that does not fit any more is returned, to be taken back.
func (w *Worker) leftCopy(ctx context.Context, d *Draft) (stale *CopyState, err error) {
	t, c, db := d.Table, d.Catalog, w.o.DB.Pool()
	def := *c.Default()
	left, err := FindCopy(ctx, db, CopySource{OID: def.OID})
	if err != nil || left == nil || left.Purpose != d.options.copyPurpose() {
		return nil, err
	}
	parts, ok := left.parts(t, c)
	if !ok {
		return left, nil
	}
	f, err := readFacts(ctx, db, t, newestPlain(c), &def)
	if err != nil {
		return nil, err
	}
	going, err := newFan(ctx, db, t, c, f, d.options)
	if err != nil {
		return nil, err
	}
	going.parts = parts
	d.Publications, d.resumes = f.publications, true
	ops := make([]createOp, len(parts))
	for i, p := range parts {
		ops[i] = createOp{part: p}
	}
	s := going.step(ops)
	s.Reason = fmt.Sprintf("goes on with what an interrupted run has begun at %s; ", left.StartedAt.UTC().Format(shownTime)) + s.Reason
	d.Plan = plan.Plan{Action: "partition." + going.purpose + " " + t.String(), AsOf: w.o.Now(), Steps: []plan.Step{s}, KeepGoing: true}
	d.creates = ops
	return nil, w.refuseFan(ctx, going)
}

// follow does what is left to do after an interrupted copy was ended.
func (w *Worker) follow(ctx context.Context, d *Draft, onDone func(plan.Result)) ([]Created, error) {
	again, err := w.DraftCreate(ctx, d.Table, d.options)
	if err != nil {
		return nil, err
	}
	made, err := w.ApplyCreate(ctx, again, onDone)
	d.Plan.Steps = append(d.Plan.Steps, again.Plan.Steps...)
	d.Plan.Skipped = append(d.Plan.Skipped, again.Plan.Skipped...)
	d.Existing, d.Refused, d.Pruned, d.creates = again.Existing, again.Refused, again.Pruned, append(d.creates, again.creates...)
	return made, err
}

// newFan begins the plan of a copy of the default partition.
func newFan(ctx context.Context, q Querier, t Table, c *Catalog, f facts, o CreateOptions) (*fan, error) {
	going := &fan{purpose: o.copyPurpose(), table: t, source: *c.Default(), facts: f, stale: o.stale, until: o.Until, onRows: o.OnRows}
	going.cover(c)
	return going, readFan(ctx, q, going)
}

// cover notes the ranges that rows of the default partition do not lie in.
func (f *fan) cover(c *Catalog) {
	f.covered = f.covered[:0]
	for _, p := range c.All() {
		f.covered = append(f.covered, p.Bounds)
	}
	for _, p := range f.parts {
		f.covered = append(f.covered, p.Bounds)
	}
}

// step is the one step of the plan that a copy is.
func (f *fan) step(ops []createOp) plan.Step {
	var rows int64
	for _, op := range ops {
		rows += op.rows
	}
	how := "the rest stays in a new default partition"
	if !f.source.Default {
		how = "nothing is left in it"
	}
	reason := fmt.Sprintf("%d new partitions take the rows of %s, %s; rows are copied while readers and writers of new rows go on (UPDATE and DELETE are refused meanwhile), then "+
		"both are swapped; locks: ACCESS EXCLUSIVE on the table and the partition, for a moment", len(f.parts), f.source, how)
	if rows > 0 {
		reason = fmt.Sprintf("%d rows: ", rows) + reason
	}
	f.covered = slices.Clone(f.covered)
	for _, p := range f.parts {
		f.covered = append(f.covered, p.Bounds)
	}
	return plan.Step{Name: f.source.String(), SQL: f.planSQL(), Reason: reason, NoTx: true, Op: f}
}

// fanOut copies the default partition's rows into the new partitions.
func (c *creating) fanOut(ctx context.Context, f *fan) error {
	if err := c.w.refuseFan(ctx, f); err != nil {
		return err
	}
	now, err := Load(ctx, c.w.o.DB.Pool(), f.table)
	if err != nil {
		return err
	}
	f.cover(now)
	made, err := c.w.runFan(ctx, f)
	c.made = append(c.made, made...)
	return err
}

// scanBytes is the size of a default partition that is not searched while everybody waits, where that can be avoided.
const scanBytes = 32 << 20

// apart puts a check on a large default partition that it has no rows of the coming ranges, so that ATTACH need not search it under its lock,
// and returns what takes it off again. Only ranges that begin in the future are taken: until the partitions are there, rows of these ranges
// are refused.
func (c *creating) apart(ctx context.Context) (func(), error) {
	def, t := c.d.Catalog.Default(), c.d.Table
	if def == nil || def.Kind != 'r' || c.d.resumes || len(c.d.creates) == 0 {
		return func() {}, nil
	}
	size, left, err := apartFacts(ctx, c.w.o.DB.Pool(), *def)
	if err != nil {
		return nil, err
	}
	var ahead []Bounds
	for _, op := range c.d.creates {
		if op.rows == 0 && op.part.From.After(t.KeyTime(c.w.o.Now())) {
			ahead = append(ahead, op.part.Bounds)
		}
	}
	off := func() {
		if err := c.w.constrain(context.WithoutCancel(ctx), t, *def, "take the check off "+def.String(), def.togetherSQL()); err != nil {
			c.w.o.Log.LogAttrs(ctx, slog.LevelWarn, "a check that only creating needs is left on the default partition; the next partition create takes it off",
				slog.String("partition", def.String()), slog.String("error", err.Error()))
		}
	}
	if size <= scanBytes || len(ahead) == 0 {
		if left {
			off()
		}
		return func() {}, nil
	}
	add, validate := def.apartSQL(t.Key, ahead)
	if err := c.w.constrain(ctx, t, *def, "keep coming partitions apart from "+def.String(), add, validate); err != nil {
		off()
		return nil, err
	}
	return off, nil
}

// AbortCopies takes back what interrupted runs have left of copies of t and its partitions for a purpose, under the table's lock. It says
// whether there was any.
func (w *Worker) AbortCopies(ctx context.Context, t Table, purpose string) (bool, error) {
	copies, err := Copies(ctx, w.o.DB.Pool(), t)
	if err != nil {
		return false, err
	}
	found := false
	for _, c := range copies {
		if c.Purpose != purpose {
			continue
		}
		found = true
		if err := w.AbortCopy(ctx, t, c); err != nil {
			return true, err
		}
	}
	return found, nil
}

// DraftAbort plans to take back what interrupted runs for a purpose have left of copies of t and its partitions. It changes nothing.
func (w *Worker) DraftAbort(ctx context.Context, t Table, purpose string) (*Draft, error) {
	c, err := Load(ctx, w.o.DB.Pool(), t)
	if err != nil {
		return nil, err
	}
	d := &Draft{Table: t, Catalog: c, Plan: plan.Plan{Action: "partition." + purpose + " " + t.String(), AsOf: w.o.Now()}}
	copies, err := Copies(ctx, w.o.DB.Pool(), t)
	for _, s := range copies {
		if s.Purpose == purpose {
			d.Plan.Steps = append(d.Plan.Steps, plan.Step{
				Name: s.Source.String(), SQL: s.head.endSQL(s.Source) + ";\nDROP TABLE " + s.Target.Ident(), Op: s,
				Reason: fmt.Sprintf("takes back the copy that was begun at %s; no row is lost, all are still in the table; locks: ACCESS EXCLUSIVE, for a moment", s.StartedAt.UTC().Format(shownTime)),
			})
		}
	}
	return d, err
}
