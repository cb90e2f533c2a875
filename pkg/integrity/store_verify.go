package integrity

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"golang.org/x/mod/sumdb/tlog"

	"auditdb/pkg/audit"
)

// storedRecord is a row of auditdb.log.
type storedRecord struct {
	text  string
	keyID string
	mac   []byte
}

// storedCheckpoint is a row of auditdb.checkpoint.
type storedCheckpoint struct {
	size int64
	root tlog.Hash
	note string
}

// logSize says how far the log's tables reach.
type logSize struct {
	records    int64 // largest sequence number + 1
	hashes     int64 // largest hash index + 1
	checkpoint int64 // largest checkpoint's size
	note       string
}

// origin returns the name in the newest checkpoint.
func (s logSize) origin() string {
	cp, _, err := ParseCheckpoint(s.note)
	if err != nil {
		return ""
	}
	return cp.Origin
}

func readLogSize(ctx context.Context, q Querier) (logSize, error) {
	var s logSize
	err := q.QueryRow(ctx, `
SELECT coalesce((SELECT max(seq) FROM auditdb.log), -1) + 1, coalesce((SELECT max(idx) FROM auditdb.log_hash), -1) + 1,
       coalesce((SELECT max(size) FROM auditdb.checkpoint), 0), coalesce((SELECT note FROM auditdb.checkpoint ORDER BY size DESC LIMIT 1), '')`).
		Scan(&s.records, &s.hashes, &s.checkpoint, &s.note)
	if err != nil {
		return s, fmt.Errorf("read the end of the integrity log: %w", err)
	}
	return s, nil
}

