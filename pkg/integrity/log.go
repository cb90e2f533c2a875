package integrity

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/audit"
)

// Table is a managed table that records are about.
type Table struct {
	ID           int16 // auditdb.managed_table
	OID          uint32
	Schema, Name string
	KeyColumn    string       // the partition key
	Format       audit.Format // what its leaves cover; zero: as the catalog has the columns
}

// LeafSet goes to the leaf store beside a batch or seal record.
type LeafSet struct {
	IDs    audit.IDSet
	Leaves []byte // 32 bytes a row, in id order
	Salts  []byte // 16 bytes a row where rows have no salt of their own, else nil
}

// Entry is one record to append, without its sequence number and time, and what belongs to it.
type Entry struct {
	Table *Table // nil for records about no table
	Body  Body
	Set   *LeafSet // for batch and seal

	expired  *audit.IDSet // for expire
	redacted []Redaction  // for redact, in the order of ids
}

// NewBatch makes the entry of a batch: the rows of one block in one partition. It computes the Merkle root, so call it before the
// transaction's last step. leaves are 32 bytes a row in id order.
func NewBatch(t *Table, p PartitionRef, block int64, ids audit.IDSet, leaves []byte) (Entry, error) {
	root, err := leafRoot(ids, leaves, nil)
	if err != nil {
		return Entry{}, err
	}
	return Entry{Table: t, Body: &Batch{Table: t.ID, Partition: p, Block: block, Set: root}, Set: &LeafSet{IDs: ids, Leaves: leaves}}, nil
}

// newSeal makes the entry of a sealed set. salts is nil when every row has one of its own.
func newSeal(t *Table, p PartitionRef, below int64, set LeafSet) (Entry, error) {
	root, err := leafRoot(set.IDs, set.Leaves, set.Salts)
	if err != nil {
		return Entry{}, err
	}
	return Entry{Table: t, Body: &Seal{Table: t.ID, Partition: p, Set: root, Below: below}, Set: &set}, nil
}

func leafRoot(ids audit.IDSet, leaves, salts []byte) (LeafRoot, error) {
	n := ids.Len()
	if n == 0 || len(leaves) != n*audit.HashSize || (salts != nil && len(salts) != n*audit.SaltSize) {
		return LeafRoot{}, fault.New(fault.Internal, "", "leaf set of %d ids with %d bytes of leaves and %d of salts", n, len(leaves), len(salts))
	}
	return LeafRoot{
		MinID: ids.Min(), MaxID: ids.Max(), Rows: int64(n),
		IDs: sha256.Sum256(ids.Encode()), Root: audit.RootOf(leaves),
	}, nil
}

// Appended is the result of an append: the checkpoint that covers it and the sequence number of each entry.
type Appended struct {
	Checkpoint Checkpoint
	Seqs       []int64
}

// Extra queues statements of the caller's own that need the sequence numbers of its entries; they run in the append's round trip.
type Extra func(b *pgx.Batch, seqs []int64)

// Log appends to the integrity log of a database. It is safe for concurrent use by transactions of several connections.
type Log struct {
	keys *Keys
	wait time.Duration // for the log's lock

	mu        sync.Mutex
	anyServer bool         // it is about to be said that the log goes on here
	appended  *atomic.Bool // shared with those of Waiting

	tail tail // the log's end after the last append of this process, whether it was committed or not
	ctl  control
}

// tail is a known end of the log.
type tail struct {
	edge edge
	root tlog.Hash
}

// NewLog returns a log that authenticates with keys.
func NewLog(keys *Keys) *Log {
	return &Log{keys: keys, wait: defaultLockWait, ctl: newControl(), appended: &atomic.Bool{}}
}

// Waiting returns the same log, whose appends wait at most that long for the log's lock, but at least a second: whoever holds it is
// usually about to commit.
func (l *Log) Waiting(wait time.Duration) *Log {
	return &Log{keys: l.keys, wait: max(wait, minLockWait), tail: l.known(), ctl: l.knownControl(), appended: l.appended}
}

// Held makes an error of class locked, which names the holder, of one that says that the log's lock was not to be had in time. Any
// other error is returned as it is.
func Held(ctx context.Context, db *postgres.DB, err error) error {
	if postgres.SQLState(err) != postgres.LockNotAvailable || fault.ClassOf(err) != "" {
		return err
	}
	holders, lookErr := db.Holders(ctx, logLock)
	if lookErr != nil || len(holders) == 0 {
		return err
	}
	return fault.New(fault.Locked, "wait for that run to end, or allow more time with --wait", "%w: the integrity log is held by %s", err, holders[0])
}

