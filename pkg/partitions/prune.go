package partitions

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/pkg/plan"
)

// Action is what prune does with an expired partition.
type Action string

// The actions.
const (
	Drop   Action = "drop"   // the rows are gone
	Detach Action = "detach" // the rows stay in a table of their own
)

// Defaults of prune where neither a policy nor a flag says otherwise.
const (
	DefaultMinKeep = 1
	DefaultMaxDrop = 12

	// MaxClockSkew is how far the clocks of client and server may be apart for partitions to be pruned.
	MaxClockSkew = 5 * time.Second
)

// PruneOptions say which partitions may go. Nil and empty fields leave it to the table's policy.
type PruneOptions struct {
	OlderThan        *time.Time // key value: a policy for this run alone, which requires no archive
	Partition        string     // only this one, which must be allowed to go
	Action           Action
	DetachSchema     string // action Detach: the schema that detached partitions go to, quoted as in SQL; "": they stay where they are
	MinKeep, MaxDrop *int

	// Decide says, instead of policy, holds and archives, why a partition that has begun is kept, "" when it may go. It is asked when the
	// prune is planned, and again in the transactions that detach and drop. nil: the table's policy decides.
	Decide func(ctx context.Context, q Querier, p Partition) (Reason, error)
	// Recheck looks at a detached partition, which is locked and has so many rows, before it is dropped. Where it refuses (class refused)
	// the partition is attached again. nil: nobody looks.
	Recheck func(ctx context.Context, tx pgx.Tx, p Partition, rows int64) error
	// Vet looks at the partitions that are going to be dropped, under the table's lock and before anything is done, and says which of them have to
	// stay after all, by oid. nil: nobody looks.
	Vet func(ctx context.Context, goes []Partition) (map[uint32]Reason, error)
	// MaxClockSkew is how far the clocks of client and server may be apart. 0: the default, MaxClockSkew.
	MaxClockSkew time.Duration

	lenient bool // verifications that may not be read are taken for clean: nothing will be pruned
}

// PruneDraft is what a prune would do to one table.
type PruneDraft struct {
	Table   Table
	Catalog *Catalog
	Plan    plan.Plan
	Cutoff  *time.Time // key value; nil: no policy
	Action  Action
	Goes    []Partition // what is dropped or detached
	Kept    []Kept
	Pending []Partition // whose detach has not ended; that is done first
	Back    []Partition // what an interrupted prune has taken out of the table and has to stay: it is attached again
	user    string
	attic   string // where detached partitions go, unquoted; "": they stay
	options PruneOptions
}

// DraftPrune reads the table and plans which partitions to prune. It changes nothing, and refuses when the clocks disagree.
func (w *Worker) DraftPrune(ctx context.Context, t Table, o PruneOptions) (*PruneDraft, error) {
	if err := w.Check(ctx, t); err != nil {
		return nil, err
	}
	db := w.o.DB.Pool()
	if err := w.checkClock(ctx, db, cmp.Or(o.MaxClockSkew, MaxClockSkew)); err != nil {
		return nil, err
	}
	c, err := LoadSizes(ctx, db, t)
	if err != nil {
		return nil, err
	}
	rule, action, err := w.rule(ctx, db, t, o)
	if err != nil {
		return nil, err
	}
	now := t.KeyTime(w.o.Now())
	d := &PruneDraft{Table: t, Catalog: c, Action: action, options: o, Plan: plan.Plan{Action: "partition.prune " + t.String(), AsOf: w.o.Now(), KeepGoing: true}}
	if rule.Known {
		cutoff := rule.Cutoff
		d.Cutoff = &cutoff
	}
	if d.user, err = currentUser(ctx, db); err != nil {
		return nil, err
	}
	if d.attic, err = findSchema(ctx, db, o.DetachSchema, action); err != nil {
		return nil, err
	}
	if o.Partition != "" {
		rule.MaxDrop = 0
	}
	if err := rule.decide(ctx, db, o, append(slices.Clone(c.All()), c.Leftovers()...)); err != nil {
		return nil, err
	}
	if err := d.choose(c, rule, now, o.Partition); err != nil {
		return nil, err
	}
	if err := w.leaveOut(ctx, db, d, o.Partition); err != nil {
		return nil, err
	}
	sizes, err := w.ExactSizes(ctx, t, d.Goes)
	if err != nil {
		return nil, err
	}
	for i := range d.Goes {
		d.Goes[i].SizeBytes, d.Goes[i].SizeEstimated = sizes[d.Goes[i].OID], false
	}
	d.steps()
	return d, nil
}

