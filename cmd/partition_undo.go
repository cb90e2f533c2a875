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

// partitionUndoDoc is auditdb.partition.undo.v1.
type partitionUndoDoc struct {
	Table          string      `json:"table"`
	Mode           string      `json:"mode"`      // detach, copy
	Detached       []boundsDoc `json:"detached"`  // detach
	OldTable       *string     `json:"old_table"` // copy: the partitioned table's name now; null: it was not replaced
	Rows           *int64      `json:"rows"`      // copy: copied, by interrupted runs as well; in a dry run an estimate
	Aborted        bool        `json:"aborted"`
	Incomplete     bool        `json:"incomplete"` // --max-duration was over
	DryRun         bool        `json:"dry_run"`
	ElapsedSeconds float64     `json:"elapsed_seconds"`
	Plan           plan.Plan   `json:"plan"`
}

type partitionUndoOptions struct {
	mode          string
	abort, dryRun bool
	digest        string
	maxDuration   *time.Duration
}

func newPartitionUndoCmd(app *App) *cobra.Command {
	var o partitionUndoOptions
	cmd := &cobra.Command{
		Use:   "undo TABLE",
		Short: "Take a partitioned table apart again",
		Long: "--mode detach makes every partition a table of its own; the table itself is empty then and takes no rows any more, so that it asks\n" +
			"first, or needs --yes. --mode copy brings all rows into one plain table, in batches while applications go on inserting, compares both\n" +
			"and swaps in one short transaction; the partitioned table stays as TABLE_partitioned until somebody drops it. Interrupted at any\n" +
			"point, the same command goes on. A table with integrity on is not copied: its rows have to stay where their seals say.",
		Example: "  auditdb partition undo audit.events --mode copy --dry-run\n  auditdb partition undo audit.events --mode copy\n  auditdb partition undo audit.events --mode detach --yes\n" +
			"  auditdb partition undo audit.events --mode copy --abort",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.mode != string(partitions.UndoDetach) && o.mode != string(partitions.UndoCopy) {
				return usage(cmd.CommandPath(), "", "--mode is detach or copy, not %q", o.mode)
			}
			return runPartitionUndo(cmd.Context(), app, o, args[0])
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.mode, "mode", "", "detach or copy")
	f.BoolVar(&o.abort, "abort", false, "take back what an interrupted copy has left")
	f.StringVar(&o.digest, "plan-digest", "", "refuse (exit 6) unless the plan has this `DIGEST` of a dry run")
	f.BoolVar(&o.dryRun, "dry-run", false, "print the plan and change nothing")
	o.maxDuration = durationFlag(f, "max-duration", 0, "stop copying after this time, to go on another time, exit 0 (0: never)")
	_ = cmd.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions([]string{"detach", "copy"}, cobra.ShellCompDirectiveNoFileComp)) // the flag exists
	return cmd
}

// undo takes one table apart.
type undo struct {
	change[*partitions.UndoDraft]
	done       partitions.Undone
	incomplete bool
}

func runPartitionUndo(ctx context.Context, app *App, o partitionUndoOptions, name string) error {
	opts := partitions.UndoOptions{Mode: partitions.UndoMode(o.mode), Abort: o.abort}
	if *o.maxDuration > 0 {
		opts.Until = app.Now().Add(*o.maxDuration)
	}
	var x *undo
	begin := func(worker *partitions.Worker, t partitions.Table, _ bool) (*change[*partitions.UndoDraft], error) {
		x = newUndo(app, worker, t, opts)
		return &x.change, nil
	}
	plans := planOptions{dryRun: o.dryRun, digest: o.digest, show: func(p plan.Plan) { showPlan(app, p) }}
	if opts.Mode == partitions.UndoDetach && !o.abort {
		plans.confirm = func() string { return x.result.Question() }
	}
	return changeTable(ctx, app, "partition.undo", name, plans, begin, func(p plan.Plan, elapsed float64) error {
		doc := x.document(p, elapsed, o)
		app.Summarize(map[string]any{"mode": doc.Mode, "detached": len(doc.Detached), "rows": doc.Rows, "aborted": doc.Aborted, "incomplete": doc.Incomplete, "dry_run": o.dryRun})
		return app.Emit("partition.undo", doc, doc.print)
	})
}

