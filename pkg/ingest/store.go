package ingest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/audit"
)

// querier is a pool, a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// tableSettings is what auditdb's own tables say about a table.
type tableSettings struct {
	integrity, blockIDs bool
	encoding            string
}

// loadSettings reads a managed table's row; a database without auditdb's schema is a usage error.
func loadSettings(ctx context.Context, q querier, tableID int16) (tableSettings, error) {
	var t tableSettings
	err := q.QueryRow(ctx, `
SELECT integrity = 'on', block_ids, pg_catalog.current_setting('server_encoding')
FROM auditdb.managed_table WHERE table_id = $1`, tableID).Scan(&t.integrity, &t.blockIDs, &t.encoding)
	if errors.Is(err, pgx.ErrNoRows) {
		return t, fault.New(fault.Usage, "", "the table is no longer managed")
	}
	if err != nil {
		return t, fmt.Errorf("read the table's settings: %w", err)
	}
	return t, nil
}

// SchemaExists tells whether the database has what ingest writes to.
func SchemaExists(ctx context.Context, q querier) (bool, error) {
	var ok bool
	err := q.QueryRow(ctx, `SELECT pg_catalog.to_regclass('auditdb.ingest_range') IS NOT NULL AND pg_catalog.to_regclass('auditdb.managed_table') IS NOT NULL`).Scan(&ok)
	if err != nil {
		return false, fmt.Errorf("look for auditdb's schema: %w", err)
	}
	return ok, nil
}

// checkColumns compares the table with the columns that ingest writes.
func checkColumns(ctx context.Context, q querier, table uint32) error {
	rows, err := q.Query(ctx, `
SELECT a.attname, t.typname FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped`, table)
	if err != nil {
		return fmt.Errorf("read the table's columns: %w", err)
	}
	types := map[string]string{}
	var name, typ string
	if _, err := pgx.ForEachRow(rows, []any{&name, &typ}, func() error {
		types[name] = typ
		return nil
	}); err != nil {
		return fmt.Errorf("read the table's columns: %w", err)
	}
	for _, c := range audit.AuditLog().Columns() {
		switch got, ok := types[c.Name]; {
		case !ok:
			return fault.New(fault.Usage, "ingest writes tables with the columns of public.audit_log", "the table has no column %s", c.Name)
		case got != c.Type:
			return fault.New(fault.Usage, "ingest writes tables with the columns of public.audit_log", "column %s is of type %s, not %s", c.Name, got, c.Type)
		}
	}
	return nil
}

// loadDefaults evaluates the table's defaults of text columns: a binary COPY that lists its columns gives every one a value. (Neither
// defaults nor bounds have columns in them, so pg_get_expr needs no relation: with its oid it would lock it.)
func loadDefaults(ctx context.Context, q querier, table uint32) (defaults [columnCount][]byte, err error) {
	rows, err := q.Query(ctx, `
SELECT a.attname, pg_catalog.pg_get_expr(d.adbin, 0) FROM pg_catalog.pg_attrdef d
JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
WHERE d.adrelid = $1 AND a.attidentity = '' AND a.attgenerated = ''`, table)
	if err != nil {
		return defaults, fmt.Errorf("read the table's defaults: %w", err)
	}
	expressions := map[string]string{}
	var name, expr string
	if _, err := pgx.ForEachRow(rows, []any{&name, &expr}, func() error {
		expressions[name] = expr
		return nil
	}); err != nil {
		return defaults, fmt.Errorf("read the table's defaults: %w", err)
	}
	for c := range columnCount {
		expr, ok := expressions[c.name()]
		if !ok || !c.isText() {
			continue
		}
		var v *string
		if err := q.QueryRow(ctx, "SELECT ("+expr+")::text").Scan(&v); err != nil { // the catalog's own text of the expression
			return defaults, fmt.Errorf("evaluate the default of %s: %w", c.name(), err)
		}
		if v != nil {
			defaults[c] = []byte(*v)
		}
	}
	return defaults, nil
}

// takeBlocks takes block ids from their sequence.
func takeBlocks(ctx context.Context, q querier, n int) ([]int64, error) {
	rows, err := q.Query(ctx, `SELECT pg_catalog.nextval('auditdb.block_id') FROM pg_catalog.generate_series(1, $1)`, n)
	if err != nil {
		return nil, fmt.Errorf("take block ids: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("take block ids: %w", err)
	}
	return ids, nil
}

// loadSource reads what is known about a source.
func loadSource(ctx context.Context, q querier, tableID int16, name string) (sourceState, error) {
	var s sourceState
	var size *int64
	err := q.QueryRow(ctx, `
SELECT source_id, format, mapping, mapping_sha256, head_sha256, head_bytes, finished_at IS NOT NULL, content_sha256, size_bytes
FROM auditdb.ingest_source WHERE table_id = $1 AND name = $2`, tableID, name).
		Scan(&s.id, &s.format, &s.mapping, &s.mappingSum, &s.head.sum, &s.head.bytes, &s.finished, &s.sum, &size)
	if errors.Is(err, pgx.ErrNoRows) {
		return sourceState{}, nil
	}
	if err != nil {
		return s, fmt.Errorf("look up source %s: %w", name, err)
	}
	if size != nil {
		s.size = *size
	}
	rows, err := q.Query(ctx, `SELECT first_record, last_record, raw_sha256 FROM auditdb.ingest_range WHERE source_id = $1 ORDER BY first_record`, s.id)
	if err != nil {
		return s, fmt.Errorf("read what is committed of source %s: %w", name, err)
	}
	s.ranges, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (doneRange, error) {
		var r doneRange
		return r, row.Scan(&r.first, &r.last, &r.sum)
	})
	if err != nil {
		return s, fmt.Errorf("read what is committed of source %s: %w", name, err)
	}
	return s, nil
}

