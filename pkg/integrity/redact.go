package integrity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/pkg/audit"
)

const (
	tokenBytes     = 16
	redactionEntry = 0x03 // the first byte of what a list's entry is hashed over
)

// Redaction is a row whose personal columns were erased, with the commitment to what they were.
type Redaction struct {
	ID     int64
	Commit [audit.HashSize]byte
}

// redactionLeaf hashes an entry of a list of erased rows.
func redactionLeaf(r Redaction) [audit.HashSize]byte {
	b := binary.BigEndian.AppendUint64([]byte{redactionEntry, audit.FormatVersion}, uint64(r.ID)) //nolint:gosec // two's complement
	return sha256.Sum256(append(b, r.Commit[:]...))
}

// redactionRoot is the root over a list in the order of ids.
func redactionRoot(list []Redaction) [audit.HashSize]byte {
	var tree audit.Tree
	for _, r := range list {
		tree.Add(redactionLeaf(r))
	}
	return tree.Root()
}

// Redact erases the personal columns and salts of sealed rows, at most MaxRedacted, and appends the record that explains it; the log's
// lock is taken last, so nothing may follow in the transaction. Ids without a row are left out; rows that are in no leaf set, or were
// erased before, are refused. The caller answers for holds, archives and caches.
func (l *Log) Redact(ctx context.Context, tx pgx.Tx, at time.Time, t *Table, ids []int64) (Appended, error) {
	if len(ids) == 0 || len(ids) > MaxRedacted {
		return Appended{}, fault.New(fault.Internal, "", "erase %d rows at once", len(ids))
	}
	rel, err := readRelation(ctx, tx, t.OID)
	if err != nil {
		return Appended{}, err
	}
	format, ok, err := l.loggedFormat(ctx, tx, t.ID)
	if err != nil || !ok {
		return Appended{}, errorOr(err, fault.New(fault.Refused, "auditdb integrity seal", "erase rows of %s: nothing of it is in the log", rel.name))
	}
	sets, err := l.setsAround(ctx, tx, t.ID, ids)
	if err != nil {
		return Appended{}, err
	}
	list, err := sets.commitments(ctx, tx, rel, format, ids)
	if err != nil || len(list) == 0 {
		return Appended{}, err
	}
	if err := erase(ctx, tx, rel, format, list); err != nil {
		return Appended{}, err
	}
	if err := sets.clearSalts(ctx, tx); err != nil {
		return Appended{}, err
	}
	token := make([]byte, tokenBytes)
	if _, err := rand.Read(token); err != nil {
		return Appended{}, fmt.Errorf("read random bytes: %w", err)
	}
	body := &Redact{Table: t.ID, Token: hex.EncodeToString(token), Rows: int64(len(list)), Root: redactionRoot(list)}
	return l.Append(ctx, tx, at, []Entry{{Table: t, Body: body, redacted: list}}, nil)
}

func errorOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// saltedSets are the leaf sets that may have rows which are going to be erased.
type saltedSets struct {
	expirable
	salts map[int64][]byte // by record, where the leaf store has any
	dirty map[int64]bool   // salts that were cleared
}

// setsAround reads the leaf sets around ids, with the salts.
func (l *Log) setsAround(ctx context.Context, q Querier, table int16, ids []int64) (saltedSets, error) {
	places, err := readSetsOfIDs(ctx, q, table, slices.Min(ids), slices.Max(ids))
	if err != nil {
		return saltedSets{}, err
	}
	s := saltedSets{salts: map[int64][]byte{}, dirty: map[int64]bool{}}
	if s.expirable, err = l.expirable(places); err != nil {
		return s, err
	}
	for _, p := range places {
		if int64(len(p.salts)) == p.n*audit.SaltSize {
			s.salts[p.seq] = p.salts
		}
	}
	return s, nil
}

