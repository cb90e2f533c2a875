package integrity

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/audit"
)

const verifyHint = "auditdb verify-integrity"

// ProveOptions say what to prove, and to which checkpoint.
type ProveOptions struct {
	ID           int64
	Tables       []ManagedTable // where to look for it
	HidePersonal bool           // leave the personal fields out
	Checkpoint   string         // signed note; "": the log's newest
	Keys         []*PublicKey   // the proof must hold for one of them; none: signatures are not checked
	Wait         time.Duration  // for table locks
}

// ProveEvent makes the proof of one event from the leaf store and the row. It reads one leaf set and one row, in one snapshot. A row
// that differs from what was logged, or is gone without a record, is an integrity error; one that cannot be proven because it is not
// sealed, has expired or was pruned is of class data; one that was never there is wrong usage.
func ProveEvent(ctx context.Context, db *postgres.DB, o ProveOptions) (p *EventProof, e *ProvenEvent, err error) {
	err = db.TxWith(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		m := proofMaker{tx: tx, o: o}
		if p, err = m.event(ctx); err != nil {
			return err
		}
		if e, err = p.event(m.cp); err == nil {
			err = m.confirm(p)
		}
		return err
	})
	if err != nil {
		var oids []uint32
		for _, t := range o.Tables {
			oids = append(oids, t.Table.OID)
		}
		return nil, nil, db.Blocked(ctx, oids, false, err)
	}
	return p, e, nil
}

// ProveConsistency proves that the log extends a checkpoint, up to its newest one or that of the options.
func ProveConsistency(ctx context.Context, db *postgres.DB, old string, o ProveOptions) (p *ConsistencyProof, older, newer Checkpoint, err error) {
	older, root, err := ParseCheckpoint(old)
	if err != nil {
		return nil, older, newer, fault.New(fault.Unavailable, "give a file that holds one signed checkpoint", "%w", err)
	}
	err = db.TxWith(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		m := proofMaker{tx: tx, o: o}
		if err := m.prepare(ctx); err != nil {
			return err
		}
		newer = m.cp
		if err := m.extends(ctx, older, root); err != nil {
			return err
		}
		path, err := tlog.ProveTree(newer.Size, older.Size, treeReader(ctx, tx))
		if err != nil {
			return fmt.Errorf("prove that the log extends the checkpoint: %w", err)
		}
		p = &ConsistencyProof{Path: path, Old: old, New: newer.Note}
		if _, _, err = p.checkTrees(); err == nil && len(o.Keys) > 0 {
			_, _, err = p.Check(o.Keys...)
		}
		return m.doubted(err)
	})
	return p, older, newer, err
}

// proofMaker makes one proof in a transaction.
type proofMaker struct {
	tx   pgx.Tx
	o    ProveOptions
	cp   Checkpoint
	root tlog.Hash
}

// prepare reads the checkpoint and checks that the log's tree leads to it.
func (m *proofMaker) prepare(ctx context.Context) error {
	if err := prepareProof(ctx, m.tx, m.o.Wait); err != nil {
		return err
	}
	newest, err := readNewestNote(ctx, m.tx)
	if err != nil {
		return err
	}
	if newest == "" {
		return fault.New(fault.Data, "auditdb integrity seal takes in the rows that are there", "nothing has been logged yet, so nothing can be proven")
	}
	end, endRoot, err := ParseCheckpoint(newest)
	if err != nil || !provableSize(end.Size) {
		return fault.New(fault.Integrity, verifyHint, "checkpoint_signature_invalid: the log's newest checkpoint is not one")
	}
	if m.cp, m.root = end, endRoot; m.o.Checkpoint == "" || m.o.Checkpoint == newest {
		return nil
	}
	cp, root, err := ParseCheckpoint(m.o.Checkpoint)
	if err != nil {
		return fault.New(fault.Unavailable, "give a file that holds one signed checkpoint", "%w", err)
	}
	if err := m.extends(ctx, cp, root); err != nil {
		return err
	}
	m.cp, m.root = cp, root
	return nil
}

// extends checks that the log up to m.cp begins with the records of a checkpoint.
func (m *proofMaker) extends(ctx context.Context, cp Checkpoint, root tlog.Hash) error {
	switch {
	case cp.Origin != m.cp.Origin:
		return fault.New(fault.Config, "give a checkpoint of this log", "the checkpoint is of the log %q, this one is %q", cp.Origin, m.cp.Origin)
	case cp.Size < 1:
		return fault.New(fault.Config, "give a checkpoint of a log that had records", "the checkpoint covers no records")
	case cp.Size > m.cp.Size:
		return fault.New(fault.Integrity, verifyHint+" --checkpoint FILE", "log_truncated: the checkpoint covers %d records, the log has %d", cp.Size, m.cp.Size)
	}
	got, err := tlog.TreeHash(cp.Size, treeReader(ctx, m.tx))
	if err != nil {
		return fmt.Errorf("follow the log's tree: %w", err)
	}
	if got != root {
		return fault.New(fault.Integrity, verifyHint+" --checkpoint FILE", "log_forked: the log's first %d records are not those of the checkpoint", cp.Size)
	}
	return nil
}

// confirm checks a proof as its reader will. What does not hold was not made so by this program.
func (m *proofMaker) confirm(p *EventProof) error {
	err := p.checkTree(m.cp.Size, m.root)
	if err == nil && len(m.o.Keys) > 0 {
		_, err = p.Check(m.o.Keys...)
	}
	return m.doubted(err)
}

// doubted gives what does not hold the hint for whoever has the database.
func (m *proofMaker) doubted(err error) error {
	if fault.ClassOf(err) == fault.Integrity {
		return fault.New(fault.Integrity, verifyHint, "log_root_mismatch: the log does not lead to its checkpoint: %w", err)
	}
	return err
}

