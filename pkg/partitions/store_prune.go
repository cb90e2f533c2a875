package partitions

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/plan"
)

const (
	userSQL     = `SELECT current_user::text`
	incomingSQL = `
SELECT quote_ident(k.conname) || ' of ' || k.conrelid::regclass FROM pg_constraint k WHERE k.confrelid = $1 AND k.contype = 'f' AND k.conparentid = 0 ORDER BY 1`
	dependentsSQL = `
SELECT d.refobjid, min(CASE WHEN v.relkind = 'm' THEN 'materialized view ' ELSE 'view ' END || v.oid::regclass)
FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class v ON v.oid = r.ev_class
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY ($1) AND r.ev_class <> d.refobjid GROUP BY 1
UNION ALL
SELECT k.confrelid, min('foreign key ' || quote_ident(k.conname) || ' of ' || k.conrelid::regclass)
FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid = ANY ($1) AND k.conparentid = 0 GROUP BY 1`
	stateSQL = `
SELECT n.nspname, c.relname::text, c.relispartition, coalesce((SELECT h.inhdetachpending FROM pg_inherits h WHERE h.inhrelid = c.oid), false),
  coalesce((SELECT h.inhparent FROM pg_inherits h WHERE h.inhrelid = c.oid), $2), coalesce(pg_get_expr(c.relpartbound, 0), ''), coalesce(obj_description(c.oid, 'pg_class'), '')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1`

	snapshotsSQL = `
SELECT pid, coalesce(application_name, ''), coalesce(usename::text, ''), coalesce(host(client_addr), ''), coalesce(backend_type, ''), coalesce(state, ''), xact_start,
  extract(epoch FROM clock_timestamp() - xact_start)::float8, coalesce(query, '')
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_xmin IS NOT NULL AND xact_start IS NOT NULL AND query NOT ILIKE 'vacuum%'
ORDER BY xact_start`

	// oldEnough leaves out short transactions, of which a busy table always has some.
	oldEnough = 500 * time.Millisecond
	lookAgain = 250 * time.Millisecond
	// countLimit is the size up to which rows are counted for a dry run.
	countLimit = 256 << 20
)

func currentUser(ctx context.Context, q Querier) (user string, err error) {
	err = q.QueryRow(ctx, userSQL).Scan(&user)
	return user, wrap(err, "ask who is connected")
}

func incomingKeys(ctx context.Context, q Querier, t Table) ([]string, error) {
	keys, err := texts(ctx, q, incomingSQL, t.OID)
	return keys, wrap(err, "look for foreign keys on %s", t)
}

// dependents says what would keep a partition from being dropped, by oid.
func dependents(ctx context.Context, q Querier, parts []Partition) (map[uint32]string, error) {
	oids := make([]uint32, len(parts))
	for i, p := range parts {
		oids[i] = p.OID
	}
	rows, err := q.Query(ctx, dependentsSQL, oids)
	if err != nil {
		return nil, fmt.Errorf("look for what depends on partitions: %w", err)
	}
	found := map[uint32]string{}
	var oid uint32
	var what string
	_, err = pgx.ForEachRow(rows, []any{&oid, &what}, func() error { found[oid] = what; return nil })
	return found, wrap(err, "look for what depends on partitions")
}

// CountRows returns how many rows a partition has: counted where it is small, else as ANALYZE last saw it; -1 when that is not known.
func (w *Worker) CountRows(ctx context.Context, p Partition) (rows int64, err error) {
	if p.SizeBytes > countLimit {
		return p.RowsEstimate, nil
	}
	err = w.read(ctx, "count rows of "+p.String(), func(tx pgx.Tx) error {
		rows, err = count(ctx, tx, p)
		return err
	})
	return rows, err
}

func count(ctx context.Context, q Querier, p Partition) (rows int64, err error) {
	err = q.QueryRow(ctx, "SELECT count(*) FROM ONLY "+p.Ident()).Scan(&rows)
	return rows, wrap(err, "count rows of %s", p)
}

// Pruned is a partition that was dropped or detached.
type Pruned struct {
	Partition
	Action Action
	Rows   int64 // -1: not counted
}

// ApplyPrune carries a draft out, under the table's lock. It returns what was pruned also when an error comes back. What the rules keep by
// the time of its turn stays, and goes to the draft's Kept.
func (w *Worker) ApplyPrune(ctx context.Context, d *PruneDraft, onDone func(plan.Result)) ([]Pruned, error) {
	if err := d.vet(ctx); err != nil {
		return nil, err
	}
	ex := &pruning{w: w, d: d}
	_, err := plan.Apply(ctx, ex, d.Plan, onDone)
	return ex.done, err
}

// keptError ends the work on a partition that has to stay, as the rules are by now.
type keptError struct{ reason Reason }

