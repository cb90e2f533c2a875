package partitions

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

const (
	plainSQL = `
SELECT c.oid, n.nspname, c.relname, c.relkind::text, c.relispartition, pg_get_userbyid(c.relowner) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1`
	// $2 is the key's column.
	shapeSQL = `
SELECT c.relpersistence::text, c.relrowsecurity, c.relforcerowsecurity, c.relreplident::text, coalesce(obj_description(c.oid, 'pg_class'), ''),
  coalesce((SELECT spcname::text FROM pg_tablespace WHERE oid = c.reltablespace), ''), current_user::text, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
  CASE WHEN current_setting('server_version_num')::int >= 160000 THEN pg_has_role(current_user, c.relowner, 'SET') ELSE pg_has_role(current_user, c.relowner, 'MEMBER') END,
  has_schema_privilege(c.relowner, c.relnamespace, 'CREATE'), has_schema_privilege(c.relowner, c.relnamespace, 'USAGE'),
  coalesce(a.attnum, 0), coalesce(quote_ident(a.attname), ''), coalesce(a.attnotnull, false), coalesce(format_type(a.atttypid, NULL), ''), coalesce(a.attgenerated::text, ''), coalesce(a.attidentity::text, ''),
  c.reloftype <> 0, EXISTS (SELECT FROM pg_inherits h WHERE c.oid IN (h.inhrelid, h.inhparent)),
  EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'),
  EXISTS (SELECT FROM pg_subscription_rel r WHERE r.srrelid = c.oid), EXISTS (SELECT FROM pg_seclabel l WHERE l.classoid = 'pg_class'::regclass AND l.objoid = c.oid),
  (SELECT count(*) FROM pg_depend d WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid)
FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped WHERE c.oid = $1`
	shapeIndexesSQL = `
SELECT i.relname::text, pg_get_indexdef(i.oid),
  substr(pg_get_indexdef(i.oid), length(format('CREATE %sINDEX %I ON %s%I.%I', CASE WHEN x.indisunique THEN 'UNIQUE ' END, i.relname, CASE WHEN i.relkind = 'I' THEN 'ONLY ' END, n.nspname, c.relname)) + 1), coalesce(k.contype::text, ''), coalesce(pg_get_constraintdef(k.oid), ''), coalesce(k.condeferrable, false), coalesce(k.condeferred, false),
  x.indisunique, x.indisvalid AND x.indisready, x.indisreplident, $2 = ANY ((x.indkey::int2[])[0:x.indnkeyatts - 1]),
  ARRAY(SELECT quote_ident(a.attname) FROM generate_series(0, x.indnkeyatts - 1) g JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[g] ORDER BY g),
  ARRAY(SELECT quote_ident(a.attname) FROM generate_series(x.indnkeyatts::int, x.indnatts - 1) g JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[g] ORDER BY g),
  coalesce(obj_description(i.oid, 'pg_class'), ''), coalesce(obj_description(k.oid, 'pg_constraint'), '')
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_constraint k ON k.conindid = i.oid AND k.conrelid = x.indrelid AND k.contype IN ('p', 'u', 'x')
WHERE x.indrelid = $1 AND NOT (starts_with(i.relname, 'auditdb_convert_') AND k.oid IS NULL) ORDER BY x.indisprimary DESC, i.relname`
	shapeConstraintsSQL = `
SELECT k.conname::text, k.contype::text, pg_get_constraintdef(k.oid), k.convalidated, k.connoinherit, coalesce(obj_description(k.oid, 'pg_constraint'), '')
FROM pg_constraint k WHERE k.conrelid = $1 AND k.contype IN ('c', 'n', 'f') ORDER BY k.contype, k.conname`
	shapeTriggersSQL = `
SELECT t.tgname::text, pg_get_triggerdef(t.oid), t.tgtype & 1 <> 0, t.tgenabled::text, t.tgoldtable IS NOT NULL OR t.tgnewtable IS NOT NULL, coalesce(obj_description(t.oid, 'pg_trigger'), '')
FROM pg_trigger t WHERE t.tgrelid = $1 AND NOT t.tgisinternal ORDER BY t.tgname`
	// Policies, as statements for the table of the same name. $2: its quoted name.
	shapePoliciesSQL = `
SELECT format('CREATE POLICY %I ON %s AS %s FOR %s TO %s', p.polname, $2::text, CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
    CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
    (SELECT string_agg(CASE WHEN r = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r)) END, ', ' ORDER BY r) FROM unnest(p.polroles) r))
  || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '') || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', '')
  || coalesce(format(E';\nCOMMENT ON POLICY %I ON %s IS %L', p.polname, $2::text, obj_description(p.oid, 'pg_policy')), '')
FROM pg_policy p WHERE p.polrelid = $1 ORDER BY p.polname`
	// What others may do, as statements about the relation $2: first what default privileges would add is taken away.
	shapeGrantsSQL = `
SELECT format('REVOKE ALL ON TABLE %s FROM %s', $2::text, CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END)
FROM pg_class c JOIN pg_default_acl d ON d.defaclrole = c.relowner AND d.defaclnamespace IN (0, c.relnamespace) AND d.defaclobjtype = 'r', aclexplode(d.defaclacl) x
WHERE c.oid = $1 AND x.grantee <> c.relowner GROUP BY x.grantee
UNION ALL SELECT * FROM (
SELECT format('GRANT %s%s ON TABLE %s TO %s%s', x.privilege_type, x.col, $2::text, CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
  CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM (SELECT c.relowner, '' AS col, g.* FROM pg_class c, aclexplode(c.relacl) g WHERE c.oid = $1
  UNION ALL SELECT c.relowner, ' (' || quote_ident(a.attname) || ')', g.* FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped, aclexplode(a.attacl) g WHERE c.oid = $1) x
WHERE x.grantee <> x.relowner ORDER BY 1) y`
	// The roles that lose their direct rights on the history.
	shapeGranteesSQL = `
SELECT DISTINCT CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END
FROM pg_class c, LATERAL (SELECT * FROM aclexplode(c.relacl) UNION ALL SELECT x.* FROM pg_attribute a, aclexplode(a.attacl) x WHERE a.attrelid = c.oid AND NOT a.attisdropped) g
WHERE c.oid = $1 AND g.grantee <> c.relowner ORDER BY 1`
	shapeSequencesSQL = `
SELECT a.attname::text, d.deptype::text, n.nspname::text, s.relname::text, s.relnamespace = c.relnamespace,
  ARRAY(SELECT format('GRANT %s ON SEQUENCE %I.%I TO %s%s', x.privilege_type, n.nspname, s.relname, CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
    CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) FROM aclexplode(s.relacl) x WHERE x.grantee <> s.relowner ORDER BY 1)
FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace n ON n.oid = s.relnamespace
  JOIN pg_class c ON c.oid = d.refobjid JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.deptype IN ('a', 'i') ORDER BY a.attnum`
	shapeStatisticsSQL = `
SELECT n.nspname::text, s.stxname::text, pg_get_statisticsobjdef(s.oid), coalesce(s.stxstattarget, -1)::int FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
WHERE s.stxrelid = $1 ORDER BY s.stxname`
	shapeColumnsSQL = `
SELECT format('COMMENT ON COLUMN %s.%I IS %L', $2::text, a.attname, col_description(a.attrelid, a.attnum)) FROM pg_attribute a
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND col_description(a.attrelid, a.attnum) IS NOT NULL ORDER BY a.attnum`
	// Of a column's options only those that people set; servers may keep others there for themselves.
	shapeSettingsSQL = `
SELECT format('ALTER COLUMN %I SET STATISTICS %s', a.attname, a.attstattarget) FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND coalesce(a.attstattarget, -1) >= 0
UNION ALL
SELECT format('ALTER COLUMN %I SET (%s)', a.attname, o) FROM pg_attribute a, unnest(a.attoptions) o WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND starts_with(o, 'n_distinct')
ORDER BY 1`
	shapePublicationsSQL = `
SELECT p.pubname::text, r.prrelid IS NOT NULL FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_publication_tables v ON v.schemaname = n.nspname AND v.tablename = c.relname
  JOIN pg_publication p ON p.pubname = v.pubname LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid WHERE c.oid = $1 ORDER BY 1`
	// Everything that the catalog knows to depend on the table, its constraints, indexes or row type, and that is not a part of the table itself.
	shapeDependentsSQL = `
WITH t AS (SELECT c.oid, c.reltype, y.typarray FROM pg_class c LEFT JOIN pg_type y ON y.oid = c.reltype WHERE c.oid = $1),
deps AS (
  SELECT DISTINCT d.classid, d.objid, CASE WHEN d.refclassid = 'pg_constraint'::regclass THEN 'constraint' WHEN d.refclassid = 'pg_type'::regclass THEN 'type' ELSE '' END AS via
  FROM pg_depend d, t
  WHERE (d.refclassid = 'pg_class'::regclass AND (d.refobjid = t.oid OR d.refobjid IN (SELECT indexrelid FROM pg_index WHERE indrelid = t.oid)))
    OR (d.refclassid = 'pg_constraint'::regclass AND d.refobjid IN (SELECT k.oid FROM pg_constraint k WHERE k.conrelid = t.oid))
    OR (d.refclassid = 'pg_type'::regclass AND d.refobjid IN (t.reltype, t.typarray)))
SELECT coalesce(v.relkind::text, ''), d.via, coalesce(w.rulename::text, ''), coalesce(v.oid, 0)::oid, pg_describe_object(d.classid, d.objid, 0)
FROM deps d LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid LEFT JOIN pg_class v ON v.oid = w.ev_class
WHERE NOT (d.classid = 'pg_class'::regclass AND (d.objid = $1 OR EXISTS (SELECT FROM pg_index x WHERE x.indexrelid = d.objid AND x.indrelid = $1)
      OR EXISTS (SELECT FROM pg_class s WHERE s.oid = d.objid AND s.relkind IN ('S', 't')) OR EXISTS (SELECT FROM pg_class s WHERE s.oid = d.objid AND s.relispartition)))
  AND NOT (d.classid = 'pg_type'::regclass AND EXISTS (SELECT FROM t WHERE d.objid IN (t.reltype, t.typarray)))
  AND NOT (d.classid = 'pg_constraint'::regclass AND EXISTS (SELECT FROM pg_constraint k WHERE k.oid = d.objid AND (k.conrelid = $1 AND k.confrelid <> $1 OR k.conparentid <> 0)))
  AND NOT (d.classid = 'pg_attrdef'::regclass AND EXISTS (SELECT FROM pg_attrdef a WHERE a.oid = d.objid AND a.adrelid = $1))
  AND NOT (d.classid = 'pg_trigger'::regclass AND EXISTS (SELECT FROM pg_trigger g WHERE g.oid = d.objid AND (g.tgrelid = $1 OR g.tgisinternal)))
  AND NOT (d.classid = 'pg_policy'::regclass AND EXISTS (SELECT FROM pg_policy p WHERE p.oid = d.objid AND p.polrelid = $1))
  AND NOT (d.classid = 'pg_statistic_ext'::regclass AND EXISTS (SELECT FROM pg_statistic_ext s WHERE s.oid = d.objid AND s.stxrelid = $1))
  AND d.classid NOT IN ('pg_publication_rel'::regclass)
ORDER BY 5`
	shapeViewsSQL = `
SELECT n.nspname::text, v.relname::text, pg_get_userbyid(v.relowner), pg_get_viewdef(v.oid), coalesce(v.reloptions, '{}'), has_schema_privilege(v.relowner, v.relnamespace, 'CREATE'),
  CASE WHEN current_setting('server_version_num')::int >= 160000 THEN pg_has_role(current_user, v.relowner, 'SET') ELSE pg_has_role(current_user, v.relowner, 'MEMBER') END
FROM pg_class v JOIN pg_namespace n ON n.oid = v.relnamespace WHERE v.oid = ANY ($1) ORDER BY 1, 2`
)

