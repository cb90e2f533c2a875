package cmd

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/internal/postgres"
	"auditdb/migrations"
	"auditdb/pkg/plan"
)

// migrateDocuments lists the documents of the migrate commands.
func migrateDocuments() map[string]any {
	return map[string]any{"migrate.up": migrateDoc{}, "migrate.down": migrateDoc{}, "migrate.status": migrateStatusDoc{}}
}

func newMigrateCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring auditdb's schema up to date",
		Long: "The schema is public.audit_log and everything in schema auditdb, owned by the role auditdb_admin. What the connected user may\n" +
			"not make (roles, schemas) is printed as SQL for somebody who may. Of two runs at once, one waits.",
		Example: "  auditdb migrate status\n  auditdb migrate up --dry-run\n  auditdb migrate up",
	}
	cmd.AddCommand(newMigrateUpCmd(app), newMigrateDownCmd(app), newMigrateStatusCmd(app))
	return cmd
}

// migrateDoc is auditdb.migrate.up.v1 and auditdb.migrate.down.v1.
type migrateDoc struct {
	From           int64              `json:"from"` // version before
	To             int64              `json:"to"`   // version after
	Applied        []migrationApplied `json:"applied"`
	DryRun         bool               `json:"dry_run"`
	ElapsedSeconds float64            `json:"elapsed_seconds"`
	Plan           plan.Plan          `json:"plan"`
}

type migrationApplied struct {
	Version int64  `json:"version"`
	Name    string `json:"name"`
}

// migrateStatusDoc is auditdb.migrate.status.v1.
type migrateStatusDoc struct{ migrations.Report }

// migrateOptions are the flags of migrate up and down.
type migrateOptions struct {
	to     int64
	toSet  bool
	dryRun bool
}

func newMigrateUpCmd(app *App) *cobra.Command {
	var o migrateOptions
	cmd := &cobra.Command{
		Use:     "up",
		Short:   "Apply the pending migrations",
		Example: "  auditdb migrate up\n  auditdb migrate up --dry-run -o json\n  auditdb migrate up --to 3",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.toSet = cmd.Flags().Changed("to"); o.toSet && o.to < 1 {
				return usage(cmd.CommandPath(), "auditdb migrate status lists the versions", "--to must be a version, not %d", o.to)
			}
			return runMigrateUp(cmd.Context(), app, o)
		},
	}
	cmd.Flags().Int64Var(&o.to, "to", 0, "stop after `VERSION` (default: the newest)")
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "print the plan and change nothing")
	return cmd
}

func runMigrateUp(ctx context.Context, app *App, o migrateOptions) error {
	started := app.Now()
	db, err := app.Postgres(ctx, "migrate.up")
	if err != nil {
		return err
	}
	before, err := migrations.Status(ctx, db)
	if err != nil {
		return err
	}
	if before.Ahead {
		app.Warn("the database has migration %d, which this program does not know: a newer auditdb made it", before.Current)
	}
	doc := migrateDoc{From: before.Current, To: before.Current, DryRun: o.dryRun}
	if o.dryRun {
		if doc.Plan, err = migrations.PlanUp(ctx, db, o.to); err != nil {
			return err
		}
		doc.planned(before)
		for _, m := range doc.Applied {
			doc.To = m.Version
		}
		return emitMigrate(app, "migrate.up", doc, started)
	}
	recorded, err := startRun(ctx, app, db, "migrate.up")
	if err != nil {
		return err
	}
	result, err := migrations.Up(ctx, db, migrations.Options{To: o.to, Wait: app.Config.Wait})
	if err != nil {
		return migrateFailed(result, err)
	}
	if !recorded { // the table for it has just been made
		if _, err := startRun(ctx, app, db, "migrate.up"); err != nil {
			return err
		}
	}
	doc.done(result)
	return emitMigrate(app, "migrate.up", doc, started)
}

func newMigrateDownCmd(app *App) *cobra.Command {
	var o migrateOptions
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Take the newest migration back",
		Long: "Takes back the newest migration, or all that are newer than --to (0: all). Refused (exit 6) while a table that would be dropped\n" +
			"has rows; the runs that migrate itself recorded do not count.",
		Example: "  auditdb migrate down --dry-run\n  auditdb migrate down --to 2 --yes",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.toSet = cmd.Flags().Changed("to"); o.to < 0 {
				return usage(cmd.CommandPath(), "auditdb migrate status lists the versions", "--to must be 0 or a version, not %d", o.to)
			}
			return runMigrateDown(cmd.Context(), app, o)
		},
	}
	cmd.Flags().Int64Var(&o.to, "to", 0, "keep `VERSION` and what is older (default: the one before the newest)")
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "print the plan and change nothing")
	return cmd
}