func newUndo(app *App, worker *partitions.Worker, t partitions.Table, o partitions.UndoOptions) *undo {
	x := &undo{}
	progress := output.Silent()
	shown := int64(0)
	o.OnRows = func(rows, _ int64) {
		progress.Add(rows - shown)
		shown = rows
	}
	x.change = change[*partitions.UndoDraft]{name: t.String(), plan: func(d *partitions.UndoDraft) plan.Plan { return d.Plan }}
	x.draft = func(ctx context.Context) (*partitions.UndoDraft, error) { return worker.DraftUndo(ctx, t, o) }
	x.locked = func(ctx context.Context, fn func(context.Context) error) error { return worker.Locked(ctx, t, fn) }
	x.apply = func(ctx context.Context, d *partitions.UndoDraft) error {
		progress = app.Progress("undo "+x.name, d.Rows, output.Rows)
		defer func() { progress.Done() }()
		var err error
		x.done, err = worker.ApplyUndo(ctx, d, nil)
		x.partly = len(x.done.Detached) > 0 || x.done.Rows > 0
		if x.incomplete = errors.Is(err, partitions.ErrIncomplete); x.incomplete {
			return nil
		}
		return err
	}
	return x
}

// document says what was done to the table, or would be.
func (x *undo) document(p plan.Plan, elapsed float64, o partitionUndoOptions) partitionUndoDoc {
	d := partitionUndoDoc{
		Table: x.name, Mode: o.mode, Detached: []boundsDoc{}, Aborted: o.abort && len(p.Steps) > 0, Incomplete: x.incomplete, DryRun: o.dryRun, ElapsedSeconds: elapsed, Plan: p,
	}
	gone := x.done.Detached
	if o.dryRun {
		gone = x.result.Detaches
	}
	for _, part := range gone {
		d.Detached = append(d.Detached, describeBounds(part))
	}
	switch {
	case o.mode != string(partitions.UndoCopy) || o.abort:
	case o.dryRun:
		d.Rows = &x.result.Rows
	default:
		d.OldTable, d.Rows = orNull(x.done.Old), &x.done.Rows
	}
	return d
}

func (d partitionUndoDoc) print(t *output.Table) {
	if d.DryRun {
		t.Line("Dry run: nothing was changed. Plan %s.", d.Plan.Digest())
	}
	switch {
	case d.Aborted:
		t.Line("%s: what an interrupted run had left %s taken back.", d.Table, map[bool]string{true: "would be", false: "was"}[d.DryRun])
	case d.Incomplete:
		t.Line("%s: %s copied so far; the same command goes on.", d.Table, countOf(*d.Rows, "row"))
	case d.OldTable != nil:
		t.Line("%s is a plain table now: %s copied. The partitioned one is %s; drop it when it is not needed any more.", d.Table, wereOf(*d.Rows, "row"), *d.OldTable)
	case d.Rows != nil:
		t.Line("%s: about %s would be copied into a plain table.", d.Table, countOf(*d.Rows, "row"))
	default:
		t.Line("%s: %s %s.", d.Table, map[bool]string{true: "would detach", false: "detached"}[d.DryRun], countOf(len(d.Detached), "partition"))
	}
	t.Header("detached", "from", "to")
	for _, p := range d.Detached {
		t.Row(p.Name, cellTime(p.From), cellTime(p.To))
	}
	printSkipped(t, d.Plan)
	if d.DryRun {
		t.Line("")
		printSteps(t.Line, d.Plan)
	}
}
