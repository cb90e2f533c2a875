package retention

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/archive"
	"auditdb/pkg/integrity"
	"auditdb/pkg/partitions"
)

// The steps of a run, in their order.
const (
	StepCreate = "create"
	StepSeal   = "seal"
	StepVerify = "verify"
	StepPrune  = "prune"
	StepExpire = "expire"
)

// The states of a step.
const (
	StateDone    = "done"
	StatePlanned = "planned"
	StateKept    = "kept"
	StateSkipped = "skipped"
	StateFinding = "finding"
)

const loggedTableSQL = `SELECT EXISTS (SELECT FROM auditdb.leaf WHERE table_id = $1)`

// Step is what was done, or would be, to a table or one of its partitions.
type Step struct {
	Step      string  `json:"step"`
	Partition *string `json:"partition"` // null: about the table
	Rows      *int64  `json:"rows"`
	Bytes     *int64  `json:"bytes"`
	State     string  `json:"state"` // done, planned, kept, skipped or finding
	Reason    string  `json:"reason,omitempty"`
	Rule      string  `json:"rule,omitempty"` // the policy or hold that decided
	Detail    string  `json:"detail"`
}

// Why is the step's detail with the reason, where there is one.
func (s Step) Why() string {
	if s.Reason == "" {
		return s.Detail
	}
	return strings.TrimSuffix(s.Reason+": "+s.Detail, ": ")
}

// Runner carries out the retention of tables.
type Runner struct {
	DB             *postgres.DB
	Worker         *partitions.Worker
	Log            *integrity.Log // nil: no key is configured
	Seal           integrity.SealOptions
	Verify         integrity.VerifyOptions // its keys and how; tables and range are set by the run
	Now            func() time.Time
	Span           ParseSpan
	Stop           func() bool // time is up
	AllowRemoveAll bool
	Wait           time.Duration
	// CheckArchive reads the newest archive of a partition back, before the partition is dropped.
	CheckArchive func(ctx context.Context, t partitions.Table, p partitions.Partition) error
	// Archive copies a partition to the store, reads it back and records that; nil: no store is configured.
	Archive func(ctx context.Context, t partitions.Table, p partitions.Partition) (*archive.Made, error)
}

// Plan reads a table and its rules and says what a run would do. It changes nothing.
func (r *Runner) Plan(ctx context.Context, t partitions.Table) (*Draft, error) {
	if t.ManagedID == nil {
		return nil, fault.New(fault.Config, "auditdb partition adopt --register registers it", "table %s is not managed by auditdb", t)
	}
	if err := r.audit(ctx); err != nil {
		return nil, err
	}
	d := &Draft{Table: t}
	var err error
	if d.Create, err = r.Worker.DraftCreate(ctx, t, partitions.CreateOptions{Ahead: t.Ahead}); err != nil {
		return nil, err
	}
	return d, r.planPrune(ctx, d, nil)
}

// audit refuses to work by rules that are not what was logged.
func (r *Runner) audit(ctx context.Context) error {
	if r.Log == nil {
		return nil
	}
	return Audit(ctx, r.DB.Pool(), r.Log.Keys())
}

// planPrune decides about the partitions of a table. verified is what came of the verification of this run.
func (r *Runner) planPrune(ctx context.Context, d *Draft, recheck func(context.Context, pgx.Tx, partitions.Partition, int64) error) error {
	q := r.DB.Pool()
	var err error
	if d.Rules, err = LoadRules(ctx, q, *d.Table.ManagedID); err != nil {
		return err
	}
	if len(d.Rules.Policies) == 0 {
		return nil
	}
	for _, p := range d.Rules.Policies {
		if err := p.Check(d.Rules.Floors); err != nil {
			return err
		}
	}
	if d.Decider == nil {
		if d.Decider, err = NewDecider(ctx, q, d.Table, r.Now, r.Span, r.Stop); err != nil {
			return err
		}
	}
	o := partitions.PruneOptions{Decide: d.Decider.Decide, Recheck: recheck, Action: partitions.Drop}
	minKeep, maxDrop := partitions.DefaultMinKeep, partitions.DefaultMaxDrop
	if p := d.Rules.Table(); p != nil {
		o.Action, minKeep, maxDrop, o.MaxClockSkew = p.Action, p.MinKeep, p.MaxDrop, p.MaxClockSkew
	}
	o.MinKeep, o.MaxDrop = &minKeep, &maxDrop
	if d.Prune, err = r.Worker.DraftPrune(ctx, d.Table, o); err != nil {
		return err
	}
	d.Expire = d.expirable()
	d.Archive = nil
	leaving := len(d.Prune.Goes)
	for _, k := range d.Prune.Kept {
		due := k.Reason == partitions.KeptNotArchived
		if r.Archive == nil || d.Decider.Found[k.OID].Archive == "" || k.State != partitions.Attached || k.Kind != 'r' || due && leaving >= maxDrop {
			continue
		}
		d.Archive = append(d.Archive, k.Partition)
		if due {
			leaving++
		}
	}
	return r.refuseAll(d)
}

