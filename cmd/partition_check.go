package cmd

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/pkg/partitions"
)

// partitionCheckDoc is auditdb.partition.check.v1.
type partitionCheckDoc struct {
	Tables   []string         `json:"tables"` // that were looked at
	Problems []partitionIssue `json:"problems"`
	Failed   []failedEntry    `json:"failed"`
}

// partitionIssue is one problem, and what to do about it.
type partitionIssue struct {
	Table     string                 `json:"table"`
	Kind      partitions.ProblemKind `json:"kind"`
	Partition *string                `json:"partition"` // null: the table as a whole
	Detail    string                 `json:"detail"`
	Hint      string                 `json:"hint"`
}

// partitionCheckOptions are the flags of partition check.
type partitionCheckOptions struct {
	minRunway string
	tables    []string
}

func newPartitionCheckCmd(app *App) *cobra.Command {
	var o partitionCheckOptions
	cmd := &cobra.Command{
		Use:   "check [TABLE]",
		Short: "Look for problems of partitions; exit 4 when there are any",
		Long: "For CI and monitoring: gap (a range has no partition, though it was not pruned), overlap, runway (rows of the near future will find no\n" +
			"partition), default_rows, detach_pending, orphan (left by a run that was interrupted), drift (owner, indexes, constraints, options or\n" +
			"grants are not those of the table and the other partitions), missing_guard. It changes nothing and works on a hot standby.",
		Example: "  auditdb partition check\n  auditdb partition check audit.events --min-runway 14d -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.tables = args
			return runPartitionCheck(cmd.Context(), app, o)
		},
	}
	cmd.Flags().StringVar(&o.minRunway, "min-runway", "", "how far ahead partitions have to reach, a `SPAN` such as 14d (default: through the next interval)")
	return listOutput(cmd)
}

func runPartitionCheck(ctx context.Context, app *App, o partitionCheckOptions) error {
	var runway *partitions.Span
	if o.minRunway != "" {
		span, err := ParseSpan(o.minRunway)
		if err != nil {
			return usage("auditdb partition check", fault.HintOf(err), "--min-runway: %w", err)
		}
		runway = &partitions.Span{Months: span.Months, Days: span.Days, Time: time.Duration(span.Hours) * time.Hour}
	}
	db, err := app.Postgres(ctx, "partition.check")
	if err != nil {
		return err
	}
	tables, err := findTables(ctx, db, o.tables, partitions.ResolveToRead)
	if err != nil {
		return err
	}
	worker := partitions.NewWorker(partitions.Options{DB: db, Now: app.Now, LockTimeout: app.Config.LockTimeout, Wait: app.Config.Wait})
	doc := partitionCheckDoc{Tables: []string{}, Problems: []partitionIssue{}}
	changes := make([]*change[[]partitions.Problem], len(tables))
	for i, t := range tables {
		c := &change[[]partitions.Problem]{name: t.name, err: t.err}
		if c.err == nil {
			var opts partitions.CheckOptions
			if runway != nil {
				opts.Until = t.table.KeyTime(runway.After(app.Now(), t.table.Location))
			}
			if c.result, c.err = worker.Examine(ctx, t.table, opts); c.err == nil {
				doc.add(t.name, c.result)
			}
		}
		changes[i] = c
	}
	var failed error
	doc.Failed, failed = failures(changes)
	if len(doc.Tables) > 0 {
		if err := app.EmitList("partition.check", doc, doc.Problems, doc.print); err != nil {
			return err
		}
	}
	if failed != nil {
		return failed
	}
	return partitions.Worst(len(doc.Problems))
}

func (d *partitionCheckDoc) add(table string, found []partitions.Problem) {
	d.Tables = append(d.Tables, table)
	for _, p := range found {
		e := partitionIssue{Table: table, Kind: p.Kind, Detail: p.Detail, Hint: p.Hint}
		if p.Partition != "" {
			e.Partition = &p.Partition
		}
		d.Problems = append(d.Problems, e)
	}
}

func (d partitionCheckDoc) print(t *output.Table) {
	for _, table := range d.Tables {
		none := true
		for _, p := range d.Problems {
			if p.Table != table {
				continue
			}
			none = false
			where := ""
			if p.Partition != nil {
				where = " " + *p.Partition
			}
			t.Line("%s: %s:%s %s.", table, p.Kind, where, p.Detail)
			t.Line("  -> %s", p.Hint)
		}
		if none {
			t.Line("%s: no problems.", table)
		}
	}
}