// plainTable is a table found by name, whatever its kind.
type plainTable struct {
	OID                 uint32
	Schema, Name, Owner string
	Kind                string // pg_class.relkind
	IsPartition         bool
}

// resolveAny finds the relation called name under the search path of the connected user. An error has class usage.
func resolveAny(ctx context.Context, db *postgres.DB, name string) (p plainTable, err error) {
	err = db.TxWith(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		oid, err := lookUp(ctx, tx, db.UserSearchPath(), name)
		if err == nil && oid == 0 {
			err = notFound(ctx, tx, name)
		}
		if err == nil {
			err = tx.QueryRow(ctx, plainSQL, oid).Scan(&p.OID, &p.Schema, &p.Name, &p.Kind, &p.IsPartition, &p.Owner)
		}
		return err
	})
	return p, wrap(err, "table %s", name)
}

// readShape reads what t consists of and what depends on it. t.Key.Column may be "".
func readShape(ctx context.Context, q Querier, t Table) (s shape, err error) {
	s.t = t
	err = q.QueryRow(ctx, shapeSQL, t.OID, t.Key.Column).Scan(&s.persistence, &s.rowSecurity, &s.forceSecurity, &s.replica, &s.comment, &s.tablespace, &s.user, &s.superuser,
		&s.canBeOwner, &s.ownerCreates, &s.ownerUses, &s.key.number, &s.key.ident, &s.key.notNull, &s.key.typ, &s.key.generated, &s.key.identity, &s.typed, &s.inherits, &s.extension, &s.subscribed, &s.labelled, &s.dependencies)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, fault.New(fault.Usage, "", "table %s: it does not exist any more", t)
	}
	if err == nil {
		s.indexes, err = collect(ctx, q, func(r pgx.CollectableRow, i *shapeIndex) error {
			return r.Scan(&i.name, &i.def, &i.tail, &i.kind, &i.constraint, &i.deferrable, &i.deferred, &i.unique, &i.valid, &i.replica, &i.hasKey, &i.columns, &i.include, &i.comment, &i.constraintComment)
		}, shapeIndexesSQL, t.OID, s.key.number)
	}
	if err == nil {
		s.constraints, err = collect(ctx, q, func(r pgx.CollectableRow, k *shapeConstraint) error {
			return r.Scan(&k.name, &k.kind, &k.def, &k.valid, &k.noInherit, &k.comment)
		}, shapeConstraintsSQL, t.OID)
	}
	if err == nil {
		s.triggers, err = collect(ctx, q, func(r pgx.CollectableRow, g *shapeTrigger) error {
			return r.Scan(&g.name, &g.def, &g.row, &g.enabled, &g.transition, &g.comment)
		}, shapeTriggersSQL, t.OID)
	}
	if err == nil {
		s.sequences, err = collect(ctx, q, func(r pgx.CollectableRow, x *shapeSequence) error {
			return r.Scan(&x.column, &x.kind, &x.schema, &x.name, &x.sameSchema, &x.grants)
		}, shapeSequencesSQL, t.OID)
	}
	if err == nil {
		s.statistics, err = collect(ctx, q, func(r pgx.CollectableRow, x *shapeStatistics) error {
			return r.Scan(&x.schema, &x.name, &x.def, &x.target)
		}, shapeStatisticsSQL, t.OID)
	}
	if err == nil {
		err = s.readTexts(ctx, q)
	}
	if err == nil {
		err = s.readDependents(ctx, q)
	}
	return s, wrap(err, "read the shape of %s", t)
}

