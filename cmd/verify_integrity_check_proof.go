package cmd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/pkg/integrity"
)

// checkProofDoc is auditdb.verify-integrity.check-proof.v1.
type checkProofDoc struct {
	OK         bool                   `json:"ok"`
	Kind       string                 `json:"kind"`
	Reason     *string                `json:"reason"`  // why it does not hold
	Event      *integrity.ProvenEvent `json:"event"`   // null unless it holds
	Extends    *integrity.Checkpoint  `json:"extends"` // of a consistency proof: the older checkpoint
	Checkpoint *integrity.Checkpoint  `json:"checkpoint"`
}

func newCheckProofCmd(app *App) *cobra.Command {
	var keys []string
	cmd := &cobra.Command{
		Use:   "check-proof FILE",
		Short: "Check a proof of prove with the verifier key alone",
		Long: "Needs no database and no configuration, and trusts nothing but the key. Shows the proven event, or the two checkpoints of a log that\n" +
			"only grew. Exit 4: the proof does not hold. Exit 3: the checkpoint was signed by another key, so that nothing can be said, or a\n" +
			"file cannot be read. FILE may be - for standard input.",
		Example: "  auditdb verify-integrity check-proof event.tlog-proof --public-key integrity.pub",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file := app.Config.Integrity.PublicKeyFile; len(keys) == 0 && file != "" {
				keys = []string{file}
			}
			if len(keys) == 0 {
				return usage(cmd.CommandPath(), "name the file with the log's verifier key, which keygen printed", "--public-key is missing")
			}
			return runCheckProof(app, args[0], keys)
		},
	}
	cmd.Flags().StringArrayVar(&keys, "public-key", nil, "`FILE` with the log's verifier key (repeatable: any of them may have signed)")
	return lenient(cmd)
}

func runCheckProof(app *App, file string, keyFiles []string) error {
	var keys []*integrity.PublicKey
	for _, path := range keyFiles {
		key, err := integrity.LoadPublic(path)
		if err != nil {
			return err
		}
		keys = append(keys, key)
	}
	text, err := readProof(app.In, file)
	if err != nil {
		return fault.New(fault.Unavailable, "check the file's name", "read the proof: %w", err)
	}
	doc, err := checkProof(text, keys)
	if err != nil && fault.ClassOf(err) != fault.Integrity {
		return fmt.Errorf("check-proof: %w", err)
	}
	if err != nil {
		err = fmt.Errorf("check-proof: %w", err)
		reason := err.Error()
		doc.Reason = &reason
	}
	doc.OK = err == nil
	return errors.Join(err, app.Emit("verify-integrity.check-proof", doc, doc.draw))
}

func readProof(in io.Reader, file string) ([]byte, error) {
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, integrity.MaxProof+1))
	return text, err
}

// checkProof tells the kinds of proofs apart by their first line. A text that is none is a proof that does not hold.
func checkProof(text []byte, keys []*integrity.PublicKey) (doc checkProofDoc, err error) {
	if bytes.HasPrefix(text, []byte("auditdb-consistency-proof/")) {
		doc.Kind = proofOfConsistency
		p, err := integrity.ParseConsistencyProof(text)
		if err != nil {
			return doc, notAProof(err)
		}
		older, newer, err := p.Check(keys...)
		if err == nil {
			doc.Extends, doc.Checkpoint = &older, &newer
		}
		return doc, err
	}
	doc.Kind = proofOfEvent
	p, err := integrity.ParseEventProof(text)
	if err != nil {
		return doc, notAProof(err)
	}
	if doc.Event, err = p.Check(keys...); err == nil {
		doc.Checkpoint = &doc.Event.Checkpoint
	}
	return doc, err
}

func notAProof(err error) error {
	return fault.New(fault.Integrity, "get the proof anew from whoever made it; it must not be edited or converted", "%w", err)
}

// draw puts whatever comes from the proof into cells, where it cannot drive the terminal.
func (d *checkProofDoc) draw(t *output.Table) {
	switch {
	case !d.OK:
		t.Line("NOT PROVEN")
		return
	case d.Event == nil:
		t.Line("PROVEN: the log only grew between the two checkpoints.")
		t.Header("log", "records", "root")
		t.Row(d.Extends.Origin, plainNumber(&d.Extends.Size), d.Extends.Root)
		t.Row(d.Checkpoint.Origin, plainNumber(&d.Checkpoint.Size), d.Checkpoint.Root)
		return
	}
	e := d.Event
	t.Line("PROVEN: the log had this event when the checkpoint was signed.")
	t.Header("", "")
	t.Row("table", e.Table)
	t.Row("partition then", e.Partition)
	t.Row("logged at", output.Moment(e.LoggedAt))
	t.Row("record", plainNumber(&e.Record))
	t.Row("log", e.Checkpoint.Origin)
	t.Row("records", plainNumber(&e.Checkpoint.Size))
	t.Row("root", e.Checkpoint.Root)
	t.Line("")
	t.Header("field", "value")
	for _, f := range e.Fields {
		switch {
		case f.Personal && e.Hidden:
			t.Row(f.Name, "(not in the proof)")
		case f.Value == nil:
			t.Row(f.Name, nil)
		default:
			t.Row(f.Name, *f.Value)
		}
	}
}
