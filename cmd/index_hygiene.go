package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"auditdb/internal/output"
	"auditdb/pkg/indexes"
)

// indexHygieneDoc is auditdb.index.hygiene.v1.
type indexHygieneDoc struct {
	Recommendations []indexes.Recommendation `json:"recommendations"`
	Notes           []string                 `json:"notes"` // what could not be judged
}

func newIndexHygieneCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hygiene [TABLE]...",
		Short: "Find indexes that are unused, duplicate, redundant, invalid or bloated, and foreign keys without one",
		Long: "Judges by the catalog and by statistics, without a workload, and changes nothing. An index is called unused only where nobody has scanned\n" +
			"it or one of its parts for 30 days, on the primary and on every replica (database.replicas). The JSON is what index apply --from takes.",
		Example: "  auditdb index hygiene\n  auditdb index hygiene public.audit_log -o json > advice.json\n  auditdb index apply --from advice.json --dry-run",
		Args:    cobra.ArbitraryArgs,
		RunE:    func(cmd *cobra.Command, args []string) error { return runIndexHygiene(cmd.Context(), app, args) },
	}
	return listOutput(cmd)
}

func runIndexHygiene(ctx context.Context, app *App, names []string) error {
	db, err := app.Postgres(ctx, "index.hygiene")
	if err != nil {
		return err
	}
	o, err := indexHygiene(ctx, app, db, names)
	if err != nil {
		return err
	}
	defer closeReplicas(o.Replicas)
	found, notes, err := indexes.Hygiene(ctx, db, o)
	if err != nil {
		return err
	}
	doc := indexHygieneDoc{Recommendations: append([]indexes.Recommendation{}, found...), Notes: append([]string{}, notes...)}
	return app.EmitList("index.hygiene", doc, doc.Recommendations, doc.print)
}

func (d indexHygieneDoc) print(t *output.Table) {
	if len(d.Recommendations) == 0 {
		t.Line("Nothing to mend.")
	}
	for _, r := range d.Recommendations {
		t.Line("-- %s: %s", r.Action, r.Reason)
		t.Line("%s;", r.DDL)
	}
	for _, note := range d.Notes {
		t.Line("Note: %s.", note)
	}
}
