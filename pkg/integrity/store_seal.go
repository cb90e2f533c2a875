package integrity

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/audit"
)

// loggedFormat reads the columns that the log has for a table; ok is false before the first record about it.
func (l *Log) loggedFormat(ctx context.Context, q Querier, table int16) (f audit.Format, ok bool, err error) {
	r, ok, err := l.newest(ctx, q, `
SELECT l.record, l.key_id, l.mac FROM auditdb.log l JOIN auditdb.log_partition p USING (seq)
WHERE p.table_id = $1 AND p.part_from = '-infinity' AND p.part_to = 'infinity' AND starts_with(l.record, 'auditdb/1 format') ORDER BY seq LIMIT 1`, table)
	if err != nil || !ok {
		return f, false, err
	}
	b, isFormat := r.Body.(*Format)
	if !isFormat || b.Table != table {
		return f, false, brokenLog("a format record is about another table")
	}
	return b.Leaf, true, nil
}

// knowsPartition tells whether the newest record about a partition itself says that it is attached, or going to be detached.
func (l *Log) knowsPartition(ctx context.Context, q Querier, table int16, rng Range) (bool, error) {
	from, to := rng.timestamps()
	r, ok, err := l.newest(ctx, q, `
SELECT l.record, l.key_id, l.mac FROM auditdb.log l JOIN auditdb.log_partition p USING (seq)
WHERE p.table_id = $1 AND p.part_from = $2 AND p.part_to = $3
  AND (starts_with(l.record, 'auditdb/1 partition') OR starts_with(l.record, 'auditdb/1 detach') OR starts_with(l.record, 'auditdb/1 prune')
       OR starts_with(l.record, 'auditdb/1 restore'))
ORDER BY seq DESC LIMIT 1`, table, from, to)
	if err != nil || !ok {
		return false, err
	}
	_, pruned := r.Body.(*Prune)
	return !pruned, nil
}

// newest reads one authenticated record.
func (l *Log) newest(ctx context.Context, q Querier, sql string, args ...any) (Record, bool, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return Record{}, false, fmt.Errorf("read the integrity log: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (storedRecord, error) {
		var s storedRecord
		err := row.Scan(&s.text, &s.keyID, &s.mac)
		return s, err
	})
	if err != nil {
		return Record{}, false, fmt.Errorf("read the integrity log: %w", err)
	}
	if len(list) == 0 {
		return Record{}, false, nil
	}
	if l.keys != nil {
		k := l.keys.find(list[0].keyID)
		if k == nil {
			return Record{}, false, wrongKey(list[0].keyID, l.keys.id)
		}
		if !k.CheckMAC([]byte(list[0].text), list[0].mac) {
			return Record{}, false, brokenLog("a record's MAC does not fit")
		}
	}
	r, err := Parse([]byte(list[0].text))
	return r, err == nil, err
}

func wrongKey(logs, ours string) error {
	return fault.New(fault.Config, "set integrity.key_file to the key that the log was begun with",
		"wrong_key: the integrity log was written with key %s, the configured key is %s", logs, ours)
}

