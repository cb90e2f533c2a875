package integrity

import (
	"slices"

	"auditdb/pkg/audit"
)

// logState is what the log says should be in the database, after its records up to some point.
type logState struct {
	control control
	tables  map[int16]*tableState
}

type tableState struct {
	id           int16
	schema, name string
	keyColumn    string
	format       audit.Format
	formats      int // format records that differ from the first one
	parts        map[rangeKey]*partState
	expired      map[int64][]expiry // by the record of the leaf set
	redacted     map[int64]*Redact  // by their records
}

// expiry is an expire record: some rows of a leaf set are gone.
type expiry struct {
	seq int64
	rng rangeKey // of the partition that held them
}

// partStatus is what the log says about a range of a table.
type partStatus int

const (
	partUnrecorded partStatus = iota // only leaf sets, no record of the partition itself
	partAttached
	partDetaching // detached, or going to be
	partPruned    // dropped with its rows
	partRelocated // dropped after its rows had been moved elsewhere
)

// partState is one range of a table with the leaf sets that must be there.
type partState struct {
	ref     PartitionRef // under its newest name
	status  partStatus
	oid     int64 // from the detach record
	moved   bool  // its rows are being moved to other partitions
	changed int64 // the last record about the partition itself
	sets    []int64
	pruned  []int64 // leaf sets that were pruned, which a restore brings back
	old     []detachedSets
}

// detachedSets are the leaf sets of a partition that was detached and replaced by a new one of the same range.
type detachedSets struct {
	ref  PartitionRef
	oid  int64
	sets []int64
}

func newLogState() *logState {
	return &logState{control: newControl(), tables: map[int16]*tableState{}}
}

func (s *logState) table(id int16) *tableState {
	t := s.tables[id]
	if t == nil {
		t = &tableState{id: id, parts: map[rangeKey]*partState{}, expired: map[int64][]expiry{}, redacted: map[int64]*Redact{}}
		s.tables[id] = t
	}
	return t
}

func (t *tableState) part(ref PartitionRef) *partState {
	p := t.parts[ref.Range.key()]
	if p == nil {
		p = &partState{ref: ref}
		t.parts[ref.Range.key()] = p
	}
	return p
}

// apply takes in the next record.
func (s *logState) apply(r Record) {
	switch b := r.Body.(type) {
	case *Genesis, *Key, *Revoke, *Recovery:
		s.control.apply(r)
	case *Format:
		s.table(b.Table).setFormat(b)
	case *Partition:
		s.table(b.Table).part(b.Partition).attach(r.Seq, b)
	case *Batch:
		p := s.table(b.Table).part(b.Partition)
		p.sets = append(p.sets, r.Seq)
	case *Seal:
		p := s.table(b.Table).part(b.Partition)
		p.sets = append(p.sets, r.Seq)
	case *Move:
		t := s.table(b.Table)
		from, to := t.part(b.From), t.part(b.To)
		from.moved = true
		from.changed, to.changed = r.Seq, r.Seq
	case *Detach:
		p := s.table(b.Table).part(b.Partition)
		p.ref, p.status, p.oid, p.changed = b.Partition, partDetaching, b.OID, r.Seq
	case *Prune:
		s.table(b.Table).part(b.Partition).prune(r.Seq, b.Rows)
	case *Expire:
		t := s.table(b.Table)
		t.expired[b.Leaf] = append(t.expired[b.Leaf], expiry{seq: r.Seq, rng: b.Partition.Range.key()})
	case *Redact:
		s.table(b.Table).redacted[r.Seq] = b
	case *Restore:
		s.table(b.Table).restore(r.Seq, b)
	}
}

func (t *tableState) setFormat(b *Format) {
	t.schema, t.name, t.keyColumn = b.Schema, b.Name, b.KeyColumn
	if len(t.format.Core) > 0 && !sameFormat(t.format, b.Leaf) {
		t.formats++
		return
	}
	t.format = b.Leaf
}

// expiries returns the expire records about leaf sets, in a log of a size.
func (t *tableState) expiries(sets []int64, size int64) map[int64][]int64 {
	out := map[int64][]int64{}
	for _, seq := range sets {
		for _, x := range t.expired[seq] {
			if x.seq < size {
				out[seq] = append(out[seq], x.seq)
			}
		}
	}
	return out
}

// attach begins, or goes on with, a range. A partition that is created where one was detached is another one: the detached one keeps
// its leaf sets.
func (p *partState) attach(seq int64, b *Partition) {
	if p.status == partDetaching && b.Event == EventCreated {
		p.old = append(p.old, detachedSets{ref: p.ref, oid: p.oid, sets: p.sets})
		p.sets = nil
	}
	p.ref, p.status, p.moved, p.changed = b.Partition, partAttached, false, seq
}

// prune ends a range: its rows are gone, unless they had been moved to other partitions before it was dropped empty.
func (p *partState) prune(seq, rows int64) {
	p.changed = seq
	if p.moved && rows == 0 {
		p.status = partRelocated
		return
	}
	p.status, p.moved, p.pruned, p.sets = partPruned, false, append(p.pruned, p.sets...), nil
}

// restore brings pruned rows back: attached, or in a table of their own. What had expired with the partition is there again.
func (t *tableState) restore(seq int64, b *Restore) {
	p := t.part(b.Partition)
	p.ref, p.status, p.oid, p.moved, p.changed = b.Partition, partAttached, b.OID, false, seq
	if b.OID != 0 {
		p.status = partDetaching
	}
	p.sets, p.pruned = append(p.pruned, p.sets...), nil
	key := b.Partition.Range.key()
	for leaf, list := range t.expired {
		t.expired[leaf] = slices.DeleteFunc(list, func(x expiry) bool { return x.rng == key })
	}
}

func sameFormat(a, b audit.Format) bool {
	return a.Version == b.Version && a.Salt == b.Salt && slices.Equal(a.Core, b.Core) && slices.Equal(a.Personal, b.Personal)
}

// adopt registers a leaf set whose record is damaged by what the leaf store says about it.
func (s *logState) adopt(seq int64, table int16, r Range) {
	p := s.table(table).part(PartitionRef{Range: r})
	p.sets = append(p.sets, seq)
}