// loadGenerations reads the sources that are known of a file, by its name and later ones by name#2 and so on, or below a folder.
func loadGenerations(ctx context.Context, q querier, tableID int16, path string) ([]*generation, error) {
	rows, err := q.Query(ctx, `
SELECT name, head_sha256, head_bytes, first_seen, CASE WHEN finished_at IS NOT NULL THEN size_bytes END FROM auditdb.ingest_source
WHERE table_id = $1 AND (name = $2 OR pg_catalog.starts_with(name, $2 || '#') OR pg_catalog.starts_with(name, $3)) ORDER BY source_id`,
		tableID, path, strings.TrimSuffix(path, "/")+"/")
	if err != nil {
		return nil, fmt.Errorf("look up the sources of %s: %w", path, err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*generation, error) {
		var g generation
		var size *int64
		err := row.Scan(&g.name, &g.head.sum, &g.head.bytes, &g.seen, &size)
		if size != nil {
			g.size = *size
		}
		return &g, err
	})
	if err != nil {
		return nil, fmt.Errorf("look up the sources of %s: %w", path, err)
	}
	return all, nil
}

// insertSource makes the row of a new source, or finds the one that another job of this run has just made: its insert waits for that
// job's transaction to end.
func insertSource(ctx context.Context, tx pgx.Tx, tableID int16, name string, s *sourceState) (int64, error) {
	var id int64
	err := tx.QueryRow(ctx, `
INSERT INTO auditdb.ingest_source (table_id, name, format, mapping, mapping_sha256, head_sha256, head_bytes)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (table_id, name) DO NOTHING RETURNING source_id`,
		tableID, name, s.format, s.mapping, s.mappingSum, s.head.sum, s.head.bytes).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		err = tx.QueryRow(ctx, `SELECT source_id FROM auditdb.ingest_source WHERE table_id = $1 AND name = $2`, tableID, name).Scan(&id)
	}
	if err != nil {
		return 0, fmt.Errorf("record source %s: %w", name, err)
	}
	return id, nil
}

// finishSource notes that a source is in the table as a whole; false where not all of its records are there any more.
func finishSource(ctx context.Context, tx pgx.Tx, id int64, sum []byte, size, records int64) (bool, error) {
	var have int64
	err := tx.QueryRow(ctx, `SELECT coalesce(sum(last_record - first_record + 1), 0)::bigint FROM auditdb.ingest_range WHERE source_id = $1`, id).Scan(&have)
	if err != nil {
		return false, fmt.Errorf("count the source's records: %w", err)
	}
	if have < records {
		return false, nil
	}
	_, err = tx.Exec(ctx, `
UPDATE auditdb.ingest_source SET content_sha256 = $2, size_bytes = $3, finished_at = pg_catalog.clock_timestamp()
WHERE source_id = $1 AND (finished_at IS NULL OR content_sha256 IS DISTINCT FROM $2 OR size_bytes IS DISTINCT FROM $3)`, id, sum, size)
	if err != nil {
		return false, fmt.Errorf("finish the source: %w", err)
	}
	return true, nil
}

// rangeRow is a row of auditdb.ingest_range to be.
type rangeRow struct {
	source, first, last           int64
	sum                           []byte
	inserted, duplicate, rejected int
}

// noSeq stands in ingest_range where a range has no record in the log.
const noSeq = -1

// queueRange inserts a range. The caller holds a lock that every writer of this source's ranges takes first, so that the look for an
// overlapping range sees what is committed: where there is one, the NULL makes the transaction fail.
func queueRange(b *pgx.Batch, r rangeRow, seq int64) {
	b.Queue(`
INSERT INTO auditdb.ingest_range (source_id, first_record, last_record, raw_sha256, seq, inserted, duplicate, rejected)
SELECT CASE WHEN NOT EXISTS (SELECT FROM auditdb.ingest_range o WHERE o.source_id = $1 AND o.first_record <= $3 AND o.last_record >= $2) THEN $1 END,
  $2, $3, $4, $5, $6, $7, $8`, r.source, r.first, r.last, r.sum, seq, r.inserted, r.duplicate, r.rejected)
}

// isOverlap tells that queueRange found an overlapping range.
func isOverlap(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.TableName == "ingest_range" && (pg.Code == postgres.NotNullViolation || pg.Code == postgres.UniqueViolation)
}

