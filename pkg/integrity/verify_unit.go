package integrity

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/postgres"
	"auditdb/pkg/audit"
)

// errStale says that a unit's partitions have changed since it was planned: it must be planned again.
var errStale = errors.New("partition changed meanwhile")

// worker verifies units one after another on two connections: one streams rows, the other reads leaf sets.
type worker struct {
	v         *verifier
	rows, aux *pgx.Conn
	stream    *streaming // rows of one table go somewhere too; nil: they are only compared
}

func (w *worker) connect(ctx context.Context) (err error) {
	if w.rows == nil || w.rows.IsClosed() {
		if w.rows, err = w.v.db.Connect(ctx); err != nil {
			return err
		}
	}
	if w.aux == nil || w.aux.IsClosed() {
		w.aux, err = w.v.db.Connect(ctx)
	}
	return err
}

func (w *worker) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	for _, c := range []*pgx.Conn{w.rows, w.aux} {
		if c != nil {
			_ = c.Close(ctx) // the server ends the session either way
		}
	}
}

// unitResult is what one unit adds to the report.
type unitResult struct {
	rows, sets, unsealed int64
	oldest               int64
}

const conflictRetries = 5

const (
	progressRows  = 1000      // told at a time
	throttleBytes = 256 << 10 // read between two looks at --rate
)

// run verifies a unit. Findings of an attempt that did not come to its end are dropped.
func (w *worker) run(ctx context.Context, u *unit) (unitResult, *collector, error) {
	ordered := false
	for try := 0; ; try++ {
		if err := w.connect(ctx); err != nil {
			return unitResult{}, nil, err
		}
		found := newCollector(w.v.opts.MaxFindings)
		res, err := w.attempt(ctx, u, ordered, found)
		switch {
		case err == nil:
			return res, found, nil
		case errors.Is(err, errBudget) && !ordered:
			ordered = true
		case isConflict(err) && try < conflictRetries: // on a standby, replay has cancelled the query
		case postgres.SQLState(err) == postgres.UndefinedTable:
			return unitResult{}, nil, errStale
		default:
			return unitResult{}, nil, err
		}
	}
}

func isConflict(err error) bool {
	state := postgres.SQLState(err)
	return state == postgres.SerializationFailure || state == postgres.DeadlockDetected
}

func (w *worker) attempt(ctx context.Context, u *unit, ordered bool, found *collector) (res unitResult, err error) {
	tx, err := w.rows.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return res, fmt.Errorf("begin a snapshot: %w", err)
	}
	defer rollback(ctx, tx)
	if err := lockForReading(ctx, tx, u.rels, w.v.opts.Wait, ordered); err != nil {
		return res, w.v.db.Blocked(ctx, u.oids(), false, err)
	}
	view, err := w.v.setsOf(ctx, tx, u)
	if err != nil {
		return res, err
	}
	sets, err := w.places(ctx, u, view.seqs, found)
	for _, s := range sets {
		s.expiries = view.expiries[s.seq]
	}
	if err != nil {
		return res, err
	}
	m := newMatcher(sets, u.table.format, found, u.table.name)
	m.limit, m.ordered = w.v.budget(), ordered
	m.fetch = func(seqs []int64) ([]storedLeaves, error) { return readLeaves(ctx, w.aux, seqs) }
	m.expired = func(s *leafSet) ([]expiredIDs, error) { return w.expired(ctx, s) }
	if view.erased {
		m.erased = func(s *leafSet) error { return w.erased(ctx, u.table.id, view.size, s) }
	}
	if w.stream != nil {
		if err := w.stream.begin(ctx, tx, u, m, view.size); err != nil {
			return res, err
		}
	}
	for _, guarded := range []bool{true, false} { // what cannot be seen is known before anything is judged
		for i := range u.rels {
			if r := &u.rels[i]; r.rel.rowSecurity == guarded {
				if err := w.read(ctx, tx, u, r, m); err != nil {
					return res, err
				}
			}
		}
	}
	if err := m.finish(); err != nil {
		return res, err
	}
	if found.errors() > 0 { // rows and leaf store are not read in one snapshot: an erasure may have come between
		if later, err := erasedSince(ctx, w.aux, u.table.id, view.size); err != nil || later {
			return res, cmp.Or(err, errStale)
		}
	}
	return unitResult{rows: m.rows, sets: m.checked, unsealed: m.unsealed, oldest: m.oldest}, nil
}

