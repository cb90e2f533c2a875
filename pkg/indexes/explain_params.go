package indexes

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// typedLiterals writes interval $1 and the like, which is what pg_stat_statements makes of interval '1 day', as $1::interval.
func typedLiterals(query string) string {
	tokens := tokenize(query)
	var out strings.Builder
	from := 0
	for i, t := range tokens {
		if t.kind != tokenParam || i == 0 || tokens[i-1].kind != tokenWord {
			continue
		}
		first := i - 1
		name := strings.ToLower(tokens[first].text)
		if name == "zone" && i >= 4 {
			first = i - 4
			name = strings.ToLower(query[tokens[first].start:tokens[i-1].end])
		}
		if !slices.Contains([]string{"interval", "date", "time", "timestamp", "timestamptz", "timetz", "inet", "uuid", "jsonb", "json", "timestamp with time zone", "timestamp without time zone"}, name) {
			continue
		}
		out.WriteString(query[from:tokens[first].start] + t.text + "::" + name)
		from = t.end
	}
	return out.String() + query[from:]
}

// bound is what a parameter is compared with.
type bound struct {
	column   *columnStats
	key      bool // the table is partitioned by the column
	operator string
}

// fill gives a statement with literals in place of its parameters, such as the statistics have: of columns that are compared for equality
// a value of usual frequency, of ranges one near their end. The planner would take unknown values for a range as a third of all rows, and
// could not leave out any partition.
func (a *analyst) fill(p planned) string {
	b := &logicBuilder{leaves: a.leaves, byName: map[string]*scan{}}
	b.tree(p.plan, 0)
	bounds := map[string]bound{}
	for _, s := range b.scans {
		if filter := s.nodes[0].Filter; filter != "" {
			b.boundsOf(s, parseExpr(filter), bounds)
		}
	}
	limits := limitParams(p.Text)
	var out strings.Builder
	from := 0
	for _, t := range tokenize(p.Text) {
		n, err := strconv.Atoi(strings.TrimPrefix(t.text, "$"))
		if t.kind != tokenParam || err != nil || n < 1 || n > len(p.types) {
			continue
		}
		value := valueOf(t.text, p.types[n-1], bounds)
		if limit, ok := limits[t.text]; ok {
			value = limit
		}
		out.WriteString(p.Text[from:t.start] + quoteText(value) + "::" + p.types[n-1])
		from = t.end
	}
	return out.String() + p.Text[from:]
}

// boundsOf looks for what parameters are compared with.
func (b *logicBuilder) boundsOf(s *scan, e *expr, found map[string]bound) {
	switch e.kind {
	case exprAnd, exprOr, exprNot:
		for _, arg := range e.args {
			b.boundsOf(s, arg, found)
		}
	case exprOperator, exprAny:
		if len(e.args) != 2 {
			return
		}
		left, right, operator := e.args[0], e.args[1], e.name
		if left.kind == exprRow && right.kind == exprRow {
			for i := range min(len(left.args), len(right.args)) {
				b.compared(s, left.args[i], right.args[i], e.name, found)
			}
			return
		}
		if len(left.params()) > 0 && len(right.params()) == 0 {
			left, right = right, left
			operator = map[string]string{"<": ">", "<=": ">=", ">": "<", ">=": "<="}[operator]
			if operator == "" {
				operator = e.name
			}
		}
		b.compared(s, left, right, operator, found)
	}
}

func (b *logicBuilder) compared(s *scan, key, value *expr, operator string, found map[string]bound) {
	cols := key.columns()
	if len(cols) != 1 || b.scanOfColumn(cols[0]) != s {
		return
	}
	for _, p := range value.params() {
		if _, known := found[p.name]; !known {
			found[p.name] = bound{column: s.table.columns[cols[0].name], key: slices.Contains(s.table.key, cols[0].name), operator: operator}
		}
	}
}

// limitParams are the parameters of LIMIT and OFFSET, which no plan shows.
func limitParams(query string) map[string]string {
	found := map[string]string{}
	tokens := tokenize(query)
	for i, t := range tokens {
		if t.kind != tokenParam || i == 0 {
			continue
		}
		switch strings.ToUpper(tokens[i-1].text) {
		case "LIMIT", "FIRST", "NEXT":
			found[t.text] = "50"
		case "OFFSET":
			found[t.text] = "0"
		}
	}
	return found
}

// valueOf is a literal for a parameter.
func valueOf(name, kind string, bounds map[string]bound) string {
	b, ok := bounds[name]
	if !ok || b.column == nil || !b.column.fits(kind) {
		return usualValue(kind)
	}
	value, ok := "", false
	switch b.operator {
	case "=", "<>":
		if value, ok = b.column.usual(); ok && strings.HasSuffix(kind, "[]") {
			return b.column.array()
		}
	case "<", "<=", ">", ">=":
		both := false
		for other, o := range bounds {
			both = both || other != name && o.column == b.column && o.operator != "" && (o.operator[0] == '<') != (b.operator[0] == '<') && strings.Contains("<>", o.operator[:1])
		}
		value, ok = b.column.quantile(b.place(both))
	case "~~", "^@":
		if value, ok = b.column.usual(); ok {
			r := []rune(value)
			value = likeEscape(string(r[:min(len(r), max(3, len(r)*2/3))])) + "%"
		}
	case "~~*", "~*", "~":
		if value, ok = b.column.usual(); ok {
			r := []rune(value)
			value = likeEscape(string(r[len(r)/4 : max(len(r)/4, len(r)*3/4)]))
			if b.operator == "~~*" {
				value = "%" + value + "%"
			}
		}
	case "@>":
		value, ok = b.column.document()
	}
	if !ok {
		return usualValue(kind)
	}
	return value
}

