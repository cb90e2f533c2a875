package cmd

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/internal/postgres"
	"auditdb/pkg/integrity"
	"auditdb/pkg/integrity/anchors"
)

// checkpointDoc is auditdb.integrity.checkpoint.v1.
type checkpointDoc struct {
	Checkpoint integrity.Checkpoint `json:"checkpoint"`
	Signed     bool                 `json:"signed"` // now, with the keys at hand; false: as it is stored in the database
	File       *string              `json:"file"`
	Anchors    []anchors.Result     `json:"anchors"`
}

type checkpointOptions struct {
	file string
	push bool
}

func newCheckpointCmd(app *App) *cobra.Command {
	var o checkpointOptions
	cmd := &cobra.Command{
		Use:   "checkpoint",
		Short: "Print the log's signed checkpoint and bring it to the anchors",
		Long: "The checkpoint is signed anew with every key at hand that counts; without the secret key the stored one is printed. Kept outside\n" +
			"the database it proves that the log had these records. Exit 1: an anchor could not be reached; the others have it.",
		Example: "  auditdb integrity checkpoint\n  auditdb integrity checkpoint -f receipt.txt --push=false\n  auditdb integrity checkpoint -o json",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runCheckpoint(cmd.Context(), app, o) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.file, "file", "f", "", "write the note to this `FILE`, which must not exist")
	f.BoolVar(&o.push, "push", true, "bring it to the anchors of integrity.anchors")
	return cmd
}

func runCheckpoint(ctx context.Context, app *App, o checkpointOptions) error {
	log, err := newLog(app)
	if err != nil {
		return err
	}
	db, err := app.Postgres(ctx, "integrity.checkpoint")
	if err != nil {
		return err
	}
	if err := requireSchema(ctx, db); err != nil {
		return err
	}
	doc := checkpointDoc{Signed: log != nil, Anchors: []anchors.Result{}}
	if doc.Checkpoint, err = currentCheckpoint(ctx, app, db, log); err != nil {
		return err
	}
	if o.file != "" {
		if err := writeNew(o.file, doc.Checkpoint.Note); err != nil {
			return err
		}
		doc.File = &o.file
	}
	if o.push {
		doc.Anchors = append(doc.Anchors, app.push(ctx, db, doc.Checkpoint, nil)...)
	}
	if err := app.Emit("integrity.checkpoint", doc, doc.table); err != nil {
		return err
	}
	for _, r := range doc.Anchors {
		if !r.OK {
			return fault.New(fault.Data, "the others have it; run it again", "integrity checkpoint: anchor %s: %s", r.Anchor, r.Error)
		}
	}
	return nil
}

// currentCheckpoint is signed now where there is a secret key, else it is the newest stored one.
func currentCheckpoint(ctx context.Context, app *App, db *postgres.DB, log *integrity.Log) (integrity.Checkpoint, error) {
	if log != nil {
		return log.Current(ctx, db)
	}
	var public *integrity.PublicKey
	if file := app.Config.Integrity.PublicKeyFile; file != "" {
		var err error
		if public, err = integrity.LoadPublic(file); err != nil {
			return integrity.Checkpoint{}, err
		}
	}
	return integrity.Newest(ctx, db.Pool(), public)
}

// writeNew writes a file that does not exist yet.
func writeNew(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // checkpoints are public
	if os.IsExist(err) {
		return fault.New(fault.Refused, "choose another file", "%s exists and is not overwritten", path)
	}
	if err != nil {
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		_ = f.Close() // the first error counts
		return err
	}
	return f.Close()
}

func (d checkpointDoc) table(t *output.Table) {
	t.Verbatim(d.Checkpoint.Note)
	for _, r := range d.Anchors {
		if r.OK {
			t.Line("Anchored: %s", r.Anchor)
		} else {
			t.Line("NOT anchored: %s: %s", r.Anchor, r.Error)
		}
	}
}
