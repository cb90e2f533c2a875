package indexes

import (
	"math"
	"slices"
	"strings"
)

// path is a way to get rows: what it costs, in which order they come, and which indexes it uses.
type path struct {
	money
	order   []sortKey
	uses    []*indexModel
	fetched float64 // rows that are looked at
}

// reckoner reckons what queries cost under other indexes.
type reckoner struct {
	costSettings
	totalPages float64 // of all tables of the query
	memory     map[asked][]path
}

// asked is what paths was asked.
type asked struct {
	scan  *scan
	index *indexModel
	outer uint64 // a set of scans
	loops float64
}

// use is how the conditions of a scan fit an index.
type use struct {
	clauses   []*clause // all that are at hand
	bounds    []*clause // that limit what is read of the index
	checks    []*clause // that are looked at in the index
	filters   int       // that are left for the rows
	arrays    float64
	unordered bool // = ANY has broken the order
	indexOnly bool
	joined    bool // some condition is with another table
}

// available are the conditions that can be used when the rows of the outer scans are at hand.
func (s *scan) available(outer []int) []*clause {
	all := slices.Clone(s.clauses)
	for _, c := range s.joins {
		if (c.kind == clauseEqual || c.kind == clauseRange) && !slices.ContainsFunc(c.others, func(id int) bool { return !slices.Contains(outer, id) }) {
			all = append(all, c)
		}
	}
	return all
}

// serves says whether the conditions guarantee an index's predicate.
func (m *indexModel) serves(clauses []*clause) bool {
	for _, p := range m.implied {
		if !slices.ContainsFunc(clauses, func(c *clause) bool { return c.implies(p) }) {
			return false
		}
	}
	return true
}

// has says whether a condition is one of the predicate's.
func (m *indexModel) has(c *clause) bool {
	return slices.ContainsFunc(c.parts, func(part string) bool { return slices.Contains(m.implied, part) })
}

func (c *clause) implies(predicate string) bool {
	if slices.Contains(c.parts, predicate) {
		return true
	}
	column, ok := strings.CutSuffix(predicate, " IS NOT NULL")
	return ok && c.kind != clauseOther && c.kind != clauseOr && c.kind != clauseNull && c.key == columnKey+(token{text: column}).name()
}

// fit finds out how an index serves conditions; nil: not at all.
func (s *scan) fit(m *indexModel, clauses []*clause) *use {
	if !m.serves(clauses) {
		return nil
	}
	u := &use{arrays: 1, clauses: clauses}
	open := true // the next key is within the bounds
	for i, key := range m.keys {
		c := s.match(m, i, key, clauses, open)
		switch {
		case c == nil:
			open = false
			continue
		case !open:
			u.checks = append(u.checks, c)
			continue
		}
		u.bounds = append(u.bounds, c)
		switch c.kind {
		case clauseEqual, clauseNull, clauseTrue:
		case clauseAny:
			u.arrays *= c.values
			u.unordered = true
		default:
			open = false
		}
	}
	for _, c := range clauses {
		used := slices.Contains(u.bounds, c) || slices.Contains(u.checks, c)
		u.joined = u.joined || used && slices.Contains(s.joins, c)
		if !used && !m.has(c) {
			u.filters += len(c.parts)
		}
	}
	u.indexOnly = s.covered(m, clauses)
	return u
}

// match finds the condition that key i of an index serves.
func (s *scan) match(m *indexModel, i int, key string, clauses []*clause, open bool) *clause {
	pattern := m.def.Keys[i].OpClass != ""
	var found *clause
	for _, c := range clauses {
		if c.key != key {
			continue
		}
		switch c.kind {
		case clauseEqual, clauseNull, clauseTrue:
			return c
		case clauseAny:
			if found == nil || c.share < found.share {
				found = c
			}
		case clauseRange:
			if !pattern && (found == nil || found.kind == clauseRow) {
				found = c
			}
		case clauseRow:
			if !pattern && open && found == nil && m.follow(i, c.keys) {
				found = c
			}
		case clausePrefix:
			if c.constant && (pattern || s.byBytes(key)) {
				found = c
			}
		}
	}
	return found
}

// follow says whether keys stand next to each other in the index from i on, in one direction.
func (m *indexModel) follow(i int, keys []string) bool {
	for j, key := range keys {
		if i+j >= len(m.keys) || m.keys[i+j] != key || m.def.Keys[i+j].Descending != m.def.Keys[i].Descending {
			return false
		}
	}
	return true
}

// byBytes says whether a key sorts by bytes.
func (s *scan) byBytes(key string) bool {
	for _, c := range parseExpr(key[len(columnKey):]).columns() {
		if col := s.table.columns[c.name]; col != nil && !col.byBytes {
			return false
		}
	}
	return true
}