// Error names the reason.
func (e *keptError) Error() string { return "it has to be kept: " + string(e.reason) }

// allowed reads the rules anew, as the connected user: between plan and deed there may be minutes, in which a hold may have come.
func (x *pruning) allowed(ctx context.Context, tx pgx.Tx, p Partition) error {
	if _, err := tx.Exec(ctx, resetRoleSQL); err != nil {
		return err
	}
	rule, _, err := x.w.rule(ctx, tx, x.d.Table, x.d.options)
	if err != nil {
		return err
	}
	if err := rule.decide(ctx, tx, x.d.options, []Partition{p}); err != nil {
		return err
	}
	if reason := rule.reason(p, x.d.Table.KeyTime(x.w.o.Now())); reason != "" {
		return &keptError{reason}
	}
	return nil
}

// keep notes a partition that the draft let go and the rules keep by now, and takes the mark of an interrupted run off it. One that the
// user named is refused.
func (x *pruning) keep(ctx context.Context, p Partition, reason Reason) error {
	x.w.o.Log.LogAttrs(ctx, slog.LevelWarn, "partition kept after all", slog.String("partition", p.String()), slog.String("reason", string(reason)))
	x.d.Kept = append(x.d.Kept, Kept{Partition: p, Reason: reason})
	if p.mark != "" && p.State == Attached {
		if err := x.undoMark(ctx, p); err != nil {
			return err
		}
	}
	if x.d.options.Partition != "" {
		return refuseKept(Kept{Partition: p, Reason: reason})
	}
	return nil
}

// pruning executes a draft's steps.
type pruning struct {
	w     *Worker
	d     *PruneDraft
	until time.Time // of the wait for one statement
	done  []Pruned
}

// Execute does all steps of one partition.
func (x *pruning) Execute(ctx context.Context, group []plan.Step) error {
	for _, s := range group {
		op, ok := s.Op.(pruneOp)
		if !ok {
			return fault.New(fault.Internal, "", "step %s is not one of partition prune", s.Name)
		}
		var what string
		var err error
		switch op.kind {
		case opFinalize:
			what, err = "finalize the detach of ", x.finalize(ctx, op.part)
		case opUnmark:
			what, err = "unmark ", x.comment(ctx, op.part, op.part.comment, nil, nil)
		case opDetach, opDetachConcurrently:
			what, err = "detach ", x.detach(ctx, op)
		case opMove:
			what, err = "move to schema "+op.part.attic+" the table ", x.move(ctx, op.part)
		case opAttach:
			what, err = "attach ", x.attachAgain(ctx, op.part)
		case opDrop:
			what, err = "drop ", x.drop(ctx, op.part)
			var changed *recheckError
			if kept := (*keptError)(nil); errors.As(err, &changed) || errors.As(err, &kept) {
				if back := x.attachAgain(ctx, op.part); back != nil {
					err = errors.Join(fmt.Errorf("it is detached: %w", back), err)
					return x.w.explain(x.d.Table, what+op.part.String(), err)
				}
			}
		}
		var kept *keptError
		if errors.As(err, &kept) {
			return x.keep(ctx, op.part, kept.reason)
		}
		if err != nil {
			return x.w.explain(x.d.Table, what+op.part.String(), err)
		}
	}
	return nil
}

func (x *pruning) ddl(ctx context.Context, p Partition, what string, fn func(pgx.Tx) error) error {
	o := postgres.DDLOptions{LockTimeout: x.w.o.LockTimeout, Wait: x.w.o.Wait, Role: x.d.role(p), What: what + " " + p.String(), Before: x.w.stopVacuum(&p, x.d.Catalog.Default())}
	return x.w.o.DB.DDL(ctx, o, fn)
}

// comment sets the comment of p and records events, in one transaction, if check (nil: none) allows it. p must still be what was planned.
func (x *pruning) comment(ctx context.Context, p Partition, text string, events []Event, check func(context.Context, pgx.Tx, Partition) error) error {
	return x.ddl(ctx, p, "mark", func(tx pgx.Tx) error {
		if err := x.same(ctx, tx, p, p.State); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, commentSQL(p, text)); err != nil {
			return err
		}
		if check != nil {
			if err := check(ctx, tx, p); err != nil {
				return err
			}
		}
		return x.w.record(ctx, tx, x.d.Table, events, ledgerPatience)
	})
}

