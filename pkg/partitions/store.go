package partitions

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"auditdb/internal/postgres"
)

// Querier is what reads need: a pool, a connection or a transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

const (
	// pg_get_expr gets no relation: on newer servers it would lock it, and wait behind VACUUM FULL.
	loadSQL = `WITH RECURSIVE parents AS (%[3]s), sizes (oid, pages) AS (%[4]s)
SELECT c.oid, n.nspname, c.relname, c.relkind::text, i.inhdetachpending, coalesce(pg_get_expr(c.relpartbound, 0), ''), %[2]s, pg_get_userbyid(c.relowner),
  coalesce(d.description, ''), %[1]s, t.oid, t.level, t.key
FROM parents t JOIN pg_inherits i ON i.inhparent = t.oid JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN sizes s ON s.oid = c.oid
  LEFT JOIN pg_description d ON d.objoid = c.oid AND d.classoid = 'pg_class'::regclass AND d.objsubid = 0
UNION ALL
SELECT c.oid, n.nspname, c.relname, c.relkind::text, false, '', %[2]s, pg_get_userbyid(c.relowner), d.description, %[1]s, $1, 1, NULL
FROM pg_description d JOIN pg_class c ON c.oid = d.objoid JOIN pg_namespace n ON n.oid = c.relnamespace
  CROSS JOIN LATERAL (%[5]s) s
WHERE d.classoid = 'pg_class'::regclass AND d.objsubid = 0 AND (starts_with(d.description, $2) OR starts_with(d.description, $3)) AND c.relkind = 'r' AND NOT c.relispartition`
	rootSQL = `SELECT $1::oid AS oid, 1 AS level, NULL::text[] COLLATE "C" AS key`
	treeSQL = rootSQL + ` UNION ALL
  SELECT p.partrelid, t.level + 1, ARRAY[p.partstrat::text, p.partnatts::text, coalesce(a.attname, ''), coalesce(format_type(a.atttypid, NULL), ''), coalesce(o.opcdefault, false)::text] COLLATE "C"
  FROM parents t JOIN pg_inherits i ON i.inhparent = t.oid JOIN pg_partitioned_table p ON p.partrelid = i.inhrelid
    LEFT JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0] AND a.attnum > 0
    LEFT JOIN pg_opclass o ON o.oid = p.partclass[0]`
	// Until the first VACUUM or ANALYZE the live rows that the statistics collector counted stand in, and sizes are not known.
	rowsSQL     = `CASE WHEN c.reltuples < 0 THEN coalesce(nullif(pg_stat_get_live_tuples(c.oid), 0), -1) ELSE c.reltuples::bigint END`
	pageSizeSQL = `CASE WHEN c.relkind = 'p' OR c.reltuples < 0 AND pg_stat_get_live_tuples(c.oid) > 0 THEN -1
  ELSE current_setting('block_size')::bigint * (greatest(c.relpages, 0) + coalesce(s.pages, 0)) END`
	// Pages of what belongs to a table: its indexes, its TOAST table and the index of that. All partitions' are added up in one pass, since
	// looking them up for each takes longer than the rest of the query.
	pagesSQL = `SELECT oid, sum(pages)::bigint FROM (
  SELECT i.inhrelid AS oid, greatest(x.relpages, 0) AS pages FROM parents t JOIN pg_inherits i ON i.inhparent = t.oid
    JOIN pg_index ix ON ix.indrelid = i.inhrelid JOIN pg_class x ON x.oid = ix.indexrelid
  UNION ALL SELECT i.inhrelid, greatest(o.relpages, 0) + greatest(x.relpages, 0) FROM parents t JOIN pg_inherits i ON i.inhparent = t.oid
    JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class o ON o.oid = c.reltoastrelid JOIN pg_index ix ON ix.indrelid = o.oid JOIN pg_class x ON x.oid = ix.indexrelid) p
  GROUP BY oid`
	leftoverPagesSQL = `SELECT sum(greatest(x.relpages, 0))::bigint AS pages FROM pg_class x WHERE x.oid = c.reltoastrelid
  OR x.oid IN (SELECT ix.indexrelid FROM pg_index ix WHERE ix.indrelid IN (c.oid, c.reltoastrelid))`
	noSizeSQL          = `-1::bigint`
	noPagesSQL         = `SELECT NULL::oid, NULL::bigint WHERE false`
	noLeftoverPagesSQL = `SELECT NULL::bigint AS pages`
	exactSizeSQL       = `
SELECT r.oid, CASE WHEN c.relkind = 'p' THEN (SELECT coalesce(sum(pg_total_relation_size(t.relid)), 0)::bigint FROM pg_partition_tree(c.oid) t) ELSE coalesce(pg_total_relation_size(c.oid), 0) END
FROM unnest($1::oid[]) AS r(oid) JOIN pg_class c ON c.oid = r.oid`
)

// Load reads the partitions of t with one catalog query, without their sizes.
func Load(ctx context.Context, q Querier, t Table) (*Catalog, error) {
	return loadDirect(ctx, q, t, false)
}

// LoadSizes is Load with sizes as VACUUM and ANALYZE last saw them.
func LoadSizes(ctx context.Context, q Querier, t Table) (*Catalog, error) {
	return loadDirect(ctx, q, t, true)
}

