package cmd

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/output"
	"auditdb/internal/postgres"
	"auditdb/migrations"
	"auditdb/pkg/partitions"
	"auditdb/pkg/plan"
)

// partitionAdoptDoc is auditdb.partition.adopt.v1.
type partitionAdoptDoc struct {
	Table          string      `json:"table"`
	Mode           string      `json:"mode"` // register, in-place, copy
	Registered     bool        `json:"registered"`
	Integrity      bool        `json:"integrity"`
	Key            string      `json:"key"`
	KeyKind        string      `json:"key_kind"`
	Interval       string      `json:"interval"`
	TimeZone       string      `json:"time_zone"`
	OldTable       *string     `json:"old_table"` // copy: where the old rows still are; null: nowhere
	Rows           *int64      `json:"rows"`      // copy: copied, by interrupted runs as well; in a dry run an estimate
	History        *boundsDoc  `json:"history"`   // in-place: the old table as a partition
	Created        []boundsDoc `json:"created"`   // in-place
	LockedSeconds  *float64    `json:"locked_seconds"`
	Aborted        bool        `json:"aborted"`
	Incomplete     bool        `json:"incomplete"` // --max-duration was over
	DryRun         bool        `json:"dry_run"`
	ElapsedSeconds float64     `json:"elapsed_seconds"`
	Plan           plan.Plan   `json:"plan"`
}

type partitionAdoptOptions struct {
	convertFlags
	register    bool
	mode        string
	integrity   string
	maxDuration *time.Duration
	aheadSet    bool
	intervalSet bool
	zoneSet     bool

	integritySet bool
}

func newPartitionAdoptCmd(app *App) *cobra.Command {
	var o partitionAdoptOptions
	cmd := &cobra.Command{
		Use:   "adopt TABLE",
		Short: "Bring an existing table under management",
		Long: "A partitioned table is registered as it is (--register). A plain table with the columns of an older audit log is copied (--mode copy):\n" +
			"into a new partitioned table of the shape of public.audit_log, in batches while applications go on inserting; then both are compared\n" +
			"and swapped in one short transaction, and the old table stays as TABLE_old until somebody drops it. --mode in-place keeps any table's\n" +
			"columns and rows where they are, as partition convert does. With --integrity on either is guarded: UPDATE, DELETE and TRUNCATE are refused\n" +
			"from then on. Interrupted at any point, the same command goes on. It also works where\n" +
			"auditdb migrate up finds a foreign public.audit_log in its way: the schema is made around the new one.",
		Example: "  auditdb partition adopt public.audit_log --dry-run\n  auditdb partition adopt public.audit_log --mode copy\n" +
			"  auditdb partition adopt app.events --mode in-place --key created_at --interval daily\n" +
			"  auditdb partition adopt app.events --register --key created_at --interval monthly --time-zone Europe/Paris --ahead 6\n  auditdb partition adopt app.events --abort",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.path = cmd.CommandPath()
			f := cmd.Flags()
			o.aheadSet, o.intervalSet, o.zoneSet = f.Changed("ahead"), f.Changed("interval"), f.Changed("time-zone")
			o.integritySet = f.Changed("integrity")
			if err := o.check(); err != nil {
				return err
			}
			return runPartitionAdopt(cmd.Context(), app, o, args[0])
		},
	}
	o.add(cmd)
	f := cmd.Flags()
	f.BoolVar(&o.register, "register", false, "register a partitioned table as it is")
	f.StringVar(&o.mode, "mode", "", "copy or in-place (default: copy, where the table's columns fit)")
	f.StringVar(&o.integrity, "integrity", "on", "on or off: whether its rows are sealed and verified")
	o.maxDuration = durationFlag(f, "max-duration", 0, "stop copying after this time, to go on another time, exit 0 (0: never)")
	_ = cmd.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions([]string{"copy", "in-place"}, cobra.ShellCompDirectiveNoFileComp)) // the flag exists
	_ = cmd.RegisterFlagCompletionFunc("integrity", cobra.FixedCompletions([]string{"on", "off"}, cobra.ShellCompDirectiveNoFileComp))   // the flag exists
	return cmd
}