// lockRanges takes the lock under which ranges are inserted.
func lockRanges(ctx context.Context, tx pgx.Tx, name string, wait time.Duration) error {
	_, err := tx.Exec(ctx, `SELECT pg_catalog.set_config('lock_timeout', $2::text, true), pg_catalog.pg_advisory_xact_lock($1)`, postgres.LockKey(name),
		strconv.FormatInt(min(wait.Milliseconds(), math.MaxInt32), 10))
	if err != nil {
		return fmt.Errorf("lock the ranges: %w", err)
	}
	return nil
}

// findRange looks for a committed range by its source's name.
func findRange(ctx context.Context, q querier, tableID int16, name string, first int64) (r rangeRow, found bool, err error) {
	err = q.QueryRow(ctx, `
SELECT r.source_id, r.first_record, r.last_record, r.raw_sha256, r.inserted, r.duplicate, r.rejected
FROM auditdb.ingest_range r JOIN auditdb.ingest_source s USING (source_id) WHERE s.table_id = $1 AND s.name = $2 AND r.first_record = $3`, tableID, name, first).
		Scan(&r.source, &r.first, &r.last, &r.sum, &r.inserted, &r.duplicate, &r.rejected)
	if errors.Is(err, pgx.ErrNoRows) {
		return r, false, nil
	}
	if err != nil {
		return r, false, fmt.Errorf("look whether the batch was committed: %w", err)
	}
	return r, true, nil
}

// findEvents returns which of the given events are in the table: indexes into uids, ascending. The times bound the partitions that are
// looked at; the LIMIT keeps it to one index lookup an event.
func findEvents(ctx context.Context, q querier, table string, uids []string, at []time.Time) ([]int, error) {
	first, last := at[0], at[0]
	for _, t := range at {
		if t.Before(first) {
			first = t
		}
		if t.After(last) {
			last = t
		}
	}
	rows, err := q.Query(ctx, `
SELECT u.ord - 1 FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::timestamptz[])) WITH ORDINALITY AS u(uid, at, ord)
CROSS JOIN LATERAL (SELECT FROM `+table+` p WHERE p.event_uid = u.uid AND p."timestamp" = u.at AND p."timestamp" >= $3 AND p."timestamp" <= $4 LIMIT 1) AS hit
ORDER BY u.ord`, uids, at, first, last)
	if err != nil {
		return nil, fmt.Errorf("look for events that are there already: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return nil, fmt.Errorf("look for events that are there already: %w", err)
	}
	return found, nil
}

// leafState is what the catalog says about a partition.
type leafState struct {
	oid          uint32
	schema, name string
	bound        string // its bounds as text
	kind         string // pg_class.relkind
	pending      bool   // a detach has begun
}

// leafStates reads the partitions of a table; oids nil: all of them. It is one query whatever their number.
func leafStates(ctx context.Context, q querier, table uint32, oids []uint32) ([]leafState, error) {
	rows, err := q.Query(ctx, `
SELECT c.oid, n.nspname, c.relname, pg_catalog.pg_get_expr(c.relpartbound, 0), c.relkind::text,
  coalesce((pg_catalog.to_jsonb(i) ->> 'inhdetachpending')::boolean, false)
FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE i.inhparent = $1 AND c.relispartition AND ($2::oid[] IS NULL OR c.oid = ANY ($2))`, table, oids)
	if err != nil {
		return nil, fmt.Errorf("read the partitions: %w", err)
	}
	states, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (leafState, error) {
		var s leafState
		return s, row.Scan(&s.oid, &s.schema, &s.name, &s.bound, &s.kind, &s.pending)
	})
	if err != nil {
		return nil, fmt.Errorf("read the partitions: %w", err)
	}
	return states, nil
}

// beginSQL starts a batch's transaction, which waits for table locks up to wait; with 0 no longer than the session does. Its locks are
// those of any INSERT, so it may queue for them, unlike work that others queue behind.
func beginSQL(wait time.Duration) string {
	const begin = "BEGIN ISOLATION LEVEL READ COMMITTED"
	if wait <= 0 {
		return begin
	}
	return begin + "; SET LOCAL lock_timeout = " + strconv.FormatInt(min(max(wait.Milliseconds(), 1), math.MaxInt32), 10)
}

func columnList() string {
	names := audit.AuditLog().Names()
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = pgx.Identifier{n}.Sanitize()
	}
	return strings.Join(quoted, ", ")
}

func copyInSQL(leaf string) string {
	return "COPY " + leaf + " (" + columnList() + ") FROM STDIN (FORMAT binary)"
}

// readBackSQL reads rows that a batch has just written: by id, within their times.
func readBackSQL(table string, firstID, lastID, first, last int64) string {
	const layout = "2006-01-02 15:04:05.000000Z07:00"
	return fmt.Sprintf(`COPY (SELECT %s FROM %s WHERE id BETWEEN %d AND %d AND "timestamp" BETWEEN '%s'::timestamptz AND '%s'::timestamptz) TO STDOUT (FORMAT binary)`,
		columnList(), table, firstID, lastID, audit.MicrosTime(first).Format(layout), audit.MicrosTime(last).Format(layout))
}