func (s *shape) readTexts(ctx context.Context, q Querier) (err error) {
	if s.policies, err = texts(ctx, q, shapePoliciesSQL, s.t.OID, s.t.Ident()); err != nil {
		return err
	}
	if s.grants, err = texts(ctx, q, shapeGrantsSQL, s.t.OID, s.t.Ident()); err != nil {
		return err
	}
	if s.grantees, err = texts(ctx, q, shapeGranteesSQL, s.t.OID); err != nil {
		return err
	}
	if s.columnComments, err = texts(ctx, q, shapeColumnsSQL, s.t.OID, s.t.Ident()); err != nil {
		return err
	}
	s.settings, err = texts(ctx, q, shapeSettingsSQL, s.t.OID)
	return err
}

func (s *shape) readDependents(ctx context.Context, q Querier) error {
	type dependent struct {
		kind, via, rule, text string
		view                  uint32
	}
	all, err := collect(ctx, q, func(r pgx.CollectableRow, d *dependent) error {
		return r.Scan(&d.kind, &d.via, &d.rule, &d.view, &d.text)
	}, shapeDependentsSQL, s.t.OID)
	if err != nil {
		return err
	}
	var views []uint32
	for _, d := range all {
		switch {
		case d.kind == "v" && d.rule == "_RETURN" && d.via == "":
			views = append(views, d.view)
		case d.kind == "v" && d.rule == "_RETURN" && d.via == "constraint":
			s.others = append(s.others, d.text+" depends on a constraint, as one does that groups by the primary key")
		case d.via == "type":
			s.others = append(s.others, d.text+" depends on the table's row type")
		default:
			s.others = append(s.others, d.text+" depends on it")
		}
	}
	s.views, err = collect(ctx, q, func(r pgx.CollectableRow, v *shapeView) error {
		return r.Scan(&v.schema, &v.name, &v.owner, &v.def, &v.options, &v.creates, &v.canBeOwner)
	}, shapeViewsSQL, views)
	if err != nil {
		return err
	}
	type publication struct {
		name  string
		named bool
	}
	publications, err := collect(ctx, q, func(r pgx.CollectableRow, p *publication) error { return r.Scan(&p.name, &p.named) }, shapePublicationsSQL, s.t.OID)
	for _, p := range publications {
		if p.named {
			s.publications = append(s.publications, p.name)
		} else {
			s.publishing = append(s.publishing, p.name)
		}
	}
	return err
}

