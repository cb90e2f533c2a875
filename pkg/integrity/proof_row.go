package integrity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"auditdb/internal/fault"
	"auditdb/pkg/audit"
)

// rowLeaf is what the log has for a row.
type rowLeaf struct {
	seq  int64
	at   int
	leaf tlog.Hash
}

// fields fills in the row's fields, from wherever the row is that leads to the leaf.
func (m *proofMaker) fields(ctx context.Context, p *EventProof, t *Table, want rowLeaf) error {
	commit, err := readCommitment(ctx, m.tx, t.ID, m.o.ID)
	if err != nil {
		return err
	}
	seen := false
	for _, places := range []func(context.Context, *EventProof, *Table) ([]string, error){m.attached, m.detached} {
		statements, err := places(ctx, p, t)
		if err != nil {
			return err
		}
		for _, sql := range statements {
			rows, err := m.read(ctx, p.format, sql)
			if err != nil {
				return err
			}
			for _, row := range rows {
				seen = true
				if ok, err := m.take(ctx, p, row, commit, want); ok || err != nil {
					return err
				}
			}
		}
	}
	if seen {
		return fault.New(fault.Integrity, verifyHint, "row_modified: row %d of %s.%s is not what was logged", m.o.ID, t.Schema, t.Name)
	}
	return m.absent(ctx, p, t, want.seq)
}

// attached lists where in the table to look for the row: in the partitions of its record's range, found by times or else by name, then
// in all. The table itself is read, on which readers have rights, wherever that does.
func (m *proofMaker) attached(ctx context.Context, p *EventProof, t *Table) ([]string, error) {
	if t.OID == 0 {
		return nil, nil
	}
	parent := relation{schema: t.Schema, name: t.Name}
	all := copyRowSQL(parent, p.format, m.o.ID, nil)
	if timeKey(p.format) && !p.place.Range.Default {
		return []string{copyRowSQL(parent, p.format, m.o.ID, &p.place.Range), all}, nil
	}
	oid, err := ChildOID(ctx, m.tx, t.OID, p.place.Name)
	if err != nil || oid == 0 {
		return []string{all}, err
	}
	rel, err := readRelation(ctx, m.tx, oid)
	return []string{copyRowSQL(rel, p.format, m.o.ID, nil), all}, err
}

// detached looks for the tables that partitions of the record's range became when they were detached.
func (m *proofMaker) detached(ctx context.Context, p *EventProof, t *Table) ([]string, error) {
	texts, err := readDetachments(ctx, m.tx, t.ID, p.place.Range)
	if err != nil {
		return nil, err
	}
	candidates := []Detach{{Partition: p.place}}
	for _, text := range texts {
		if r, err := Parse([]byte(text)); err == nil {
			if b, ok := r.Body.(*Detach); ok {
				candidates = append(candidates, *b)
			}
		}
	}
	var out []string
	seen := map[uint32]bool{}
	for _, c := range candidates {
		rel, ok, err := findDetached(ctx, m.tx, c.OID, t.Schema, t.Name, c.Partition.Name)
		if err != nil {
			return nil, err
		}
		if ok && !seen[rel.oid] && rel.has(p.format.Leaf) {
			seen[rel.oid] = true
			out = append(out, copyRowSQL(rel, p.format, m.o.ID, nil))
		}
	}
	return out, nil
}

func timeKey(f *Format) bool {
	i := slices.IndexFunc(f.Leaf.Core, func(c audit.Column) bool { return c.Name == f.KeyColumn })
	return i >= 0 && slices.Contains([]string{"timestamptz", "timestamp", "date"}, f.Leaf.Core[i].Type)
}

// provenRow is a row as COPY gives it.
type provenRow struct {
	core, personal [][]byte
	salt           []byte
}