func (m *proofMaker) event(ctx context.Context) (*EventProof, error) {
	if err := m.prepare(ctx); err != nil {
		return nil, err
	}
	table, seq, err := m.find(ctx)
	if err != nil {
		return nil, err
	}
	if seq >= m.cp.Size {
		return nil, fault.New(fault.Data, "prove it to a newer checkpoint", "row %d was logged after the checkpoint of %d records: as record %d", m.o.ID, m.cp.Size, seq)
	}
	p := &EventProof{Checkpoint: m.cp.Note}
	st, err := readSet(ctx, m.tx, seq)
	if err != nil {
		return nil, err
	}
	at, err := m.place(p, st)
	if err != nil {
		return nil, err
	}
	if p.Format, err = readFormatRecord(ctx, m.tx, table.ID); err != nil {
		return nil, err
	}
	if err := m.records(ctx, p, seq); err != nil {
		return nil, err
	}
	if err := m.fields(ctx, p, table, rowLeaf{seq: seq, at: at, leaf: tlog.Hash(st.leaves[at*audit.HashSize:])}); err != nil {
		return nil, err
	}
	return p, p.resolve()
}

// find looks for the leaf set of the row.
func (m *proofMaker) find(ctx context.Context) (table *Table, seq int64, err error) {
	for i := range m.o.Tables {
		t := &m.o.Tables[i].Table
		seqs, err := readSetsWith(ctx, m.tx, t.ID, m.o.ID)
		if err != nil {
			return nil, 0, err
		}
		switch {
		case len(seqs) == 0:
			continue
		case len(seqs) > 1:
			return nil, 0, fault.New(fault.Integrity, verifyHint, "leaves_corrupt: the leaf store has row %d in the sets of records %d and %d", m.o.ID, seqs[0], seqs[1])
		case table != nil:
			return nil, 0, fault.New(fault.Usage, "name one with --table", "both %s.%s and %s.%s have a row %d", table.Schema, table.Name, t.Schema, t.Name, m.o.ID)
		}
		table, seq = t, seqs[0]
	}
	if table == nil {
		return nil, 0, m.unsealed(ctx)
	}
	return table, seq, nil
}

// unsealed says why a row is in no leaf set.
func (m *proofMaker) unsealed(ctx context.Context) error {
	for i := range m.o.Tables {
		t := &m.o.Tables[i].Table
		if t.OID == 0 {
			continue
		}
		ok, err := rowExists(ctx, m.tx, relation{schema: t.Schema, name: t.Name}, m.o.ID)
		if err != nil {
			return err
		}
		if ok && m.o.ID >= FirstBlockID {
			return fault.New(fault.Integrity, verifyHint, "row_unexpected: the id of row %d claims that ingest logged it, but no leaf set has it", m.o.ID)
		}
		if ok {
			return fault.New(fault.Data, "auditdb integrity seal, then prove it", "row %d of %s.%s is not sealed yet: there is nothing to prove it with", m.o.ID, t.Schema, t.Name)
		}
	}
	return fault.New(fault.Usage, "check --id and --table", "there is no row %d, and the log knows of none", m.o.ID)
}

// place checks the leaf set against its record and fills in the row's path in it.
func (m *proofMaker) place(p *EventProof, st storedLeaves) (at int, err error) {
	damaged := func(what string) error {
		return fault.New(fault.Integrity, verifyHint, "%s of record %d", what, st.seq)
	}
	p.Record = st.record.text
	r, err := Parse([]byte(p.Record))
	set, place, ok := setOf(r.Body)
	if err != nil || !ok || r.Seq != st.seq {
		return 0, damaged("log_root_mismatch: the log has something else in the place")
	}
	p.place = place
	ids, err := audit.DecodeIDSet(set.MinID, st.ids)
	at, ok = ids.Index(m.o.ID)
	if err != nil || !ok || sha256.Sum256(st.ids) != set.IDs {
		return 0, damaged("leaves_corrupt: the leaf store has other ids than those")
	}
	if int64(len(st.leaves)) != set.Rows*audit.HashSize || audit.RootOf(st.leaves) != set.Root {
		return 0, damaged("leaves_corrupt: the leaf store does not lead to the root")
	}
	p.Position, p.SetPath = int64(at), leafPath(st.leaves, at)
	return at, nil
}

// leafPath is the inclusion path of RFC 6962, section 2.1.1, from leaf hashes one after another.
func leafPath(leaves []byte, at int) []tlog.Hash {
	n := len(leaves) / audit.HashSize
	if n <= 1 {
		return nil
	}
	k := 1
	for 2*k < n {
		k *= 2
	}
	left, right := leaves[:k*audit.HashSize], leaves[k*audit.HashSize:]
	if at < k {
		return append(leafPath(left, at), audit.RootOf(right))
	}
	return append(leafPath(right, at-k), audit.RootOf(left))
}

// records fills in the paths of the two records in the log's tree.
func (m *proofMaker) records(ctx context.Context, p *EventProof, seq int64) error {
	r, err := Parse([]byte(p.Format))
	f, ok := r.Body.(*Format)
	if err != nil || !ok || r.Seq >= m.cp.Size {
		return fault.New(fault.Integrity, verifyHint, "log_root_mismatch: the record of the table's columns is damaged")
	}
	p.format = f
	for _, x := range []struct {
		seq  int64
		path *[]tlog.Hash
	}{{seq, &p.RecordPath}, {r.Seq, &p.FormatPath}} {
		path, err := tlog.ProveRecord(m.cp.Size, x.seq, treeReader(ctx, m.tx))
		if err != nil {
			return fmt.Errorf("prove record %d of the log: %w", x.seq, err)
		}
		*x.path = path
	}
	return nil
}
