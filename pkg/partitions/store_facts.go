package partitions

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

// The roles that get rights on the leaves of a table with integrity on.
const (
	ingestRole   = "auditdb_ingest"
	verifierRole = "auditdb_verifier"
)

// facts is what a new partition takes from its table and from the newest of its siblings.
type facts struct {
	user          string // who is connected
	rowSecurity   bool
	storage       []string // clauses of CREATE TABLE: USING, WITH, TABLESPACE
	after         []string // ALTER TABLE … actions for columns and replica identity, after ATTACH
	replicaIndex  uint32   // the table's own index that is the replica identity; 0: none
	grants        []string // "SELECT ON TABLE %s TO role"
	guards        []string // names of the triggers that refuse TRUNCATE
	incoming      []string // foreign keys of other tables on this one
	foreignKeys   bool     // the table has some of its own
	columns       []string // those that can be inserted
	moveTriggers  []string // row triggers but the guard that would fire when rows move out of the default partition
	missingGrants bool     // siblings have grants that were not taken over, because of row security
	strangeIndex  bool     // the sibling's replica identity is an index that the table has not
	revokes       []string // roles that would have rights by default on a new table, past the row security of the partitioned one
	publications  []Publication
}

// Publication is a publication that has something to do with a table's partitions.
type Publication struct {
	Name    string
	Via     string // what is published: all_tables, schema, table (the partitioned one or one above it), partition (some of its own)
	ViaRoot bool   // changes are published as the partitioned table's own
}

// Member says whether a new partition belongs to the publication by itself.
func (p Publication) Member() bool { return p.Via != "partition" }

