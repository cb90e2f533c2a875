package partitions

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/pkg/plan"
)

const splitPurpose = "split"

// SplitOptions say how a partition is cut.
type SplitOptions struct {
	Interval Interval // of the pieces

	Until  time.Time                 // stop copying after this, with ErrIncomplete; zero: never
	OnRows func(rows, ofAbout int64) // told how it goes on; nil: nobody is
}

// SplitDraft is what a split would do.
type SplitDraft struct {
	Table  Table
	Source Partition
	Parts  []Partition
	Plan   plan.Plan
	fan    *fan
}

// DraftSplit plans to cut a partition of t at the boundaries of intervals. The pieces together have its very range. It changes nothing.
func (w *Worker) DraftSplit(ctx context.Context, t Table, source Partition, o SplitOptions) (*SplitDraft, error) {
	if t.Key.Kind == KeyDate && o.Interval.Hours() {
		return nil, fault.New(fault.Usage, "take --interval daily or longer", "table %s: dates have no hours", t)
	}
	if err := w.Check(ctx, t); err != nil {
		return nil, err
	}
	if source.Default {
		return nil, fault.New(fault.Usage, "auditdb partition drain moves its rows to partitions of their own", "partition split: %s is the default partition", source)
	}
	db := w.o.DB.Pool()
	c, err := Load(ctx, db, t)
	if err != nil {
		return nil, err
	}
	t.Interval = o.Interval
	f := &fan{purpose: splitPurpose, table: t, source: source, others: c.Default(), until: o.Until, onRows: o.OnRows}
	if f.others != nil && f.others.Kind != 'r' {
		reason, _ := f.others.Writable()
		return nil, fault.New(fault.Refused, "", "partition split: the default partition %s: %s", f.others, reason)
	}
	if f.facts, err = readFacts(ctx, db, t, newestPlain(c), nil); err != nil {
		return nil, err
	}
	if err := readFan(ctx, db, f); err != nil {
		return nil, err
	}
	d := &SplitDraft{Table: t, Source: source, fan: f, Plan: plan.Plan{Action: "partition.split " + source.String(), AsOf: w.o.Now()}}
	resumes, err := w.splitParts(ctx, f, c)
	if err != nil {
		return nil, err
	}
	if len(f.parts) < 2 {
		d.Plan.Skipped = append(d.Plan.Skipped, plan.Skip{Name: source.String(), Reason: fmt.Sprintf("%s intervals do not cut its range %s", o.Interval, source.Text())})
		return d, nil
	}
	if err := w.refuseFan(ctx, f); err != nil {
		return nil, err
	}
	s := f.step(nil)
	if resumes != "" {
		s.Reason = resumes + s.Reason
	}
	d.Parts, d.Plan.Steps = f.parts, []plan.Step{s}
	return d, nil
}

// splitParts finds the pieces: those of an interrupted run, or by the intervals.
func (w *Worker) splitParts(ctx context.Context, f *fan, c *Catalog) (resumes string, err error) {
	db := w.o.DB.Pool()
	left, err := FindCopy(ctx, db, f.copySource())
	if err != nil {
		return "", err
	}
	if left != nil && left.Purpose != splitPurpose {
		return "", left.refusal()
	}
	pieces, err := w.pieces(ctx, f.table, f.source)
	if err != nil {
		return "", err
	}
	if left != nil {
		if parts, ok := left.parts(f.table, c); ok && sameBounds(parts, pieces) {
			f.parts = parts
			return fmt.Sprintf("goes on with what an interrupted run has begun at %s; ", left.StartedAt.UTC().Format(shownTime)), nil
		}
		f.stale = left
	}
	taken, err := readNames(ctx, db, f.table, candidates(f.table, pieces))
	if err != nil {
		return "", err
	}
	s, used := situation{taken: taken}, map[string]bool{}
	for _, b := range pieces {
		part := Partition{Schema: f.table.Schema, Bounds: b, State: Attached, Kind: 'r', Owner: f.table.Owner}
		adopt := false
		if part.Name, adopt, err = s.pickName(f.table, b, used); err != nil {
			return "", err
		}
		if used[part.Name] = true; adopt {
			f.leftovers = append(f.leftovers, part)
		}
		f.parts = append(f.parts, part)
	}
	return "", nil
}

