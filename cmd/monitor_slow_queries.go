package cmd

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/output"
	"auditdb/pkg/monitor"
)

// monitorSlowDoc is auditdb.monitor.slow-queries.v1.
type monitorSlowDoc struct {
	Sort string `json:"sort"`
	monitor.Statements
}

func newMonitorSlowCmd(app *App) *cobra.Command {
	var o monitor.StatementOptions
	var mean, every *time.Duration
	cmd := &cobra.Command{
		Use:   "slow-queries",
		Short: "Show the statements that take the server's time",
		Long: "From pg_stat_statements, of the connected database, since its counters were last reset; they are never reset here. A hint stands where a\n" +
			"statement reads much for what it returns (an index may be missing), or spills to disk.",
		Example: "  auditdb monitor slow-queries\n  auditdb monitor slow-queries --sort mean --min-mean 100ms --limit 5\n  auditdb monitor slow-queries -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.MinMean = *mean
			if o.Limit < 1 || o.MinCalls < 0 || o.MinMean < 0 {
				return usage(cmd.CommandPath(), "", "--limit must be at least 1, and --min-calls and --min-mean cannot be negative")
			}
			return app.watch(cmd.Context(), "monitor slow-queries", *every, func(ctx context.Context) error { return runMonitorSlow(ctx, app, o) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Sort, "sort", "total", "`ORDER`, the greatest first: total, mean, max (time), calls, rows, blocks, temp, wal")
	f.IntVar(&o.Limit, "limit", 20, "show so many")
	f.Int64Var(&o.MinCalls, "min-calls", 1, "only statements that were called as often")
	mean = durationFlag(f, "min-mean", 0, "only statements that take this long on average")
	every = watchFlag(f)
	_ = cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(monitor.StatementOrders(), cobra.ShellCompDirectiveNoFileComp)) // the flag exists
	return listOutput(cmd)
}

func runMonitorSlow(ctx context.Context, app *App, o monitor.StatementOptions) error {
	db, err := app.Postgres(ctx, "monitor.slow-queries")
	if err != nil {
		return err
	}
	found, err := monitor.SlowStatements(ctx, db.Pool(), o)
	if err != nil {
		return err
	}
	doc := monitorSlowDoc{Sort: o.Sort, Statements: *found}
	if doc.Hidden > 0 {
		app.Warn("%s of other users may not be seen: GRANT pg_read_all_stats TO the user that connects", countOf(doc.Hidden, "statement"))
	}
	return app.EmitList("monitor.slow-queries", doc, doc.Entries, doc.print)
}

// ownMark marks a statement of auditdb's upkeep, which is not the application's.
func ownMark(s monitor.Statement) string {
	if s.Own() {
		return "(auditdb) "
	}
	return ""
}

func (d monitorSlowDoc) print(t *output.Table) {
	since := ""
	if d.Since != nil {
		since = ", since " + output.Cell(*d.Since)
	}
	t.Line("%s by %s%s.", countOf(len(d.Entries), "statement"), d.Sort, since)
	t.Header("no", "total", "mean", "max", "calls", "rows", "blocks", "statement")
	for i, s := range d.Entries {
		total, mean, longest := s.TotalSeconds, s.MeanSeconds, s.MaxSeconds
		t.Row(i+1, secondsCell(&total), secondsCell(&mean), secondsCell(&longest), s.Calls, s.Rows, s.BlocksHit+s.BlocksRead, output.Cut(ownMark(s)+shorten(s.Query, 100)))
	}
	for i, s := range d.Entries {
		if s.Hint != nil {
			t.Line("Statement %d %s.", i+1, *s.Hint)
		}
	}
}
