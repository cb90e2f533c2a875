package indexes

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// planNode is a node of EXPLAIN (VERBOSE, FORMAT JSON).
type planNode struct {
	Type         string  `json:"Node Type"`
	Strategy     string  `json:"Strategy"`
	JoinType     string  `json:"Join Type"`
	Relationship string  `json:"Parent Relationship"`
	Schema       string  `json:"Schema"`
	Relation     string  `json:"Relation Name"`
	Alias        string  `json:"Alias"`
	Index        string  `json:"Index Name"`
	Startup      float64 `json:"Startup Cost"`
	Total        float64 `json:"Total Cost"`
	Rows         float64 `json:"Plan Rows"`
	Width        float64 `json:"Plan Width"`

	Output     []string    `json:"Output"`
	Filter     string      `json:"Filter"`
	HashCond   string      `json:"Hash Cond"`
	JoinFilter string      `json:"Join Filter"`
	SortKey    []string    `json:"Sort Key"`
	GroupKey   []string    `json:"Group Key"`
	Plans      []*planNode `json:"Plans"`
}

// isSub says whether a node is a subquery beside its parent's own inputs.
func (n *planNode) isSub() bool { return n.Relationship == "InitPlan" || n.Relationship == "SubPlan" }

// inputs are the node's children that give it rows.
func (n *planNode) inputs() []*planNode {
	return slices.DeleteFunc(slices.Clone(n.Plans), (*planNode).isSub)
}

// walk visits the nodes of a plan.
func (n *planNode) walk(visit func(*planNode)) {
	visit(n)
	for _, p := range n.Plans {
		p.walk(visit)
	}
}

// relations are the tables of a plan, schemas and names.
func (n *planNode) relations() (schemas, names []string) {
	seen := map[string]bool{}
	n.walk(func(n *planNode) {
		if n.Relation != "" && !seen[relationKey(n.Schema, n.Relation)] {
			seen[relationKey(n.Schema, n.Relation)] = true
			schemas, names = append(schemas, n.Schema), append(names, n.Relation)
		}
	})
	return schemas, names
}

// logic is a node of a query as the planner runs it without any index: from it can be reckoned what the rows cost in other ways.
type logic struct {
	node  *planNode
	in    []*logic
	subs  []*logic
	scan  *scan     // a table
	joins []*clause // of a join: conditions between two tables
	order []sortKey // of a sort, a group, or what a plain aggregate takes the first of
}

// scan is a table in a query, all its partitions together.
type scan struct {
	id      int
	level   int // scans of one level are joined with each other; to others they are what is around a subquery
	table   *table
	alias   string
	leaves  []*leaf
	nodes   []*planNode // of the leaves
	clauses []*clause   // on this table alone
	joins   []*clause   // with other tables
	above   []string    // columns that nodes above need
	orders  [][]sortKey // that something above would like
	cost    money
	rows    float64
	width   float64
	heap    bool // the rows themselves are needed: they are changed or locked
}

// sortKey is a part of a sort order.
type sortKey struct {
	key   string // as clause.key
	scan  int    // of the table; -1: of none alone
	desc  bool
	nulls string // first or last where that is not the default of the direction
}

// logicBuilder turns plans into logic.
type logicBuilder struct {
	leaves map[string]leafOf // by relationKey
	scans  []*scan
	byName map[string]*scan // by alias, of leaves and of the whole
	level  int              // of subqueries
}

type leafOf struct {
	table *table
	leaf  *leaf
}

func relationKey(schema, name string) string { return quote(schema) + "." + quote(name) }

// build makes the logic of a plan. Tables that are not known, such as those of the catalog, have no scan.
func (b *logicBuilder) build(n *planNode) *logic {
	l := b.tree(n, 0)
	b.conditions(l)
	for _, s := range b.scans {
		s.mergeRanges()
	}
	b.wishes(l, nil)
	b.columns(l, nil, nil)
	return l
}

func (b *logicBuilder) tree(n *planNode, level int) *logic {
	l := &logic{node: n, scan: b.scanOf([]*planNode{n})}
	if l.scan == nil && (n.Type == "Append" || n.Type == "Merge Append") {
		if l.scan = b.scanOf(n.inputs()); l.scan != nil {
			l.scan.cost, l.scan.rows, l.scan.width = money{n.Startup, n.Total}, n.Rows, n.Width
		}
	}
	below := n.Plans
	if l.scan != nil {
		l.scan.level = level
		if below = l.scan.nodes[0].Plans; l.scan.nodes[0] != n { // subqueries in the filters of partitions: the first one's stand for all
			below = append(slices.Clone(below), slices.DeleteFunc(slices.Clone(n.Plans), func(p *planNode) bool { return !p.isSub() })...)
		}
	}
	for _, p := range below {
		if p.isSub() {
			b.level++
			l.subs = append(l.subs, b.tree(p, b.level))
		} else {
			l.in = append(l.in, b.tree(p, level))
		}
	}
	return l
}

