package integrity

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/pkg/audit"
)

// Expiring makes the entries that say which rows of other ranges' leaf sets go with a partition: after a wide partition was split, its
// leaf sets are spread over the pieces. The partition, which is about to be dropped, must be locked; its own leaf sets go with the
// prune record. A leaf store that does not fit the log is an integrity error.
func (l *Log) Expiring(ctx context.Context, tx pgx.Tx, t *Table, p PartitionRef, relation uint32) ([]Entry, error) {
	places, err := readOverlapping(ctx, tx, t.ID, p.Range)
	if err != nil || len(places) == 0 {
		return nil, err
	}
	sets, err := l.expirable(places)
	if err != nil {
		return nil, err
	}
	rel, err := readRelation(ctx, tx, relation)
	if err != nil {
		return nil, err
	}
	if err := sets.collect(ctx, tx, rel); err != nil {
		return nil, err
	}
	return sets.entries(ctx, tx, t, p)
}

// ExpiringRows makes the entries that say which rows of a partition a shorter policy takes out of it, by their ids; the rows must be locked
// or deleted in tx already. A row that is in no leaf set yet is refused: it has to be sealed first. A leaf store that does not fit the log
// is an integrity error.
func (l *Log) ExpiringRows(ctx context.Context, tx pgx.Tx, t *Table, p PartitionRef, ids []int64) ([]Entry, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	places, err := readSetsOfIDs(ctx, tx, t.ID, slices.Min(ids), slices.Max(ids))
	if err != nil {
		return nil, err
	}
	sets, err := l.expirable(places)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if !sets.take(id) {
			return nil, fault.New(fault.Refused, "auditdb integrity seal", "row %d is in no leaf set yet", id)
		}
	}
	return sets.entries(ctx, tx, t, p)
}

// expirable are leaf sets from which rows may go, by their smallest id.
type expirable struct {
	list    []*expirableSet
	largest []int64 // largest[i]: the largest id of list[0..i]
}

type expirableSet struct {
	seq int64
	rec LeafRoot
	ids audit.IDSet
	hit []uint64 // by position: rows that go; nil: none
}

// expirable checks leaf sets, read without their leaves, against their records.
func (l *Log) expirable(places []storedLeaves) (expirable, error) {
	var e expirable
	for _, st := range places {
		s := &expirableSet{seq: st.seq}
		rec, err := l.setOf(st)
		if err != nil {
			return e, err
		}
		s.rec = rec
		if s.ids, err = audit.DecodeIDSet(rec.MinID, st.ids); err != nil || sha256.Sum256(st.ids) != rec.IDs {
			return e, brokenLog("the leaf store does not have the ids of record %d", st.seq)
		}
		e.list = append(e.list, s)
	}
	slices.SortFunc(e.list, func(a, b *expirableSet) int { return cmp.Compare(a.rec.MinID, b.rec.MinID) })
	top := int64(math.MinInt64)
	for _, s := range e.list {
		top = max(top, s.rec.MaxID)
		e.largest = append(e.largest, top)
	}
	return e, nil
}

// setOf returns what an authenticated batch or seal record says about its leaf set.
func (l *Log) setOf(st storedLeaves) (LeafRoot, error) {
	if st.record == nil || !l.keys.checkRecord(st.record) {
		return LeafRoot{}, brokenLog("record %d cannot be authenticated", st.seq)
	}
	r, err := Parse([]byte(st.record.text))
	if err != nil {
		return LeafRoot{}, brokenLog("record %d: %v", st.seq, err)
	}
	switch b := r.Body.(type) {
	case *Batch:
		return b.Set, nil
	case *Seal:
		return b.Set, nil
	}
	return LeafRoot{}, brokenLog("record %d is not about a leaf set", st.seq)
}

// collect notes which rows of a table are in the sets.
func (e *expirable) collect(ctx context.Context, tx pgx.Tx, rel relation) error {
	size := idSize(rel)
	r := tupleReader{layout: layout{core: 1, total: 1, id: 0, key: -1, rec: -1, idSize: size}, fn: func(row *copyRow) error {
		e.take(row.id)
		return nil
	}}
	sql := fmt.Sprintf("COPY (SELECT %s FROM ONLY %s) TO STDOUT (FORMAT binary)", pgx.Identifier{idColumn}.Sanitize(), rel.sanitized())
	if err := copyTo(ctx, tx.Conn().PgConn(), sql, r.feed); err != nil {
		return fmt.Errorf("read the ids of %s: %w", rel.name, err)
	}
	return r.close()
}

func idSize(rel relation) int {
	for _, c := range rel.columns {
		if c.Name == idColumn {
			return map[string]int{"int8": 8, "int4": 4, "int2": 2}[c.Type]
		}
	}
	return 0
}

// find returns the set that has an id, and its position there; nil when none has.
func (e *expirable) find(id int64) (*expirableSet, int) {
	i := sort.Search(len(e.list), func(i int) bool { return e.list[i].rec.MinID > id }) - 1
	for ; i >= 0 && e.largest[i] >= id; i-- {
		if at, ok := e.list[i].ids.Index(id); ok {
			return e.list[i], at
		}
	}
	return nil, 0
}

// take notes that a row goes, and says whether it is in one of the sets.
func (e *expirable) take(id int64) bool {
	s, at := e.find(id)
	if s == nil {
		return false
	}
	if s.hit == nil {
		s.hit = make([]uint64, (s.rec.Rows+63)/64)
	}
	s.hit[at/64] |= 1 << (at % 64)
	return true
}

// entries makes the records of all sets that rows go from.
func (e *expirable) entries(ctx context.Context, tx pgx.Tx, t *Table, p PartitionRef) ([]Entry, error) {
	var out []Entry
	for _, s := range e.list {
		if s.hit == nil {
			continue
		}
		entry, err := s.entry(ctx, tx, t, p)
		if err != nil {
			return nil, err
		}
		out = append(out, entry)
	}
	return out, nil
}

// entry makes the record of one set's rows.
func (s *expirableSet) entry(ctx context.Context, tx pgx.Tx, t *Table, p PartitionRef) (Entry, error) {
	got, err := readLeaves(ctx, tx, []int64{s.seq})
	if err != nil {
		return Entry{}, err
	}
	if got[0].n != s.rec.Rows || audit.RootOf(got[0].leaves) != s.rec.Root {
		return Entry{}, brokenLog("the leaf store does not have the leaves of record %d", s.seq)
	}
	var ids []int64
	var leaves []byte
	for at, id := range s.ids.All() {
		if s.hit[at/64]>>(at%64)&1 == 1 {
			ids = append(ids, id)
			leaves = append(leaves, got[0].leaves[at*audit.HashSize:(at+1)*audit.HashSize]...)
		}
	}
	set, err := audit.NewIDSet(ids)
	if err != nil {
		return Entry{}, fmt.Errorf("list expired ids: %w", err)
	}
	root, err := leafRoot(set, leaves, nil)
	if err != nil {
		return Entry{}, err
	}
	return Entry{Table: t, Body: &Expire{Table: t.ID, Partition: p, Leaf: s.seq, Set: root}, expired: &set}, nil
}
