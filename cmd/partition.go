package cmd

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/internal/postgres"
	"auditdb/internal/redis"
	"auditdb/pkg/partitions"
	"auditdb/pkg/plan"
)

// partitionDocuments lists the documents of the partition commands.
func partitionDocuments() map[string]any {
	return map[string]any{"partition.create": partitionCreateDoc{}, "partition.list": partitionListDoc{}, "partition.check": partitionCheckDoc{}, "partition.prune": partitionPruneDoc{}, "partition.finalize": partitionFinalizeDoc{}, "partition.drain": partitionDrainDoc{}, "partition.split": partitionSplitDoc{}, "partition.convert": partitionConvertDoc{}, "partition.adopt": partitionAdoptDoc{}, "partition.undo": partitionUndoDoc{}}
}

func newPartitionCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "partition",
		Short: "Create, list and prune partitions",
		Long: "TABLE is [schema.]name as in SQL; without it, every registered table (auditdb.managed_table), else public.audit_log. It is any table\n" +
			"partitioned by range over one column: timestamptz, timestamp, date, uuid (version 7) or bigint (time since 1970); auditdb's own schema need not be there.",
		Example: "  auditdb partition list\n  auditdb partition create --ahead 12\n  auditdb partition prune --older-than 13mo --dry-run",
	}
	cmd.AddCommand(newPartitionCreateCmd(app), newPartitionListCmd(app), newPartitionCheckCmd(app), newPartitionPruneCmd(app), newPartitionFinalizeCmd(app), newPartitionDrainCmd(app), newPartitionSplitCmd(app), newPartitionConvertCmd(app), newPartitionAdoptCmd(app), newPartitionUndoCmd(app))
	return cmd
}

// boundsDoc names a partition and its range; open ends are null.
type boundsDoc struct {
	Name string     `json:"name"`
	From *time.Time `json:"from"`
	To   *time.Time `json:"to"`
}

func describeBounds(p partitions.Partition) boundsDoc {
	d := boundsDoc{Name: p.Name}
	d.From, d.To = ends(p)
	return d
}

// ends gives the ends of a partition's range, nil for open ones and for the default partition.
func ends(p partitions.Partition) (from, to *time.Time) {
	if p.Default {
		return nil, nil
	}
	if !p.FromMin {
		from = &p.From
	}
	if !p.ToMax {
		to = &p.To
	}
	return from, to
}

// partitionTables finds the tables that a command is about, in a fixed order. Where none is named and one of several cannot be found,
// the others are still returned; each has its error beside it.
func partitionTables(ctx context.Context, db *postgres.DB, args []string) ([]resolved, error) {
	return findTables(ctx, db, args, partitions.Resolve)
}

// findTables is partitionTables with a way to find one.
func findTables(ctx context.Context, db *postgres.DB, args []string, resolve func(context.Context, *postgres.DB, string) (partitions.Table, error)) ([]resolved, error) {
	names := args
	if len(names) == 0 {
		var err error
		if names, err = partitions.Registered(ctx, db.Pool()); err != nil {
			return nil, err
		}
	}
	found := make([]resolved, len(names))
	for i, name := range names {
		found[i].name = name
		found[i].table, found[i].err = resolve(ctx, db, name)
		if found[i].err == nil {
			found[i].name = found[i].table.String()
		}
	}
	if len(found) == 1 && found[0].err != nil {
		return nil, found[0].err
	}
	return found, nil
}

// resolved is a table that was asked for.
type resolved struct {
	name  string
	table partitions.Table
	err   error
}

// partitionWork opens what a command that changes partitions needs, and asks the log beforehand whether it would take the key.
func partitionWork(ctx context.Context, app *App, command string, names []string) (*postgres.DB, []resolved, *partitions.Worker, error) {
	db, err := app.Postgres(ctx, command)
	if err != nil {
		return nil, nil, nil, err
	}
	tables, err := partitionTables(ctx, db, names)
	if err != nil {
		return nil, nil, nil, err
	}
	worker, err := partitionWorker(app, db)
	if err == nil {
		err = checkEvidence(ctx, worker, tables)
	}
	return db, tables, worker, err
}

// partitionWorker returns what makes and removes partitions, with its evidence and locks.
func partitionWorker(app *App, db *postgres.DB) (*partitions.Worker, error) {
	evidence, err := newLedger(app, db)
	if err != nil {
		return nil, err
	}
	return partitions.NewWorker(partitions.Options{
		DB: db, Ledger: evidence, Lock: partitionLock(app, db), Now: app.Now, LockTimeout: app.Config.LockTimeout, Wait: app.Config.Wait, Log: app.Log,
	}), nil
}

