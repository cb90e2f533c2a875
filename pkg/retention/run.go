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
	"auditdb/pkg/integrity"
	"auditdb/pkg/partitions"
	"auditdb/pkg/plan"
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
}

// Draft is what a run would do to a table.
type Draft struct {
	Table   partitions.Table
	Rules   Rules
	Create  *partitions.Draft
	Prune   *partitions.PruneDraft // nil: the table has no policy
	Decider *Decider
	Expire  []partitions.Partition // with rows past a rule for rows, that stay
}

// Plan reads a table and its rules and says what a run would do. It changes nothing.
func (r *Runner) Plan(ctx context.Context, t partitions.Table) (*Draft, error) {
	if t.ManagedID == nil {
		return nil, fault.New(fault.Config, "auditdb partition adopt --register registers it", "table %s is not managed by auditdb", t)
	}
	d := &Draft{Table: t}
	var err error
	if d.Create, err = r.Worker.DraftCreate(ctx, t, partitions.CreateOptions{Ahead: t.Ahead}); err != nil {
		return nil, err
	}
	return d, r.planPrune(ctx, d, nil)
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
	return r.refuseAll(d)
}

// expirable are the partitions that stay and have rows past a rule for rows.
func (d *Draft) expirable() (out []partitions.Partition) {
	for _, k := range d.Prune.Kept {
		if j, ok := d.Decider.Found[k.OID]; ok && len(j.Expired) > 0 && k.State == partitions.Attached && k.Reason != partitions.KeptFinding {
			out = append(out, k.Partition)
		}
	}
	return out
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

// Destructive says that the draft would remove rows.
func (d *Draft) Destructive() bool {
	return d.Prune != nil && (len(d.Prune.Goes) > 0 || len(d.Expire) > 0)
}

// Names are those of the partitions that would lose rows; never nil.
func (d *Draft) Names() []string {
	names := []string{}
	if d == nil || d.Prune == nil {
		return names
	}
	for _, p := range append(slices.Clone(d.Prune.Goes), d.Expire...) {
		names = append(names, p.String())
	}
	return names
}

// Plans are the statements of a draft.
func (d *Draft) Plans() (p plan.Plan) {
	p.Steps = append(p.Steps, d.Create.Plan.Steps...)
	p.Skipped = append(p.Skipped, d.Create.Plan.Skipped...)
	if d.Prune == nil {
		return p
	}
	p.AsOf = d.Prune.Plan.AsOf
	p.Steps = append(p.Steps, d.Prune.Plan.Steps...)
	p.Skipped = append(p.Skipped, d.Prune.Plan.Skipped...)
	for _, part := range d.Expire {
		p.Steps = append(p.Steps, plan.Step{
			Name: part.String(), SQL: "DELETE FROM ONLY " + part.Ident() + " WHERE …", Destructive: true,
			Reason: fmt.Sprintf("%d rows are past a rule for rows, in batches of %d; locks: ROW EXCLUSIVE", d.Decider.Found[part.OID].expiring(), expireBatch),
		})
	}
	return p
}

func (j Judgement) expiring() (n int64) {
	for _, i := range j.Expired {
		n += j.Groups[i].Rows
	}
	return n
}

// Steps describes a draft that was not carried out.
func (d *Draft) Steps() (out []Step) {
	for _, p := range d.Create.Plan.Steps {
		out = append(out, Step{Step: StepCreate, Partition: &p.Name, State: StatePlanned, Detail: p.Reason})
	}
	if d.Prune == nil {
		return append(out, Step{Step: StepPrune, State: StateSkipped, Reason: string(partitions.KeptNoPolicy), Detail: "the table has no policy, so nothing is pruned"})
	}
	for _, p := range d.Prune.Goes {
		j := d.Decider.Found[p.OID]
		out = append(out, Step{Step: StepPrune, Partition: &p.Name, Rows: &j.Rows, Bytes: &p.SizeBytes, State: StatePlanned, Rule: j.Rule, Detail: j.Detail})
	}
	for _, p := range d.Expire {
		j := d.Decider.Found[p.OID]
		n := j.expiring()
		out = append(out, Step{Step: StepExpire, Partition: &p.Name, Rows: &n, State: StatePlanned, Detail: "rows past a rule for rows, where no hold matches them"})
	}
	return append(out, d.kept()...)
}

// kept says for each partition that stays why.
func (d *Draft) kept() (out []Step) {
	for _, k := range d.Prune.Kept {
		j := d.Decider.Found[k.OID]
		s := Step{Step: StepPrune, Partition: &k.Name, State: StateKept, Reason: string(k.Reason), Rule: j.Rule, Detail: j.Detail}
		if k.Reason == partitions.KeptFinding {
			s.State, s.Detail = StateFinding, "its verification found something wrong: auditdb verify-integrity shows it"
		}
		if k.Reason == partitions.KeptMinKeep || k.Reason == partitions.KeptMaxDrop {
			s.Detail += "; kept by " + string(k.Reason)
		}
		out = append(out, s)
	}
	return out
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
	d := &Draft{Table: t}
	if err := r.planPrune(ctx, d, nil); err != nil || d.Prune == nil {
		if err == nil {
			res.add(Step{Step: StepPrune, State: StateSkipped, Reason: string(partitions.KeptNoPolicy), Detail: "the table has no policy, so nothing is pruned"})
		}
		return errors.Join(createErr, err)
	}
	if !d.Destructive() {
		res.Steps = append(res.Steps, d.kept()...)
		return errors.Join(createErr, d.findings())
	}
	if err := r.seal(ctx, d, res); err != nil {
		return errors.Join(createErr, err)
	}
	if r.timeUp(res) {
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

// findings is the error for partitions that were kept because something is wrong with them.
func (d *Draft) findings() error {
	n, first := 0, ""
	for _, k := range d.Prune.Kept {
		if k.Reason == partitions.KeptFinding {
			if n++; n == 1 {
				first = k.Name
			}
		}
	}
	if n == 0 {
		return nil
	}
	return fault.New(fault.Integrity, "auditdb verify-integrity --partition "+first, "retention of %s: %d partitions with integrity findings were kept, the first is %s", d.Table, n, first)
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

func (r *Runner) integrityOn(t partitions.Table) bool { return t.Integrity && r.Log != nil }

func (r *Runner) seal(ctx context.Context, d *Draft, res *Result) error {
	if !r.integrityOn(d.Table) {
		res.add(Step{Step: StepSeal, State: StateSkipped, Detail: "integrity is off, or no key is configured and nothing was ever logged"})
		return nil
	}
	t := d.Table
	sealed, err := r.Log.Seal(ctx, r.DB, &integrity.Table{ID: *t.ManagedID, OID: t.OID, Schema: t.Schema, Name: t.Name, KeyColumn: t.Key.Column}, r.Seal)
	if err == nil || sealed.SealedRows > 0 {
		res.add(Step{Step: StepSeal, Rows: &sealed.SealedRows, State: StateDone, Detail: fmt.Sprintf("%d records", sealed.Records)})
	}
	d.Decider.census = map[uint32][]Group{} // what was counted before is too old
	return err
}

func (r *Runner) expire(ctx context.Context, d *Draft, res *Result) error {
	e := &Expirer{DB: r.DB, Decider: d.Decider}
	if r.integrityOn(d.Table) {
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