// typeFamilies are types whose values are literals of each other.
var typeFamilies = [][]string{
	{"text", "character varying", "character", "name"},
	{"date", "timestamp without time zone", "timestamp with time zone"},
	{"inet", "cidr"},
}

// numberTypes are such that each has room for the values of those before it.
var numberTypes = []string{"smallint", "integer", "bigint", "numeric", "real", "double precision"}

// fits says whether values of the column are values of a parameter's type, or of an array of it. A guess of another type would be an error.
func (c *columnStats) fits(kind string) bool {
	kind = strings.TrimSuffix(kind, "[]")
	if of := slices.Index(numberTypes, c.typeName); of >= 0 {
		return slices.Index(numberTypes, kind) >= of
	}
	return kind == c.typeName || slices.ContainsFunc(typeFamilies, func(f []string) bool { return slices.Contains(f, kind) && slices.Contains(f, c.typeName) })
}

// markGuesses marks the conditions whose values come from fill: the plan with parameters does not have them.
func (a *analyst) markGuesses(scans []*scan, generic *planNode) {
	b := &logicBuilder{leaves: a.leaves, byName: map[string]*scan{}}
	b.build(generic)
	given := map[string]bool{}
	for _, s := range b.scans {
		for _, c := range s.clauses {
			if len(parseExpr(c.raw).params()) == 0 {
				given[c.text] = true
			}
		}
	}
	for _, s := range scans {
		for _, c := range s.clauses {
			c.guessed = !given[c.text]
		}
	}
}

// place is where in the order of all values a bound lies. What a log is partitioned by is mostly asked for near its end: a month of a year,
// or what came since.
func (b bound) place(both bool) float64 {
	lower := b.operator[0] == '>'
	switch {
	case b.key && lower:
		return 0.85
	case both && (b.key || lower):
		return 0.93
	case both:
		return 0.95
	case b.key:
		return 0.5
	case lower:
		return 0.95
	}
	return 0.05
}

// usual is a value about as frequent as an average one; of a few different ones one that is not among the most common.
func (c *columnStats) usual() (string, bool) {
	if len(c.histogram) > 0 {
		return c.histogram[len(c.histogram)/2], true
	}
	if len(c.common) == 0 {
		return "", false
	}
	average := 1 / float64(len(c.common))
	best, distance := 0, math.Inf(1)
	for i, f := range c.frequencies {
		d := math.Abs(math.Log(f / average))
		if f > average {
			d *= 3
		}
		if d < distance && i < len(c.common) {
			best, distance = i, d
		}
	}
	return c.common[best], true
}

// array is a literal of three values.
func (c *columnStats) array() string {
	from := c.histogram
	if len(from) == 0 {
		from = c.common
	}
	var values []string
	for i := range 3 {
		value := from[(2*i+1)*len(from)/6]
		values = append(values, `"`+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value)+`"`)
	}
	return "{" + strings.Join(values, ",") + "}"
}

// quantile is a value that this part of all others is below.
func (c *columnStats) quantile(part float64) (string, bool) {
	if n := len(c.histogram); n > 1 {
		return c.histogram[min(int(part*float64(n)), n-1)], true
	}
	return c.usual()
}

func likeEscape(s string) string {
	return strings.NewReplacer(`\`, `\\`, "%", `\%`, "_", `\_`).Replace(s)
}

// document is a part of a document that the column has.
func (c *columnStats) document() (string, bool) {
	for _, text := range append(slices.Clone(c.histogram), c.common...) {
		var fields map[string]any
		if json.Unmarshal([]byte(text), &fields) != nil {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			switch fields[name].(type) {
			case string, float64, bool:
				part, err := json.Marshal(map[string]any{name: fields[name]})
				return string(part), err == nil
			}
		}
	}
	return "", false
}

// usualValue is for parameters that nothing is known of but the type.
func usualValue(kind string) string {
	switch kind {
	case "smallint", "integer", "bigint", "numeric", "real", "double precision", "oid":
		return "1"
	case "boolean":
		return "true"
	case "uuid":
		return "00000000-0000-0000-0000-000000000000"
	case "interval":
		return "7 days"
	case "json", "jsonb":
		return "{}"
	case "inet", "cidr":
		return "10.0.0.0"
	case "date", "timestamp with time zone", "timestamp without time zone":
		return "now"
	case "time without time zone", "time with time zone":
		return "12:00"
	}
	if strings.HasSuffix(kind, "[]") {
		return "{}"
	}
	return "day" // also a unit of date_trunc
}
