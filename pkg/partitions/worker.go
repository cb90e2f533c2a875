package partitions

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/plan"
)

// Options say how partition work is done.
type Options struct {
	DB          *postgres.DB
	Ledger      Ledger           // nil: keep no evidence
	Lock        LockFunc         // nil: the database's advisory lock alone
	Now         func() time.Time // the clock
	LockTimeout time.Duration    // one attempt at a table lock; 0: postgres.DefaultLockTimeout
	Wait        time.Duration    // waiting for other runs and all attempts at table locks together
	Log         *slog.Logger     // nil: no log
}

// Worker makes and removes partitions. It may be used by several goroutines.
type Worker struct{ o Options }

// NewWorker returns a worker.
func NewWorker(o Options) *Worker {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.LockTimeout <= 0 {
		o.LockTimeout = postgres.DefaultLockTimeout
	}
	w := &Worker{o: o}
	if w.o.Lock == nil {
		w.o.Lock = w.lockDatabase
	}
	return w
}

// LockName is the name of the lock that partition work on t takes.
func LockName(t Table) string { return fmt.Sprintf("partition:%d", t.OID) }

func (w *Worker) lockDatabase(ctx context.Context, t Table) (context.Context, func(), error) {
	lock, err := w.o.DB.Lock(ctx, LockName(t), w.o.Wait)
	if err != nil {
		return nil, nil, err
	}
	locked, stop := lock.Guard(ctx)
	return locked, func() { stop(); lock.Release() }, nil
}

// Locked runs fn under the table's lock, with a context that ends when the lock is lost. Waiting for the lock and for table locks within fn
// shares Options.Wait.
func (w *Worker) Locked(ctx context.Context, t Table, fn func(context.Context) error) error {
	locked, release, err := w.o.Lock(postgres.WithPatience(ctx, w.o.Wait), t)
	if err != nil {
		return fmt.Errorf("change partitions of %s: %w", t, err)
	}
	defer release()
	err = postgres.LockLost(locked, fn(locked))
	if errors.Is(err, postgres.ErrLockLost) {
		return fmt.Errorf("change partitions of %s: %w", t, err)
	}
	return err
}

// Check says whether changes of t's partitions would be refused for lack of evidence. It changes nothing.
func (w *Worker) Check(ctx context.Context, t Table) error {
	if w.o.Ledger == nil {
		return nil
	}
	return w.o.Ledger.Check(ctx, w.o.DB.Pool(), t)
}

// DraftCreate reads the table and plans which partitions to make. It changes nothing.
func (w *Worker) DraftCreate(ctx context.Context, t Table, o CreateOptions) (*Draft, error) {
	if t.Key.Kind == KeyDate && t.Interval.Hours() {
		return nil, fault.New(fault.Usage, "take --interval daily or longer", "table %s: dates have no hours", t)
	}
	if err := w.Check(ctx, t); err != nil {
		return nil, err
	}
	db := w.o.DB.Pool()
	c, err := Load(ctx, db, t)
	if err != nil {
		return nil, err
	}
	now := w.o.Now()
	spec := Spec{Interval: t.Interval, Zone: t.keyZone(), From: o.From, To: o.To, Ranges: o.Ranges, Ahead: o.Ahead, Behind: o.Behind, Limits: t.Key.Kind.limits()}
	policy, err := LoadPolicy(ctx, db, t)
	if err != nil {
		return nil, err
	}
	if policy != nil {
		spec.Retained = policy.Cutoff(t, now)
	}
	d := &Draft{Table: t, Catalog: c}
	missing, pruned, err := w.missing(ctx, t, c, spec, o.AllowPruned)
	if err != nil {
		return nil, err
	}
	d.Pruned = pruned
	for _, b := range spec.Windows(c, t.KeyTime(now)) {
		for _, p := range c.Overlaps(b) {
			if n := len(d.Existing); n == 0 || d.Existing[n-1].OID != p.OID {
				d.Existing = append(d.Existing, p)
			}
		}
	}
	if d.options, d.resumes = o, false; c.Default() != nil {
		if left, err := w.leftCopy(ctx, d); err != nil || d.resumes {
			return d, err
		} else if left != nil {
			o.stale = left
		}
	}
	s, err := w.situation(ctx, t, c, missing, o)
	if err != nil {
		return nil, err
	}
	d.Publications = s.publications
	d.Plan, d.creates, d.Refused = planCreate(t, missing, s, now)
	for _, p := range d.Pruned {
		d.Plan.Skipped = append(d.Plan.Skipped, plan.Skip{Name: t.String() + " " + p.Text(), Reason: p.Err.Error()})
	}
	for _, p := range d.Existing {
		if p.State == DetachPending {
			d.Plan.Skipped = append(d.Plan.Skipped, plan.Skip{Name: p.String(), Reason: "its detach has not ended: rows of its range cannot be inserted until partition prune has finalized it"})
		}
	}
	return d, nil
}

