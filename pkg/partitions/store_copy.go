package partitions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/postgres"
)

// What a copy leaves in the database while it goes on, all named by the source's oid: a table of its state, whose comment is its head; a
// table of the rows that were inserted since it began; two trigger functions; and the target.
const (
	copyPrefix  = "auditdb_copy_"
	copyComment = "auditdb copy "

	noteTrigger  = "auditdb_copy_note"  // AFTER INSERT: notes the new row
	keepTrigger  = "auditdb_copy_keep"  // BEFORE UPDATE OR DELETE: refuses
	wholeTrigger = "auditdb_copy_whole" // BEFORE TRUNCATE: refuses

	copyStatesSQL = `
SELECT n.nspname, c.relname::text, d.description, has_table_privilege(c.oid, 'SELECT')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_description d ON d.objoid = c.oid AND d.classoid = 'pg_class'::regclass AND d.objsubid = 0
WHERE c.relname ~ '^auditdb_copy_[0-9a-f]{8}$' AND c.relkind = 'r' AND starts_with(d.description, 'auditdb copy {') ORDER BY 1, 2`
	copySourceSQL = `
SELECT c.oid, n.nspname, c.relname::text, pg_get_userbyid(c.relowner) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1`
	copyColumnsSQL = `
SELECT coalesce(md5(string_agg(quote_ident(attname) || ' ' || atttypid || ' ' || atttypmod, ', ' ORDER BY attnum)), '') FROM pg_attribute
WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped`
	// The leaves of a partitioned source, or the source itself.
	leavesSQL = `
SELECT l.oid, n.nspname, c.relname::text, c.relkind::text, coalesce((SELECT amname::text FROM pg_am WHERE oid = c.relam), ''), coalesce(pg_relation_filenode(l.oid), 0),
  CASE WHEN c.relkind = 'r' THEN pg_relation_size(l.oid) / current_setting('block_size')::bigint ELSE 0 END,
  CASE WHEN c.reltuples < 0 THEN pg_stat_get_live_tuples(c.oid) ELSE c.reltuples::bigint END
FROM (SELECT oid FROM pg_class WHERE oid = $1 AND relkind <> 'p' UNION SELECT t.relid::oid FROM pg_class p, pg_partition_tree(p.oid) t WHERE p.oid = $1 AND p.relkind = 'p' AND t.isleaf) l
  JOIN pg_class c ON c.oid = l.oid JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY l.oid`
	relationOIDSQL = `SELECT coalesce((SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2), 0)`

	// Other sessions of this database that have a snapshot. The virtual transaction is how one of them is known again; VACUUM reads no rows
	// for anybody.
	holdersSQL = `
SELECT a.pid, l.virtualtransaction, coalesce(a.backend_xmin::text, ''), coalesce(a.application_name, ''), coalesce(a.usename::text, ''), coalesce(host(a.client_addr), ''), coalesce(a.backend_type, ''),
  coalesce(a.state, ''), coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float8, coalesce(a.query, '')
FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid AND l.locktype = 'virtualxid' AND l.granted AND l.virtualxid = l.virtualtransaction
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_xmin IS NOT NULL AND a.backend_type IS DISTINCT FROM 'autovacuum worker'
  AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum v WHERE v.pid = a.pid)
ORDER BY a.xact_start NULLS LAST, a.pid`
)

// copyHead is what a copy remembers of itself.
type copyHead struct {
	Purpose     string          `json:"purpose"`
	TableOID    uint32          `json:"table_oid"`
	Table       string          `json:"table"` // quoted
	SourceOID   uint32          `json:"source_oid"`
	Schema      string          `json:"source_schema"`
	Name        string          `json:"source_name"`
	Target      CopyTarget      `json:"target"`
	TargetOID   uint32          `json:"target_oid"`
	Columns     []CopyColumn    `json:"columns"`
	SourceShape string          `json:"source_shape"` // digest of its columns
	Total       int64           `json:"total"`        // rows, about
	Meta        json.RawMessage `json:"meta,omitempty"`
	StartedAt   time.Time       `json:"started_at"`
}

// copyNames are the quoted names of a copy's own objects.
type copyNames struct{ schema, base string }

func namesOfCopy(schema string, source uint32) copyNames {
	return copyNames{schema, fmt.Sprintf("%s%08x", copyPrefix, source)}
}

