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
	"auditdb/pkg/integrity"
)

// The kinds of proofs.
const (
	proofOfEvent       = "event"
	proofOfConsistency = "consistency"
)

// proveDoc is auditdb.verify-integrity.prove.v1.
type proveDoc struct {
	Kind             string                `json:"kind"`
	File             string                `json:"file"`
	SizeBytes        int64                 `json:"size_bytes"`
	Table            *string               `json:"table"`
	Partition        *string               `json:"partition"` // when the event was logged
	ID               *int64                `json:"id"`
	Record           *int64                `json:"record"` // sequence number of the leaf set's record
	LoggedAt         time.Time             `json:"logged_at"`
	Hidden           *bool                 `json:"hidden"` // the proof is without personal fields
	Extends          *integrity.Checkpoint `json:"extends"`
	Checkpoint       integrity.Checkpoint  `json:"checkpoint"`
	SignatureChecked bool                  `json:"signature_checked"`
	ElapsedSeconds   float64               `json:"elapsed_seconds"`
}

type proveOptions struct {
	id           int64
	table        string
	hidePersonal bool
	extends      string
	checkpoint   string
	file         string
}

func newProveCmd(app *App) *cobra.Command {
	var o proveOptions
	cmd := &cobra.Command{
		Use:   "prove",
		Short: "Write a proof of one event, or that the log extends a checkpoint",
		Long: "--id proves that an event was logged as it is: whoever has the log's verifier key can check the file with check-proof, without the\n" +
			"database. --extends proves that the log still begins with everything that a checkpoint kept outside covers. The file must not exist.\n" +
			"Exit 4: the row or the log is not what was logged. Exit 1: there is nothing to prove it with: not sealed yet, expired, or pruned.",
		Example: "  auditdb verify-integrity prove --id 1099511693312 -f event.tlog-proof\n" +
			"  auditdb verify-integrity prove --id 1099511693312 --hide-personal -f event.tlog-proof\n" +
			"  auditdb verify-integrity prove --extends receipt.txt -f consistency.proof",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.file == "" {
				return usage(cmd.CommandPath(), "name the file to make with -f FILE", "-f is missing")
			}
			if o.extends != "" && (o.table != "" || o.hidePersonal) {
				return usage(cmd.CommandPath(), "", "--extends goes with neither --table nor --hide-personal")
			}
			return runProve(cmd.Context(), app, o)
		},
	}
	f := cmd.Flags()
	f.Int64Var(&o.id, "id", 0, "prove the event with this `ID`")
	f.StringVar(&o.table, "table", "", "the `TABLE` that has the event (default: whichever has it)")
	f.BoolVar(&o.hidePersonal, "hide-personal", false, "leave the personal fields out; the others are proven all the same")
	f.StringVar(&o.extends, "extends", "", "prove that the log extends the checkpoint in this `FILE|URL`")
	f.StringVar(&o.checkpoint, "checkpoint", "", "prove to the checkpoint in this `FILE|URL` (default: the log's newest)")
	f.StringVarP(&o.file, "file", "f", "", "`FILE` to write the proof to; it must not exist")
	cmd.MarkFlagsOneRequired("id", "extends")
	cmd.MarkFlagsMutuallyExclusive("id", "extends")
	return cmd
}

func runProve(ctx context.Context, app *App, o proveOptions) error {
	started := app.Now()
	opts := integrity.ProveOptions{ID: o.id, HidePersonal: o.hidePersonal, Wait: app.Config.Wait}
	var err error
	if opts.Keys, err = configuredPublic(app); err != nil {
		return err
	}
	if opts.Checkpoint, err = proofCheckpoint(ctx, o.checkpoint); err != nil {
		return err
	}
	extends, err := proofCheckpoint(ctx, o.extends)
	if err != nil {
		return err
	}
	db, err := app.Postgres(ctx, "verify-integrity.prove")
	if err != nil {
		return err
	}
	if err := requireSchema(ctx, db); err != nil {
		return err
	}
	doc := proveDoc{File: o.file, SignatureChecked: len(opts.Keys) > 0}
	text, err := doc.prove(ctx, db, o.table, extends, opts)
	if err != nil {
		return fmt.Errorf("prove: %w", err)
	}
	if !doc.SignatureChecked {
		app.Warn("the checkpoint's signature was not checked: neither integrity.key_file nor integrity.public_key_file is set")
	}
	if err := integrity.SaveProof(o.file, text); err != nil {
		return err
	}
	doc.SizeBytes, doc.ElapsedSeconds = int64(len(text)), app.Now().Sub(started).Seconds()
	return app.Emit("verify-integrity.prove", doc, doc.draw)
}

