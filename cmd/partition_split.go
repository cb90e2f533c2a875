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

// partitionSplitDoc is auditdb.partition.split.v1.
type partitionSplitDoc struct {
	Table          string        `json:"table"`
	Partition      string        `json:"partition"`
	Interval       string        `json:"interval"`
	Created        []splitPiece  `json:"created"`
	Aborted        bool          `json:"aborted"` // an interrupted run was taken back, or would be
	Failed         []failedEntry `json:"failed"`
	DryRun         bool          `json:"dry_run"`
	Incomplete     bool          `json:"incomplete"` // --max-duration was over
	ElapsedSeconds float64       `json:"elapsed_seconds"`
	Plan           plan.Plan     `json:"plan"`
}

type splitPiece struct {
	boundsDoc
	Rows *int64 `json:"rows"` // null in a dry run
}

// partitionSplitOptions are the flags of partition split.
type partitionSplitOptions struct {
	partition, interval, zone string
	maxDuration               *time.Duration
	abort, dryRun             bool
}

func newPartitionSplitCmd(app *App) *cobra.Command {
	var o partitionSplitOptions
	cmd := &cobra.Command{
		Use:   "split PARTITION",
		Short: "Cut a wide partition into intervals",
		Long: "Copies the rows of a partition into new ones, one for each interval of its range, compares both, and puts the new ones into its place\n" +
			"at one moment, so that every reader sees each row exactly once. Inserts go on all the time; UPDATE and DELETE of the partition's rows\n" +
			"are refused meanwhile. It needs room for a second copy of the rows. An interrupted run is gone on with by the next, or taken back with\n" +
			"--abort. The integrity log knows where the rows went.",
		Example: "  auditdb partition split audit_log_history --interval monthly --dry-run\n  auditdb partition split audit_log_history --interval monthly --max-duration 2h\n" +
			"  auditdb partition split audit_log_history --abort",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.partition = args[0]
			if *o.maxDuration < 0 {
				return usage(cmd.CommandPath(), "", "--max-duration cannot be negative")
			}
			if o.interval != "" {
				if _, err := partitions.ParseInterval(o.interval); err != nil {
					return err
				}
			}
			return runPartitionSplit(cmd.Context(), app, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.interval, "interval", "", "`LENGTH` of the pieces: hourly to yearly, 6h, 15d, 2w … (default: the table's)")
	f.StringVar(&o.zone, "time-zone", "", "`ZONE` whose midnights are the bounds (default: the table's, else UTC)")
	o.maxDuration = durationFlag(f, "max-duration", 0, "stop copying after this time, to go on another time, exit 0 (0: never)")
	f.BoolVar(&o.abort, "abort", false, "take back what an interrupted run has left; no row is lost")
	f.BoolVar(&o.dryRun, "dry-run", false, "print the plan and change nothing")
	_ = cmd.RegisterFlagCompletionFunc("interval", completeIntervals) // the flag exists
	return cmd
}

// splitting is the split of one partition.
type splitting struct {
	change[*partitions.SplitDraft]
	source     partitions.Partition
	table      partitions.Table
	made       []partitions.Created
	incomplete bool
}

func runPartitionSplit(ctx context.Context, app *App, o partitionSplitOptions) error {
	db, err := app.Postgres(ctx, "partition.split")
	if err != nil {
		return err
	}
	table, source, err := partitions.ResolvePartition(ctx, db, o.partition)
	if err != nil {
		return err
	}
	s := &splitting{source: source}
	begin := func(worker *partitions.Worker, r resolved) (*change[*partitions.SplitDraft], error) {
		return &s.change, s.begin(app, worker, r, o)
	}
	return changePartitions(ctx, app, "partition.split", []string{table.Ident()}, planOptions{dryRun: o.dryRun}, begin, func(r changeRun) error {
		doc := s.document(o)
		doc.Failed, doc.ElapsedSeconds, doc.Plan = r.failed, r.elapsed, r.plan
		app.Summarize(map[string]any{"created": len(doc.Created), "failed": len(doc.Failed), "incomplete": doc.Incomplete, "dry_run": o.dryRun})
		if r.silent {
			return nil
		}
		return app.Emit("partition.split", doc, doc.print)
	})
}

func (s *splitting) begin(app *App, worker *partitions.Worker, r resolved, o partitionSplitOptions) error {
	s.table = r.table
	s.change = change[*partitions.SplitDraft]{name: r.name, err: r.err, plan: func(d *partitions.SplitDraft) plan.Plan { return d.Plan }}
	if r.err != nil {
		return nil //nolint:nilerr // it stays with the change
	}
	if err := applyZone(&s.table, o.zone, o.interval); err != nil {
		return err
	}
	progress := copyProgress(app, "split "+s.source.String())
	options := partitions.SplitOptions{Interval: s.table.Interval, Until: until(app, *o.maxDuration), OnRows: progress.rows}
	s.draft = func(ctx context.Context) (*partitions.SplitDraft, error) {
		if !o.abort {
			return worker.DraftSplit(ctx, s.table, s.source, options)
		}
		d, err := worker.DraftAbort(ctx, s.table, "split")
		if err != nil {
			return nil, err
		}
		return &partitions.SplitDraft{Table: s.table, Source: s.source, Plan: d.Plan}, nil
	}
	s.locked = func(ctx context.Context, fn func(context.Context) error) error {
		return worker.Locked(ctx, s.table, fn)
	}
	s.apply = func(ctx context.Context, d *partitions.SplitDraft) (err error) {
		defer progress.done()
		if o.abort {
			_, err = worker.AbortSplit(ctx, s.table, s.source)
			return err
		}
		s.made, err = worker.ApplySplit(ctx, d, nil)
		s.partly = len(s.made) > 0
		if errors.Is(err, partitions.ErrIncomplete) {
			s.incomplete, err = true, nil
		}
		return err
	}
	return nil
}

// document says what was done, or would be.
func (s *splitting) document(o partitionSplitOptions) partitionSplitDoc {
	doc := partitionSplitDoc{Table: s.name, Partition: s.source.Name, Interval: string(s.table.Interval), Created: []splitPiece{}, DryRun: o.dryRun, Incomplete: s.incomplete}
	if !s.seen {
		return doc
	}
	doc.Aborted = o.abort && len(s.result.Plan.Steps) > 0
	if o.dryRun {
		for _, p := range s.result.Parts {
			doc.Created = append(doc.Created, splitPiece{boundsDoc: describeBounds(p)})
		}
	}
	for _, p := range s.made {
		doc.Created = append(doc.Created, splitPiece{describeBounds(p.Partition), &p.Moved})
	}
	return doc
}

func (d partitionSplitDoc) print(t *output.Table) {
	if d.DryRun {
		t.Line("Dry run: nothing was changed. Plan %s.", d.Plan.Digest())
	}
	switch {
	case d.Aborted:
		t.Line("%s: %s an interrupted split; no row is lost.", d.Partition, map[bool]string{true: "would take back", false: "took back"}[d.DryRun])
	case d.Incomplete:
		t.Line("%s: the time was over. What was copied stays: the same command goes on from there, and --abort takes it back.", d.Partition)
	default:
		t.Line("%s: %s %s of %s.", d.Partition, map[bool]string{true: "would be cut into", false: "cut into"}[d.DryRun], countOf(len(d.Created), d.Interval+" partition"), d.Table)
	}
	t.Header("created", "from", "to", "rows")
	for _, p := range d.Created {
		t.Row(p.Name, cellTime(p.From), cellTime(p.To), rowsCell(p.Rows))
	}
	printSkipped(t, d.Plan)
	if d.DryRun {
		t.Line("")
		printSteps(t.Line, d.Plan)
	}
}
