package query

import (
	"context"
	"log/slog"
	"strconv"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/postgres"
	"auditdb/pkg/partitions"
)

const (
	// A standby has values of the sequence that are up to 32 ahead, and so do not move with each row, and none of the primary's locks. A
	// sequence with a cache gives out ids below its last value later on; one that cycles or counts down does not only go up. The statistics
	// of the background writer begin anew after a crash, which may have taken commits along that were not yet on disk.
	stateSQL = `
SELECT s.system, s.database, s.era, s.role, s.secured, s.allowed, s.standby, coalesce(i.seq, 0::oid), coalesce(i.readable, false), coalesce(i.last, 0), s.redaction,
  coalesce(h.inhparent IS NOT NULL AND NOT h.inhdetachpending AND c.relkind = 'r', false), coalesce(c.xmin::text || ' ' || pg_catalog.pg_relation_filenode(c.oid), ''),
  coalesce(pg_catalog.pg_get_expr(c.relpartbound, 0), ''),
  EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND t.tgfoid = pg_catalog.to_regproc('auditdb.guard') AND t.tgenabled IN ('O', 'A') AND t.tgtype & 27 = 27),
  g.seq, g.mac
FROM ROWS FROM (unnest($3::bigint[]), unnest($4::timestamptz[]), unnest($5::timestamptz[])) WITH ORDINALITY AS p (oid, f, t, n)
LEFT JOIN pg_catalog.pg_class c ON c.oid = p.oid::oid
LEFT JOIN pg_catalog.pg_inherits h ON h.inhrelid = c.oid AND h.inhparent = $1::oid
LEFT JOIN LATERAL (SELECT l.seq, l.mac FROM auditdb.log l WHERE l.seq =
  (SELECT r.seq FROM auditdb.log_partition r WHERE r.table_id = $2::smallint AND r.part_from = p.f AND r.part_to = p.t ORDER BY r.seq DESC LIMIT 1)) g ON true
CROSS JOIN (SELECT
  CASE WHEN pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'execute') THEN (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) ELSE '' END,
  (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()),
  pg_catalog.pg_postmaster_start_time()::text || ' ' || coalesce((SELECT b.stats_reset::text FROM pg_catalog.pg_stat_bgwriter b), ''),
  (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = current_user),
  pg_catalog.row_security_active($1::oid), pg_catalog.has_table_privilege($1::oid, 'SELECT'), pg_catalog.pg_is_in_recovery(),
  coalesce((SELECT max(x.seq) FROM auditdb.redaction x WHERE x.table_id = $2::smallint), -1)) s (system, database, era, role, secured, allowed, standby, redaction)
LEFT JOIN LATERAL (SELECT q.seqrelid, pg_catalog.has_sequence_privilege(q.seqrelid, 'SELECT, USAGE'),
    CASE WHEN pg_catalog.has_sequence_privilege(q.seqrelid, 'SELECT, USAGE') THEN pg_catalog.pg_sequence_last_value(q.seqrelid) END
  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
    AND d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype = 'i' JOIN pg_catalog.pg_sequence q ON q.seqrelid = d.objid
  WHERE a.attrelid = $1::oid AND a.attname = 'id' AND a.attidentity = 'a' AND q.seqcache = 1 AND NOT q.seqcycle AND q.seqincrement > 0) i (seq, readable, last) ON true
ORDER BY p.n`

	// A transaction that inserts holds this lock on the table, or on the partition, from before it takes an id until its rows are visible.
	writersSQL = `
SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.locktype = 'relation' AND l.relation = ANY ($1::oid[]) AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  AND l.granted AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid() AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))`

	bitmapOnlySQL = `SELECT pg_catalog.set_config('statement_timeout', $1, true), pg_catalog.set_config('enable_seqscan', 'off', true),
  pg_catalog.set_config('enable_indexscan', 'off', true), pg_catalog.set_config('enable_indexonlyscan', 'off', true)`
)

// probeLimit bounds looking for rows of other writers, in milliseconds. Where the BRIN index over ids has not been brought up to date it would
// read the whole partition.
const probeLimit = 20

// writing says whether another transaction may be inserting into the table or one of the partitions, and where the log of the primary is after
// that, for replicas.
func (e *Engine) writing(ctx context.Context, t partitions.Table, chunk []segment) (writing bool, position string, err error) {
	oids := []uint32{t.OID}
	for _, s := range chunk {
		oids = append(oids, s.part.OID)
	}
	err = e.o.DB.Pool().QueryRow(ctx, writersSQL, oids).Scan(&writing)
	if err == nil && e.o.Replicas != nil {
		err = e.o.DB.Pool().QueryRow(ctx, positionSQL).Scan(&position)
	}
	return writing, position, err
}

// newer says whether the segment may have rows whose ids the sequence has given out after last and up to now.
func (e *Engine) newer(ctx context.Context, t partitions.Table, at segment, last, now int64) bool {
	s := &statement{}
	s.sql.WriteString("SELECT EXISTS (SELECT FROM " + t.Ident() + " WHERE id > " + s.arg(last) + " AND id <= " + s.arg(now))
	key := pgx.Identifier{t.Key.Column}.Sanitize()
	if !at.FromMin {
		s.sql.WriteString(" AND " + key + " >= " + s.arg(t.Key.Text(at.From)) + "::timestamptz")
	}
	if !at.ToMax {
		s.sql.WriteString(" AND " + key + " < " + s.arg(t.Key.Text(at.To)) + "::timestamptz")
	}
	s.sql.WriteString(")")
	found := true
	err := e.o.DB.TxWith(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, bitmapOnlySQL, strconv.Itoa(probeLimit)); err != nil {
			return err
		}
		return tx.QueryRow(ctx, s.text(), append([]any{pgx.QueryExecModeDescribeExec}, s.args...)...).Scan(&found)
	})
	if err != nil && postgres.SQLState(err) != postgres.QueryCanceled {
		e.o.Log.LogAttrs(ctx, slog.LevelDebug, "look for new rows of other writers", slog.String("sqlstate", postgres.SQLState(err)))
	}
	return err != nil || found
}
