package partitions

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

const snapshotPoll = 20 * time.Millisecond

// Swap ends the copy in one short transaction: nobody can read or write the source then, the target has all of its rows, and fn puts the
// target into its place as the owner of the table. The events that fn returns go to the ledger. fn is called again when a table lock could
// not be had. After COMMIT nothing is left of the copy but what fn has made of source and target.
func (c *Copy) Swap(ctx context.Context, fn func(ctx context.Context, tx pgx.Tx) ([]Event, error)) error {
	for {
		err := c.ddl(ctx, "replace", func(tx pgx.Tx) error {
			if err := c.lock(ctx, tx); err != nil {
				return err
			}
			return c.exchange(ctx, tx, fn)
		})
		if !errors.Is(err, errMoved) {
			return err
		}
		if err := c.Run(ctx); err != nil {
			return err
		}
	}
}

// lock keeps everybody out: of the table first, then of the source, and what is below a partitioned source with it.
func (c *Copy) lock(ctx context.Context, tx pgx.Tx) error {
	if t := c.spec.Table; t.OID != 0 && t.OID != c.spec.Source.OID {
		if _, err := tx.Exec(ctx, "LOCK TABLE ONLY "+t.Ident()+" IN ACCESS EXCLUSIVE MODE"); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, "LOCK TABLE "+c.spec.Source.Ident()+" IN ACCESS EXCLUSIVE MODE")
	return err
}

// exchange is what happens while nobody can look.
func (c *Copy) exchange(ctx context.Context, tx pgx.Tx, fn func(ctx context.Context, tx pgx.Tx) ([]Event, error)) error {
	leaves, _, err := c.look(ctx, tx, true)
	if err != nil {
		return err
	}
	noted, err := c.head.noted(ctx, tx)
	if err != nil {
		return err
	}
	counts := maps.Clone(c.counts)
	for rel, n := range noted {
		if _, ok := leaves[rel]; ok {
			return fault.New(fault.Internal, "run it again", "%s: %d rows are not copied yet", c.what("replace"), n)
		}
		counts[rel] += n
	}
	c.moved = counts
	if _, err := tx.Conn().PgConn().Exec(ctx, c.head.endSQL(c.spec.Source)).ReadAll(); err != nil {
		return err
	}
	events, err := fn(ctx, tx)
	if err != nil || len(events) == 0 {
		return err
	}
	return c.w.record(ctx, tx, c.spec.Table, events, 0)
}

// Abort takes the copy back: the target is dropped, the source is as before.
func (c *Copy) Abort(ctx context.Context) error {
	return c.w.abort(ctx, c.spec.Table, c.spec.Source, c.head, c.role())
}

// AbortCopy takes back a copy that an interrupted run has left, under the table's lock. t is the table it belongs to.
func (w *Worker) AbortCopy(ctx context.Context, t Table, s CopyState) error {
	role := ""
	if s.Source.OID == 0 || s.Source.Owner == s.Target.Owner {
		role = s.Target.Owner
	}
	return w.abort(ctx, t, s.Source, s.head, role)
}

func (w *Worker) abort(ctx context.Context, t Table, source CopySource, h copyHead, role string) error {
	o := postgres.DDLOptions{LockTimeout: w.o.LockTimeout, Wait: w.o.Wait, Role: role, What: fmt.Sprintf("take back the copy of %s (partition %s)", source, h.Purpose)}
	err := w.o.DB.DDL(postgres.WithPatience(ctx, w.o.Wait), o, func(tx pgx.Tx) error {
		var target uint32
		if err := tx.QueryRow(ctx, relationOIDSQL, h.Target.Schema, h.Target.Name).Scan(&target); err != nil {
			return err
		}
		sql := h.endSQL(source)
		if target != 0 && target == h.TargetOID {
			sql += ";\nDROP TABLE " + h.Target.Ident()
		}
		_, err := tx.Conn().PgConn().Exec(ctx, sql).ReadAll()
		return err
	})
	return w.explainIf(t, o.What, err)
}

func (w *Worker) explainIf(t Table, what string, err error) error {
	if err == nil {
		return nil
	}
	return w.explain(t, what, err)
}

// awaitSnapshots waits until no snapshot is left that was taken before now, as long as Options.Wait; then the error, of class locked, names
// whose are.
func (w *Worker) awaitSnapshots(ctx context.Context, what string) error {
	old, err := w.oldSnapshots(ctx)
	if err == nil && len(old) > 0 {
		err = heldUp(what, old)
	}
	return err
}

func heldUp(what string, by []holder) error {
	texts := make([]string, 0, 3)
	for _, h := range by[:min(len(by), 3)] {
		texts = append(texts, h.String())
	}
	return fault.New(fault.Locked, "end or wait for that transaction, or allow more time with --wait; what was copied stays, and the next run goes on from there",
		"%s: a transaction that could not see the copied rows is still open: %s", what, strings.Join(texts, "; "))
}

// oldSnapshots waits for the snapshots that there are now to end, and returns the sessions whose have not. A snapshot counts as ended when its
// session has none, is in another transaction, or has a younger one.
func (w *Worker) oldSnapshots(ctx context.Context) ([]holder, error) {
	ctx = postgres.WithPatience(ctx, w.o.Wait)
	old, err := snapshotHolders(ctx, w.o.DB.Pool())
	for err == nil && len(old) > 0 && postgres.Patience(ctx, w.o.Wait) > 0 {
		timer := time.NewTimer(snapshotPoll)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("wait for old snapshots: %w", context.Cause(ctx))
		case <-timer.C:
		}
		var now []holder
		if now, err = snapshotHolders(ctx, w.o.DB.Pool()); err != nil {
			break
		}
		old = stillThere(old, now)
	}
	return old, err
}

func stillThere(old, now []holder) []holder {
	type identity struct {
		pid               int
		transaction, xmin string
	}
	there := make(map[identity]bool, len(now))
	for _, h := range now {
		there[identity{h.PID, h.transaction, h.xmin}] = true
	}
	kept := old[:0]
	for _, h := range old {
		if there[identity{h.PID, h.transaction, h.xmin}] {
			kept = append(kept, h)
		}
	}
	return kept
}