func (o *partitionAdoptOptions) check() error {
	switch {
	case o.register && o.mode != "":
		return usage(o.path, "", "either --register or --mode")
	case o.mode != "" && o.mode != string(partitions.AdoptCopy) && o.mode != string(partitions.AdoptInPlace):
		return usage(o.path, "", "--mode is copy or in-place, not %q", o.mode)
	case o.integrity != "on" && o.integrity != "off":
		return usage(o.path, "", "--integrity is on or off, not %q", o.integrity)
	case o.mode == string(partitions.AdoptInPlace) && o.key == "" && !o.abort:
		return usage(o.path, "name the column with --key COLUMN", "--key is missing")
	}
	if o.register {
		o.mode = string(partitions.AdoptRegister)
	}
	return nil
}

// adoption is an adopt of one table.
type adoption struct {
	change[*partitions.AdoptDraft]
	done       partitions.Adopted
	incomplete bool
}

func runPartitionAdopt(ctx context.Context, app *App, o partitionAdoptOptions, name string) error {
	convert, err := o.options(app)
	if err != nil {
		return err
	}
	db, err := app.Postgres(ctx, "partition.adopt")
	if err != nil {
		return err
	}
	var x *adoption
	begin := func(worker *partitions.Worker, t partitions.Table, partitioned bool) (*change[*partitions.AdoptDraft], error) {
		opts := partitions.AdoptOptions{Mode: partitions.AdoptMode(o.mode), Convert: convert, DDL: migrations.AuditLogDDL}
		if on := o.integrity == "on"; o.integritySet {
			opts.Integrity = &on
		}
		if partitioned { // what is not said stays as it is
			o.keep(&opts.Convert)
		}
		if *o.maxDuration > 0 {
			opts.Until = app.Now().Add(*o.maxDuration)
		}
		var err error
		x, err = newAdoption(ctx, app, db, worker, t, opts)
		return &x.change, err
	}
	return changeTable(ctx, app, "partition.adopt", name, planOptions{dryRun: o.dryRun}, begin, func(p plan.Plan, elapsed float64) error {
		doc := x.document(p, elapsed, o)
		app.Summarize(map[string]any{"mode": doc.Mode, "rows": doc.Rows, "registered": doc.Registered, "aborted": doc.Aborted, "incomplete": doc.Incomplete, "dry_run": o.dryRun})
		return app.Emit("partition.adopt", doc, doc.print)
	})
}

// keep leaves the settings of a partitioned table alone that were not named.
func (o *partitionAdoptOptions) keep(c *partitions.ConvertOptions) {
	if !o.intervalSet {
		c.Interval = ""
	}
	if !o.zoneSet {
		c.Location = nil
	}
	if !o.aheadSet && o.mode != string(partitions.AdoptInPlace) {
		c.Ahead = -1
	}
}

