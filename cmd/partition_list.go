package cmd

import (
	"context"
	"slices"
	"strings"
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
	Table                string           `json:"table"`
	Interval             *string          `json:"interval"`
	TimeZone             string           `json:"time_zone"`
	Unsupported          *string          `json:"unsupported"`    // why its partitions cannot be worked on; gaps and runway may then not be known
	RunwaySeconds        *float64         `json:"runway_seconds"` // how long rows of now on find a partition; null: without end
	DefaultRows          *int64           `json:"default_rows"`   // null: there is no default partition, or its rows are not known
	DefaultRowsEstimated bool             `json:"default_rows_estimated"`
	Partitions           []partitionEntry `json:"partitions"`
	Gaps                 []rangeDoc       `json:"gaps"`
	Overlaps             []overlapDoc     `json:"overlaps"`

	runway string
	exact  bool
}

// overlapDoc is a range that two tables hold.
type overlapDoc struct {
	rangeDoc
	Partitions []string `json:"partitions"`
}

// rangeDoc is a half-open range.
type rangeDoc struct {
	From *time.Time `json:"from"`
	To   *time.Time `json:"to"`
}

type partitionEntry struct {
	Schema           string             `json:"schema"`
	Name             string             `json:"name"`
	Parent           *string            `json:"parent"` // of a detached one: the table that it was a partition of
	Level            int                `json:"level"`  // 1: a partition of the table itself
	From             *time.Time         `json:"from"`
	To               *time.Time         `json:"to"`
	Bounds           *string            `json:"bounds"` // where they are no range of times
	Default          bool               `json:"default"`
	State            partitions.State   `json:"state"`
	Kind             string             `json:"kind"` // table, partitioned, foreign
	RowsEstimate     *int64             `json:"rows_estimate"`
	SizeBytes        *int64             `json:"size_bytes"`
	SizeEstimated    bool               `json:"size_estimated"`
	Sealed           *bool              `json:"sealed"`
	Archived         *bool              `json:"archived"`
	Held             *bool              `json:"held"`
	KeptBecause      *partitions.Reason `json:"kept_because"`
	ExpiresInSeconds *float64           `json:"expires_in_seconds"` // by the table's policy; 0: it has expired; null: no policy, or never
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
		Long: "One catalog query for each table, by the bounds in the catalog, never by names, with what lies below partitions that are partitioned\n" +
			"themselves. Sizes and rows are what VACUUM and ANALYZE last saw; --exact measures the files and counts the rows of the default\n" +
			"partition. Tables that the other commands refuse, such as those partitioned by list, are listed with the reason.",
		Example: "  auditdb partition list\n  auditdb partition list audit.events --at 2026-03-01\n  auditdb partition list --exact -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.tables = args
			return runPartitionList(cmd.Context(), app, o)
		},
	}
	cmd.Flags().StringVar(&o.at, "at", "", "only the partition that holds this `TIME`")
	cmd.Flags().BoolVar(&o.exact, "exact", false, "measure sizes, and count the default partition's rows, instead of estimating them")
	return listOutput(cmd)
}

func runPartitionList(ctx context.Context, app *App, o partitionListOptions) error {
	db, err := app.Postgres(ctx, "partition.list")
	if err != nil {
		return err
	}
	tables, err := findTables(ctx, db, o.tables, partitions.ResolveToRead)
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
				all = slices.Grow(all, len(c.result.Partitions))
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
	c, err := partitions.LoadTree(ctx, db.Pool(), t)
	if err != nil {
		return partitionListTable{}, err
	}
	l := lister{app: app, table: t, tree: c}
	if l.review, err = worker.Review(ctx, t, c.Catalog); err != nil {
		return partitionListTable{}, err
	}
	if l.policy, err = partitions.LoadPolicy(ctx, db.Pool(), t); err != nil {
		return partitionListTable{}, err
	}
	shown, err := choosePartitions(app, t, c.Catalog, o.at)
	if err != nil {
		return partitionListTable{}, err
	}
	d := l.describe()
	if p := c.Default(); p != nil {
		rows := p.RowsEstimate
		if d.DefaultRowsEstimated = !o.exact; o.exact {
			if rows, err = worker.ExactRows(ctx, *p); err != nil {
				return partitionListTable{}, err
			}
		}
		d.DefaultRows = known(rows)
	}
	if d.exact = o.exact; o.exact {
		if l.sizes, err = worker.ExactSizes(ctx, t, l.all(shown)); err != nil {
			return partitionListTable{}, err
		}
	}
	d.Partitions = slices.Grow(d.Partitions, len(shown))
	for _, p := range shown {
		d.Partitions = l.entries(d.Partitions, p, p, t.String(), 1)
	}
	return d, nil
}

// lister describes one table.
type lister struct {
	app    *App
	table  partitions.Table
	tree   *partitions.Tree
	review *partitions.Review
	policy *partitions.Policy
	sizes  map[uint32]int64 // measured ones
}

// describe says what concerns the table as a whole.
func (l lister) describe() partitionListTable {
	t, c := l.table, l.tree
	d := partitionListTable{Table: t.String(), TimeZone: t.Location.String(), Partitions: []partitionEntry{}, Gaps: []rangeDoc{}, Overlaps: []overlapDoc{}}
	if t.ReadOnly != nil {
		reason := t.ReadOnly.Error()
		d.Unsupported = &reason
	} else {
		interval := string(t.Interval)
		d.Interval = &interval
	}
	if len(c.Foreign()) > 0 {
		d.runway = "not known"
		return d
	}
	runway, forever := c.Runway(t.KeyTime(l.app.Now()))
	if d.runway = "without end"; !forever {
		seconds := runway.Seconds()
		d.RunwaySeconds, d.runway = &seconds, output.HumanDuration(runway)
	}
	for _, g := range c.Inner() {
		d.Gaps = append(d.Gaps, describeRange(g))
	}
	for _, o := range c.Overlapping() {
		d.Overlaps = append(d.Overlaps, overlapDoc{describeRange(o.Bounds), []string{o.One.String(), o.Other.String()}})
	}
	return d
}

