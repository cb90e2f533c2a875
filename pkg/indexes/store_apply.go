package indexes

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/postgres"
)

const (
	nodesSQL = treeSQL + `
SELECT r.oid, coalesce(h.inhparent, 0), n.nspname, r.relname, r.relkind::text, t.level, coalesce(h.inhdetachpending, false), pg_get_userbyid(r.relowner),
  pg_has_role(r.relowner, 'USAGE'), pg_has_role(r.relowner, 'MEMBER'), has_schema_privilege(n.oid, 'CREATE'), CASE r.relkind WHEN 'p' THEN 0 ELSE coalesce(pg_relation_size(r.oid), 0) END, r.reltuples
FROM tree t JOIN pg_class r ON r.oid = t.oid JOIN pg_namespace n ON n.oid = r.relnamespace LEFT JOIN pg_inherits h ON h.inhrelid = r.oid AND t.level > 0
ORDER BY t.level, n.nspname, r.relname`
	// Whoever builds an index concurrently holds this lock all the time; so does VACUUM, of which autovacuum gives way.
	buildersSQL = `
SELECT l.relation, min(l.pid), coalesce(min(a.application_name), ''), coalesce(min(a.usename), '')
FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.mode = 'ShareUpdateExclusiveLock' AND l.relation = ANY ($1::oid[]) AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.pid <> pg_backend_pid() AND a.backend_type IS DISTINCT FROM 'autovacuum worker'
GROUP BY l.relation`
	takenSQL = `
SELECT n.nspname || E'\x01' || c.relname FROM unnest($1::text[], $2::text[]) AS w(schema, name)
  JOIN pg_namespace n ON n.nspname = w.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name`
	bareSQL = `
SELECT x.oid FROM unnest($1::oid[]) AS w(oid) JOIN pg_class x ON x.oid = w.oid JOIN pg_namespace n ON n.oid = x.relnamespace
WHERE NOT EXISTS (SELECT FROM pg_stats s WHERE s.schemaname = n.nspname AND s.tablename = x.relname)`
	tableSQL = `SELECT c.oid, coalesce(pg_partition_root(c.oid)::oid, c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p', 'm', 'f')`
	// Building concurrently waits for every transaction with a snapshot that is older.
	oldSQL = `
SELECT pid, coalesce(application_name, ''), coalesce(usename, ''), '', coalesce(backend_type, ''), coalesce(state, ''), extract(epoch FROM clock_timestamp() - xact_start)::float8, coalesce(query, '')
FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_xmin IS NOT NULL AND xact_start < clock_timestamp() - make_interval(secs => $1)
  AND backend_type IN ('client backend', 'background worker') ORDER BY xact_start`
	watchSQL = `
SELECT coalesce(p.phase, ''), coalesce(p.blocks_done, 0), coalesce(p.blocks_total, 0), coalesce(p.tuples_done, 0), coalesce(p.tuples_total, 0), current_setting('block_size')::bigint,
  coalesce((SELECT string_agg(format('pid %s%s', b, CASE WHEN a.application_name <> '' THEN ' (' || a.application_name || ')' END), ', ') FROM unnest(pg_blocking_pids($1)) b LEFT JOIN pg_stat_activity a ON a.pid = b), '')
FROM (SELECT) one LEFT JOIN pg_stat_progress_create_index p ON p.pid = $1`
)

// findTable returns the oids of a table and of the partitioned table that it is at last a part of; 0: there is no such table.
func findTable(ctx context.Context, q Querier, schema, name string) (oid, top uint32, err error) {
	err = q.QueryRow(ctx, tableSQL, schema, name).Scan(&oid, &top)
	if err == pgx.ErrNoRows { //nolint:errorlint // QueryRow gives it as it is
		return 0, 0, nil
	}
	return oid, top, err
}

// readSituation reads a table with all below it.
func readSituation(ctx context.Context, q Querier, table uint32, want Definition) (s situation, err error) {
	if err := s.readTables(ctx, q, []uint32{table}); err != nil {
		return s, err
	}
	var expressions []uint32
	var schemas, names []string
	for _, n := range s.nodes {
		for salt := range salts + 1 {
			schemas, names = append(schemas, n.Schema), append(names, want.On(n.Schema, n.Name).ownName(salt))
		}
	}
	schemas, names = append(schemas, want.Schema), append(names, want.IndexName())
	for _, i := range s.all() {
		if !i.Partitioned && slices.ContainsFunc(i.Keys, func(k Key) bool { return k.Expression != "" }) {
			expressions = append(expressions, i.OID)
		}
	}
	s.taken, s.bare = map[string]bool{}, map[uint32]bool{}
	if err := each(ctx, q, func(name string) { s.taken[name] = true }, takenSQL, schemas, names); err != nil {
		return s, err
	}
	return s, each(ctx, q, func(oid uint32) { s.bare[oid] = true }, bareSQL, expressions)
}

// dropPending leaves out partitions whose detach has not ended, with all below them.
func (s *situation) dropPending() {
	gone := map[uint32]bool{}
	s.nodes = slices.DeleteFunc(s.nodes, func(n node) bool {
		if n.Pending || gone[n.Parent] {
			gone[n.OID] = true
		}
		return gone[n.OID]
	})
}

func each[T any](ctx context.Context, q Querier, use func(T), sql string, args ...any) error {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	var v T
	_, err = pgx.ForEachRow(rows, []any{&v}, func() error { use(v); return nil })
	return err
}

func readBuilders(ctx context.Context, q Querier, tables []uint32) (map[uint32]string, error) {
	rows, err := q.Query(ctx, buildersSQL, tables)
	if err != nil {
		return nil, err
	}
	builders := map[uint32]string{}
	var table uint32
	var b postgres.Blocker
	_, err = pgx.ForEachRow(rows, []any{&table, &b.PID, &b.Application, &b.User}, func() error {
		builders[table] = b.String()
		return nil
	})
	return builders, err
}

// oldTransactions describes those that a concurrent build would wait for, older than seconds.
func oldTransactions(ctx context.Context, q Querier, seconds float64) ([]postgres.Blocker, error) {
	rows, err := q.Query(ctx, oldSQL, seconds)
	if err != nil {
		return nil, fmt.Errorf("look for old transactions: %w", err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (b postgres.Blocker, err error) {
		var age float64
		err = row.Scan(&b.PID, &b.Application, &b.User, &b.Client, &b.Backend, &b.State, &age, &b.Query)
		b.Age, b.Query = time.Duration(age*float64(time.Second)), postgres.QueryShape(b.Query)
		return b, err
	})
}
