package cmd

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/output"
	"auditdb/pkg/partitions"
	"auditdb/pkg/plan"
	"auditdb/pkg/retention"
)

// partitionPruneDoc is auditdb.partition.prune.v1.
type partitionPruneDoc struct {
	Tables         []partitionPruneTable `json:"tables"`
	Failed         []failedEntry         `json:"failed"`
	DryRun         bool                  `json:"dry_run"`
	ElapsedSeconds float64               `json:"elapsed_seconds"`
	Plan           plan.Plan             `json:"plan"`
}

type partitionPruneTable struct {
	Table  string        `json:"table"`
	Cutoff *time.Time    `json:"cutoff"` // null: no policy
	Pruned []prunedEntry `json:"pruned"`
	Kept   []keptEntry   `json:"kept"`
}

type prunedEntry struct {
	Schema    string            `json:"schema"` // where a detached partition is now
	Name      string            `json:"name"`
	From      *time.Time        `json:"from"`
	To        *time.Time        `json:"to"`
	Action    partitions.Action `json:"action"`
	Rows      *int64            `json:"rows"`
	SizeBytes *int64            `json:"size_bytes"`
}

type keptEntry struct {
	Name   string            `json:"name"`
	Reason partitions.Reason `json:"reason"`
}

// partitionPruneOptions are the flags of partition prune.
type partitionPruneOptions struct {
	olderThan, partition, action string
	detachSchema, digest         string
	minKeep, maxDrop             int
	minKeepSet, maxDropSet       bool
	dryRun                       bool
	tables                       []string
}

