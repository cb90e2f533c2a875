package partitions

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

// Querier is what reads need: a pool, a connection or a transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// DefaultTable is the table to work on where nothing is registered and none is named.
const DefaultTable = "public.audit_log"

const (
	searchPathSQL = `SELECT set_config('search_path', $1, true)`
	// From 17 on to_regclass takes a malformed name for one that does not exist; parse_ident refuses it everywhere.
	lookupSQL   = `SELECT pg_catalog.to_regclass($1)::oid WHERE pg_catalog.parse_ident($1) IS NOT NULL`
	namesakeSQL = `
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('p', 'r') AND c.relname = (SELECT p[array_upper(p, 1)] FROM parse_ident($1) p) AND has_schema_privilege(n.oid, 'USAGE')
ORDER BY c.relkind = 'p' DESC, 1 LIMIT 1`
	tableSQL = `
SELECT c.oid, n.nspname, c.relname, c.relkind::text, c.relispartition, pg_get_userbyid(c.relowner), coalesce(pt.partstrat::text, ''), coalesce(pt.partnatts, 0),
  coalesce(a.attname, ''), coalesce(format_type(a.atttypid, NULL), ''), coalesce(o.opcdefault, false)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_partitioned_table pt ON pt.partrelid = c.oid
  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = pt.partattrs[0] AND a.attnum > 0
  LEFT JOIN pg_opclass o ON o.oid = pt.partclass[0]
WHERE c.oid = $1`
	ownTableSQL = `SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'auditdb' AND c.relname = $1)`
	managedSQL  = `SELECT table_id, partition_interval, time_zone, ahead, integrity = 'on', block_ids FROM auditdb.managed_table WHERE schema_name = $1 AND table_name = $2`
	allSQL      = `SELECT schema_name, table_name FROM auditdb.managed_table ORDER BY schema_name, table_name`

	// pg_get_expr gets no relation: on newer servers it would lock it, and wait behind VACUUM FULL.
	loadSQL = `
SELECT c.oid, n.nspname, c.relname, c.relkind::text, i.inhdetachpending, coalesce(pg_get_expr(c.relpartbound, 0), ''), %[2]s, pg_get_userbyid(c.relowner),
  coalesce(d.description, ''), %[1]s
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_description d ON d.objoid = c.oid AND d.classoid = 'pg_class'::regclass AND d.objsubid = 0
WHERE i.inhparent = $1
UNION ALL
SELECT c.oid, n.nspname, c.relname, c.relkind::text, false, '', %[2]s, pg_get_userbyid(c.relowner), d.description, %[1]s
FROM pg_description d JOIN pg_class c ON c.oid = d.objoid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE d.classoid = 'pg_class'::regclass AND d.objsubid = 0 AND (starts_with(d.description, $2) OR starts_with(d.description, $3)) AND c.relkind = 'r' AND NOT c.relispartition`
	// Until the first VACUUM or ANALYZE the live rows that the statistics collector counted stand in, and sizes are not known.
	rowsSQL     = `CASE WHEN c.reltuples < 0 THEN coalesce(nullif(pg_stat_get_live_tuples(c.oid), 0), -1) ELSE c.reltuples::bigint END`
	noSizeSQL   = `-1::bigint`
	pageSizeSQL = `CASE WHEN c.relkind = 'p' OR c.reltuples < 0 AND pg_stat_get_live_tuples(c.oid) > 0 THEN -1 ELSE current_setting('block_size')::bigint * (greatest(c.relpages, 0)
    + coalesce((SELECT greatest(t.relpages, 0) FROM pg_class t WHERE t.oid = c.reltoastrelid), 0)
    + coalesce((SELECT sum(greatest(x.relpages, 0)) FROM pg_index ix JOIN pg_class x ON x.oid = ix.indexrelid WHERE ix.indrelid IN (c.oid, c.reltoastrelid)), 0)::bigint) END`
	exactSizeSQL = `
SELECT r.oid, CASE WHEN c.relkind = 'p' THEN (SELECT coalesce(sum(pg_total_relation_size(t.relid)), 0)::bigint FROM pg_partition_tree(c.oid) t) ELSE coalesce(pg_total_relation_size(c.oid), 0) END
FROM unnest($1::oid[]) AS r(oid) JOIN pg_class c ON c.oid = r.oid`
)

