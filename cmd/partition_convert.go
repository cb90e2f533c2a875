package cmd

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"auditdb/internal/output"
	"auditdb/internal/postgres"
	"auditdb/pkg/partitions"
	"auditdb/pkg/plan"
)

// partitionConvertDoc is auditdb.partition.convert.v1.
type partitionConvertDoc struct {
	Table          string      `json:"table"`
	Key            string      `json:"key"`
	KeyKind        string      `json:"key_kind"`
	Interval       string      `json:"interval"`
	TimeZone       string      `json:"time_zone"`
	History        *boundsDoc  `json:"history"` // the old table as a partition; null: there is none
	Created        []boundsDoc `json:"created"`
	Aborted        bool        `json:"aborted"`        // what an interrupted run had left was taken back
	LockedSeconds  *float64    `json:"locked_seconds"` // how long nobody could use the table; null: the swap was not a part of this run
	DryRun         bool        `json:"dry_run"`
	ElapsedSeconds float64     `json:"elapsed_seconds"`
	Plan           plan.Plan   `json:"plan"`
}

// convertFlags are those of all commands that make a partitioned table of a plain one.
type convertFlags struct {
	key, kind      string
	interval, zone string
	ahead          int
	historyTo      string
	dropUnique     []string
	abort, dryRun  bool
	path           string
}

func (c *convertFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.key, "key", "", "partition by this `COLUMN`")
	f.StringVar(&c.kind, "key-kind", "", "`KIND` of a key that is a number: epoch_s, epoch_ms, epoch_us or epoch_ns")
	f.StringVar(&c.interval, "interval", "monthly", "`LENGTH` of partitions: hourly, daily, weekly, monthly, quarterly, yearly, or N of them as 6h 15d 2w 3mo 5y")
	f.StringVar(&c.zone, "time-zone", "UTC", "`ZONE` whose midnights are the bounds")
	f.IntVar(&c.ahead, "ahead", 3, "partitions after the current one")
	f.StringVar(&c.historyTo, "history-to", "", "the old rows' partition ends at this `TIME` (default: with the interval in two days)")
	f.StringArrayVar(&c.dropUnique, "drop-unique", nil, "give up the unique index `NAME`, which does not have the key, but for the old rows")
	f.BoolVar(&c.abort, "abort", false, "take back what an interrupted run has left")
	f.BoolVar(&c.dryRun, "dry-run", false, "print the plan and change nothing")
	_ = cmd.RegisterFlagCompletionFunc("interval", completeIntervals) // the flag exists
}

// options reads the flags. An error has class usage.
func (c *convertFlags) options(app *App) (o partitions.ConvertOptions, err error) {
	o = partitions.ConvertOptions{Key: partitions.Key{Column: c.key}, Ahead: c.ahead, DropUnique: c.dropUnique, Abort: c.abort}
	if c.ahead < 0 {
		return o, usage(c.path, "", "--ahead cannot be negative")
	}
	if c.kind != "" {
		if o.Key.Kind, err = partitions.ParseKeyKind(c.kind); err != nil {
			return o, err
		}
	}
	if o.Interval, err = partitions.ParseInterval(c.interval); err != nil {
		return o, err
	}
	var t partitions.Table
	if err := t.SetZone(c.zone); err != nil {
		return o, err
	}
	o.Location = t.Location
	if c.historyTo == "" {
		return o, nil
	}
	t.Key.Kind = partitions.KeyTimestamptz
	o.HistoryTo, err = keyTime(app, t, "history-to", c.historyTo)
	return o, err
}

func newPartitionConvertCmd(app *App) *cobra.Command {
	var c convertFlags
	cmd := &cobra.Command{
		Use:   "convert TABLE",
		Short: "Turn a plain table into a partitioned one, online",
		Long: "Prepares everything beside the running table, then swaps in one short transaction: a new partitioned table takes the name, and the old\n" +
			"one becomes its first partition, TABLE_history, from its oldest row to the end of the current interval. Rows are not copied. Indexes,\n" +
			"constraints, sequences, triggers, policies, grants, comments and views are taken over; what cannot be is refused with the reason before\n" +
			"anything is changed. The primary key gets the partition key as well. Interrupted at any point, the same command goes on.",
		Example: "  auditdb partition convert audit.events --key created_at --dry-run\n  auditdb partition convert audit.events --key created_at --interval daily --ahead 14\n" +
			"  auditdb partition convert audit.events --key id --key-kind epoch_ms\n  auditdb partition convert audit.events --abort",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.path = cmd.CommandPath()
			if c.key == "" && !c.abort {
				return usage(c.path, "name the column with --key COLUMN", "--key is missing")
			}
			return runPartitionConvert(cmd.Context(), app, c, args[0])
		},
	}
	c.add(cmd)
	return cmd
}

// conversion is a convert of one table.
type conversion struct {
	change[*partitions.ConvertDraft]
	done partitions.Converted
}