// detach takes p out of the table: first the intent is committed, so that whatever happens afterwards is explained.
func (x *pruning) detach(ctx context.Context, op pruneOp) error {
	p := op.part
	x.until = x.w.o.Now().Add(x.w.o.Wait)
	if op.kind == opDetachConcurrently {
		if err := x.preflight(ctx, p, "detach", false); err != nil {
			return err
		}
	}
	if err := x.comment(ctx, p, x.d.Table.mark(p, x.d.Action, x.d.attic), []Event{{Kind: EventDetached, Name: p.Name, Bounds: p.Bounds}}, x.allowed); err != nil {
		return err
	}
	sql := "ALTER TABLE " + x.d.Table.Ident() + " DETACH PARTITION " + p.Ident()
	var err error
	if op.kind == opDetachConcurrently {
		err = x.outside(ctx, p, "detach", sql+" CONCURRENTLY")
	} else {
		err = x.ddl(ctx, p, "detach", func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
			return x.allowed(ctx, tx, p)
		})
	}
	if err != nil {
		return errors.Join(err, x.undoMark(ctx, p))
	}
	if x.d.Action == Detach {
		rows, err := count(ctx, x.w.o.DB.Pool(), p)
		if err != nil {
			x.w.o.Log.LogAttrs(ctx, slog.LevelWarn, "rows not counted", slog.String("partition", p.String()), slog.String("error", err.Error()))
			rows = -1
		}
		x.done = append(x.done, Pruned{Partition: p, Action: Detach, Rows: rows})
	}
	return nil
}

// undoMark takes the mark back from a partition that could not be detached, if it is still attached.
func (x *pruning) undoMark(ctx context.Context, p Partition) error {
	select {
	case <-ctx.Done(): // the next run knows by the mark what was meant
		return nil
	default:
	}
	err := x.comment(ctx, p, p.comment, nil, nil)
	if fault.ClassOf(err) == fault.Refused {
		return nil
	}
	return err
}

// preflight waits until no old transaction is in the way: what comes next would wait for it half way. Only FINALIZE waits for snapshots of
// transactions that never used the table, too.
func (x *pruning) preflight(ctx context.Context, p Partition, what string, snapshots bool) error {
	for {
		old, err := x.oldTransactions(ctx, p, snapshots)
		if err != nil || len(old) == 0 {
			return err
		}
		if !x.w.o.Now().Before(x.until) {
			return x.blocked(p, what, old)
		}
		timer := time.NewTimer(lookAgain)
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%s %s: %w", what, p, context.Cause(ctx))
		case <-timer.C:
		}
	}
}

// oldTransactions describes the transactions that use the table or p, or, if asked for, have an old snapshot. Each session comes once.
func (x *pruning) oldTransactions(ctx context.Context, p Partition, snapshots bool) ([]string, error) {
	all, err := x.w.o.DB.Blockers(ctx, []uint32{x.d.Table.OID, p.OID})
	if err != nil {
		return nil, err
	}
	if snapshots {
		more, err := oldSnapshots(ctx, x.w.o.DB.Pool())
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	var old []string
	seen := map[int]bool{0: false} // one session has many locks
	for _, b := range all {
		if seen[b.PID] {
			continue
		}
		seen[b.PID] = b.PID != 0
		if b.Backend != postgres.Autovacuum && (b.Age >= oldEnough || b.PID == 0) {
			old = append(old, b.String())
		}
	}
	return old, nil
}

// oldSnapshots lists the other sessions of this database that have a snapshot.
func oldSnapshots(ctx context.Context, q Querier) ([]postgres.Blocker, error) {
	rows, err := q.Query(ctx, snapshotsSQL)
	if err != nil {
		return nil, fmt.Errorf("look for old snapshots: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (b postgres.Blocker, err error) {
		var query string
		var age float64
		err = row.Scan(&b.PID, &b.Application, &b.User, &b.Client, &b.Backend, &b.State, &b.Since, &age, &query)
		b.Age, b.Query = time.Duration(age*float64(time.Second)), postgres.QueryShape(query)
		return b, err
	})
	return found, wrap(err, "look for old snapshots")
}

// finalize ends a pending detach.
func (x *pruning) finalize(ctx context.Context, p Partition) error {
	x.until = x.w.o.Now().Add(x.w.o.Wait)
	if err := x.preflight(ctx, p, "finalize the detach of", true); err != nil {
		return err
	}
	return x.outside(ctx, p, "finalize the detach of", "ALTER TABLE "+x.d.Table.Ident()+" DETACH PARTITION "+p.Ident()+" FINALIZE")
}

func (x *pruning) blocked(p Partition, what string, by []string) error {
	return fault.New(fault.Locked, "end or wait for that transaction, or allow more time with --wait", "%s %s: blocked by %s", what, p, strings.Join(by[:min(len(by), 3)], "; "))
}

// outside runs a statement that cannot be in a transaction. It waits for transactions that began before it, as long as Options.Wait lets it: a detach
// that gives up then may stay pending, and the next run ends it.
func (x *pruning) outside(ctx context.Context, p Partition, what, sql string) error {
	conn, err := x.w.o.DB.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = conn.Close(end) // the server ends the session either way
	}()
	patience := max(x.until.Sub(x.w.o.Now()), x.w.o.LockTimeout, lookAgain)
	setup := fmt.Sprintf("SET lock_timeout = %d; SET statement_timeout = 0", patience.Milliseconds())
	if role := x.d.role(p); role != "" {
		setup += "; SET ROLE " + pgx.Identifier{role}.Sanitize()
	}
	if _, err := conn.PgConn().Exec(ctx, setup).ReadAll(); err != nil {
		return err
	}
	_, err = conn.PgConn().Exec(ctx, sql).ReadAll()
	if !postgres.IsLockNotAvailable(err) {
		return err
	}
	old, unseen := x.oldTransactions(ctx, p, true)
	if unseen != nil || len(old) == 0 {
		old = []string{"a session that has ended or could not be seen"}
	}
	return x.blocked(p, what, old)
}

