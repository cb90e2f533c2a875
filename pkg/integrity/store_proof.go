package integrity

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"auditdb/internal/fault"
	"auditdb/pkg/audit"
)

// prepareProof makes row security an error instead of a filter and bounds the wait for table locks. Partitions that were loaded and not
// analyzed since look as if half of them had to be read for one row: an index is preferred wherever there is one.
func prepareProof(ctx context.Context, tx pgx.Tx, wait time.Duration) error {
	_, err := tx.Exec(ctx, "SELECT set_config('row_security', 'off', true), set_config('enable_seqscan', 'off', true), set_config('lock_timeout', $1, true)",
		strconv.FormatInt(max(wait.Milliseconds(), 1), 10))
	if err != nil {
		return fmt.Errorf("prepare a snapshot: %w", err)
	}
	return nil
}

// readNewestNote reads the signed checkpoint of the largest size; "" when the log is empty.
func readNewestNote(ctx context.Context, tx pgx.Tx) (string, error) {
	s, err := readLogSize(ctx, tx)
	return s.note, err
}

// treeReader reads hashes of the log's tree.
func treeReader(ctx context.Context, tx pgx.Tx) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		rows, err := tx.Query(ctx, "SELECT coalesce(h.hash, '') FROM unnest($1::bigint[]) WITH ORDINALITY u(idx, at) LEFT JOIN auditdb.log_hash h USING (idx) ORDER BY u.at", indexes)
		if err != nil {
			return nil, fmt.Errorf("read the log's tree hashes: %w", err)
		}
		out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (h tlog.Hash, err error) {
			var b []byte
			if err := row.Scan(&b); err != nil {
				return h, err
			}
			if len(b) != tlog.HashSize {
				return h, fault.New(fault.Integrity, verifyHint, "the integrity log is damaged: tree hashes are missing")
			}
			return tlog.Hash(b), nil
		})
		if err != nil {
			return nil, fmt.Errorf("read the log's tree hashes: %w", err)
		}
		return out, nil
	})
}

// readSetsWith finds the leaf sets of a table that hold an id.
func readSetsWith(ctx context.Context, tx pgx.Tx, table int16, id int64) ([]int64, error) {
	where, args := "f.block IS NULL", []any{table, id}
	if id >= FirstBlockID {
		where, args = "f.block = $3", append(args, id>>blockBits)
	}
	rows, err := tx.Query(ctx, "SELECT f.seq, f.min_id, f.ids FROM auditdb.leaf f WHERE f.table_id = $1 AND "+where+" AND f.min_id <= $2 AND f.max_id >= $2 ORDER BY f.seq", args...)
	if err != nil {
		return nil, fmt.Errorf("look for the leaf set of row %d: %w", id, err)
	}
	var out []int64
	var seq, first int64
	var enc []byte
	_, err = pgx.ForEachRow(rows, []any{&seq, &first, &enc}, func() error {
		if set, err := audit.DecodeIDSet(first, enc); err != nil || set.Contains(id) {
			out = append(out, seq)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for the leaf set of row %d: %w", id, err)
	}
	return out, nil
}

// readSet reads a leaf set with its record, but not its salts, which not everybody may read.
func readSet(ctx context.Context, tx pgx.Tx, seq int64) (st storedLeaves, err error) {
	st.seq, st.record = seq, &storedRecord{}
	err = tx.QueryRow(ctx, "SELECT l.record, f.min_id, f.ids, f.leaves FROM auditdb.leaf f JOIN auditdb.log l USING (seq) WHERE f.seq = $1", seq).
		Scan(&st.record.text, &st.minID, &st.ids, &st.leaves)
	if errors.Is(err, pgx.ErrNoRows) {
		return st, fault.New(fault.Integrity, verifyHint, "log_gap: record %d of the log is missing", seq)
	}
	if err != nil {
		return st, fmt.Errorf("read leaf set %d: %w", seq, err)
	}
	return st, nil
}

// readStoredSalt reads the salt of a row that has none of its own; nil when the set has none.
func readStoredSalt(ctx context.Context, tx pgx.Tx, seq int64, at int) (salt []byte, err error) {
	err = tx.QueryRow(ctx, "SELECT substring(salts FROM $2 FOR $3) FROM auditdb.leaf WHERE seq = $1", seq, at*audit.SaltSize+1, audit.SaltSize).Scan(&salt)
	if err != nil {
		return nil, fmt.Errorf("read a stored salt: %w", err)
	}
	return salt, nil
}

// readCommitment reads the commitment to an erased row's personal fields; nil when it was not erased.
func readCommitment(ctx context.Context, tx pgx.Tx, table int16, id int64) (commit []byte, err error) {
	err = tx.QueryRow(ctx, "SELECT pers_commit FROM auditdb.redaction WHERE table_id = $1 AND id = $2", table, id).Scan(&commit)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for the erasure of row %d: %w", id, err)
	}
	return commit, nil
}

// readFormatRecord reads the first record about a table, which says what its leaves cover.
func readFormatRecord(ctx context.Context, tx pgx.Tx, table int16) (text string, err error) {
	err = tx.QueryRow(ctx, `
SELECT l.record FROM auditdb.log l JOIN auditdb.log_partition p USING (seq)
WHERE p.table_id = $1 AND p.part_from = '-infinity' AND p.part_to = 'infinity' AND starts_with(l.record, 'auditdb/1 format') ORDER BY p.seq LIMIT 1`, table).Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", fault.New(fault.Integrity, verifyHint, "log_gap: the integrity log does not say which columns it covers")
	}
	if err != nil {
		return "", fmt.Errorf("read the integrity log: %w", err)
	}
	return text, nil
}

