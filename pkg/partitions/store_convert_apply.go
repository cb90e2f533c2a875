package partitions

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/plan"
)

// Converted is what a convert has done.
type Converted struct {
	Table   Table      // the partitioned table; nothing where the run aborted or did not come to the swap
	History *Partition // nil: there is none
	Created []Created
	Locked  time.Duration // how long nobody could use the table
}

// ApplyConvert carries a draft out, under the table's lock. It returns what was done also when an error comes back.
func (w *Worker) ApplyConvert(ctx context.Context, d *ConvertDraft, onDone func(plan.Result)) (Converted, error) {
	x := &converting{w: w, d: d}
	if d.Converted {
		x.done.Table, x.done.History = d.Table, nil
		if d.History.Name != "" {
			x.done.History = &d.History
		}
		var err error
		x.done.Created, err = w.ApplyCreate(ctx, d.create, onDone)
		return x.done, err
	}
	steps := d.Plan
	steps.Steps = slices.DeleteFunc(slices.Clone(steps.Steps), func(s plan.Step) bool { return s.Op == opPartitions })
	if _, err := plan.Apply(ctx, x, steps, onDone); err != nil || d.options.Abort {
		return x.done, err
	}
	err := w.Locked(ctx, x.done.Table, func(ctx context.Context) error {
		create, err := w.DraftCreate(ctx, x.done.Table, CreateOptions{Ahead: d.options.Ahead})
		if err == nil {
			x.done.Created, err = w.ApplyCreate(ctx, create, onDone)
		}
		return err
	})
	return x.done, wrap(err, "%s is partitioned now, but some partitions are missing", d.Table)
}

// converting executes a draft's steps.
type converting struct {
	w    *Worker
	d    *ConvertDraft
	done Converted
}

// Execute does one step.
func (x *converting) Execute(ctx context.Context, group []plan.Step) error {
	step := group[0]
	what := "convert " + x.d.Table.String()
	var err error
	switch step.Op {
	case opDropIndex, opIndex:
		err = x.outside(ctx, what, step)
	case opCheck:
		err = x.ddl(ctx, what, func(tx pgx.Tx) error { return run(ctx, tx, step.SQL) })
	case opValidate:
		err = x.ddl(ctx, what, func(tx pgx.Tx) error { return run(ctx, tx, step.SQL) })
		if postgres.SQLState(err) == postgres.CheckViolation {
			err = fault.New(fault.Refused, "auditdb partition convert --abort takes the check away again", "%s: rows do not fit into the history partition any more", what)
		}
	case opSwap:
		err = x.swap(ctx, what, step.SQL)
	default:
		err = fault.New(fault.Internal, "", "step %s is not one of partition convert", step.Name)
	}
	if err != nil {
		return x.w.explain(x.d.Table, what, err)
	}
	return nil
}

func run(ctx context.Context, tx pgx.Tx, sql string) error {
	_, err := tx.Conn().PgConn().Exec(ctx, sql).ReadAll()
	return err
}

func (x *converting) ddl(ctx context.Context, what string, fn func(pgx.Tx) error) error {
	return x.w.o.DB.DDL(ctx, postgres.DDLOptions{LockTimeout: x.w.o.LockTimeout, Wait: x.w.o.Wait, Role: x.d.Table.Owner, What: what}, fn)
}

// outside runs a statement that cannot be in a transaction. It waits for transactions that began before it, no longer than Options.Wait; one
// that gives up leaves an invalid index, which the next run drops. The server may still be at work for a run that was killed, which ends in a
// deadlock of the two: then it is tried again.
func (x *converting) outside(ctx context.Context, what string, step plan.Step) error {
	conn, err := x.w.o.DB.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = conn.Close(end) // the server ends the session either way
	}()
	wait := max(x.w.o.Wait, x.w.o.LockTimeout, time.Millisecond)
	_, err = conn.Exec(ctx, fmt.Sprintf("SET lock_timeout = %d; SET ROLE %s", wait.Milliseconds(), pgx.Identifier{x.d.Table.Owner}.Sanitize()), pgx.QueryExecModeSimpleProtocol)
	if err == nil {
		_, err = conn.Exec(ctx, step.SQL)
		for deadline := x.w.o.Now().Add(wait); collided(err) && x.w.o.Now().Before(deadline) && ctx.Err() == nil; {
			err = x.again(ctx, conn, step)
		}
	}
	if !postgres.IsLockNotAvailable(err) {
		return err
	}
	by := "a session that has ended or could not be seen"
	if old, unseen := x.inTheWay(ctx); unseen == nil && len(old) > 0 {
		by = strings.Join(old[:min(len(old), 3)], "; ")
	}
	return fault.New(fault.Locked, "end or wait for that transaction, or allow more time with --wait", "%s: blocked by %s: %w", what, by, err)
}

// collided says that the server was changing the same things for somebody else: a deadlock, or "tuple concurrently updated", which has no
// SQLSTATE of its own and is never translated.
func collided(err error) bool {
	state := postgres.SQLState(err)
	return state == postgres.DeadlockDetected || state == postgres.InternalError && strings.Contains(err.Error(), "tuple concurrently ")
}

// again tries a statement once more after a collision. An index that was begun is unfinished then.
func (x *converting) again(ctx context.Context, conn *pgx.Conn, step plan.Step) error {
	if step.Op == opIndex {
		if _, err := conn.Exec(ctx, "DROP INDEX CONCURRENTLY IF EXISTS "+x.d.index); err != nil {
			return err
		}
	}
	_, err := conn.Exec(ctx, step.SQL)
	return err
}

