package partitions

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/postgres"
)

// defaultSQL finds what Registered and Resolve find where no table is named, in one statement: a new connection plans each of theirs, and
// each join, with nothing at hand.
const defaultSQL = `
SELECT tables, schema_name, table_name, table_id, partition_interval, time_zone, ahead, sealed, block_ids, coalesce(oid, 0), coalesce(pg_get_partkeydef(oid), ''),
  coalesce((SELECT ARRAY[a.attname::text, format_type(a.atttypid, NULL), 'RANGE (' || quote_ident(a.attname) || ')'] FROM pg_attribute a
    WHERE a.attrelid = oid AND a.attnum = (SELECT p.partattrs[0] FROM pg_partitioned_table p WHERE p.partrelid = oid)), '{"","",""}'),
  (SELECT count(*) FROM pg_inherits i WHERE i.inhparent = oid)
FROM (SELECT count(*) OVER () AS tables, schema_name, table_name, table_id, partition_interval, time_zone, ahead, integrity = 'on' AS sealed, block_ids,
  to_regclass(quote_ident(schema_name) || '.' || quote_ident(table_name))::oid AS oid FROM auditdb.managed_table) m
WHERE tables = 1 OR (schema_name, table_name) = ('public', 'audit_log')`

// ResolveDefault finds the table to read where none is named, and says how many partitions it has. Its owner is
// left open. ok is false where that takes Registered
// and Resolve: nothing is registered, none of several is the default, or its key is no column of a type for times.
func ResolveDefault(ctx context.Context, q Querier) (t Table, partitions int, ok bool, err error) {
	t = Table{Location: time.UTC, registered: true}
	var tables int // asked in one round trip: it is asked once
	var id int16
	var interval, zone, definition string
	var key []string
	err = q.QueryRow(ctx, defaultSQL, pgx.QueryExecModeExec).Scan(&tables, &t.Schema, &t.Name, &id, &interval, &zone, &t.Ahead, &t.Integrity, &t.BlockIDs, &t.OID, &definition, &key, &partitions)
	if state := postgres.SQLState(err); errors.Is(err, pgx.ErrNoRows) || state == postgres.UndefinedTable || state == postgres.InvalidSchemaName || state == postgres.InsufficientPrivilege {
		return t, 0, false, nil
	}
	if err != nil {
		return t, 0, false, err
	}
	t.ManagedID, t.Key.Column = &id, key[0]
	if definition == "" || definition != key[2] {
		return t, 0, false, nil
	}
	if t.Key.Kind, err = keyKind("r", 1, t.Key.Column, key[1], true); err != nil || t.Key.Kind == KeyUUIDv7 || t.Key.Kind == someEpoch {
		return t, 0, false, nil //nolint:nilerr // Resolve says it
	}
	if t.Interval, err = ParseInterval(interval); err != nil {
		return t, 0, false, nil //nolint:nilerr // Resolve says it
	}
	return t, partitions, t.SetZone(zone) == nil, nil
}