const (
	factsSQL = `
SELECT current_user::text, c.relrowsecurity OR c.relforcerowsecurity, c.relreplident::text,
  coalesce((SELECT indexrelid FROM pg_index WHERE indrelid = c.oid AND indisreplident), 0),
  EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f'),
  ARRAY(SELECT quote_ident(k.conname) || ' of ' || k.conrelid::regclass FROM pg_constraint k WHERE k.confrelid = c.oid AND k.contype = 'f' AND k.conparentid = 0 ORDER BY 1),
  ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum),
  ARRAY(SELECT t.tgname::text FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE t.tgrelid = c.oid AND t.tgtype & 32 <> 0 AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND p.proname = 'guard' AND n.nspname = 'auditdb' ORDER BY 1),
  coalesce((SELECT spcname::text FROM pg_tablespace WHERE oid = c.reltablespace), ''),
  ARRAY(SELECT r.rolname::text FROM pg_roles r WHERE r.rolname IN ('auditdb_ingest', 'auditdb_verifier'))
FROM pg_class c WHERE c.oid = $1`
	siblingSQL = `
SELECT coalesce(c.reloptions, '{}'), coalesce((SELECT t.reloptions FROM pg_class t WHERE t.oid = c.reltoastrelid), '{}'),
  coalesce((SELECT spcname::text FROM pg_tablespace WHERE oid = c.reltablespace), ''),
  coalesce((SELECT amname::text FROM pg_am WHERE oid = c.relam AND amname <> current_setting('default_table_access_method')), ''),
  c.relreplident::text, coalesce((SELECT h.inhparent FROM pg_index x JOIN pg_inherits h ON h.inhrelid = x.indexrelid WHERE x.indrelid = c.oid AND x.indisreplident), 0)
FROM pg_class c WHERE c.oid = $1`
	// Of a column's options only those that people set; servers may keep others there for themselves.
	columnSettingsSQL = `
SELECT a.attname, coalesce(a.attstattarget, -1)::int, ARRAY(SELECT o FROM unnest(a.attoptions) o WHERE starts_with(o, 'n_distinct') ORDER BY o),
  CASE WHEN a.attstorage <> p.attstorage THEN CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'x' THEN 'EXTENDED' ELSE 'MAIN' END ELSE '' END,
  CASE WHEN a.attcompression <> p.attcompression THEN CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' ELSE 'default' END ELSE '' END
FROM pg_attribute a LEFT JOIN pg_inherits h ON h.inhrelid = a.attrelid LEFT JOIN pg_attribute p ON p.attrelid = h.inhparent AND p.attname = a.attname
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`
	grantsSQL = `
SELECT '', x.privilege_type, CASE WHEN x.grantee = 0 THEN '' ELSE pg_get_userbyid(x.grantee)::text END, x.is_grantable
FROM pg_class c, aclexplode(c.relacl) x WHERE c.oid = $1 AND x.grantee <> c.relowner
  AND NOT (x.privilege_type = 'INSERT' AND pg_get_userbyid(x.grantee) = 'auditdb_ingest') AND NOT (x.privilege_type = 'SELECT' AND pg_get_userbyid(x.grantee) = 'auditdb_verifier')
UNION ALL
SELECT quote_ident(a.attname), x.privilege_type, CASE WHEN x.grantee = 0 THEN '' ELSE pg_get_userbyid(x.grantee)::text END, x.is_grantable
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid, aclexplode(a.attacl) x WHERE c.oid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND x.grantee <> c.relowner
ORDER BY 3, 2, 1`
	defaultGrantsSQL = `
SELECT DISTINCT CASE WHEN x.grantee = 0 THEN '' ELSE pg_get_userbyid(x.grantee)::text END FROM pg_class c JOIN pg_default_acl d ON d.defaclrole = c.relowner, aclexplode(d.defaclacl) x
WHERE c.oid = $1 AND d.defaclobjtype = 'r' AND d.defaclnamespace IN (0, c.relnamespace) AND x.grantee <> c.relowner ORDER BY 1`
	// Before 15 there are no publications of schemas.
	versionSQL      = `SELECT current_setting('server_version_num')::int / 10000`
	publicationsSQL = `
SELECT b.pubname, CASE WHEN b.puballtables THEN 'all_tables' WHEN %s THEN 'schema'
  WHEN EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = b.oid AND r.prrelid IN (SELECT pg_partition_ancestors($1))) THEN 'table' ELSE 'partition' END, b.pubviaroot
FROM pg_publication b WHERE b.puballtables OR %[1]s
  OR EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = b.oid AND r.prrelid IN (SELECT pg_partition_ancestors($1) UNION SELECT h.inhrelid FROM pg_inherits h WHERE h.inhparent = $1))
ORDER BY 1`
	publishedSchemaSQL = `EXISTS (SELECT FROM pg_publication_namespace s JOIN pg_class c ON c.relnamespace = s.pnnspid WHERE s.pnpubid = b.oid AND c.oid = $1)`

	moveTriggersSQL = `
SELECT quote_ident(t.tgname) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE t.tgrelid = $1 AND t.tgtype & 8 <> 0 AND t.tgenabled <> 'D' AND NOT (n.nspname = 'auditdb' AND p.proname = 'guard') AND NOT (t.tgisinternal AND t.tgconstraint <> 0) ORDER BY 1`
	namesSQL = `
SELECT c.relname::text, c.oid, c.relkind::text, coalesce((SELECT h.inhparent FROM pg_inherits h WHERE h.inhrelid = c.oid LIMIT 1), 0),
  c.relkind = 'r' AND NOT c.relispartition AND EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c' AND k.conname = $4)
  AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid) AND obj_description(c.oid, 'pg_class') IS NULL
  AND c.relowner = (SELECT relowner FROM pg_class WHERE oid = $3) AND NOT EXISTS (SELECT FROM pg_inherits h WHERE c.oid IN (h.inhrelid, h.inhparent))
  AND NOT EXISTS (
    (SELECT attname, atttypid, atttypmod, attcollation, attnotnull, attgenerated FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
     EXCEPT SELECT attname, atttypid, atttypmod, attcollation, attnotnull, attgenerated FROM pg_attribute WHERE attrelid = $3 AND attnum > 0 AND NOT attisdropped)
    UNION ALL
    (SELECT attname, atttypid, atttypmod, attcollation, attnotnull, attgenerated FROM pg_attribute WHERE attrelid = $3 AND attnum > 0 AND NOT attisdropped
     EXCEPT SELECT attname, atttypid, atttypmod, attcollation, attnotnull, attgenerated FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = ANY ($2)
UNION ALL
SELECT t.typname::text, 0, 'T', 0, false FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE n.nspname = $1 AND t.typname = ANY ($2) AND t.typrelid = 0 AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)`
)

