package cmd

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/internal/postgres"
	"auditdb/pkg/integrity"
	"auditdb/pkg/plan"
)

// integrityDocuments lists the documents of the integrity commands.
func integrityDocuments() map[string]any {
	return map[string]any{
		"integrity.keygen": keygenDoc{}, "integrity.seal": sealDoc{}, "integrity.rotate": rotateDoc{}, "integrity.checkpoint": checkpointDoc{},
		"integrity.log": logDoc{}, "integrity.accept-loss": recoverDoc{}, "integrity.fork": recoverDoc{},
	}
}

func newIntegrityCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "integrity",
		Short: "Keys, seals and checkpoints of the integrity log",
		Long: "The integrity log holds a Merkle root for every set of rows, authenticated by a key and covered by signed checkpoints.\n" +
			"Rows that ingest writes are in it from their commit on; rows that other applications insert are taken in by seal.",
		Example: "  auditdb integrity keygen -f /etc/auditdb/integrity.key\n  auditdb integrity seal",
	}
	cmd.AddCommand(newKeygenCmd(app), newSealCmd(app), newRotateCmd(app), newCheckpointCmd(app), newLogCmd(app),
		newAcceptLossCmd(app), newForkCmd(app))
	return cmd
}

// keygenDoc is auditdb.integrity.keygen.v1.
type keygenDoc struct {
	KeyFile     string  `json:"key_file"`
	PublicFile  *string `json:"public_file"`
	Origin      string  `json:"origin"`
	KeyID       string  `json:"key_id"`
	VerifierKey string  `json:"verifier_key"`
}

type keygenOptions struct{ file, public, origin string }

func newKeygenCmd(app *App) *cobra.Command {
	var o keygenOptions
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "Make the secret key of an integrity log",
		Long: "Writes one secret, from which the key that authenticates the log and the key that signs its checkpoints derive, to a new file\n" +
			"that only its owner may read, and prints the public verifier key (C2SP), never the secret. A file that exists is left alone (exit 6).\n" +
			"Keep the secret off the database host and back it up: without it the log can neither be extended nor authenticated.",
		Example: "  auditdb integrity keygen -f integrity.key\n  auditdb integrity keygen -f integrity.key --public integrity.pub --origin audit.example.com/main",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.file == "" {
				return usage(cmd.CommandPath(), "name the file to make with -f FILE", "-f is missing")
			}
			return runKeygen(app, o)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.file, "file", "f", "", "`FILE` to write the secret to; it must not exist")
	f.StringVar(&o.public, "public", "", "`FILE` to write the verifier key to; it must not exist")
	f.StringVar(&o.origin, "origin", "", "`NAME` of the log in its checkpoints (default: integrity.origin, else auditdb/ and the key's id)")
	return cmd
}

func runKeygen(app *App, o keygenOptions) error {
	if o.origin == "" {
		o.origin = app.Config.Integrity.Origin
	}
	keys, err := integrity.Generate(o.origin)
	if err != nil {
		return err
	}
	doc := keygenDoc{KeyFile: o.file, Origin: keys.Origin(), KeyID: keys.ID(), VerifierKey: keys.Public().Encode()}
	if err := keys.Save(o.file); err != nil {
		return err
	}
	if o.public != "" {
		if err := keys.Public().Save(o.public); err != nil {
			return fmt.Errorf("%w (the secret is in %s; its verifier key is %s)", err, o.file, doc.VerifierKey)
		}
		doc.PublicFile = &o.public
	}
	return app.Emit("integrity.keygen", doc, func(t *output.Table) {
		t.Line("Wrote the secret key %s to %s. Back it up; nobody can make it again.", doc.KeyID, doc.KeyFile)
		t.Line("Set integrity.key_file (or AUDITDB_INTEGRITY_KEY_FILE) to that file.")
		t.Line("")
		t.Line("Verifier key, to be given to everybody who checks:")
		t.Line("%s", doc.VerifierKey)
	})
}

// sealDoc is auditdb.integrity.seal.v1.
type sealDoc struct {
	Tables         []integrity.SealResult `json:"tables"`
	Checkpoint     *integrity.Checkpoint  `json:"checkpoint"` // null when nothing was sealed
	DryRun         bool                   `json:"dry_run"`
	ElapsedSeconds float64                `json:"elapsed_seconds"`
	Plan           plan.Plan              `json:"plan"`
}

type sealOptions struct {
	dryRun, accept bool
	settle         *time.Duration
}

