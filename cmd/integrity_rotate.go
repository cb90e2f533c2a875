package cmd

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/internal/postgres"
	"auditdb/pkg/integrity"
	"auditdb/pkg/plan"
)

// rotateDoc is auditdb.integrity.rotate.v1.
type rotateDoc struct {
	KeyFile     string                `json:"key_file"`
	KeyID       string                `json:"key_id"`       // that writes from now on
	VerifierKey string                `json:"verifier_key"` // its public half
	Revoked     *string               `json:"revoked"`
	Checkpoint  *integrity.Checkpoint `json:"checkpoint"` // null in a dry run
	DryRun      bool                  `json:"dry_run"`
	Plan        plan.Plan             `json:"plan"`
}

type rotateOptions struct {
	revoke, reason string
	dryRun         bool
}

func newRotateCmd(app *App) *cobra.Command {
	var o rotateOptions
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the key of the integrity log, or revoke an older one",
		Long: "Makes a new key, logs it under the old one, and puts it first into the key file, which keeps the older keys for verifying. Both\n" +
			"keys count from then on and checkpoints carry both signatures, so that writers and verifiers can be given the new file one after\n" +
			"the other. Then --revoke ID ends the old key. A run that was interrupted is finished by the next one.",
		Example: "  auditdb integrity rotate\n  auditdb integrity rotate --revoke 92bfc2a7 --reason 'replaced'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.revoke == "" && o.reason != "" {
				return usage(cmd.CommandPath(), "", "--reason goes with --revoke")
			}
			return runRotate(cmd.Context(), app, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.revoke, "revoke", "", "end the key of this `ID` instead of making one")
	f.StringVar(&o.reason, "reason", "", "why it is revoked, for the log")
	f.BoolVar(&o.dryRun, "dry-run", false, "print the plan and change nothing")
	return cmd
}

func runRotate(ctx context.Context, app *App, o rotateOptions) error {
	log, err := requireLog(ctx, app, "integrity rotate")
	if err != nil {
		return err
	}
	db, err := app.Postgres(ctx, "integrity.rotate")
	if err != nil {
		return err
	}
	if err := requireSchema(ctx, db); err != nil {
		return err
	}
	doc := rotateDoc{KeyFile: keyFile(app), DryRun: o.dryRun, Plan: plan.Plan{Action: "integrity rotate", AsOf: app.Now()}}
	if !o.dryRun {
		if _, err := app.StartJob(ctx, db, "integrity.rotate", nil); err != nil {
			return err
		}
	}
	if o.revoke != "" {
		err = revokeKey(ctx, app, db, log, o, &doc)
	} else {
		err = rotateKey(ctx, app, db, log, o, &doc)
	}
	if err != nil {
		return err
	}
	return app.Emit("integrity.rotate", doc, doc.table)
}

func revokeKey(ctx context.Context, app *App, db *postgres.DB, log *integrity.Log, o rotateOptions, doc *rotateDoc) error {
	doc.KeyID, doc.VerifierKey, doc.Revoked = log.Keys().ID(), log.Keys().Public().Encode(), &o.revoke
	doc.Plan.Steps = []plan.Step{{Name: o.revoke, SQL: "INSERT INTO auditdb.log …", Reason: "the key counts no longer", Destructive: true}}
	if o.dryRun {
		return nil
	}
	if err := app.Confirm(ctx, "revoke key "+o.revoke); err != nil {
		return err
	}
	done, err := log.Waiting(app.Config.Wait).Revoke(ctx, db, app.Now(), o.revoke, o.reason)
	doc.Checkpoint = &done.Checkpoint
	return err
}

// rotateKey writes the new file beside the old one before anything is logged: a key that the log knows is never lost.
func rotateKey(ctx context.Context, app *App, db *postgres.DB, log *integrity.Log, o rotateOptions, doc *rotateDoc) error {
	next, err := nextKeys(log.Keys(), doc.KeyFile, "", o.dryRun)
	if err != nil {
		return err
	}
	doc.KeyID, doc.VerifierKey = next.ID(), next.Public().Encode()
	doc.Plan.Steps = []plan.Step{
		{Name: "log", SQL: "INSERT INTO auditdb.log …", Reason: "introduces the new key under key " + log.Keys().ID()},
		{Name: "file", SQL: "-- replace " + doc.KeyFile, Reason: "it gets the new key, and keeps the older ones for verifying"},
	}
	if o.dryRun {
		doc.KeyID, doc.VerifierKey = log.Keys().ID(), log.Keys().Public().Encode()
		return nil
	}
	done, err := integrity.Rotate(ctx, db, app.Now(), app.Config.Wait, next)
	if err != nil {
		return err
	}
	doc.Checkpoint = &done.Checkpoint
	app.push(ctx, db, done.Checkpoint, nil)
	return putInPlace(doc.KeyFile)
}

// newFile is where a key file is made before it takes the place of the old one.
func newFile(path string) string { return path + ".new" }

// nextKeys makes the keys that come after keys, or finds those of an interrupted run, and keeps them in a file beside the key file.
func nextKeys(keys *integrity.Keys, path, origin string, dryRun bool) (*integrity.Keys, error) {
	next, err := integrity.LoadKeys(newFile(path))
	if err == nil {
		if !next.Follows(keys) || origin != "" && next.Origin() != origin {
			return nil, fault.New(fault.Refused, "look what it is, and move it away", "%s is not what an interrupted run has left: it does not go on from key %s", newFile(path), keys.ID())
		}
		return next, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if next, err = keys.Next(origin); err != nil || dryRun {
		return next, err
	}
	return next, next.Save(newFile(path))
}

func putInPlace(path string) error {
	if err := os.Rename(newFile(path), path); err != nil {
		return fault.New(fault.Data, "move "+newFile(path)+" to "+path+": the log knows the new key by now", "replace the key file: %w", err)
	}
	return nil
}

func (d rotateDoc) table(t *output.Table) {
	switch {
	case d.DryRun:
		t.Line("Dry run: nothing was changed.")
		for _, s := range d.Plan.Steps {
			t.Line("-- %s: %s", s.Name, s.Reason)
		}
		return
	case d.Revoked != nil:
		t.Line("Key %s counts no longer. Key %s writes.", *d.Revoked, d.KeyID)
	default:
		t.Line("Key %s writes from now on; %s has it, and the older ones for verifying. Back it up.", d.KeyID, d.KeyFile)
		t.Line("Give the file to every host that writes, then end the old key with --revoke.")
		t.Line("")
		t.Line("Verifier key:")
		t.Line("%s", d.VerifierKey)
	}
	t.Line("")
	t.Line("Checkpoint: %s, root %s", countOf(d.Checkpoint.Size, "record"), d.Checkpoint.Root)
}