// refuseAll refuses to leave nothing behind.
func (r *Runner) refuseAll(d *Draft) error {
	stays := slices.ContainsFunc(d.Prune.Kept, func(k partitions.Kept) bool {
		return k.Reason != partitions.KeptFuture && k.Reason != partitions.KeptDefault
	})
	if len(d.Prune.Goes) == 0 || stays || r.AllowRemoveAll {
		return nil
	}
	return fault.New(fault.Refused, "look at the policies; --allow-remove-all does it", "retention of %s would remove every partition that has rows", d.Table)
}

// Result is what a run did to a table, also where it failed.
type Result struct {
	Steps      []Step
	Incomplete bool // time was up
}

// Run does what Plan says, under the table's own lock: it makes partitions ahead, seals, verifies what would lose rows, prunes, and expires
// single rows. allowed are the names of what was confirmed to lose rows; nil: anything may. Each step holds alone: what is done stays done
// when the run is killed, and the next run finds it in the catalog and the log.
func (r *Runner) Run(ctx context.Context, t partitions.Table, allowed []string) (res Result, err error) {
	if t.ManagedID == nil {
		return res, fault.New(fault.Config, "auditdb partition adopt --register registers it", "table %s is not managed by auditdb", t)
	}
	lock, err := r.DB.Lock(ctx, fmt.Sprintf("retention:%d", t.OID), r.Wait)
	if err != nil {
		return res, fmt.Errorf("retention of %s: %w", t, err)
	}
	defer lock.Release()
	ctx, stop := lock.Guard(ctx)
	defer stop()
	err = r.run(ctx, t, allowed, &res)
	return res, postgres.LockLost(ctx, err)
}

func (r *Runner) run(ctx context.Context, t partitions.Table, allowed []string, res *Result) error {
	createErr := r.create(ctx, t, res)
	if ctx.Err() != nil {
		return createErr
	}
	if r.timeUp(res) {
		return createErr
	}
	if err := r.audit(ctx); err != nil {
		return errors.Join(createErr, err)
	}
	d := &Draft{Table: t}
	var err error
	if d.Decider, err = NewDecider(ctx, r.DB.Pool(), t, r.Now, r.Span, r.Stop); err != nil {
		return errors.Join(createErr, err)
	}
	d.Decider.CheckArchive = r.CheckArchive
	if d.integrity, err = r.integrityOn(ctx, t); err != nil {
		return errors.Join(createErr, err)
	}
	if err := r.planPrune(ctx, d, nil); err != nil || d.Prune == nil {
		if err == nil {
			res.add(Step{Step: StepPrune, State: StateSkipped, Reason: string(partitions.KeptNoPolicy), Detail: "the table has no policy, so nothing is pruned"})
		}
		return errors.Join(createErr, err)
	}
	if err := r.bringBack(ctx, d, res); err != nil || d.Prune == nil {
		return errors.Join(createErr, err)
	}
	if len(d.Names())+len(d.Archive) == 0 {
		res.Steps = append(res.Steps, d.kept()...)
		return errors.Join(createErr, d.findings())
	}
	if err := r.seal(ctx, d, res); err != nil {
		return errors.Join(createErr, err)
	}
	if r.timeUp(res) {
		return createErr
	}
	createErr = errors.Join(createErr, r.archive(ctx, d, allowed, res))
	if ctx.Err() != nil || r.timeUp(res) {
		return createErr
	}
	size, err := r.verify(ctx, d, res)
	if err != nil {
		return errors.Join(createErr, err)
	}
	if r.timeUp(res) {
		return createErr
	}
	return errors.Join(createErr, r.remove(ctx, d, size, allowed, res))
}