// DraftFinalize reads the table and plans to end what detach is pending, and nothing else. It changes nothing.
func (w *Worker) DraftFinalize(ctx context.Context, t Table) (*PruneDraft, error) {
	db := w.o.DB.Pool()
	c, err := Load(ctx, db, t)
	if err != nil {
		return nil, err
	}
	d := &PruneDraft{Table: t, Catalog: c, Plan: plan.Plan{Action: "partition.finalize " + t.String(), AsOf: w.o.Now(), KeepGoing: true}}
	if d.user, err = currentUser(ctx, db); err != nil {
		return nil, err
	}
	d.finalize()
	return d, nil
}

func (w *Worker) checkClock(ctx context.Context, q Querier, most time.Duration) error {
	skew, err := ClockSkew(ctx, q, w.o.Now)
	if err != nil {
		return err
	}
	if skew.Abs() > most {
		return fault.New(fault.Refused, "set both clocks (NTP), then try again", "prune: the clocks of this machine and of the server are %s apart", skew.Abs().Round(time.Second/10))
	}
	return nil
}

// rule gathers what decides over the partitions of t.
func (w *Worker) rule(ctx context.Context, q Querier, t Table, o PruneOptions) (Rule, Action, error) {
	policy, err := LoadPolicy(ctx, q, t)
	if err != nil {
		return Rule{}, "", err
	}
	r := Rule{MinKeep: DefaultMinKeep, MaxDrop: DefaultMaxDrop}
	action := Drop
	if policy != nil {
		r.Known, r.Cutoff, r.ArchiveRequired = true, policy.Cutoff(t, w.o.Now()), policy.ArchiveRequired
		r.MinKeep, r.MaxDrop = policy.MinKeep, policy.MaxDrop
		if policy.Detach {
			action = Detach
		}
	}
	if o.OlderThan != nil {
		r.Known, r.Cutoff, r.ArchiveRequired = true, *o.OlderThan, false
	}
	if o.Action != "" {
		action = o.Action
	}
	if o.MinKeep != nil {
		r.MinKeep = *o.MinKeep
	}
	if o.MaxDrop != nil {
		r.MaxDrop = *o.MaxDrop
	}
	if r.Holds, err = LoadHolds(ctx, q, t); err != nil {
		return Rule{}, "", err
	}
	if r.Findings, err = LoadFindings(ctx, q, t); err != nil && (!o.lenient || fault.ClassOf(err) != fault.Permission) {
		return Rule{}, "", err
	}
	r.Archived, err = LoadArchived(ctx, q, t)
	return r, action, err
}

// decide asks PruneOptions.Decide about partitions.
func (r *Rule) decide(ctx context.Context, q Querier, o PruneOptions, parts []Partition) error {
	if o.Decide == nil {
		return nil
	}
	r.decided = map[uint32]Reason{}
	for _, p := range parts {
		reason, err := o.Decide(ctx, q, p)
		if err != nil {
			return fmt.Errorf("decide about partition %s: %w", p, err)
		}
		r.decided[p.OID] = reason
	}
	return nil
}

// choose divides the catalog into what goes and what is kept. What an interrupted prune has left goes first.
func (d *PruneDraft) choose(c *Catalog, rule Rule, now time.Time, named string) error {
	var parts, begun []Partition // begun: what an earlier prune has taken, or begun to take, out of the table
	for _, p := range append(slices.Clone(c.All()), c.Leftovers()...) {
		if p.mark == Drop && p.State != Attached {
			begun = append(begun, p)
		} else if p.State == Attached {
			parts = append(parts, p)
		}
	}
	if def := c.Default(); def != nil {
		parts = append(parts, *def)
	}
	slices.SortStableFunc(begun, func(a, b Partition) int { return compareBounds(a.Bounds, b.Bounds) })
	var goes []Partition
	var kept []Kept
	for _, p := range begun {
		switch reason := rule.reason(p, now); {
		case reason != "":
			kept, d.Back = append(kept, Kept{Partition: p, Reason: reason}), append(d.Back, p)
		case d.Action != Drop:
		case rule.MaxDrop > 0 && rule.taken >= rule.MaxDrop:
			kept, d.Back = append(kept, Kept{Partition: p, Reason: KeptMaxDrop}), append(d.Back, p)
		default:
			rule.taken++
			goes = append(goes, p)
		}
	}
	d.Goes, d.Kept = Expired(parts, rule, now)
	d.Goes, d.Kept = append(d.Goes, goes...), append(d.Kept, kept...)
	slices.SortStableFunc(d.Goes, func(a, b Partition) int { return compareBounds(a.Bounds, b.Bounds) })
	if named == "" {
		return nil
	}
	return d.only(named)
}

