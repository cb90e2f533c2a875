package integrity

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"math/bits"
	"slices"

	"auditdb/pkg/audit"
)

// setState is how far the comparison of a leaf set has come.
type setState int

const (
	setWaiting setState = iota // not read from the leaf store yet
	setOpen
	setDone
)

// leafSet is one leaf set while the rows of its partition are compared with it.
type leafSet struct {
	seq       int64
	rec       LeafRoot
	misfiled  bool
	damaged   bool  // its record cannot be trusted: rec is what the leaf store says
	lateBelow int64 // sealed rows with a smaller id came late; 0: none
	state     setState
	partition string // the name in its record

	ids    audit.IDSet // known unless Len is 0
	leaves []byte      // stored leaves that lead to the recorded root; nil: the store cannot be trusted
	salts  []byte
	seen   []uint64       // by position
	nSeen  int64          // positions seen
	wrong  map[int]string // position → partition of the row whose leaf differs
	pairs  []idLeaf       // without trusted leaves: what the rows give
	stored []byte         // without trusted leaves: what the store has, for naming rows

	expiries []int64                      // expire records about it
	gone     []uint64                     // by position: rows that have expired; nil: none
	erased   map[int][audit.HashSize]byte // by position: the commitment to personal fields that were erased
}

type idLeaf struct {
	id   int64
	leaf [audit.HashSize]byte
}

// load takes over what the leaf store has and tells whether that is intact.
func (s *leafSet) load(st storedLeaves) (intact bool) {
	s.state = setOpen
	s.seen = make([]uint64, (s.rec.Rows+63)/64)
	n := int(s.rec.Rows)
	if set, err := audit.DecodeIDSet(s.rec.MinID, st.ids); err == nil && set.Len() == n && (s.damaged || sha256.Sum256(st.ids) == s.rec.IDs) {
		s.ids = set
	} else if set := audit.IDRange(s.rec.MinID, n); set.Len() == n && sha256.Sum256(set.Encode()) == s.rec.IDs {
		s.ids = set // the ids follow from the record
	}
	idsIntact := s.ids.Len() > 0 && bytes.Equal(s.ids.Encode(), st.ids)
	if len(st.salts) == n*audit.SaltSize {
		s.salts = st.salts
	}
	whole := len(st.leaves) == n*audit.HashSize
	if s.ids.Len() > 0 && whole && (s.damaged || audit.RootOf(st.leaves) == s.rec.Root) {
		s.leaves = st.leaves
		return idsIntact
	}
	if whole {
		s.stored = st.leaves
	}
	return false
}

// expire takes the ids of an expire record out of what must be there. It tells whether they are the set's, with the leaves that the
// record says.
func (s *leafSet) expire(ids audit.IDSet, root [audit.HashSize]byte) bool {
	if s.gone == nil {
		s.gone = make([]uint64, len(s.seen))
	}
	right := true
	var tree audit.Tree
	for _, id := range ids.All() {
		at, ok := s.ids.Index(id)
		if !ok {
			right = false
			continue
		}
		if s.leaves != nil {
			tree.Add([audit.HashSize]byte(s.leaves[at*audit.HashSize:]))
		}
		if s.gone[at/64]>>(at%64)&1 == 1 {
			continue
		}
		s.gone[at/64] |= 1 << (at % 64)
		s.seen[at/64] |= 1 << (at % 64)
		s.nSeen++
	}
	return right && (s.leaves == nil || tree.Root() == root)
}

// expired tells whether the row at a position has expired.
func (s *leafSet) expired(at int) bool {
	return s.gone != nil && at >= 0 && s.gone[at/64]>>(at%64)&1 == 1
}

// memory is what an open set holds, in bytes.
func (s *leafSet) memory() int64 {
	n := s.rec.Rows*audit.HashSize + s.rec.Rows/8 + int64(len(s.salts)) + int64(len(s.stored)) + 24*int64(s.idRuns())
	if s.leaves == nil {
		n += s.rec.Rows * (8 + audit.HashSize)
	}
	return n
}

// idRuns estimates the number of runs by the encoded size, which is at least two bytes a run.
func (s *leafSet) idRuns() int { return len(s.ids.Encode()) / 2 }

