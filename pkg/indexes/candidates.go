package indexes

import (
	"slices"
	"strings"
)

const (
	fewestRows     = 1000 // of a table that an index is thought of for
	mostIncluded   = 8    // columns in INCLUDE
	widestIncluded = 160  // bytes of them
	mostKeys       = 5
	rareShare      = 0.25 // of the rows in a partial index, at most
	fewValues      = 24   // of a column one of whose values a partial index may be for
	selectiveShare = 0.5  // of the rows that pass a condition that is worth a key
	mostlyNull     = 0.5  // of the rows, from which on an index without the nulls is thought of
	wideRange      = 0.9  // correlation from which a BRIN index is thought of
)

// generator thinks of indexes for the scans of queries.
type generator struct {
	pricing   *pricing
	trigrams  string // the operator class, qualified; "": the extension is not there
	immutable map[string]bool
	made      map[string]*indexModel // by table and shape
	current   []*indexModel          // of the query at hand
}

// scan thinks of indexes for one table of a query.
func (g *generator) scan(s *scan) {
	if s.table.rows() < fewestRows || s.table.largest() == nil {
		return
	}
	g.trees(s, s.clauses)
	for _, c := range s.clauses {
		for _, arm := range c.arms {
			g.trees(&scan{id: s.id, table: s.table, leaves: s.leaves, above: s.above, heap: true}, arm)
			g.inverted(s, arm)
		}
	}
	g.inverted(s, s.clauses)
	g.ranges(s)
}

// trees thinks of B-trees for conditions.
func (g *generator) trees(s *scan, clauses []*clause) {
	var fixed, joins []Key
	var ranges [][]Key
	for _, c := range clauses {
		switch c.kind {
		case clauseEqual, clauseAny, clauseTrue, clauseNull:
			if k, ok := g.key(s, c.key, false); ok && c.share <= selectiveShare {
				fixed = addKey(fixed, k)
			}
		case clauseRange, clauseRow, clausePrefix:
			if k, ok := g.key(s, c.key, c.kind == clausePrefix); ok && c.constantPrefix() {
				ranges = append(ranges, []Key{k})
			}
			if c.kind == clauseRow {
				ranges = append(ranges, g.rowKeys(s, c))
			}
		}
	}
	for _, c := range s.joins {
		if k, ok := g.key(s, c.key, false); ok && c.kind == clauseEqual {
			joins = addKey(joins, k)
		}
	}
	tails := append([][]Key{nil}, ranges...)
	for _, o := range s.orders {
		if keys := g.orderKeys(s, o, fixed); len(keys) > 0 {
			tails = append(tails, keys)
			for _, r := range ranges {
				if len(r) == 1 && !slices.ContainsFunc(keys, func(k Key) bool { return sameKey(k, r[0]) }) {
					tails = append(tails, append(slices.Clone(keys), r[0]))
				}
			}
		}
	}
	g.combine(s, subsets(fixed), joins, tails)
	for _, predicate := range append(g.predicates(s, clauses), s.filled(clauses)...) {
		var rest []Key
		for _, k := range fixed {
			if !slices.ContainsFunc(predicate, func(c *clause) bool { return c.kind != clauseNotNull && c.key == keyOfDefinition(k) }) {
				rest = append(rest, k)
			}
		}
		g.partial(s, predicate, subsets(rest), joins, tails)
	}
}

func (c *clause) constantPrefix() bool { return c.kind != clausePrefix || c.constant }

// combine makes indexes of leading keys, of keys that join, and of a tail.
func (g *generator) combine(s *scan, heads [][]Key, joins []Key, tails [][]Key) {
	for _, head := range heads {
		for _, tail := range tails {
			g.add(s, append(slices.Clone(head), tail...), nil)
		}
		for _, j := range joins {
			g.add(s, append(slices.Clone(head), j), nil)
			g.add(s, append([]Key{j}, head...), nil)
			for _, tail := range tails[1:] {
				g.add(s, append(append(slices.Clone(head), j), tail...), nil)
			}
		}
	}
	if len(joins) > 1 {
		g.add(s, joins, nil)
	}
}