var leafSuffix = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`_\d+$`) })

// scanOf makes a scan of nodes that are all scans of leaves of one table.
func (b *logicBuilder) scanOf(nodes []*planNode) *scan {
	var s *scan
	for _, n := range nodes {
		of, ok := b.leaves[relationKey(n.Schema, n.Relation)]
		if !ok || n.Type != "Seq Scan" || s != nil && of.table != s.table {
			return nil
		}
		if s == nil {
			s = &scan{table: of.table, alias: n.Alias, cost: money{n.Startup, n.Total}, rows: n.Rows, width: n.Width}
		}
		s.leaves, s.nodes = append(s.leaves, of.leaf), append(s.nodes, n)
	}
	if s == nil {
		return nil
	}
	if len(nodes) > 1 {
		s.alias = leafSuffix().ReplaceAllString(s.alias, "")
	}
	s.id = len(b.scans)
	b.scans = append(b.scans, s)
	b.byName[s.alias] = s
	for _, n := range nodes {
		b.byName[n.Alias] = s
	}
	return s
}

// scanOfColumn finds the table of a column; a name without an alias is of the only table that has it.
func (b *logicBuilder) scanOfColumn(c *expr) *scan {
	if c.alias != "" {
		return b.byName[c.alias]
	}
	var found *scan
	for _, s := range b.scans {
		if s.table.columns[c.name] != nil {
			if found != nil {
				return nil
			}
			found = s
		}
	}
	return found
}

// conditions reads the filters of all tables, and what joins them.
func (b *logicBuilder) conditions(l *logic) {
	if l.scan != nil {
		if l.scan.nodes[0].Filter != "" {
			for _, e := range parseExpr(l.scan.nodes[0].Filter).conjuncts() {
				b.condition(l.scan, e)
			}
		}
	} else {
		for _, text := range []string{l.node.HashCond, l.node.JoinFilter} {
			if text != "" {
				b.joined(l, parseExpr(text).conjuncts())
			}
		}
	}
	for _, below := range append(slices.Clone(l.in), l.subs...) {
		b.conditions(below)
	}
}

func (b *logicBuilder) joined(l *logic, conjuncts []*expr) {
	for _, e := range conjuncts {
		for _, s := range b.scansOf(e) {
			c := newClause(s, e, b)
			c.from = s
			s.joins = append(s.joins, c)
			l.joins = append(l.joins, c)
		}
	}
}

func (b *logicBuilder) condition(s *scan, e *expr) {
	c := newClause(s, e, b)
	c.from = s
	if slices.ContainsFunc(c.others, func(id int) bool { return id >= 0 && b.scans[id].level == s.level }) {
		s.joins = append(s.joins, c)
	} else {
		s.clauses = append(s.clauses, c)
	}
}

// mergeRanges makes of a lower and an upper bound of one key a single condition, whose share of the rows is that of both.
func (s *scan) mergeRanges() {
	var merged []*clause
	of := map[string]*clause{}
	for _, c := range s.clauses {
		known := of[c.key]
		switch {
		case c.kind != clauseRange || len(c.others) > 0:
			merged = append(merged, c)
		case known == nil:
			of[c.key] = c
			merged = append(merged, c)
		default:
			known.text += " AND " + c.text
			known.parts = append(known.parts, c.parts...)
			known.constant = known.constant && c.constant
			known.twoSided = known.twoSided || known.down != c.down
		}
	}
	s.clauses = merged
}

// scansOf are the tables whose columns an expression has.
func (b *logicBuilder) scansOf(e *expr) []*scan {
	var found []*scan
	for _, c := range e.columns() {
		if s := b.scanOfColumn(c); s != nil && !slices.Contains(found, s) {
			found = append(found, s)
		}
	}
	return found
}

// sortKeys reads a list of sort or group keys.
func (b *logicBuilder) sortKeys(texts []string) []sortKey {
	keys := make([]sortKey, len(texts))
	for i, text := range texts {
		k := sortKey{scan: -1}
		if rest, ok := strings.CutSuffix(text, " NULLS FIRST"); ok {
			text, k.nulls = rest, NullsFirst
		} else if rest, ok := strings.CutSuffix(text, " NULLS LAST"); ok {
			text, k.nulls = rest, NullsLast
		}
		text, k.desc = strings.CutSuffix(text, " DESC")
		e := parseExpr(text)
		if of := b.scansOf(e); len(of) == 1 && !strings.Contains(text, " COLLATE ") {
			if k.key = keyOf(of[0], e); k.key != "" {
				k.scan = of[0].id
			}
		}
		if k.key == "" {
			k.key = text
		}
		keys[i] = k
	}
	return keys
}