// remove prunes and expires what the verification found right; the draft is made anew under the partition lock.
func (r *Runner) remove(ctx context.Context, d *Draft, logSize int64, allowed []string, res *Result) error {
	counted := d.Decider.census
	recheck := func(ctx context.Context, tx pgx.Tx, p partitions.Partition, rows int64) error {
		return r.recheck(ctx, tx, d, p, counted[p.OID], rows, logSize)
	}
	err := r.Worker.Locked(ctx, d.Table, func(ctx context.Context) error {
		d.Decider.asked = map[uint32]int{}
		if err := r.planPrune(ctx, d, recheck); err != nil {
			return err
		}
		if d.Prune == nil {
			return nil
		}
		if err := confirmed(d, allowed); err != nil {
			return err
		}
		done, err := r.Worker.ApplyPrune(ctx, d.Prune, nil)
		for _, p := range done {
			j := d.Decider.Found[p.OID]
			res.add(Step{Step: StepPrune, Partition: &p.Name, Rows: &p.Rows, Bytes: &p.SizeBytes, State: StateDone, Rule: j.Rule, Detail: string(p.Action) + "; " + j.Detail})
		}
		return err
	})
	if d.Prune != nil {
		res.Steps = append(res.Steps, d.kept()...)
		err = errors.Join(err, d.findings())
		res.Incomplete = res.Incomplete || slices.ContainsFunc(d.Prune.Kept, func(k partitions.Kept) bool { return k.Reason == partitions.KeptMaxDuration })
	}
	if ctx.Err() != nil || d.Prune == nil {
		return err
	}
	return errors.Join(err, r.expire(ctx, d, res))
}

func confirmed(d *Draft, allowed []string) error {
	if allowed == nil {
		return nil
	}
	for _, p := range append(slices.Clone(d.Prune.Goes), d.Expire...) {
		if !slices.Contains(allowed, p.String()) {
			return fault.New(fault.Refused, "run it again and look at the new plan", "retention of %s: rows of %s would go now, which was not confirmed", d.Table, p)
		}
	}
	return nil
}

func (r *Runner) timeUp(res *Result) bool {
	if r.Stop() {
		res.Incomplete = true
	}
	return res.Incomplete
}

func (res *Result) add(s Step) { res.Steps = append(res.Steps, s) }

func (r *Runner) create(ctx context.Context, t partitions.Table, res *Result) error {
	return r.Worker.Locked(ctx, t, func(ctx context.Context) error {
		d, err := r.Worker.DraftCreate(ctx, t, partitions.CreateOptions{Ahead: t.Ahead})
		if err != nil {
			return err
		}
		made, err := r.Worker.ApplyCreate(ctx, d, nil)
		for _, p := range made {
			res.add(Step{Step: StepCreate, Partition: &p.Name, State: StateDone, Detail: p.Text()})
		}
		return err
	})
}

// integrityOn goes by the log where it knows the table: what auditdb.managed_table says can be changed by more people.
func (r *Runner) integrityOn(ctx context.Context, t partitions.Table) (on bool, err error) {
	if r.Log == nil || t.Integrity || t.ManagedID == nil {
		return r.Log != nil && t.Integrity, nil
	}
	if err := r.DB.Pool().QueryRow(ctx, loggedTableSQL, *t.ManagedID).Scan(&on); err != nil {
		return false, fmt.Errorf("ask whether %s was ever logged: %w", t, err)
	}
	return on, nil
}

func (r *Runner) seal(ctx context.Context, d *Draft, res *Result) error {
	if !d.integrity {
		res.add(Step{Step: StepSeal, State: StateSkipped, Detail: "integrity is off, or no key is configured and nothing was ever logged"})
		return nil
	}
	t := d.Table
	sealed, err := r.Log.Seal(ctx, r.DB, &integrity.Table{ID: *t.ManagedID, OID: t.OID, Schema: t.Schema, Name: t.Name, KeyColumn: t.Key.Column}, r.Seal)
	if sealed.Records > 0 || sealed.SealedRows > 0 {
		res.add(Step{Step: StepSeal, Rows: &sealed.SealedRows, State: StateDone, Detail: fmt.Sprintf("%d records", sealed.Records)})
	}
	d.Decider.census = map[uint32][]Group{} // what was counted before is too old
	return err
}

func (r *Runner) expire(ctx context.Context, d *Draft, res *Result) error {
	e := &Expirer{DB: r.DB, Decider: d.Decider}
	if d.integrity {
		e.Log = r.Log
	}
	var failed error
	for _, p := range d.Expire {
		if d.Decider.verified != nil && !d.Decider.verified[p.OID] {
			res.add(Step{Step: StepExpire, Partition: &p.Name, State: StateSkipped, Reason: string(partitions.KeptFinding), Detail: "it was not verified, or has findings"})
			continue
		}
		done, err := e.Expire(ctx, p, d.Decider.Found[p.OID])
		s := Step{Step: StepExpire, Partition: &p.Name, Rows: &done.Rows, State: StateDone, Detail: fmt.Sprintf("%d batches", done.Batches)}
		if done.Vacuum {
			s.Detail += "; VACUUM is due: VACUUM (ANALYZE) " + p.Ident()
		}
		if done.Rows > 0 || err == nil {
			res.add(s)
		}
		res.Incomplete = res.Incomplete || done.TimeIsUp
		if failed = errors.Join(failed, err); ctx.Err() != nil || done.TimeIsUp {
			return failed
		}
	}
	return failed
}
