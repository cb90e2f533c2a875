package archive

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"slices"

	"auditdb/pkg/audit"
)

// start begins to hash rows on a goroutine of its own, while the next ones are decoded.
func (x *scan) start() {
	x.free, x.todo, x.result = make(chan *batch, batchesHeld), make(chan *batch, batchesHeld), make(chan error, 1)
	for range batchesHeld {
		x.free <- &batch{arena: make([]byte, 0, batchBytes)}
	}
	h := newRowHasher(x.m)
	if x.parts != nil {
		h.stripes = newStripeHasher(x.m)
	}
	go func() {
		var err error
		for b := range x.todo {
			if err == nil {
				err = h.batch(b, x.name, x.fn)
			}
			b.reset()
			x.free <- b
		}
		if err == nil {
			err = h.finish(x.name)
		}
		if err == nil && x.parts != nil {
			x.stripes = h.stripes.sums
		}
		x.result <- err
	}()
}

// stop ends the hashing and returns what came of it.
func (x *scan) stop() error {
	if x.todo == nil || x.stopped {
		return nil
	}
	x.stopped = true
	close(x.todo)
	return <-x.result
}

// rowHasher cuts rows, hashes them and compares the whole with the manifest.
type rowHasher struct {
	m              *Manifest
	hash           *audit.Hasher
	core, personal int // fields
	idAt           int
	hasSalt        bool
	rest           int // fields after the personal ones that are the table's
	tree           audit.Tree
	rows           int64
	last           int64
	stripes        *stripeHasher // nil: their digests are not wanted
}

func newRowHasher(m *Manifest) *rowHasher {
	h := &rowHasher{m: m}
	var f audit.Format
	for i, c := range m.Columns {
		switch c.Role {
		case roleCore:
			f.Core = append(f.Core, audit.Column{Name: c.Name, Type: c.Type})
			if c.Name == idColumn {
				h.idAt = i
			}
		case rolePersonal:
			f.Personal = append(f.Personal, audit.Column{Name: c.Name, Type: c.Type})
		case roleSalt:
			h.hasSalt = true
			h.rest++
		case roleExtra:
			h.rest++
		}
	}
	h.hash, h.core, h.personal = audit.NewHasher(f), len(f.Core), len(f.Personal)
	return h
}

func (h *rowHasher) batch(b *batch, name string, fn func(*Row) error) error {
	start := 0
	for _, end := range b.ends {
		var r Row
		if err := h.cut(b.arena[start:end], &r); err != nil {
			return broken(name, "%v", err)
		}
		start = end
		if h.rows > 0 && r.ID <= h.last {
			return broken(name, "its rows are not in the order of their ids")
		}
		h.last = r.ID
		h.rows++
		h.tree.Add(r.Leaf)
		if h.stripes != nil {
			h.stripes.add(&r)
		}
		if fn == nil {
			continue
		}
		if err := fn(&r); err != nil {
			return err
		}
	}
	if h.stripes != nil {
		h.stripes.end()
	}
	return nil
}

// stripeHasher makes the digests of stripes.
type stripeHasher struct {
	hash    hash.Hash
	hasSalt bool
	sums    []byte
}

func newStripeHasher(m *Manifest) *stripeHasher {
	has := slices.ContainsFunc(m.Columns, func(c Column) bool { return c.Role == roleSalt })
	return &stripeHasher{hash: sha256.New(), hasSalt: has}
}

// add takes a row: its leaf, which covers everything but what is extra.
func (h *stripeHasher) add(r *Row) {
	h.hash.Write(r.Leaf[:])
	extra := r.rest
	if h.hasSalt {
		_, extra, _ = cutField(extra) // it was made of fields
	}
	h.hash.Write(extra)
}

func (h *stripeHasher) end() {
	h.sums = append(h.sums, h.hash.Sum(nil)[:digestBytes]...)
	h.hash.Reset()
}

// cut finds the parts of a row and hashes it.
func (h *rowHasher) cut(row []byte, r *Row) error {
	field := func(pos int) (value []byte, next int, err error) {
		v, rest, err := cutField(row[pos:])
		return v, len(row) - len(rest), err
	}
	pos := 0
	for i := range h.core {
		v, next, err := field(pos)
		if err != nil {
			return err
		}
		if i == h.idAt {
			r.ID = signed(v)
		}
		pos = next
	}
	coreEnd := pos
	for range h.personal {
		_, next, err := field(pos)
		if err != nil {
			return err
		}
		pos = next
	}
	personalEnd := pos
	var salt []byte
	for i := range h.rest {
		v, next, err := field(pos)
		if err != nil {
			return err
		}
		if i == 0 && h.hasSalt {
			salt = v
		}
		pos = next
	}
	r.core, r.personal, r.rest, r.hasSalt = row[:coreEnd], row[coreEnd:personalEnd], row[personalEnd:pos], h.hasSalt
	commit, pos, err := field(pos)
	r.erased = commit != nil
	if err != nil {
		return err
	}
	kept, _, err := field(pos)
	if err != nil {
		return err
	}
	switch {
	case len(commit) == audit.HashSize:
		r.Leaf = h.hash.LeafOfCommit(r.core, [audit.HashSize]byte(commit))
	case salt != nil:
		r.Leaf = h.hash.LeafOf(r.core, r.personal, salt)
	default:
		r.Leaf = h.hash.LeafOf(r.core, r.personal, kept)
	}
	return nil
}

// signed reads an integer of 2, 4 or 8 bytes.
func signed(b []byte) int64 {
	switch len(b) {
	case 2:
		return int64(int16(binary.BigEndian.Uint16(b))) //nolint:gosec // two's complement
	case 4:
		return int64(int32(binary.BigEndian.Uint32(b))) //nolint:gosec // two's complement
	case 8:
		return int64(binary.BigEndian.Uint64(b)) //nolint:gosec // two's complement
	}
	return 0
}

func (h *rowHasher) finish(name string) error {
	if h.rows != h.m.Rows {
		return broken(name, "it has %d rows, its manifest says %d", h.rows, h.m.Rows)
	}
	root := h.tree.Root()
	if got := hex.EncodeToString(root[:]); got != h.m.Root {
		return broken(name, "its rows lead to the root %s, its manifest says %s", got, h.m.Root)
	}
	return nil
}
