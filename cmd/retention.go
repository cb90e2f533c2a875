package cmd

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/partitions"
	"auditdb/pkg/retention"
)

// retentionDocuments lists the documents of the retention commands.
func retentionDocuments() map[string]any {
	return map[string]any{
		"retention.archive.list": retentionArchiveListDoc{}, "retention.archive.create": retentionArchiveCreateDoc{}, "retention.archive.verify": retentionArchiveVerifyDoc{},
		"retention.archive.search": queryDoc{},
		"retention.restore":        retentionRestoreDoc{},
		"retention.plan":           retentionRunDoc{}, "retention.run": retentionRunDoc{},
		"retention.policy.list": policyListDoc{}, "retention.policy.set": policyChangeDoc{}, "retention.policy.remove": policyChangeDoc{}, "retention.policy.apply": policyChangeDoc{},
		"retention.hold.list": holdListDoc{}, "retention.hold.add": holdChangeDoc{}, "retention.hold.release": holdChangeDoc{},
	}
}

func newRetentionCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retention",
		Short: "Policies, legal holds, and the run that prunes what has expired",
		Long: "Policies say how long rows are kept; holds keep what matches them whatever a policy says. Both are in the database, and every change\n" +
			"of them is in the integrity log. retention run is for cron: it makes partitions ahead, and removes what every rule lets go.",
		Example: "  auditdb retention policy apply -f retention.yaml\n  auditdb retention plan\n  auditdb retention run --yes",
	}
	cmd.AddCommand(newRetentionPlanCmd(app), newRetentionRunCmd(app), newRetentionPolicyCmd(app), newRetentionHoldCmd(app), newRetentionArchiveCmd(app), newRetentionRestoreCmd(app))
	return cmd
}

// keepSpan reads a span as policies have it.
func keepSpan(text string) (partitions.Span, error) {
	s, err := ParseSpan(text)
	return partitions.Span{Months: s.Months, Days: s.Days, Time: time.Duration(s.Hours) * time.Hour}, err
}

// retentionStore opens what changes of policies and holds need.
func retentionStore(ctx context.Context, app *App, command string) (*postgres.DB, retention.Store, error) {
	log, err := requireLog(ctx, app, command)
	if err != nil {
		return nil, retention.Store{}, err
	}
	db, err := retentionDB(ctx, app, command)
	if err != nil {
		return nil, retention.Store{}, err
	}
	return db, retention.Store{DB: db, Log: log.Waiting(app.Config.Wait), Now: app.Now}, nil
}

func retentionDB(ctx context.Context, app *App, command string) (*postgres.DB, error) {
	db, err := app.Postgres(ctx, command)
	if err != nil {
		return nil, err
	}
	return db, requireSchema(ctx, db)
}

// managedTable finds a table that retention is for; "" is the default table.
func managedTable(ctx context.Context, db *postgres.DB, name string) (partitions.Table, error) {
	if name == "" {
		name = partitions.DefaultTable
	}
	t, err := partitions.Resolve(ctx, db, name)
	if err == nil && t.ManagedID == nil {
		err = fault.New(fault.Config, "auditdb partition adopt --register registers it", "table %s is not managed by auditdb", t)
	}
	return t, err
}