// configuredPublic gives the verifier keys that are configured, by themselves or with the secrets; none is no error.
func configuredPublic(app *App) ([]*integrity.PublicKey, error) {
	keys, err := loadKeys(app)
	if err != nil {
		return nil, err
	}
	if keys != nil {
		return keys.Publics(), nil
	}
	file := app.Config.Integrity.PublicKeyFile
	if file == "" {
		return nil, nil
	}
	public, err := integrity.LoadPublic(file)
	if err != nil {
		return nil, err
	}
	return []*integrity.PublicKey{public}, nil
}

// proofCheckpoint reads a checkpoint in the form that it was signed in: line ends, a byte order mark and empty lines around it come from
// copying.
func proofCheckpoint(ctx context.Context, source string) (string, error) {
	if source == "" {
		return "", nil
	}
	text, err := readCheckpoint(ctx, source)
	if err != nil {
		return "", fault.New(fault.Unavailable, "check the file or address", "read checkpoint %s: %w", postgres.RedactURL(source), err)
	}
	note := strings.TrimSpace(strings.ReplaceAll(strings.TrimPrefix(string(text), "\ufeff"), "\r\n", "\n")) + "\n"
	if _, _, err := integrity.ParseCheckpoint(note); err != nil {
		return "", fault.New(fault.Unavailable, "give a file that holds one signed checkpoint", "read checkpoint %s: %w", postgres.RedactURL(source), err)
	}
	return note, nil
}

func (d *proveDoc) prove(ctx context.Context, db *postgres.DB, table, extends string, opts integrity.ProveOptions) ([]byte, error) {
	if extends != "" {
		p, older, newer, err := integrity.ProveConsistency(ctx, db, extends, opts)
		if err != nil {
			return nil, err
		}
		d.Kind, d.Extends, d.Checkpoint = proofOfConsistency, &older, newer
		return p.Encode()
	}
	all, err := integrity.ManagedTables(ctx, db.Pool())
	if err != nil {
		return nil, err
	}
	if opts.Tables = all; table != "" {
		one, err := integrity.MatchTable(ctx, db, all, table)
		if err != nil {
			return nil, err
		}
		opts.Tables = []integrity.ManagedTable{one}
	}
	p, e, err := integrity.ProveEvent(ctx, db, opts)
	if err != nil {
		return nil, err
	}
	d.Kind, d.Checkpoint = proofOfEvent, e.Checkpoint
	d.Table, d.Partition, d.ID, d.Record, d.LoggedAt, d.Hidden = &e.Table, &e.Partition, &e.ID, &e.Record, e.LoggedAt, &e.Hidden
	return p.Encode()
}

func (d *proveDoc) draw(t *output.Table) {
	what := "the log's growth"
	if d.Extends != nil {
		what = "the log's growth since its first " + countOf(d.Extends.Size, "record")
	}
	if d.ID != nil {
		what = fmt.Sprintf("row %d of %s, in record %d", *d.ID, *d.Table, *d.Record)
		if *d.Hidden {
			what += ", without personal fields"
		}
	}
	t.Header("", "")
	t.Row("proof of", what)
	t.Row("proven to", countOf(d.Checkpoint.Size, "record")+" of "+d.Checkpoint.Origin)
	t.Row("file", fmt.Sprintf("%s (%s)", d.File, output.Cell(output.Size(d.SizeBytes))))
	t.Line("")
	t.Line("To be checked by anybody with the verifier key, without a database:")
	t.Verbatim("auditdb verify-integrity check-proof " + d.File + " --public-key FILE")
}
