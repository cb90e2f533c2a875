package integrity

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"auditdb/pkg/audit"
)

// readSetsOfIDs reads the leaf sets that may have ids from lo to hi, without the leaves.
func readSetsOfIDs(ctx context.Context, q Querier, table int16, lo, hi int64) ([]storedLeaves, error) {
	rows, err := q.Query(ctx, "SELECT seq FROM auditdb.leaf WHERE table_id = $1 AND min_id <= $3 AND max_id >= $2 ORDER BY seq", table, lo, hi)
	if err != nil {
		return nil, fmt.Errorf("look for leaf sets: %w", err)
	}
	seqs, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("look for leaf sets: %w", err)
	}
	return readSets(ctx, q, seqs, "f.ids, NULL::bytea, f.salts")
}

// copyIDsOfSQL reads the rows with ids through their table, in the order of ids.
func copyIDsOfSQL(r relation, f audit.Format, ids []int64) string {
	names := copyColumns(f)
	for i, n := range names {
		names[i] = pgx.Identifier{n}.Sanitize()
	}
	id := pgx.Identifier{idColumn}.Sanitize()
	return fmt.Sprintf("COPY (SELECT %s FROM %s WHERE %s IN (%s) ORDER BY %s) TO STDOUT (FORMAT binary)",
		strings.Join(names, ", "), r.sanitized(), id, strings.Trim(strings.ReplaceAll(fmt.Sprint(ids), " ", ","), "[]"), id)
}

// erase sets the personal columns and the salts of rows to NULL.
func erase(ctx context.Context, tx pgx.Tx, r relation, f audit.Format, list []Redaction) error {
	ids := make([]int64, len(list))
	for i, x := range list {
		ids[i] = x.ID
	}
	var set []string
	for _, c := range f.Personal {
		set = append(set, pgx.Identifier{c.Name}.Sanitize()+" = NULL")
	}
	if f.Salt != "" {
		set = append(set, pgx.Identifier{f.Salt}.Sanitize()+" = NULL")
	}
	if _, err := tx.Exec(ctx, "SET LOCAL auditdb.purpose = 'erase'"); err != nil {
		return fmt.Errorf("erase rows: %w", err)
	}
	tag, err := tx.Exec(ctx, fmt.Sprintf("UPDATE %s SET %s WHERE %s = ANY ($1)", r.sanitized(), strings.Join(set, ", "), pgx.Identifier{idColumn}.Sanitize()), ids)
	if err == nil && tag.RowsAffected() != int64(len(ids)) {
		err = fmt.Errorf("%d rows were changed instead of %d", tag.RowsAffected(), len(ids))
	}
	if err != nil {
		return fmt.Errorf("erase rows: %w", err)
	}
	return nil
}

// readRedactions reads the lists of a table's erased rows, one redact record after the other.
func readRedactions(ctx context.Context, q Querier, table int16, fn func(seq int64, list []Redaction)) error {
	rows, err := q.Query(ctx, "SELECT seq, id, pers_commit FROM auditdb.redaction WHERE table_id = $1 ORDER BY seq, id", table)
	if err != nil {
		return fmt.Errorf("read the lists of erased rows: %w", err)
	}
	var seq, id int64
	var commit []byte
	at, list := int64(-1), []Redaction{}
	flush := func() {
		if len(list) > 0 {
			fn(at, list)
		}
		list = list[:0]
	}
	_, err = pgx.ForEachRow(rows, []any{&seq, &id, &commit}, func() error {
		if seq != at {
			flush()
			at = seq
		}
		list = append(list, redactionOf(id, commit))
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the lists of erased rows: %w", err)
	}
	flush()
	return nil
}

func redactionOf(id int64, commit []byte) Redaction {
	r := Redaction{ID: id}
	copy(r.Commit[:], commit)
	return r
}

// readRedactionList reads the list of one record.
func readRedactionList(ctx context.Context, q Querier, table int16, seq int64) ([]Redaction, error) {
	rows, err := q.Query(ctx, "SELECT id, pers_commit FROM auditdb.redaction WHERE table_id = $1 AND seq = $2 ORDER BY id", table, seq)
	if err != nil {
		return nil, fmt.Errorf("read a list of erased rows: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Redaction, error) {
		var id int64
		var commit []byte
		err := row.Scan(&id, &commit)
		return redactionOf(id, commit), err
	})
	if err != nil {
		return nil, fmt.Errorf("read a list of erased rows: %w", err)
	}
	return list, nil
}

// readRedactionsOf reads the erased rows among ids from lo to hi, by records before size.
func readRedactionsOf(ctx context.Context, q Querier, table int16, lo, hi, size int64) ([]storedRedaction, error) {
	rows, err := q.Query(ctx, "SELECT seq, id, pers_commit FROM auditdb.redaction WHERE table_id = $1 AND id BETWEEN $2 AND $3 AND seq < $4", table, lo, hi, size)
	if err != nil {
		return nil, fmt.Errorf("read erased rows: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (storedRedaction, error) {
		r := storedRedaction{table: table}
		var commit []byte
		err := row.Scan(&r.seq, &r.ID, &commit)
		copy(r.Commit[:], commit)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("read erased rows: %w", err)
	}
	return list, nil
}

// erasedSince tells whether rows of a table were erased by records from size on.
func erasedSince(ctx context.Context, q Querier, table int16, size int64) (yes bool, err error) {
	if err = q.QueryRow(ctx, "SELECT EXISTS (SELECT FROM auditdb.redaction WHERE table_id = $1 AND seq >= $2)", table, size).Scan(&yes); err != nil {
		return false, fmt.Errorf("look for erasures: %w", err)
	}
	return yes, nil
}