// inTheWay describes the transactions that use the table or have an old snapshot.
func (x *converting) inTheWay(ctx context.Context) ([]string, error) {
	all, err := x.w.o.DB.Blockers(ctx, []uint32{x.d.Table.OID})
	if err != nil {
		return nil, err
	}
	more, err := oldSnapshots(ctx, x.w.o.DB.Pool())
	var out []string
	seen := map[int]bool{}
	for _, b := range append(all, more...) {
		if !seen[b.PID] && b.Age >= oldEnough {
			out = append(out, b.String())
		}
		seen[b.PID] = true
	}
	return out, err
}

// swap is the transaction that makes the table a partition of a new one. What it was planned from is read again under a lock that keeps
// everybody else from changing the table.
func (x *converting) swap(ctx context.Context, what, sql string) error {
	t := x.d.Table
	before, after, ok := strings.Cut(sql, exclusiveSQL(t)+";\n")
	if !ok {
		return fault.New(fault.Internal, "", "%s: the plan takes no lock", what)
	}
	var made Table
	var locked time.Time
	err := x.w.o.DB.DDL(ctx, postgres.DDLOptions{LockTimeout: x.w.o.LockTimeout, Wait: x.w.o.Wait, What: what}, func(tx pgx.Tx) error {
		if err := run(ctx, tx, become(t.Owner)+"; LOCK TABLE ONLY "+t.Ident()+" IN SHARE UPDATE EXCLUSIVE MODE; RESET ROLE"); err != nil {
			return err
		}
		dependencies, err := x.same(ctx, tx, what, sql)
		if err != nil {
			return err
		}
		if err := run(ctx, tx, before+exclusiveSQL(t)); err != nil {
			return err
		}
		locked = x.w.o.Now()
		if err := x.nothingNew(ctx, tx, what, dependencies); err != nil {
			return err
		}
		if err := run(ctx, tx, after+";\nRESET ROLE"); err != nil {
			return err
		}
		made, err = x.settle(ctx, tx)
		return err
	})
	if err != nil {
		return err
	}
	x.done.Locked = x.w.o.Now().Sub(locked)
	x.done.Table, x.done.History = made, &x.d.History
	return nil
}

// same makes sure that the swap would still be planned as it was, and counts what depends on the table.
func (x *converting) same(ctx context.Context, tx pgx.Tx, what, sql string) (dependencies int64, err error) {
	s, err := readShape(ctx, tx, x.d.Table)
	if err != nil {
		return 0, err
	}
	reasons := s.refuse(convertCheck, x.d.options.DropUnique)
	state, err := readConvertState(ctx, tx, s)
	if err != nil {
		return 0, err
	}
	ready := state.check != nil && state.check.Equal(x.d.History.Bounds) && state.validated && (s.primary() == nil || s.primary().hasKey || state.indexValid)
	if len(reasons) > 0 || !ready || swapSQL(s, x.d, state, namesFor(s)) != sql {
		return 0, fault.New(fault.Refused, "run it again", "%s: the table has been changed since the plan was made", what)
	}
	return s.dependencies, nil
}

// nothingNew makes sure, when nobody can add anything any more, that all that depends on the table is known.
func (x *converting) nothingNew(ctx context.Context, tx pgx.Tx, what string, dependencies int64) error {
	var now int64
	if err := tx.QueryRow(ctx, dependenciesSQL, x.d.Table.OID).Scan(&now); err != nil {
		return err
	}
	if now != dependencies {
		return fault.New(fault.Refused, "run it again", "%s: something new has come to depend on the table", what)
	}
	return nil
}

// settle looks at what the swap has made, registers it where that is wanted, and tells the ledger.
func (x *converting) settle(ctx context.Context, tx pgx.Tx) (Table, error) {
	d := x.d
	if d.options.Register != nil {
		if err := register(ctx, tx, d.Table, *d.options.Register); err != nil {
			return Table{}, err
		}
		if d.options.Register.Integrity {
			if err := run(ctx, tx, guardInPlaceSQL(d.Table)); err != nil {
				return Table{}, err
			}
		}
	}
	var oid uint32
	if err := tx.QueryRow(ctx, namedSQL, d.Table.Schema, d.Table.Name).Scan(&oid); err != nil {
		return Table{}, err
	}
	t, err := readTable(ctx, tx, oid)
	if err != nil {
		return Table{}, err
	}
	if !t.registered {
		t.Interval, t.Location, t.Ahead, t.Key.Kind = d.Table.Interval, d.Table.Location, d.Table.Ahead, d.Table.Key.Kind
	}
	c, err := Load(ctx, tx, t)
	if err != nil {
		return Table{}, err
	}
	if c.Len() != 1 || c.All()[0].OID != d.Table.OID || !c.All()[0].Equal(d.History.Bounds) {
		return Table{}, fault.New(fault.Internal, "", "%s is not what was made", t)
	}
	return t, x.w.record(ctx, tx, t, []Event{{Kind: EventAttached, Name: d.History.Name, Bounds: d.History.Bounds}}, 0)
}

// register writes the table's row of auditdb.managed_table.
func register(ctx context.Context, tx pgx.Tx, t Table, r Registration) error {
	_, err := tx.Exec(ctx, registerSQL, registrationArgs(t, r)...)
	return wrap(err, "register %s", t)
}
