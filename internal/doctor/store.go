package doctor

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

const (
	// Objects are looked up in the catalogs: to_regclass fails where USAGE on the schema is missing.
	rightsSQL = `
SELECT c.oid IS NOT NULL,
  CASE WHEN c.oid IS NULL THEN false
       WHEN c.relkind = 'S' THEN pg_catalog.has_sequence_privilege(c.oid, w.privilege)
       WHEN w.col <> '' THEN EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attname = w.col AND NOT a.attisdropped AND pg_catalog.has_column_privilege(c.oid, a.attnum, w.privilege))
       ELSE pg_catalog.has_table_privilege(c.oid, w.privilege) END
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS w(schema, name, privilege, col, i)
  LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
ORDER BY w.i`

	schemaSQL = `SELECT coalesce((SELECT pg_catalog.has_schema_privilege(oid, 'USAGE') FROM pg_catalog.pg_namespace WHERE nspname = 'auditdb'), false),
  EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'auditdb'),
  coalesce((SELECT pg_catalog.has_table_privilege(c.oid, 'SELECT') FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'auditdb' AND c.relname = 'managed_table'), false),
  coalesce((SELECT pg_catalog.pg_get_userbyid(nspowner)::text FROM pg_catalog.pg_namespace WHERE nspname = 'auditdb'), ''),
  coalesce((SELECT CASE WHEN pg_catalog.current_setting('server_version_num')::int >= 160000 THEN pg_catalog.pg_has_role(nspowner, 'SET') ELSE pg_catalog.pg_has_role(nspowner, 'MEMBER') END
            FROM pg_catalog.pg_namespace WHERE nspname = 'auditdb'), false),
  coalesce((SELECT EXISTS (SELECT FROM pg_catalog.pg_roles su WHERE su.rolsuper AND pg_catalog.pg_has_role(nspowner, su.oid, 'MEMBER')) FROM pg_catalog.pg_namespace WHERE nspname = 'auditdb'), false),
  coalesce((SELECT pg_catalog.pg_has_role(oid, 'MEMBER') FROM pg_catalog.pg_roles WHERE rolname = 'auditdb_admin'), false)`

	managedSQL = `SELECT schema_name, table_name FROM auditdb.managed_table ORDER BY schema_name, table_name`

	// What a partition lacks is looked up for the connected role, and for the role that a command's rights come with.
	tableSQL = `
SELECT c.relkind = 'p', pg_catalog.pg_get_userbyid(c.relowner)::text,
  CASE WHEN pg_catalog.current_setting('server_version_num')::int >= 160000 THEN pg_catalog.pg_has_role(c.relowner, 'SET') ELSE pg_catalog.pg_has_role(c.relowner, 'MEMBER') END,
  EXISTS (SELECT FROM pg_catalog.pg_roles su WHERE su.rolsuper AND pg_catalog.pg_has_role(c.relowner, su.oid, 'MEMBER')),
  coalesce((SELECT pg_catalog.has_schema_privilege(oid, n.oid, 'CREATE') FROM pg_catalog.pg_roles WHERE rolname = 'auditdb_admin'), false),
  pg_catalog.has_schema_privilege(c.relowner, n.oid, 'CREATE'), pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
  pg_catalog.has_table_privilege(c.oid, 'SELECT'), coalesce(pg_catalog.has_table_privilege(ingest.oid, c.oid, 'SELECT'), false),
  ARRAY(SELECT name FROM leaves WHERE NOT inserts ORDER BY 1), ARRAY(SELECT name FROM leaves WHERE NOT inserts AND NOT ingest_inserts ORDER BY 1),
  ARRAY(SELECT name FROM leaves WHERE NOT selects ORDER BY 1), ARRAY(SELECT name FROM leaves WHERE NOT selects AND NOT verifier_selects ORDER BY 1),
  ARRAY(SELECT name FROM leaves WHERE NOT selects AND NOT ingest_selects ORDER BY 1),
  (SELECT count(*) + (SELECT count(*) FROM pg_catalog.pg_index i WHERE i.indrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree(c.oid)))
   FROM pg_catalog.pg_partition_tree(c.oid))
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_roles ingest ON ingest.rolname = 'auditdb_ingest'
WHERE n.nspname = $1 AND c.relname = $2`

	leavesSQL = `
WITH leaves AS (
  SELECT pg_catalog.quote_ident(ln.nspname) || '.' || pg_catalog.quote_ident(l.relname) AS name,
    pg_catalog.has_table_privilege(l.oid, 'INSERT') AS inserts, coalesce(pg_catalog.has_table_privilege(ingest.oid, l.oid, 'INSERT'), false) AS ingest_inserts,
    pg_catalog.has_table_privilege(l.oid, 'SELECT') AS selects, coalesce(pg_catalog.has_table_privilege(ingest.oid, l.oid, 'SELECT'), false) AS ingest_selects,
    coalesce(pg_catalog.has_table_privilege(verifier.oid, l.oid, 'SELECT'), false) AS verifier_selects
  FROM pg_catalog.pg_class p JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
    CROSS JOIN LATERAL pg_catalog.pg_partition_tree(p.oid) t
    JOIN pg_catalog.pg_class l ON l.oid = t.relid JOIN pg_catalog.pg_namespace ln ON ln.oid = l.relnamespace
    LEFT JOIN pg_catalog.pg_roles ingest ON ingest.rolname = 'auditdb_ingest'
    LEFT JOIN pg_catalog.pg_roles verifier ON verifier.rolname = 'auditdb_verifier'
  WHERE pn.nspname = $1 AND p.relname = $2 AND t.isleaf AND t.relid <> p.oid)`

	settingsSQL = `
SELECT pg_catalog.current_setting('fsync') = 'on', current_user::text, pg_catalog.current_setting('server_version_num')::int >= 160000`
	setPathSQL = `SELECT pg_catalog.set_config('search_path', $1, true)`
	resolveSQL = `SELECT coalesce((SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = pg_catalog.to_regclass('audit_log')), '')`
	clockSQL   = `SELECT (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint`
	logKeySQL  = `SELECT coalesce((SELECT key_id FROM auditdb.log ORDER BY seq DESC LIMIT 1), ''),
  coalesce((SELECT pg_catalog.split_part(note, E'\n', 1) FROM auditdb.checkpoint ORDER BY size DESC LIMIT 1), '')`
)