// collect reads all rows of a query.
func collect[T any](ctx context.Context, q Querier, scan func(pgx.CollectableRow, *T) error, sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (v T, err error) {
		err = scan(r, &v)
		return v, err
	})
}

// keyRange is what the rows of a table say about its key.
type keyRange struct {
	empty     bool
	nulls     bool
	infinite  bool
	alien     bool // of a uuid key: not all are of version 7
	low, high int64
}

// readKeyRange looks through the key of a plain table, in one snapshot and without a lock that anybody waits for.
func readKeyRange(ctx context.Context, q Querier, t Table, notNull bool) (r keyRange, err error) {
	column, table := pgx.Identifier{t.Key.Column}.Sanitize(), t.Ident()
	fail := func(err error) error { return wrap(err, "look at the values of %s in %s", column, t) }
	ask := func(dest *bool, condition string) error {
		return fail(q.QueryRow(ctx, fmt.Sprintf("SELECT EXISTS (SELECT FROM ONLY %s WHERE %s)", table, condition)).Scan(dest))
	}
	if !notNull {
		if err := ask(&r.nulls, column+" IS NULL"); err != nil || r.nulls {
			return r, err
		}
	}
	switch t.Key.Kind {
	case KeyTimestamptz, KeyTimestamp, KeyDate:
		err = ask(&r.infinite, fmt.Sprintf("%s IN ('infinity', '-infinity')", column))
	case KeyUUIDv7:
		err = ask(&r.alien, fmt.Sprintf("substr(%s::text, 15, 1) <> '7'", column))
	case KeyEpochS, KeyEpochMS, KeyEpochUS, KeyEpochNS:
	}
	if err != nil || r.infinite || r.alien {
		return r, err
	}
	sql := fmt.Sprintf(`SELECT %[1]s FROM (SELECT %[2]s AS k FROM ONLY %[3]s WHERE %[2]s IS NOT NULL ORDER BY 1 LIMIT 1) x
UNION ALL SELECT %[1]s FROM (SELECT %[2]s AS k FROM ONLY %[3]s WHERE %[2]s IS NOT NULL ORDER BY 1 DESC LIMIT 1) y ORDER BY 1`, t.Key.micros("k"), column, table)
	ends, err := collect(ctx, q, func(row pgx.CollectableRow, v *int64) error { return row.Scan(v) }, sql)
	if err != nil {
		return r, fail(err)
	}
	if r.empty = len(ends) == 0; !r.empty {
		r.low, r.high = ends[0], ends[len(ends)-1]
	}
	return r, nil
}

// micros is an expression for a key value in microseconds since 1970, cut off where an int64 ends.
func (k Key) micros(expr string) string {
	switch k.Kind {
	case KeyUUIDv7:
		return fmt.Sprintf("('x' || substr(replace(%s::text, '-', ''), 1, 12))::bit(48)::bigint * 1000", expr)
	case KeyEpochS, KeyEpochMS, KeyEpochUS:
		return fmt.Sprintf("greatest(least(%s::numeric * %d, 9e18), -9e18)::bigint", expr, k.Kind.unit()/1000)
	case KeyEpochNS:
		return fmt.Sprintf("floor(%s / 1000.0)::bigint", expr)
	case KeyTimestamptz, KeyTimestamp, KeyDate:
	}
	return fmt.Sprintf("(extract(epoch FROM %s) * 1000000)::bigint", expr)
}
