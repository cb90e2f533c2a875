package partitions

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/plan"
)

const (
	copiedColumnsSQL = `SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum`
	leafRowsSQL      = `SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint FROM pg_partition_tree($1::oid::regclass) p JOIN pg_class c ON c.oid = p.relid WHERE p.isleaf`
	unregisterSQL    = `DELETE FROM auditdb.managed_table WHERE schema_name = $1 AND table_name = $2`
)

// DraftUndo plans how to take a partitioned table apart, from wherever an interrupted run has left it. It changes nothing.
func (w *Worker) DraftUndo(ctx context.Context, t Table, o UndoOptions) (*UndoDraft, error) {
	_, partitioned, err := ResolveAny(ctx, w.o.DB, t.Ident())
	if err != nil {
		return nil, err
	}
	if !partitioned {
		return nil, fault.New(fault.Usage, "", "undo %s: it is a plain table already", t)
	}
	if t, err = Resolve(ctx, w.o.DB, t.Ident()); err != nil {
		return nil, err
	}
	d := &UndoDraft{Table: t, options: o, Plan: plan.Plan{Action: "partition.undo " + t.String(), AsOf: w.o.Now()}, source: CopySource{OID: t.OID, Schema: t.Schema, Name: t.Name, Owner: t.Owner}}
	begun, err := FindCopy(ctx, w.o.DB.Pool(), d.source)
	if err != nil {
		return nil, err
	}
	if o.Abort {
		if begun != nil {
			d.Plan.Steps = append(d.Plan.Steps, plan.Step{Name: t.String(), SQL: "DROP TABLE " + begun.Target.Ident(), Reason: "left by an interrupted run, with what keeps it up to date", Op: opUndoAbort})
		}
		return d, nil
	}
	if err := w.Check(ctx, t); err != nil {
		return nil, err
	}
	others, err := Copies(ctx, w.o.DB.Pool(), t)
	if err != nil {
		return nil, err
	}
	for _, c := range others {
		if own := begun != nil && c.Source.OID == begun.Source.OID; !own || o.Mode != UndoCopy {
			return nil, fmt.Errorf("undo %s: %w", t, c.refusal())
		}
	}
	if o.Mode == UndoCopy {
		return d, w.draftUndoCopy(ctx, d, begun != nil)
	}
	incoming, err := incomingKeys(ctx, w.o.DB.Pool(), t)
	if err == nil && len(incoming) > 0 {
		err = fault.New(fault.Refused, "", "undo %s: foreign key %s refers to it", t, incoming[0])
	}
	if err != nil {
		return nil, err
	}
	c, err := Load(ctx, w.o.DB.Pool(), t)
	if err != nil {
		return nil, err
	}
	return d, d.planDetach(c)
}

func (w *Worker) draftUndoCopy(ctx context.Context, d *UndoDraft, begun bool) error {
	q, t := w.o.DB.Pool(), d.Table
	if t.ManagedID != nil && t.Integrity {
		return fault.New(fault.Refused, "--mode detach keeps the partitions as they are", "undo %s: it is registered with integrity on, and sealed rows have to stay where their seals say", t)
	}
	s, err := readShape(ctx, q, t)
	if err != nil {
		return err
	}
	if err := s.permission(); err != nil {
		return err
	}
	if reasons := s.refuseUndo(); len(reasons) > 0 {
		return fault.New(fault.Refused, "nothing was changed", "undo %s: %s", t, sqlList(reasons))
	}
	d.target, d.Old = CopyTarget{Schema: t.Schema, Name: undoPrefix + hash8(t.Schema, t.Name), Owner: t.Owner}, joinName(t.Schema, t.Name, "partitioned")
	columns, err := texts(ctx, q, copiedColumnsSQL, t.OID)
	if err != nil {
		return fmt.Errorf("read the columns of %s: %w", t, err)
	}
	for _, c := range columns {
		d.columns = append(d.columns, CopyColumn{Target: c})
	}
	if err := q.QueryRow(ctx, leafRowsSQL, t.OID).Scan(&d.Rows); err != nil {
		return fmt.Errorf("look at %s: %w", t, err)
	}
	wanted := []string{d.Old}
	for _, name := range s.named() {
		wanted = append(wanted, joinName(t.Schema, name, "partitioned"))
	}
	if !begun {
		wanted = append(wanted, d.target.Name)
	}
	taken, err := texts(ctx, q, inSchemaSQL, t.Schema, wanted)
	if err != nil {
		return fmt.Errorf("look for names in schema %s: %w", t.Schema, err)
	}
	if len(taken) > 0 {
		return fault.New(fault.Data, "rename the other object", "undo %s: the name %s belongs to another object", t, displayName(t.Schema, slices.Min(taken)))
	}
	d.planCopy(s)
	return nil
}