func (n copyNames) ident(suffix string) string {
	return pgx.Identifier{n.schema, n.base + suffix}.Sanitize()
}
func (n copyNames) state() string { return n.ident("") }
func (n copyNames) delta() string { return n.ident("_delta") }
func (n copyNames) note() string  { return n.ident("_note") }
func (n copyNames) keep() string  { return n.ident("_keep") }

func (h copyHead) names() copyNames { return namesOfCopy(h.Schema, h.SourceOID) }

// startSQL makes the state.
func (h copyHead) startSQL() string {
	n := h.names()
	return fmt.Sprintf("CREATE TABLE %s (rel oid PRIMARY KEY, filenode oid NOT NULL, blocks bigint NOT NULL, next bigint NOT NULL DEFAULT 0, rows bigint NOT NULL DEFAULT 0)", n.state())
}

func (h copyHead) commentSQL() (string, error) {
	text, err := json.Marshal(h)
	return "COMMENT ON TABLE " + h.names().state() + " IS " + quoteText(copyComment+string(text)), err
}

// watchSQL makes what notes new rows and refuses changes of old ones. The functions run as their owner, since who inserts may have no
// rights on the table of notes.
func (h copyHead) watchSQL() string {
	n := h.names()
	refuse := fmt.Sprintf("BEGIN RAISE EXCEPTION USING ERRCODE = 'object_in_use', MESSAGE = TG_OP || %s, HINT = %s; END",
		quoteText(fmt.Sprintf(" on %s is refused while its rows are copied (auditdb partition %s)", displayName(h.Schema, h.Name), h.Purpose)),
		quoteText("let that run end, or take it back with --abort; INSERT goes on"))
	return strings.Join([]string{
		fmt.Sprintf("CREATE TABLE %s (rel oid, tid tid, PRIMARY KEY (rel, tid))", n.delta()),
		h.noteSQL(),
		fmt.Sprintf("CREATE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS %s", n.keep(), quoteText(refuse)),
	}, ";\n")
}

// noteSQL makes the function that notes new rows.
func (h copyHead) noteSQL() string {
	n := h.names()
	return n.noteFunction("BEGIN INSERT INTO " + n.delta() + " (rel, tid) VALUES (TG_RELID, NEW.ctid) ON CONFLICT DO NOTHING; RETURN NULL; END")
}

// bothSQL makes it put each new row into the target, and note where.
func (h copyHead) bothSQL() string {
	columns, exprs := h.lists()
	n := h.names()
	return n.noteFunction(fmt.Sprintf(`#variable_conflict use_column
DECLARE auditdb_rel oid; auditdb_tid tid; BEGIN
  INSERT INTO %[1]s (%[2]s) OVERRIDING SYSTEM VALUE SELECT %[3]s FROM (SELECT NEW.*) s RETURNING tableoid, ctid INTO auditdb_rel, auditdb_tid;
  INSERT INTO %[4]s (rel, tid) VALUES (auditdb_rel, auditdb_tid) ON CONFLICT DO NOTHING; RETURN NULL; END`, h.Target.Ident(), columns, exprs, n.delta()))
}

func (n copyNames) noteFunction(body string) string {
	return fmt.Sprintf("CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS %s", n.note(), quoteText(body))
}

// noted counts the noted rows: of a leaf of the source those that are to be copied, of a relation of the target those that writers put there.
func (h copyHead) noted(ctx context.Context, q Querier) (map[uint32]int64, error) {
	rows, err := q.Query(ctx, "SELECT rel, count(*) FROM "+h.names().delta()+" GROUP BY 1")
	if err != nil {
		return nil, err
	}
	noted := map[uint32]int64{}
	var rel uint32
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&rel, &n}, func() error { noted[rel] = n; return nil })
	return noted, err
}

func (h copyHead) triggersSQL() string {
	n, source := h.names(), pgx.Identifier{h.Schema, h.Name}.Sanitize()
	return strings.Join([]string{
		fmt.Sprintf("CREATE TRIGGER %s AFTER INSERT ON %s FOR EACH ROW EXECUTE FUNCTION %s()", noteTrigger, source, n.note()),
		fmt.Sprintf("CREATE TRIGGER %s BEFORE UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION %s()", keepTrigger, source, n.keep()),
		fmt.Sprintf("CREATE TRIGGER %s BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION %s()", wholeTrigger, source, n.keep()),
		fmt.Sprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s, ENABLE ALWAYS TRIGGER %s, ENABLE ALWAYS TRIGGER %s", source, noteTrigger, keepTrigger, wholeTrigger),
	}, ";\n")
}