// commitments reads rows and computes what stands for their personal columns.
func (s *saltedSets) commitments(ctx context.Context, tx pgx.Tx, rel relation, f audit.Format, ids []int64) ([]Redaction, error) {
	lay, err := newLayout(f, rel.keyColumn)
	if err != nil {
		return nil, err
	}
	hash, nulls := audit.NewHasher(f), 4*len(f.Personal)
	var list []Redaction
	r := tupleReader{layout: lay, fn: func(row *copyRow) error {
		set, at := s.find(row.id)
		if set == nil {
			return fault.New(fault.Refused, "auditdb integrity seal", "row %d is in no leaf set yet", row.id)
		}
		salt := row.salt
		if salt == nil && s.salts[set.seq] != nil {
			salt = slices.Clone(s.salts[set.seq][at*audit.SaltSize : (at+1)*audit.SaltSize])
			clear(s.salts[set.seq][at*audit.SaltSize : (at+1)*audit.SaltSize])
			s.dirty[set.seq] = true
		}
		if salt == nil || len(row.personal) == nulls && allZero(salt) {
			return fault.New(fault.Refused, "", "row %d was erased before", row.id)
		}
		list = append(list, Redaction{ID: row.id, Commit: hash.CommitOf(row.personal, salt)})
		return nil
	}}
	if err := copyTo(ctx, tx.Conn().PgConn(), copyIDsOfSQL(rel, f, ids), r.feed); err != nil {
		return nil, fmt.Errorf("read the rows to be erased: %w", err)
	}
	return list, r.close()
}

func allZero(b []byte) bool { return !slices.ContainsFunc(b, func(x byte) bool { return x != 0 }) }

// clearSalts takes the salts of erased rows out of the leaf store.
func (s *saltedSets) clearSalts(ctx context.Context, tx pgx.Tx) error {
	for seq := range s.dirty {
		if _, err := tx.Exec(ctx, "UPDATE auditdb.leaf SET salts = $2 WHERE seq = $1", seq, s.salts[seq]); err != nil {
			return fmt.Errorf("erase salts: %w", err)
		}
	}
	return nil
}

// redactions compares the lists of a table's erased rows with their records.
func (v *verifier) redactions(ctx context.Context, tx pgx.Tx, m managed, found *collector) error {
	var logged map[int64]*Redact
	if state := v.walk.state.tables[m.id]; state != nil {
		logged = state.redacted
	}
	name := tableName(m.schema, m.name)
	seen := map[int64]bool{}
	err := readRedactions(ctx, tx, m.id, func(seq int64, list []Redaction) {
		seen[seq] = true
		if rec := logged[seq]; rec == nil {
			found.add(newFinding(RedactionUnlogged, "%d rows are listed as erased by record %d, which does not say so", len(list), seq).on(name).of(seq).times(int64(len(list))))
		} else if !v.judgeList(seq, rec, list) {
			found.add(newFinding(RedactionMismatch, "the list of the %d rows erased by record %d is not the one that was logged", rec.Rows, seq).on(name).of(seq))
		}
	})
	for seq, rec := range logged {
		if !seen[seq] && err == nil {
			v.judgeList(seq, rec, nil)
			found.add(newFinding(RedactionMismatch, "the list of the %d rows erased by record %d is gone", rec.Rows, seq).on(name).of(seq))
		}
	}
	return err
}

// judgeList keeps, and tells, whether a list is its record's.
func (v *verifier) judgeList(seq int64, rec *Redact, list []Redaction) bool {
	ok := int64(len(list)) == rec.Rows && redactionRoot(list) == rec.Root
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lists[seq] = ok
	return ok
}

// erased gives a set the commitments of its erased rows, as a log of that size has them. Lists that are not their record's do not count.
func (w *worker) erased(ctx context.Context, table int16, size int64, s *leafSet) error {
	list, err := readRedactionsOf(ctx, w.aux, table, s.rec.MinID, s.rec.MaxID, size)
	if err != nil {
		return err
	}
	for _, r := range list {
		at, ok := s.ids.Index(r.ID)
		if !ok {
			continue
		}
		good, err := w.listed(ctx, table, r.seq)
		if err != nil {
			return err
		}
		if good {
			if s.erased == nil {
				s.erased = map[int][audit.HashSize]byte{}
			}
			s.erased[at] = r.Commit
		}
	}
	return nil
}

// listed tells whether the list of a redact record is the record's.
func (w *worker) listed(ctx context.Context, table int16, seq int64) (bool, error) {
	w.v.mu.Lock()
	ok, known := w.v.lists[seq]
	var rec *Redact
	if state := w.v.walk.state.tables[table]; state != nil {
		rec = state.redacted[seq]
	}
	w.v.mu.Unlock()
	if known || rec == nil {
		return ok, nil
	}
	list, err := readRedactionList(ctx, w.aux, table, seq)
	if err != nil {
		return false, err
	}
	return w.v.judgeList(seq, rec, list), nil
}
