package indexes

import (
	"regexp"
	"slices"
	"strings"
	"sync"
)

// clauseKind says which index a condition can use.
type clauseKind int

const (
	clauseOther    clauseKind = iota
	clauseEqual               // key = value
	clauseAny                 // key = ANY (values)
	clauseRange               // key < value and the like
	clauseRow                 // (key, key) < (value, value)
	clausePrefix              // key LIKE 'abc%'
	clauseInfix               // key LIKE '%abc%', ILIKE, regular expressions
	clauseContains            // jsonb @> value
	clauseHas                 // jsonb ? name
	clauseMember              // arrays and full text: && @> @@
	clauseNull                // key IS NULL
	clauseNotNull
	clauseTrue // a boolean column, or NOT of one
	clauseOr
)

// clause is a condition on a table: one side is a key, the other a value that does not depend on the table.
type clause struct {
	kind     clauseKind
	from     *scan
	raw      string   // as EXPLAIN has it
	text     string   // without the alias: a predicate of an index
	parts    []string // the texts of the conditions that it was made of
	key      string   // what an index would be on: columnKey and a name, or expressionKey and an expression
	keys     []string // of a row comparison
	operator string
	value    string   // a literal's
	constant bool     // all values are literals
	guessed  bool     // one of them stands for a parameter: no index may be for it alone
	others   []int    // scans that the value depends on; -1: something unknown
	columns  []string // of the table
	down     bool     // < or <=
	twoSided bool     // a range with both ends
	arms     [][]*clause
	values   float64 // of = ANY
	keywords float64 // looked up in an inverted index
	shares   map[uint32]float64
	share    float64 // of the rows that pass, over all leaves that are read
}

// What clause.key begins with.
const (
	columnKey     = "c:"
	expressionKey = "e:"
)

// newClause looks at a condition of scan s.
func newClause(s *scan, e *expr, b *logicBuilder) *clause {
	c := &clause{from: s, raw: e.text, text: b.unqualified(s, e.text), values: 1, keywords: 1}
	c.parts = []string{trimParens(c.text)}
	for _, col := range e.columns() {
		switch of := b.scanOfColumn(col); {
		case of == nil:
			c.others = addOnce(c.others, -1)
		case of != s:
			c.others = addOnce(c.others, of.id)
		case !slices.Contains(c.columns, col.name):
			c.columns = append(c.columns, col.name)
		}
	}
	switch e.kind {
	case exprColumn:
		c.kind, c.key, c.constant = clauseTrue, keyOf(s, e), true
	case exprNot:
		if e.args[0].kind == exprColumn {
			c.kind, c.key, c.constant = clauseTrue, keyOf(s, e.args[0]), true
		}
	case exprTest:
		if c.key = keyOf(s, e.args[0]); c.key != "" {
			c.kind = map[string]clauseKind{"NULL": clauseNull, "NOT NULL": clauseNotNull, "TRUE": clauseTrue, "FALSE": clauseTrue}[e.name]
			c.constant = c.kind != clauseOther
		}
	case exprOr:
		c.or(s, e, b)
	case exprAny:
		c.compare(s, e.name, e.args[0], e.args[1], b)
		if c.kind == clauseEqual {
			c.kind, c.values = clauseAny, float64(strings.Count(e.args[1].text, ",")+1)
		} else {
			c.kind = clauseOther
		}
	case exprOperator:
		if len(e.args) == 2 {
			c.operation(s, e, b)
		}
	}
	return c
}

func addOnce(list []int, n int) []int {
	if slices.Contains(list, n) {
		return list
	}
	return append(list, n)
}

// or takes the arms apart, each of which can use an index of its own.
func (c *clause) or(s *scan, e *expr, b *logicBuilder) {
	c.kind, c.constant = clauseOr, true
	for _, arm := range e.args {
		var all []*clause
		for _, a := range arm.conjuncts() {
			one := newClause(s, a, b)
			all = append(all, one)
			c.constant = c.constant && one.constant
		}
		c.arms = append(c.arms, all)
	}
}