// readFacts reads what new partitions of t need. sibling is the newest ordinary partition, nil when there is none.
func readFacts(ctx context.Context, q Querier, t Table, sibling, byDefault *Partition) (facts, error) {
	var f facts
	var identity, space string
	var roles []string
	err := q.QueryRow(ctx, factsSQL, t.OID).Scan(&f.user, &f.rowSecurity, &identity, &f.replicaIndex, &f.foreignKeys, &f.incoming, &f.columns, &f.guards, &space, &roles)
	if err != nil {
		return facts{}, fmt.Errorf("read the settings of %s: %w", t, err)
	}
	var with []string
	access := ""
	settings := t.OID
	if sibling != nil {
		settings = sibling.OID
		var options, toast []string
		if err := q.QueryRow(ctx, siblingSQL, sibling.OID).Scan(&options, &toast, &space, &access, &identity, &f.replicaIndex); err != nil {
			return facts{}, fmt.Errorf("read the settings of %s: %w", sibling, err)
		}
		with = append(storageOptions("", options), storageOptions("toast.", toast)...)
		if err := f.readGrants(ctx, q, *sibling); err != nil {
			return facts{}, err
		}
	}
	if access != "" {
		f.storage = append(f.storage, "USING "+pgx.Identifier{access}.Sanitize())
	}
	if len(with) > 0 {
		f.storage = append(f.storage, "WITH ("+strings.Join(with, ", ")+")")
	}
	if space != "" {
		f.storage = append(f.storage, "TABLESPACE "+pgx.Identifier{space}.Sanitize())
	}
	if t.Integrity {
		for _, role := range roles {
			f.grants = append(f.grants, map[string]string{ingestRole: "INSERT", verifierRole: "SELECT"}[role]+" ON TABLE %s TO "+role)
		}
	}
	if err := f.readColumnSettings(ctx, q, settings); err != nil {
		return facts{}, err
	}
	if f.rowSecurity {
		if f.revokes, err = texts(ctx, q, defaultGrantsSQL, t.OID); err != nil {
			return facts{}, fmt.Errorf("read the default privileges of %s: %w", t.Owner, err)
		}
	}
	if f.publications, err = readPublications(ctx, q, t); err != nil {
		return facts{}, err
	}
	f.strangeIndex = identity == "i" && f.replicaIndex == 0
	switch identity {
	case "f":
		f.after = append(f.after, "REPLICA IDENTITY FULL")
	case "n":
		f.after = append(f.after, "REPLICA IDENTITY NOTHING")
	}
	if identity != "i" {
		f.replicaIndex = 0
	}
	if byDefault != nil {
		if f.moveTriggers, err = texts(ctx, q, moveTriggersSQL, byDefault.OID); err != nil {
			return facts{}, fmt.Errorf("read the triggers of %s: %w", byDefault, err)
		}
	}
	return f, nil
}

func texts(ctx context.Context, q Querier, sql string, args ...any) ([]string, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// storageOptions writes reloptions ("name=value") as a WITH clause takes them.
func storageOptions(prefix string, options []string) []string {
	out := make([]string, 0, len(options))
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		out = append(out, prefix+pgx.Identifier{name}.Sanitize()+" = "+quoteText(value))
	}
	return out
}

