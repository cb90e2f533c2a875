package cmd

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/output"
	"auditdb/pkg/monitor"
	"auditdb/pkg/partitions"
)

// monitorGrowthDoc is auditdb.monitor.growth.v1.
type monitorGrowthDoc struct {
	Tables   []monitor.TableGrowth `json:"tables"`
	Recorded *monitor.Recorded     `json:"recorded"` // null: auditdb's schema is not there, or may not be read
	Failed   []failedEntry         `json:"failed"`
}

func newMonitorGrowthCmd(app *App) *cobra.Command {
	var every *time.Duration
	cmd := &cobra.Command{
		Use:   "growth [TABLE]",
		Short: "Show how large partitioned tables are, and how fast they grow",
		Long: "The rate is that of the newest six partitions whose range is over, by what VACUUM and ANALYZE last saw of them. What retention takes away\n" +
			"is not counted. How all databases of the server grew, and when the disk is full, comes from the samples of health --deep --record.",
		Example: "  auditdb monitor growth\n  auditdb monitor growth audit.events -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return app.watch(cmd.Context(), "monitor growth", *every, func(ctx context.Context) error { return runMonitorGrowth(ctx, app, args) })
		},
	}
	every = watchFlag(cmd.Flags())
	return listOutput(cmd)
}

func runMonitorGrowth(ctx context.Context, app *App, names []string) error {
	db, err := app.Postgres(ctx, "monitor.growth")
	if err != nil {
		return err
	}
	tables, err := partitionTables(ctx, db, names)
	if err != nil {
		return err
	}
	doc := monitorGrowthDoc{Tables: []monitor.TableGrowth{}}
	changes := make([]*change[monitor.TableGrowth], len(tables))
	for i, r := range tables {
		c := &change[monitor.TableGrowth]{name: r.name, err: r.err}
		if c.err == nil {
			var catalog *partitions.Catalog
			if catalog, c.err = partitions.LoadSizes(ctx, db.Pool(), r.table); c.err == nil {
				doc.Tables = append(doc.Tables, monitor.Growth(r.table, catalog, r.table.KeyTime(app.Now())))
			}
		}
		changes[i] = c
	}
	if doc.Recorded, err = monitor.ReadRecorded(ctx, db.Pool(), app.Now()); err != nil {
		return err
	}
	var failed error
	doc.Failed, failed = failures(changes)
	if len(doc.Tables) > 0 {
		if err := app.EmitList("monitor.growth", doc, doc.Tables, doc.print); err != nil {
			return err
		}
	}
	return failed
}

func (d monitorGrowthDoc) print(t *output.Table) {
	t.Header("table", "rows ~", "size ~", "rows/day", "size/day", "30 days", "365 days")
	for _, g := range d.Tables {
		t.Row(g.Table, rowsCell(g.Rows), sizeCell(g.SizeBytes), rowsRateCell(g.RowsPerDay), rateCell(g.BytesPerDay), moreCell(g.In30Days), moreCell(g.In365Days))
	}
	for _, g := range d.Tables {
		switch {
		case g.Counted == 0:
			t.Line("%s: no partition with a known size is closed yet, so its growth is not known (ANALYZE makes sizes known).", g.Table)
		case g.UnknownSizes > 0:
			t.Line("%s: the size of %s is not known: ANALYZE.", g.Table, countOf(g.UnknownSizes, "partition"))
		}
	}
	printRecorded(t, d.Recorded)
}

// printRecorded says in a few lines how all databases grew.
func printRecorded(t *output.Table, r *monitor.Recorded) {
	if r == nil {
		return
	}
	if r.Samples < 2 {
		t.Line("No samples are recorded to compare with: call auditdb health --deep --record by a timer.")
		return
	}
	t.Line("All databases took %s on %s, by %s.", output.Cell(output.Size(*r.SizeBytes)), output.Cell(*r.Newest), countOf(r.Samples, "sample"))
	for _, one := range []struct {
		over  string
		grown *int64
	}{{"1 day", r.Grown1Day}, {"7 days", r.Grown7Days}, {"30 days", r.Grown30Days}} {
		if one.grown != nil {
			t.Line("In %s: %s.", one.over, grownCell(*one.grown))
		}
	}
	switch {
	case r.DaysUntilFull != nil && r.BytesPerDay != nil:
		t.Line("At %s a day the disk is full in %.0f days.", output.Cell(output.Size(*r.BytesPerDay)), *r.DaysUntilFull)
	case r.BytesPerDay != nil:
		t.Line("They grow by %s a day.", grownCell(int64(*r.BytesPerDay)))
	}
}

func grownCell(bytes int64) string {
	if bytes < 0 {
		return "-" + output.Cell(output.Size(-bytes))
	}
	return "+" + output.Cell(output.Size(bytes))
}

func rateCell(perDay *float64) any {
	if perDay == nil {
		return nil
	}
	return output.Size(*perDay)
}

func rowsRateCell(perDay *float64) any {
	if perDay == nil {
		return nil
	}
	return int64(*perDay)
}

func moreCell(bytes *int64) any {
	if bytes == nil {
		return nil
	}
	return "+" + output.Cell(output.Size(*bytes))
}