func describeRange(b partitions.Bounds) rangeDoc {
	var d rangeDoc
	d.From, d.To = ends(partitions.Partition{Bounds: b})
	return d
}

// all returns partitions with those below them.
func (l lister) all(parts []partitions.Partition) []partitions.Partition {
	var all []partitions.Partition
	for _, p := range parts {
		all = append(append(all, p), l.all(l.tree.Below(p))...)
	}
	return all
}

// entries adds p and what lies below it. top is the partition of the table that p belongs to, which rules are about.
func (l lister) entries(to []partitionEntry, p, top partitions.Partition, parent string, level int) []partitionEntry {
	if size, ok := l.sizes[p.OID]; ok {
		p.SizeBytes, p.SizeEstimated = size, false
	}
	e := partitionEntry{
		Schema: p.Schema, Name: p.Name, Parent: &parent, Level: level, Default: p.Default, State: p.State, Kind: kindName(p.Kind),
		RowsEstimate: known(p.RowsEstimate), SizeBytes: known(p.SizeBytes), SizeEstimated: p.SizeEstimated,
		Held: l.review.Held(top), KeptBecause: l.review.KeptBecause(top),
	}
	if p.Foreign == "" {
		e.From, e.To = ends(p)
	} else {
		e.Bounds, e.Held = &p.Foreign, nil
	}
	if level == 1 && p.Foreign == "" {
		e.Archived, e.ExpiresInSeconds = l.review.Archived(p), l.expiresIn(p)
	}
	to = append(to, e)
	for _, below := range l.tree.Below(p) {
		to = l.entries(to, below, top, p.String(), level+1)
	}
	return to
}

// expiresIn is how long the table's policy keeps p yet, in seconds.
func (l lister) expiresIn(p partitions.Partition) *float64 {
	if l.policy == nil || p.Default || p.ToMax {
		return nil
	}
	left := max(l.policy.Expiry(l.table, p.To).Sub(l.app.Now()), 0).Seconds()
	return &left
}

// choosePartitions returns all partitions in order, the default one and leftovers last, or just the one that holds a time.
func choosePartitions(app *App, t partitions.Table, c *partitions.Catalog, at string) ([]partitions.Partition, error) {
	if at == "" {
		all := slices.Concat(c.All(), c.Foreign())
		if p := c.Default(); p != nil {
			all = append(all, *p)
		}
		return append(all, c.Leftovers()...), nil
	}
	if len(c.Foreign()) > 0 {
		return nil, usage("auditdb partition list", "leave out --at", "--at: partitions of %s are not by time: %w", t, t.ReadOnly)
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
		table.print(t)
	}
}

func (d partitionListTable) print(t *output.Table) {
	interval := ""
	if d.Interval != nil {
		interval = *d.Interval + ", "
	}
	t.Line("%s: %s, %stime zone %s, runway %s.", d.Table, countOf(len(d.Partitions), "partition"), interval, d.TimeZone, d.runway)
	if d.Unsupported != nil {
		t.Line("Its partitions are listed only: %s.", *d.Unsupported)
	}
	for _, g := range d.Gaps {
		t.Line("Gap: no partition from %s to %s.", output.Cell(orNothing(g.From)), output.Cell(orNothing(g.To)))
	}
	for _, o := range d.Overlaps {
		t.Line("Overlap from %s to %s: %s.", output.Cell(orNothing(o.From)), output.Cell(orNothing(o.To)), strings.Join(o.Partitions, " and "))
	}
	if d.DefaultRows != nil && *d.DefaultRows > 0 {
		t.Line("The default partition has %s%s.", map[bool]string{true: "about "}[d.DefaultRowsEstimated], countOf(int(*d.DefaultRows), "row"))
	}
	size, expires := "size", false
	for _, p := range d.Partitions {
		if p.SizeEstimated {
			size = "size (estimate)"
		}
		expires = expires || p.ExpiresInSeconds != nil
	}
	rows := map[bool]string{false: "rows (estimate)", true: "rows at ANALYZE"}[d.exact] // --exact counts the default partition's alone
	header := []string{"partition", "from", "to", rows, size, "state"}
	if expires {
		header = append(header, "expires in")
	}
	t.Header(header...)
	for _, p := range d.Partitions {
		row := []any{strings.Repeat("  ", p.Level-1) + p.Name, cellTime(p.From), cellTime(p.To), rowsCell(p.RowsEstimate), sizeCell(p.SizeBytes), p.describe()}
		if expires {
			row = append(row, expiryCell(p.ExpiresInSeconds))
		}
		t.Row(row...)
	}
}

func expiryCell(seconds *float64) any {
	if seconds == nil {
		return nil
	}
	return time.Duration(*seconds * float64(time.Second))
}

// describe is the state in words, with what is special.
func (e partitionEntry) describe() string {
	state := string(e.State)
	if e.Default {
		state = "default"
	}
	if e.Bounds != nil {
		state += ", " + strings.TrimPrefix(*e.Bounds, "FOR VALUES ")
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