// readGrants takes over what others may do with sibling. A grant on a leaf bypasses the table's row security, so that none is made then.
func (f *facts) readGrants(ctx context.Context, q Querier, sibling Partition) error {
	rows, err := q.Query(ctx, grantsSQL, sibling.OID)
	if err != nil {
		return fmt.Errorf("read the grants on %s: %w", sibling, err)
	}
	var column, privilege, grantee string
	var grantable bool
	_, err = pgx.ForEachRow(rows, []any{&column, &privilege, &grantee, &grantable}, func() error {
		if f.rowSecurity {
			f.missingGrants = true
			return nil
		}
		to, option := "PUBLIC", ""
		if grantee != "" {
			to = pgx.Identifier{grantee}.Sanitize()
		}
		if grantable {
			option = " WITH GRANT OPTION"
		}
		if column != "" {
			privilege += " (" + strings.ReplaceAll(column, "%", "%%") + ")"
		}
		f.grants = append(f.grants, privilege+" ON TABLE %s TO "+strings.ReplaceAll(to, "%", "%%")+option)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the grants on %s: %w", sibling, err)
	}
	return nil
}

// readPublications reads which publications new partitions of t belong to, or some of its partitions do.
func readPublications(ctx context.Context, q Querier, t Table) ([]Publication, error) {
	version, ofSchema := 0, "false"
	if err := q.QueryRow(ctx, versionSQL).Scan(&version); err != nil {
		return nil, fmt.Errorf("read the server's version: %w", err)
	}
	if version >= 15 {
		ofSchema = publishedSchemaSQL
	}
	rows, err := q.Query(ctx, fmt.Sprintf(publicationsSQL, ofSchema), t.OID)
	if err != nil {
		return nil, fmt.Errorf("read the publications of %s: %w", t, err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Publication])
	return found, wrap(err, "read the publications of %s", t)
}

// readColumnSettings takes over the settings of the columns of oid: of a partition's storage and compression only what differs from the
// table's, which LIKE has copied.
func (f *facts) readColumnSettings(ctx context.Context, q Querier, oid uint32) error {
	rows, err := q.Query(ctx, columnSettingsSQL, oid)
	if err != nil {
		return fmt.Errorf("read column settings: %w", err)
	}
	var column, storage, compression string
	var target int
	var options []string
	_, err = pgx.ForEachRow(rows, []any{&column, &target, &options, &storage, &compression}, func() error {
		alter := "ALTER COLUMN " + pgx.Identifier{column}.Sanitize()
		if storage != "" {
			f.after = append(f.after, alter+" SET STORAGE "+storage)
		}
		if compression != "" {
			f.after = append(f.after, alter+" SET COMPRESSION "+compression)
		}
		if target >= 0 {
			f.after = append(f.after, fmt.Sprintf("%s SET STATISTICS %d", alter, target))
		}
		if len(options) > 0 {
			f.after = append(f.after, alter+" SET ("+strings.Join(storageOptions("", options), ", ")+")")
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read column settings: %w", err)
	}
	return nil
}

// namesake is a relation or type that has a name which a new partition would get.
type namesake struct {
	OID    uint32
	Kind   string
	Parent uint32 // of a partition
	Adopt  bool   // an empty plain table with the same columns and owner and the check that only creating puts on it: left by a run that crashed
}

func readNames(ctx context.Context, q Querier, t Table, names []string) (map[string]namesake, error) {
	rows, err := q.Query(ctx, namesSQL, t.Schema, names, t.OID, rangeCheck)
	if err != nil {
		return nil, fmt.Errorf("look for names in schema %s: %w", t.Schema, err)
	}
	taken := map[string]namesake{}
	var name string
	var n namesake
	_, err = pgx.ForEachRow(rows, []any{&name, &n.OID, &n.Kind, &n.Parent, &n.Adopt}, func() error { taken[name] = n; return nil })
	if err != nil {
		return nil, fmt.Errorf("look for names in schema %s: %w", t.Schema, err)
	}
	for name, n := range taken {
		if !n.Adopt {
			continue
		}
		p := Partition{Schema: t.Schema, Name: name}
		if err := q.QueryRow(ctx, "SELECT NOT EXISTS (SELECT FROM "+p.Ident()+")").Scan(&n.Adopt); err != nil {
			return nil, fmt.Errorf("look into %s: %w", p, err)
		}
		taken[name] = n
	}
	return taken, nil
}

// countDefaultRows counts the rows of the default partition in each of the ranges, which are sorted and do not overlap, in one pass.
func countDefaultRows(ctx context.Context, q Querier, t Table, byDefault Partition, ranges []Bounds) ([]int64, error) {
	counts := make([]int64, len(ranges))
	if len(ranges) == 0 {
		return counts, nil
	}
	edges := make([]string, 0, 2*len(ranges))
	at := map[int]int{} // width_bucket's number → range
	for i, r := range ranges {
		if len(edges) == 0 || edges[len(edges)-1] != t.Key.literal(r.From) {
			edges = append(edges, t.Key.literal(r.From))
		}
		at[len(edges)] = i
		edges = append(edges, t.Key.literal(r.To))
	}
	column := pgx.Identifier{t.Key.Column}.Sanitize()
	sql := fmt.Sprintf("SELECT width_bucket(%s, ARRAY[%s]::%s[]), count(*) FROM ONLY %s WHERE %s GROUP BY 1", column, strings.Join(edges, ", "), t.Key.Kind.SQLType(),
		byDefault.Ident(), t.Key.within(Bounds{From: ranges[0].From, To: ranges[len(ranges)-1].To}))
	rows, err := q.Query(ctx, sql)
	if err != nil {
		return nil, explainRead(t, "count rows of "+byDefault.String(), err)
	}
	var bucket int
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&bucket, &n}, func() error {
		if i, ok := at[bucket]; ok {
			counts[i] = n
		}
		return nil
	})
	if err != nil {
		return nil, explainRead(t, "count rows of "+byDefault.String(), err)
	}
	return counts, nil
}

// explainRead says of a read that the server has refused what to grant.
func explainRead(t Table, what string, err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == postgres.InsufficientPrivilege {
		return fault.New(fault.Permission, missingGrant(t, pg.Message), "%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