// places reads the records of leaf sets and makes the sets, still without their leaves.
func (w *worker) places(ctx context.Context, u *unit, seqs []int64, found *collector) ([]*leafSet, error) {
	sets := make([]*leafSet, 0, len(seqs))
	below := map[rangeKey]int64{}
	for chunk := range slices.Chunk(seqs, 1000) {
		got, err := readSetPlaces(ctx, w.aux, chunk)
		if err != nil {
			return nil, err
		}
		for _, st := range got {
			s, ok := w.v.place(st, below)
			if !ok {
				found.add(newFinding(BatchRootMismatch, "record %d and its leaf set are both damaged or gone: nothing can be compared", st.seq).on(u.table.name).of(st.seq))
				continue
			}
			if s.partition == "" && len(u.rels) == 1 {
				s.partition = u.rels[0].name
			}
			if s.misfiled {
				found.add(newFinding(LeavesCorrupt, "the leaf store does not have record %d under the table, range, block and ids that it was written with", st.seq).on(u.table.name).in(s.partition).of(st.seq))
			}
			sets = append(sets, s)
		}
	}
	return sets, nil
}

// expiredIDs are the ids of one expire record.
type expiredIDs struct {
	seq     int64
	ids     audit.IDSet
	root    [audit.HashSize]byte
	damaged bool // the list is not the record's
}

// expired reads the lists of a set's expire records. Records that cannot be trusted were reported; what they say does not count.
func (w *worker) expired(ctx context.Context, s *leafSet) ([]expiredIDs, error) {
	stored, err := readExpired(ctx, w.aux, s.seq, s.expiries)
	if err != nil {
		return nil, err
	}
	var out []expiredIDs
	for _, x := range stored {
		r, err := w.v.trusted(x.record, x.seq)
		b, ok := r.Body.(*Expire)
		if err != nil || !ok || b.Leaf != s.seq {
			continue
		}
		e := expiredIDs{seq: x.seq, root: b.Set.Root}
		set, err := audit.DecodeIDSet(b.Set.MinID, x.ids)
		if err != nil || int64(set.Len()) != b.Set.Rows || sha256.Sum256(x.ids) != b.Set.IDs {
			e.damaged = true
			if set = audit.IDRange(b.Set.MinID, int(b.Set.Rows)); sha256.Sum256(set.Encode()) == b.Set.IDs {
				s.expire(set, e.root) // the ids follow from the record
			}
		}
		e.ids = set
		out = append(out, e)
	}
	return out, nil
}

// misfiled tells whether the leaf store has a set's row, which load compares, under what is not its record's.
func (st storedLeaves) misfiled(table int16, r Range, block int64, set LeafRoot) bool {
	from, to := r.timestamps()
	return st.n > 0 && (st.filed != filing{table, microsOf(from), microsOf(to), block} || st.minID != set.MinID || st.maxID != set.MaxID || st.n != set.Rows)
}

// place makes a leaf set from its record, or from the leaf store where the record cannot be trusted. below holds, for each range, up
// to which id it had been sealed by the records before.
func (v *verifier) place(st storedLeaves, below map[rangeKey]int64) (*leafSet, bool) {
	s := &leafSet{seq: st.seq}
	if r, err := v.trusted(st.record, st.seq); err == nil {
		switch b := r.Body.(type) {
		case *Batch:
			s.rec, s.partition = b.Set, b.Partition.Name
			s.misfiled = st.misfiled(b.Table, b.Partition.Range, b.Block, b.Set)
			return s, true
		case *Seal:
			s.rec, s.partition = b.Set, b.Partition.Name
			s.misfiled = st.misfiled(b.Table, b.Partition.Range, -1, b.Set)
			k := b.Partition.Range.key()
			s.lateBelow = below[k]
			below[k] = max(below[k], b.Below)
			return s, true
		}
	}
	if st.n < 1 || st.n > audit.MaxSet || st.minID < 0 || st.maxID < st.minID {
		return nil, false
	}
	s.damaged = true
	s.rec = LeafRoot{MinID: st.minID, MaxID: st.maxID, Rows: st.n}
	return s, true
}

var errUntrusted = errors.New("record cannot be trusted")

// trusted parses a record if it is what the log's walk accepted: authenticated where there is a key.
func (v *verifier) trusted(rec *storedRecord, seq int64) (Record, error) {
	if rec == nil {
		return Record{}, errUntrusted
	}
	v.mu.Lock()
	keys, inTree, damaged := v.walk.keys, v.walk.inTree[seq], v.walk.damaged[seq]
	v.mu.Unlock()
	if damaged || keys != nil && !inTree && keys.find(rec.keyID) != nil && !keys.checkRecord(rec) {
		return Record{}, errUntrusted
	}
	r, err := Parse([]byte(rec.text))
	if err == nil && r.Seq != seq {
		err = errUntrusted
	}
	return r, err
}

