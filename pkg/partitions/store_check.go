package partitions

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
)

const (
	// Definitions come without the names of table and index: as search_path is empty, both stand before the rest as they are quoted here. What a
	// partition has from its table is not written out again, and partitions that look the same are one row: there may be thousands.
	looksSQL = `
WITH of_indexes AS MATERIALIZED (
  SELECT x.indexrelid, ic.reloptions, CASE WHEN x.indisunique THEN 'UNIQUE ' ELSE '' END || substr(pg_get_indexdef(x.indexrelid), length('CREATE ' || CASE WHEN x.indisunique THEN 'UNIQUE ' ELSE '' END || 'INDEX '
    || quote_ident(ic.relname) || ' ON ONLY ' || quote_ident(n.nspname) || '.' || quote_ident(p.relname) || ' ') + 1) AS def
  FROM pg_class p JOIN pg_namespace n ON n.oid = p.relnamespace JOIN pg_index x ON x.indrelid = p.oid JOIN pg_class ic ON ic.oid = x.indexrelid WHERE p.oid = ANY ($1)),
of_constraints AS MATERIALIZED (SELECT conrelid, conname, pg_get_constraintdef(oid) AS def FROM pg_constraint WHERE conrelid = ANY ($1) AND contype = 'c'),
every AS (SELECT c.*, n.nspname, coalesce((SELECT h.inhparent FROM pg_inherits h WHERE h.inhrelid = c.oid), 0) AS parent FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.oid = ANY ($1) OR c.oid IN (SELECT h.inhrelid FROM pg_inherits h WHERE h.inhparent = ANY ($1)) AND c.relkind = 'r')
SELECT array_agg(oid), parent, owner, options, grants, indexes, invalid, constraints FROM (
  SELECT c.oid, c.parent, pg_get_userbyid(c.relowner)::text AS owner,
    ARRAY(SELECT o COLLATE "C" FROM unnest(c.reloptions) o UNION ALL SELECT 'toast.' || o FROM pg_class tt, unnest(tt.reloptions) o WHERE tt.oid = c.reltoastrelid ORDER BY 1) AS options,
    CASE WHEN p.relrowsecurity OR p.relforcerowsecurity THEN '{}' ELSE ARRAY(
      SELECT x.privilege_type || ' TO ' || CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END || CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
      FROM aclexplode(c.relacl) x WHERE x.grantee <> c.relowner ORDER BY 1) END AS grants,
    ARRAY(SELECT coalesce(o.def, CASE WHEN x.indisunique THEN 'UNIQUE ' ELSE '' END || substr(pg_get_indexdef(x.indexrelid), length('CREATE ' || CASE WHEN x.indisunique THEN 'UNIQUE ' ELSE '' END || 'INDEX '
        || quote_ident(ic.relname) || ' ON ' || CASE WHEN c.relkind = 'p' THEN 'ONLY ' ELSE '' END || quote_ident(c.nspname) || '.' || quote_ident(c.relname) || ' ') + 1))
      FROM pg_index x JOIN pg_class ic ON ic.oid = x.indexrelid LEFT JOIN pg_inherits h ON h.inhrelid = x.indexrelid
        LEFT JOIN of_indexes o ON o.indexrelid = h.inhparent AND o.reloptions IS NOT DISTINCT FROM ic.reloptions
      WHERE x.indrelid = c.oid AND (x.indisvalid OR c.relkind = 'p') ORDER BY 1) AS indexes,
    ARRAY(SELECT ic.relname::text FROM pg_index x JOIN pg_class ic ON ic.oid = x.indexrelid WHERE x.indrelid = c.oid AND NOT x.indisvalid AND c.relkind = 'r' ORDER BY 1) AS invalid,
    ARRAY(SELECT coalesce(o.def, pg_get_constraintdef(k.oid)) FROM pg_constraint k
      LEFT JOIN of_constraints o ON o.conrelid = c.parent AND o.conname = k.conname AND k.contype = 'c' AND k.coninhcount > 0
      WHERE k.conrelid = c.oid AND k.contype IN ('c', 'f', 'x') AND NOT k.connoinherit AND (c.relkind = 'r' OR k.conparentid = 0) ORDER BY 1) AS constraints
  FROM every c LEFT JOIN pg_class p ON p.oid = $2) l
GROUP BY parent, owner, options, grants, indexes, invalid, constraints`
	unattachedSQL = `
SELECT c.relname::text FROM pg_class c JOIN pg_constraint k ON k.conrelid = c.oid AND k.conname = $2 AND k.contype = 'c' JOIN pg_class p ON p.oid = $1
WHERE c.relkind = 'r' AND NOT c.relispartition AND c.relnamespace = p.relnamespace AND c.relowner = p.relowner ORDER BY 1`
	guardTriggersSQL = `
WITH RECURSIVE tree AS (SELECT $1::oid AS oid UNION ALL SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid),
guards AS MATERIALIZED (SELECT t.tgrelid, t.tgname, t.tgtype, t.tgenabled FROM pg_trigger t
  WHERE t.tgfoid = ANY (ARRAY(SELECT f.oid FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace WHERE f.proname = 'guard' AND n.nspname = 'auditdb')))
SELECT tgrelid, tgname::text, tgtype, tgenabled <> 'D' FROM guards WHERE tgrelid IN (SELECT oid FROM tree) ORDER BY 1, 2`
	hasFileSQL = `SELECT c.relkind = 'p' OR pg_relation_size(c.oid) > 0, has_table_privilege(c.oid, 'SELECT') FROM pg_class c WHERE c.oid = $1`
)

