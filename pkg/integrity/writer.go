package integrity

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"auditdb/pkg/audit"
)

// writer collects what one append inserts.
type writer struct {
	keys *Keys
	ctl  control // as it is after the records so far
	at   time.Time
	edge edge

	seqs       []int64
	records    []string
	macs       [][]byte
	hashAt     []int64
	hashes     [][]byte
	touched    []touch
	sets       []storedSet
	expired    []storedExpiry
	redacted   []storedRedaction
	checkpoint Checkpoint
	root       tlog.Hash
}

// touch is a row of auditdb.log_partition.
type touch struct {
	table int16
	rng   Range
	seq   int64
}

// storedExpiry is a row of auditdb.expired.
type storedExpiry struct {
	seq, leaf int64
	ids       *audit.IDSet
}

// storedRedaction is a row of auditdb.redaction.
type storedRedaction struct {
	seq   int64
	table int16
	Redaction
}

// storedSet is a row of auditdb.leaf.
type storedSet struct {
	seq   int64
	table int16
	rng   Range
	block *int64
	set   *LeafSet
}

// add makes the next record of the log out of an entry.
func (w *writer) add(e Entry) error {
	seq := w.edge.size
	r := Record{Seq: seq, Time: w.at, Body: e.Body}
	text, err := r.Encode()
	if err != nil {
		return err
	}
	w.control(r)
	mac := w.keys.MAC(text)
	stored, err := w.edge.add(tlog.RecordHash(text))
	if err != nil {
		return err
	}
	first := tlog.StoredHashIndex(0, seq)
	for i, h := range stored {
		w.hashAt = append(w.hashAt, first+int64(i))
		w.hashes = append(w.hashes, h[:])
	}
	w.seqs = append(w.seqs, seq)
	w.records = append(w.records, string(text))
	w.macs = append(w.macs, mac[:])
	table, ranges := touches(e.Body)
	for _, r := range ranges {
		w.touched = append(w.touched, touch{table: table, rng: r, seq: seq})
	}
	if e.Set != nil {
		s := storedSet{seq: seq, table: table, rng: ranges[0], set: e.Set}
		if b, ok := e.Body.(*Batch); ok {
			s.block = &b.Block
		}
		w.sets = append(w.sets, s)
	}
	if x, ok := e.Body.(*Expire); ok && e.expired != nil {
		w.expired = append(w.expired, storedExpiry{seq: seq, leaf: x.Leaf, ids: e.expired})
	}
	for _, r := range e.redacted {
		w.redacted = append(w.redacted, storedRedaction{seq: seq, table: e.Table.ID, Redaction: r})
	}
	return nil
}

// control takes note of records about the log itself; what the log was known to say must not change for others.
func (w *writer) control(r Record) {
	switch r.Body.(type) {
	case *Genesis, *Key, *Revoke, *Recovery:
		w.ctl = w.ctl.clone()
		w.ctl.apply(r)
	}
}

// touches returns the table and the partitions that a record is about; a format record is about all of them.
func touches(b Body) (int16, []Range) {
	switch b := b.(type) {
	case *Format:
		return b.Table, []Range{{FromMin: true, ToMax: true}}
	case *Partition:
		return b.Table, []Range{b.Partition.Range}
	case *Batch:
		return b.Table, []Range{b.Partition.Range}
	case *Seal:
		return b.Table, []Range{b.Partition.Range}
	case *Move:
		return b.Table, []Range{b.From.Range, b.To.Range}
	case *Detach:
		return b.Table, []Range{b.Partition.Range}
	case *Prune:
		return b.Table, []Range{b.Partition.Range}
	case *Expire:
		return b.Table, []Range{b.Partition.Range}
	case *Archive:
		return b.Table, []Range{b.Partition.Range}
	case *Restore:
		return b.Table, []Range{b.Partition.Range}
	}
	return 0, nil
}

// finish signs the checkpoint and returns the log's new end.
func (w *writer) finish() (tail, error) {
	root, err := w.edge.root()
	if err != nil {
		return tail{}, err
	}
	w.root = root
	w.checkpoint, err = w.keys.signAll(w.edge.size, root, w.ctl)
	return tail{edge: w.edge, root: root}, err
}

// write sends everything in one round trip.
func (w *writer) write(ctx context.Context, tx pgx.Tx, end logEnd, extra func(*pgx.Batch)) error {
	b := &pgx.Batch{}
	if !end.durable {
		queueDurable(b)
	}
	w.queue(b)
	extra(b)
	return tx.SendBatch(ctx, b).Close()
}
