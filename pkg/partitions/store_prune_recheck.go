package partitions

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
)

// recheckError says that a detached partition is not what it was when it was let go.
type recheckError struct{ err error }

// Error says what has changed.
func (e *recheckError) Error() string { return e.err.Error() }

// Unwrap gives the cause.
func (e *recheckError) Unwrap() error { return e.err }

// recheck asks PruneOptions.Recheck.
func (x *pruning) recheck(ctx context.Context, tx pgx.Tx, p Partition, rows int64) error {
	if x.d.options.Recheck == nil {
		return nil
	}
	return x.asConnected(ctx, tx, p, func() error {
		err := x.d.options.Recheck(ctx, tx, p, rows)
		if fault.ClassOf(err) == fault.Refused {
			return &recheckError{err}
		}
		return err
	})
}

// asConnected runs fn as the connected user, and becomes p's role again.
func (x *pruning) asConnected(ctx context.Context, tx pgx.Tx, p Partition, fn func() error) error {
	if _, err := tx.Exec(ctx, resetRoleSQL); err != nil {
		return err
	}
	if err := fn(); err != nil {
		return err
	}
	role := x.d.role(p)
	if role == "" {
		return nil
	}
	_, err := tx.Exec(ctx, "SET LOCAL ROLE "+pgx.Identifier{role}.Sanitize())
	return err
}

// AttachAgain brings a partition that an interrupted prune has detached, and that the draft keeps, back to the table, under the table's lock.
func (w *Worker) AttachAgain(ctx context.Context, d *PruneDraft, p Partition) error {
	return (&pruning{w: w, d: d}).attachAgain(ctx, p)
}

// attachAgain brings a detached partition, which must not be dropped, back to the table. The scan that ATTACH makes finds rows that do not
// belong there, and holds no lock that readers or writers of the table wait for unless there is a default partition.
func (x *pruning) attachAgain(ctx context.Context, p Partition) error {
	err := x.ddl(ctx, p, "attach", func(tx pgx.Tx) error {
		if err := x.same(ctx, tx, p, Detached); err != nil {
			return err
		}
		sql := "ALTER TABLE " + x.d.Table.Ident() + " ATTACH PARTITION " + p.Ident() + " " + x.d.Table.Key.ForValues(p.Bounds) + "; " + commentSQL(p, p.comment)
		if _, err := tx.Exec(ctx, sql); err != nil {
			return err
		}
		return x.w.record(ctx, tx, x.d.Table, []Event{{Kind: EventReturned, Name: p.Name, Bounds: p.Bounds}}, ledgerPatience)
	})
	if err != nil {
		return fmt.Errorf("attach %s again: %w", p, err)
	}
	return nil
}