// readSealedIDs reads the ids of other writers' rows that are in leaf sets of a range, or of one that overlaps it.
func readSealedIDs(ctx context.Context, q Querier, table int16, rng Range) (idRuns, error) {
	from, to := rng.timestamps()
	rows, err := q.Query(ctx, "SELECT min_id, ids FROM auditdb.leaf WHERE table_id = $1 AND part_from < $3 AND part_to > $2 AND min_id < $4", table, from, to, FirstBlockID)
	if err != nil {
		return nil, fmt.Errorf("read sealed ids: %w", err)
	}
	var runs idRuns
	var first int64
	var enc []byte
	_, err = pgx.ForEachRow(rows, []any{&first, &enc}, func() error {
		set, err := audit.DecodeIDSet(first, enc)
		if err != nil {
			return fault.New(fault.Integrity, "auditdb verify-integrity", "the leaf store is damaged: %w", err)
		}
		next := int64(-1)
		for _, id := range set.All() {
			if id != next {
				runs.add(id, id+1)
			} else {
				runs[len(runs)-1].after++
			}
			next = id + 1
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read sealed ids: %w", err)
	}
	runs.normalise()
	return runs, nil
}

// readOverlapping reads the leaf sets, with their ids and without their leaves, of ranges that overlap one and are not that one.
func readOverlapping(ctx context.Context, q Querier, table int16, rng Range) ([]storedLeaves, error) {
	if rng.Default {
		return nil, nil
	}
	from, to := rng.timestamps()
	rows, err := q.Query(ctx, `
SELECT seq FROM auditdb.leaf WHERE table_id = $1 AND part_from < $3 AND part_to > $2 AND (part_from, part_to) <> ($2, $3)
  AND (part_from, part_to) <> ('-infinity', 'infinity') ORDER BY seq`, table, from, to)
	if err != nil {
		return nil, fmt.Errorf("look for leaf sets: %w", err)
	}
	seqs, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil || len(seqs) == 0 {
		return nil, err
	}
	return readSets(ctx, q, seqs, "f.ids, NULL::bytea, NULL::bytea")
}

// readWriters lists the transactions that hold the lock of writers on a table or one of its partitions.
func readWriters(ctx context.Context, q Querier, table uint32) ([]string, error) {
	rows, err := q.Query(ctx, `
SELECT DISTINCT l.virtualtransaction FROM pg_locks l
WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
  AND (l.relation = $1 OR l.relation IN (SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = $1))`, table)
	if err != nil {
		return nil, fmt.Errorf("look for writers: %w", err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for writers: %w", err)
	}
	return out, nil
}

func countRows(ctx context.Context, q Querier, r relation) (n int64, err error) {
	if err := q.QueryRow(ctx, "SELECT count(*) FROM ONLY "+r.sanitized()).Scan(&n); err != nil {
		return 0, fmt.Errorf("count the rows of the default partition: %w", err)
	}
	return n, nil
}

// copyIDsSQL reads the ids of other writers' rows, in any order.
func copyIDsSQL(r relation) string {
	id := pgx.Identifier{idColumn}.Sanitize()
	return fmt.Sprintf("COPY (SELECT %s FROM ONLY %s WHERE %s < %d) TO STDOUT (FORMAT binary)", id, r.sanitized(), id, FirstBlockID)
}

// copyRangeSQL reads the rows with ids from lo to hi in the order of their ids.
func copyRangeSQL(r relation, f audit.Format, lo, hi int64) string {
	names := copyColumns(f)
	for i, n := range names {
		names[i] = pgx.Identifier{n}.Sanitize()
	}
	id := pgx.Identifier{idColumn}.Sanitize()
	return fmt.Sprintf("COPY (SELECT %s FROM ONLY %s WHERE %s BETWEEN %d AND %d ORDER BY %s) TO STDOUT (FORMAT binary)",
		strings.Join(names, ", "), r.sanitized(), id, lo, hi, id)
}

// ManagedTable is a row of auditdb.managed_table.
type ManagedTable struct {
	Table     Table // its OID is 0 when there is no such relation
	Integrity bool  // on or off
}

// ManagedTables lists all managed tables.
func ManagedTables(ctx context.Context, q Querier) ([]ManagedTable, error) {
	rows, err := q.Query(ctx, `
SELECT m.table_id, m.schema_name, m.table_name, m.integrity = 'on',
       coalesce((SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = m.schema_name AND c.relname = m.table_name), 0)
FROM auditdb.managed_table m ORDER BY m.table_id`)
	if err != nil {
		return nil, fmt.Errorf("list managed tables: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (ManagedTable, error) {
		var m ManagedTable
		err := row.Scan(&m.Table.ID, &m.Table.Schema, &m.Table.Name, &m.Integrity, &m.Table.OID)
		return m, err
	})
	if err != nil {
		return nil, fmt.Errorf("list managed tables: %w", err)
	}
	return out, nil
}

// MatchTable finds the managed table of a name as a user typed it: [schema.]name, quoted as in SQL. Without a schema the user's search
// path decides where several tables have the name.
func MatchTable(ctx context.Context, db *postgres.DB, all []ManagedTable, name string) (ManagedTable, error) {
	var parts, path []string
	err := db.Tx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT set_config('search_path', $1, true)", db.UserSearchPath()); err != nil {
			return err
		}
		return tx.QueryRow(ctx, "SELECT pg_catalog.parse_ident($1), pg_catalog.current_schemas(false)", name).Scan(&parts, &path)
	})
	if postgres.SQLState(err) == "22023" || err == nil && (len(parts) < 1 || len(parts) > 2) {
		return ManagedTable{}, fault.New(fault.Usage, "write [schema.]table, with double quotes where SQL needs them", "%q is not a table name", name)
	}
	if err != nil {
		return ManagedTable{}, fmt.Errorf("look up table %s: %w", name, err)
	}
	if len(parts) == 2 {
		path, parts = parts[:1], parts[1:]
	}
	for _, schema := range path {
		for _, m := range all {
			if m.Table.Schema == schema && m.Table.Name == parts[0] {
				return m, nil
			}
		}
	}
	return ManagedTable{}, fault.New(fault.Usage, "auditdb partition list shows the managed tables", "table %s is not managed", name)
}
