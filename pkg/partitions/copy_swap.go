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
)

const (
	snapshotPoll = 50 * time.Millisecond
	hurriedPoll  = 2 * time.Millisecond
)

// errOldSnapshot makes an attempt at the swap end like one that did not get a table lock.
var errOldSnapshot = fmt.Errorf("a transaction could not see all copied rows: %w", &pgconn.PgError{Code: postgres.LockNotAvailable, Message: "waiting for old snapshots"})

// Swap ends the copy in one short transaction: nobody can read or write the source then, the target has all of its rows, and fn puts the
// target into its place as the owner of the table. The events that fn returns go to the ledger. fn is called again when a table lock could
// not be had. After COMMIT nothing is left of the copy but what fn has made of source and target.
//
// A reader whose snapshot is older than a copied row would find it neither in the source, which is gone, nor in the target. So the last rows
// are committed while only writers wait, and only when no snapshot is older than that COMMIT are readers kept out too.
func (c *Copy) Swap(ctx context.Context, fn func(ctx context.Context, tx pgx.Tx) ([]Event, error)) error {
	for {
		err := c.swap(ctx, fn)
		if !errors.Is(err, errMoved) {
			return c.explain(err)
		}
		if err := c.Run(ctx); err != nil {
			return err
		}
	}
}

func (c *Copy) swap(ctx context.Context, fn func(ctx context.Context, tx pgx.Tx) ([]Event, error)) error {
	ctx = postgres.WithPatience(ctx, c.w.o.Wait)
	o := postgres.DDLOptions{LockTimeout: c.w.o.LockTimeout, Wait: c.w.o.Wait, Role: c.role(), What: c.what("replace")}
	var old []holder
	err := c.w.o.DB.DDL(ctx, o, func(tx pgx.Tx) error {
		defer func() { c.locked = false }()
		old = nil
		// Not only for the wait that follows: until its next statement the transaction keeps the snapshot of its last query.
		if _, err := tx.Exec(ctx, "SET LOCAL idle_in_transaction_session_timeout = 0"); err != nil {
			return err
		}
		if err := c.catchUp(ctx, tx.Conn().PgConn().PID()); err != nil {
			return err
		}
		if err := c.lock(ctx, tx, "SHARE ROW EXCLUSIVE"); err != nil {
			return err
		}
		c.locked = true
		hurried := postgres.WithPatience(ctx, c.w.o.LockTimeout)
		if err := c.last(ctx, tx); err != nil {
			return err
		}
		var err error
		if old, err = c.w.oldSnapshots(hurried, c.w.o.LockTimeout, hurriedPoll, tx.Conn().PgConn().PID()); err != nil {
			return err
		}
		if len(old) > 0 {
			return errOldSnapshot
		}
		if err := postgres.SetLockTimeout(ctx, tx, max(postgres.Patience(hurried, c.w.o.LockTimeout), 10*time.Millisecond)); err != nil {
			return err
		}
		if err := c.lock(ctx, tx, "ACCESS EXCLUSIVE"); err != nil {
			return err
		}
		return c.exchange(ctx, tx, fn)
	})
	if fault.ClassOf(err) == fault.Locked && errors.Is(err, errOldSnapshot) && len(old) > 0 {
		return heldUp(c.what("replace"), old)
	}
	return err
}

// catchUp brings the target so near to the source that little is left for the time in which writers wait, and then waits for old snapshots.
func (c *Copy) catchUp(ctx context.Context, own uint32) error {
	for {
		n, err := c.flush(ctx, flushRows)
		if err != nil {
			return err
		}
		if n < fewRows/10 {
			break
		}
	}
	return c.w.awaitSnapshots(ctx, c.what("replace"), own)
}

// lock takes the table first, then the source; what is below a partitioned source comes with it.
func (c *Copy) lock(ctx context.Context, tx pgx.Tx, mode string) error {
	if t := c.spec.Table; t.OID != 0 && t.OID != c.spec.Source.OID {
		if _, err := tx.Exec(ctx, "LOCK TABLE ONLY "+t.Ident()+" IN "+mode+" MODE"); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, "LOCK TABLE "+c.spec.Source.Ident()+" IN "+mode+" MODE")
	return err
}

// last copies what is left, on a connection of its own, and makes sure by tx, which keeps writers out, that nothing is.
func (c *Copy) last(ctx context.Context, tx pgx.Tx) error {
	for {
		n, err := c.flush(ctx, flushRows)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
	}
	if _, _, err := c.look(ctx, tx); err != nil {
		return err
	}
	var left bool
	if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+c.head.names().delta()+")").Scan(&left); err != nil {
		return err
	}
	if left {
		return fault.New(fault.Internal, "run it again", "%s: rows came in although writers were locked out", c.spec.Source)
	}
	return nil
}

// exchange is what happens while nobody can look.
func (c *Copy) exchange(ctx context.Context, tx pgx.Tx, fn func(ctx context.Context, tx pgx.Tx) ([]Event, error)) error {
	if err := postgres.SetLockTimeout(ctx, tx, c.w.o.LockTimeout); err != nil {
		return err
	}
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
func (w *Worker) awaitSnapshots(ctx context.Context, what string, except ...uint32) error {
	old, err := w.oldSnapshots(ctx, w.o.Wait, snapshotPoll, except...)
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
// session has none, is in another transaction, or has a younger one. Those of sessions except (pids) read nothing that matters.
func (w *Worker) oldSnapshots(ctx context.Context, wait time.Duration, poll time.Duration, except ...uint32) ([]holder, error) {
	ctx = postgres.WithPatience(ctx, postgres.Patience(ctx, wait))
	old, err := snapshotHolders(ctx, w.o.DB.Pool())
	old = slices.DeleteFunc(old, func(h holder) bool { return slices.Contains(except, uint32(h.PID)) }) //nolint:gosec // a pid is positive
	for err == nil && len(old) > 0 && postgres.Patience(ctx, wait) > 0 {
		timer := time.NewTimer(poll)
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
