package cmd

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/output"
	"auditdb/internal/postgres"
	"auditdb/pkg/partitions"
)

// partitionListDoc is auditdb.partition.list.v1.
type partitionListDoc struct {
	Tables []partitionListTable `json:"tables"`
	Failed []failedEntry        `json:"failed"`
}

type partitionListTable struct {
	Table         string           `json:"table"`
	Interval      string           `json:"interval"`
	TimeZone      string           `json:"time_zone"`
	RunwaySeconds *float64         `json:"runway_seconds"` // how long rows of now on find a partition; null: without end
	Partitions    []partitionEntry `json:"partitions"`
	Gaps          []rangeDoc       `json:"gaps"`

	runway string
}

// rangeDoc is a half-open range.
type rangeDoc struct {
	From *time.Time `json:"from"`
	To   *time.Time `json:"to"`
}

type partitionEntry struct {
	Schema        string             `json:"schema"`
	Name          string             `json:"name"`
	From          *time.Time         `json:"from"`
	To            *time.Time         `json:"to"`
	Default       bool               `json:"default"`
	State         partitions.State   `json:"state"`
	Kind          string             `json:"kind"` // table, partitioned, foreign
	RowsEstimate  *int64             `json:"rows_estimate"`
	SizeBytes     *int64             `json:"size_bytes"`
	SizeEstimated bool               `json:"size_estimated"`
	Sealed        *bool              `json:"sealed"`
	Archived      *bool              `json:"archived"`
	Held          *bool              `json:"held"`
	KeptBecause   *partitions.Reason `json:"kept_because"`
}

// listedPartition is a partition in the list of all tables' partitions, which -o csv shows.
type listedPartition struct {
	Table string `json:"table"`
	partitionEntry
}

// partitionListOptions are the flags of partition list.
type partitionListOptions struct {
	at     string
	exact  bool
	tables []string
}

func newPartitionListCmd(app *App) *cobra.Command {
	var o partitionListOptions
	cmd := &cobra.Command{
		Use:   "list [TABLE]",
		Short: "List partitions with their ranges, sizes and gaps",
		Long: "One catalog query for each table, by the bounds in the catalog, never by names. Sizes and rows are what VACUUM and ANALYZE last saw;\n" +
			"--exact measures the files.",
		Example: "  auditdb partition list\n  auditdb partition list audit.events --at 2026-03-01\n  auditdb partition list --exact -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.tables = args
			return runPartitionList(cmd.Context(), app, o)
		},
	}
	cmd.Flags().StringVar(&o.at, "at", "", "only the partition that holds this `TIME`")
	cmd.Flags().BoolVar(&o.exact, "exact", false, "measure sizes instead of estimating them")
	return listOutput(cmd)
}

func runPartitionList(ctx context.Context, app *App, o partitionListOptions) error {
	db, err := app.Postgres(ctx, "partition.list")
	if err != nil {
		return err
	}
	tables, err := partitionTables(ctx, db, o.tables)
	if err != nil {
		return err
	}
	worker := partitions.NewWorker(partitions.Options{DB: db, Now: app.Now, LockTimeout: app.Config.LockTimeout, Wait: app.Config.Wait})
	doc := partitionListDoc{Tables: []partitionListTable{}}
	changes := make([]*change[partitionListTable], len(tables))
	all := []listedPartition{}
	for i, t := range tables {
		c := &change[partitionListTable]{name: t.name, err: t.err}
		if c.err == nil {
			if c.result, c.err = listTable(ctx, app, db, worker, t.table, o); c.err == nil {
				doc.Tables = append(doc.Tables, c.result)
				for _, p := range c.result.Partitions {
					all = append(all, listedPartition{Table: c.result.Table, partitionEntry: p})
				}
			}
		}
		changes[i] = c
	}
	var failed error
	doc.Failed, failed = failures(changes)
	if len(doc.Tables) > 0 {
		if err := app.EmitList("partition.list", doc, all, doc.print); err != nil {
			return err
		}
	}
	return failed
}

