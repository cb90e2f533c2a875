package partitions

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

const (
	// What a partition has by itself and a copy of it does not get. Triggers are taken over by a new default partition ($2).
	lostSQL = `
SELECT 'policy ' || quote_ident(polname) FROM pg_policy WHERE polrelid = $1
UNION ALL SELECT 'publication ' || quote_ident(p.pubname) FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = $1
UNION ALL SELECT 'rule ' || quote_ident(rulename) FROM pg_rewrite WHERE ev_class = $1
UNION ALL SELECT 'trigger ' || quote_ident(t.tgname) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
  WHERE t.tgrelid = $1 AND NOT $2 AND NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgname NOT LIKE 'auditdb\_copy\_%' AND NOT (p.proname = 'guard' AND n.nspname = 'auditdb')
UNION ALL SELECT 'function ' || d.objid::regprocedure FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1
ORDER BY 1`
	securitySQL = `
SELECT s FROM pg_class c, unnest(ARRAY[CASE WHEN c.relrowsecurity THEN 'ENABLE ROW LEVEL SECURITY' END, CASE WHEN c.relforcerowsecurity THEN 'FORCE ROW LEVEL SECURITY' END]) s
WHERE c.oid = $1 AND s IS NOT NULL`
	foreignSQL = `
SELECT 'CONSTRAINT ' || quote_ident(conname) || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = $1 AND contype = 'f' AND confrelid <> 0
  AND (conparentid = 0 OR conparentid NOT IN (SELECT oid FROM pg_constraint WHERE conrelid = $1)) ORDER BY conname`
	ownTriggersSQL = `
SELECT pg_get_triggerdef(oid), quote_ident(tgname), tgenabled::text FROM pg_trigger
WHERE tgrelid = $1 AND NOT tgisinternal AND tgparentid = 0 AND tgname NOT LIKE 'auditdb\_copy\_%' ORDER BY tgname`
	indexNamesSQL = `
SELECT h.inhparent, c.relname::text FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_inherits h ON h.inhrelid = x.indexrelid WHERE x.indrelid = $1`
)

// readFan reads what the plan of a fan needs besides facts.
func readFan(ctx context.Context, q Querier, f *fan) (err error) {
	if f.foreign, err = texts(ctx, q, foreignSQL, f.table.OID); err != nil {
		return fmt.Errorf("read the foreign keys of %s: %w", f.table, err)
	}
	if f.security, err = texts(ctx, q, securitySQL, f.source.OID); err != nil {
		return fmt.Errorf("read the row security of %s: %w", f.source, err)
	}
	if !f.source.Default {
		return nil
	}
	if f.own, err = readFacts(ctx, q, f.table, &f.source, nil); err != nil {
		return err
	}
	f.own.guards = nil // it has its own, which it keeps
	return nil
}

// belongings are what a default partition keeps when another table takes its place.
type belongings struct {
	triggers []string
	indexes  map[uint32]string // names, by the table's index
	comment  string
}

// keep reads what goes from the default partition to the one that takes its place.
func (f *fan) keep(ctx context.Context, tx pgx.Tx) (b belongings, err error) {
	if !f.source.Default {
		return b, nil
	}
	rows, err := tx.Query(ctx, ownTriggersSQL, f.source.OID)
	if err != nil {
		return b, err
	}
	var definition, name, enabled string
	if _, err := pgx.ForEachRow(rows, []any{&definition, &name, &enabled}, func() error {
		b.triggers = append(b.triggers, definition)
		if action, ok := map[string]string{"D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}[enabled]; ok {
			b.triggers = append(b.triggers, fmt.Sprintf("ALTER TABLE %s %s TRIGGER %s", f.source.Ident(), action, name))
		}
		return nil
	}); err != nil {
		return b, err
	}
	if err := tx.QueryRow(ctx, "SELECT coalesce(obj_description($1, 'pg_class'), '')", f.source.OID).Scan(&b.comment); err != nil {
		return b, err
	}
	b.indexes, err = indexNames(ctx, tx, f.source.OID)
	return b, err
}

func indexNames(ctx context.Context, q Querier, table uint32) (map[uint32]string, error) {
	rows, err := q.Query(ctx, indexNamesSQL, table)
	if err != nil {
		return nil, err
	}
	names := map[uint32]string{}
	var parent uint32
	var name string
	_, err = pgx.ForEachRow(rows, []any{&parent, &name}, func() error { names[parent] = name; return nil })
	return names, err
}

// give hands them over.
func (f *fan) give(ctx context.Context, tx pgx.Tx, b belongings) error {
	if !f.source.Default {
		return nil
	}
	sql := b.triggers
	if b.comment != "" {
		sql = append(sql, "COMMENT ON TABLE "+f.source.Ident()+" IS "+quoteText(b.comment))
	}
	var oid uint32
	if err := tx.QueryRow(ctx, relationOIDSQL, f.source.Schema, f.source.Name).Scan(&oid); err != nil {
		return err
	}
	names, err := indexNames(ctx, tx, oid)
	if err != nil {
		return err
	}
	for parent, name := range names {
		if before, ok := b.indexes[parent]; ok && before != name {
			sql = append(sql, fmt.Sprintf("ALTER INDEX %s RENAME TO %s", pgx.Identifier{f.source.Schema, name}.Sanitize(), pgx.Identifier{before}.Sanitize()))
		}
	}
	for _, s := range sql {
		if _, err := tx.Exec(ctx, s); err != nil {
			return err
		}
	}
	return nil
}
