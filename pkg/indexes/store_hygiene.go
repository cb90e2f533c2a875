package indexes

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/postgres"
)

const (
	// Tables of the users' own: not auditdb's, not an extension's, not a part of another.
	rootsSQL = `
SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'auditdb')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY n.nspname, c.relname`
	foreignSQL = treeSQL + `
SELECT k.conrelid, t.root, k.conname, ARRAY(SELECT a.attname FROM unnest(k.conkey) WITH ORDINALITY u(n, o) JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n ORDER BY u.o),
  k.confrelid::regclass::text, (SELECT coalesce(sum(pg_stat_get_tuples_deleted(p.oid) + pg_stat_get_tuples_updated(p.oid)), 0)::bigint
    FROM (SELECT k.confrelid AS oid UNION SELECT x.relid FROM pg_partition_tree(k.confrelid) x) p),
  n.nspname, c.relname, (SELECT coalesce(sum(greatest(l.reltuples, 0)), 0)::float8 FROM (SELECT c.oid UNION SELECT x.relid FROM pg_partition_tree(c.oid) x) p JOIN pg_class l ON l.oid = p.oid AND l.relkind <> 'p')
FROM tree t JOIN pg_constraint k ON k.conrelid = t.oid AND k.contype = 'f' AND k.conparentid = 0 JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY n.nspname, c.relname, k.conname`
	// Where statistics were never reset they count since the database was made, or, for a role that may not look at its files, at least since
	// the server's start.
	countedSQL = `
SELECT current_setting('track_counts')::boolean, coalesce(stats_reset,
    CASE WHEN has_function_privilege('pg_stat_file(text, boolean)', 'execute') THEN (pg_stat_file('base/' || datid || '/PG_VERSION', true)).modification END, pg_postmaster_start_time()),
  (SELECT count(*) FROM pg_stat_replication)::int
FROM pg_stat_database WHERE datname = current_database()`
	scansSQL = `SELECT indexrelid, idx_scan FROM pg_stat_all_indexes WHERE indexrelid = ANY ($1::oid[]) AND idx_scan > 0`
	staleSQL = treeSQL + `
SELECT c.oid, 0::oid, n.nspname, c.relname, c.relkind::text, 0
FROM (SELECT DISTINCT root FROM tree) r JOIN pg_class c ON c.oid = r.root JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE has_table_privilege(c.oid, 'SELECT') AND (SELECT coalesce(sum(greatest(l.reltuples, pg_stat_get_live_tuples(l.oid))), 0) FROM tree t JOIN pg_class l ON l.oid = t.oid AND l.relkind <> 'p' WHERE t.root = r.root) >= $2
  AND NOT EXISTS (SELECT FROM pg_stats s WHERE s.schemaname = n.nspname AND s.tablename = c.relname AND s.inherited = (c.relkind = 'p'))
ORDER BY n.nspname, c.relname`
	// Bytes that the entries of a B-tree should take: header and line pointer (12), the keys aligned to 8, in leaf pages filled by fillfactor, with 1% above
	// them. Deduplication makes real ones smaller.
	expectedSQL = `
SELECT x.oid, x.reltuples * (12 + ceil(sum(coalesce(w.width, 8)) / 8) * 8) / (coalesce((SELECT option_value::float8 FROM pg_options_to_table(x.reloptions) WHERE option_name = 'fillfactor'), 90) / 100) * 1.02 + 16384
FROM unnest($1::oid[]) AS o(oid) JOIN pg_class x ON x.oid = o.oid JOIN pg_index i ON i.indexrelid = x.oid JOIN pg_class r ON r.oid = i.indrelid JOIN pg_namespace n ON n.oid = r.relnamespace
  CROSS JOIN LATERAL (SELECT CASE WHEN k.n = 0 THEN (SELECT s.avg_width::float8 FROM pg_stats s JOIN pg_attribute a ON a.attrelid = x.oid AND a.attnum = k.o WHERE s.schemaname = n.nspname AND s.tablename = x.relname AND s.attname = a.attname LIMIT 1)
    ELSE (SELECT s.avg_width::float8 FROM pg_stats s JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = k.n WHERE s.schemaname = n.nspname AND s.tablename = r.relname AND s.attname = a.attname ORDER BY s.inherited LIMIT 1) END AS width
    FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(n, o)) w
WHERE x.reltuples > 0
GROUP BY x.oid, x.reltuples, x.reloptions`
	pgstattupleSQL = `SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pgstattuple'`
)

// measureLimit bounds the indexes that pgstattuple reads, in bytes and in time.
const (
	measureLimit   = 8 << 30
	measureTimeout = 30 * time.Second
)