// index returns the position of an id. Where the ids are not known, any id within the bounds belongs to the set, at -1.
func (s *leafSet) index(id int64) (int, bool) {
	if s.ids.Len() == 0 {
		return -1, id >= s.rec.MinID && id <= s.rec.MaxID
	}
	return s.ids.Index(id)
}

func (s *leafSet) salt(at int) []byte {
	if at < 0 || s.salts == nil {
		return nil
	}
	return s.salts[at*audit.SaltSize : (at+1)*audit.SaltSize]
}

// take compares one row. It returns false for a second row with an id that was seen before, and which partition the wrong one is in.
func (s *leafSet) take(id int64, at int, leaf [audit.HashSize]byte, partition string) (first bool, other string) {
	if s.leaves == nil {
		s.pairs = append(s.pairs, idLeaf{id: id, leaf: leaf})
		if at < 0 {
			return true, ""
		}
	}
	seen := s.seen[at/64]>>(at%64)&1 == 1
	right := s.leaves == nil || [audit.HashSize]byte(s.leaves[at*audit.HashSize:]) == leaf
	if seen {
		was, wasWrong := s.wrong[at]
		if right && wasWrong { // the one before was the false one
			delete(s.wrong, at)
			return false, was
		}
		return false, partition
	}
	s.seen[at/64] |= 1 << (at % 64)
	s.nSeen++
	if !right {
		if s.wrong == nil {
			s.wrong = map[int]string{}
		}
		s.wrong[at] = partition
	}
	return true, ""
}

// complete tells whether every position has its row, so that the set can be closed early.
func (s *leafSet) complete() bool { return s.nSeen == s.rec.Rows && s.leaves != nil }

// missing returns the ids without a row.
func (s *leafSet) missing() []int64 {
	if s.ids.Len() == 0 {
		return nil
	}
	var out []int64
	for w, word := range s.seen {
		if word == ^uint64(0) {
			continue
		}
		for left := ^word; left != 0; left &= left - 1 {
			if at := w*64 + bits.TrailingZeros64(left); at < int(s.rec.Rows) {
				out = append(out, s.ids.At(at))
			}
		}
	}
	return out
}

// rowsRight tells, for a set without trusted leaves, whether its rows themselves lead to the recorded root.
func (s *leafSet) rowsRight() bool {
	s.addExpired()
	if int64(len(s.pairs)) != s.rec.Rows {
		return false
	}
	slices.SortFunc(s.pairs, func(a, b idLeaf) int { return cmp.Compare(a.id, b.id) })
	ids := make([]int64, len(s.pairs))
	var tree audit.Tree
	for i, p := range s.pairs {
		ids[i] = p.id
		tree.Add(p.leaf)
	}
	set, err := audit.NewIDSet(ids)
	return err == nil && sha256.Sum256(set.Encode()) == s.rec.IDs && tree.Root() == s.rec.Root
}

// addExpired completes the rows of a set by the stored leaves of those that have expired.
func (s *leafSet) addExpired() {
	if s.gone == nil || s.stored == nil {
		return
	}
	for at := range int(s.rec.Rows) {
		if s.expired(at) {
			s.pairs = append(s.pairs, idLeaf{id: s.ids.At(at), leaf: [audit.HashSize]byte(s.stored[at*audit.HashSize:])})
		}
	}
}

// suspects returns the ids of rows that differ from leaves which do not lead to the root either: a guess, for people.
func (s *leafSet) suspects() []int64 {
	if s.stored == nil || s.ids.Len() == 0 {
		return nil
	}
	var out []int64
	for _, p := range s.pairs {
		if at, ok := s.ids.Index(p.id); ok && [audit.HashSize]byte(s.stored[at*audit.HashSize:]) != p.leaf {
			out = append(out, p.id)
		}
	}
	return out
}

// release frees what is not needed after the comparison. Ids in many runs are read again in the rare case that they are needed.
func (s *leafSet) release() {
	s.state = setDone
	s.leaves, s.salts, s.seen, s.wrong, s.pairs, s.stored, s.erased = nil, nil, nil, nil, nil, nil, nil
	if s.idRuns() > 8 {
		s.ids = audit.IDSet{}
	}
}