func listTable(ctx context.Context, app *App, db *postgres.DB, worker *partitions.Worker, t partitions.Table, o partitionListOptions) (partitionListTable, error) {
	c, err := partitions.LoadSizes(ctx, db.Pool(), t)
	if err != nil {
		return partitionListTable{}, err
	}
	review, err := worker.Review(ctx, t, c)
	if err != nil {
		return partitionListTable{}, err
	}
	shown, err := choosePartitions(app, t, c, o.at)
	if err != nil {
		return partitionListTable{}, err
	}
	sizes := map[uint32]int64{}
	if o.exact {
		if sizes, err = worker.ExactSizes(ctx, t, shown); err != nil {
			return partitionListTable{}, err
		}
	}
	d := partitionListTable{Table: t.String(), Interval: string(t.Interval), TimeZone: t.Location.String(), Partitions: []partitionEntry{}, Gaps: []rangeDoc{}}
	runway, forever := c.Runway(t.KeyTime(app.Now()))
	if d.runway = "without end"; !forever {
		seconds := runway.Seconds()
		d.RunwaySeconds, d.runway = &seconds, output.HumanDuration(runway)
	}
	for _, p := range shown {
		if size, ok := sizes[p.OID]; ok {
			p.SizeBytes, p.SizeEstimated = size, false
		}
		d.Partitions = append(d.Partitions, listEntry(p, review))
	}
	for _, g := range c.Inner() {
		d.Gaps = append(d.Gaps, rangeDoc{&g.From, &g.To})
	}
	return d, nil
}

// choosePartitions returns all partitions in order, the default one and leftovers last, or just the one that holds a time.
func choosePartitions(app *App, t partitions.Table, c *partitions.Catalog, at string) ([]partitions.Partition, error) {
	if at == "" {
		all := append([]partitions.Partition{}, c.All()...)
		if p := c.Default(); p != nil {
			all = append(all, *p)
		}
		return append(all, c.Leftovers()...), nil
	}
	when, err := keyTime(app, t, "at", at)
	if err != nil {
		return nil, err
	}
	if p, ok := c.Find(when); ok {
		return []partitions.Partition{*p}, nil
	}
	if p := c.Default(); p != nil && len(c.Range(when, when.Add(time.Microsecond))) == 0 {
		return []partitions.Partition{*p}, nil
	}
	return nil, nil
}

func listEntry(p partitions.Partition, review *partitions.Review) partitionEntry {
	e := partitionEntry{
		Schema: p.Schema, Name: p.Name, Default: p.Default, State: p.State, Kind: kindName(p.Kind),
		RowsEstimate: known(p.RowsEstimate), SizeBytes: known(p.SizeBytes), SizeEstimated: p.SizeEstimated,
		Archived: review.Archived(p), Held: review.Held(p), KeptBecause: review.KeptBecause(p),
	}
	e.From, e.To = ends(p)
	return e
}

func kindName(kind byte) string {
	switch kind {
	case 'p':
		return "partitioned"
	case 'f':
		return "foreign"
	}
	return "table"
}

func (d partitionListDoc) print(t *output.Table) {
	for i, table := range d.Tables {
		if i > 0 {
			t.Line("")
		}
		t.Line("%s: %s, %s, time zone %s, runway %s.", table.Table, countOf(len(table.Partitions), "partition"), table.Interval, table.TimeZone, table.runway)
		for _, g := range table.Gaps {
			t.Line("Gap: no partition from %s to %s.", output.Cell(orNothing(g.From)), output.Cell(orNothing(g.To)))
		}
		size := "size"
		for _, p := range table.Partitions {
			if p.SizeEstimated {
				size = "size (estimate)"
			}
		}
		t.Header("partition", "from", "to", "rows (estimate)", size, "state")
		for _, p := range table.Partitions {
			t.Row(p.Name, cellTime(p.From), cellTime(p.To), rowsCell(p.RowsEstimate), sizeCell(p.SizeBytes), p.describe())
		}
	}
}

// describe is the state in words, with what is special.
func (e partitionEntry) describe() string {
	state := string(e.State)
	if e.Default {
		state = "default"
	}
	if e.Kind != "table" {
		state += ", " + e.Kind
	}
	if e.Held != nil && *e.Held {
		state += ", held"
	}
	if e.KeptBecause != nil && *e.KeptBecause != partitions.KeptHold {
		state += ", kept: " + string(*e.KeptBecause)
	}
	return state
}

func sizeCell(n *int64) any {
	if n == nil {
		return nil
	}
	return output.Size(*n)
}
