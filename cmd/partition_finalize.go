package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"auditdb/internal/output"
	"auditdb/pkg/partitions"
	"auditdb/pkg/plan"
)

// partitionFinalizeDoc is auditdb.partition.finalize.v1.
type partitionFinalizeDoc struct {
	Tables         []partitionFinalizeTable `json:"tables"`
	Failed         []failedEntry            `json:"failed"`
	DryRun         bool                     `json:"dry_run"`
	ElapsedSeconds float64                  `json:"elapsed_seconds"`
	Plan           plan.Plan                `json:"plan"`
}

type partitionFinalizeTable struct {
	Table     string      `json:"table"`
	Finalized []boundsDoc `json:"finalized"`
}

func newPartitionFinalizeCmd(app *App) *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "finalize [TABLE]",
		Short: "End a detach that is pending",
		Long: "A DETACH CONCURRENTLY that was interrupted leaves its partition pending: rows of its range cannot be inserted, and no other partition\n" +
			"can be detached. This ends it. The rows stay in a table of their own, which is no partition any more; partition prune, which begins with\n" +
			"the same, drops those that it meant to drop. Detached tables that were on their way to another schema are brought there.",
		Example: "  auditdb partition finalize\n  auditdb partition finalize audit.events --dry-run",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPartitionFinalize(cmd.Context(), app, args, dryRun)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print the plan and change nothing")
	return cmd
}

// finalization is one table's finalize.
type finalization struct {
	change[*partitions.PruneDraft]
	done []partitions.Partition
}

func runPartitionFinalize(ctx context.Context, app *App, tables []string, dryRun bool) error {
	var all []*finalization
	begin := func(worker *partitions.Worker, r resolved) (*change[*partitions.PruneDraft], error) {
		f := newFinalization(app, worker, r)
		all = append(all, f)
		return &f.change, nil
	}
	return changePartitions(ctx, app, "partition.finalize", tables, planOptions{dryRun: dryRun}, begin, func(r changeRun) error {
		doc := partitionFinalizeDoc{Tables: []partitionFinalizeTable{}, Failed: r.failed, DryRun: dryRun, ElapsedSeconds: r.elapsed, Plan: r.plan}
		finalized := 0
		for _, f := range all {
			if f.seen {
				table := f.document(dryRun)
				finalized += len(table.Finalized)
				doc.Tables = append(doc.Tables, table)
			}
		}
		app.Summarize(map[string]any{"finalized": finalized, "failed": len(doc.Failed), "dry_run": dryRun})
		if r.silent {
			return nil
		}
		return app.Emit("partition.finalize", doc, doc.print)
	})
}

func newFinalization(app *App, worker *partitions.Worker, r resolved) *finalization {
	f := &finalization{}
	f.change = change[*partitions.PruneDraft]{name: r.name, err: r.err, plan: func(d *partitions.PruneDraft) plan.Plan { return d.Plan }}
	f.draft = func(ctx context.Context) (*partitions.PruneDraft, error) { return worker.DraftFinalize(ctx, r.table) }
	f.locked = func(ctx context.Context, fn func(context.Context) error) error {
		return worker.Locked(ctx, r.table, fn)
	}
	f.apply = func(ctx context.Context, d *partitions.PruneDraft) error {
		progress := app.Progress("finalize detached partitions of "+f.name, int64(len(d.Plan.Steps)), output.Items)
		defer progress.Done()
		left := map[string]bool{}
		for _, p := range d.Pending {
			left[p.String()] = true
		}
		_, err := worker.ApplyPrune(ctx, d, func(r plan.Result) {
			progress.Add(1)
			f.partly = f.partly || r.Err == nil
			if r.Err == nil {
				left[r.Step.Name] = false
			}
		})
		for _, p := range d.Pending {
			if !left[p.String()] {
				f.done = append(f.done, p)
			}
		}
		return err
	}
	return f
}

// document says what was ended, or would be.
func (f *finalization) document(dryRun bool) partitionFinalizeTable {
	d := partitionFinalizeTable{Table: f.name, Finalized: []boundsDoc{}}
	ended := f.done
	if dryRun {
		ended = f.result.Pending
	}
	for _, p := range ended {
		d.Finalized = append(d.Finalized, describeBounds(p))
	}
	return d
}

func (d partitionFinalizeDoc) print(t *output.Table) {
	if d.DryRun {
		t.Line("Dry run: nothing was changed. Plan %s.", d.Plan.Digest())
	}
	for _, table := range d.Tables {
		t.Line("%s: %s the detach of %s.", table.Table, map[bool]string{true: "would end", false: "ended"}[d.DryRun], countOf(len(table.Finalized), "partition"))
		t.Header("detached", "from", "to")
		for _, p := range table.Finalized {
			t.Row(p.Name, cellTime(p.From), cellTime(p.To))
		}
	}
	if d.DryRun {
		t.Line("")
		printSteps(t.Line, d.Plan)
	}
}