func readHygiene(ctx context.Context, tx pgx.Tx, o HygieneOptions) (*hygieneFacts, error) {
	f := &hygieneFacts{expected: map[uint32]float64{}, measured: map[uint32]float64{}}
	tables := o.Tables
	if len(tables) == 0 {
		if err := each(ctx, tx, func(oid uint32) { tables = append(tables, oid) }, rootsSQL); err != nil {
			return nil, fmt.Errorf("list tables: %w", err)
		}
	}
	err := f.readTables(ctx, tx, tables)
	if err == nil {
		err = tx.QueryRow(ctx, countedSQL).Scan(&f.counted, &f.since, &f.standbys)
	}
	if err == nil {
		f.foreign, err = collect(ctx, tx, func(row pgx.CollectableRow) (k foreignKey, err error) {
			err = row.Scan(&k.Table, &k.Root, &k.Name, &k.Columns, &k.Referenced, &k.Changes, &k.Schema, &k.Rel, &k.RowsEstimate)
			return k, err
		}, foreignSQL, tables)
	}
	if err == nil {
		f.stale, err = collect(ctx, tx, func(row pgx.CollectableRow) (n node, err error) {
			err = row.Scan(&n.OID, &n.Parent, &n.Schema, &n.Name, &n.Kind, &n.Level)
			return n, err
		}, staleSQL, tables, fewRows)
	}
	if err == nil {
		err = f.readExpected(ctx, tx)
	}
	if err != nil {
		return nil, fmt.Errorf("look at indexes: %w", err)
	}
	return f, nil
}

func collect[T any](ctx context.Context, q Querier, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

// readTables reads tables with all below them, and their indexes.
func (s *situation) readTables(ctx context.Context, q Querier, tables []uint32) (err error) {
	if s.nodes, err = collect(ctx, q, scanNode, nodesSQL, tables); err != nil {
		return err
	}
	s.dropPending()
	found, err := Load(ctx, q, tables)
	if err != nil {
		return err
	}
	s.indexes = map[uint32][]Index{}
	for _, i := range found {
		s.indexes[i.TableOID] = append(s.indexes[i.TableOID], i)
	}
	s.attached = map[uint32][]*Index{}
	for _, list := range s.indexes {
		for n := range list {
			s.attached[list[n].Parent] = append(s.attached[list[n].Parent], &list[n])
		}
	}
	oids := make([]uint32, len(s.nodes))
	for i, n := range s.nodes {
		oids[i] = n.OID
	}
	s.builders, err = readBuilders(ctx, q, oids)
	return err
}

func scanNode(row pgx.CollectableRow) (n node, err error) {
	err = row.Scan(&n.OID, &n.Parent, &n.Schema, &n.Name, &n.Kind, &n.Level, &n.Pending, &n.Owner, &n.Owned, &n.Member, &n.MayCreate, &n.Bytes, &n.Rows)
	return n, err
}

// readExpected computes what B-trees should take.
func (f *hygieneFacts) readExpected(ctx context.Context, q Querier) error {
	var oids []uint32
	for _, i := range f.all() {
		if i.Method == BTree && !i.Partitioned && i.Valid {
			oids = append(oids, i.OID)
		}
	}
	rows, err := q.Query(ctx, expectedSQL, oids)
	if err != nil {
		return err
	}
	var oid uint32
	var bytes float64
	_, err = pgx.ForEachRow(rows, []any{&oid, &bytes}, func() error { f.expected[oid] = bytes; return nil })
	return err
}

// addReplica adds the scans that a replica has counted.
func (f *hygieneFacts) addReplica(ctx context.Context, replica *postgres.DB) error {
	var counted bool
	var since time.Time
	var standbys int
	if err := replica.Pool().QueryRow(ctx, countedSQL).Scan(&counted, &since, &standbys); err != nil {
		return err
	}
	f.replicas++
	f.counted = f.counted && counted
	if since.After(f.since) {
		f.since = since
	}
	var oids []uint32
	for _, i := range f.all() {
		oids = append(oids, i.OID)
	}
	rows, err := replica.Pool().Query(ctx, scansSQL, oids)
	if err != nil {
		return err
	}
	more := map[uint32]int64{}
	var oid uint32
	var scans int64
	if _, err := pgx.ForEachRow(rows, []any{&oid, &scans}, func() error { more[oid] = scans; return nil }); err != nil {
		return err
	}
	for _, list := range f.indexes {
		for n := range list {
			list[n].Scans += more[list[n].OID]
		}
	}
	return nil
}

// measure has pgstattuple, where it is installed and allowed, look at the indexes that seem to be bloated: it reads all of them.
func (f *hygieneFacts) measure(ctx context.Context, db *postgres.DB) error {
	var schema string
	if err := db.Pool().QueryRow(ctx, pgstattupleSQL).Scan(&schema); err != nil {
		if err == pgx.ErrNoRows { //nolint:errorlint // QueryRow gives it as it is
			return nil
		}
		return fmt.Errorf("look for pgstattuple: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	left := int64(measureLimit)
	for _, i := range f.all() {
		wasted, _, ok := f.waste(i)
		if left -= i.SizeBytes; !ok || wasted < bloatedPart || i.SizeBytes < bloatedFrom || left < 0 {
			continue
		}
		var density float64
		err := db.Pool().QueryRow(ctx, "SELECT avg_leaf_density FROM "+schema+".pgstatindex($1::oid::regclass)", i.OID).Scan(&density)
		if err != nil { // not allowed, gone, or too slow: the estimate stands
			f.notes = append(f.notes, fmt.Sprintf("index %s: pgstattuple did not look, so bloat is estimated", i.DisplayName()))
			return nil
		}
		f.measured[i.OID] = density / 100
	}
	return nil
}
