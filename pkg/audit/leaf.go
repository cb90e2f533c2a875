package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

const (
	// HashSize is the length of leaves, nodes and roots in bytes.
	HashSize = sha256.Size
	// SaltSize is the length of a row's salt in bytes.
	SaltSize = 16

	leafPrefix   = 0x00 // RFC 6962's leaf prefix
	nodePrefix   = 0x01 // RFC 6962's node prefix
	commitPrefix = 0x02 // the commitment to the personal fields
	groupHeader  = 4    // prefix, format version, u16 number of fields
)

// Hasher computes row leaves of one format. It holds scratch memory: one per goroutine, no allocation per row.
type Hasher struct {
	core, personal int
	buf            []byte
}

// NewHasher returns a hasher for f.
func NewHasher(f Format) *Hasher {
	return &Hasher{core: len(f.Core), personal: len(f.Personal), buf: make([]byte, 0, 4096)}
}

// Leaf returns the leaf of a row given as its field values: the bytes of COPY BINARY in the order core, personal (Format.Columns
// without the salt), nil for NULL. Wrong counts and a salt that is not 16 bytes are errors.
func (h *Hasher) Leaf(fields [][]byte, salt []byte) ([HashSize]byte, error) {
	if len(fields) != h.core+h.personal {
		return [HashSize]byte{}, fmt.Errorf("hash row: %d fields, the format has %d", len(fields), h.core+h.personal)
	}
	if len(salt) != SaltSize {
		return [HashSize]byte{}, fmt.Errorf("hash row: salt of %d bytes", len(salt))
	}
	commit := h.commitFields(fields[h.core:], salt)
	return h.LeafOfFields(fields[:h.core], commit)
}

// LeafOfFields returns the leaf of a row from its core field values and a known commitment (an erased row's stored one).
func (h *Hasher) LeafOfFields(core [][]byte, commit [HashSize]byte) ([HashSize]byte, error) {
	if len(core) != h.core {
		return [HashSize]byte{}, fmt.Errorf("hash row: %d core fields, the format has %d", len(core), h.core)
	}
	b := appendGroup(h.buf[:0], leafPrefix, h.core)
	for _, f := range core {
		b = AppendField(b, f)
	}
	b = append(b, commit[:]...)
	h.buf = b[:0]
	return sha256.Sum256(b), nil
}

func (h *Hasher) commitFields(personal [][]byte, salt []byte) [HashSize]byte {
	b := appendGroup(h.buf[:0], commitPrefix, h.personal)
	for _, f := range personal {
		b = AppendField(b, f)
	}
	b = append(b, salt...)
	h.buf = b[:0]
	return sha256.Sum256(b)
}

// LeafOf returns the leaf of a row whose core and personal fields are given as they stand in a COPY BINARY tuple: each field with
// its length before it. It is the fast path of Leaf: nothing is walked. salt must be 16 bytes.
func (h *Hasher) LeafOf(core, personal, salt []byte) [HashSize]byte {
	return h.LeafOfCommit(core, h.CommitOf(personal, salt))
}

// CommitOf returns the commitment to personal fields as they stand in a COPY BINARY tuple.
func (h *Hasher) CommitOf(personal, salt []byte) [HashSize]byte {
	b := appendGroup(h.buf[:0], commitPrefix, h.personal)
	b = append(b, personal...)
	b = append(b, salt...)
	h.buf = b[:0]
	return sha256.Sum256(b)
}

// LeafOfCommit returns the leaf of core fields as they stand in a COPY BINARY tuple and a commitment.
func (h *Hasher) LeafOfCommit(core []byte, commit [HashSize]byte) [HashSize]byte {
	b := appendGroup(h.buf[:0], leafPrefix, h.core)
	b = append(b, core...)
	b = append(b, commit[:]...)
	h.buf = b[:0]
	return sha256.Sum256(b)
}

func appendGroup(dst []byte, prefix byte, n int) []byte {
	dst = append(dst, prefix, FormatVersion)
	return binary.BigEndian.AppendUint16(dst, uint16(n)) //nolint:gosec // a table has at most 1,600 columns
}

// RootOf returns the RFC 6962 Merkle tree hash of leaves, given as 32-byte hashes one after another; trailing bytes that do not make
// a hash are ignored. The leaves are hashes already: only nodes are computed (0x01 || left || right). Of no leaf it is SHA256("").
func RootOf(leaves []byte) [HashSize]byte {
	var t Tree
	for ; len(leaves) >= HashSize; leaves = leaves[HashSize:] {
		t.Add([HashSize]byte(leaves[:HashSize]))
	}
	return t.Root()
}

// Tree computes a Merkle root from leaves that come one after another, in constant memory. The zero value is an empty tree.
type Tree struct {
	n     uint64
	stack [64][HashSize]byte // stack[k] is the root of a full subtree of 2^k leaves where bit k of n is set
}

// Add appends a leaf hash.
func (t *Tree) Add(h [HashSize]byte) {
	k := 0
	for ; t.n>>k&1 == 1; k++ {
		h = NodeOf(t.stack[k], h)
	}
	t.stack[k] = h
	t.n++
}

// Root returns the root of the leaves so far.
func (t *Tree) Root() [HashSize]byte {
	if t.n == 0 {
		return sha256.Sum256(nil)
	}
	var h [HashSize]byte
	first := true
	for k := range t.stack {
		if t.n>>k&1 == 0 {
			continue
		}
		if first {
			h, first = t.stack[k], false
			continue
		}
		h = NodeOf(t.stack[k], h)
	}
	return h
}

// NodeOf returns the hash of an inner node.
func NodeOf(left, right [HashSize]byte) [HashSize]byte {
	var b [1 + 2*HashSize]byte
	b[0] = nodePrefix
	copy(b[1:], left[:])
	copy(b[1+HashSize:], right[:])
	return sha256.Sum256(b[:])
}