func newPartitionPruneCmd(app *App) *cobra.Command {
	var o partitionPruneOptions
	cmd := &cobra.Command{
		Use:   "prune [TABLE]",
		Short: "Drop or detach partitions that have expired",
		Long: "A partition goes when its upper bound is at or before the cutoff: --older-than for this run, or the table's row in auditdb.policy;\n" +
			"without either nothing is pruned. Never the default partition, one that reaches beyond now, one that a row of auditdb.hold covers, one\n" +
			"that the policy wants archived first, or one whose latest verify-integrity found an error. A detached partition stays a table of its\n" +
			"own, with --detach-schema in another schema, and partition create does not make its range again. What an interrupted run has left is\n" +
			"finished first. It asks, or needs --yes. A transaction in the way is waited for up to --wait, then named (exit 5), whatever was done.",
		Example: "  auditdb partition prune --dry-run\n  auditdb partition prune --older-than 13mo --yes\n" +
			"  auditdb partition prune public.audit_log --partition audit_log_2024_01 --older-than 1y --action detach\n" +
			"  auditdb partition prune --action detach --detach-schema attic --yes",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.tables = args
			o.minKeepSet, o.maxDropSet = cmd.Flags().Changed("min-keep"), cmd.Flags().Changed("max-drop")
			if err := o.check(cmd); err != nil {
				return err
			}
			return runPartitionPrune(cmd.Context(), app, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.olderThan, "older-than", "", "prune what ended before this `TIME` or span back from now; needs no policy and no archive")
	f.StringVar(&o.partition, "partition", "", "only the partition `NAME`; exit 6 when it has to be kept")
	f.StringVar(&o.action, "action", "", "drop or detach (default: the policy's, else drop)")
	f.StringVar(&o.detachSchema, "detach-schema", "", "bring detached partitions to this `SCHEMA`, quoted as in SQL; with --action detach")
	f.IntVar(&o.minKeep, "min-keep", partitions.DefaultMinKeep, "keep the newest `N` partitions in any case")
	f.IntVar(&o.maxDrop, "max-drop", partitions.DefaultMaxDrop, "prune at most `N` partitions of a table, the oldest")
	f.StringVar(&o.digest, "plan-digest", "", "refuse (exit 6) unless the plan has this `DIGEST` of a dry run")
	f.BoolVar(&o.dryRun, "dry-run", false, "print the plan and change nothing")
	_ = cmd.RegisterFlagCompletionFunc("action", cobra.FixedCompletions([]string{"drop", "detach"}, cobra.ShellCompDirectiveNoFileComp)) // the flag exists
	return cmd
}

func (o partitionPruneOptions) check(cmd *cobra.Command) error {
	path := cmd.CommandPath()
	switch {
	case o.action != "" && o.action != string(partitions.Drop) && o.action != string(partitions.Detach):
		return usage(path, "", "--action is drop or detach, not %q", o.action)
	case o.detachSchema != "" && o.action == string(partitions.Drop):
		return usage(path, "", "--detach-schema goes with --action detach")
	case o.minKeep < 0:
		return usage(path, "", "--min-keep cannot be negative")
	case o.maxDrop < 1:
		return usage(path, "", "--max-drop must be positive")
	}
	return nil
}

// pruning is one table's prune.
type pruning struct {
	change[*partitions.PruneDraft]
	table partitions.Table
	done  []partitions.Pruned
}

func runPartitionPrune(ctx context.Context, app *App, o partitionPruneOptions) error {
	var prunings []*pruning
	begin := func(worker *partitions.Worker, r resolved) (*change[*partitions.PruneDraft], error) {
		p, err := newPruning(ctx, app, worker, r, o)
		if err != nil {
			return nil, err
		}
		prunings = append(prunings, p)
		return &p.change, nil
	}
	how := planOptions{
		dryRun: o.dryRun, digest: o.digest,
		confirm: func() string { return questions(prunings) },
		show:    func(p plan.Plan) { showPlan(app, p) },
	}
	return changePartitions(ctx, app, "partition.prune", o.tables, how, begin, func(r changeRun) error {
		doc := partitionPruneDoc{Tables: []partitionPruneTable{}, Failed: r.failed, DryRun: o.dryRun, ElapsedSeconds: r.elapsed, Plan: r.plan}
		for _, p := range prunings {
			if p.seen {
				table, err := p.document(ctx, r.worker, o.dryRun)
				if err != nil {
					return err
				}
				doc.Tables = append(doc.Tables, table)
			}
		}
		app.Summarize(doc.summary())
		if r.silent {
			return nil
		}
		return app.Emit("partition.prune", doc, doc.print)
	})
}

func newPruning(ctx context.Context, app *App, worker *partitions.Worker, r resolved, o partitionPruneOptions) (*pruning, error) {
	p := &pruning{table: r.table}
	p.change = change[*partitions.PruneDraft]{name: r.name, err: r.err, plan: func(d *partitions.PruneDraft) plan.Plan { return d.Plan }}
	if p.err != nil {
		return p, nil //nolint:nilerr // it stays with the change
	}
	opts := partitions.PruneOptions{Partition: o.partition, Action: partitions.Action(o.action), DetachSchema: o.detachSchema}
	if o.minKeepSet {
		opts.MinKeep = &o.minKeep
	}
	if o.maxDropSet {
		opts.MaxDrop = &o.maxDrop
	}
	if o.olderThan != "" {
		cutoff, err := keyTime(app, p.table, "older-than", o.olderThan)
		if err != nil {
			return nil, err
		}
		opts.OlderThan = &cutoff
	}
	if !o.dryRun {
		guard := &retention.Guard{Table: p.table, Policy: o.olderThan == "", Log: app.Log, Runner: func() (*retention.Runner, error) {
			return pruneRunner(ctx, app, worker)
		}}
		opts.Vet, opts.Recheck = guard.Vet, guard.Recheck
	}
	p.draft = func(ctx context.Context) (*partitions.PruneDraft, error) {
		return worker.DraftPrune(ctx, p.table, opts)
	}
	p.locked = func(ctx context.Context, fn func(context.Context) error) error {
		return worker.Locked(ctx, p.table, fn)
	}
	p.apply = func(ctx context.Context, d *partitions.PruneDraft) error {
		progress := app.Progress("prune partitions of "+p.name, int64(len(d.Plan.Steps)), output.Items)
		defer progress.Done()
		var err error
		p.done, err = worker.ApplyPrune(ctx, d, func(plan.Result) { progress.Add(1) })
		if p.partly = len(p.done) > 0; p.partly {
			app.forgetCached(ctx, "partition.prune", p.table)
		}
		return err
	}
	return p, nil
}

// pruneRunner looks at partitions before they are dropped, as retention run does.
func pruneRunner(ctx context.Context, app *App, worker *partitions.Worker) (*retention.Runner, error) {
	db, err := app.Postgres(ctx, "partition.prune")
	if err != nil {
		return nil, err
	}
	return newRetentionRunner(ctx, app, db, worker, retentionRunOptions{}, app.Now())
}

// questions is what the user is asked.
func questions(prunings []*pruning) string {
	var texts []string
	for _, p := range prunings {
		if p.seen && len(p.result.Goes) > 0 {
			texts = append(texts, p.result.Question())
		}
	}
	return strings.Join(texts, "; ")
}

// showPlan prints the steps where the question will be asked.
func showPlan(app *App, p plan.Plan) {
	var text strings.Builder
	for _, s := range p.Steps { // all of them: who is asked sees what would be lost
		printStep(func(format string, args ...any) { fmt.Fprintf(&text, format+"\n", args...) }, s)
		text.WriteByte('\n')
	}
	_, _ = io.WriteString(app.Err, text.String()) // nowhere is left to complain
}

// document says what was done to the table, or would be.
func (p *pruning) document(ctx context.Context, worker *partitions.Worker, dryRun bool) (partitionPruneTable, error) {
	d := partitionPruneTable{Table: p.name, Cutoff: p.result.Cutoff, Pruned: []prunedEntry{}, Kept: []keptEntry{}}
	for _, k := range p.result.Kept {
		d.Kept = append(d.Kept, keptEntry{Name: k.Name, Reason: k.Reason})
	}
	gone := p.done
	if dryRun {
		for _, part := range p.result.Goes {
			rows, err := worker.CountRows(ctx, part)
			if err != nil {
				return partitionPruneTable{}, err
			}
			gone = append(gone, partitions.Pruned{Partition: part, Action: p.result.Action, Rows: rows})
		}
	}
	for _, g := range gone {
		e := prunedEntry{Schema: g.Schema, Name: g.Name, Action: g.Action, Rows: known(g.Rows), SizeBytes: known(g.SizeBytes)}
		e.From, e.To = ends(g.Partition)
		d.Pruned = append(d.Pruned, e)
	}
	return d, nil
}

func (d partitionPruneDoc) summary() map[string]any {
	pruned, kept := 0, 0
	for _, t := range d.Tables {
		pruned, kept = pruned+len(t.Pruned), kept+len(t.Kept)
	}
	return map[string]any{"pruned": pruned, "kept": kept, "failed": len(d.Failed), "dry_run": d.DryRun}
}

func (d partitionPruneDoc) print(t *output.Table) {
	if d.DryRun {
		t.Line("Dry run: nothing was changed. Plan %s.", d.Plan.Digest())
	}
	for _, table := range d.Tables {
		cutoff := "no policy, so nothing is pruned (--older-than is one for a single run)"
		if table.Cutoff != nil {
			cutoff = "cutoff " + output.Cell(*table.Cutoff)
		}
		t.Line("%s: %s %s, kept %d%s; %s.", table.Table, map[bool]string{true: "would prune", false: "pruned"}[d.DryRun], countOf(len(table.Pruned), "partition"),
			len(table.Kept), table.reasons(), cutoff)
		t.Header("pruned", "from", "to", "rows", "size", "action")
		for _, p := range table.Pruned {
			t.Row(p.Name, cellTime(p.From), cellTime(p.To), rowsCell(p.Rows), sizeCell(p.SizeBytes), string(p.Action))
		}
		table.printKept(t)
	}
	printSkipped(t, d.Plan)
	if d.DryRun {
		t.Line("")
		printSteps(t.Line, d.Plan)
	}
}

// reasons counts why partitions were kept: " (36 not expired, 4 future)".
func (d partitionPruneTable) reasons() string {
	counts := map[partitions.Reason]int{}
	var order []partitions.Reason
	for _, k := range d.Kept {
		if counts[k.Reason]++; counts[k.Reason] == 1 {
			order = append(order, k.Reason)
		}
	}
	if len(order) == 0 {
		return ""
	}
	texts := make([]string, len(order))
	for i, r := range order {
		texts[i] = fmt.Sprintf("%d %s", counts[r], strings.ReplaceAll(string(r), "_", " "))
	}
	return " (" + strings.Join(texts, ", ") + ")"
}

// printKept names the partitions that were kept although they have expired; the others are as they should be. Many in a row with the
// same reason take one line.
func (d partitionPruneTable) printKept(t *output.Table) {
	const many = 5
	t.Header("kept", "why")
	for kept := d.Kept; len(kept) > 0; {
		n := 1
		for n < len(kept) && kept[n].Reason == kept[0].Reason {
			n++
		}
		run := kept[:n]
		kept = kept[n:]
		switch reason := run[0].Reason; {
		case reason == partitions.KeptNotExpired || reason == partitions.KeptFuture || reason == partitions.KeptDefault || reason == partitions.KeptNoPolicy:
		case n > many:
			t.Row(fmt.Sprintf("%s to %s (%d)", run[0].Name, run[n-1].Name, n), reason.Text())
		default:
			for _, k := range run {
				t.Row(k.Name, reason.Text())
			}
		}
	}
}
