package integrity

import (
	"errors"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// edge is the right edge of the log's tree: the roots of its full subtrees, by level. It is all that appending needs to read.
type edge struct {
	size int64
	full [64]tlog.Hash // full[k] is set where bit k of size is
}

var errEdge = errors.New("tree hash not at hand")

// newEdge makes the edge of a tree from its full subtrees, largest first.
func newEdge(size int64, hashes [][]byte) (edge, error) {
	e := edge{size: size}
	if bits.OnesCount64(uint64(size)) != len(hashes) { //nolint:gosec // sizes are ≥ 0
		return e, errEdge
	}
	for k := 63; k >= 0; k-- {
		if size>>k&1 == 0 {
			continue
		}
		if len(hashes[0]) != tlog.HashSize {
			return e, errEdge
		}
		e.full[k], hashes = tlog.Hash(hashes[0]), hashes[1:]
	}
	return e, nil
}

// ReadHashes gives the stored hashes at indexes, which must belong to the edge.
func (e *edge) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		level, n := tlog.SplitStoredHashIndex(index)
		if e.size>>level&1 == 0 || n != e.size>>level-1 {
			return nil, errEdge
		}
		out[i] = e.full[level]
	}
	return out, nil
}

// add appends a record hash and returns the hashes to store, beginning at tlog.StoredHashIndex(0, size before).
func (e *edge) add(h tlog.Hash) ([]tlog.Hash, error) {
	stored, err := tlog.StoredHashesForRecordHash(e.size, h, e)
	if err != nil {
		return nil, err
	}
	top := len(stored) - 1
	e.full[top] = stored[top]
	e.size++
	return stored, nil
}

func (e *edge) root() (tlog.Hash, error) { return tlog.TreeHash(e.size, e) }