// readRecords reads the records from ≤ seq < to.
func readRecords(ctx context.Context, q Querier, from, to int64) (map[int64]*storedRecord, error) {
	rows, err := q.Query(ctx, "SELECT seq, record, key_id, mac FROM auditdb.log WHERE seq >= $1 AND seq < $2", from, to)
	if err != nil {
		return nil, fmt.Errorf("read the integrity log: %w", err)
	}
	out := make(map[int64]*storedRecord, min(to-from, logChunk))
	var seq int64
	var text, keyID string
	var mac []byte
	_, err = pgx.ForEachRow(rows, []any{&seq, &text, &keyID, &mac}, func() error {
		out[seq] = &storedRecord{text: text, keyID: keyID, mac: mac}
		mac = nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the integrity log: %w", err)
	}
	return out, nil
}

// readHashes reads the tree hashes from ≤ idx < to.
func readHashes(ctx context.Context, q Querier, from, to int64) (map[int64]tlog.Hash, error) {
	rows, err := q.Query(ctx, "SELECT idx, hash FROM auditdb.log_hash WHERE idx >= $1 AND idx < $2", from, to)
	if err != nil {
		return nil, fmt.Errorf("read the log's tree hashes: %w", err)
	}
	out := make(map[int64]tlog.Hash, min(to-from, 2*logChunk))
	var idx int64
	var hash []byte
	_, err = pgx.ForEachRow(rows, []any{&idx, &hash}, func() error {
		if len(hash) == tlog.HashSize {
			out[idx] = tlog.Hash(hash)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the log's tree hashes: %w", err)
	}
	return out, nil
}

// readCheckpoints reads the checkpoints after size from up to size to.
func readCheckpoints(ctx context.Context, q Querier, from, to int64) (map[int64]storedCheckpoint, error) {
	rows, err := q.Query(ctx, "SELECT size, root, note FROM auditdb.checkpoint WHERE size > $1 AND size <= $2", from, to)
	if err != nil {
		return nil, fmt.Errorf("read checkpoints: %w", err)
	}
	out := map[int64]storedCheckpoint{}
	var cp storedCheckpoint
	var root []byte
	_, err = pgx.ForEachRow(rows, []any{&cp.size, &root, &cp.note}, func() error {
		cp.root = tlog.Hash{}
		if len(root) == tlog.HashSize {
			cp.root = tlog.Hash(root)
		}
		out[cp.size] = cp
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read checkpoints: %w", err)
	}
	return out, nil
}

// readLeafPlace reads to which table and range a leaf set belongs by the leaf store.
func readLeafPlace(ctx context.Context, q Querier, seq int64) (table int16, r Range, ok bool, err error) {
	var from, to pgtype.Timestamptz
	err = q.QueryRow(ctx, "SELECT table_id, part_from, part_to FROM auditdb.leaf WHERE seq = $1", seq).Scan(&table, &from, &to)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, r, false, nil
	}
	if err != nil {
		return 0, r, false, fmt.Errorf("read leaf set %d: %w", seq, err)
	}
	r = Range{From: utc(from), To: utc(to), FromMin: from.InfinityModifier != pgtype.Finite, ToMax: to.InfinityModifier != pgtype.Finite}
	return table, r, true, nil
}

func utc(t pgtype.Timestamptz) time.Time {
	if t.InfinityModifier != pgtype.Finite {
		return time.Time{}
	}
	return t.Time.UTC()
}

// storedLeaves is a row of auditdb.leaf with the record that it belongs to; either may be missing.
type storedLeaves struct {
	seq          int64
	record       *storedRecord
	minID, maxID int64
	n            int64
	filed        filing
	ids          []byte
	leaves       []byte
	salts        []byte
}

// filing is under what a row of auditdb.leaf is found by proofs, seals and erasures.
type filing struct {
	table    int16
	from, to int64 // Unix microseconds
	block    int64 // -1: none
}

// readSetPlaces reads, in order, records and id bounds of leaf sets, without the leaves.
func readSetPlaces(ctx context.Context, q Querier, seqs []int64) ([]storedLeaves, error) {
	return readSets(ctx, q, seqs, "NULL::bytea, NULL::bytea, NULL::bytea")
}

// readLeaves reads, in order, leaf sets with their leaves.
func readLeaves(ctx context.Context, q Querier, seqs []int64) ([]storedLeaves, error) {
	return readSets(ctx, q, seqs, "f.ids, f.leaves, f.salts")
}

func readSets(ctx context.Context, q Querier, seqs []int64, columns string) ([]storedLeaves, error) {
	rows, err := q.Query(ctx, `
SELECT u.seq, l.record, l.key_id, l.mac, coalesce(f.min_id, -1), coalesce(f.max_id, -1), coalesce(f.n, 0),
  coalesce(f.table_id, -1), coalesce(f.part_from, '-infinity'), coalesce(f.part_to, 'infinity'), coalesce(f.block, -1), `+columns+`
FROM unnest($1::bigint[]) WITH ORDINALITY u(seq, at) LEFT JOIN auditdb.log l USING (seq) LEFT JOIN auditdb.leaf f USING (seq) ORDER BY u.at`, seqs)
	if err != nil {
		return nil, fmt.Errorf("read leaf sets: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (storedLeaves, error) {
		var s storedLeaves
		var text, keyID *string
		var mac []byte
		var from, to pgtype.Timestamptz
		if err := row.Scan(&s.seq, &text, &keyID, &mac, &s.minID, &s.maxID, &s.n, &s.filed.table, &from, &to, &s.filed.block, &s.ids, &s.leaves, &s.salts); err != nil {
			return s, err
		}
		s.filed.from, s.filed.to = microsOf(from), microsOf(to)
		if text != nil && keyID != nil {
			s.record = &storedRecord{text: *text, keyID: *keyID, mac: mac}
		}
		return s, nil
	})
	if err != nil {
		return nil, fmt.Errorf("read leaf sets: %w", err)
	}
	return out, nil
}

// storedExpired is a row of auditdb.expired with its record; either may be missing.
type storedExpired struct {
	seq    int64
	record *storedRecord
	ids    []byte
}

// readExpired reads what expire records list of a leaf set.
func readExpired(ctx context.Context, q Querier, leaf int64, seqs []int64) ([]storedExpired, error) {
	rows, err := q.Query(ctx, `
SELECT u.seq, coalesce(l.record, ''), coalesce(l.key_id, ''), l.mac, x.ids FROM unnest($2::bigint[]) u(seq)
LEFT JOIN auditdb.log l USING (seq) LEFT JOIN auditdb.expired x ON x.seq = u.seq AND x.leaf_seq = $1 ORDER BY u.seq`, leaf, seqs)
	if err != nil {
		return nil, fmt.Errorf("read expired ids: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (storedExpired, error) {
		x := storedExpired{record: &storedRecord{}}
		err := row.Scan(&x.seq, &x.record.text, &x.record.keyID, &x.record.mac, &x.ids)
		return x, err
	})
	if err != nil {
		return nil, fmt.Errorf("read expired ids: %w", err)
	}
	return out, nil
}

// managed is a row of auditdb.managed_table.
type managed struct {
	id           int16
	schema, name string
	integrity    bool
}

func readManaged(ctx context.Context, q Querier) ([]managed, error) {
	rows, err := q.Query(ctx, "SELECT table_id, schema_name, table_name, integrity = 'on' FROM auditdb.managed_table ORDER BY table_id")
	if err != nil {
		return nil, fmt.Errorf("list managed tables: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (managed, error) {
		var m managed
		err := row.Scan(&m.id, &m.schema, &m.name, &m.integrity)
		return m, err
	})
	if err != nil {
		return nil, fmt.Errorf("list managed tables: %w", err)
	}
	return out, nil
}

// findRelation reads a relation by name; ok is false when there is none.
func findRelation(ctx context.Context, q Querier, schema, name string) (relation, bool, error) {
	r, err := scanRelation(q.QueryRow(ctx, sqlRelation+" WHERE n.nspname = $1 AND c.relname = $2", schema, name))
	if errors.Is(err, pgx.ErrNoRows) {
		return r, false, nil
	}
	if err != nil {
		return r, false, fmt.Errorf("read the catalog of %s.%s: %w", schema, name, err)
	}
	return r, true, nil
}

// findDetached looks for the table that a partition became: by oid, else, where a dump was restored, by the name in its record, beside its former
// parent or wherever prune has brought it, which its comment says.
func findDetached(ctx context.Context, q Querier, oid int64, schema, table, name string) (relation, bool, error) {
	r, err := scanRelation(q.QueryRow(ctx, sqlRelation+`
WHERE c.relkind = 'r' AND (c.oid::bigint = $1 OR c.relname = $3 AND (n.nspname = $2 OR starts_with(obj_description(c.oid, 'pg_class'), $4)))
  AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid AND NOT i.inhdetachpending)
ORDER BY c.oid::bigint = $1 DESC, n.nspname = $2 DESC LIMIT 1`, oid, schema, name, "auditdb detached "+pgx.Identifier{schema, table}.Sanitize()+" "))
	if errors.Is(err, pgx.ErrNoRows) {
		return r, false, nil
	}
	if err != nil {
		return r, false, fmt.Errorf("look for the detached partition %s: %w", name, err)
	}
	return r, true, nil
}

// readChildren reads the relations of a table's attached partitions.
func readChildren(ctx context.Context, q Querier, table uint32) (map[uint32]relation, error) {
	rows, err := q.Query(ctx, sqlRelation+" JOIN pg_inherits i ON i.inhrelid = c.oid WHERE i.inhparent = $1", table)
	if err != nil {
		return nil, fmt.Errorf("read the catalog of partitions: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (relation, error) { return scanRelation(row) })
	if err != nil {
		return nil, fmt.Errorf("read the catalog of partitions: %w", err)
	}
	out := make(map[uint32]relation, len(list))
	for _, r := range list {
		out[r.oid] = r
	}
	return out, nil
}

// lockForReading takes the weakest table locks before the snapshot, so that no rewrite can empty a table between the two, and makes
// row security an error instead of a filter.
func lockForReading(ctx context.Context, tx pgx.Tx, rels []unitRelation, wait time.Duration, ordered bool) error {
	settings := "SET LOCAL row_security = off; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = " + strconv.FormatInt(max(wait.Milliseconds(), 1), 10)
	if ordered {
		settings += "; SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off"
	}
	if _, err := tx.Exec(ctx, settings); err != nil {
		return fmt.Errorf("prepare a snapshot: %w", err)
	}
	for _, r := range rels {
		if _, err := tx.Exec(ctx, "LOCK TABLE ONLY "+r.rel.sanitized()+" IN ACCESS SHARE MODE"); err != nil {
			return fmt.Errorf("read %s: %w", r.name, err)
		}
	}
	for _, r := range rels {
		var oid uint32
		if err := tx.QueryRow(ctx, "SELECT coalesce(to_regclass($1)::oid, 0)", r.rel.sanitized()).Scan(&oid); err != nil {
			return fmt.Errorf("read %s: %w", r.name, err)
		}
		if oid != r.rel.oid {
			return errStale
		}
	}
	return nil
}

func (r relation) sanitized() string { return pgx.Identifier{r.schema, r.name}.Sanitize() }

const (
	// All other plans than a scan of the table from its first page on are ruled out.
	scanOnlySQL   = `SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL max_parallel_workers_per_gather = 0`
	lieInOrderSQL = `SELECT NOT EXISTS (SELECT FROM (SELECT %[1]s < lag(%[1]s) OVER () AS back FROM ONLY %[2]s) s WHERE back)`
)

// lieInOrder says whether the rows of a table lie in the order of their ids, as those of one writer do: sorting them would write all of them to the
// server's disk once more. It stops at the first that does not.
func lieInOrder(ctx context.Context, tx pgx.Tx, r relation) (yes bool, err error) {
	point, err := tx.Begin(ctx)
	if err != nil {
		return false, fmt.Errorf("read the order of the rows of %s: %w", r.name, err)
	}
	defer rollback(ctx, point)
	if _, err := point.Exec(ctx, scanOnlySQL); err != nil {
		return false, fmt.Errorf("read the order of the rows of %s: %w", r.name, err)
	}
	err = point.QueryRow(ctx, fmt.Sprintf(lieInOrderSQL, pgx.Identifier{idColumn}.Sanitize(), r.sanitized())).Scan(&yes)
	if err != nil {
		return false, fmt.Errorf("read the order of the rows of %s: %w", r.name, err)
	}
	return yes, nil
}

// copySQL reads all rows of one table, also columns that no leaf covers where extra names them: in the order of the heap, or in the order of their ids.
func copySQL(r relation, f audit.Format, extra []audit.Column, ordered bool) string {
	names := copyColumns(f)
	for _, c := range extra {
		names = append(names, c.Name)
	}
	for i, n := range names {
		names[i] = pgx.Identifier{n}.Sanitize()
	}
	list := strings.Join(names, ", ")
	if ordered {
		return fmt.Sprintf("COPY (SELECT %s FROM ONLY %s ORDER BY %s) TO STDOUT (FORMAT binary)", list, r.sanitized(), pgx.Identifier{idColumn}.Sanitize())
	}
	return fmt.Sprintf("COPY %s (%s) TO STDOUT (FORMAT binary)", r.sanitized(), list)
}
