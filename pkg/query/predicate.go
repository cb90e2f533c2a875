package query

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/pkg/partitions"
)

// Filter keeps rows whose column has the value.
type Filter struct {
	Column, Value string
	Option        string // the flag that it came from, for errors
}

// DetailsFilter keeps rows whose JSON document has the value at a path.
type DetailsFilter struct {
	Path  []string
	Value string
}

// ParseDetails reads PATH=VALUE. Steps of PATH are keys of objects and places in arrays, with dots in between; \. is a dot in a key, \= an
// equals sign, \\ a backslash.
func ParseDetails(s string) (DetailsFilter, error) {
	bad := func(why string) (DetailsFilter, error) {
		return DetailsFilter{}, fault.New(fault.Usage, `write --details user.name=alice; \. is a dot within a key, \= an equals sign`, "--details: %s", why)
	}
	var f DetailsFilter
	var step strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s) && strings.IndexByte(`.=\`, s[i+1]) >= 0:
			i++
			step.WriteByte(s[i])
		case c == '.' || c == '=':
			if step.Len() == 0 {
				return bad("a step of the path is empty")
			}
			f.Path = append(f.Path, step.String())
			step.Reset()
			if c == '=' {
				f.Value = s[i+1:]
				if strings.ContainsRune(f.Path[0]+f.Value, 0) || slices.ContainsFunc(f.Path, func(p string) bool { return strings.ContainsRune(p, 0) }) {
					return bad("a NUL is in it, which PostgreSQL cannot hold")
				}
				return f, nil
			}
		default:
			step.WriteByte(c)
		}
	}
	return bad("there is no = after the path")
}

// detailsColumn is the JSON document of a row.
const detailsColumn = "details"

// statement is SQL with its parameters, which are all text: the server reads them as the type that they are compared with.
type statement struct {
	sql  strings.Builder
	args []any
}

func (s *statement) text() string { return s.sql.String() }

// arg adds a parameter and returns its place.
func (s *statement) arg(v any) string {
	s.args = append(s.args, v)
	return "$" + strconv.Itoa(len(s.args))
}

// where writes the condition of the request on the rows of within.
func (p *prepared) where(s *statement, within partitions.Bounds) {
	key := p.layout.columns[p.layout.order[0]]
	terms := []string{}
	typ := p.layout.table.Key.Kind.SQLType()
	if !within.FromMin {
		terms = append(terms, key.ident()+" >= "+s.arg(p.layout.table.Key.Text(within.From))+"::"+typ)
	}
	if !within.ToMax {
		terms = append(terms, key.ident()+" < "+s.arg(p.layout.table.Key.Text(within.To))+"::"+typ)
	}
	if p.after != nil {
		terms = append(terms, p.afterTerms(s)...)
	}
	for i, f := range p.req.Filters {
		c := p.filtered[i]
		terms = append(terms, fmt.Sprintf("%s = %s::%s", c.ident(), s.arg(f.Value), c.typ))
	}
	for _, f := range p.req.Details {
		terms = append(terms, f.term(s, p.detailsGIN)...)
	}
	if len(terms) > 0 {
		s.sql.WriteString(" WHERE " + strings.Join(terms, " AND "))
	}
}

// afterTerms keep what comes after the cursor. The first is implied by the second, but only by it can the server leave out partitions.
func (p *prepared) afterTerms(s *statement) []string {
	names, values := make([]string, len(p.after)), make([]string, len(p.after))
	for i, at := range p.layout.order {
		c := p.layout.columns[at]
		names[i], values[i] = c.ident(), s.arg(p.after[i])+"::"+c.typ
	}
	return []string{names[0] + " <= " + values[0], "(" + strings.Join(names, ", ") + ") < (" + strings.Join(values, ", ") + ")"}
}

// term compares the text of what is at the path: a string with its content, anything else with its JSON as PostgreSQL writes it. One key of
// the document itself is looked up in the way that an index on (details ->> 'key') serves. contained adds what a GIN index can answer.
func (f DetailsFilter) term(s *statement, contained bool) []string {
	column := pgx.Identifier{detailsColumn}.Sanitize()
	var text string
	if len(f.Path) == 1 && !isPlace(f.Path[0]) {
		text = column + " ->> " + s.arg(f.Path[0]) + "::text"
	} else {
		text = column + " #>> " + s.arg(f.Path) + "::text[]"
	}
	match := text + " = " + s.arg(f.Value) + "::text"
	if f.Value == "null" { // of which the text is NULL
		match = fmt.Sprintf("(%s OR %s #> %s::text[] = 'null'::jsonb)", match, column, s.arg(f.Path))
	}
	terms := []string{match}
	if contained && !slices.ContainsFunc(f.Path, isPlace) {
		if is := f.containment(s); is != "" {
			terms = append(terms, is)
		}
	}
	return terms
}

// isPlace says whether a step of a path may be a place in an array.
func isPlace(step string) bool {
	_, err := strconv.Atoi(strings.TrimSpace(step))
	return err == nil
}

// order is the order of the answer: newest first.
func (l *layout) orderBy() string {
	names := make([]string, len(l.order))
	for i, c := range l.order {
		names[i] = l.columns[c].ident() + " DESC"
	}
	return " ORDER BY " + strings.Join(names, ", ")
}

// containment is implied by term where no step is a place in an array; "" where it cannot be written.
func (f DetailsFilter) containment(s *statement) string {
	variants := [][]byte{appendString(nil, f.Value)}
	if raw := strings.TrimSpace(f.Value); json.Valid([]byte(raw)) {
		if strings.Contains(raw, `\u`) || strings.ContainsAny(strings.Trim(raw, `-.0123456789`), "eE") && raw[0] != '"' || len(raw) > maxContained {
			return "" // the server may not take what JSON allows
		}
		variants = append(variants, []byte(raw))
	}
	terms := make([]string, len(variants))
	for i, doc := range variants {
		for _, step := range slices.Backward(f.Path) {
			doc = append(append(append(appendString([]byte{'{'}, step), ':'), doc...), '}')
		}
		terms[i] = pgx.Identifier{detailsColumn}.Sanitize() + " @> " + s.arg(string(doc)) + "::jsonb"
	}
	return "(" + strings.Join(terms, " OR ") + ")"
}

// maxContained bounds what is looked up in a GIN index.
const maxContained = 1000
