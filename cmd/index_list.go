package cmd

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/output"
	"auditdb/internal/postgres"
	"auditdb/pkg/indexes"
)

// indexListDoc is auditdb.index.list.v1.
type indexListDoc struct {
	Tables []indexes.Listed `json:"tables"`
	Since  time.Time        `json:"since"` // scans are counted since then
	Notes  []string         `json:"notes"` // what could not be judged
}

func newIndexListCmd(app *App) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "list [TABLE]...",
		Short: "List indexes with usage, size, bloat and validity",
		Long: "An index of a partitioned table stands for those of all its partitions: sizes, scans and bloat are sums. Scans are counted on the primary\n" +
			"and on all replicas of the configuration (database.replicas). Bloat is estimated from rows and widths; pgstattuple, where it is installed,\n" +
			"looks at indexes of 16 MB and more that seem to be bloated. Without TABLE: all tables of the database.",
		Example: "  auditdb index list\n  auditdb index list public.audit_log --partitions\n  auditdb index list -o json",
		RunE:    func(cmd *cobra.Command, args []string) error { return runIndexList(cmd.Context(), app, args, all) },
		Args:    cobra.ArbitraryArgs,
	}
	cmd.Flags().BoolVar(&all, "partitions", false, "also the index of each partition")
	return listOutput(cmd)
}

func runIndexList(ctx context.Context, app *App, names []string, all bool) error {
	db, err := app.Postgres(ctx, "index.list")
	if err != nil {
		return err
	}
	o := indexes.ListOptions{All: all}
	if o.HygieneOptions, err = indexHygiene(ctx, app, db, names); err != nil {
		return err
	}
	defer closeReplicas(o.Replicas)
	doc := indexListDoc{Notes: []string{}}
	tables, notes, since, err := indexes.List(ctx, db, o)
	if err != nil {
		return err
	}
	doc.Tables, doc.Since, doc.Notes = tables, since, append(doc.Notes, notes...)
	list := []indexes.ListedIndex{}
	for _, t := range doc.Tables {
		list = append(list, t.Indexes...)
	}
	return app.EmitList("index.list", doc, list, doc.print)
}

// indexHygiene finds the tables and opens the replicas; one that cannot be reached is named instead. The caller closes them.
func indexHygiene(ctx context.Context, app *App, db *postgres.DB, names []string) (indexes.HygieneOptions, error) {
	o := indexes.HygieneOptions{Now: app.Now(), Wait: app.Config.Wait}
	for _, name := range names {
		oid, err := indexes.Resolve(ctx, db, name)
		if err != nil {
			return o, err
		}
		o.Tables = append(o.Tables, oid)
	}
	for n, url := range app.Config.Database.Replicas {
		replica, err := postgres.Open(ctx, postgres.Options{URL: url, Application: "index", MaxConns: 1, ReadOnly: true, LockTimeout: app.Config.LockTimeout, Log: app.Log})
		if err != nil {
			app.Warn("replica %d of database.replicas: %v", n+1, err)
			o.Blind = append(o.Blind, fmt.Sprintf("number %d of database.replicas", n+1))
			continue
		}
		o.Replicas = append(o.Replicas, replica)
	}
	return o, nil
}

func closeReplicas(replicas []*postgres.DB) {
	for _, r := range replicas {
		r.Close()
	}
}

func (d indexListDoc) print(t *output.Table) {
	for n, table := range d.Tables {
		if n > 0 {
			t.Line("")
		}
		parts := ""
		if table.Partitions > 0 {
			parts = countOf(table.Partitions, "partition") + ", "
		}
		t.Line("%s: %s%s rows, %s, indexes %s.", table.Table, parts, output.Cell(rowsCell(table.Rows)), output.Cell(output.Size(table.TableBytes)), output.Cell(output.Size(table.IndexBytes)))
		t.Header("index", "keys", "size", "bloat", "scans", "state")
		for _, i := range table.Indexes {
			t.Row(indexCell(table, i), i.Definition.KeyText(), output.Size(i.SizeBytes), sizeCell(i.BloatBytes), i.Scans, stateOf(i))
		}
		for _, i := range table.Indexes {
			if i.Advice != nil {
				t.Line("%s: %s.", i.Index, *i.Advice)
			}
		}
	}
	t.Line("")
	t.Line("Scans are counted since %s.", output.Cell(d.Since))
	for _, note := range d.Notes {
		t.Line("Note: %s.", note)
	}
}

// indexCell is the index's name, without the schema, which the table's has, and cut in the middle where it is long.
func indexCell(table indexes.Listed, i indexes.ListedIndex) string {
	const longest, tail = 36, 12
	name := i.Definition.Name
	if letters := []rune(name); len(letters) > longest {
		name = string(letters[:longest-tail-1]) + "…" + string(letters[len(letters)-tail:])
	}
	if i.Table != table.Table {
		return "  " + name
	}
	return name
}

func stateOf(i indexes.ListedIndex) string {
	state := "valid"
	switch {
	case i.Building:
		state = "being built"
	case !i.Valid && i.Missing > 0:
		state = fmt.Sprintf("invalid, %s without", countOf(i.Missing, "partition"))
	case !i.Valid:
		state = "invalid"
	}
	switch {
	case i.Primary:
		state += ", primary key"
	case i.Constraint != nil:
		state += ", constraint"
	case i.Definition.Unique:
		state += ", unique"
	}
	return state
}
