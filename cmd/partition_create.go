package cmd

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/output"
	"auditdb/pkg/partitions"
	"auditdb/pkg/plan"
)

// partitionCreateDoc is auditdb.partition.create.v1.
type partitionCreateDoc struct {
	Tables         []partitionCreateTable `json:"tables"`
	Failed         []failedEntry          `json:"failed"`
	DryRun         bool                   `json:"dry_run"`
	ElapsedSeconds float64                `json:"elapsed_seconds"`
	Plan           plan.Plan              `json:"plan"`
}

type partitionCreateTable struct {
	Table            string      `json:"table"`
	Interval         string      `json:"interval"`
	TimeZone         string      `json:"time_zone"`
	Created          []boundsDoc `json:"created"`
	Existing         []boundsDoc `json:"existing"`
	MovedFromDefault int64       `json:"moved_from_default"` // rows

	Publications []publicationEntry `json:"publications"` // looked for where partitions are made

	ahead, kept int // asked for with --ahead, and the table's own; equal where there is nothing to say
}

// publicationEntry is a publication that the new partitions belong to by themselves (member), or that only other partitions are in.
type publicationEntry struct {
	Name    string `json:"name"`
	Via     string `json:"via"` // all_tables, schema, table, partition
	ViaRoot bool   `json:"via_root"`
	Member  bool   `json:"member"`
}

// partitionCreateOptions are the flags of partition create.
type partitionCreateOptions struct {
	interval, zone string
	from, to       string
	ahead, behind  int
	aheadSet       bool
	allowPruned    bool
	dryRun         bool
	tables         []string
	directMoveRows int64
	maxMoveRows    int64
}

