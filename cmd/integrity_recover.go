package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"auditdb/internal/output"
	"auditdb/internal/postgres"
	"auditdb/pkg/integrity"
	"auditdb/pkg/plan"
)

// recoverDoc is auditdb.integrity.accept-loss.v1 and auditdb.integrity.fork.v1.
type recoverDoc struct {
	Event      string                `json:"event"` // loss, fork or moved
	Origin     string                `json:"origin"`
	Size       *int64                `json:"size"`       // loss: the largest external checkpoint that is given up
	KeyFile    *string               `json:"key_file"`   // fork: it has a new key
	Checkpoint *integrity.Checkpoint `json:"checkpoint"` // null in a dry run
	DryRun     bool                  `json:"dry_run"`
	Plan       plan.Plan             `json:"plan"`
}

func newAcceptLossCmd(app *App) *cobra.Command {
	var size, after int64
	var reason string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "accept-loss",
		Short: "Accept that records which external checkpoints cover were lost",
		Long: "After a failover that lost commits, or a point-in-time recovery, the log does not meet the newest checkpoints kept outside, which\n" +
			"verify-integrity reports. This logs, signed, that the loss is known and why. Every later verification says so. Checkpoints of more\n" +
			"than --after and at most --size records are excused, no others.",
		Example: "  auditdb integrity accept-loss --size 1042 --reason 'failover of 1 March, 3 batches lost'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if size < 1 || reason == "" {
				return usage(cmd.CommandPath(), "", "--size and --reason are needed")
			}
			doc := recoverDoc{Event: integrity.EventLoss, Size: &size, DryRun: dryRun}
			return runRecover(cmd.Context(), app, "integrity.accept-loss", "accept the loss of records", doc,
				func(ctx context.Context, db *postgres.DB, log *integrity.Log, _ *recoverDoc) (integrity.Appended, error) {
					return log.AcceptLoss(ctx, db, app.Now(), after, size, reason)
				})
		},
	}
	f := cmd.Flags()
	f.Int64Var(&size, "size", 0, "the `SIZE` of the largest checkpoint that is not met")
	f.Int64Var(&after, "after", -1, "the `SIZE` up to which the log surely is the old one (default: where the server began its timeline, else its size)")
	f.StringVar(&reason, "reason", "", "what has happened, for the log")
	f.BoolVar(&dryRun, "dry-run", false, "print the plan and change nothing")
	return cmd
}

func newForkCmd(app *App) *cobra.Command {
	var origin, reason string
	var moved, dryRun bool
	cmd := &cobra.Command{
		Use:   "fork",
		Short: "Let the log of a copied database go on under a name and a key of its own",
		Long: "A log belongs to the server that it was begun on; a copy on another server verifies, but must not extend it. --origin gives the copy\n" +
			"a new name and a new key (the key file gets it, and keeps the old ones for verifying): its checkpoints cannot be mistaken for those\n" +
			"of the original. --moved goes on under the old name, where this server has taken the place of the old one for good.",
		Example: "  auditdb integrity fork --origin audit.example.com/staging --reason 'copy for tests'\n" +
			"  auditdb integrity fork --moved --reason 'pg_upgrade to 18'",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (origin == "") != moved || reason == "" {
				return usage(cmd.CommandPath(), "", "--reason and one of --origin and --moved are needed")
			}
			if moved {
				return runRecover(cmd.Context(), app, "integrity.fork", "go on with the log on this server", recoverDoc{Event: integrity.EventMoved, DryRun: dryRun},
					func(ctx context.Context, db *postgres.DB, log *integrity.Log, _ *recoverDoc) (integrity.Appended, error) {
						return log.Move(ctx, db, app.Now(), reason)
					})
			}
			return runRecover(cmd.Context(), app, "integrity.fork", "fork the log as "+origin, recoverDoc{Event: integrity.EventFork, Origin: origin, DryRun: dryRun},
				func(ctx context.Context, db *postgres.DB, log *integrity.Log, doc *recoverDoc) (integrity.Appended, error) {
					return forkLog(ctx, app, db, log, origin, reason, doc)
				})
		},
	}
	f := cmd.Flags()
	f.StringVar(&origin, "origin", "", "the `NAME` of the copy's log")
	f.BoolVar(&moved, "moved", false, "keep the name: the old server is gone")
	f.StringVar(&reason, "reason", "", "why, for the log")
	f.BoolVar(&dryRun, "dry-run", false, "print the plan and change nothing")
	return cmd
}

func forkLog(ctx context.Context, app *App, db *postgres.DB, log *integrity.Log, origin, reason string, doc *recoverDoc) (integrity.Appended, error) {
	path := keyFile(app)
	doc.KeyFile = &path
	next, err := nextKeys(log.Keys(), path, origin, false)
	if err != nil {
		return integrity.Appended{}, err
	}
	done, err := integrity.Fork(ctx, db, app.Now(), app.Config.Wait, next, reason)
	if err != nil {
		return done, err
	}
	app.push(ctx, db, done.Checkpoint, nil)
	return done, putInPlace(path)
}

func runRecover(ctx context.Context, app *App, name, what string, doc recoverDoc, do func(context.Context, *postgres.DB, *integrity.Log, *recoverDoc) (integrity.Appended, error)) error {
	log, err := requireLog(ctx, app, what)
	if err != nil {
		return err
	}
	db, err := app.Postgres(ctx, name)
	if err != nil {
		return err
	}
	if err := requireSchema(ctx, db); err != nil {
		return err
	}
	if doc.Origin == "" {
		doc.Origin = log.Keys().Origin()
	}
	doc.Plan = plan.Plan{Action: name, AsOf: app.Now(), Steps: []plan.Step{{Name: "log", SQL: "INSERT INTO auditdb.log …", Reason: what, Destructive: true}}}
	if !doc.DryRun {
		if err := app.Confirm(ctx, what); err != nil {
			return err
		}
		if _, err := app.StartJob(ctx, db, name, nil); err != nil {
			return err
		}
		done, err := do(ctx, db, log.Waiting(app.Config.Wait), &doc)
		if err != nil {
			return err
		}
		doc.Checkpoint = &done.Checkpoint
	}
	return app.Emit(name, doc, doc.table)
}

func (d recoverDoc) table(t *output.Table) {
	if d.DryRun {
		t.Line("Dry run: nothing was changed.")
		return
	}
	switch d.Event {
	case integrity.EventLoss:
		t.Line("The loss of checkpoints of up to %s is on record.", countOf(*d.Size, "record"))
	case integrity.EventFork:
		t.Line("The log goes on as %s, with a key of its own in %s.", d.Origin, *d.KeyFile)
	default:
		t.Line("The log %s goes on, on this server.", d.Origin)
	}
	t.Line("Checkpoint: %s, root %s", countOf(d.Checkpoint.Size, "record"), d.Checkpoint.Root)
}