// missing leaves out what was pruned, which it looks for only where something is missing.
func (w *Worker) missing(ctx context.Context, t Table, c *Catalog, spec Spec, allowPruned bool) (missing []Bounds, pruned []Unmade, err error) {
	now := t.KeyTime(w.o.Now())
	missing, err = Missing(c, spec, now)
	if err != nil || len(missing) == 0 || allowPruned {
		return missing, nil, wrap(err, "table %s", t)
	}
	dropped, detached, err := LoadPruned(ctx, w.o.DB.Pool(), t, Bounds{From: missing[0].From, To: missing[len(missing)-1].To})
	if err != nil {
		return nil, nil, err
	}
	for _, p := range c.Leftovers() {
		detached = append(detached, p.Bounds)
	}
	spec.Pruned = append(append(spec.Pruned, dropped...), detached...)
	if len(spec.Pruned) == 0 {
		return missing, nil, nil
	}
	left, err := Missing(c, spec, now)
	for _, b := range missing {
		switch {
		case slices.ContainsFunc(dropped, b.Overlaps):
			pruned = append(pruned, Unmade{b, errDropped})
		case slices.ContainsFunc(detached, b.Overlaps):
			pruned = append(pruned, Unmade{b, errDetached})
		}
	}
	return left, pruned, wrap(err, "table %s", t)
}

// Why ranges are not made again.
var (
	errDropped  = errors.New("it was pruned; --allow-pruned-range brings it back")
	errDetached = errors.New("it was detached; --allow-pruned-range makes an empty partition for it")
)

// situation reads what the plan for missing ranges needs; nothing when there are none.
func (w *Worker) situation(ctx context.Context, t Table, c *Catalog, missing []Bounds, o CreateOptions) (s situation, err error) {
	if len(missing) == 0 {
		return s, nil
	}
	if err := otherKind(t, c); err != nil {
		return s, err
	}
	db := w.o.DB.Pool()
	s.byDefault = c.Default()
	copies, err := Copies(ctx, db, t)
	if err != nil {
		return s, err
	}
	for _, one := range copies {
		ofDefault := s.byDefault != nil && one.Source.OID == s.byDefault.OID
		if (one.Purpose != o.copyPurpose() && ofDefault) || one.Source.OID == t.OID {
			s.copying = one.refusal()
		}
	}
	if s.facts, err = readFacts(ctx, db, t, newestPlain(c), s.byDefault); err != nil {
		return s, err
	}
	if s.taken, err = readNames(ctx, db, t, candidates(t, missing)); err != nil {
		return s, err
	}
	if s.byDefault != nil && s.byDefault.Kind == 'r' {
		s.rows, err = countDefaultRows(ctx, db, t, *s.byDefault, missing)
	} else {
		s.rows = make([]int64, len(missing))
	}
	if s.direct, s.limit = o.DirectRows, o.MoveRowLimit; s.direct == 0 {
		s.direct = DirectMoveRows
	}
	if err == nil && slices.ContainsFunc(s.rows, s.fans) {
		s.fan, err = newFan(ctx, db, t, c, s.facts, o)
	}
	return s, err
}

// otherKind refuses to make plain partitions in a row of others: where the newest one is partitioned itself, or a foreign table, the next one is
// meant to be that too.
func otherKind(t Table, c *Catalog) error {
	all := c.All()
	for i := len(all) - 1; i >= 0; i-- {
		if p := all[i]; p.State == Attached {
			if reason, ok := p.Writable(); !ok {
				return fault.New(fault.Usage, "make it with SQL, as its siblings were made", "table %s: no plain partition is made beside the newest one, %s: %s", t, p, reason)
			}
			return nil
		}
	}
	return nil
}

func newestPlain(c *Catalog) *Partition {
	all := c.All()
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Kind == 'r' && all[i].State == Attached {
			return &all[i]
		}
	}
	return nil
}