func newSealCmd(app *App) *cobra.Command {
	var o sealOptions
	cmd := &cobra.Command{
		Use:   "seal [TABLE]",
		Short: "Take rows that other applications inserted into the integrity log",
		Long: "Reads back every row that is visible and in no leaf set yet, and logs a Merkle root for each 65,536 of them. From then on a change\n" +
			"to them is found. Rows in a default partition are counted, not sealed: drain it first. A partition that was attached behind the\n" +
			"log's back is left alone, unless --accept-partitions records it. A second run goes on where an interrupted one stopped.",
		Example: "  auditdb integrity seal --dry-run\n  auditdb integrity seal public.audit_log -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSeal(cmd.Context(), app, argument(args), o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.dryRun, "dry-run", false, "print the plan and change nothing")
	f.BoolVar(&o.accept, "accept-partitions", false, "log attached partitions that the log does not know")
	o.settle = durationFlag(f, "settle", 2*time.Second, "wait this long for transactions that are writing (0: do not wait)")
	return cmd
}

// argument is the only argument, "" without one.
func argument(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func runSeal(ctx context.Context, app *App, table string, o sealOptions) error {
	started := app.Now()
	log, err := requireLog(ctx, app, "seal")
	if err != nil {
		return err
	}
	db, err := app.Postgres(ctx, "integrity.seal")
	if err != nil {
		return err
	}
	tables, err := managedTables(ctx, db, table)
	if err != nil {
		return err
	}
	doc := sealDoc{Tables: []integrity.SealResult{}, DryRun: o.dryRun, Plan: plan.Plan{Action: "integrity seal", AsOf: started}}
	if !o.dryRun {
		if _, err := app.StartJob(ctx, db, "integrity.seal", oneTable(tables)); err != nil {
			return err
		}
	}
	err = sealTables(ctx, app, db, log, tables, o, &doc)
	doc.ElapsedSeconds = app.Now().Sub(started).Seconds()
	if err != nil && len(doc.Tables) == 0 {
		return err
	}
	app.Summarize(map[string]any{"tables": len(doc.Tables), "sealed_rows": doc.sealed()})
	if emitErr := app.Emit("integrity.seal", doc, doc.table); emitErr != nil {
		return emitErr
	}
	return err
}

// sealTables seals one table after another; what was done before an error is in the document.
func sealTables(ctx context.Context, app *App, db *postgres.DB, log *integrity.Log, tables []integrity.ManagedTable, o sealOptions, doc *sealDoc) error {
	progress := app.Progress("seal", 0, output.Rows)
	defer progress.Done()
	for i := range tables {
		res, err := log.Seal(ctx, db, &tables[i].Table, integrity.SealOptions{
			Now: app.Now, Wait: app.Config.Wait, Settle: *o.settle, DryRun: o.dryRun, AcceptPartitions: o.accept, Progress: progress.Add,
		})
		if err == nil || res.Records > 0 {
			doc.add(res)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *sealDoc) add(res integrity.SealResult) {
	d.Tables = append(d.Tables, res)
	if res.Checkpoint != nil {
		d.Checkpoint = res.Checkpoint
	}
	for _, p := range res.Partitions {
		d.Plan.Steps = append(d.Plan.Steps, plan.Step{
			Name: p.Name, SQL: "INSERT INTO auditdb.log …;\nINSERT INTO auditdb.leaf …",
			Reason: fmt.Sprintf("%s of other writers in no leaf set, %s", countOf(int(p.Rows), "row"), countOf(int(p.Records), "record")),
		})
	}
	for _, s := range res.Skipped {
		d.Plan.Skipped = append(d.Plan.Skipped, plan.Skip{Name: s.Partition, Reason: s.Reason})
	}
}

func (d *sealDoc) sealed() (n int64) {
	for _, t := range d.Tables {
		n += t.SealedRows
	}
	return n
}

func (d *sealDoc) table(t *output.Table) {
	if d.DryRun {
		t.Line("Dry run: nothing was changed.")
		t.Line("")
	}
	t.Header("table", "sealed rows", "records", "late rows", "rows in default partition")
	for _, r := range d.Tables {
		t.Row(r.Table, r.SealedRows, r.Records, r.LateRows, r.UnsealedDefault)
	}
	for _, s := range d.Plan.Skipped {
		t.Line("Skipped %s: %s", s.Name, s.Reason)
	}
	if d.Checkpoint != nil {
		t.Line("")
		t.Line("Checkpoint: %s, root %s", countOf(d.Checkpoint.Size, "record"), d.Checkpoint.Root)
	}
}

// managedTables finds the managed tables with integrity on: the named one, or all.
func managedTables(ctx context.Context, db *postgres.DB, name string) ([]integrity.ManagedTable, error) {
	if err := requireSchema(ctx, db); err != nil {
		return nil, err
	}
	all, err := integrity.ManagedTables(ctx, db.Pool())
	if err != nil {
		return nil, err
	}
	if name != "" {
		one, err := integrity.MatchTable(ctx, db, all, name)
		if err != nil {
			return nil, err
		}
		if one.Table.OID == 0 {
			return nil, fault.New(fault.Usage, "auditdb verify-integrity says what is missing", "table %s does not exist", name)
		}
		if !one.Integrity {
			return nil, fault.New(fault.Config, "", "table %s has integrity off", name)
		}
		return []integrity.ManagedTable{one}, nil
	}
	var on []integrity.ManagedTable
	for _, m := range all {
		if m.Integrity && m.Table.OID != 0 {
			on = append(on, m)
		}
	}
	return on, nil
}

// oneTable gives the id of the only table, for the record of the run.
func oneTable(tables []integrity.ManagedTable) *int16 {
	if len(tables) != 1 {
		return nil
	}
	return &tables[0].Table.ID
}

func requireSchema(ctx context.Context, db *postgres.DB) error {
	ok, err := integrity.Exists(ctx, db.Pool())
	if err == nil && !ok {
		err = fault.New(fault.Config, "auditdb migrate up", "the database has no integrity log: auditdb's schema is missing")
	}
	return err
}