// Touched tells whether anything was appended, whether it was committed or not: then there may be a new checkpoint to anchor.
func (l *Log) Touched() bool { return l.appended.Load() }

// Keys returns the log's keys.
func (l *Log) Keys() *Keys { return l.keys }

// Append appends the entries in order and signs a checkpoint. It takes the log's advisory lock until the end of the transaction, so it
// must be the transaction's last step, after all table locks; the transaction must be READ COMMITTED. The first append to a log makes
// its genesis; the first one for a table records its columns and the partitions that it has. at is the time of the records.
//
// Nothing was written when an error comes back from before the write; in any case the transaction is to be rolled back then. A key
// that is not the log's is a configuration error, a log whose end contradicts its checkpoint an integrity error.
func (l *Log) Append(ctx context.Context, tx pgx.Tx, at time.Time, entries []Entry, extra Extra) (Appended, error) {
	known := l.known()
	end, err := lockTail(ctx, tx, l.wait, known, tableIDs(entries))
	if err != nil {
		return Appended{}, fmt.Errorf("lock the integrity log: %w", err)
	}
	ctl, err := l.controlAt(ctx, tx, end)
	if err != nil {
		return Appended{}, err
	}
	cur, err := l.accept(end, known, ctl)
	if err != nil {
		return Appended{}, err
	}
	first, err := l.opening(ctx, tx, end, ctl, entries)
	if err != nil {
		return Appended{}, err
	}
	w := writer{keys: l.keys, ctl: ctl, at: at.UTC().Truncate(time.Microsecond), edge: cur.edge}
	for _, e := range append(first, entries...) {
		if err := w.add(e); err != nil {
			return Appended{}, err
		}
	}
	next, err := w.finish()
	if err != nil {
		return Appended{}, err
	}
	seqs := w.seqs[len(first):]
	if err := w.write(ctx, tx, end, func(b *pgx.Batch) {
		if extra != nil {
			extra(b, seqs)
		}
	}); err != nil {
		return Appended{}, fmt.Errorf("append to the integrity log: %w", err)
	}
	l.mu.Lock()
	l.tail = next
	l.mu.Unlock()
	l.appended.Store(true)
	return Appended{Checkpoint: w.checkpoint, Seqs: seqs}, nil
}

// Check tells beforehand whether Append would be refused: with a key or an origin that is not the log's, or at a damaged end. It takes
// no lock and writes nothing.
func (l *Log) Check(ctx context.Context, db *postgres.DB) error {
	_, _, err := l.look(ctx, db)
	return err
}

// look reads the log's end without its lock, and decides as an append would.
func (l *Log) look(ctx context.Context, db *postgres.DB) (cur tail, ctl control, err error) {
	var end logEnd
	err = db.TxWith(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		if end, err = readTail(ctx, tx); err != nil {
			return fmt.Errorf("read the end of the integrity log: %w", err)
		}
		ctl, err = l.controlAt(ctx, tx, end)
		return err
	})
	if err != nil {
		return tail{}, ctl, err
	}
	cur, err = l.accept(end, tail{}, ctl)
	return cur, ctl, err
}

// controlAt returns what the log says about its keys and its server at an end, from memory where nothing has changed.
func (l *Log) controlAt(ctx context.Context, tx pgx.Tx, end logEnd) (control, error) {
	known := l.knownControl()
	if end.size == 0 {
		return newControl(), nil
	}
	if known.last == end.control {
		return known, nil
	}
	ctl, err := l.readControl(ctx, tx)
	if err != nil {
		return ctl, err
	}
	l.mu.Lock()
	l.ctl = ctl
	l.mu.Unlock()
	return ctl, nil
}

func (l *Log) knownControl() control {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ctl
}

func (l *Log) known() tail {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tail
}

func tableIDs(entries []Entry) []int16 {
	ids := []int16{}
	seen := map[int16]bool{}
	for _, e := range entries {
		if e.Table != nil && !seen[e.Table.ID] {
			seen[e.Table.ID] = true
			ids = append(ids, e.Table.ID)
		}
	}
	return ids
}

