package partitions

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/plan"
)

const (
	// ledgerPatience bounds one attempt at the integrity log's lock where only new or detached tables are locked, which nobody waits for.
	ledgerPatience = 10 * time.Second

	resetRoleSQL = `RESET ROLE`
	madeSQL      = `
SELECT c.relname::text, c.oid, coalesce((SELECT h.inhparent FROM pg_inherits h WHERE h.inhrelid = c.oid), 0), coalesce(pg_get_expr(c.relpartbound, 0), '')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = ANY ($2)`
)

// Created is a partition that was made, and how many rows it took from the default partition.
type Created struct {
	Partition
	Moved int64
}

// ApplyCreate carries a draft out, under the table's lock. It returns what was made also when an error comes back.
func (w *Worker) ApplyCreate(ctx context.Context, d *Draft, onDone func(plan.Result)) ([]Created, error) {
	ex := &creating{w: w, d: d}
	together, err := ex.apart(ctx)
	if err != nil {
		return nil, err
	}
	defer together()
	_, err = plan.Apply(ctx, ex, d.Plan, onDone)
	if d.resumes && err == nil {
		more, err := w.follow(ctx, d, onDone)
		return append(ex.made, more...), err
	}
	errs := []error{err}
	for _, r := range d.Refused {
		errs = append(errs, r.Err)
	}
	return ex.made, errors.Join(errs...)
}

// createFor is ApplyCreate where it is enough to know which ranges could not be made; an error is one that concerns all.
func (w *Worker) createFor(ctx context.Context, d *Draft) ([]Created, []Unmade, error) {
	ex := &creating{w: w, d: d}
	_, err := plan.Apply(ctx, ex, d.Plan, nil)
	if ex.stop == nil && ctx.Err() == nil {
		err = nil
	}
	return ex.made, append(ex.unmade, d.Refused...), err
}

// creating executes a draft's steps.
type creating struct {
	w      *Worker
	d      *Draft
	made   []Created
	stop   error // no other partition can be made either
	unmade []Unmade
}

// Separate says that err has to do with one partition, not with all, or with how many are made at once.
func (c *creating) Separate(err error) bool { return aboutOne(err) || tooMany(err) }

// tooMany says that the server's lock table was full: every new partition takes several locks until COMMIT.
func tooMany(err error) bool { return postgres.SQLState(err) == postgres.OutOfMemory }

// aboutOne tells what lies with a partition, such as a name or rows, from what would stop any other as well.
func aboutOne(err error) bool {
	switch fault.ClassOf(err) {
	case "":
	case fault.Refused, fault.Data:
		return true
	default:
		return false
	}
	switch state := postgres.SQLState(err); {
	case state == postgres.InsufficientPrivilege, len(state) < 2:
		return false
	default:
		return slices.Contains([]string{"0A", "22", "23", "2B", "42", "44", "P0"}, state[:2])
	}
}

// Execute makes the partitions of a group in one transaction.
func (c *creating) Execute(ctx context.Context, group []plan.Step) error {
	if c.stop != nil {
		return c.stop
	}
	err := c.execute(ctx, group)
	switch {
	case err == nil:
	case tooMany(err) && len(group) > 1:
	case !aboutOne(err):
		c.stop = err
	case len(group) == 1:
		switch op := group[0].Op.(type) {
		case createOp:
			c.unmade = append(c.unmade, Unmade{op.part.Bounds, err})
		case *fan:
			for _, p := range op.parts {
				c.unmade = append(c.unmade, Unmade{p.Bounds, err})
			}
		}
	}
	return err
}

func (c *creating) execute(ctx context.Context, group []plan.Step) error {
	if f, ok := group[0].Op.(*fan); ok {
		return c.fanOut(ctx, f)
	}
	ops := make([]createOp, len(group))
	sql := make([]string, len(group))
	for i, s := range group {
		op, ok := s.Op.(createOp)
		if !ok {
			return fault.New(fault.Internal, "", "step %s is not one of partition create", s.Name)
		}
		ops[i], sql[i] = op, s.SQL
	}
	what := "create partition " + group[0].Name
	if len(group) > 1 {
		what = fmt.Sprintf("create %d partitions from %s on", len(group), group[0].Name)
	}
	made, err := c.attempt(ctx, what, ops, strings.Join(sql, ";\n"))
	if postgres.SQLState(err) == postgres.CheckViolation && len(ops) == 1 && ops[0].rows == 0 && ops[0].drain != "" {
		made, err = c.attempt(ctx, what, ops, ops[0].drain) // rows have come in since the plan was made
	}
	if err != nil {
		return c.w.explain(c.d.Table, what, err)
	}
	c.made = append(c.made, made...)
	return nil
}

func (c *creating) attempt(ctx context.Context, what string, ops []createOp, sql string) (made []Created, err error) {
	o := postgres.DDLOptions{LockTimeout: c.w.o.LockTimeout, Wait: c.w.o.Wait, What: what, Before: c.w.stopVacuum(c.d.Catalog.Default())}
	err = c.w.o.DB.DDL(ctx, o, func(tx pgx.Tx) (err error) {
		made, err = c.make(ctx, tx, ops, sql)
		return err
	})
	return made, err
}

func (c *creating) make(ctx context.Context, tx pgx.Tx, ops []createOp, sql string) ([]Created, error) {
	results, err := tx.Conn().PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	made := make([]Created, len(ops))
	for i, op := range ops {
		made[i] = Created{Partition: op.part}
	}
	if len(ops) == 1 {
		for _, r := range results {
			if r.CommandTag.Insert() {
				made[0].Moved += r.CommandTag.RowsAffected()
			}
		}
	}
	if err := c.refuseMany(made[0]); err != nil {
		return nil, err
	}
	if err := checkMade(ctx, tx, c.d.Table, made); err != nil {
		return nil, err
	}
	return made, c.record(ctx, tx, made)
}

