package integrity

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"sort"

	"auditdb/pkg/audit"
)

const (
	prefetchSets = 64
	prefetchRows = audit.MaxSet
)

// errBudget says that too many leaf sets are open at once: the rows do not come in the order of their sets.
var errBudget = errors.New("too many open leaf sets")

// matcher compares rows, in whatever order they come, with the leaf sets that they belong to.
type matcher struct {
	sets    []*leafSet // by smallest id
	largest []int64    // largest[i]: the largest id of sets[0..i]
	last    *leafSet
	open    []*leafSet
	fetch   func(seqs []int64) ([]storedLeaves, error)
	expired func(s *leafSet) ([]expiredIDs, error) // reads what expire records took out of a set
	erased  func(s *leafSet) error                 // reads the commitments of a set's erased rows; nil: there are none
	nulls   []byte                                 // personal fields that are all NULL
	hash    *audit.Hasher
	found   *collector
	table   string
	limit   int64 // bytes that open sets may take
	used    int64
	ordered bool                                                                  // rows come in the order of their ids
	seen    func(r *copyRow, s *leafSet, at int, leaf [audit.HashSize]byte) error // takes sealed rows; nil: nobody

	partition string // where the rows come from now
	rows      int64
	unsealed  int64
	oldest    int64             // smallest recorded_at of an unsealed row, µs since 2000
	checked   int64             // leaf sets compared
	hidden    map[*leafSet]bool // nobody may see the rows of their partition: what is missing cannot be told

	reload    *leafSet // the one set whose ids were read again
	reloadIDs audit.IDSet
}

func newMatcher(sets []*leafSet, f audit.Format, found *collector, table string) *matcher {
	slices.SortFunc(sets, func(a, b *leafSet) int {
		return cmp.Or(cmp.Compare(a.rec.MinID, b.rec.MinID), cmp.Compare(a.seq, b.seq))
	})
	m := &matcher{sets: sets, largest: make([]int64, len(sets)), hash: audit.NewHasher(f), nulls: bytes.Repeat([]byte{0xff}, 4*len(f.Personal)), found: found, table: table, limit: math.MaxInt64, oldest: math.MaxInt64}
	top := int64(math.MinInt64)
	for i, s := range sets {
		top = max(top, s.rec.MaxID)
		m.largest[i] = top
	}
	return m
}

// row takes the next row.
func (m *matcher) row(r *copyRow) error {
	m.rows++
	s, at, err := m.find(r.id)
	if err != nil {
		return err
	}
	if s == nil {
		m.stray(r)
		return nil
	}
	if s.expired(at) {
		m.found.add(newFinding(RowUnexpected, "it is there, but the log says that it has expired").on(m.table).in(m.partition).of(s.seq).row(r.id))
		return nil
	}
	if s.state == setDone {
		m.second(s, r.id, m.partition)
		return nil
	}
	leaf := m.leaf(s, at, r)
	if first, other := s.take(r.id, at, leaf, m.partition); !first {
		m.second(s, r.id, other)
	}
	if m.seen != nil {
		if err := m.seen(r, s, at, leaf); err != nil {
			return err
		}
	}
	if s.complete() {
		m.close(s)
	}
	return nil
}

// leaf hashes a row. Of an erased one the stored commitment counts, and nothing of what it stands for may be there.
func (m *matcher) leaf(s *leafSet, at int, r *copyRow) [audit.HashSize]byte {
	if commit, ok := s.erased[at]; ok {
		if r.salt != nil || !bytes.Equal(r.personal, m.nulls) {
			m.found.add(newFinding(RedactionMismatch, "it was erased, but has personal data").on(m.table).in(m.partition).of(s.seq).row(r.id))
		}
		return m.hash.LeafOfCommit(r.core, commit)
	}
	salt := r.salt
	if salt == nil {
		salt = s.salt(at)
	}
	return m.hash.LeafOf(r.core, r.personal, salt)
}

// stray is a row in no leaf set.
func (m *matcher) stray(r *copyRow) {
	if r.id < 0 {
		m.found.add(newFinding(RowUnexpected, "its id is negative, which no identity gives: it cannot be sealed").on(m.table).in(m.partition).row(r.id))
		return
	}
	if r.id >= FirstBlockID {
		m.found.add(newFinding(RowUnexpected, "its id is one that only ingest gives, but no leaf set has it").on(m.table).in(m.partition).row(r.id))
		return
	}
	m.unsealed++
	if len(r.recorded) == 8 {
		m.oldest = min(m.oldest, int64(binary.BigEndian.Uint64(r.recorded))) //nolint:gosec // two's complement
	}
}

