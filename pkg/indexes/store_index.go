package indexes

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Querier is what reads need: a pool, a connection or a transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

const (
	treeSQL = `WITH RECURSIVE tree AS (
  SELECT r.oid AS root, r.oid, 0 AS level FROM unnest($1::oid[]) AS r(oid)
  UNION ALL SELECT t.root, h.inhrelid, t.level + 1 FROM tree t JOIN pg_inherits h ON h.inhparent = t.oid JOIN pg_class c ON c.oid = h.inhrelid AND c.relispartition)`
	indexesSQL = treeSQL + `
SELECT x.oid, r.oid, t.root, t.level, coalesce(h.inhparent, 0), coalesce((SELECT quote_ident(pn.nspname) || '.' || quote_ident(p.relname) FROM pg_class p JOIN pg_namespace pn ON pn.oid = p.relnamespace WHERE p.oid = h.inhparent), ''), pg_get_userbyid(r.relowner), n.nspname, r.relname, x.relname, a.amname, x.relkind = 'I',
  i.indisvalid AND i.indislive, i.indisready AND i.indislive, i.indisunique, i.indisprimary, i.indisexclusion, i.indisreplident, i.indisclustered,
  coalesce((to_jsonb(i)->>'indnullsnotdistinct')::boolean, false), coalesce(s.spcname, ''), coalesce(x.reloptions, '{}'),
  coalesce((SELECT k.conname FROM pg_constraint k WHERE k.conindid = x.oid AND k.contype IN ('p', 'u', 'x') LIMIT 1), ''),
  pg_get_indexdef(x.oid),
  'CREATE ' || CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END || 'INDEX ' || quote_ident(x.relname) || ' ON ' || CASE x.relkind WHEN 'I' THEN 'ONLY ' ELSE '' END
    || quote_ident(n.nspname) || '.' || quote_ident(r.relname) || ' USING ' || quote_ident(a.amname) || ' (',
  ARRAY(SELECT pg_get_indexdef(x.oid, k, false) FROM generate_series(1, i.indnkeyatts) k ORDER BY k),
  ARRAY(SELECT coalesce(c.attname, '') FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(n, o) LEFT JOIN pg_attribute c ON c.attrelid = r.oid AND c.attnum = k.n AND k.n <> 0 ORDER BY k.o),
  coalesce(pg_get_expr(i.indpred, i.indrelid), ''), CASE WHEN x.relkind = 'I' THEN 0 ELSE coalesce(pg_relation_size(x.oid), 0) END, x.reltuples,
  pg_stat_get_numscans(x.oid), (SELECT (to_jsonb(u)->>'last_idx_scan')::timestamptz FROM pg_stat_all_indexes u WHERE u.indexrelid = x.oid)
FROM tree t JOIN pg_index i ON i.indrelid = t.oid JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class r ON r.oid = i.indrelid JOIN pg_namespace n ON n.oid = r.relnamespace
  JOIN pg_am a ON a.oid = x.relam LEFT JOIN pg_inherits h ON h.inhrelid = x.oid LEFT JOIN pg_tablespace s ON s.oid = x.reltablespace
WHERE NOT pg_is_other_temp_schema(n.oid)
ORDER BY t.root, t.level, n.nspname, r.relname, x.relname`
)

// Load reads all indexes of tables (by oid) and of their partitions at any depth, those of a table before those of its partitions, with one
// catalog query. Reading sizes and expressions waits for who has
// locked a table exclusively: set a lock_timeout.
func Load(ctx context.Context, q Querier, tables []uint32) (found []Index, err error) {
	for range loadTries {
		var rows pgx.Rows
		if rows, err = q.Query(ctx, indexesSQL, tables); err == nil {
			found, err = pgx.CollectRows(rows, scanIndex)
		}
		if !errors.Is(err, errCatalogText) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list indexes: %w", err)
	}
	return found, nil
}

// loadTries are those at reading a catalog in which REINDEX CONCURRENTLY gives indexes other names: the server's functions know of it before the
// query's snapshot does.
const loadTries = 5

func scanIndex(row pgx.CollectableRow) (i Index, err error) {
	var text catalogText
	var options []string
	err = row.Scan(&i.OID, &i.TableOID, &i.Root, &i.Level, &i.Parent, &i.Above, &i.Owner, &i.Schema, &i.Table, &i.Name, &i.Method, &i.Partitioned,
		&i.Valid, &i.Ready, &i.Unique, &i.Primary, &i.Exclusion, &i.ReplicaIdentity, &i.Clustered, &i.NullsNotDistinct, &i.Tablespace, &options,
		&i.Constraint, &text.full, &text.prefix, &text.parts, &text.columns, &i.Predicate, &i.SizeBytes, &i.Rows, &i.Scans, &i.LastScan)
	if err != nil {
		return i, err
	}
	text.schema = i.Schema
	i.Include = text.columns[len(text.parts):]
	i.Predicate = trimParens(i.Predicate)
	i.Options = map[string]string{}
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		i.Options[name] = value
	}
	i.Keys, err = text.keys()
	return i, err
}