// read compares all rows of one table. With row security the copy may be refused: that ends a savepoint, not the unit, and the finding
// on row security stands for the rows, none of which were seen.
func (w *worker) read(ctx context.Context, tx pgx.Tx, u *unit, r *unitRelation, m *matcher) error {
	if !r.rel.rowSecurity {
		return w.compare(ctx, tx, u, r, m)
	}
	point, err := tx.Begin(ctx)
	if err != nil {
		return fmt.Errorf("read the rows of %s: %w", r.name, err)
	}
	err = w.compare(ctx, point, u, r, m)
	if err == nil {
		return point.Commit(ctx)
	}
	if postgres.SQLState(err) != postgres.InsufficientPrivilege {
		return err
	}
	m.hide(u, r)
	return point.Rollback(ctx)
}

// compare compares all rows of one table.
func (w *worker) compare(ctx context.Context, tx pgx.Tx, u *unit, r *unitRelation, m *matcher) error {
	m.partition = r.name
	before, told, t := m.rows, m.rows, &throttled{}
	outside := newOutside(u.table, r, m)
	lay, sql := u.table.layout, copySQL(r.rel, u.table.format, nil, m.ordered)
	if w.stream.wants(r) {
		lay.extra = len(w.stream.Extra)
		lay.total += lay.extra
		lie, err := lieInOrder(ctx, tx, r.rel)
		if err != nil {
			return err
		}
		sql = copySQL(r.rel, u.table.format, w.stream.Extra, !lie)
	}
	reader := tupleReader{layout: lay, fn: func(row *copyRow) error {
		outside.check(row)
		return m.row(row)
	}}
	err := copyTo(ctx, tx.Conn().PgConn(), sql, func(b []byte) error {
		w.v.throttle(ctx, t, len(b))
		if m.rows-told >= progressRows {
			w.v.progress(m.rows - told)
			told = m.rows
		}
		if ctx.Err() != nil { // the copy would see it once what has come is read
			return context.Cause(ctx)
		}
		return reader.feed(b)
	})
	if err == nil {
		err = reader.close()
	}
	w.v.progress(m.rows - told)
	if err != nil {
		return fmt.Errorf("read the rows of %s: %w", r.name, err)
	}
	if r.unlogged != "" {
		f := newFinding(PartitionUnlogged, "partition %s %s is attached, but %s", r.name, r.rng, r.unlogged).on(u.table.name).in(r.name)
		if m.rows == before {
			f.Severity = SeverityWarning
		}
		m.found.add(f)
	}
	return nil
}

// outside finds rows that are not within the bounds of the partition that holds them: queries by time do not see them.
type outside struct {
	from, to int64 // in the key's own unit
	size     int
	found    *collector
	table    string
	rel      *unitRelation
}

const pgEpochMicros = 946684800 * 1_000_000

func newOutside(t *tableCheck, r *unitRelation, m *matcher) *outside {
	o := &outside{from: math.MinInt64, to: math.MaxInt64, found: m.found, table: t.name, rel: r}
	if r.rng.def {
		return o
	}
	unit := int64(1)
	switch t.keyType {
	case "timestamptz", "timestamp":
		o.size = 8
	case "date":
		o.size, unit = 4, 24*3600*1_000_000
	default:
		return o
	}
	if r.rng.from != math.MinInt64 {
		o.from = (r.rng.from - pgEpochMicros) / unit
	}
	if r.rng.to != math.MaxInt64 {
		o.to = (r.rng.to - pgEpochMicros) / unit
	}
	return o
}

func (o *outside) check(r *copyRow) {
	if o.size == 0 || len(r.key) != o.size {
		return
	}
	var v int64
	if o.size == 8 {
		v = int64(binary.BigEndian.Uint64(r.key)) //nolint:gosec // two's complement
	} else {
		v = signed(r.key)
	}
	if v < o.from || v >= o.to {
		o.found.add(newFinding(PartitionBounds, "its time lies outside of the bounds %s of its partition", o.rel.rng).on(o.table).in(o.rel.name).row(r.id))
	}
}

// throttled counts what one worker has read since it last asked for its share of --rate.
type throttled struct{ n int64 }

// throttle waits after every throttleBytes until --rate allows more, or ctx has ended.
func (v *verifier) throttle(ctx context.Context, t *throttled, n int) {
	if t.n += int64(n); v.opts.Rate <= 0 || t.n < throttleBytes {
		return
	}
	wait := v.reserve(t.n)
	t.n = 0
	if wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// reserve takes n bytes out of the allowance and returns how long to wait for them.
func (v *verifier) reserve(n int64) time.Duration {
	v.rateMu.Lock()
	defer v.rateMu.Unlock()
	now := v.opts.Now()
	if v.rateNext.Before(now) {
		v.rateNext = now
	}
	v.rateNext = v.rateNext.Add(time.Duration(float64(n) / float64(v.opts.Rate) * float64(time.Second)))
	return v.rateNext.Sub(now)
}

func (u *unit) oids() []uint32 { return relationOIDs(u.rels) }

func relationOIDs(rels []unitRelation) []uint32 {
	out := make([]uint32, len(rels))
	for i, r := range rels {
		out[i] = r.rel.oid
	}
	return out
}
