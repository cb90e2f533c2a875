package integrity

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"auditdb/internal/fault"
	"auditdb/pkg/audit"
)

// Querier is what reads of this package need: a pool, a connection or a transaction.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// relation is what the catalog says about a table or a partition.
type relation struct {
	oid          uint32
	schema, name string
	kind         byte // pg_class.relkind
	rules        int64
	rowSecurity  bool
	keyColumn    string // of a partitioned table with a single-column key
	columns      []audit.Column
}

const sqlRelation = `
SELECT c.oid, n.nspname, c.relname, c.relkind::text, (SELECT count(*) FROM pg_rewrite w WHERE w.ev_class = c.oid), c.relrowsecurity,
       coalesce((SELECT a.attname FROM pg_partitioned_table p JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
                 WHERE p.partrelid = c.oid AND p.partnatts = 1), ''),
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
       ARRAY(SELECT CASE t.typnamespace WHEN 'pg_catalog'::regnamespace THEN '' ELSE t.typnamespace::regnamespace::text || '.' END || t.typname
             FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace`

func scanRelation(row pgx.Row) (relation, error) {
	var r relation
	var kind string
	var names, types []string
	err := row.Scan(&r.oid, &r.schema, &r.name, &kind, &r.rules, &r.rowSecurity, &r.keyColumn, &names, &types)
	if err != nil {
		return r, err
	}
	r.kind = kind[0]
	for i, name := range names {
		r.columns = append(r.columns, audit.Column{Name: name, Type: types[i], Personal: isPersonal(name)})
	}
	return r, nil
}

// readRelation reads one relation by oid.
func readRelation(ctx context.Context, q Querier, oid uint32) (relation, error) {
	r, err := scanRelation(q.QueryRow(ctx, sqlRelation+" WHERE c.oid = $1", oid))
	if err != nil {
		return r, fmt.Errorf("read the catalog of relation %d: %w", oid, err)
	}
	return r, nil
}

// isPersonal tells whether a column is hashed under the row's salt, so that it can be erased.
func isPersonal(column string) bool {
	switch column {
	case "principal_id", "target_resource_id", "outcome_description", "details":
		return true
	}
	return false
}

const (
	saltColumn     = "salt"
	idColumn       = "id"
	recordedColumn = "recorded_at"
)

// format returns the leaf format of a table at its first record: that of public.audit_log where the table has all of its columns, which
// is what ingest writes; else every column in catalog order, personal ones apart, the salt left out.
func (r relation) format() (audit.Format, error) {
	if standard := audit.AuditLog(); r.has(standard) {
		return standard, nil
	}
	f := audit.Format{Version: audit.FormatVersion}
	for _, c := range r.columns {
		switch {
		case c.Name == saltColumn && c.Type == "uuid":
			f.Salt = c.Name
		case c.Personal:
			f.Personal = append(f.Personal, c)
		default:
			f.Core = append(f.Core, c)
		}
	}
	if i := f.Index(idColumn); i < 0 || i >= len(f.Core) {
		return f, fault.New(fault.Config, "only tables with a column id can be sealed", "%s.%s has no column id", r.schema, r.name)
	}
	return f, nil
}

// has tells whether the table has every column of a format.
func (r relation) has(f audit.Format) bool {
	types := make(map[string]string, len(r.columns))
	for _, c := range r.columns {
		types[c.Name] = c.Type
	}
	for _, c := range f.Columns() {
		if types[c.Name] != c.Type {
			return false
		}
	}
	return true
}

// ChildOID returns the oid of a table's partition by its name, 0 when there is none.
func ChildOID(ctx context.Context, q Querier, table uint32, name string) (oid uint32, err error) {
	err = q.QueryRow(ctx, `
SELECT coalesce(max(c.oid::bigint), 0) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = $1 AND c.relname = $2`, table, name).Scan(&oid)
	if err != nil {
		return 0, fmt.Errorf("look up partition %s: %w", name, err)
	}
	return oid, nil
}

// partition is one entry of a table's partition list.
type partition struct {
	oid   uint32
	ref   PartitionRef
	rel   relation
	pages int64
}

// readPartitions lists the partitions of a table in the order of their bounds, as the catalog has them in the snapshot of q. (With the
// relation's oid pg_get_expr gives NULL for one that was dropped since; bounds have no columns, so it is not needed.)
func readPartitions(ctx context.Context, q Querier, table uint32) ([]partition, error) {
	rows, err := q.Query(ctx, `
SELECT i.inhrelid, c.relname, pg_get_expr(c.relpartbound, 0), c.relpages
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = $1 AND NOT i.inhdetachpending ORDER BY i.inhrelid`, table)
	if err != nil {
		return nil, fmt.Errorf("list partitions: %w", err)
	}
	parts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (partition, error) {
		var p partition
		var bound string
		if err := row.Scan(&p.oid, &p.ref.Name, &bound, &p.pages); err != nil {
			return p, err
		}
		var err error
		p.ref.Range, err = parseBound(bound)
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("list partitions: %w", err)
	}
	sortPartitions(parts)
	return parts, nil
}

// parseBound reads the partition bound of pg_get_expr for a key of type timestamptz, timestamp or date in a session with time zone UTC
// and DateStyle ISO.
func parseBound(expr string) (Range, error) {
	if expr == "DEFAULT" {
		return DefaultRange(), nil
	}
	from, to, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(expr, "FOR VALUES FROM ("), ")"), ") TO (")
	if !ok || !strings.HasPrefix(expr, "FOR VALUES FROM (") {
		return Range{}, fmt.Errorf("partition bound %q is not a range of one time", expr)
	}
	var r Range
	var err error
	if r.From, r.FromMin, err = parseEnd(from, "MINVALUE", "'-infinity'"); err != nil {
		return r, err
	}
	r.To, r.ToMax, err = parseEnd(to, "MAXVALUE", "'infinity'")
	return r, err
}

// boundShape is a date, timestamp or timestamptz in ISO style and UTC; years go beyond 9999 and before Christ.
var boundShape = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^'(\d{4,7})-(\d\d)-(\d\d)(?: (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(?:\+00)?)?( BC)?'$`)
})

func parseEnd(s string, open ...string) (time.Time, bool, error) {
	for _, o := range open {
		if s == o {
			return time.Time{}, true, nil
		}
	}
	m := boundShape().FindStringSubmatch(s)
	if m == nil {
		return time.Time{}, false, fmt.Errorf("partition bound %q is not a time", s)
	}
	number := func(i int) int {
		n, _ := strconv.Atoi(m[i]) // digits by the pattern; "" is 0
		return n
	}
	year := number(1)
	if m[8] != "" {
		year = 1 - year // there is no year 0: 1 BC comes before 1
	}
	micros, _ := strconv.Atoi((m[7] + "000000")[:6])
	return time.Date(year, time.Month(number(2)), number(3), number(4), number(5), number(6), micros*1000, time.UTC), false, nil
}