// wishes hands down which order would save somebody a sort.
func (b *logicBuilder) wishes(l *logic, wanted [][]sortKey) {
	n := l.node
	switch n.Type {
	case "Sort":
		l.order = b.sortKeys(n.SortKey)
		wanted = append(slices.Clone(wanted), l.order)
	case "Aggregate":
		if len(n.GroupKey) > 0 {
			l.order = b.sortKeys(n.GroupKey)
		} else {
			l.order = b.extreme(n)
		}
		if wanted = nil; l.order != nil {
			wanted = [][]sortKey{l.order}
		}
	case "Hash", "SetOp", "ModifyTable":
		wanted = nil
	}
	if l.scan != nil {
		l.scan.orders = wanted
	}
	for _, in := range l.in {
		b.wishes(in, wanted)
	}
	for _, sub := range l.subs {
		b.wishes(sub, nil)
	}
}

var extremeOf = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(min|max)\(((?:[^()"']|"(?:[^"]|"")*")+)\)$`) })

// extreme is the order whose first row answers an aggregate that is min or max of one column; nil: it is another one.
func (b *logicBuilder) extreme(n *planNode) []sortKey {
	if len(n.Output) != 1 || n.Strategy != "Plain" {
		return nil
	}
	m := extremeOf().FindStringSubmatch(n.Output[0])
	if m == nil {
		return nil
	}
	keys := b.sortKeys([]string{m[2]})
	if keys[0].scan < 0 {
		return nil
	}
	if keys[0].desc = m[1] == "max"; keys[0].desc && !b.scans[keys[0].scan].notNull(keys[0].key) {
		keys[0].nulls = NullsLast // rows without a value do not count
	}
	return keys
}

func (s *scan) notNull(key string) bool {
	c := s.table.columns[strings.TrimPrefix(key, columnKey)]
	return c != nil && c.notNull
}

// columns finds out which columns of each table are needed above it. Where texts is nil the node above takes the table's output as it is.
func (b *logicBuilder) columns(l *logic, above *planNode, texts []string) {
	n := l.node
	if l.scan != nil {
		b.need(l.scan, above, texts)
	}
	switch n.Type {
	case "Append", "Merge Append", "Limit", "Subquery Scan", "Unique": // their rows are those of the input
	case "ModifyTable", "LockRows", "Sort", "Hash", "Materialize", "Memoize":
		if above == nil || above.Type != "LockRows" {
			above = n
		}
		texts = nil
	default:
		above = n
		texts = append(append(append(slices.Clone(n.Output), n.SortKey...), n.GroupKey...), n.HashCond, n.JoinFilter, n.Filter)
	}
	for _, in := range l.in {
		b.columns(in, above, texts)
	}
	for _, sub := range l.subs {
		b.columns(sub, nil, nil)
	}
}

// need sets the columns of a scan that are needed above it: its own output where the node above takes it as it is, else what that
// node speaks of.
func (b *logicBuilder) need(s *scan, above *planNode, texts []string) {
	if texts == nil {
		texts = s.nodes[0].Output
	}
	found := map[string]bool{}
	for _, text := range texts {
		for _, c := range columnNames(text) {
			if b.scanOfColumn(c) == s {
				found[c.name] = true
			}
			s.heap = s.heap || c.name == "*" || c.name == "ctid" || c.name == "tableoid" || c.name == "xmin"
		}
	}
	s.above = slices.Sorted(maps.Keys(found))
	s.heap = s.heap || above != nil && (above.Type == "LockRows" || above.Type == "ModifyTable")
	s.above = slices.DeleteFunc(s.above, func(name string) bool { return s.table.columns[name] == nil })
}

// columnNames finds what may be a column in a text.
func columnNames(text string) []*expr {
	var found []*expr
	tokens := tokenize(text)
	for i := 0; i < len(tokens); i++ {
		t := tokens[i]
		switch {
		case t.kind != tokenWord || i > 0 && tokens[i-1].text == "::":
		case i+2 < len(tokens) && tokens[i+1].text == ".":
			found = append(found, &expr{kind: exprColumn, alias: t.name(), name: tokens[i+2].name()})
			i += 2
		case i+1 >= len(tokens) || tokens[i+1].text != "(":
			found = append(found, &expr{kind: exprColumn, name: t.name()})
		}
	}
	return found
}