// Bits of pg_trigger.tgtype.
const (
	triggerDelete   = 8
	triggerUpdate   = 16
	triggerTruncate = 32
)

// What the names of guards end in.
const (
	guardRows     = "guard"
	guardTruncate = "guard_truncate"
)

// createGuard makes a guard, of rows or against TRUNCATE.
func createGuard(name, table, label string) string {
	when := map[string]string{guardRows: "BEFORE UPDATE OR DELETE ON %s FOR EACH ROW", guardTruncate: "BEFORE TRUNCATE ON %s FOR EACH STATEMENT"}[label]
	return fmt.Sprintf("CREATE OR REPLACE TRIGGER %s "+when+" EXECUTE FUNCTION auditdb.guard()", pgx.Identifier{name}.Sanitize(), table)
}

// guard is a trigger that calls auditdb.guard().
type guard struct {
	table   uint32
	name    string
	kind    int16 // pg_trigger.tgtype
	enabled bool
}

func readGuards(ctx context.Context, q Querier, t Table) ([]guard, error) {
	rows, err := q.Query(ctx, guardTriggersSQL, t.OID)
	if err != nil {
		return nil, fmt.Errorf("read the guards of %s: %w", t, err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (g guard, err error) {
		err = row.Scan(&g.table, &g.name, &g.kind, &g.enabled)
		return g, err
	})
	return found, wrap(err, "read the guards of %s", t)
}

// readLooks reads what can differ between partitions: of tables that have some, the first of them the outermost, and of all their leaves.
func readLooks(ctx context.Context, q Querier, parents []uint32) ([]looks, error) {
	rows, err := q.Query(ctx, looksSQL, parents, parents[0])
	if err != nil {
		return nil, fmt.Errorf("read the settings of partitions: %w", err)
	}
	var found []looks
	var l looks
	var same []uint32
	_, err = pgx.ForEachRow(rows, []any{&same, &l.parent, &l.owner, &l.options, &l.grants, &l.indexes, &l.invalid, &l.constraints}, func() error {
		for _, l.oid = range same {
			found = append(found, l)
		}
		l, same = looks{}, nil
		return nil
	})
	return found, wrap(err, "read the settings of partitions")
}

// unattached lists tables that creating has made for t and not attached.
func unattached(ctx context.Context, q Querier, t Table) ([]string, error) {
	names, err := texts(ctx, q, unattachedSQL, t.OID, rangeCheck)
	if err != nil {
		return nil, fmt.Errorf("look for tables that were not attached: %w", err)
	}
	label := regexp.MustCompile(`^_[0-9]{4,}(_|$)`)
	hash := "_" + hash8(t.Schema, t.Name)
	return slices.DeleteFunc(names, func(name string) bool {
		rest, ok := cutName(name, t.Name, hash)
		return !ok || !label.MatchString(rest)
	}), nil
}

// cutName takes from a partition's name what stands before its label, as joinName makes it.
func cutName(name, table, hash string) (label string, ok bool) {
	if label, ok = strings.CutPrefix(name, table); ok {
		return label, true
	}
	before, label, ok := strings.Cut(name, hash)
	return label, ok && strings.HasPrefix(table, before)
}

// countSome counts rows of p, at most one more than limit. It needs no right to read p where p has never had any.
func (w *Worker) countSome(ctx context.Context, p Partition, limit int64) (rows int64, err error) {
	err = w.read(ctx, "look into "+p.String(), func(tx pgx.Tx) error {
		var written, may bool
		if err := tx.QueryRow(ctx, hasFileSQL, p.OID).Scan(&written, &may); err != nil || !written {
			return err
		}
		if !may {
			return fault.New(fault.Permission, "GRANT SELECT ON "+p.Ident()+" TO the user that connects", "its rows may not be read")
		}
		return tx.QueryRow(ctx, "SELECT count(*) FROM (SELECT FROM "+p.Ident()+" LIMIT $1) AS some_rows", limit+1).Scan(&rows)
	})
	return rows, err
}