func sameBounds(parts []Partition, bounds []Bounds) bool {
	for i, p := range parts {
		if i >= len(bounds) || !p.Equal(bounds[i]) {
			return false
		}
	}
	return len(parts) == len(bounds)
}

// pieces cuts p's range at the starts of intervals within it. Where it has no end, the intervals of its first or last row end the cutting.
func (w *Worker) pieces(ctx context.Context, t Table, p Partition) ([]Bounds, error) {
	inner := p.Bounds
	limits := t.Key.Kind.limits()
	err := w.read(ctx, "look through "+p.String(), func(tx pgx.Tx) error {
		within := fromMicros(max(p.lower(), limits.lower()), min(p.upper(), limits.upper()))
		for _, end := range []struct {
			open     bool
			greatest bool
			to       *time.Time
		}{{p.FromMin, false, &inner.From}, {p.ToMax, true, &inner.To}} {
			if !end.open {
				continue
			}
			at, ok, err := firstKey(ctx, tx, t, p, within, end.greatest)
			if err != nil {
				return err
			}
			in := t.IntervalOf(at)
			switch {
			case !ok && p.FromMin && p.ToMax:
				return fault.New(fault.Refused, "", "partition split: %s has neither ends nor rows to go by", p)
			case !ok && end.greatest:
				*end.to = inner.From
			case !ok:
				*end.to = inner.To
			case end.greatest:
				*end.to = in.From.Add(time.Microsecond) // the last cut is where the last row's interval begins
			default:
				*end.to = in.From
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return cutAt(p.Bounds, inner.From, inner.To, t), nil
}

// cutAt cuts b at the starts of the table's intervals after from and before to.
func cutAt(b Bounds, from, to time.Time, t Table) (pieces []Bounds) {
	at := b.lower()
	for next := t.Interval.Next(from, t.keyZone()); next.Before(to) && len(pieces) <= maxFan; next = t.Interval.Next(next, t.keyZone()) {
		pieces = append(pieces, fromMicros(at, next.UnixMicro()))
		at = next.UnixMicro()
	}
	return append(pieces, fromMicros(at, b.upper()))
}

// ApplySplit carries a draft out, under the table's lock. It returns the pieces with the rows that they have got.
func (w *Worker) ApplySplit(ctx context.Context, d *SplitDraft, onDone func(plan.Result)) ([]Created, error) {
	ex := &splitting{w: w}
	_, err := plan.Apply(ctx, ex, d.Plan, onDone)
	return ex.made, err
}

type splitting struct {
	w    *Worker
	made []Created
}

// Execute does the one step.
func (x *splitting) Execute(ctx context.Context, group []plan.Step) error {
	f, ok := group[0].Op.(*fan)
	if !ok {
		return fault.New(fault.Internal, "", "step %s is not one of partition split", group[0].Name)
	}
	made, err := x.w.runFan(ctx, f)
	x.made = append(x.made, made...)
	return err
}

// AbortSplit takes back what an interrupted split of a partition has left, under the table's lock. It says whether there was anything.
func (w *Worker) AbortSplit(ctx context.Context, t Table, source Partition) (bool, error) {
	db := w.o.DB.Pool()
	left, err := FindCopy(ctx, db, CopySource{OID: source.OID})
	if err != nil || left == nil || left.Purpose != splitPurpose {
		return false, err
	}
	c, err := Load(ctx, db, t)
	if err != nil {
		return true, err
	}
	if d := c.Default(); d != nil && d.Kind == 'r' {
		if err := w.constrain(ctx, t, *d, "take the check off "+d.String(), d.togetherSQL()); err != nil {
			return true, err
		}
	}
	return true, w.AbortCopy(ctx, t, *left)
}