func loadDirect(ctx context.Context, q Querier, t Table, sized bool) (*Catalog, error) {
	found, err := load(ctx, q, t, sized, rootSQL)
	if err != nil {
		return nil, err
	}
	parts := make([]Partition, len(found))
	for i := range found {
		if parts[i], err = found[i].partition(t); err != nil {
			return nil, fmt.Errorf("list partitions of %s: %w", t, err)
		}
	}
	return NewCatalog(parts), nil
}

// relation is a partition as the catalog has it.
type relation struct {
	Partition
	kind, expr, comment string
	pending             bool
	parent              uint32
	level               int
	key                 []string // of the parent where that is a partition itself: strategy, columns, the first one, its type, whether that has its usual order
}

func load(ctx context.Context, q Querier, t Table, sized bool, parentsSQL string) ([]relation, error) {
	size, pages, leftovers := noSizeSQL, noPagesSQL, noLeftoverPagesSQL
	if sized {
		size, pages, leftovers = pageSizeSQL, pagesSQL, leftoverPagesSQL
	}
	rows, err := q.Query(ctx, fmt.Sprintf(loadSQL, size, rowsSQL, parentsSQL, pages, leftovers), t.OID, t.markPrefix(Drop), t.markPrefix(Detach))
	if err != nil {
		return nil, fmt.Errorf("list partitions of %s: %w", t, err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r relation, err error) {
		err = row.Scan(&r.OID, &r.Schema, &r.Name, &r.kind, &r.pending, &r.expr, &r.RowsEstimate, &r.Owner, &r.comment, &r.SizeBytes, &r.parent, &r.level, &r.key)
		return r, err
	})
	return found, wrap(err, "list partitions of %s", t)
}

// partition understands what r says as a partition of t. An error names it.
func (r relation) partition(t Table) (Partition, error) {
	p, bounds, err := r.Partition, "", error(nil)
	p.Kind, p.SizeEstimated, p.State = r.kind[0], true, Attached
	bounds, p.attic, p.comment, p.mark = t.readMark(r.comment)
	switch {
	case r.expr == "":
		p.State = Detached
		p.Bounds, p.Default, err = ParseBounds(bounds, t.Key.Kind)
	case r.pending:
		p.State = DetachPending
		fallthrough
	default:
		p.Bounds, p.Default, err = t.Key.parse(r.expr)
	}
	if err != nil && t.ReadOnly != nil {
		p.Foreign, err = r.expr, nil
	}
	return p, wrap(err, "partition %s", p)
}

// ExactSizes reads the sizes of partitions of t, with indexes and TOAST, from their files. For a partition that somebody has locked it waits as
// DDL does, up to Options.Wait, and then names who has.
func (w *Worker) ExactSizes(ctx context.Context, t Table, parts []Partition) (map[uint32]int64, error) {
	sizes := make(map[uint32]int64, len(parts))
	if len(parts) == 0 {
		return sizes, nil
	}
	oids := make([]uint32, len(parts))
	for i, p := range parts {
		oids[i] = p.OID
	}
	err := w.read(ctx, "measure partitions of "+t.String(), func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, exactSizeSQL, oids)
		if err != nil {
			return err
		}
		var oid uint32
		var size int64
		_, err = pgx.ForEachRow(rows, []any{&oid, &size}, func() error { sizes[oid] = size; return nil })
		return err
	})
	return sizes, err
}

// ExactRows counts the rows of p, with those of partitions below it. Like ExactSizes it waits for who has locked it.
func (w *Worker) ExactRows(ctx context.Context, p Partition) (rows int64, err error) {
	err = w.read(ctx, "count the rows of "+p.String(), func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT count(*) FROM "+p.Ident()).Scan(&rows)
	})
	return rows, err
}

// read runs fn, which only reads but needs table locks for that, as DDL would be run.
func (w *Worker) read(ctx context.Context, what string, fn func(pgx.Tx) error) error {
	err := w.o.DB.DDL(ctx, postgres.DDLOptions{LockTimeout: w.o.LockTimeout, Wait: w.o.Wait, What: what}, fn)
	if err != nil && !strings.HasPrefix(err.Error(), what) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return err
}

// The mark is a comment that prune puts on a partition before it detaches it: "auditdb prune "schema"."table" FOR VALUES FROM (…) TO (…)"
// where the partition is going to be dropped, so that a run after a crash knows what to finish, and "auditdb detached …" where it is to be
// kept beside the table, so that its range is known to be pruned; there ` SCHEMA "name"` at the end of the line says where it is to go. Below
// it is the comment that was there before.

const markAttic = " SCHEMA "

func (t Table) markPrefix(a Action) string {
	return map[Action]string{Drop: "auditdb prune ", Detach: "auditdb detached "}[a] + t.Ident() + " "
}

func (t Table) mark(p Partition, a Action, attic string) string {
	text := t.markPrefix(a) + t.Key.ForValues(p.Bounds)
	if attic != "" {
		text += markAttic + pgx.Identifier{attic}.Sanitize()
	}
	if p.comment != "" {
		text += "\n" + p.comment
	}
	return text
}

// readMark takes a comment apart; mark is "" where it has none.
func (t Table) readMark(comment string) (bounds, attic, rest string, mark Action) {
	for _, a := range []Action{Drop, Detach} {
		if after, ok := strings.CutPrefix(comment, t.markPrefix(a)); ok {
			bounds, rest, _ = strings.Cut(after, "\n")
			bounds, attic, _ = strings.Cut(bounds, markAttic)
			attic = strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(attic, `"`), `"`), `""`, `"`)
			return bounds, attic, rest, a
		}
	}
	return "", "", comment, ""
}