func (m *matcher) second(s *leafSet, id int64, partition string) {
	m.found.add(newFinding(RowUnexpected, "it is a second row with the id of a logged one").on(m.table).in(partition).of(s.seq).row(id))
}

// find returns the set that has an id, and its position there.
func (m *matcher) find(id int64) (*leafSet, int, error) {
	if s := m.last; s != nil && s.state == setOpen {
		if at, ok := s.index(id); ok {
			return s, at, nil
		}
	}
	i := sort.Search(len(m.sets), func(i int) bool { return m.sets[i].rec.MinID > id }) - 1
	for ; i >= 0 && m.largest[i] >= id; i-- {
		s := m.sets[i]
		if s.rec.MaxID < id {
			continue
		}
		if s.state == setWaiting {
			if err := m.load(i, id); err != nil {
				return nil, 0, err
			}
		}
		at, ok, err := m.index(s, id)
		if err != nil {
			return nil, 0, err
		}
		if ok {
			m.last = s
			return s, at, nil
		}
	}
	return nil, 0, nil
}

// index is leafSet.index, for sets whose ids were given up as well.
func (m *matcher) index(s *leafSet, id int64) (int, bool, error) {
	if s.state != setDone || s.ids.Len() > 0 {
		at, ok := s.index(id)
		return at, ok, nil
	}
	if m.reload != s {
		got, err := m.fetch([]int64{s.seq})
		if err != nil {
			return 0, false, err
		}
		again := leafSet{rec: s.rec, damaged: s.damaged}
		again.load(got[0])
		m.reload, m.reloadIDs = s, again.ids
	}
	at, ok := m.reloadIDs.Index(id)
	return at, ok, nil
}

// load reads a set and those that will probably be needed next. id is the row at hand.
func (m *matcher) load(i int, id int64) error {
	if m.ordered {
		m.closeBelow(id)
	}
	group, rows := []*leafSet{}, int64(0)
	for ; i < len(m.sets) && len(group) < prefetchSets; i++ {
		s := m.sets[i]
		if s.state != setWaiting {
			continue
		}
		if len(group) > 0 && rows+s.rec.Rows > prefetchRows {
			break
		}
		group = append(group, s)
		rows += s.rec.Rows
	}
	seqs := make([]int64, len(group))
	for i, s := range group {
		seqs[i] = s.seq
	}
	got, err := m.fetch(seqs)
	if err != nil {
		return err
	}
	for i, s := range group {
		intact := s.load(got[i])
		m.used += s.memory()
		m.open = append(m.open, s)
		if !intact {
			m.found.add(newFinding(LeavesCorrupt, "the leaf store does not have the %d leaves of record %d as they were written", s.rec.Rows, s.seq).on(m.table).in(s.partition).of(s.seq))
		}
		m.reportLate(s)
		if err := m.expire(s); err != nil {
			return err
		}
		if m.erased != nil && s.ids.Len() > 0 {
			if err := m.erased(s); err != nil {
				return err
			}
		}
	}
	if m.used > m.limit && !m.ordered {
		return errBudget
	}
	return nil
}

// expire takes out of a set what has expired.
func (m *matcher) expire(s *leafSet) error {
	if len(s.expiries) == 0 || s.ids.Len() == 0 {
		return nil
	}
	list, err := m.expired(s)
	if err != nil {
		return err
	}
	for _, x := range list {
		if x.damaged || !s.expire(x.ids, x.root) {
			m.found.add(newFinding(LeavesCorrupt, "the list of expired rows of record %d is not as it was written", x.seq).on(m.table).in(s.partition).of(x.seq))
		}
	}
	return nil
}

// closeBelow ends the sets that rows in id order have left behind.
func (m *matcher) closeBelow(id int64) {
	for _, s := range slices.Clone(m.open) {
		if s.rec.MaxID < id {
			m.close(s)
		}
	}
}