// newAdoption settles whether auditdb's schema is there. Only public.audit_log can be copied without it: it becomes a part of it.
func newAdoption(ctx context.Context, app *App, db *postgres.DB, worker *partitions.Worker, t partitions.Table, o partitions.AdoptOptions) (*adoption, error) {
	x := &adoption{}
	report, err := migrations.Status(ctx, db)
	if err != nil {
		return x, err
	}
	own := t.Schema == "public" && t.Name == "audit_log"
	o.Settled = report.Pending == 0 || !own
	if own {
		o.Owner = "auditdb_admin"
	}
	progress := output.Silent()
	shown := int64(0)
	o.OnRows = func(rows, _ int64) {
		progress.Add(rows - shown)
		shown = rows
	}
	settle := func(ctx context.Context) error {
		_, err := migrations.Up(ctx, db, migrations.Options{Wait: app.Config.Wait})
		return err
	}
	x.change = change[*partitions.AdoptDraft]{name: t.String(), plan: func(d *partitions.AdoptDraft) plan.Plan { return d.Plan }}
	x.draft = func(ctx context.Context) (*partitions.AdoptDraft, error) { return worker.DraftAdopt(ctx, t, o) }
	x.locked = func(ctx context.Context, fn func(context.Context) error) error { return worker.Locked(ctx, t, fn) }
	x.apply = func(ctx context.Context, d *partitions.AdoptDraft) error {
		if d.Mode == partitions.AdoptCopy && !o.Settled && !o.Convert.Abort {
			if err := migrations.Prepare(ctx, db, app.Config.Wait); err != nil {
				return err
			}
		}
		progress = app.Progress("adopt "+x.name, d.Rows, output.Rows)
		defer func() { progress.Done() }()
		var err error
		x.done, err = worker.ApplyAdopt(ctx, d, settle, nil)
		x.partly = x.done.Table.OID != 0 || x.done.Rows > 0
		if x.incomplete = errors.Is(err, partitions.ErrIncomplete); x.incomplete {
			return nil
		}
		return err
	}
	return x, nil
}

// document says what was done to the table, or would be.
func (x *adoption) document(p plan.Plan, elapsed float64, o partitionAdoptOptions) partitionAdoptDoc {
	t := x.result.Table
	d := partitionAdoptDoc{
		Table: x.name, Mode: string(x.result.Mode), Registered: x.done.Table.ManagedID != nil, Integrity: x.result.Row.Integrity, Key: t.Key.Column, KeyKind: string(t.Key.Kind), Interval: string(t.Interval),
		TimeZone: t.Location.String(), Created: []boundsDoc{}, Aborted: o.abort && len(p.Steps) > 0, Incomplete: x.incomplete, DryRun: o.dryRun, ElapsedSeconds: elapsed, Plan: p,
	}
	if x.result.Mode == partitions.AdoptCopy && (x.done.Old != "" || x.done.Rows > 0) {
		d.OldTable, d.Rows = orNull(x.done.Old), &x.done.Rows
	}
	if o.dryRun && x.result.Old != "" {
		d.Rows = &x.result.Rows
	}
	if x.result.Convert == nil {
		return d
	}
	c := conversion{done: partitions.Converted{}}
	c.result = x.result.Convert
	if x.done.Converted != nil {
		c.done = *x.done.Converted
	}
	inner := c.document(p, elapsed, o.convertFlags)
	d.History, d.Created, d.LockedSeconds = inner.History, inner.Created, inner.LockedSeconds
	return d
}

func (d partitionAdoptDoc) print(t *output.Table) {
	if d.DryRun {
		t.Line("Dry run: nothing was changed. Plan %s.", d.Plan.Digest())
	}
	done := map[bool]string{true: "would be", false: "is"}[d.DryRun]
	switch {
	case d.Aborted:
		t.Line("%s: what an interrupted run had left %s taken back.", d.Table, map[bool]string{true: "would be", false: "was"}[d.DryRun])
	case d.Incomplete:
		t.Line("%s: %s copied so far; the same command goes on.", d.Table, countOf(*d.Rows, "row"))
	case d.Plan.Steps == nil && !d.DryRun && d.Rows == nil && d.LockedSeconds == nil:
		t.Line("%s: nothing to do, it is registered already.", d.Table)
	default:
		t.Line("%s: %s registered (%s), partitioned by %s, %s, time zone %s, integrity %s.", d.Table, done, d.Mode, d.Key, d.Interval, d.TimeZone, map[bool]string{true: "on", false: "off"}[d.Integrity])
	}
	if d.OldTable != nil {
		t.Line("%s copied. The old table is %s now; drop it when it is not needed any more.", wereOf(*d.Rows, "row"), *d.OldTable)
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
		return
	}
	if d.Registered && d.Integrity && d.Mode != string(partitions.AdoptRegister) {
		t.Line("")
		t.Line("UPDATE, DELETE and TRUNCATE of it are refused from now on.")
		t.Line("Next: auditdb integrity seal %s", d.Table)
	}
}