func (g *generator) partial(s *scan, predicate []*clause, heads [][]Key, joins []Key, tails [][]Key) {
	for _, head := range heads {
		for _, tail := range tails {
			g.add(s, append(slices.Clone(head), tail...), predicate)
		}
		for _, j := range joins {
			g.add(s, append(slices.Clone(head), j), predicate)
		}
	}
	if len(s.table.key) == 1 { // nothing else to sort by
		g.add(s, []Key{{Column: s.table.key[0]}}, predicate)
	} else if len(s.above) > 0 {
		g.add(s, []Key{{Column: s.above[0]}}, predicate)
	}
}

// predicates are conditions that few rows pass and that are always the same.
func (g *generator) predicates(s *scan, clauses []*clause) [][]*clause {
	var good []*clause
	for _, c := range clauses {
		if !c.constant || c.guessed || c.share > rareShare || len(c.columns) == 0 || !g.steady(s, c) {
			continue
		}
		switch c.kind {
		case clauseTrue, clauseNull, clauseNotNull:
			good = append(good, c)
		case clauseEqual, clauseAny, clauseHas, clauseContains, clauseOther:
			few := c.kind == clauseHas || c.kind == clauseContains && strings.HasPrefix(c.key, expressionKey)
			for _, column := range c.columns {
				col := s.table.columns[column]
				few = few || col != nil && col.known && col.distinct > 0 && col.distinct <= fewValues
			}
			if few {
				good = append(good, c)
			}
		}
	}
	var all [][]*clause
	for _, c := range good {
		all = append(all, []*clause{c})
	}
	if len(good) > 1 {
		all = append(all, good)
	}
	return all
}

// filled are predicates for columns that are mostly null: a comparison with one is never true of a null, so that an index without the nulls
// serves it and is written to for few rows.
func (s *scan) filled(clauses []*clause) [][]*clause {
	var all [][]*clause
	for _, c := range clauses {
		name, plain := strings.CutPrefix(c.key, columnKey)
		col, written := s.table.columns[name], parseExpr(c.text).columns()
		if !plain || col == nil || col.nullFrac < mostlyNull || len(written) != 1 || !slices.Contains([]clauseKind{clauseEqual, clauseAny, clauseRange}, c.kind) {
			continue
		}
		text := written[0].text + " IS NOT NULL"
		p := &clause{kind: clauseNotNull, from: s, text: text, parts: []string{text}, key: c.key, columns: c.columns, constant: true}
		p.set(s, func(*leaf) float64 { return 1 - col.nullFrac })
		all = append(all, []*clause{p})
	}
	return all
}

// subsets are the leading keys worth trying: all orders of few keys, and of many those from the front.
func subsets(keys []Key) [][]Key {
	found := [][]Key{nil}
	if len(keys) > 3 {
		for n := range keys {
			found = append(found, keys[:n+1], []Key{keys[n]})
		}
		return found
	}
	var grow func(taken []Key)
	grow = func(taken []Key) {
		for _, k := range keys {
			if !slices.ContainsFunc(taken, func(t Key) bool { return sameKey(t, k) }) {
				next := append(slices.Clone(taken), k)
				found = append(found, next)
				grow(next)
			}
		}
	}
	grow(nil)
	return found
}

func sameKey(a, b Key) bool { return a.Column == b.Column && a.Expression == b.Expression }

func addKey(keys []Key, k Key) []Key {
	if slices.ContainsFunc(keys, func(o Key) bool { return sameKey(o, k) }) {
		return keys
	}
	return append(keys, k)
}