func runPartitionConvert(ctx context.Context, app *App, c convertFlags, name string) error {
	opts, err := c.options(app)
	if err != nil {
		return err
	}
	var x *conversion
	begin := func(worker *partitions.Worker, t partitions.Table, _ bool) (*change[*partitions.ConvertDraft], error) {
		x = newConversion(app, worker, t, opts)
		return &x.change, nil
	}
	return changeTable(ctx, app, "partition.convert", name, planOptions{dryRun: c.dryRun}, begin, func(p plan.Plan, elapsed float64) error {
		doc := x.document(p, elapsed, c)
		app.Summarize(map[string]any{"created": len(doc.Created), "aborted": doc.Aborted, "locked_seconds": doc.LockedSeconds, "dry_run": c.dryRun})
		return app.Emit("partition.convert", doc, doc.print)
	})
}

func newConversion(app *App, worker *partitions.Worker, t partitions.Table, o partitions.ConvertOptions) *conversion {
	x := &conversion{}
	x.change = change[*partitions.ConvertDraft]{name: t.String(), plan: func(d *partitions.ConvertDraft) plan.Plan { return d.Plan }}
	x.draft = func(ctx context.Context) (*partitions.ConvertDraft, error) { return worker.DraftConvert(ctx, t, o) }
	x.locked = func(ctx context.Context, fn func(context.Context) error) error { return worker.Locked(ctx, t, fn) }
	x.apply = func(ctx context.Context, d *partitions.ConvertDraft) error {
		progress := app.Progress("convert "+x.name, int64(len(d.Plan.Steps)), output.Items)
		defer progress.Done()
		var err error
		x.done, err = worker.ApplyConvert(ctx, d, func(plan.Result) { progress.Add(1) })
		x.partly = x.done.Table.OID != 0
		return err
	}
	return x
}

// changeTable is the way of the commands that make one table partitioned or plain: it may be of either kind when they begin.
func changeTable[D any](ctx context.Context, app *App, command, name string, o planOptions,
	begin func(w *partitions.Worker, t partitions.Table, partitioned bool) (*change[D], error), show func(p plan.Plan, elapsed float64) error,
) error {
	started := app.Now()
	db, err := app.Postgres(ctx, command)
	if err != nil {
		return err
	}
	table, partitioned, err := partitions.ResolveAny(ctx, db, name)
	if err != nil {
		return err
	}
	worker, err := partitionWorker(app, db)
	if err != nil {
		return err
	}
	c, err := begin(worker, table, partitioned)
	if err != nil {
		return err
	}
	o.action = strings.ReplaceAll(command, ".", " ")
	o.started = func(ctx context.Context) error { return startTableJob(ctx, app, db, command, table) }
	changes := []*change[D]{c}
	p, err := runPlans(ctx, app, changes, o)
	if err != nil {
		return err
	}
	_, failed := failures(changes)
	if c.seen && (c.err == nil || c.partly) {
		if err := show(p, app.Now().Sub(started).Seconds()); err != nil {
			return err
		}
	}
	return failed
}

func startTableJob(ctx context.Context, app *App, db *postgres.DB, command string, t partitions.Table) error {
	return startPartitionJob(ctx, app, db, command, []resolved{{name: t.String(), table: t}})
}

// document says what was done to the table, or would be.
func (x *conversion) document(p plan.Plan, elapsed float64, c convertFlags) partitionConvertDoc {
	t := x.result.Table
	d := partitionConvertDoc{
		Table: x.name, Key: t.Key.Column, KeyKind: string(t.Key.Kind), Interval: string(t.Interval), TimeZone: t.Location.String(), Created: []boundsDoc{},
		Aborted: c.abort && len(p.Steps) > 0, DryRun: c.dryRun, ElapsedSeconds: elapsed, Plan: p,
	}
	history := x.done.History
	if c.dryRun && !c.abort && x.result.History.Name != "" {
		history = &x.result.History
	}
	if history != nil {
		b := describeBounds(*history)
		d.History = &b
	}
	if c.dryRun {
		for _, made := range x.result.Creates() {
			d.Created = append(d.Created, describeBounds(made))
		}
		return d
	}
	for _, made := range x.done.Created {
		d.Created = append(d.Created, describeBounds(made.Partition))
	}
	if !x.result.Converted && x.done.History != nil {
		seconds := x.done.Locked.Seconds()
		d.LockedSeconds = &seconds
	}
	return d
}

func (d partitionConvertDoc) print(t *output.Table) {
	if d.DryRun {
		t.Line("Dry run: nothing was changed. Plan %s.", d.Plan.Digest())
	}
	switch {
	case d.Aborted:
		t.Line("%s: what an interrupted run had left %s.", d.Table, map[bool]string{true: "would be taken back", false: "was taken back"}[d.DryRun])
	case d.History == nil && len(d.Created) == 0:
		t.Line("%s: nothing to do.", d.Table)
	default:
		t.Line("%s: %s partitioned by %s, %s, time zone %s.", d.Table, map[bool]string{true: "would be", false: "is"}[d.DryRun], d.Key, d.Interval, d.TimeZone)
	}
	if d.LockedSeconds != nil {
		t.Line("Nobody could use it for %.0f ms.", *d.LockedSeconds*1000)
	}
	t.Header("partition", "from", "to")
	if d.History != nil {
		t.Row(d.History.Name, cellTime(d.History.From), cellTime(d.History.To))
	}
	for _, p := range d.Created {
		t.Row(p.Name, cellTime(p.From), cellTime(p.To))
	}
	printSkipped(t, d.Plan)
	if d.DryRun {
		t.Line("")
		printSteps(t.Line, d.Plan)
	}
}