func (c *clause) operation(s *scan, e *expr, b *logicBuilder) {
	left, right := e.args[0], e.args[1]
	if left.kind == exprRow && right.kind == exprRow {
		c.rowComparison(s, e, b)
		return
	}
	if b.dependsOn(s, right) && !b.dependsOn(s, left) {
		turned := map[string]string{"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "<@": "@>"}[e.name]
		c.compare(s, turned, right, left, b)
		return
	}
	c.compare(s, e.name, left, right, b)
}

func (b *logicBuilder) dependsOn(s *scan, e *expr) bool {
	return slices.ContainsFunc(e.columns(), func(c *expr) bool { return b.scanOfColumn(c) == s })
}

func (c *clause) compare(s *scan, operator string, key, value *expr, b *logicBuilder) {
	if b.dependsOn(s, value) {
		return
	}
	c.operator, c.value = operator, value.value
	c.constant = value.kind == exprConst || value.kind == exprOther && strings.HasPrefix(value.text, "ARRAY[") && len(value.params()) == 0 && len(value.columns()) == 0
	if c.key = keyOf(s, key); c.key != "" {
		c.kind = c.kindOf(s, operator)
	}
}

func (c *clause) kindOf(s *scan, operator string) clauseKind {
	switch operator {
	case "=":
		return clauseEqual
	case "<", "<=", ">", ">=":
		c.down = operator[0] == '<'
		return clauseRange
	case "~~", "^@":
		c.keywords = trigrams(c.value)
		if !c.constant || operator == "^@" || likePrefix(c.value) != "" {
			return clausePrefix
		}
		return clauseInfix
	case "~~*", "~", "~*":
		c.keywords = trigrams(c.value)
		return clauseInfix
	case "@>":
		if s.isDocument(c.key) {
			c.keywords = float64(max(1, strings.Count(c.value, ":")+strings.Count(c.value, ",")))
			return clauseContains
		}
		return clauseMember
	case "?", "?|", "?&":
		return clauseHas
	case "@?", "@@":
		if s.isDocument(c.key) { // a path in which a value is compared for equality is looked up as @> is
			if strings.Contains(c.value, "==") {
				return clauseContains
			}
			return clauseOther
		}
		return clauseMember
	case "<<", "<<=": // of addresses: those of a network lie side by side
		if name, ok := strings.CutPrefix(c.key, columnKey); ok && s.table.columns[name].category == "I" && c.constant {
			c.twoSided = true
			return clauseRange
		}
	case "&&", "<@":
		return clauseMember
	}
	return clauseOther
}

// isDocument says whether a key is jsonb: a column of that type, or a part of one.
func (s *scan) isDocument(key string) bool {
	if name, ok := strings.CutPrefix(key, columnKey); ok {
		return s.table.columns[name] != nil && s.table.columns[name].kind == "jsonb"
	}
	e := parseExpr(strings.TrimPrefix(key, expressionKey))
	return e.kind == exprOperator && (e.name == "->" || e.name == "#>")
}

func (c *clause) rowComparison(s *scan, e *expr, b *logicBuilder) {
	if !slices.Contains([]string{"<", "<=", ">", ">="}, e.name) || len(e.args[0].args) != len(e.args[1].args) {
		return
	}
	constant := true
	for i, part := range e.args[0].args {
		key := keyOf(s, part)
		if key == "" || b.dependsOn(s, e.args[1].args[i]) {
			return
		}
		c.keys = append(c.keys, key)
		constant = constant && e.args[1].args[i].kind == exprConst
	}
	if len(c.keys) > 0 {
		c.kind, c.key, c.operator, c.down, c.constant = clauseRow, c.keys[0], e.name, e.name[0] == '<', constant
	}
}

// keyOf is what an index has to be on for an expression of s: a column, or an expression of only its columns; "": nothing.
func keyOf(s *scan, e *expr) string {
	if e.kind == exprCast && e.name == "text" && e.args[0].kind == exprColumn {
		if c := s.table.columns[e.args[0].name]; c != nil && c.kind == "varchar" {
			e = e.args[0] // the cast changes nothing
		}
	}
	cols := e.columns()
	if len(cols) == 0 || len(e.params()) > 0 || strings.Contains(e.text, "SubPlan") {
		return ""
	}
	for _, c := range cols {
		if s.table.columns[c.name] == nil || c.alias != "" && !s.isCalled(c.alias) {
			return ""
		}
	}
	if e.kind == exprColumn {
		return columnKey + e.name
	}
	return expressionKey + trimParens(unqualify(e.text, s.isCalled))
}

func (s *scan) isCalled(alias string) bool {
	return alias == s.alias || slices.ContainsFunc(s.nodes, func(n *planNode) bool { return n.Alias == alias })
}

// unqualified is a text without the aliases of s.
func (b *logicBuilder) unqualified(s *scan, text string) string { return unqualify(text, s.isCalled) }

// unqualify takes the aliases that is says yes to off the columns of a text.
func unqualify(text string, is func(alias string) bool) string {
	var out strings.Builder
	tokens := tokenize(text)
	from := 0
	for i := 0; i+2 < len(tokens); i++ {
		t, call := tokens[i], i+3 < len(tokens) && tokens[i+3].text == "("
		if t.kind != tokenWord || tokens[i+1].text != "." || tokens[i+2].kind != tokenWord || call || i > 0 && (tokens[i-1].text == "." || tokens[i-1].text == "::") || !is(t.name()) {
			continue
		}
		out.WriteString(text[from:t.start])
		from = tokens[i+2].start
		i += 2
	}
	out.WriteString(text[from:])
	return out.String()
}

// likePrefix is what every match of a LIKE pattern begins with.
func likePrefix(pattern string) string {
	if end := strings.IndexAny(pattern, `%_\`); end >= 0 {
		return pattern[:end]
	}
	return pattern
}

var wordChars = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`[\pL\pN]+`) })

// trigrams is about how many keys of pg_trgm a pattern has; 0: none.
func trigrams(pattern string) float64 {
	n := 0
	for _, w := range wordChars().FindAllString(pattern, -1) {
		n += max(0, len([]rune(w))-2)
	}
	return float64(n)
}