// readLastAbout reads the newest record about a partition itself; "" when there is none.
func readLastAbout(ctx context.Context, tx pgx.Tx, table int16, rng Range) (text string, err error) {
	from, to := rng.timestamps()
	err = tx.QueryRow(ctx, `
SELECT l.record FROM auditdb.log l JOIN auditdb.log_partition p USING (seq)
WHERE p.table_id = $1 AND p.part_from = $2 AND p.part_to = $3
  AND (starts_with(l.record, 'auditdb/1 partition') OR starts_with(l.record, 'auditdb/1 detach') OR starts_with(l.record, 'auditdb/1 prune'))
ORDER BY p.seq DESC LIMIT 1`, table, from, to).Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the integrity log: %w", err)
	}
	return text, nil
}

// maxDetachments is how many detached partitions are looked into for a row.
const maxDetachments = 50

// readDetachments reads the newest detach records of a table about ranges that overlap one.
func readDetachments(ctx context.Context, tx pgx.Tx, table int16, rng Range) ([]string, error) {
	from, to := rng.timestamps()
	rows, err := tx.Query(ctx, `
SELECT l.record FROM auditdb.log l JOIN auditdb.log_partition p USING (seq)
WHERE p.table_id = $1 AND p.part_from < $3 AND p.part_to > $2 AND starts_with(l.record, 'auditdb/1 detach') ORDER BY p.seq DESC LIMIT $4`, table, from, to, maxDetachments)
	if err != nil {
		return nil, fmt.Errorf("read the integrity log: %w", err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read the integrity log: %w", err)
	}
	return out, nil
}

// expiryText is a row of auditdb.expired with its record.
type expiryText struct {
	record string
	ids    []byte
}

func readExpiries(ctx context.Context, tx pgx.Tx, leafSeq int64) ([]expiryText, error) {
	rows, err := tx.Query(ctx, "SELECT l.record, x.ids FROM auditdb.expired x JOIN auditdb.log l USING (seq) WHERE x.leaf_seq = $1 ORDER BY x.seq", leafSeq)
	if err != nil {
		return nil, fmt.Errorf("read expired ids: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (x expiryText, err error) {
		err = row.Scan(&x.record, &x.ids)
		return x, err
	})
	if err != nil {
		return nil, fmt.Errorf("read expired ids: %w", err)
	}
	return out, nil
}

// rowExists tells whether a table has a row of an id.
func rowExists(ctx context.Context, tx pgx.Tx, r relation, id int64) (ok bool, err error) {
	err = tx.QueryRow(ctx, fmt.Sprintf("SELECT EXISTS (SELECT FROM %s WHERE %s = %d)", r.sanitized(), pgx.Identifier{idColumn}.Sanitize(), id)).Scan(&ok)
	if err != nil {
		return false, fmt.Errorf("look for row %d: %w", id, err)
	}
	return ok, nil
}

// copyRowSQL reads the rows of an id from a table with all of its partitions, or only from those within a range of times.
func copyRowSQL(r relation, f *Format, id int64, rng *Range) string {
	names := copyColumns(f.Leaf)
	for i, n := range names {
		names[i] = pgx.Identifier{n}.Sanitize()
	}
	where := fmt.Sprintf("%s = %d", pgx.Identifier{idColumn}.Sanitize(), id)
	if rng != nil {
		key := pgx.Identifier{f.KeyColumn}.Sanitize()
		if !rng.FromMin {
			where += fmt.Sprintf(" AND %s >= '%s'", key, rng.From.UTC().Format("2006-01-02 15:04:05.000000Z"))
		}
		if !rng.ToMax {
			where += fmt.Sprintf(" AND %s < '%s'", key, rng.To.UTC().Format("2006-01-02 15:04:05.000000Z"))
		}
	}
	return fmt.Sprintf("COPY (SELECT %s FROM %s WHERE %s) TO STDOUT (FORMAT binary)", strings.Join(names, ", "), r.sanitized(), where)
}
