package integrity

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/audit"
)

// SealOptions say how to seal.
type SealOptions struct {
	Now              func() time.Time
	Wait             time.Duration    // for another seal run and for table locks
	Settle           time.Duration    // for transactions that are writing when it begins; 0: not at all
	DryRun           bool             // only count
	AcceptPartitions bool             // log partitions that were attached behind the log's back
	Progress         func(rows int64) // may be nil
}

// SealResult is what sealing one table did, or would do.
type SealResult struct {
	Table              string              `json:"table"`
	SealedRows         int64               `json:"sealed_rows"`
	Records            int64               `json:"records"`
	UnsealedDefault    int64               `json:"unsealed_default_rows"`
	LateRows           int64               `json:"late_rows"` // of the sealed ones: came after larger ids of their partition had been sealed
	AcceptedPartitions []string            `json:"accepted_partitions"`
	Skipped            []SkippedPartition  `json:"skipped"`
	Partitions         []PartitionUnsealed `json:"-"`
	Checkpoint         *Checkpoint         `json:"-"`
}

// SkippedPartition was left alone, and why.
type SkippedPartition struct {
	Partition string `json:"partition"`
	Reason    string `json:"reason"`
}

// PartitionUnsealed is one partition with rows to seal.
type PartitionUnsealed struct {
	Name          string
	Rows, Records int64
}

// Seal takes in the rows of other writers that are visible and in no leaf set: per partition, in the order of their ids, at most
// audit.MaxSet rows a record. What it has done stays done when it is interrupted; the next run goes on. Runs exclude each other.
func (l *Log) Seal(ctx context.Context, db *postgres.DB, t *Table, o SealOptions) (SealResult, error) {
	res := SealResult{Table: tableName(t.Schema, t.Name), AcceptedPartitions: []string{}, Skipped: []SkippedPartition{}}
	lock, err := db.Lock(ctx, fmt.Sprintf("seal:%d", t.OID), o.Wait)
	if err != nil {
		return res, err
	}
	defer lock.Release()
	ctx, cancel := lock.Guard(ctx)
	defer cancel()
	err = l.seal(ctx, db, t, o, &res)
	return res, postgres.LockLost(ctx, err)
}

// seal is Seal under the lock that keeps other runs out.
func (l *Log) seal(ctx context.Context, db *postgres.DB, t *Table, o SealOptions, res *SealResult) error {
	conn, err := db.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = conn.Close(end) // the server ends the session either way
	}()
	s := &sealer{log: l.Waiting(o.Wait), db: db, conn: conn, table: t, opts: o, res: res}
	err = s.prepare(ctx)
	if err == nil {
		err = s.settle(ctx)
	}
	if err != nil {
		return fmt.Errorf("seal %s: %w", res.Table, err)
	}
	for _, p := range s.parts {
		if err := s.partition(ctx, p); err != nil {
			return fmt.Errorf("seal %s: %w", p.ref.Name, err)
		}
	}
	return nil
}

// sealer is one run of Seal.
type sealer struct {
	log    *Log
	db     *postgres.DB
	conn   *pgx.Conn // reads
	table  *Table
	opts   SealOptions
	res    *SealResult
	format audit.Format
	layout layout
	logged bool // the log knows the table
	parts  []partition
}

// prepare reads the format and the partitions in one snapshot.
func (s *sealer) prepare(ctx context.Context) error {
	tx, err := s.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return fmt.Errorf("begin a snapshot: %w", err)
	}
	defer rollback(ctx, tx)
	rel, err := readRelation(ctx, tx, s.table.OID)
	if err != nil {
		return err
	}
	if s.format, s.logged, err = s.log.loggedFormat(ctx, tx, s.table.ID); err != nil {
		return err
	}
	if !s.logged {
		if s.format, err = rel.format(); err != nil {
			return err
		}
	}
	if s.layout, err = newLayout(s.format, rel.keyColumn); err != nil {
		return fault.New(fault.Config, "", "%s.%s: %w", s.table.Schema, s.table.Name, err)
	}
	s.table.Format, s.table.KeyColumn = s.format, rel.keyColumn
	if s.parts, err = readPartitions(ctx, tx, s.table.OID); err != nil {
		return err
	}
	rels, err := readChildren(ctx, tx, s.table.OID)
	if err != nil {
		return err
	}
	for i := range s.parts {
		s.parts[i].rel = rels[s.parts[i].oid]
	}
	return nil
}

// rollback ends a transaction that only read.
func rollback(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = tx.Rollback(ctx) // there is nothing to undo
}