// right is one privilege on one object.
type right struct {
	schema, name, privilege, column string
}

type granted struct{ exists, has bool }

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// loadRights says for each right whether the object exists and the connected role has it.
func loadRights(ctx context.Context, q querier, rights []right) ([]granted, error) {
	columns := [4][]string{}
	for _, r := range rights {
		for i, v := range []string{r.schema, r.name, r.privilege, r.column} {
			columns[i] = append(columns[i], v)
		}
	}
	rows, err := q.Query(ctx, rightsSQL, columns[0], columns[1], columns[2], columns[3])
	if err != nil {
		return nil, fmt.Errorf("look up rights: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (g granted, err error) {
		err = row.Scan(&g.exists, &g.has)
		return g, err
	})
	if err != nil {
		return nil, fmt.Errorf("look up rights: %w", err)
	}
	return list, nil
}

// table is a managed table, or public.audit_log where nothing is known of managed ones.
type table struct {
	schema, name string
	partitioned  bool
	owner        string
	actsAsOwner  bool    // SET ROLE to the owner is allowed
	ownerSuper   bool    // the owner is a superuser, or may become one
	adminCreates bool    // auditdb_admin may create in the table's schema
	ownerCreates bool    // the owner may create in the table's schema
	usage        bool    // on the table's schema
	selects      bool    // from the table as a whole
	roleSelects  bool    // auditdb_ingest may
	noInsert     lacking // against auditdb_ingest
	noSelect     lacking // against auditdb_verifier
	noSealSelect lacking // against auditdb_ingest
	relations    int     // partitions and their indexes, the parents' included
}

// lacking are leaf partitions on which the connected role lacks a right, and those of them on which the role that a command's rights
// come with lacks it too.
type lacking struct{ user, role []string }

// String is for people, sql for statements.
func (t table) String() string { return t.schema + "." + t.name }

func (t table) sql() string { return pgx.Identifier{t.schema, t.name}.Sanitize() }

// schemaState says what can be seen of schema auditdb.
type schemaState struct {
	usage, exists, readable bool
	owner                   string
	actsAsOwner             bool
	ownerSuper              bool // the owner is a superuser, or may become one
	isAdmin                 bool // the connected role is a member of auditdb_admin
}

func loadSchema(ctx context.Context, q querier) (s schemaState, err error) {
	if err := q.QueryRow(ctx, schemaSQL).Scan(&s.usage, &s.exists, &s.readable, &s.owner, &s.actsAsOwner, &s.ownerSuper, &s.isAdmin); err != nil {
		return s, fmt.Errorf("look for schema auditdb: %w", err)
	}
	return s, nil
}

func loadTables(ctx context.Context, q querier, s schemaState) ([]table, error) {
	tables := []table{{schema: "public", name: "audit_log"}}
	if s.usage && s.readable {
		rows, err := q.Query(ctx, managedSQL)
		if err != nil {
			return nil, fmt.Errorf("list managed tables: %w", err)
		}
		if tables, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (t table, err error) {
			err = row.Scan(&t.schema, &t.name)
			return t, err
		}); err != nil {
			return nil, fmt.Errorf("list managed tables: %w", err)
		}
	}
	var found []table
	for _, t := range tables {
		rows, err := q.Query(ctx, leavesSQL+tableSQL, t.schema, t.name)
		if err != nil {
			return nil, fmt.Errorf("look at table %s: %w", t, err)
		}
		some, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (table, error) {
			err := row.Scan(&t.partitioned, &t.owner, &t.actsAsOwner, &t.ownerSuper, &t.adminCreates, &t.ownerCreates, &t.usage, &t.selects, &t.roleSelects,
				&t.noInsert.user, &t.noInsert.role, &t.noSelect.user, &t.noSelect.role, &t.noSealSelect.role, &t.relations)
			t.noSealSelect.user = t.noSelect.user
			return t, err
		})
		if err != nil {
			return nil, fmt.Errorf("look at table %s: %w", t, err)
		}
		found = append(found, some...)
	}
	return found, nil
}