// Undone is what an undo has done.
type Undone struct {
	Detached []Partition
	Old      string // copy: the partitioned table's name now, quoted where SQL needs it
	Rows     int64  // copied
}

// ApplyUndo carries a draft out, under the table's lock. ErrIncomplete says that UndoOptions.Until came first.
func (w *Worker) ApplyUndo(ctx context.Context, d *UndoDraft, onDone func(plan.Result)) (Undone, error) {
	x := &undoing{w: w, d: d}
	_, err := plan.Apply(ctx, x, d.Plan, onDone)
	return x.done, err
}

// undoing executes a draft's steps.
type undoing struct {
	w    *Worker
	d    *UndoDraft
	copy *Copy
	done Undone
}

// Execute does one step.
func (x *undoing) Execute(ctx context.Context, group []plan.Step) (err error) {
	d, step := x.d, group[0]
	switch step.Op {
	case opUndoMark:
		err = x.ddl(ctx, func(tx pgx.Tx) error {
			if err := run(ctx, tx, step.SQL); err != nil {
				return err
			}
			var events []Event
			for _, p := range d.Detaches {
				events = append(events, Event{Kind: EventDetached, Name: p.Name, Bounds: p.Bounds, Default: p.Default})
			}
			return x.w.record(ctx, tx, d.Table, events, 0)
		})
	case opUndoDetach:
		if err = x.ddl(ctx, func(tx pgx.Tx) error { return run(ctx, tx, step.SQL) }); err == nil {
			x.done.Detached = d.Detaches
		}
	case opUndoMake:
		x.copy, err = x.w.StartCopy(ctx, CopySpec{
			Purpose: undoPurpose, Table: d.Table, Source: d.source, Target: d.target, Columns: d.columns, Until: d.options.Until, OnRows: d.options.OnRows,
			Make: func(ctx context.Context, tx pgx.Tx) error { return run(ctx, tx, d.make) },
		})
	case opUndoCopy:
		err = x.copy.Run(ctx)
		x.done.Rows = x.copy.Rows()
	case opUndoSwap:
		if err = x.copy.Swap(ctx, x.swap); err == nil {
			x.done.Rows, x.done.Old = x.copy.Rows(), displayName(d.Table.Schema, d.Old)
		}
	case opUndoAbort:
		var found *CopyState
		if found, err = FindCopy(ctx, x.w.o.DB.Pool(), d.source); err == nil && found != nil {
			err = x.w.AbortCopy(ctx, d.Table, *found)
		}
	default:
		err = fault.New(fault.Internal, "", "step %s is not one of partition undo", step.Name)
	}
	if err != nil {
		return x.w.explain(d.Table, "undo "+d.Table.String(), err)
	}
	return nil
}

// swap puts the plain table into the place of the partitioned one, which is not managed any more.
func (x *undoing) swap(ctx context.Context, tx pgx.Tx) ([]Event, error) {
	if err := run(ctx, tx, x.d.swap); err != nil || x.d.Table.ManagedID == nil {
		return nil, err
	}
	_, err := tx.Exec(ctx, unregisterSQL, x.d.Table.Schema, x.d.Table.Name)
	if postgres.SQLState(err) == "23503" {
		return nil, fault.New(fault.Refused, "auditdb retention policy remove", "undo %s: there are rules about it, which would have no table: %w", x.d.Table, err)
	}
	return nil, err
}

func (x *undoing) ddl(ctx context.Context, fn func(pgx.Tx) error) error {
	return x.w.o.DB.DDL(ctx, postgres.DDLOptions{LockTimeout: x.w.o.LockTimeout, Wait: x.w.o.Wait, Role: x.d.Table.Owner, What: "undo " + x.d.Table.String()}, fn)
}