// refuseMany takes back a move of more rows than there were when it was planned and than are moved while everybody waits.
func (c *creating) refuseMany(m Created) error {
	most := c.d.options.DirectRows
	if most == 0 {
		most = DirectMoveRows
	}
	if m.Moved <= most {
		return nil
	}
	return fault.New(fault.Refused, "run it again", "partition %s: %d rows of it have come into the default partition meanwhile", m.Partition, m.Moved)
}

// checkMade makes sure that the names mean the partitions that were planned, and fills in their oids.
func checkMade(ctx context.Context, tx pgx.Tx, t Table, made []Created) error {
	names := make([]string, len(made))
	at := map[string]int{}
	for i, m := range made {
		names[i], at[m.Name] = m.Name, i
	}
	rows, err := tx.Query(ctx, madeSQL, t.Schema, names)
	if err != nil {
		return err
	}
	var name, expr string
	var oid, parent uint32
	right := 0
	if _, err := pgx.ForEachRow(rows, []any{&name, &oid, &parent, &expr}, func() error {
		b, isDefault, err := ParseBounds(expr, t.Key.Kind)
		i, ok := at[name]
		if err != nil || !ok || isDefault || parent != t.OID || !b.Equal(made[i].Bounds) {
			return fault.New(fault.Internal, "", "partition %s is not what was made: parent %d, bounds %s", displayName(t.Schema, name), parent, expr)
		}
		made[i].OID = oid
		right++
		return nil
	}); err != nil {
		return err
	}
	if right != len(made) {
		return fault.New(fault.Internal, "", "%d of %d new partitions of %s cannot be found", len(made)-right, len(made), t)
	}
	return nil
}

// record tells the ledger, as the role that connected, at the end of the transaction.
func (c *creating) record(ctx context.Context, tx pgx.Tx, made []Created) error {
	if c.w.o.Ledger == nil {
		return nil
	}
	var events []Event
	for _, m := range made {
		events = append(events, Event{Kind: EventAttached, Name: m.Name, Bounds: m.Bounds})
		if m.Moved > 0 {
			events = append(events, Event{Kind: EventMoved, Name: c.d.Catalog.Default().Name, Default: true, Rows: m.Moved, To: m.Name, ToBounds: m.Bounds})
		}
	}
	patience := ledgerPatience
	if c.d.Catalog.Default() != nil {
		patience = 0
	}
	return c.w.record(ctx, tx, c.d.Table, events, patience)
}

// record writes events as the last thing in tx. Where others wait for what tx has locked, patience is 0: the log's lock has to be had as
// quickly as a table's, or the attempt is given up and made again.
func (w *Worker) record(ctx context.Context, tx pgx.Tx, t Table, events []Event, patience time.Duration) error {
	if w.o.Ledger == nil {
		return nil
	}
	if _, err := tx.Exec(ctx, resetRoleSQL); err != nil {
		return err
	}
	if patience > 0 {
		if err := postgres.SetLockTimeout(ctx, tx, max(min(patience, postgres.Patience(ctx, w.o.Wait)), w.o.LockTimeout)); err != nil {
			return err
		}
	}
	return w.o.Ledger.Record(ctx, tx, t, events)
}

// explain adds what was being done, and for a missing right what to grant.
func (w *Worker) explain(t Table, what string, err error) error {
	var pg *pgconn.PgError
	if fault.ClassOf(err) == "" && errors.As(err, &pg) && pg.Code == postgres.InsufficientPrivilege {
		return fault.New(fault.Permission, missingGrant(t, pg.Message), "%s: %w", what, err)
	}
	if fault.ClassOf(err) != "" && strings.Contains(err.Error(), what) {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
}

// missingGrant says what to grant after the server has refused work on partitions of t with message. DDL runs as the table's owner, whose
// rights the server checks then.
func missingGrant(t Table, message string) string {
	owner := pgx.Identifier{t.Owner}.Sanitize()
	what, name, _ := strings.Cut(strings.TrimPrefix(message, "permission denied for "), " ")
	switch {
	case what == "schema" && name == "auditdb":
		return fmt.Sprintf("GRANT USAGE ON SCHEMA auditdb TO %s and to the user that connects", owner)
	case what == "schema":
		return fmt.Sprintf("the owner of %s needs rights: GRANT USAGE, CREATE ON SCHEMA %s TO %s", t, pgx.Identifier{name}.Sanitize(), owner)
	case what == "tablespace":
		return fmt.Sprintf("the owner of %s needs rights: GRANT CREATE ON TABLESPACE %s TO %s", t, pgx.Identifier{name}.Sanitize(), owner)
	case what == "function":
		return fmt.Sprintf("the owner of %s needs rights: GRANT EXECUTE ON FUNCTION auditdb.%s() TO %s", t, name, owner)
	case strings.Contains(message, "role") || strings.Contains(message, "owner"):
		return fmt.Sprintf("partitions belong to the owner of %s: GRANT %s TO the user that connects", t, owner)
	case what == "table":
		return fmt.Sprintf("the user that connects needs rights: GRANT SELECT, UPDATE, DELETE ON %s TO it, or GRANT %s TO it", pgx.Identifier{name}.Sanitize(), owner)
	}
	return fmt.Sprintf("the owner of %s needs rights: GRANT USAGE, CREATE ON SCHEMA %s TO %s", t, pgx.Identifier{t.Schema}.Sanitize(), owner)
}
