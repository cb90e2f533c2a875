package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"sort"
)

// MaxSet is the largest number of rows in one leaf set.
const MaxSet = 65536

// IDSet is a set of row ids in ascending order, kept as runs. Its encoding is canonical: uvarint pairs (gap, length); gap counts the
// ids left out since the end of the run before (0 for the first run, which starts at the set's smallest id, and at least 1 for the
// others), length is at least 1. The smallest id itself is not part of the encoding: records and the leaf store have it beside.
type IDSet struct {
	runs []idRun
	n    int
}

type idRun struct {
	first  int64
	length int
	before int // ids in the runs before
}

var errIDSet = errors.New("malformed id set")

// NewIDSet makes a set of strictly ascending ids ≥ 0; at least one and at most MaxSet.
func NewIDSet(ids []int64) (IDSet, error) {
	var s IDSet
	if len(ids) == 0 || len(ids) > MaxSet {
		return s, fmt.Errorf("%w: %d ids", errIDSet, len(ids))
	}
	for i, id := range ids {
		if id < 0 || (i > 0 && id <= ids[i-1]) {
			return IDSet{}, fmt.Errorf("%w: ids are not ascending", errIDSet)
		}
		if i > 0 && id == ids[i-1]+1 {
			s.runs[len(s.runs)-1].length++
		} else {
			s.runs = append(s.runs, idRun{first: id, length: 1, before: i})
		}
	}
	s.n = len(ids)
	return s, nil
}

// IDRange makes the set of the n ids from first on. n must be 1 to MaxSet and first ≥ 0, else the set is empty.
func IDRange(first int64, n int) IDSet {
	if n < 1 || n > MaxSet || first < 0 || first > math.MaxInt64-int64(n) {
		return IDSet{}
	}
	return IDSet{runs: []idRun{{first: first, length: n}}, n: n}
}

// DecodeIDSet is the inverse of Encode for a set whose smallest id is first. Anything but the canonical encoding is an error.
func DecodeIDSet(first int64, enc []byte) (IDSet, error) {
	var s IDSet
	if first < 0 || len(enc) == 0 {
		return s, errIDSet
	}
	next := first
	for len(enc) > 0 {
		gap, rest, ok := canonicalUvarint(enc)
		if !ok || (gap == 0) != (len(s.runs) == 0) || gap > uint64(math.MaxInt64-next) { //nolint:gosec // next ≥ 0
			return IDSet{}, errIDSet
		}
		size, rest, ok := canonicalUvarint(rest)
		next += int64(gap) //nolint:gosec // bounded above
		if !ok || size == 0 || size > MaxSet {
			return IDSet{}, errIDSet
		}
		length := int(size)
		if length > MaxSet-s.n || int64(length) > math.MaxInt64-next {
			return IDSet{}, errIDSet
		}
		s.runs = append(s.runs, idRun{first: next, length: length, before: s.n})
		s.n += length
		next += int64(length)
		enc = rest
	}
	return s, nil
}

// canonicalUvarint reads a uvarint in its shortest form.
func canonicalUvarint(b []byte) (v uint64, rest []byte, ok bool) {
	v, n := binary.Uvarint(b)
	if n <= 0 || (n > 1 && b[n-1] == 0) {
		return 0, nil, false
	}
	return v, b[n:], true
}

// Encode returns the canonical encoding.
func (s IDSet) Encode() []byte {
	b := make([]byte, 0, 4*len(s.runs))
	next := s.Min()
	for _, r := range s.runs {
		b = binary.AppendUvarint(b, uint64(r.first-next)) //nolint:gosec // runs ascend
		b = binary.AppendUvarint(b, uint64(r.length))     //nolint:gosec // ≥ 1
		next = r.first + int64(r.length)
	}
	return b
}

// Len returns the number of ids.
func (s IDSet) Len() int { return s.n }

// Min returns the smallest id; 0 for an empty set.
func (s IDSet) Min() int64 {
	if len(s.runs) == 0 {
		return 0
	}
	return s.runs[0].first
}

// Max returns the largest id; 0 for an empty set.
func (s IDSet) Max() int64 {
	if len(s.runs) == 0 {
		return 0
	}
	r := s.runs[len(s.runs)-1]
	return r.first + int64(r.length) - 1
}

// Index returns the position of id in the set, which is that of its leaf in the tree.
func (s IDSet) Index(id int64) (int, bool) {
	i := sort.Search(len(s.runs), func(i int) bool { return s.runs[i].first > id }) - 1
	if i < 0 || id-s.runs[i].first >= int64(s.runs[i].length) {
		return 0, false
	}
	return s.runs[i].before + int(id-s.runs[i].first), true
}

// Contains tells whether id is in the set.
func (s IDSet) Contains(id int64) bool {
	_, ok := s.Index(id)
	return ok
}

// At returns the id at position i, 0 ≤ i < Len.
func (s IDSet) At(i int) int64 {
	r := s.runs[sort.Search(len(s.runs), func(k int) bool { return s.runs[k].before > i })-1]
	return r.first + int64(i-r.before)
}

// All yields the ids in ascending order with their positions.
func (s IDSet) All() iter.Seq2[int, int64] {
	return func(yield func(int, int64) bool) {
		for _, r := range s.runs {
			for k := range r.length {
				if !yield(r.before+k, r.first+int64(k)) {
					return
				}
			}
		}
	}
}