// Resolve finds the table called name, "[schema.]table" quoted as in SQL, under the search path of the connected user. Not found, not
// partitioned and unsupported key are three errors of class usage (exit 2).
func Resolve(ctx context.Context, db *postgres.DB, name string) (Table, error) {
	var t Table
	err := db.TxWith(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		oid, err := lookUp(ctx, tx, db.UserSearchPath(), name)
		if err != nil {
			return err
		}
		if oid == 0 {
			return notFound(ctx, tx, name)
		}
		t, err = readTable(ctx, tx, oid)
		return err
	})
	if err != nil {
		return Table{}, fmt.Errorf("table %s: %w", name, err)
	}
	return t, nil
}

// lookUp returns the oid of name, 0 when there is none.
func lookUp(ctx context.Context, tx pgx.Tx, searchPath, name string) (uint32, error) {
	var oid *uint32
	_, err := tx.Exec(ctx, searchPathSQL, searchPath)
	if err == nil {
		err = tx.QueryRow(ctx, lookupSQL, name).Scan(&oid)
	}
	switch state := postgres.SQLState(err); {
	case err == nil:
	case strings.HasPrefix(state, "42") && state != postgres.InsufficientPrivilege, strings.HasPrefix(state, "0A"), strings.HasPrefix(state, "22"):
		return 0, fault.New(fault.Usage, `write [schema.]table, with double quotes where SQL needs them, e.g. public."Audit Log"`, "it is not a name of a table in this database: %w", err)
	default:
		return 0, err
	}
	if _, err := tx.Exec(ctx, searchPathSQL, ""); err != nil {
		return 0, err
	}
	if oid == nil {
		return 0, nil
	}
	return *oid, nil
}

func notFound(ctx context.Context, tx pgx.Tx, name string) error {
	hint := "write schema.table if its schema is not on the search path"
	var other string
	if err := tx.QueryRow(ctx, namesakeSQL, name).Scan(&other); err == nil {
		hint = "did you mean " + other + "?"
	}
	return fault.New(fault.Usage, hint, "it does not exist")
}

func readTable(ctx context.Context, tx pgx.Tx, oid uint32) (Table, error) {
	t := Table{Location: time.UTC, Interval: Monthly, Ahead: 3}
	var kind, strategy, typ string
	var isPartition, plainOrder bool
	var columns int
	err := tx.QueryRow(ctx, tableSQL, oid).Scan(&t.OID, &t.Schema, &t.Name, &kind, &isPartition, &t.Owner, &strategy, &columns, &t.Key.Column, &typ, &plainOrder)
	if err != nil {
		return Table{}, err
	}
	if kind != "p" {
		return Table{}, fault.New(fault.Usage, "name a table made with PARTITION BY RANGE", "it is not a partitioned table but %s", describeKind(kind, isPartition))
	}
	if t.Key.Kind, err = keyKind(strategy, columns, t.Key.Column, typ, plainOrder); err != nil {
		return Table{}, err
	}
	if err := t.readRegistration(ctx, tx); err != nil || t.registered {
		return t, err
	}
	c, err := Load(ctx, tx, t)
	if err != nil {
		return Table{}, err
	}
	if i, ok := c.Interval(t.keyZone()); ok {
		t.Interval = i
	}
	return t, nil
}

func describeKind(kind string, isPartition bool) string {
	switch {
	case isPartition:
		return "a partition itself"
	case kind == "v":
		return "a view"
	case kind == "m":
		return "a materialized view"
	case kind == "f":
		return "a foreign table"
	case kind == "r":
		return "a plain table"
	}
	return "something else"
}

// keyKind says what kind of key the table has, or why it cannot be worked on.
func keyKind(strategy string, columns int, column, typ string, plainOrder bool) (KeyKind, error) {
	const hint = "supported are range partitions by one column of type timestamptz, timestamp or date"
	switch {
	case strategy == "l":
		return "", fault.New(fault.Usage, hint, "unsupported key: it is partitioned by list")
	case strategy == "h":
		return "", fault.New(fault.Usage, hint, "unsupported key: it is partitioned by hash")
	case columns != 1:
		return "", fault.New(fault.Usage, hint, "unsupported key: it is partitioned by %d columns", columns)
	case column == "":
		return "", fault.New(fault.Usage, hint, "unsupported key: it is partitioned by an expression")
	case !plainOrder:
		return "", fault.New(fault.Usage, hint, "unsupported key: column %s has an operator class of its own", column)
	}
	switch typ {
	case "timestamp with time zone":
		return KeyTimestamptz, nil
	case "timestamp without time zone":
		return KeyTimestamp, nil
	case "date":
		return KeyDate, nil
	}
	return "", fault.New(fault.Usage, hint, "unsupported key: column %s has type %s", column, typ)
}

