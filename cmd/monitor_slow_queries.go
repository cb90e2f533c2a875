package cmd

import (
	"context"
	"strconv"
	"strings"
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
	var mean, period, every *time.Duration
	cmd := &cobra.Command{
		Use:   "slow-queries",
		Short: "Show the statements that take the server's time",
		Long: "From pg_stat_statements, of the connected database, since its counters were last reset; they are never reset here. A hint stands where a\n" +
			"statement reads much for what it returns (an index may be missing), or spills to disk. With --period only what they took in that time, by the\n" +
			"samples that health --record keeps: each hour one, for eight days, of the 200 statements that took the most time.",
		Example: "  auditdb monitor slow-queries\n  auditdb monitor slow-queries --sort mean --min-mean 100ms --limit 5\n  auditdb monitor slow-queries --period 1d -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.MinMean, o.Period = *mean, *period
			if o.Limit < 1 || o.MinCalls < 0 || o.MinMean < 0 || o.Period < 0 {
				return usage(cmd.CommandPath(), "", "--limit must be at least 1, and --min-calls, --min-mean and --period cannot be negative")
			}
			return app.watch(cmd.Context(), "monitor slow-queries", *every, func(ctx context.Context) error { return runMonitorSlow(ctx, app, o) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Sort, "sort", "total", "`ORDER`, the greatest first: total, mean, max (time), calls, rows, blocks, temp, wal")
	f.IntVar(&o.Limit, "limit", 20, "show so many")
	f.Int64Var(&o.MinCalls, "min-calls", 1, "only statements that were called as often")
	mean = durationFlag(f, "min-mean", 0, "only statements that take this long on average")
	period = durationFlag(f, "period", 0, "only what statements took in this time up to now, by recorded samples")
	every = watchFlag(f)
	_ = cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(monitor.StatementOrders(), cobra.ShellCompDirectiveNoFileComp)) // the flag exists
	return listOutput(cmd)
}

func runMonitorSlow(ctx context.Context, app *App, o monitor.StatementOptions) error {
	db, err := app.Postgres(ctx, "monitor.slow-queries")
	if err != nil {
		return err
	}
	o.Now = app.Now()
	found, err := monitor.SlowStatements(ctx, db.Pool(), o)
	if err != nil {
		return err
	}
	doc := monitorSlowDoc{Sort: o.Sort, Statements: *found}
	if doc.Hidden > 0 {
		app.Warn("%s of other users may not be seen: GRANT pg_read_all_stats TO the user that connects", countOf(doc.Hidden, "statement"))
	}
	if o.Period > 0 && doc.Since != nil && doc.Since.After(o.Now.Add(-o.Period)) {
		app.Warn("the statements are counted from %s on: there is no older sample, or the counters were reset", output.Cell(*doc.Since))
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
		total, mean := s.TotalSeconds, s.MeanSeconds
		t.Row(i+1, secondsCell(&total), secondsCell(&mean), secondsCell(s.MaxSeconds), s.Calls, s.Rows, s.BlocksHit+s.BlocksRead, output.Cut(ownMark(s)+shorten(s.Query, 100)))
	}
	var unrecorded []string
	for i, s := range d.Entries {
		if s.Unrecorded {
			unrecorded = append(unrecorded, strconv.Itoa(i+1))
		}
	}
	if len(unrecorded) > 0 {
		t.Line("Not in the sample, and counted from the first call on: %s.", strings.Join(unrecorded, ", "))
	}
	for i, s := range d.Entries {
		if s.Hint != nil {
			t.Line("Statement %d %s.", i+1, *s.Hint)
		}
	}
}
