package indexes

import (
	"context"
	"slices"
	"strings"
)

// The server refuses a row whose entry in a B-tree is longer than a third of a page (2704 bytes of 8 kB): from the day that the index is there,
// INSERTs of such rows fail. So an index holds only what is bounded by its type, or what is known to be far from that.
const (
	largestEntry = 2000 // bytes, by the longest values of all its columns
	shortWidth   = 128  // bytes, on average, of values without a bound
	shortValue   = 256  // bytes of the longest known of them
	valueReserve = 4    // how many times longer than the longest known a value may yet be
)

// holds says whether every row's entry has room in an index, as far as can be known. An inverted index keeps no whole values, or hashes of them.
func (t *table) holds(d Definition) bool {
	if d.Method == methodGIN {
		return true
	}
	total := 0.0
	for _, k := range d.Keys {
		longest, ok := t.longest(keyOfDefinition(k))
		if !ok {
			return false
		}
		total += longest
	}
	for _, column := range d.Include {
		longest, ok := t.longest(columnKey + column)
		if !ok {
			return false
		}
		total += longest
	}
	return total <= largestEntry
}

// longest is how many bytes a key or an included column may take; not ok: nobody knows.
func (t *table) longest(key string) (float64, bool) {
	name, plain := strings.CutPrefix(key, columnKey)
	if !plain {
		if name = folded(key); name == "" {
			return t.longestExpression(key)
		}
	}
	c := t.columns[name]
	if c == nil {
		return 0, false
	}
	return c.longest()
}

func (t *table) longestExpression(key string) (float64, bool) {
	e := parseExpr(strings.TrimPrefix(key, expressionKey))
	if e.kind == exprCast && slices.Contains([]string{"smallint", "integer", "bigint", "real", "double precision", "boolean", "uuid"}, e.name) {
		return 16, true
	}
	sampled, known := t.widths[key]
	return sampled * valueReserve, known && sampled <= shortValue
}

// longest is how many bytes a value of the column may take; not ok: nobody knows, or it is a document, an array or the like, however short
// those are today. Statistics leave values of more than 1 kB out of their lists, but not out of the average.
func (c *columnStats) longest() (float64, bool) {
	if c.fixed > 0 {
		return c.fixed, true
	}
	if c.category == "I" { // inet, cidr
		return 24, true
	}
	if !slices.Contains([]string{"S", "N", "V", "R"}, c.category) {
		return 0, false
	}
	widest := 0
	for _, values := range [][]string{c.common, c.histogram} {
		for _, v := range values {
			widest = max(widest, len(v))
		}
	}
	switch short := c.known && widest > 0 && widest <= shortValue && c.width <= shortWidth; {
	case short && c.declared > 0:
		return min(c.declared, float64(widest*valueReserve)), true
	case short:
		return float64(widest * valueReserve), true
	}
	return c.declared, c.declared > 0
}

// widths looks at a few rows for how long the values of expressions are that an index may be on: statistics of them are not there yet.
func (a *analyst) widths(ctx context.Context, s *scan) error {
	var keys []string
	var collect func(clauses []*clause)
	collect = func(clauses []*clause) {
		for _, c := range clauses {
			keys = append(append(keys, c.key), c.keys...)
			for _, arm := range c.arms {
				collect(arm)
			}
		}
	}
	collect(s.clauses)
	collect(s.joins)
	for _, order := range s.orders {
		for _, o := range order {
			if o.scan == s.id {
				keys = append(keys, o.key)
			}
		}
	}
	for _, key := range keys {
		expression, ok := strings.CutPrefix(key, expressionKey)
		if _, known := s.table.widths[key]; !ok || known || s.isDocument(key) || !a.generator.lasting(parseExpr(expression)) {
			continue
		}
		if _, known := s.table.longest(key); known {
			continue
		}
		widest, ok, err := a.explainer.sampleWidth(ctx, s.table, expression)
		if err != nil {
			return err
		}
		if !ok {
			widest = largestEntry // so that nobody asks again
		}
		s.table.widths[key] = widest
	}
	return nil
}