// key is a key of a B-tree for what a condition is on. pattern: it has to serve LIKE 'a%'.
func (g *generator) key(s *scan, key string, pattern bool) (Key, bool) {
	name, plain := strings.CutPrefix(key, columnKey)
	k := Key{Column: name}
	if !plain {
		k = Key{Expression: strings.TrimPrefix(key, expressionKey)}
		if key == "" || !g.lasting(parseExpr(k.Expression)) || s.isDocument(key) {
			return k, false
		}
	} else if c := s.table.columns[name]; c == nil || !sortable(c) {
		return k, false
	}
	if pattern && !s.byBytes(key) {
		k.OpClass = "text_pattern_ops"
		if c := s.table.columns[name]; c != nil && c.kind == "varchar" {
			k.OpClass = "varchar_pattern_ops"
		} else if c != nil && c.kind == "bpchar" {
			k.OpClass = "bpchar_pattern_ops"
		}
	}
	return k, true
}

// sortable says whether a B-tree can be on a column, as far as types of the server itself go.
func sortable(c *columnStats) bool {
	return !slices.Contains([]string{"json", "xml", "jsonb", "point", "box", "polygon", "line", "lseg", "path", "circle", "tsvector", "tsquery"}, c.kind) && c.category != "A" && c.width < 500
}

func (g *generator) rowKeys(s *scan, c *clause) []Key {
	var keys []Key
	for _, key := range c.keys {
		k, ok := g.key(s, key, false)
		if !ok {
			return nil
		}
		keys = append(keys, k)
	}
	return keys
}

// orderKeys are the keys that a wanted order begins with, as far as they are of this table; fixed ones have one value and need not be there.
func (g *generator) orderKeys(s *scan, order []sortKey, fixed []Key) []Key {
	var keys []Key
	for _, o := range order {
		k, ok := g.key(s, o.key, false)
		if o.scan != s.id || !ok {
			break
		}
		if !slices.ContainsFunc(fixed, func(f Key) bool { return sameKey(f, k) }) {
			k.Descending, k.Nulls = o.desc, o.nulls
			keys = append(keys, k)
		}
	}
	if len(keys) > 0 && keys[0].Descending && !slices.ContainsFunc(keys, func(k Key) bool { return !k.Descending || k.Nulls != "" }) {
		for i := range keys { // read backwards, so that it serves other queries too
			keys[i].Descending = false
		}
	}
	return keys
}

// add thinks of a B-tree, and of one with all columns that the scan needs.
func (g *generator) add(s *scan, keys []Key, predicate []*clause) {
	var unique []Key
	for _, k := range keys {
		unique = addKey(unique, k)
	}
	if len(unique) == 0 || len(unique) > mostKeys {
		return
	}
	d := Definition{Schema: s.table.schema, Table: s.table.name, Method: BTree, Keys: unique, Predicate: predicateOf(predicate)}
	m := g.keep(s, d, predicate)
	if s.heap || m == nil {
		return
	}
	width := 0.0
	for _, column := range s.needed(m, s.clauses) {
		if !slices.Contains(m.keys, columnKey+column) {
			d.Include = append(d.Include, column)
			width += s.table.keyWidth(columnKey + column)
		}
	}
	if len(d.Include) > 0 && len(d.Include) <= mostIncluded && width <= widestIncluded {
		slices.Sort(d.Include)
		g.keep(s, d, predicate)
	}
}

func predicateOf(clauses []*clause) string {
	texts := make([]string, len(clauses))
	for i, c := range clauses {
		texts[i] = trimParens(c.text)
	}
	slices.Sort(texts)
	if len(texts) > 1 {
		for i := range texts {
			texts[i] = "(" + texts[i] + ")"
		}
	}
	return strings.Join(texts, " AND ")
}