func newPartitionCreateCmd(app *App) *cobra.Command {
	var o partitionCreateOptions
	cmd := &cobra.Command{
		Use:   "create [TABLE]",
		Short: "Make the partitions that are missing",
		Long: "Around now: the current interval and --ahead more, and every gap from the oldest partition that is still within retention on. Or\n" +
			"exactly the range --from --to. A range that overlaps a partition is narrowed to what no partition holds. Readers and writers are\n" +
			"not stalled: partitions are made beside the table and attached. --ahead is for this run; what runs without it use is the table's own,\n" +
			"which partition adopt TABLE --register --ahead N changes. Any number of runs at once make each partition exactly once.",
		Example: "  auditdb partition create\n  auditdb partition create --ahead 12\n  auditdb partition create audit.events --interval daily --from 2026-01-01 --to 2026-02-01\n" +
			"  auditdb partition create --dry-run -o json",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.tables = args
			o.aheadSet = cmd.Flags().Changed("ahead")
			if err := o.check(cmd); err != nil {
				return err
			}
			return runPartitionCreate(cmd.Context(), app, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.interval, "interval", "", "`LENGTH` of partitions: hourly to yearly, or 6h, 15d, 2w, 5mo, 5y … (default: the table's)")
	f.StringVar(&o.from, "from", "", "make exactly the range from this `TIME` on")
	f.StringVar(&o.to, "to", "", "… to this `TIME`, which is not part of it")
	f.IntVar(&o.ahead, "ahead", 3, "partitions after the current one (default: the table's, else 3)")
	f.Lookup("ahead").DefValue = "" // the help names it
	f.IntVar(&o.behind, "behind", 0, "partitions before the current one")
	f.StringVar(&o.zone, "time-zone", "", "`ZONE` whose midnights are the bounds (default: the table's, else UTC)")
	f.BoolVar(&o.allowPruned, "allow-pruned-range", false, "also make ranges again that were pruned")
	f.Int64Var(&o.directMoveRows, "direct-move-rows", partitions.DirectMoveRows, "most `ROWS` to move out of a default partition at once; more are copied beside it first")
	f.Int64Var(&o.maxMoveRows, "max-move-rows", 0, "most `ROWS` that may leave a default partition for one new partition (0: any number)")
	f.BoolVar(&o.dryRun, "dry-run", false, "print the plan and change nothing")
	_ = cmd.RegisterFlagCompletionFunc("interval", completeIntervals) // the flag exists
	return cmd
}

// check refuses flags that contradict each other.
func (o partitionCreateOptions) check(cmd *cobra.Command) error {
	path := cmd.CommandPath()
	switch {
	case (o.from == "") != (o.to == ""):
		return usage(path, "", "--from and --to go together")
	case o.from != "" && (o.aheadSet || cmd.Flags().Changed("behind")):
		return usage(path, "", "either --from and --to, or --ahead and --behind")
	case o.ahead < 0 || o.behind < 0:
		return usage(path, "", "--ahead and --behind cannot be negative")
	case o.directMoveRows < 1 || o.maxMoveRows < 0:
		return usage(path, "", "--direct-move-rows must be positive, and --max-move-rows not negative")
	}
	if o.interval != "" {
		_, err := partitions.ParseInterval(o.interval)
		return err
	}
	return nil
}

// creation is one table's create.
type creation struct {
	change[*partitions.Draft]
	table partitions.Table
	ahead int // asked for
	made  []partitions.Created
}

func runPartitionCreate(ctx context.Context, app *App, o partitionCreateOptions) error {
	var creations []*creation
	begin := func(worker *partitions.Worker, r resolved) (*change[*partitions.Draft], error) {
		c, err := newCreation(app, worker, r, o)
		if err != nil {
			return nil, err
		}
		creations = append(creations, c)
		return &c.change, nil
	}
	return changePartitions(ctx, app, "partition.create", o.tables, planOptions{dryRun: o.dryRun}, begin, func(r changeRun) error {
		doc := partitionCreateDoc{Tables: []partitionCreateTable{}, Failed: r.failed, DryRun: o.dryRun, ElapsedSeconds: r.elapsed, Plan: r.plan}
		for _, c := range creations {
			if c.seen {
				doc.Tables = append(doc.Tables, c.document(o.dryRun))
			}
		}
		app.Summarize(doc.summary())
		if r.silent {
			return nil
		}
		return app.Emit("partition.create", doc, doc.print)
	})
}

func newCreation(app *App, worker *partitions.Worker, r resolved, o partitionCreateOptions) (*creation, error) {
	c := &creation{table: r.table}
	c.change = change[*partitions.Draft]{name: r.name, err: r.err, plan: func(d *partitions.Draft) plan.Plan { return d.Plan }}
	if c.err != nil {
		return c, nil //nolint:nilerr // it stays with the change
	}
	if err := applyZone(&c.table, o.zone, o.interval); err != nil {
		return nil, err
	}
	opts := partitions.CreateOptions{Ahead: c.table.Ahead, Behind: o.behind, AllowPruned: o.allowPruned, DirectRows: o.directMoveRows, MoveRowLimit: o.maxMoveRows}
	if o.aheadSet {
		opts.Ahead = o.ahead
	}
	c.ahead = opts.Ahead
	if o.from != "" {
		var err error
		if opts.From, err = keyTime(app, c.table, "from", o.from); err != nil {
			return nil, err
		}
		if opts.To, err = keyTime(app, c.table, "to", o.to); err != nil {
			return nil, err
		}
		if !opts.From.Before(opts.To) {
			return nil, usage("auditdb partition create", "", "--from %s is not before --to %s", o.from, o.to)
		}
	}
	c.draft = func(ctx context.Context) (*partitions.Draft, error) { return worker.DraftCreate(ctx, c.table, opts) }
	c.locked = func(ctx context.Context, fn func(context.Context) error) error {
		return worker.Locked(ctx, c.table, fn)
	}
	c.apply = func(ctx context.Context, d *partitions.Draft) error {
		progress := app.Progress("create partitions of "+c.name, int64(len(d.Plan.Steps)), output.Items)
		defer progress.Done()
		var err error
		c.made, err = worker.ApplyCreate(ctx, d, func(plan.Result) { progress.Add(1) })
		c.partly = len(c.made) > 0
		return err
	}
	return c, nil
}

// document says what was done to the table, or would be.
func (c *creation) document(dryRun bool) partitionCreateTable {
	d := partitionCreateTable{
		Table: c.name, Interval: string(c.table.Interval), TimeZone: c.table.Location.String(),
		Created: []boundsDoc{}, Existing: []boundsDoc{}, Publications: []publicationEntry{},
	}
	if c.table.ManagedID != nil {
		d.ahead, d.kept = c.ahead, c.table.Ahead
	}
	for _, p := range c.result.Publications {
		d.Publications = append(d.Publications, publicationEntry{Name: p.Name, Via: p.Via, ViaRoot: p.ViaRoot, Member: p.Member()})
	}
	for _, p := range c.result.Existing {
		d.Existing = append(d.Existing, describeBounds(p))
	}
	if dryRun {
		for _, p := range c.result.Creates() {
			d.Created = append(d.Created, describeBounds(p))
		}
		d.MovedFromDefault = c.result.Moves()
		if len(c.result.Refused) > 0 && c.err == nil {
			c.err, c.partly = c.result.Refused[0].Err, len(d.Created) > 0
		}
		return d
	}
	for _, p := range c.made {
		d.Created = append(d.Created, describeBounds(p.Partition))
		d.MovedFromDefault += p.Moved
	}
	return d
}

func (d partitionCreateDoc) summary() map[string]any {
	created, moved := 0, int64(0)
	for _, t := range d.Tables {
		created, moved = created+len(t.Created), moved+t.MovedFromDefault
	}
	return map[string]any{"created": created, "moved_from_default": moved, "failed": len(d.Failed), "dry_run": d.DryRun}
}

func (d partitionCreateDoc) print(t *output.Table) {
	if d.DryRun {
		t.Line("Dry run: nothing was changed. Plan %s.", d.Plan.Digest())
	}
	for _, table := range d.Tables {
		t.Line("%s: %s %s, %s, time zone %s.", table.Table, map[bool]string{true: "would create", false: "created"}[d.DryRun],
			countOf(len(table.Created), table.Interval+" partition"), "existing "+countOf(len(table.Existing), "partition"), table.TimeZone)
		if table.ahead != table.kept {
			t.Line("Runs without --ahead go on with the table's own %d. To change that:", table.kept)
			t.Line("  auditdb partition adopt %s --register --ahead %d", table.Table, table.ahead)
		}
		if table.MovedFromDefault > 0 {
			t.Line("Rows moved from the default partition: %s.", output.Cell(table.MovedFromDefault))
		}
		if names := table.publishedBy(); len(names) > 0 {
			t.Line("New partitions are published by: %s.", strings.Join(names, ", "))
		}
		t.Header("created", "from", "to")
		for _, p := range table.Created {
			t.Row(p.Name, cellTime(p.From), cellTime(p.To))
		}
	}
	printSkipped(t, d.Plan)
	if d.DryRun {
		t.Line("")
		printSteps(t.Line, d.Plan)
	}
}

// publishedBy names the publications that new partitions belong to.
func (d partitionCreateTable) publishedBy() (names []string) {
	for _, p := range d.Publications {
		if p.Member && len(d.Created) > 0 {
			names = append(names, p.Name+map[bool]string{true: " (as the table's own changes)"}[p.ViaRoot])
		}
	}
	return names
}

// cellTime is an end of a range, nil when it is open.
func cellTime(at *time.Time) any { return orNothing(at) }
