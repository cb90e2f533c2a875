package partitions

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/plan"
)

// Adopted is what an adoption has done.
type Adopted struct {
	Table     Table  // nothing where it was aborted or did not come so far
	Old       string // copy: the old table's name now, quoted where SQL needs it
	Rows      int64  // copied
	Converted *Converted
}

// ApplyAdopt carries a draft out, under the table's lock. ErrIncomplete says that AdoptOptions.Until came first. settle, for a table that is
// to become public.audit_log, makes auditdb's schema around it.
func (w *Worker) ApplyAdopt(ctx context.Context, d *AdoptDraft, settle func(context.Context) error, onDone func(plan.Result)) (Adopted, error) {
	x := &adopting{w: w, d: d, settle: settle}
	if d.Mode == AdoptInPlace && d.Convert != nil {
		return w.applyInPlace(ctx, d, onDone)
	}
	if _, err := plan.Apply(ctx, x, d.Plan, onDone); err != nil || d.options.Convert.Abort {
		return x.done, err
	}
	var err error
	x.done.Table, err = x.finish(ctx)
	return x.done, err
}

func (w *Worker) applyInPlace(ctx context.Context, d *AdoptDraft, onDone func(plan.Result)) (done Adopted, err error) {
	converted, err := w.ApplyConvert(ctx, d.Convert, onDone)
	done.Converted = &converted
	if err != nil || d.options.Convert.Abort {
		return done, err
	}
	x := &adopting{w: w, d: d}
	done.Table, err = x.finish(ctx)
	return done, err
}

// adopting executes a draft's steps.
type adopting struct {
	w      *Worker
	d      *AdoptDraft
	settle func(context.Context) error
	copy   *Copy
	done   Adopted
}

// Execute does one step.
func (x *adopting) Execute(ctx context.Context, group []plan.Step) error {
	d := x.d
	switch group[0].Op {
	case opAdoptMake:
		return x.begin(ctx)
	case opAdoptCopy:
		err := x.copy.Run(ctx)
		x.done.Rows = x.copy.Rows()
		return err
	case opAdoptSwap:
		err := x.copy.Swap(ctx, x.swap)
		if err == nil {
			x.done.Rows, x.done.Old = x.copy.Rows(), displayName(d.Table.Schema, d.Old)
		}
		return err
	case opAdoptRegister, opAdoptSettle: // finish does it
		return nil
	case opAdoptAbort:
		found, err := FindCopy(ctx, x.w.o.DB.Pool(), CopySource{OID: d.Table.OID, Schema: d.Table.Schema, Name: d.Table.Name, Owner: d.Table.Owner})
		if err != nil || found == nil {
			return err
		}
		return x.w.AbortCopy(ctx, d.Table, *found)
	}
	return fault.New(fault.Internal, "", "step %s is not one of partition adopt", group[0].Name)
}

func (x *adopting) begin(ctx context.Context) (err error) {
	d, c := x.d, x.d.copying
	x.copy, err = x.w.StartCopy(ctx, CopySpec{
		Purpose: adoptPurpose, Table: d.Table, Source: c.source, Target: c.target, Columns: c.columns, Meta: d.options.meta(d.Table), Until: d.options.Until, OnRows: d.options.OnRows,
		Make: func(ctx context.Context, tx pgx.Tx) error {
			for _, sql := range c.make {
				if err := run(ctx, tx, sql); err != nil {
					return err
				}
			}
			return nil
		},
	})
	return err
}

// swap puts the new table into its place; a table other than public.audit_log is registered at once.
func (x *adopting) swap(ctx context.Context, tx pgx.Tx) ([]Event, error) {
	d := x.d
	for _, sql := range d.copying.swap {
		if err := run(ctx, tx, sql); err != nil {
			return nil, err
		}
	}
	if !d.options.Settled {
		return nil, nil
	}
	if err := run(ctx, tx, adoptGuardsSQL(d.Table, d.copying.target.Owner)); err != nil {
		return nil, err
	}
	return nil, register(ctx, tx, d.Table, d.Row)
}

// adoptGuardsSQL gives a table what the first migration gives public.audit_log besides columns. It ends as the connected user.
func adoptGuardsSQL(t Table, owner string) string {
	return fmt.Sprintf(`RESET ROLE; %s;
%s;
GRANT INSERT, SELECT ON TABLE %[3]s TO auditdb_ingest;
GRANT SELECT ON TABLE %[3]s TO auditdb_reader;
RESET ROLE`, become(owner), guardsSQL(t), t.Ident())
}

// guardsSQL makes both guards of a table.
func guardsSQL(t Table) string {
	return createGuard(joinName(t.Schema, t.Name, guardRows), t.Ident(), guardRows) + ";\n" + createGuard(joinName(t.Schema, t.Name, guardTruncate), t.Ident(), guardTruncate)
}

// guardInPlaceSQL guards a table that keeps its owner, who makes the guards of partitions later and has to see their function. It ends as the
// connected user.
func guardInPlaceSQL(t Table) string {
	return fmt.Sprintf("RESET ROLE; GRANT USAGE ON SCHEMA auditdb TO %s; %s;\n%s;\nRESET ROLE", pgx.Identifier{t.Owner}.Sanitize(), become(t.Owner), guardsSQL(t))
}

// finish registers the table, and gives the partitions what they lack. It is safe to repeat.
func (x *adopting) finish(ctx context.Context) (Table, error) {
	d, w := x.d, x.w
	if x.settle != nil && !d.options.Settled {
		if err := x.settle(ctx); err != nil {
			return Table{}, err
		}
	}
	what := "adopt " + d.Table.String()
	r := d.Row
	err := w.o.DB.DDL(ctx, postgres.DDLOptions{LockTimeout: w.o.LockTimeout, Wait: w.o.Wait, What: what}, func(tx pgx.Tx) error {
		same, err := registeredAs(ctx, tx, d.Table, r)
		if err == nil && !same {
			err = register(ctx, tx, d.Table, r)
		}
		return err
	})
	if err != nil {
		return Table{}, w.explain(d.Table, what, err)
	}
	t, err := Resolve(ctx, w.o.DB, d.Table.Ident())
	if err != nil {
		return Table{}, err
	}
	missing, err := texts(ctx, w.o.DB.Pool(), settleSQL, t.OID, t.Integrity)
	for _, sql := range missing { // one lock at a time
		if err == nil {
			o := postgres.DDLOptions{LockTimeout: w.o.LockTimeout, Wait: w.o.Wait, Role: t.Owner, What: what}
			err = w.o.DB.DDL(ctx, o, func(tx pgx.Tx) error { return run(ctx, tx, sql) })
		}
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		err = w.explain(t, what, err)
	}
	return t, err
}
