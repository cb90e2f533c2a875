package indexes

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// table is a table of the workload with what the planner knows of it: a plain one, or a partitioned one with its leaves.
type table struct {
	oid          uint32
	schema, name string
	key          []string // columns of the partition key; none: it is not partitioned
	leaves       []*leaf
	columns      map[string]*columnStats
	widths       map[string]float64 // of expressions, as sampled, at most; none: not known
	indexes      []*indexModel      // that are there
}

// leaf is a table with storage.
type leaf struct {
	oid           uint32
	schema, name  string
	pages, tuples float64
	visible       float64 // part of the pages that an index-only scan need not look at
	analyzed      bool
}

// columnStats is a column with the statistics of the largest leaf, which stand for all.
type columnStats struct {
	name, kind  string // kind: the type's name without modifier, e.g. text, varchar, timestamptz
	typeName    string // as SQL writes it
	category    string // pg_type.typcategory
	notNull     bool
	byBytes     bool // it sorts by bytes: a B-tree serves LIKE 'a%'
	known       bool // there are statistics
	nullFrac    float64
	width       float64
	fixed       float64 // bytes of every value, by the type; 0: it varies
	declared    float64 // bytes at most, by a length such as varchar(20) has; 0: there is none
	distinct    float64 // as pg_stats has it: negative is a share of the rows
	correlation float64
	common      []string // most common values
	frequencies []float64
	histogram   []string
}

// distinctOf is the number of values among so many rows.
func (c *columnStats) distinctOf(rows float64) float64 {
	switch {
	case c == nil || !c.known || c.distinct == 0:
		return math.Max(1, math.Min(rows, 200)) // what the planner assumes
	case c.distinct < 0:
		return math.Max(1, -c.distinct*rows)
	}
	return math.Max(1, math.Min(c.distinct, rows))
}

const (
	ancestorsSQL = `WITH RECURSIVE up AS (
  SELECT c.oid AS start, c.oid FROM unnest($1::text[], $2::text[]) AS w(s, r) JOIN pg_namespace n ON n.nspname = w.s JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.r
  WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'auditdb') AND c.relpersistence <> 't'
  UNION ALL SELECT u.start, i.inhparent FROM up u JOIN pg_class c ON c.oid = u.oid AND c.relispartition JOIN pg_inherits i ON i.inhrelid = u.oid)
SELECT DISTINCT u.oid FROM up u JOIN pg_class c ON c.oid = u.oid WHERE NOT c.relispartition`
	leavesSQL = treeSQL + `
SELECT t.root, c.oid, n.nspname, c.relname, c.relkind::text, c.relpages::float8, c.reltuples::float8, c.relallvisible::float8,
  CASE WHEN c.relkind IN ('r', 'm') THEN pg_relation_size(c.oid) / current_setting('block_size')::float8 ELSE 0 END,
  coalesce((SELECT array_agg(a.attname::text) FROM pg_partitioned_table k, unnest(k.partattrs::int2[]) AS at(n) JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = at.n WHERE k.partrelid = c.oid), '{}')
FROM tree t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY t.root, t.level, c.relname`
	columnsSQL = `SELECT a.attrelid, a.attname, y.typname, format_type(a.atttypid, NULL), y.typcategory::text, a.attnotnull,
  coalesce(l.collname IN ('C', 'POSIX', 'ucs_basic') OR l.oid = 100 AND (SELECT d.datcollate IN ('C', 'POSIX') AND coalesce(to_jsonb(d)->>'datlocprovider', 'c') = 'c' FROM pg_database d WHERE d.datname = current_database()), true),
  s.null_frac IS NOT NULL, coalesce(s.null_frac, 0)::float8, coalesce(s.avg_width, CASE WHEN y.typlen > 0 THEN y.typlen ELSE 32 END)::float8, greatest(y.typlen, 0)::float8,
  CASE WHEN y.typname IN ('varchar', 'bpchar') AND a.atttypmod > 4 THEN (a.atttypmod - 4) * 4 + 4 ELSE 0 END::float8, coalesce(s.n_distinct, 0)::float8, coalesce(s.correlation, 0)::float8,
  coalesce(s.most_common_vals::text::text[], '{}'), coalesce(s.most_common_freqs::float8[], '{}'), coalesce(s.histogram_bounds::text::text[], '{}')
FROM unnest($1::oid[]) AS w(oid) JOIN pg_class c ON c.oid = w.oid JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_type y ON y.oid = a.atttypid LEFT JOIN pg_collation l ON l.oid = a.attcollation LEFT JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname AND NOT s.inherited`
)