// close compares what is left and frees the set.
func (m *matcher) close(s *leafSet) {
	if s.state == setDone {
		return
	}
	m.used -= s.memory()
	m.open = slices.DeleteFunc(m.open, func(o *leafSet) bool { return o == s })
	if m.hidden[s] && !s.complete() {
		m.closeHidden(s)
		return
	}
	m.checked++
	if s.leaves == nil {
		m.judgeUntrusted(s)
	} else {
		m.reportRows(RowModified, s, s.modified(), "its content is not what was logged")
		m.reportMissing(s)
	}
	if s.damaged {
		m.found.add(newFinding(BatchRootMismatch, "the log's record of these %d rows is damaged: they were compared with the leaf store only", s.rec.Rows).on(m.table).in(s.partition).of(s.seq))
	}
	s.release()
}

// hide takes note that the rows of a unit's table could not be seen. Leaf sets whose partition is not clearly another of the unit may be its.
func (m *matcher) hide(u *unit, hidden *unitRelation) {
	if m.hidden == nil {
		m.hidden = map[*leafSet]bool{}
	}
	for _, s := range m.sets {
		elsewhere := slices.ContainsFunc(u.rels, func(r unitRelation) bool { return r.name == s.partition && r.rel.oid != hidden.rel.oid })
		if !elsewhere {
			m.hidden[s] = true
		}
	}
}

// closeHidden reports what is certain of a set whose rows were not all to be seen: those that were and differ.
func (m *matcher) closeHidden(s *leafSet) {
	if s.leaves != nil {
		m.reportRows(RowModified, s, s.modified(), "its content is not what was logged")
	}
	s.release()
}

// judgeUntrusted decides about a set whose stored leaves do not lead to the recorded root.
func (m *matcher) judgeUntrusted(s *leafSet) {
	if s.rowsRight() {
		return // the rows are proven by the record; leaves_corrupt was reported
	}
	suspects := s.suspects()
	m.reportMissing(s)
	m.reportRows(RowModified, s, suspects, "it differs from its stored leaf, which is itself not the one that was logged")
	m.found.add(newFinding(BatchRootMismatch, "neither the rows nor the leaf store lead to the root of record %d: %d of %d rows are there", s.seq, len(s.pairs), s.rec.Rows).on(m.table).in(s.partition).of(s.seq))
}

// modified returns the ids of the rows whose leaf differs.
func (s *leafSet) modified() []int64 {
	out := make([]int64, 0, len(s.wrong))
	for at := range s.wrong {
		out = append(out, s.ids.At(at))
	}
	slices.Sort(out)
	return out
}

func (m *matcher) reportMissing(s *leafSet) {
	m.reportRows(RowMissing, s, s.missing(), "it was logged and is gone")
}

func (m *matcher) reportLate(s *leafSet) {
	if s.lateBelow <= s.rec.MinID || s.ids.Len() == 0 {
		return
	}
	var late []int64
	for _, id := range s.ids.All() {
		if id >= s.lateBelow {
			break
		}
		late = append(late, id)
	}
	m.reportRows(RowLate, s, late, "it came after larger ids of its partition had been sealed")
}

// reportRows gives one finding a row, or one for all when there are many.
func (m *matcher) reportRows(t FindingType, s *leafSet, ids []int64, what string) {
	if n := int64(len(ids)); n > summariseRowsAbove {
		m.found.add(newFinding(t, "%d of %d rows of record %d, ids %d to %d: %s", n, s.rec.Rows, s.seq, ids[0], ids[n-1], what).
			on(m.table).in(s.partition).of(s.seq).times(n))
		return
	}
	for _, id := range ids {
		where := s.partition
		if t == RowModified && s.ids.Len() > 0 {
			if at, ok := s.ids.Index(id); ok && s.wrong[at] != "" {
				where = s.wrong[at]
			}
		}
		m.found.add(newFinding(t, "%s", what).on(m.table).in(where).of(s.seq).row(id))
	}
}

// finish ends the comparison: what no row asked for is missing.
func (m *matcher) finish() error {
	for i, s := range m.sets {
		if s.state == setWaiting {
			if err := m.loadRest(i); err != nil {
				return err
			}
		}
		m.close(s)
	}
	return nil
}

// loadRest is load without a limit on memory that could send the caller back: each set is closed at once.
func (m *matcher) loadRest(i int) error {
	limit := m.limit
	m.limit = math.MaxInt64
	defer func() { m.limit = limit }()
	return m.load(i, math.MinInt64)
}
