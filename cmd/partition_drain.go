package cmd

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/output"
	"auditdb/pkg/partitions"
	"auditdb/pkg/plan"
)

// partitionDrainDoc is auditdb.partition.drain.v1.
type partitionDrainDoc struct {
	Tables         []partitionDrainTable `json:"tables"`
	Failed         []failedEntry         `json:"failed"`
	DryRun         bool                  `json:"dry_run"`
	Incomplete     bool                  `json:"incomplete"` // --max-duration was over
	ElapsedSeconds float64               `json:"elapsed_seconds"`
	Plan           plan.Plan             `json:"plan"`
}

type partitionDrainTable struct {
	Table            string            `json:"table"`
	Interval         string            `json:"interval"`
	TimeZone         string            `json:"time_zone"`
	Created          []boundsDoc       `json:"created"`
	MovedFromDefault int64             `json:"moved_from_default"` // rows
	Left             []partitions.Left `json:"left"`
	Aborted          bool              `json:"aborted"` // an interrupted run was taken back, or would be
}

// partitionDrainOptions are the flags of partition drain.
type partitionDrainOptions struct {
	interval, zone         string
	maxFuture, maxDuration *time.Duration
	allowPruned            bool
	abort, dryRun          bool
	tables                 []string
}

func newPartitionDrainCmd(app *App) *cobra.Command {
	var o partitionDrainOptions
	cmd := &cobra.Command{
		Use:   "drain [TABLE]",
		Short: "Empty a default partition into proper ones",
		Long: "Makes a partition for every interval that rows of the default partition lie in, and moves the rows there. Few rows are moved at once;\n" +
			"many are copied beside the table, compared, and swapped in at one moment, so that every reader sees each row exactly once. Inserts go on\n" +
			"all the time; UPDATE and DELETE of the default partition's rows are refused while it is copied. An interrupted run is gone on with by\n" +
			"the next, or taken back with --abort. Rows further ahead than --max-future, and those with an infinite key, stay and are counted.",
		Example: "  auditdb partition drain\n  auditdb partition drain audit.events --interval daily --dry-run\n  auditdb partition drain --max-duration 1h\n  auditdb partition drain --abort",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.tables = args
			if *o.maxFuture < 0 || *o.maxDuration < 0 {
				return usage(cmd.CommandPath(), "", "--max-future and --max-duration cannot be negative")
			}
			if o.interval != "" {
				if _, err := partitions.ParseInterval(o.interval); err != nil {
					return err
				}
			}
			return runPartitionDrain(cmd.Context(), app, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.interval, "interval", "", "`LENGTH` of the partitions: hourly to yearly, 6h, 15d, 2w … (default: the table's)")
	f.StringVar(&o.zone, "time-zone", "", "`ZONE` whose midnights are the bounds (default: the table's, else UTC)")
	o.maxFuture = durationFlag(f, "max-future", 48*time.Hour, "leave rows that are further ahead than this")
	o.maxDuration = durationFlag(f, "max-duration", 0, "stop copying after this time, to go on another time, exit 0 (0: never)")
	f.BoolVar(&o.allowPruned, "allow-pruned-range", false, "also make ranges again that were pruned")
	f.BoolVar(&o.abort, "abort", false, "take back what an interrupted run has left; no row is lost")
	f.BoolVar(&o.dryRun, "dry-run", false, "print the plan and change nothing")
	_ = cmd.RegisterFlagCompletionFunc("interval", completeIntervals) // the flag exists
	return cmd
}

// draining is one table's drain.
type draining struct {
	change[*partitions.Draft]
	table      partitions.Table
	options    partitions.DrainOptions
	abort      bool
	made       []partitions.Created
	incomplete bool
}

func runPartitionDrain(ctx context.Context, app *App, o partitionDrainOptions) error {
	var all []*draining
	begin := func(worker *partitions.Worker, r resolved) (*change[*partitions.Draft], error) {
		d, err := newDraining(app, worker, r, o)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
		return &d.change, nil
	}
	return changePartitions(ctx, app, "partition.drain", o.tables, planOptions{dryRun: o.dryRun}, begin, func(r changeRun) error {
		doc := partitionDrainDoc{Tables: []partitionDrainTable{}, Failed: r.failed, DryRun: o.dryRun, ElapsedSeconds: r.elapsed, Plan: r.plan}
		for _, d := range all {
			if !d.seen {
				continue
			}
			table, err := d.document(ctx, r.worker, o.dryRun)
			if err != nil {
				return err
			}
			doc.Tables, doc.Incomplete = append(doc.Tables, table), doc.Incomplete || d.incomplete
		}
		app.Summarize(doc.summary())
		if r.silent {
			return nil
		}
		return app.Emit("partition.drain", doc, doc.print)
	})
}

func newDraining(app *App, worker *partitions.Worker, r resolved, o partitionDrainOptions) (*draining, error) {
	d := &draining{table: r.table, abort: o.abort}
	d.change = change[*partitions.Draft]{name: r.name, err: r.err, plan: func(d *partitions.Draft) plan.Plan { return d.Plan }}
	if d.err != nil {
		return d, nil //nolint:nilerr // it stays with the change
	}
	if err := applyZone(&d.table, o.zone, o.interval); err != nil {
		return nil, err
	}
	progress := copyProgress(app, "drain "+d.name)
	d.options = partitions.DrainOptions{MaxFuture: *o.maxFuture, AllowPruned: o.allowPruned, Until: until(app, *o.maxDuration), OnRows: progress.rows}
	d.draft = func(ctx context.Context) (*partitions.Draft, error) {
		if o.abort {
			return worker.DraftAbort(ctx, d.table, "drain")
		}
		return worker.DraftDrain(ctx, d.table, d.options)
	}
	d.locked = func(ctx context.Context, fn func(context.Context) error) error {
		return worker.Locked(ctx, d.table, fn)
	}
	d.apply = func(ctx context.Context, draft *partitions.Draft) (err error) {
		defer progress.done()
		if o.abort {
			_, err = worker.AbortCopies(ctx, d.table, "drain")
			return err
		}
		d.made, err = worker.ApplyCreate(ctx, draft, nil)
		d.partly = len(d.made) > 0
		if errors.Is(err, partitions.ErrIncomplete) {
			d.incomplete, err = true, nil
		}
		return err
	}
	return d, nil
}

// until is when work that may last so long has to stop; the zero time for 0, which is never.
func until(app *App, most time.Duration) time.Time {
	if most <= 0 {
		return time.Time{}
	}
	return app.Now().Add(most)
}

// copying shows how a copy goes on, once it has begun.
type copying struct {
	app   *App
	label string
	bar   output.Progress
	shown int64
}

func copyProgress(app *App, label string) *copying { return &copying{app: app, label: label} }

func (c *copying) rows(n, ofAbout int64) {
	if c.bar == nil {
		c.bar = c.app.Progress(c.label, ofAbout, output.Rows)
	}
	c.bar.Add(n - c.shown)
	c.shown = n
}

func (c *copying) done() {
	if c.bar != nil {
		c.bar.Done()
	}
}

// document says what was done to the table, or would be.
func (d *draining) document(ctx context.Context, worker *partitions.Worker, dryRun bool) (partitionDrainTable, error) {
	doc := partitionDrainTable{Table: d.name, Interval: string(d.table.Interval), TimeZone: d.table.Location.String(), Created: []boundsDoc{}, Left: []partitions.Left{}}
	if d.abort {
		doc.Aborted = len(d.result.Plan.Steps) > 0
		return doc, nil
	}
	var planned *partitions.Draft
	if dryRun {
		planned = d.result
		for _, p := range d.result.Creates() {
			doc.Created = append(doc.Created, describeBounds(p))
		}
		doc.MovedFromDefault = d.result.Moves()
		if len(d.result.Refused) > 0 && d.err == nil {
			d.err, d.partly = d.result.Refused[0].Err, len(doc.Created) > 0
		}
	}
	for _, p := range d.made {
		doc.Created = append(doc.Created, describeBounds(p.Partition))
		doc.MovedFromDefault += p.Moved
	}
	left, err := worker.DrainLeft(ctx, d.table, d.options, planned)
	doc.Left = append(doc.Left, left...)
	return doc, err
}

func (d partitionDrainDoc) summary() map[string]any {
	created, moved, left := 0, int64(0), int64(0)
	for _, t := range d.Tables {
		created, moved = created+len(t.Created), moved+t.MovedFromDefault
		for _, l := range t.Left {
			left += l.Rows
		}
	}
	return map[string]any{"created": created, "moved_from_default": moved, "left": left, "failed": len(d.Failed), "incomplete": d.Incomplete, "dry_run": d.DryRun}
}

func (d partitionDrainDoc) print(t *output.Table) {
	if d.DryRun {
		t.Line("Dry run: nothing was changed. Plan %s.", d.Plan.Digest())
	}
	for _, table := range d.Tables {
		if table.Aborted {
			t.Line("%s: %s an interrupted drain; no row is lost.", table.Table, map[bool]string{true: "would take back", false: "took back"}[d.DryRun])
			continue
		}
		t.Line("%s: %s %s, which %s %s of the default partition.", table.Table, map[bool]string{true: "would create", false: "created"}[d.DryRun],
			countOf(len(table.Created), table.Interval+" partition"), map[bool]string{true: "take", false: "took"}[d.DryRun], countOf(table.MovedFromDefault, "row"))
		t.Header("created", "from", "to")
		for _, p := range table.Created {
			t.Row(p.Name, cellTime(p.From), cellTime(p.To))
		}
		for _, l := range table.Left {
			t.Line("Left in the default partition: %s (%s).", countOf(l.Rows, "row"), l.Reason)
		}
	}
	if d.Incomplete {
		t.Line("The time was over. What was copied stays: the same command goes on from there, and --abort takes it back.")
	}
	printSkipped(t, d.Plan)
	if d.DryRun {
		t.Line("")
		printSteps(t.Line, d.Plan)
	}
}