// keep remembers a thought, once. It is nil where the table has such an index, or cannot have it.
func (g *generator) keep(s *scan, d Definition, predicate []*clause) *indexModel {
	id := relationKey(d.Schema, d.Table) + " " + d.shape()
	m, known := g.made[id]
	if !known {
		if s.table.holds(d) && !slices.ContainsFunc(s.table.indexes, func(i *indexModel) bool { return i.def.Covers(d) }) && d.check() == nil {
			var kept map[uint32]float64
			if len(predicate) > 0 {
				kept = map[uint32]float64{}
				for _, l := range s.table.leaves {
					kept[l.oid] = 1
					for _, c := range predicate {
						if share, ok := c.shares[l.oid]; ok {
							kept[l.oid] *= share
						} else {
							kept[l.oid] *= c.share
						}
					}
				}
			}
			m = g.pricing.candidate(s.table, d, kept)
			m.id = len(g.made) + 1
		}
		g.made[id] = m
	}
	if m != nil && !slices.Contains(g.current, m) {
		g.current = append(g.current, m)
	}
	return m
}

// inverted thinks of GIN indexes.
func (g *generator) inverted(s *scan, clauses []*clause) {
	for _, c := range clauses {
		k := Key{Column: strings.TrimPrefix(c.key, columnKey)}
		if expression, ok := strings.CutPrefix(c.key, expressionKey); ok {
			if k = (Key{Expression: expression}); !g.lasting(parseExpr(expression)) {
				continue
			}
		}
		switch {
		case c.key == "":
			continue
		case c.kind == clauseContains && s.isDocument(c.key):
			k.OpClass = jsonPathOps
		case c.kind == clauseHas && s.isDocument(c.key):
		case c.kind == clauseMember && k.Column != "" && (s.table.columns[k.Column].category == "A" || s.table.columns[k.Column].kind == "tsvector"):
		case (c.kind == clauseInfix || c.kind == clausePrefix) && c.keywords > 0 && g.trigrams != "":
			k.OpClass = g.trigrams
		default:
			continue
		}
		g.keep(s, Definition{Schema: s.table.schema, Table: s.table.name, Method: methodGIN, Keys: []Key{k}}, nil)
	}
}

// ranges thinks of BRIN indexes.
func (g *generator) ranges(s *scan) {
	for _, c := range s.clauses {
		name, plain := strings.CutPrefix(c.key, columnKey)
		if col := s.table.columns[name]; c.kind == clauseRange && plain && (col.correlation > wideRange || col.correlation < -wideRange) && s.table.largest().pages > 4*pagesPerRange {
			g.keep(s, Definition{Schema: s.table.schema, Table: s.table.name, Method: methodBRIN, Keys: []Key{{Column: name}}}, nil)
		}
	}
}

// steady says whether a condition always gives the same for the same row, as a predicate has to. A date and a time with a zone are compared
// as the session's time zone has it.
func (g *generator) steady(s *scan, c *clause) bool {
	e := parseExpr(c.text)
	if e.kind != exprOperator && e.kind != exprAny {
		return g.lasting(e)
	}
	return !slices.ContainsFunc(c.columns, func(name string) bool { return s.table.columns[name] == nil || s.table.columns[name].category == "D" }) &&
		!slices.ContainsFunc(e.args, func(a *expr) bool { return !g.lasting(a) })
}

// lasting says whether an expression always gives the same value for the same row, as an index wants it.
func (g *generator) lasting(e *expr) bool {
	switch e.kind {
	case exprColumn, exprConst:
		return true
	case exprParam:
		return false
	case exprCall:
		if !g.immutable[e.name] && e.name != "COALESCE" {
			return false
		}
	case exprCast:
		if !slices.Contains([]string{"integer", "bigint", "smallint", "numeric", "double precision", "real", "boolean", "uuid", "text", "inet", "jsonb", "character varying"}, e.name) {
			return false
		}
	case exprOperator:
		if !slices.Contains([]string{"->", "->>", "#>", "#>>", "*", "/"}, e.name) { // sums may be of times, which depend on the session
			return false
		}
	case exprOther:
		return false
	}
	return !slices.ContainsFunc(e.args, func(a *expr) bool { return !g.lasting(a) })
}