func (t *Table) readRegistration(ctx context.Context, q Querier) error {
	there, err := hasOwnTable(ctx, q, "managed_table")
	if err != nil || !there {
		return err
	}
	var id int16
	var zone string
	err = q.QueryRow(ctx, managedSQL, t.Schema, t.Name).Scan(&id, &t.Interval, &zone, &t.Ahead, &t.Integrity, &t.BlockIDs)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read auditdb.managed_table: %w", err)
	}
	t.ManagedID, t.registered = &id, true
	return t.SetZone(zone)
}

// SetZone sets the zone that bounds are computed in, by its IANA name. An error has class usage.
func (t *Table) SetZone(name string) error {
	loc, err := time.LoadLocation(name)
	if err != nil || name == "" || name == "Local" {
		return fault.New(fault.Usage, "use an IANA name such as UTC or Europe/Paris", "unknown time zone %q", name)
	}
	t.Location = loc
	return nil
}

// hasOwnTable says whether the database has a table of auditdb's schema.
func hasOwnTable(ctx context.Context, q Querier, name string) (there bool, err error) {
	if err := q.QueryRow(ctx, ownTableSQL, name).Scan(&there); err != nil {
		return false, fmt.Errorf("look for auditdb.%s: %w", name, err)
	}
	return there, nil
}

// Registered returns the names of all registered tables in order, quoted; DefaultTable when there are none.
func Registered(ctx context.Context, q Querier) ([]string, error) {
	there, err := hasOwnTable(ctx, q, "managed_table")
	if err != nil || !there {
		return []string{DefaultTable}, err
	}
	rows, err := q.Query(ctx, allSQL)
	if err != nil {
		return nil, fmt.Errorf("list the registered tables: %w", err)
	}
	names, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		var schema, name string
		err := row.Scan(&schema, &name)
		return displayName(schema, name), err
	})
	if err != nil {
		return nil, fmt.Errorf("list the registered tables: %w", err)
	}
	if len(names) == 0 {
		names = []string{DefaultTable}
	}
	return names, nil
}

// Load reads the partitions of t with one catalog query, without their sizes.
func Load(ctx context.Context, q Querier, t Table) (*Catalog, error) {
	return load(ctx, q, t, noSizeSQL)
}

// LoadSizes is Load with sizes as VACUUM and ANALYZE last saw them.
func LoadSizes(ctx context.Context, q Querier, t Table) (*Catalog, error) {
	return load(ctx, q, t, pageSizeSQL)
}

func load(ctx context.Context, q Querier, t Table, sizeSQL string) (*Catalog, error) {
	rows, err := q.Query(ctx, fmt.Sprintf(loadSQL, sizeSQL, rowsSQL), t.OID, t.markPrefix(Drop), t.markPrefix(Detach))
	if err != nil {
		return nil, fmt.Errorf("list partitions of %s: %w", t, err)
	}
	parts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Partition, error) { return scanPartition(row, t) })
	if err != nil {
		return nil, fmt.Errorf("list partitions of %s: %w", t, err)
	}
	return NewCatalog(parts), nil
}

func scanPartition(row pgx.CollectableRow, t Table) (Partition, error) {
	var p Partition
	var kind, expr, comment string
	var pending bool
	if err := row.Scan(&p.OID, &p.Schema, &p.Name, &kind, &pending, &expr, &p.RowsEstimate, &p.Owner, &comment, &p.SizeBytes); err != nil {
		return Partition{}, err
	}
	p.Kind, p.SizeEstimated, p.State = kind[0], true, Attached
	var bounds string
	bounds, p.attic, p.comment, p.mark = t.readMark(comment)
	switch {
	case pending:
		p.State = DetachPending
	case expr == "":
		p.State, expr = Detached, bounds
	}
	var err error
	if p.Bounds, p.Default, err = ParseBounds(expr, t.Key.Kind); err != nil {
		return Partition{}, fmt.Errorf("partition %s: %w", p, err)
	}
	return p, nil
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
	text := t.markPrefix(a) + t.Key.forValues(p.Bounds)
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