// accept decides whether the end of the log that the database shows may be extended with our keys, and returns its right edge.
func (l *Log) accept(end logEnd, known tail, ctl control) (tail, error) {
	if end.isolation != "read committed" {
		return tail{}, fault.New(fault.Internal, "", "append to the integrity log: the transaction is %s, not read committed", end.isolation)
	}
	if end.size == 0 {
		return tail{}, nil
	}
	if err := ctl.mayExtend(l.keys, end.server, l.anyServer); err != nil {
		return tail{}, err
	}
	if end.checkpointSize != end.size {
		return tail{}, brokenLog("it has %d records, its newest checkpoint covers %d", end.size, end.checkpointSize)
	}
	if known.edge.size == end.size && known.root == end.root {
		return known, nil
	}
	cp, err := ctl.verify(end.note)
	if err != nil {
		return tail{}, brokenLog("its newest checkpoint is not signed by one of its keys")
	}
	_, root, err := ParseCheckpoint(end.note)
	if err != nil {
		return tail{}, brokenLog("%v", err)
	}
	cur, err := newEdge(end.size, end.edge)
	if err != nil {
		return tail{}, brokenLog("tree hashes are missing")
	}
	if got, err := cur.root(); err != nil || got != root || root != end.root || cp.Size != end.size {
		return tail{}, brokenLog("its tree hashes do not lead to the newest checkpoint")
	}
	return tail{edge: cur, root: root}, nil
}

func brokenLog(format string, args ...any) error {
	return fault.New(fault.Integrity, "auditdb verify-integrity", "the integrity log is damaged, nothing was appended: %s", fmt.Sprintf(format, args...))
}

// opening returns the entries that must come first: genesis and key in an empty log, columns and partitions of new tables.
func (l *Log) opening(ctx context.Context, tx pgx.Tx, end logEnd, ctl control, entries []Entry) ([]Entry, error) {
	var first []Entry
	if end.size == 0 {
		g, err := readGenesis(ctx, tx)
		if err != nil {
			return nil, fmt.Errorf("begin the integrity log: %w", err)
		}
		g.Origin = l.keys.origin
		first = append(first, Entry{Body: &g}, Entry{Body: &Key{KeyID: l.keys.id, Check: l.keys.check, Public: l.keys.pub.Encode()}})
	}
	if end.size > 0 && end.server.timeline != ctl.timeline && !slices.ContainsFunc(entries, func(e Entry) bool { return e.Body.Kind() == KindRecovery }) {
		first = append(first, Entry{Body: &Recovery{Event: EventTimeline, Origin: ctl.origin, System: ctl.system, Timeline: end.server.timeline}})
	}
	done := map[int16]bool{}
	for _, id := range end.touched {
		done[id] = true
	}
	for _, e := range entries {
		if e.Table == nil || done[e.Table.ID] {
			continue
		}
		done[e.Table.ID] = true
		more, err := openTable(ctx, tx, e.Table, entries)
		if err != nil {
			return nil, fmt.Errorf("begin the integrity log of %s.%s: %w", e.Table.Schema, e.Table.Name, err)
		}
		first = append(first, more...)
	}
	return first, nil
}

// openTable records a table's columns and the partitions attached now, but for those that entries are going to record.
func openTable(ctx context.Context, tx pgx.Tx, t *Table, entries []Entry) ([]Entry, error) {
	rel, err := readRelation(ctx, tx, t.OID)
	if err != nil {
		return nil, err
	}
	format := t.Format
	if len(format.Core) == 0 {
		if format, err = rel.format(); err != nil {
			return nil, err
		}
	}
	keyColumn := t.KeyColumn
	if keyColumn == "" {
		keyColumn = rel.keyColumn
	}
	first := []Entry{{Table: t, Body: &Format{Table: t.ID, Schema: t.Schema, Name: t.Name, KeyColumn: keyColumn, Leaf: format}}}
	parts, err := readPartitions(ctx, tx, t.OID)
	if err != nil {
		return nil, err
	}
	own := map[rangeKey]bool{}
	for _, e := range entries {
		if p, ok := e.Body.(*Partition); ok && p.Table == t.ID {
			own[p.Partition.Range.key()] = true
		}
	}
	for _, p := range parts {
		if !own[p.ref.Range.key()] {
			first = append(first, Entry{Table: t, Body: &Partition{Table: t.ID, Event: EventAttached, Partition: p.ref}})
		}
	}
	return first, nil
}
