package indexes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/plan"
)

// Options say how indexes are changed.
type Options struct {
	DB          *postgres.DB
	LockTimeout time.Duration  // one attempt at a table lock; 0, or longer: 50 ms, since everybody else queues behind it
	Wait        time.Duration  // waiting for other runs, for a table lock, for old transactions: each no longer than this
	Told        func(Building) // hears how far a build has come, about once a second; nil: nobody
	Log         *slog.Logger   // nil: no log
}

// Building is how far the index of one table has come.
type Building struct {
	Table   string
	Index   string
	Phase   string // as pg_stat_progress_create_index has it
	Done    int64  // bytes of the table
	Total   int64
	Waiting string // for whom; "": for nobody
}

// Applier makes, rebuilds and drops indexes while tables are in use.
type Applier struct{ o Options }

const (
	shortLock    = 50 * time.Millisecond
	oldEnough    = time.Minute // of a transaction, to be warned of
	settleLimit  = 10 * time.Second
	maxDeadlocks = 5    // of one index: two builds on a table can wait for each other
	maxRounds    = 1000 // every round has found something new
)

// NewApplier returns an applier.
func NewApplier(o Options) *Applier {
	if o.LockTimeout <= 0 || o.LockTimeout > shortLock {
		o.LockTimeout = shortLock
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Told == nil {
		o.Told = func(Building) {}
	}
	return &Applier{o: o}
}

// Draft is what one recommendation leads to.
type Draft struct {
	Recommendation Recommendation
	Plan           plan.Plan
	Undo           []string // statements that take back what the plan does, for psql
	BuildBytes     int64    // of the indexes that are still to be built, estimated
	TableBytes     int64    // of the tables that are still to be read for that

	index string // the index that is there or will be, quoted and qualified
	table uint32
}

// Draft reads the recommendation's table and plans what is missing. It changes nothing: what the server makes of the definition is looked at
// in a transaction that is rolled back. An error has class usage where the table is missing or the definition is no index of it.
func (a *Applier) Draft(ctx context.Context, r Recommendation) (*Draft, error) {
	d := &Draft{Recommendation: r}
	what := fmt.Sprintf("%s index %s", r.Action, r.Definition.DisplayName())
	if r.Action == ActionAnalyze {
		what = "analyze " + r.Definition.TableName()
	}
	found := errors.New("rolled back")
	err := a.o.DB.DDL(ctx, postgres.DDLOptions{LockTimeout: a.o.LockTimeout, Wait: a.o.Wait, What: what}, func(tx pgx.Tx) error {
		*d = Draft{Recommendation: r}
		if err := a.draft(ctx, tx, d); err != nil {
			return err
		}
		return found // never commits
	})
	if !errors.Is(err, found) {
		if err != nil && !strings.Contains(err.Error(), what) {
			err = fmt.Errorf("%s: %w", what, err)
		}
		return nil, explainDefinition(err)
	}
	return d, nil
}

// explainDefinition gives the server's complaints about a definition their class.
func explainDefinition(err error) error {
	state := postgres.SQLState(err)
	if fault.ClassOf(err) == "" && state != postgres.InsufficientPrivilege && (strings.HasPrefix(state, "42") || strings.HasPrefix(state, "0A") || strings.HasPrefix(state, "22")) {
		return fault.New(fault.Usage, "the definition does not fit the table as it is now: analyze again", "%w", err)
	}
	return err
}

func (a *Applier) draft(ctx context.Context, tx pgx.Tx, d *Draft) (err error) {
	r := d.Recommendation
	var top uint32
	if d.table, top, err = findTable(ctx, tx, r.Definition.Schema, r.Definition.Table); err != nil {
		return err
	}
	if d.table == 0 || top == 0 {
		return fault.New(fault.Usage, "analyze again", "table %s does not exist", r.Definition.TableName())
	}
	want := r.Definition
	if r.Action == ActionCreate {
		if want, err = Canonical(ctx, tx, want); err != nil {
			return err
		}
		want.Name = r.Definition.IndexName()
	}
	s, err := readSituation(ctx, tx, d.table, want)
	if err != nil {
		return fmt.Errorf("read %s: %w", r.Definition.TableName(), err)
	}
	if len(s.nodes) == 0 {
		return fault.New(fault.Usage, "analyze again", "table %s does not exist", r.Definition.TableName())
	}
	if err := d.plan(s, want); err != nil {
		return err
	}
	return d.mayDo()
}

// plan fills the draft from the situation.
func (d *Draft) plan(s situation, want Definition) (err error) {
	r := d.Recommendation
	switch r.Action {
	case ActionCreate:
		var c *creation
		if c, err = planCreate(s, want, r.Definition.Name != ""); err != nil {
			return err
		}
		d.Plan.Steps, d.Plan.Skipped = c.steps, c.skips
		d.settle(c)
	case ActionDrop:
		d.Plan.Steps, d.Plan.Skipped, err = planDrop(s, r)
		d.Undo = []string{undoDrop(s, r.Definition)}
	case ActionReindex:
		d.Plan.Steps, d.Plan.Skipped, err = planReindex(s, r)
	case ActionAnalyze:
		n := s.root()
		op := operation{kind: opConcurrent, table: n, sql: []string{"ANALYZE " + n.ident()}}
		d.Plan.Steps = []plan.Step{op.step(n.String(), r.Reason+"; "+fmt.Sprintf(locksBuild, n))}
	default:
		err = fault.New(fault.Usage, "actions are create, drop, reindex and analyze", "%q is no action", r.Action)
	}
	if len(d.Plan.Steps) == 0 {
		d.Undo = nil
	}
	return err
}

// settle says what a creation is about: the name of its index, the way back, its size.
func (d *Draft) settle(c *creation) {
	d.index = c.want.Ident()
	if c.root != nil {
		d.index = c.root.Ident()
	}
	if name, ok := c.names[c.situation.root().OID]; ok {
		d.index = name
	}
	if !c.situation.root().partitioned() {
		for _, i := range c.indexes[c.situation.root().OID] {
			if i.Equal(c.want) && i.Valid {
				d.index = i.Ident()
			}
		}
		d.Undo = []string{"DROP INDEX CONCURRENTLY IF EXISTS " + d.index}
	} else {
		d.Undo = []string{"DROP INDEX IF EXISTS " + d.index}
	}
	if len(c.steps) == 0 && len(c.skips) == 0 {
		d.Plan.Skipped = append(d.Plan.Skipped, plan.Skip{Name: d.Recommendation.Index, Reason: "it is there, valid and complete: " + d.index})
	}
	var rows, all float64
	for _, n := range c.nodes {
		all += max(n.Rows, 0)
	}
	for _, step := range c.steps {
		if op, ok := step.Op.(operation); ok && op.made != "" {
			rows += max(op.table.Rows, 0)
			d.TableBytes += op.table.Bytes
		}
	}
	d.BuildBytes = int64(rows) * entryBytes
	if size := d.Recommendation.SizeBytes; size != nil && all > 0 {
		d.BuildBytes = int64(float64(*size) * rows / all)
	}
}

// undoDrop makes a dropped index again.
func undoDrop(s situation, d Definition) string {
	if s.root().partitioned() {
		return d.DDL()
	}
	return d.create(concurrently)
}

// mayDo refuses what the role has no right to, before anything is begun.
func (d *Draft) mayDo() error {
	for _, step := range d.Plan.Steps {
		op, _ := step.Op.(operation)
		n := op.table
		switch {
		case !n.Owned && !n.Member:
			return fault.New(fault.Permission, "GRANT "+quote(n.Owner)+" TO the role that connects", "%s: table %s belongs to %s, and only its owner may change its indexes", step.Name, n, n.Owner)
		case n.Owned && !n.MayCreate && op.made != "":
			return fault.New(fault.Permission, "GRANT CREATE ON SCHEMA "+quote(n.Schema)+" TO the role that connects", "%s: no right to create an index in schema %s", step.Name, n.Schema)
		}
	}
	return nil
}

// Warnings looks for what will make the work slow: transactions that are older than a minute.
func (a *Applier) Warnings(ctx context.Context) ([]string, error) {
	old, err := oldTransactions(ctx, a.o.DB.Pool(), oldEnough.Seconds())
	if err != nil {
		return nil, err
	}
	var warnings []string
	for _, b := range old {
		warnings = append(warnings, "an index that is built concurrently has to wait for "+b.String())
	}
	return warnings, nil
}

// Locked runs fn while no other run changes indexes of the recommendation's table.
func (a *Applier) Locked(ctx context.Context, r Recommendation, fn func(context.Context) error) error {
	_, top, err := findTable(ctx, a.o.DB.Pool(), r.Definition.Schema, r.Definition.Table)
	if err != nil {
		return fmt.Errorf("find table %s: %w", r.Definition.TableName(), err)
	}
	lock, err := a.o.DB.Lock(ctx, fmt.Sprintf("index:%d", top), a.o.Wait)
	if err != nil {
		return fmt.Errorf("change indexes of %s: %w", r.Definition.TableName(), err)
	}
	defer lock.Release()
	locked, stop := lock.Guard(ctx)
	defer stop()
	err = postgres.LockLost(locked, fn(locked))
	if errors.Is(err, postgres.ErrLockLost) {
		return fmt.Errorf("change indexes of %s: %w", r.Definition.TableName(), err)
	}
	return err
}

// Apply carries a draft out, under Locked. For an index to be made it looks again and again until nothing is missing: partitions may have
// come and gone meanwhile. What is done stays done when an error comes back, and a second run goes on from there.
func (a *Applier) Apply(ctx context.Context, d *Draft, onDone func(plan.Result)) error {
	analyzed, deadlocks := map[string]bool{}, 0
	p := d.Plan
	for range maxRounds {
		p.Steps = slices.DeleteFunc(slices.Clone(p.Steps), func(s plan.Step) bool { return analyzed[s.SQL] })
		if len(p.Steps) == 0 {
			return nil
		}
		done, err := plan.Apply(ctx, a, p, onDone)
		for _, r := range done {
			if op, ok := r.Step.Op.(operation); ok && strings.HasPrefix(op.sql[0], "ANALYZE ") {
				analyzed[r.Step.SQL] = true
			}
		}
		if postgres.SQLState(err) == postgres.DeadlockDetected && deadlocks < maxDeadlocks { // as beside what a killed run has left running
			deadlocks++
			err = errAgain
		}
		if d.Recommendation.Action != ActionCreate && !errors.Is(err, errAgain) {
			return err
		}
		if err != nil && (ctx.Err() != nil || fault.ClassOf(err) != "" && !errors.Is(err, errAgain)) {
			return err
		}
		again, draftErr := a.Draft(ctx, d.Recommendation)
		if draftErr != nil {
			return errors.Join(err, draftErr)
		}
		if err != nil && !errors.Is(err, errAgain) && again.tries(failedStep(err)) {
			return err
		}
		d.index, p = again.index, again.Plan
	}
	return fault.New(fault.Locked, "run it again", "%s: its partitions never stop changing", d.Recommendation.Index)
}

// errAgain says that the table has to be looked at again, since somebody else has finished a build.
var errAgain = errors.New("look again")

func failedStep(err error) string {
	var partial *plan.PartialError
	if errors.As(err, &partial) && len(partial.Failed) > 0 {
		return partial.Failed[0].Step.SQL
	}
	return ""
}

// tries says whether the plan still has a step: what failed was not a partition that has gone.
func (d *Draft) tries(sql string) bool {
	return slices.ContainsFunc(d.Plan.Steps, func(s plan.Step) bool { return s.SQL == sql })
}