// endSQL takes away all but source and target; OID 0: the source is gone.
func (h copyHead) endSQL(source CopySource) string {
	n := h.names()
	var sql []string
	if source.OID != 0 {
		for _, t := range []string{noteTrigger, keepTrigger, wholeTrigger} {
			sql = append(sql, fmt.Sprintf("DROP TRIGGER IF EXISTS %s ON %s", t, source.Ident()))
		}
	}
	return strings.Join(append(sql,
		fmt.Sprintf("DROP FUNCTION IF EXISTS %s()", n.note()), fmt.Sprintf("DROP FUNCTION IF EXISTS %s()", n.keep()),
		"DROP TABLE IF EXISTS "+n.delta(), "DROP TABLE IF EXISTS "+n.state()), ";\n")
}

// lists gives the target's columns and the expressions that fill them.
func (h copyHead) lists() (columns, exprs string) {
	names, values := make([]string, len(h.Columns)), make([]string, len(h.Columns))
	for i, c := range h.Columns {
		names[i] = pgx.Identifier{c.Target}.Sanitize()
		if values[i] = c.Expr; c.Expr == "" {
			values[i] = names[i]
		}
	}
	return strings.Join(names, ", "), strings.Join(values, ", ")
}

// batchSQL copies the rows of blocks [$2, $3) of leaf $1 that are not noted as new, and notes how far it came.
func (h copyHead) batchSQL(l leaf) string {
	columns, exprs := h.lists()
	n := h.names()
	return fmt.Sprintf(`WITH put AS (INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM ONLY %s s WHERE s.ctid >= format('(%%s,0)', $2::bigint)::tid AND s.ctid < format('(%%s,0)', $3::bigint)::tid
  AND NOT EXISTS (SELECT FROM %s d WHERE d.rel = $1::oid AND d.tid = s.ctid AND d.tid >= format('(%%s,0)', $2::bigint)::tid AND d.tid < format('(%%s,0)', $3::bigint)::tid) RETURNING 1)
UPDATE %s SET next = $3::bigint, rows = rows + (SELECT count(*) FROM put) WHERE rel = $1::oid RETURNING (SELECT count(*) FROM put)`,
		h.Target.Ident(), columns, exprs, l.Ident(), n.delta(), n.state())
}

// flushSQL copies up to $2 new rows of leaf $1. It gives how many were noted as relation 0, then how many went to each relation.
func (h copyHead) flushSQL(l leaf) string {
	columns, exprs := h.lists()
	n := h.names()
	return fmt.Sprintf(`WITH gone AS (DELETE FROM %[1]s WHERE rel = $1::oid AND tid = ANY (ARRAY(SELECT tid FROM %[1]s WHERE rel = $1::oid LIMIT $2)) RETURNING tid),
put AS (INSERT INTO %[2]s (%[3]s) OVERRIDING SYSTEM VALUE SELECT %[4]s FROM ONLY %[5]s s WHERE s.ctid = ANY (ARRAY(SELECT tid FROM gone)) RETURNING tableoid)
SELECT 0::oid, count(*) FROM gone UNION ALL SELECT tableoid, count(*) FROM put GROUP BY 1`, n.delta(), h.Target.Ident(), columns, exprs, l.Ident())
}

// sumSQL gives the number of rows of leaf $1 that are not noted as new, and the sum of their hashes.
func (h copyHead) sumSQL(l leaf) string {
	_, exprs := h.lists()
	return fmt.Sprintf(`SELECT count(*), coalesce(sum(hashtextextended(ROW(%s)::text, 0)), 0)::text FROM ONLY %s s
WHERE NOT EXISTS (SELECT FROM %s d WHERE d.rel = $1::oid AND d.tid = s.ctid)`, exprs, l.Ident(), h.names().delta())
}

// targetSumSQL is sumSQL for each relation of the target.
func (h copyHead) targetSumSQL() string {
	columns, _ := h.lists()
	return fmt.Sprintf(`SELECT tableoid, count(*), coalesce(sum(hashtextextended(ROW(%s)::text, 0)), 0)::text FROM %s GROUP BY 1`, columns, h.Target.Ident())
}