// read runs one COPY and collects its rows; more than a few of one id say nothing more.
func (m *proofMaker) read(ctx context.Context, f *Format, sql string) ([]provenRow, error) {
	l, err := newLayout(f.Leaf, f.KeyColumn)
	if err != nil {
		return nil, err
	}
	const most = 8
	var out []provenRow
	r := tupleReader{layout: l, fn: func(row *copyRow) error {
		if len(out) < most {
			out = append(out, provenRow{core: splitFields(row.core), personal: splitFields(row.personal), salt: bytes.Clone(row.salt)})
		}
		return nil
	}}
	if err := copyTo(ctx, m.tx.Conn().PgConn(), sql, r.feed); err != nil {
		return nil, fmt.Errorf("read row %d: %w", m.o.ID, err)
	}
	if err := r.close(); err != nil {
		return nil, fmt.Errorf("read row %d: %w", m.o.ID, err)
	}
	return out, nil
}

// splitFields cuts fields as they stand in a COPY BINARY tuple, which was checked before, and copies them.
func splitFields(b []byte) [][]byte {
	var out [][]byte
	for len(b) >= 4 {
		size := int(int32(binary.BigEndian.Uint32(b))) //nolint:gosec // -1 is NULL
		b = b[4:]
		if size < 0 {
			out = append(out, nil)
			continue
		}
		out = append(out, append([]byte{}, b[:size]...))
		b = b[size:]
	}
	return out
}

// take fills a row in and tells whether it leads to its leaf.
func (m *proofMaker) take(ctx context.Context, p *EventProof, row provenRow, commit []byte, want rowLeaf) (bool, error) {
	p.Core, p.Personal, p.Commit = row.core, row.personal, nil
	switch {
	case len(commit) == audit.HashSize:
		p.Commit = (*[audit.HashSize]byte)(commit)
	case len(row.salt) != audit.SaltSize:
		salt, err := readStoredSalt(ctx, m.tx, want.seq, want.at)
		if err != nil {
			return false, err
		}
		row.salt = salt
	}
	if len(row.salt) == audit.SaltSize {
		p.Salt = [audit.SaltSize]byte(row.salt)
	}
	leaf, err := p.leaf()
	if err != nil || leaf != want.leaf {
		return false, err
	}
	if m.o.HidePersonal && p.Commit == nil {
		c := audit.NewHasher(p.format.Leaf).CommitOf(joinFields(p.Personal), p.Salt[:])
		p.Commit = &c
	}
	if p.Commit != nil {
		p.Personal, p.Salt = nil, [audit.SaltSize]byte{}
	}
	return true, nil
}

func joinFields(fields [][]byte) []byte {
	var b []byte
	for _, f := range fields {
		b = audit.AppendField(b, f)
	}
	return b
}

// absent says why a row is gone that was logged.
func (m *proofMaker) absent(ctx context.Context, p *EventProof, t *Table, seq int64) error {
	expiries, err := readExpiries(ctx, m.tx, seq)
	if err != nil {
		return err
	}
	for _, x := range expiries {
		r, err := Parse([]byte(x.record))
		b, ok := r.Body.(*Expire)
		if err != nil || !ok || b.Leaf != seq || sha256.Sum256(x.ids) != b.Set.IDs {
			continue
		}
		if ids, err := audit.DecodeIDSet(b.Set.MinID, x.ids); err == nil && ids.Contains(m.o.ID) {
			return fault.New(fault.Data, "an archive may have it", "row %d is gone for good, expired or pruned: record %d of %s lists it", m.o.ID, r.Seq, formatTime(r.Time))
		}
	}
	last, err := readLastAbout(ctx, m.tx, t.ID, p.place.Range)
	if err != nil {
		return err
	}
	r, err := Parse([]byte(last))
	if b, ok := r.Body.(*Prune); ok && err == nil && b.Rows > 0 {
		return fault.New(fault.Data, "an archive may have it", "row %d went with partition %s, which was pruned at %s (record %d)", m.o.ID, b.Partition.Name, formatTime(r.Time), r.Seq)
	}
	return fault.New(fault.Integrity, verifyHint, "row_missing: row %d of %s.%s was logged and is gone", m.o.ID, t.Schema, t.Name)
}