// covered says whether an index has all columns that are needed.
func (s *scan) covered(m *indexModel, clauses []*clause) bool {
	return m.def.Method == BTree && !s.heap && !slices.ContainsFunc(s.needed(m, clauses), func(column string) bool {
		return !slices.Contains(m.keys, columnKey+column) && !slices.Contains(m.def.Include, column)
	})
}

// needed are the columns that a scan has to look at, but for those that only the predicate of the index asks for.
func (s *scan) needed(m *indexModel, clauses []*clause) []string {
	all := slices.Clone(s.above)
	for _, c := range clauses {
		if m != nil && m.has(c) {
			continue
		}
		for _, column := range c.columns {
			if !slices.Contains(all, column) {
				all = append(all, column)
			}
		}
	}
	return all
}

func shareOf(clauses []*clause, l *leaf) float64 {
	share := 1.0
	for _, c := range clauses {
		share *= c.shares[l.oid]
	}
	return share
}

// paths are the ways to read a scan with an index. outer are the scans whose rows it is done for, each time; loops how many they are.
func (r *reckoner) paths(s *scan, m *indexModel, outer []int, loops float64) []path {
	question := asked{scan: s, index: m, loops: loops}
	for _, id := range outer {
		question.outer |= 1 << (id % 64)
	}
	known, ok := r.memory[question]
	if !ok {
		known = r.reckon(s, m, outer, loops)
		r.memory[question] = known
	}
	return known
}

func (r *reckoner) reckon(s *scan, m *indexModel, outer []int, loops float64) []path {
	clauses := s.available(outer)
	u := s.fit(m, clauses)
	if u == nil || len(outer) > 0 && !u.joined {
		return nil
	}
	switch m.def.Method {
	case methodGIN:
		return r.inverted(s, m, u)
	case methodBRIN:
		return r.ranges(s, m, u)
	case BTree:
		return r.ordered(s, m, u, loops)
	}
	return nil
}

func (r *reckoner) ordered(s *scan, m *indexModel, u *use, loops float64) []path {
	var found []path
	narrow := len(u.bounds) > 0 || m.def.Predicate != ""
	if order := s.orderOf(m, u); narrow || len(order) > 0 || u.indexOnly {
		one := r.scanIndex(s, m, u, loops)
		if found = append(found, one.with(order, m)); len(order) > 0 {
			found = append(found, one.with(reversed(order), m))
		}
	}
	if narrow {
		found = append(found, r.bitmap(s, m, u, loops))
	}
	return found
}

// scanned is the cost of an index scan on all leaves: one after the other, merged by their order, or one after the other in the order of
// the partitions.
type scanned struct {
	plain, merged money
	scan          *scan
	fetched       float64
}

func (x scanned) with(order []sortKey, m *indexModel) path {
	cost := x.plain
	if len(order) > 0 && len(x.scan.leaves) > 1 && (len(x.scan.table.key) != 1 || order[0].key != columnKey+x.scan.table.key[0]) {
		cost = x.merged
	}
	return path{money: cost, order: order, uses: []*indexModel{m}, fetched: x.fetched}
}

func (r *reckoner) probeOf(s *scan, m *indexModel, u *use, l *leaf, loops float64) probe {
	p := probe{leaf: l, part: m.parts[l.oid], bound: 1, all: 1, filters: float64(u.filters), arrays: u.arrays, loops: loops, indexOnly: u.indexOnly, totalPages: r.totalPages}
	for _, c := range u.clauses {
		bound, check := slices.Contains(u.bounds, c), slices.Contains(u.checks, c)
		if bound || check {
			p.conditions += float64(len(c.parts))
		}
		switch within := m.has(c); {
		case within:
			p.all *= c.shares[l.oid] // every entry of the index passes it
		case bound:
			p.bound *= math.Min(1, c.shares[l.oid]/s.filledShare(m, c))
			p.all *= c.shares[l.oid]
		case check:
			p.all *= c.shares[l.oid]
		}
	}
	if c := s.table.columns[m.keys[0][len(columnKey):]]; c != nil {
		if p.correlation = c.correlation; len(m.keys) > 1 {
			p.correlation *= 0.75
		}
	}
	return p
}

// filledShare is the part of the rows that an index has entries of because a condition is never true of the others, where its predicate
// leaves the nulls out.
func (s *scan) filledShare(m *indexModel, c *clause) float64 {
	name, plain := strings.CutPrefix(c.key, columnKey)
	col := s.table.columns[name]
	if !plain || col == nil || !slices.ContainsFunc(m.implied, func(p string) bool { return c.implies(p) }) {
		return 1
	}
	return math.Max(1-col.nullFrac, 1e-6)
}