// drop removes a detached table, if the rules still let it go; the evidence is in the same transaction.
func (x *pruning) drop(ctx context.Context, p Partition) error {
	var rows int64
	err := x.ddl(ctx, p, "drop", func(tx pgx.Tx) error {
		if err := lockOnly(ctx, tx, p); err != nil {
			return err
		}
		if err := x.same(ctx, tx, p, Detached); err != nil {
			return err
		}
		var err error
		if rows, err = x.countWithin(ctx, tx, p); err != nil {
			return err
		}
		if err := x.recheck(ctx, tx, p, rows); err != nil {
			return err
		}
		evidence, err := x.dropping(ctx, tx, p)
		if err != nil {
			return err
		}
		if x.d.options.Decide != nil { // it may have to look into the table
			if err := x.asConnected(ctx, tx, p, func() error { return x.allowed(ctx, tx, p) }); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, "DROP TABLE "+p.Ident()); err != nil {
			return err
		}
		if x.d.options.Decide == nil { // last, so that nothing comes between but the record
			if err := x.allowed(ctx, tx, p); err != nil {
				return err
			}
		}
		return x.w.record(ctx, tx, x.d.Table, []Event{{Kind: EventPruned, Name: p.Name, Bounds: p.Bounds, Rows: rows, Evidence: evidence}}, ledgerPatience)
	})
	if err == nil {
		x.done = append(x.done, Pruned{Partition: p, Action: Drop, Rows: rows})
	}
	return err
}

// dropping asks the ledger for what it has to know of p before it goes, as the connected user, and becomes p's role again.
func (x *pruning) dropping(ctx context.Context, tx pgx.Tx, p Partition) (any, error) {
	if x.w.o.Ledger == nil {
		return nil, nil
	}
	if _, err := tx.Exec(ctx, resetRoleSQL); err != nil {
		return nil, err
	}
	evidence, err := x.w.o.Ledger.Dropping(ctx, tx, x.d.Table, p)
	if err != nil {
		return nil, err
	}
	if role := x.d.role(p); role != "" {
		_, err = tx.Exec(ctx, "SET LOCAL ROLE "+pgx.Identifier{role}.Sanitize())
	}
	return evidence, err
}

// same makes sure that p's name still means p's table, in the state that is expected and with p's range: that of the partition, or the one
// noted in the mark of what is none any more.
func (x *pruning) same(ctx context.Context, q Querier, p Partition, want State) error {
	var schema, name, expr, comment string
	var attached, pending bool
	var parent uint32
	err := q.QueryRow(ctx, stateSQL, p.OID, x.d.Table.OID).Scan(&schema, &name, &attached, &pending, &parent, &expr, &comment)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	state := Detached
	if pending {
		state = DetachPending
	} else if attached {
		state = Attached
	} else {
		expr, _, _, _ = x.d.Table.readMark(comment)
	}
	bounds, isDefault, bad := ParseBounds(expr, x.d.Table.Key.Kind)
	if err != nil || bad != nil || schema != p.Schema || name != p.Name || state != want || parent != x.d.Table.OID || isDefault || !bounds.Equal(p.Bounds) {
		return fault.New(fault.Refused, "run it again: it plans anew", "partition %s has changed since it was planned", p)
	}
	return nil
}

// countWithin counts the rows of a detached table, and refuses when some of them lie outside of the range that it had: then the table has
// been something else in the meantime.
func (x *pruning) countWithin(ctx context.Context, q Querier, p Partition) (rows int64, err error) {
	var within int64
	sql := fmt.Sprintf("SELECT count(*), count(*) FILTER (WHERE %s) FROM ONLY %s", x.d.Table.Key.within(p.Bounds), p.Ident())
	if err := q.QueryRow(ctx, sql).Scan(&rows, &within); err != nil {
		return 0, fmt.Errorf("count rows of %s: %w", p, err)
	}
	if rows != within {
		return 0, fault.New(fault.Refused, "look at it: it was no longer a partition when they came", "table %s has %d rows outside of the range %s that it had", p, rows-within, p.Text())
	}
	return rows, nil
}