// settle waits a little for transactions that have begun to write, so that fewer rows come late.
func (s *sealer) settle(ctx context.Context) error {
	if s.opts.Settle <= 0 {
		return nil
	}
	writers, err := readWriters(ctx, s.conn, s.table.OID)
	if err != nil || len(writers) == 0 {
		return err
	}
	end := time.NewTimer(s.opts.Settle)
	defer end.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-end.C:
			return nil
		case <-tick.C:
		}
		now, err := readWriters(ctx, s.conn, s.table.OID)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(writers, func(w string) bool { return slices.Contains(now, w) }) {
			return nil
		}
	}
}

// partition seals one partition. The snapshot that reads it stays open until its records are written, so that nobody can drop the
// partition in between.
func (s *sealer) partition(ctx context.Context, p partition) error {
	if p.rel.kind != 'r' {
		s.skip(p, "it is a "+relationKind(p.rel.kind))
		return nil
	}
	tx, err := s.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return fmt.Errorf("begin a snapshot: %w", err)
	}
	defer rollback(ctx, tx)
	rels := []unitRelation{{rel: p.rel, name: p.ref.Name, rng: p.ref.Range.key()}}
	if err := lockForReading(ctx, tx, rels, s.opts.Wait, false); err != nil {
		if errors.Is(err, errStale) || postgres.SQLState(err) == postgres.UndefinedTable {
			s.skip(p, "it was dropped or renamed meanwhile")
			return nil
		}
		return s.db.Blocked(ctx, relationOIDs(rels), false, err)
	}
	if p.ref.Range.Default {
		n, err := countRows(ctx, tx, p.rel)
		if err != nil {
			return err
		}
		s.res.UnsealedDefault += n
	}
	entries, ok, err := s.accept(ctx, tx, p)
	if err != nil || !ok {
		return err
	}
	if p.ref.Range.Default {
		return s.acceptOnly(ctx, entries)
	}
	todo, err := s.count(ctx, tx, p)
	if err != nil {
		return err
	}
	if todo.rows > 0 {
		records := (todo.rows + audit.MaxSet - 1) / audit.MaxSet
		s.res.Partitions = append(s.res.Partitions, PartitionUnsealed{Name: p.ref.Name, Rows: todo.rows, Records: records})
		s.res.LateRows += todo.late
		if s.opts.DryRun {
			s.res.SealedRows += todo.rows
			s.res.Records += records
			return nil
		}
	}
	switch {
	case s.opts.DryRun:
		return nil
	case todo.rows == 0:
		return s.acceptOnly(ctx, entries)
	}
	return s.write(ctx, tx, p, todo, entries)
}

// acceptOnly records a partition without rows to seal.
func (s *sealer) acceptOnly(ctx context.Context, entries []Entry) error {
	if s.opts.DryRun || len(entries) == 0 {
		return nil
	}
	return s.append(ctx, entries)
}

func (s *sealer) skip(p partition, reason string) {
	s.res.Skipped = append(s.res.Skipped, SkippedPartition{Partition: p.ref.Name, Reason: reason})
}

// accept decides whether the partition's rows may be sealed: the log must know it, or is told of it now.
func (s *sealer) accept(ctx context.Context, tx pgx.Tx, p partition) ([]Entry, bool, error) {
	if !s.logged {
		return nil, true, nil // the first append records it
	}
	known, err := s.log.knowsPartition(ctx, tx, s.table.ID, p.ref.Range)
	if err != nil || known {
		return nil, known, err
	}
	if !s.opts.AcceptPartitions {
		s.skip(p, "the log has no record of this partition; --accept-partitions makes one")
		return nil, false, nil
	}
	s.res.AcceptedPartitions = append(s.res.AcceptedPartitions, p.ref.Name)
	return []Entry{{Table: s.table, Body: &Partition{Table: s.table.ID, Event: EventAttached, Partition: p.ref}}}, true, nil
}

// todo is what a partition has to be sealed.
type todo struct {
	sealed   idRuns
	rows     int64
	late     int64
	min, max int64 // unsealed ids
	below    int64 // above every id that is visible
}

// count finds the ids that are in no leaf set.
func (s *sealer) count(ctx context.Context, tx pgx.Tx, p partition) (todo, error) {
	runs, err := readSealedIDs(ctx, tx, s.table.ID, p.ref.Range)
	if err != nil {
		return todo{}, err
	}
	t := todo{sealed: runs, min: FirstBlockID, max: -1}
	bound := runs.end()
	t.below = bound
	r := tupleReader{layout: layout{core: 1, total: 1, id: 0, key: -1, rec: -1, idSize: s.layout.idSize}, fn: func(row *copyRow) error {
		if row.id < 0 || runs.contains(row.id) {
			return nil
		}
		t.rows++
		if row.id < bound {
			t.late++
		}
		t.min, t.max, t.below = min(t.min, row.id), max(t.max, row.id), max(t.below, row.id+1)
		return nil
	}}
	if err := copyTo(ctx, tx.Conn().PgConn(), copyIDsSQL(p.rel), r.feed); err != nil {
		return t, fmt.Errorf("read ids: %w", err)
	}
	return t, r.close()
}