func (r *reckoner) scanIndex(s *scan, m *indexModel, u *use, loops float64) scanned {
	x := scanned{scan: s}
	var rows float64
	for i, l := range s.leaves {
		p := r.probeOf(s, m, u, l, loops)
		one := r.indexScan(p)
		x.fetched += math.Max(1, p.all*l.tuples)
		x.plain.total += one.total
		x.merged = x.merged.plus(one)
		if i == 0 {
			x.plain.startup = one.startup
		}
		rows += math.Max(1, shareOf(u.clauses, l)*l.tuples)
	}
	if n := float64(len(s.leaves)); n > 1 {
		compare := 2 * r.cpuOperator * math.Log2(n)
		x.plain.total += 0.5 * r.cpuTuple * rows
		x.merged.startup += compare * n
		x.merged.total += compare*n + (compare+0.5*r.cpuTuple)*rows
	}
	return x
}

// eachLeaf adds up the costs of all leaves.
func (s *scan) eachLeaf(m *indexModel, cost func(l *leaf) money) path {
	p := path{uses: []*indexModel{m}}
	for i, l := range s.leaves {
		one := cost(l)
		if p.total += one.total; i == 0 {
			p.startup = one.startup
		}
	}
	return p
}

func (r *reckoner) bitmap(s *scan, m *indexModel, u *use, loops float64) path {
	return s.eachLeaf(m, func(l *leaf) money {
		probe := r.probeOf(s, m, u, l, loops)
		return r.bitmapScan(probe, r.btree(probe))
	})
}

// orderOf is the order in which an index gives rows: its keys without those of one value.
func (s *scan) orderOf(m *indexModel, u *use) []sortKey {
	if u.unordered {
		return nil
	}
	var order []sortKey
	for i, k := range m.def.Keys {
		single := slices.ContainsFunc(u.clauses, func(c *clause) bool {
			return c.key == m.keys[i] && (c.kind == clauseEqual || c.kind == clauseTrue || c.kind == clauseNull)
		})
		if single {
			continue
		}
		if k.OpClass != "" && !s.byBytes(m.keys[i]) {
			break
		}
		order = append(order, sortKey{key: m.keys[i], scan: s.id, desc: k.Descending, nulls: k.nulls()})
	}
	return order
}

// reversed is the order of a scan backwards. Nulls stand where the reversed direction has them by default, or do not as before.
func reversed(order []sortKey) []sortKey {
	back := slices.Clone(order)
	for i, k := range back {
		back[i].desc = !k.desc
		switch k.nulls {
		case NullsFirst:
			back[i].nulls = NullsLast
		case NullsLast:
			back[i].nulls = NullsFirst
		}
	}
	return back
}

// inverted reads a GIN index.
func (r *reckoner) inverted(s *scan, m *indexModel, u *use) []path {
	var served []*clause
	keywords := 0.0
	for _, c := range u.clauses {
		if c.key == m.keys[0] && c.keywords > 0 && ginServes(m.def.Keys[0].OpClass, c.kind) {
			served = append(served, c)
			keywords += c.keywords
		}
	}
	if len(served) == 0 {
		return nil
	}
	return []path{s.eachLeaf(m, func(l *leaf) money {
		p := r.probeOf(s, m, &use{clauses: u.clauses, arrays: 1, checks: served, filters: len(u.clauses) - len(served)}, l, 1)
		return r.bitmapScan(p, r.gin(p, keywords))
	})}
}

// jsonPathOps is the operator class of GIN that serves @> alone, with an index that is much smaller.
const jsonPathOps = "jsonb_path_ops"

func isTrigram(opclass string) bool { return strings.HasSuffix(opclass, "gin_trgm_ops") }

func ginServes(opclass string, kind clauseKind) bool {
	switch kind {
	case clauseContains:
		return !isTrigram(opclass)
	case clauseHas, clauseMember:
		return opclass == ""
	case clauseInfix, clausePrefix:
		return isTrigram(opclass)
	}
	return false
}

// ranges reads a BRIN index.
func (r *reckoner) ranges(s *scan, m *indexModel, u *use) []path {
	var served []*clause
	for _, c := range u.clauses {
		if c.key == m.keys[0] && (c.kind == clauseRange || c.kind == clauseEqual) {
			served = append(served, c)
		}
	}
	if len(served) == 0 {
		return nil
	}
	return []path{s.eachLeaf(m, func(l *leaf) money {
		p := r.probeOf(s, m, &use{clauses: u.clauses, arrays: 1, bounds: served, filters: len(u.clauses)}, l, 1)
		if c := s.table.columns[m.keys[0][len(columnKey):]]; c != nil {
			p.correlation = c.correlation
		}
		index, share := r.brin(p)
		p.all = share
		return r.bitmapScan(p, index)
	})}
}