// leaf is a relation with rows that are copied.
type leaf struct {
	OID          uint32
	Schema, Name string
	Kind, Method string
	Filenode     uint32
	Blocks, Rows int64
}

func (l leaf) Ident() string { return pgx.Identifier{l.Schema, l.Name}.Sanitize() }

func leavesOf(ctx context.Context, q Querier, source uint32) ([]leaf, error) {
	rows, err := q.Query(ctx, leavesSQL, source)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (l leaf, err error) {
		err = row.Scan(&l.OID, &l.Schema, &l.Name, &l.Kind, &l.Method, &l.Filenode, &l.Blocks, &l.Rows)
		return l, err
	})
}

// done is how far a leaf's copy has come.
type done struct {
	OID, Filenode      uint32
	Blocks, Next, Rows int64
}

func (h copyHead) progress(ctx context.Context, q Querier) ([]done, error) {
	rows, err := q.Query(ctx, "SELECT rel, filenode, blocks, next, rows FROM "+h.names().state()+" ORDER BY rel")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[done])
}

// heads reads all copies of the database.
func heads(ctx context.Context, q Querier) (found []copyHead, readable []bool, err error) {
	rows, err := q.Query(ctx, copyStatesSQL)
	if err != nil {
		return nil, nil, fmt.Errorf("look for copies: %w", err)
	}
	var schema, name, comment string
	var may bool
	_, err = pgx.ForEachRow(rows, []any{&schema, &name, &comment, &may}, func() error {
		var h copyHead
		if json.Unmarshal([]byte(strings.TrimPrefix(comment, copyComment)), &h) == nil && h.Schema == schema && h.names().base == name {
			found, readable = append(found, h), append(readable, may)
		}
		return nil
	})
	return found, readable, wrap(err, "look for copies")
}

// Copies lists the copies of t and its partitions that have not ended.
func Copies(ctx context.Context, q Querier, t Table) ([]CopyState, error) {
	return copies(ctx, q, func(h copyHead) bool { return h.TableOID == t.OID || h.SourceOID == t.OID || h.Table == t.Ident() })
}

// FindCopy returns the copy of a source, nil when there is none.
func FindCopy(ctx context.Context, q Querier, source CopySource) (*CopyState, error) {
	found, err := copies(ctx, q, func(h copyHead) bool { return h.SourceOID == source.OID })
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

func copies(ctx context.Context, q Querier, wanted func(copyHead) bool) ([]CopyState, error) {
	all, readable, err := heads(ctx, q)
	if err != nil {
		return nil, err
	}
	var out []CopyState
	for i, h := range all {
		if !wanted(h) {
			continue
		}
		s := CopyState{Purpose: h.Purpose, Target: h.Target, Total: h.Total, Meta: h.Meta, StartedAt: h.StartedAt, Rows: -1, head: h}
		s.Source = CopySource{Schema: h.Schema, Name: h.Name}
		err := q.QueryRow(ctx, copySourceSQL, h.SourceOID).Scan(&s.Source.OID, &s.Source.Schema, &s.Source.Name, &s.Source.Owner)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return nil, fmt.Errorf("look for the source of a copy: %w", err)
		}
		if readable[i] {
			parts, err := h.progress(ctx, q)
			if err != nil {
				return nil, fmt.Errorf("read how far the copy of %s is: %w", s.Source, err)
			}
			s.Rows = 0
			for _, p := range parts {
				s.Rows += p.Rows
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// holder is a session with a snapshot.
type holder struct {
	transaction, xmin string
	postgres.Blocker
}

func snapshotHolders(ctx context.Context, q Querier) ([]holder, error) {
	rows, err := q.Query(ctx, holdersSQL)
	if err != nil {
		return nil, fmt.Errorf("look for old snapshots: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (h holder, err error) {
		var age float64
		var query string
		err = row.Scan(&h.PID, &h.transaction, &h.xmin, &h.Application, &h.User, &h.Client, &h.Backend, &h.State, &age, &query)
		h.Age, h.Query = time.Duration(age*float64(time.Second)), postgres.QueryShape(query)
		return h, err
	})
	return found, wrap(err, "look for old snapshots")
}
