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
	managedSQL  = `SELECT table_id, key_kind, partition_interval, time_zone, ahead, integrity = 'on', block_ids FROM auditdb.managed_table WHERE schema_name = $1 AND table_name = $2`
	allSQL      = `SELECT schema_name, table_name FROM auditdb.managed_table ORDER BY schema_name, table_name`
	boundsSQL   = `SELECT pg_get_expr(c.relpartbound, 0) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = $1 AND c.relpartbound IS NOT NULL`
)

// Resolve finds the table called name, "[schema.]table" quoted as in SQL, under the search path of the connected user. Not found, not
// partitioned and unsupported key are three errors of class usage (exit 2).
func Resolve(ctx context.Context, db *postgres.DB, name string) (Table, error) {
	t, err := ResolveToRead(ctx, db, name)
	if err == nil && t.ReadOnly != nil {
		return Table{}, fmt.Errorf("table %s: %w", name, t.ReadOnly)
	}
	return t, err
}

// ResolveToRead is Resolve for those who change nothing: it also finds tables whose partitions can be listed but not worked on, where
// Table.ReadOnly says why.
func ResolveToRead(ctx context.Context, db *postgres.DB, name string) (Table, error) {
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
	if postgres.SQLState(err) == postgres.InsufficientPrivilege {
		err = explainLookUp(ctx, db, err)
	}
	if err != nil {
		return Table{}, fmt.Errorf("table %s: %w", name, err)
	}
	return t, nil
}

// explainLookUp says what to grant where a table may not be looked up: the right to use its schema.
func explainLookUp(ctx context.Context, db *postgres.DB, err error) error {
	var pg *pgconn.PgError
	user, unknown := currentUser(ctx, db.Pool())
	if !errors.As(err, &pg) || unknown != nil {
		return err
	}
	schema, ok := strings.CutPrefix(pg.Message, "permission denied for schema ")
	if !ok {
		return err
	}
	return fault.New(fault.Permission, "GRANT USAGE ON SCHEMA "+pgx.Identifier{schema}.Sanitize()+" TO "+pgx.Identifier{user}.Sanitize(), "%w", err)
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
	if t.Key.Kind, t.ReadOnly = keyKind(strategy, columns, t.Key.Column, typ, plainOrder); t.ReadOnly != nil {
		return t, nil //nolint:nilerr // it stays with the table
	}
	column := t.Key.Kind
	if err := t.readRegistration(ctx, tx); err != nil {
		return t, err
	}
	if t.registered && column != KeyUUIDv7 && column != someEpoch {
		return t, nil
	}
	exprs, err := texts(ctx, tx, boundsSQL, oid)
	if err != nil {
		return t, fmt.Errorf("list partitions of %s: %w", t, err)
	}
	t.learn(exprs)
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

// someEpoch stands for a number whose unit is not known yet.
const someEpoch KeyKind = ""

// keyKind says what kind of key the table has, or why it cannot be worked on.
func keyKind(strategy string, columns int, column, typ string, plainOrder bool) (KeyKind, error) {
	const hint = "supported are range partitions by one column of type timestamptz, timestamp, date, uuid (version 7) or bigint (time since 1970)"
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
	case "uuid":
		return KeyUUIDv7, nil
	case "bigint":
		return someEpoch, nil
	}
	return "", fault.New(fault.Usage, hint, "unsupported key: column %s has type %s", column, typ)
}

func (t *Table) readRegistration(ctx context.Context, q Querier) error {
	there, err := hasOwnTable(ctx, q, "managed_table")
	if err != nil || !there {
		return err
	}
	var id int16
	var kind, interval, zone string
	err = q.QueryRow(ctx, managedSQL, t.Schema, t.Name).Scan(&id, &kind, &interval, &zone, &t.Ahead, &t.Integrity, &t.BlockIDs)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read auditdb.managed_table: %w", err)
	}
	t.ManagedID, t.registered = &id, true
	if t.Interval, err = ParseInterval(interval); err != nil {
		return fmt.Errorf("read auditdb.managed_table: %w", err)
	}
	if t.Key.Kind == someEpoch && KeyKind(kind).unit() > 0 {
		t.Key.Kind = KeyKind(kind)
	}
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
