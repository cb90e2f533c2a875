package indexes

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/plan"
)

const (
	watchEvery = 500 * time.Millisecond
	awaitEvery = 200 * time.Millisecond
)

// Execute does one step.
func (a *Applier) Execute(ctx context.Context, group []plan.Step) error {
	step := group[0]
	op, ok := step.Op.(operation)
	if !ok {
		return fault.New(fault.Internal, "", "step %s is not one of index apply", step.Name)
	}
	switch op.kind {
	case opShort:
		return a.short(ctx, step.Name, op)
	case opAwait:
		return a.await(ctx, op.table)
	case opConcurrent:
		return a.concurrent(ctx, step.Name, op)
	}
	return fault.New(fault.Internal, "", "step %s is not one of index apply", step.Name)
}

// role is whom to become for changing n; "": stay.
func (n node) role() string {
	if n.Owned {
		return ""
	}
	return n.Owner
}

// short runs statements in one transaction that gives up a lock request soon, and tries again.
func (a *Applier) short(ctx context.Context, name string, op operation) error {
	what := "change index " + name
	err := a.o.DB.DDL(ctx, postgres.DDLOptions{LockTimeout: a.o.LockTimeout, Wait: a.o.Wait, Role: op.table.role(), What: what}, func(tx pgx.Tx) error {
		for _, sql := range op.sql {
			if err := execute(ctx, tx.Conn(), sql); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && !strings.HasPrefix(err.Error(), what) {
		err = fmt.Errorf("%s: %w", what, err)
	}
	return err
}

// execute runs one statement. The extended protocol takes no second one that a definition might hold.
func execute(ctx context.Context, conn *pgx.Conn, sql string) error {
	_, err := conn.PgConn().ExecParams(ctx, sql, nil, nil, nil, nil).Close()
	return err
}

// await waits until nobody else builds an index on n. Then the plan is made anew.
func (a *Applier) await(ctx context.Context, n node) error {
	until := time.NewTimer(a.o.Wait)
	defer until.Stop()
	tick := time.NewTicker(awaitEvery)
	defer tick.Stop()
	for {
		builders, err := readBuilders(ctx, a.o.DB.Pool(), []uint32{n.OID})
		if err != nil {
			return fmt.Errorf("wait for another build on %s: %w", n, err)
		}
		by := builders[n.OID]
		if by == "" {
			return errAgain
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-until.C:
			return fault.New(fault.Locked, "wait for it to end, or allow more time with --wait", "table %s: an index is being built by %s", n, by)
		}
	}
}

// concurrent runs a statement that cannot be in a transaction, without lock_timeout, which would abort its waiting and leave an invalid index.
// A watchdog ends it when it has waited for the same somebody for longer than Options.Wait.
func (a *Applier) concurrent(ctx context.Context, name string, op operation) error {
	what := fmt.Sprintf("%s: %s", name, strings.ToLower(verb(op.sql[0])))
	conn, err := a.o.DB.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleLimit)
		defer cancel()
		_ = conn.Close(end) // the server ends the session either way
	}()
	var pid int32 // behind a pooler the greeting has another one
	var ignored string
	err = conn.QueryRow(ctx, "SELECT pg_backend_pid(), set_config('lock_timeout', '0', false) || set_config('statement_timeout', '0', false)").Scan(&pid, &ignored)
	if role := op.table.role(); role != "" && err == nil {
		err = execute(ctx, conn, "SET ROLE "+quote(role))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	watched, stop := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { a.watch(watched, stop, pid, name, op) })
	err = execute(watched, conn, op.sql[0])
	cause := context.Cause(watched)
	stop(nil)
	watching.Wait()
	if err == nil {
		return nil
	}
	if ctx.Err() == nil && errors.Is(cause, errBlocked) {
		err = cause
	}
	left := a.cleanUp(ctx, op)
	return fmt.Errorf("%s: %w%s", what, err, left)
}

// verb is what a statement is: the words before the first quoted name.
func verb(sql string) string {
	words, _, _ := strings.Cut(sql, ` "`)
	return words
}

// errBlocked is in the chain of the cause with which the watchdog ends a statement.
var errBlocked = errors.New("it waited too long")

// watch tells how far a build has come, and ends it when it waits for too long.
func (a *Applier) watch(ctx context.Context, stop context.CancelCauseFunc, pid int32, name string, op operation) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var waited time.Duration // for somebody
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		b := Building{Table: op.table.String(), Index: name}
		var block int64
		var tuples, tuplesTotal int64
		err := a.o.DB.Pool().QueryRow(ctx, watchSQL, pid).Scan(&b.Phase, &b.Done, &b.Total, &tuples, &tuplesTotal, &block, &b.Waiting)
		if err != nil {
			continue // the statement itself will notice what is wrong
		}
		b.Done, b.Total = b.Done*block, b.Total*block
		a.o.Told(b)
		switch {
		case b.Waiting == "":
			waited = 0
		case waited < a.o.Wait:
			waited += watchEvery
		default:
			stop(fault.New(fault.Locked, "end or wait for that transaction, or allow more time with --wait", "%w: blocked by %s", errBlocked, b.Waiting))
			return
		}
	}
}

// cleanUp drops the invalid index that a failed build has left, if that takes but a moment; the next run will do it otherwise.
func (a *Applier) cleanUp(ctx context.Context, op operation) (left string) {
	if op.made == "" {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleLimit)
	defer cancel()
	err := a.quiet(ctx, op.table)
	var found []Index
	if err == nil {
		found, err = Load(ctx, a.o.DB.Pool(), []uint32{op.table.OID})
	}
	if err != nil {
		return " (an invalid index may be left, which the next run drops)"
	}
	for _, i := range found {
		base, copied := i.reindexed()
		if i.Valid || i.Parent != 0 || i.Name != op.made && (!copied || base != op.made) {
			continue
		}
		drop := operation{kind: opConcurrent, table: op.table, sql: []string{"DROP INDEX CONCURRENTLY IF EXISTS " + i.Ident()}}
		if err := a.concurrent(ctx, i.DisplayName(), drop); err != nil {
			return " (the invalid index " + i.DisplayName() + " is left, which the next run drops)"
		}
	}
	return ""
}

// quiet waits until nobody builds on n: the server may take a moment to end a cancelled build, and what another session builds is not ours.
func (a *Applier) quiet(ctx context.Context, n node) error {
	tick := time.NewTicker(awaitEvery)
	defer tick.Stop()
	for {
		builders, err := readBuilders(ctx, a.o.DB.Pool(), []uint32{n.OID})
		if err != nil || len(builders) == 0 {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