// spreadSQL gives, for a column of each leaf, the values that a quarter of its rows each are between.
const spreadSQL = `SELECT w.oid, ARRAY(SELECT h.bounds[1 + g * (array_length(h.bounds, 1) - 1) / 4] FROM generate_series(0, 4) g)
FROM unnest($1::oid[], $2::text[]) AS w(oid, name) JOIN pg_class c ON c.oid = w.oid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = w.name AND NOT s.inherited, LATERAL (SELECT s.histogram_bounds::text::text[] AS bounds) h
WHERE s.histogram_bounds IS NOT NULL`

// findTables gives the tables, by oid, that relations belong to: the partitioned ones above partitions. Those of system schemas are not
// among them.
func findTables(ctx context.Context, q Querier, schemas, names []string) ([]uint32, error) {
	rows, err := q.Query(ctx, ancestorsSQL, schemas, names)
	if err != nil {
		return nil, fmt.Errorf("look for tables: %w", err)
	}
	oids, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
	if err != nil {
		return nil, fmt.Errorf("look for tables: %w", err)
	}
	return oids, nil
}

// readTables reads what the planner knows of tables.
func readTables(ctx context.Context, q Querier, oids []uint32) ([]*table, error) {
	rows, err := q.Query(ctx, leavesSQL, oids)
	if err != nil {
		return nil, fmt.Errorf("read sizes of tables: %w", err)
	}
	found := map[uint32]*table{}
	var all []*table
	var root, oid uint32
	var schema, name, kind string
	var pages, tuples, visible, blocks float64
	var keys []string
	_, err = pgx.ForEachRow(rows, []any{&root, &oid, &schema, &name, &kind, &pages, &tuples, &visible, &blocks, &keys}, func() error {
		t := found[root]
		if t == nil {
			t = &table{oid: root, schema: schema, name: name, key: keys, columns: map[string]*columnStats{}, widths: map[string]float64{}}
			found[root] = t
			all = append(all, t)
		}
		if kind == "r" || kind == "m" {
			t.leaves = append(t.leaves, newLeaf(oid, schema, name, pages, tuples, visible, blocks))
		}
		keys = nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read sizes of tables: %w", err)
	}
	if err := readColumns(ctx, q, all); err != nil {
		return nil, err
	}
	if err := readKeySpread(ctx, q, all); err != nil {
		return nil, err
	}
	return all, readIndexModels(ctx, q, all)
}

// newLeaf estimates the rows as the planner does: the density at the last ANALYZE times the pages of now.
func newLeaf(oid uint32, schema, name string, pages, tuples, visible, blocks float64) *leaf {
	l := &leaf{oid: oid, schema: schema, name: name, pages: blocks, tuples: tuples, analyzed: tuples >= 0}
	switch {
	case pages > 0 && tuples >= 0:
		l.tuples, l.visible = tuples/pages*blocks, math.Min(visible/math.Max(blocks, 1), 1)
	case tuples < 0:
		l.pages = math.Max(blocks, 10)
		l.tuples = l.pages * 60 // rows of about 130 bytes
	}
	return l
}

// largest is the leaf whose statistics stand for all; nil: there is none.
func (t *table) largest() *leaf {
	var largest *leaf
	for _, l := range t.leaves {
		if largest == nil || l.tuples > largest.tuples {
			largest = l
		}
	}
	return largest
}

// rows of all leaves.
func (t *table) rows() (n float64) {
	for _, l := range t.leaves {
		n += l.tuples
	}
	return n
}

func readColumns(ctx context.Context, q Querier, tables []*table) error {
	of := map[uint32]*table{}
	var oids []uint32
	for _, t := range tables {
		if l := t.largest(); l != nil {
			of[l.oid] = t
			oids = append(oids, l.oid)
		}
	}
	rows, err := q.Query(ctx, columnsSQL, oids)
	if err != nil {
		return fmt.Errorf("read statistics of columns: %w", err)
	}
	var oid uint32
	var c columnStats
	_, err = pgx.ForEachRow(rows, []any{&oid, &c.name, &c.kind, &c.typeName, &c.category, &c.notNull, &c.byBytes, &c.known, &c.nullFrac, &c.width, &c.fixed, &c.declared, &c.distinct, &c.correlation, &c.common, &c.frequencies, &c.histogram}, func() error {
		one := c
		of[oid].columns[c.name] = &one
		c.common, c.frequencies, c.histogram = nil, nil, nil
		return nil
	})
	if err != nil {
		return fmt.Errorf("read statistics of columns: %w", err)
	}
	return nil
}

// readKeySpread makes the histograms of columns that tables are partitioned by go over all leaves: those of one leaf say nothing of the others.
func readKeySpread(ctx context.Context, q Querier, tables []*table) error {
	var oids []uint32
	var names []string
	for _, t := range tables {
		for _, l := range t.leaves {
			if len(t.key) == 1 && len(t.leaves) > 1 {
				oids, names = append(oids, l.oid), append(names, t.key[0])
			}
		}
	}
	if len(oids) == 0 {
		return nil
	}
	rows, err := q.Query(ctx, spreadSQL, oids, names)
	if err != nil {
		return fmt.Errorf("read statistics of partition keys: %w", err)
	}
	spread := map[uint32][]string{}
	var oid uint32
	var quarters []string
	_, err = pgx.ForEachRow(rows, []any{&oid, &quarters}, func() error {
		spread[oid], quarters = quarters, nil
		return nil
	})
	if err != nil {
		return fmt.Errorf("read statistics of partition keys: %w", err)
	}
	for _, t := range tables {
		if len(t.key) == 1 && t.columns[t.key[0]] != nil {
			t.columns[t.key[0]].spreadOver(t.leaves, spread)
		}
	}
	return nil
}

// spreadOver joins the values of leaves, weighted by their rows, to one histogram.
func (c *columnStats) spreadOver(leaves []*leaf, of map[uint32][]string) {
	known := slices.DeleteFunc(slices.Clone(leaves), func(l *leaf) bool { return len(of[l.oid]) == 0 || l.tuples <= 0 })
	if len(known) < 2 {
		return
	}
	slices.SortFunc(known, func(a, b *leaf) int { return compareValues(of[a.oid][0], of[b.oid][0]) })
	var total, passed float64
	for _, l := range known {
		total += l.tuples
	}
	c.histogram = nil
	for _, l := range known {
		values := of[l.oid]
		for passed += l.tuples; float64(len(c.histogram)) <= 100*passed/total && len(c.histogram) <= 100; {
			within := 1 - (passed-total*float64(len(c.histogram))/100)/l.tuples
			c.histogram = append(c.histogram, values[min(int(math.Max(within, 0)*float64(len(values))), len(values)-1)])
		}
	}
}

// compareValues compares numbers, or texts such as the server writes dates and times as.
func compareValues(a, b string) int {
	x, errX := strconv.ParseFloat(a, 64)
	y, errY := strconv.ParseFloat(b, 64)
	if errX == nil && errY == nil {
		return cmp.Compare(x, y)
	}
	return cmp.Compare(a, b)
}

// readIndexModels reads the valid indexes of tables.
func readIndexModels(ctx context.Context, q Querier, tables []*table) error {
	of := map[uint32]*table{}
	var oids []uint32
	for _, t := range tables {
		of[t.oid] = t
		oids = append(oids, t.oid)
	}
	found, err := Load(ctx, q, oids)
	if err != nil {
		return err
	}
	parents := map[uint32]uint32{}
	for _, i := range found {
		if i.Partitioned {
			parents[i.OID] = i.Parent
		}
	}
	attached := map[uint32]map[uint32]Index{} // by the index at the top, and by leaf
	for _, i := range found {
		if i.Partitioned {
			continue
		}
		top := i.OID
		for above := i.Parent; above != 0; above = parents[above] {
			top = above
		}
		if attached[top] == nil {
			attached[top] = map[uint32]Index{}
		}
		attached[top][i.TableOID] = i
	}
	for _, i := range found {
		if i.Level == 0 && i.Valid {
			t := of[i.Root]
			t.indexes = append(t.indexes, existingModel(t, i, attached[i.OID]))
		}
	}
	return nil
}