// vet asks PruneOptions.Vet about what would go.
func (d *PruneDraft) vet(ctx context.Context) error {
	if d.options.Vet == nil || d.Action != Drop || len(d.Goes) == 0 {
		return nil
	}
	reasons, err := d.options.Vet(ctx, d.Goes)
	if err != nil {
		return err
	}
	stays := func(p Partition) bool { return reasons[p.OID] != "" }
	for _, p := range d.Goes {
		if !stays(p) {
			continue
		}
		k := Kept{Partition: p, Reason: reasons[p.OID]}
		if d.options.Partition != "" {
			return refuseKept(k)
		}
		if d.Kept = append(d.Kept, k); p.State != Attached {
			d.Back = append(d.Back, p)
		}
	}
	if n := len(d.Goes); n > 0 {
		if d.Goes = slices.DeleteFunc(d.Goes, stays); len(d.Goes) < n {
			d.Plan.Steps, d.Pending = nil, nil
			d.steps()
		}
	}
	return nil
}

// only leaves nothing but the partition that the user named, and refuses when it has to be kept.
func (d *PruneDraft) only(named string) error {
	is := func(p Partition) bool { return named == p.Name || named == p.String() || named == p.Ident() }
	if i := slices.IndexFunc(d.Goes, is); i >= 0 {
		d.Goes, d.Kept, d.Back = []Partition{d.Goes[i]}, nil, nil
		return nil
	}
	i := slices.IndexFunc(d.Kept, func(k Kept) bool { return is(k.Partition) })
	if i < 0 && slices.ContainsFunc(d.Catalog.Leftovers(), is) {
		return fault.New(fault.Refused, "its rows are in a table of its own: drop that yourself", "partition %s is not pruned: it is detached already", named)
	}
	if i < 0 {
		return fault.New(fault.Usage, "auditdb partition list shows the partitions", "table %s has no partition %s", d.Table, named)
	}
	return refuseKept(d.Kept[i])
}

// refuseKept is the error for a partition that the user named and that has to be kept.
func refuseKept(k Kept) error {
	hint := ""
	if k.Reason == KeptNoPolicy || k.Reason == KeptNotExpired {
		hint = "say with --older-than from when on it may go"
	}
	if k.Reason == KeptFinding {
		hint = "auditdb verify-integrity shows what is wrong; once it finds the partition clean, this is lifted"
	}
	return fault.New(fault.Refused, hint, "partition %s is not pruned: %s", k.Partition, k.Reason)
}

// leaveOut takes away what cannot be pruned, with the reason.
func (w *Worker) leaveOut(ctx context.Context, q Querier, d *PruneDraft, named string) error {
	if len(d.Goes) == 0 {
		return nil
	}
	foreign, err := incomingKeys(ctx, q, d.Table)
	if err != nil {
		return err
	}
	if len(foreign) > 0 {
		return fault.New(fault.Refused, "drop the foreign key first, or prune the rows that refer to these", "prune %s: foreign key %s refers to the table", d.Table, foreign[0])
	}
	copies, err := Copies(ctx, q, d.Table)
	if err != nil {
		return err
	}
	copied := map[uint32]error{}
	for _, c := range copies {
		copied[c.Source.OID] = c.refusal()
	}
	if err := copied[d.Table.OID]; err != nil {
		return fmt.Errorf("prune %s: %w", d.Table, err)
	}
	users, err := dependents(ctx, q, d.Goes)
	if err != nil {
		return err
	}
	taken, err := namesIn(ctx, q, d.attic, d.Goes)
	if err != nil {
		return err
	}
	var left []error
	d.Goes = slices.DeleteFunc(d.Goes, func(p Partition) bool {
		reason := ""
		switch {
		case p.Kind == 'p':
			reason = "it is partitioned itself"
		case p.Kind == 'f':
			reason = "it is a foreign table"
		case copied[p.OID] != nil:
			reason = copied[p.OID].Error()
		case users[p.OID] != "" && d.Action == Drop:
			reason = users[p.OID] + " depends on it"
		case taken[p.Name] && p.Schema != d.attic:
			reason = "schema " + pgx.Identifier{d.attic}.Sanitize() + " has something of that name already"
		default:
			return false
		}
		d.Plan.Skipped = append(d.Plan.Skipped, plan.Skip{Name: p.String(), Reason: reason})
		left = append(left, fault.New(fault.Refused, "", "partition %s is not pruned: %s", p, reason))
		return true
	})
	if named != "" && len(left) > 0 {
		return left[0]
	}
	return nil
}