// partitionLock takes the lock in Redis first, where Redis is configured, so that runs on other hosts need not poll the database; then
// PostgreSQL's, which is the one that counts: the owner of a lock in Redis may be long dead. Redis gets half of the time to wait.
func partitionLock(app *App, db *postgres.DB) partitions.LockFunc {
	return func(ctx context.Context, t partitions.Table) (context.Context, func(), error) {
		first, err := lockInRedis(ctx, app, db, t)
		if err != nil {
			return nil, nil, err
		}
		lock, err := db.Lock(ctx, partitions.LockName(t), app.Config.Wait)
		if err != nil {
			first()
			return nil, nil, err
		}
		locked, stop := lock.Guard(ctx)
		return locked, func() {
			stop()
			lock.Release()
			first()
		}, nil
	}
}

func lockInRedis(ctx context.Context, app *App, db *postgres.DB, t partitions.Table) (release func(), err error) {
	none := func() {}
	client, err := app.Redis(ctx)
	if err != nil || client == nil {
		return none, err
	}
	server, err := db.Info(ctx)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%d:%d:%s", server.SystemID, server.DatabaseOID, partitions.LockName(t))
	lock, err := client.Lock(ctx, name, app.Config.Redis.LockTTL, app.Config.Wait/2)
	switch {
	case err == nil:
		return lock.Release, nil
	case redis.IsGone(err) && !app.Config.Redis.Required:
		app.Warn("going on without Redis, with PostgreSQL's locks alone: %v", err)
		return none, nil
	case fault.ClassOf(err) == fault.Locked && ctx.Err() == nil:
		app.Warn("going on with PostgreSQL's lock, which decides: %v", err)
		return none, nil
	}
	return nil, err
}

// startPartitionJob records the run; about is its only table, if it has just one.
func startPartitionJob(ctx context.Context, app *App, db *postgres.DB, name string, tables []resolved) error {
	var id *int16
	if len(tables) == 1 {
		id = tables[0].table.ManagedID
	}
	_, err := app.StartJob(ctx, db, name, id)
	return err
}

// applyZone sets another time zone for this run, and an interval if one is named.
func applyZone(t *partitions.Table, zone, interval string) error {
	if zone != "" {
		if err := t.SetZone(zone); err != nil {
			return err
		}
	}
	if interval == "" {
		return nil
	}
	var err error
	t.Interval, err = partitions.ParseInterval(interval)
	return err
}

// keyTime reads a time that the user wrote, in the table's zone, as a value of its key.
func keyTime(app *App, t partitions.Table, flag, text string) (time.Time, error) {
	at, err := ParseTime(text, app.Now(), t.Location)
	if err != nil {
		return time.Time{}, fault.New(fault.Usage, fault.HintOf(err), "--%s: %w", flag, err)
	}
	return t.KeyTime(at), nil
}

func completeIntervals(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var names []string
	for _, i := range partitions.Intervals() {
		names = append(names, string(i))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// rowsCell is a number of rows, nil when it is not known.
func rowsCell(n *int64) any { return orNothing(n) }

// known is nil for the -1 that stands for not known.
func known(n int64) *int64 {
	if n < 0 {
		return nil
	}
	return &n
}

// checkEvidence refuses before anything is planned what could not be recorded in the integrity log.
func checkEvidence(ctx context.Context, worker *partitions.Worker, tables []resolved) error {
	for _, t := range tables {
		if t.err != nil {
			continue
		}
		if err := worker.Check(ctx, t.table); err != nil {
			return err
		}
	}
	return nil
}

// printSkipped shows what was left alone; what many have in common takes one line.
func printSkipped(t *output.Table, p plan.Plan) {
	const many = 3
	names := map[string][]string{}
	var reasons []string
	for _, s := range p.Skipped {
		if len(names[s.Reason]) == 0 {
			reasons = append(reasons, s.Reason)
		}
		names[s.Reason] = append(names[s.Reason], s.Name)
	}
	for _, reason := range reasons {
		of := names[reason]
		if len(of) > many {
			of = []string{fmt.Sprintf("%d, from %s to %s", len(of), of[0], of[len(of)-1])}
		}
		for _, name := range of {
			t.Line("Left alone: %s: %s.", name, reason)
		}
	}
}