// write reads the unsealed rows back in the order of their ids and appends a record for each set.
func (s *sealer) write(ctx context.Context, tx pgx.Tx, p partition, t todo, entries []Entry) error {
	b := setBuilder{hash: audit.NewHasher(s.format)}
	left, last := t.rows, int64(-1)
	flush := func() error {
		below := t.below
		if left > 0 {
			below = b.ids[len(b.ids)-1] + 1
		}
		set, err := b.build()
		if err != nil {
			return err
		}
		e, err := newSeal(s.table, p.ref, below, set)
		if err != nil {
			return err
		}
		err = s.append(ctx, append(entries, e))
		entries = nil
		return err
	}
	r := tupleReader{layout: s.layout, fn: func(row *copyRow) error {
		if t.sealed.contains(row.id) {
			return nil
		}
		if row.id == last {
			return fault.New(fault.Data, "find out which of the rows is the true one", "two rows have the id %d", row.id)
		}
		if err := b.add(row); err != nil {
			return err
		}
		left, last = left-1, row.id
		if len(b.ids) == audit.MaxSet || left == 0 {
			return flush()
		}
		return nil
	}}
	sql := copyRangeSQL(p.rel, s.format, t.min, t.max)
	if err := copyTo(ctx, tx.Conn().PgConn(), sql, r.feed); err != nil {
		return fmt.Errorf("read rows: %w", err)
	}
	return r.close()
}

// append commits entries in a transaction of their own.
func (s *sealer) append(ctx context.Context, entries []Entry) error {
	var done Appended
	err := s.db.Tx(ctx, func(tx pgx.Tx) (err error) {
		done, err = s.log.Append(ctx, tx, s.opts.Now(), entries, nil)
		return err
	})
	if err != nil {
		return Held(ctx, s.db, err)
	}
	s.res.Checkpoint = &done.Checkpoint
	s.logged = true
	for _, e := range entries {
		if e.Set == nil {
			continue
		}
		s.res.Records++
		s.res.SealedRows += int64(e.Set.IDs.Len())
		if s.opts.Progress != nil {
			s.opts.Progress(int64(e.Set.IDs.Len()))
		}
	}
	return nil
}

// setBuilder collects the leaves of one set.
type setBuilder struct {
	hash   *audit.Hasher
	ids    []int64
	leaves []byte
	salts  []byte // nil until a row without a salt comes
}

func (b *setBuilder) add(row *copyRow) error {
	salt := row.salt
	if salt == nil {
		salt = make([]byte, audit.SaltSize)
		if _, err := rand.Read(salt); err != nil {
			return fmt.Errorf("read random bytes: %w", err)
		}
		if b.salts == nil {
			b.salts = make([]byte, len(b.ids)*audit.SaltSize)
		}
		b.salts = append(b.salts, salt...)
	} else if b.salts != nil {
		b.salts = append(b.salts, make([]byte, audit.SaltSize)...) // the row has its own
	}
	leaf := b.hash.LeafOf(row.core, row.personal, salt)
	b.ids = append(b.ids, row.id)
	b.leaves = append(b.leaves, leaf[:]...)
	return nil
}

// build returns the set and starts a new one.
func (b *setBuilder) build() (LeafSet, error) {
	ids, err := audit.NewIDSet(b.ids)
	if err != nil {
		return LeafSet{}, fmt.Errorf("make leaf set: %w", err)
	}
	set := LeafSet{IDs: ids, Leaves: b.leaves, Salts: b.salts}
	b.ids, b.leaves, b.salts = b.ids[:0], nil, nil
	return set, nil
}

// idRuns are ids as ascending runs [first, after) that do not touch.
type idRuns []idRun

type idRun struct{ first, after int64 }

// add takes a run in; normalise must follow.
func (r *idRuns) add(first, after int64) { *r = append(*r, idRun{first, after}) }

// normalise sorts and joins.
func (r *idRuns) normalise() {
	list := *r
	slices.SortFunc(list, func(a, b idRun) int {
		if a.first < b.first {
			return -1
		}
		if a.first > b.first {
			return 1
		}
		return 0
	})
	out := list[:0]
	for _, x := range list {
		if n := len(out); n > 0 && x.first <= out[n-1].after {
			out[n-1].after = max(out[n-1].after, x.after)
		} else {
			out = append(out, x)
		}
	}
	*r = out
}

func (r idRuns) contains(id int64) bool {
	i := sort.Search(len(r), func(i int) bool { return r[i].first > id }) - 1
	return i >= 0 && id < r[i].after
}

// end is above every id.
func (r idRuns) end() int64 {
	if len(r) == 0 {
		return 0
	}
	return r[len(r)-1].after
}