func runMigrateDown(ctx context.Context, app *App, o migrateOptions) error {
	started := app.Now()
	db, err := app.Postgres(ctx, "migrate.down")
	if err != nil {
		return err
	}
	before, err := migrations.Status(ctx, db)
	if err != nil {
		return err
	}
	if before.Ahead {
		return fault.New(fault.Refused, "use the auditdb that made it", "migrate down: the database has migration %d, which this program does not know", before.Current)
	}
	if !o.toSet {
		o.to = migrations.Previous(before)
	}
	doc := migrateDoc{From: before.Current, To: before.Current, DryRun: o.dryRun}
	if doc.Plan, err = migrations.PlanDown(ctx, db, o.to); err != nil {
		return err
	}
	if o.dryRun || len(doc.Plan.Steps) == 0 {
		doc.planned(before)
		if len(doc.Applied) > 0 {
			doc.To = o.to
		}
		return emitMigrate(app, "migrate.down", doc, started)
	}
	if err := app.Confirm(ctx, fmt.Sprintf("take back %s and drop the tables", countOf(len(doc.Plan.Steps), "migration"))); err != nil {
		return err
	}
	if _, err := startRun(ctx, app, db, "migrate.down"); err != nil {
		return err
	}
	result, err := migrations.Down(ctx, db, migrations.Options{To: o.to, Wait: app.Config.Wait, Confirmed: &doc.Plan})
	if err != nil {
		return migrateFailed(result, err)
	}
	doc.done(result)
	return emitMigrate(app, "migrate.down", doc, started)
}

// startRun records the run and says whether that was possible.
func startRun(ctx context.Context, app *App, db *postgres.DB, name string) (bool, error) {
	run, err := app.StartJob(ctx, db, name, nil)
	if err != nil {
		return false, err
	}
	return run.Recorded(), nil
}

// migrateFailed tells how far it came.
func migrateFailed(result migrations.Result, err error) error {
	if len(result.Applied) == 0 {
		return err
	}
	return fmt.Errorf("%w (done before: %s; the schema is at version %d)", err, countOf(len(result.Applied), "migration"), result.To)
}

// planned fills in what the plan would do.
func (d *migrateDoc) planned(before migrations.Report) {
	version := map[string]int64{}
	for _, m := range before.Migrations {
		if m.Name != nil {
			version[*m.Name] = m.Version
		}
	}
	for _, step := range d.Plan.Steps {
		if v, ok := version[step.Name]; ok {
			d.Applied = append(d.Applied, migrationApplied{Version: v, Name: step.Name})
		}
	}
}

func (d *migrateDoc) done(r migrations.Result) {
	d.From, d.To, d.Plan = r.From, r.To, r.Plan
	for _, m := range r.Applied {
		d.Applied = append(d.Applied, migrationApplied{Version: m.Version, Name: *m.Name})
	}
}

func emitMigrate(app *App, command string, doc migrateDoc, started time.Time) error {
	doc.ElapsedSeconds = app.Now().Sub(started).Seconds()
	return app.Emit(command, doc, func(t *output.Table) {
		switch {
		case len(doc.Applied) == 0:
			t.Line("Nothing to do: the schema is at version %d.", doc.To)
			return
		case doc.DryRun:
			t.Line("Dry run: nothing was changed. The schema would go from version %d to %d.", doc.From, doc.To)
		default:
			t.Line("The schema went from version %d to %d.", doc.From, doc.To)
		}
		t.Line("")
		if !doc.DryRun {
			t.Header("version", "migration")
			for _, m := range doc.Applied {
				t.Row(m.Version, m.Name)
			}
			return
		}
		for _, s := range doc.Plan.Steps {
			t.Line("-- %s: %s", s.Name, s.Reason)
			t.Line("%s;", s.SQL)
		}
	})
}

func newMigrateStatusCmd(app *App) *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Show which migrations the database has",
		Example: "  auditdb migrate status\n  auditdb migrate status --check -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runMigrateStatus(cmd.Context(), app, check)
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "exit 4 when a migration is pending or the database is ahead of this program")
	return listOutput(cmd)
}

func runMigrateStatus(ctx context.Context, app *App, check bool) error {
	db, err := app.Postgres(ctx, "migrate.status")
	if err != nil {
		return err
	}
	report, err := migrations.Status(ctx, db)
	if err != nil {
		return err
	}
	err = app.EmitList("migrate.status", migrateStatusDoc{report}, report.Migrations, func(t *output.Table) {
		t.Line("Version %d of %d, %d pending.", report.Current, report.Target, report.Pending)
		t.Line("")
		t.Header("version", "name", "applied")
		for _, m := range report.Migrations {
			t.Row(m.Version, orNothing(m.Name), orNothing(m.AppliedAt))
		}
	})
	switch {
	case err != nil || !check:
		return err
	case report.Ahead:
		return fault.New(fault.Integrity, "use the auditdb that made it, or a newer one", "migrate status: the database is at version %d, ahead of this program's %d", report.Current, report.Target)
	case report.Pending > 0:
		return fault.New(fault.Integrity, "auditdb migrate up", "migrate status: %s pending", countOf(report.Pending, "migration"))
	}
	return nil
}

// orNothing makes a cell of what may not be known.
func orNothing[T any](p *T) any {
	if p == nil {
		return nil
	}
	return *p
}

// countOf writes "1 migration", "2 migrations", "300,000 rows", "2 queries", "2 indexes".
func countOf[N int | int32 | int64 | uint64](n N, noun string) string {
	last := noun[len(noun)-1]
	switch {
	case n == 1:
	case last == 'y' && !strings.ContainsRune("aeiou", rune(noun[len(noun)-2])):
		noun = noun[:len(noun)-1] + "ies"
	case last == 'x':
		noun += "es"
	default:
		noun += "s"
	}
	return output.Cell(n) + " " + noun
}

// wereOf is "1 row was", "2 rows were".
func wereOf[N int | int32 | int64 | uint64](n N, noun string) string {
	if n == 1 {
		return countOf(n, noun) + " was"
	}
	return countOf(n, noun) + " were"
}
