package indexes

import (
	"slices"
	"strings"
)

// exprKind is what an expression is at its top.
type exprKind int

const (
	exprOther    exprKind = iota // not understood; its text and its columns are known
	exprColumn                   // name, alias
	exprConst                    // a literal
	exprParam                    // $n, or the result of a subquery
	exprCast                     // name: the type
	exprCall                     // name: the function
	exprOperator                 // name: the operator; one or two arguments
	exprAny                      // name: the operator; args[1] is an array or a subquery
	exprAnd
	exprOr
	exprNot
	exprRow
	exprTest // name: NULL, NOT NULL, TRUE …
)

// expr is an expression as EXPLAIN prints it: every operator in parentheses, every name qualified by a table's alias.
type expr struct {
	kind  exprKind
	name  string
	alias string
	text  string // without the parentheses around it
	value string // of a literal, without quotes
	args  []*expr
}

// parseExpr reads an expression of EXPLAIN. What it does not understand becomes exprOther; it never fails.
func parseExpr(text string) *expr {
	p := exprParser{src: text, tokens: tokenize(text)}
	e := p.sequence()
	if p.at < len(p.tokens) {
		return p.other(0, len(p.tokens))
	}
	return e
}

type exprParser struct {
	src    string
	tokens []token
	at     int
	depth  int
}

// deepest nesting that is taken apart; what lies below is not understood.
const deepest = 200

func (p *exprParser) peek() token {
	if p.at < len(p.tokens) {
		return p.tokens[p.at]
	}
	return token{}
}

func (p *exprParser) accept(text string) bool {
	if t := p.peek(); t.text == text && t.kind != tokenString {
		p.at++
		return true
	}
	return false
}

// span is the text of tokens from a to b, without b.
func (p *exprParser) span(a, b int) string {
	b = min(b, len(p.tokens))
	if a >= b {
		return ""
	}
	return p.src[p.tokens[a].start:p.tokens[b-1].end]
}

// other makes of tokens from a to b an expression that is not understood, with the columns in it.
func (p *exprParser) other(a, b int) *expr {
	e := &expr{kind: exprOther, text: p.span(a, b)}
	p.at = b
	for i := a; i < b; i++ {
		t := p.tokens[i]
		switch {
		case t.kind == tokenParam:
			e.args = append(e.args, &expr{kind: exprParam, name: t.text, text: t.text})
		case t.kind == tokenWord && i+2 < b && p.tokens[i+1].text == "." && p.tokens[i+2].kind == tokenWord:
			e.args = append(e.args, &expr{kind: exprColumn, alias: t.name(), name: p.tokens[i+2].name(), text: p.span(i, i+3)})
			i += 2
		}
	}
	return e
}

// sequence reads what stands in parentheses: one operand, or operands with operators between them.
func (p *exprParser) sequence() *expr {
	start := p.at
	if p.depth++; p.depth > deepest {
		return p.rest(start)
	}
	defer func() { p.depth-- }()
	if p.accept("NOT") {
		return p.closed(start, &expr{kind: exprNot, args: []*expr{p.operand()}})
	}
	if t := p.peek(); t.kind == tokenOperator {
		p.at++
		return p.closed(start, &expr{kind: exprOperator, name: t.text, args: []*expr{p.operand()}})
	}
	first := p.operand()
	for word, kind := range map[string]exprKind{"AND": exprAnd, "OR": exprOr} {
		if p.peek().text != word {
			continue
		}
		e := &expr{kind: kind, args: []*expr{first}}
		for p.accept(word) {
			e.args = append(e.args, p.operand())
		}
		return p.closed(start, e)
	}
	switch t := p.peek(); {
	case t.kind == tokenOperator:
		p.at++
		return p.closed(start, p.binary(t.text, first))
	case t.text == "OPERATOR":
		name := ""
		for p.at++; p.at < len(p.tokens) && p.peek().text != ")"; p.at++ {
			name = p.peek().text
		}
		p.accept(")")
		return p.closed(start, p.binary(name, first))
	case t.text == "IS":
		p.at++
		from := p.at
		for p.peek().kind == tokenWord {
			p.at++
		}
		return p.closed(start, &expr{kind: exprTest, name: p.span(from, p.at), args: []*expr{first}})
	}
	return p.closed(start, first)
}

func (p *exprParser) binary(operator string, first *expr) *expr {
	e := &expr{kind: exprOperator, name: operator, args: []*expr{first}}
	if p.accept("ANY") {
		e.kind = exprAny
	}
	e.args = append(e.args, p.operand())
	return e
}

// closed gives e its text if the sequence ends here, and otherwise does not understand it.
func (p *exprParser) closed(start int, e *expr) *expr {
	if p.at < len(p.tokens) && p.peek().text != ")" && p.peek().text != "," && p.peek().text != "]" {
		return p.rest(start)
	}
	if e.text == "" {
		e.text = p.span(start, p.at)
	}
	return e
}

// rest skips to the end of the sequence that began at start.
func (p *exprParser) rest(start int) *expr {
	depth := 0
	i := start
	for ; i < len(p.tokens); i++ {
		if t := p.tokens[i]; t.kind == tokenPunctuation {
			switch t.text {
			case "(", "[":
				depth++
			case ")", "]":
				depth--
			}
		}
		if depth < 0 {
			break
		}
	}
	return p.other(start, i)
}

// operand reads a primary expression with its casts.
func (p *exprParser) operand() *expr {
	start := p.at
	e := p.primary()
	for p.accept("::") {
		from := p.at
		p.typeName()
		cast := &expr{kind: exprCast, name: p.span(from, p.at), args: []*expr{e}, text: p.span(start, p.at)}
		if e.kind == exprConst {
			cast.kind, cast.value, cast.args = exprConst, e.value, nil
		}
		e = cast
	}
	return e
}

// typeName skips a type.
func (p *exprParser) typeName() {
	p.at++
	for p.at < len(p.tokens) {
		switch t := p.peek(); {
		case slices.Contains([]string{"varying", "precision", "with", "without", "time", "zone"}, t.text):
			p.at++
		case t.text == ".":
			p.at += 2
		case t.text == "(" || t.text == "[":
			for p.at < len(p.tokens) && p.peek().text != ")" && p.peek().text != "]" {
				p.at++
			}
			p.at++
		default:
			return
		}
	}
}

func (p *exprParser) primary() *expr {
	start, t := p.at, p.peek()
	switch t.kind {
	case tokenString:
		p.at++
		return &expr{kind: exprConst, text: t.text, value: t.value()}
	case tokenNumber:
		p.at++
		return &expr{kind: exprConst, text: t.text, value: t.text}
	case tokenParam:
		p.at++
		return &expr{kind: exprParam, name: t.text, text: t.text}
	case tokenWord:
		p.at++
		return p.word(start, t)
	}
	if !p.accept("(") {
		return p.rest(start)
	}
	e := p.sequence()
	if !p.accept(")") {
		return p.rest(start)
	}
	if e.kind == exprParam && !strings.HasPrefix(e.name, "$") { // (InitPlan 1).col1
		for p.accept(".") {
			p.at++
		}
		e.text = p.span(start, p.at)
	}
	return e
}

// word reads what begins with a name: a literal, a column, a call, a row.
func (p *exprParser) word(start int, t token) *expr {
	switch t.text {
	case "true", "false", "NULL":
		return &expr{kind: exprConst, text: t.text, value: t.text}
	case "ROW", "ARRAY":
		return p.arguments(start, map[bool]exprKind{true: exprRow, false: exprOther}[t.text == "ROW"], t.text)
	case "SubPlan", "InitPlan", "hashed", "alternatives":
		for p.at < len(p.tokens) && p.peek().text != ")" {
			p.at++
		}
		return &expr{kind: exprParam, name: p.span(start, p.at), text: p.span(start, p.at)}
	case "CASE", "EXTRACT":
		return p.rest(start)
	}
	names := []string{t.name()}
	for ; p.peek().text == "." && p.at+1 < len(p.tokens) && p.tokens[p.at+1].kind == tokenWord; p.at += 2 {
		names = append(names, p.tokens[p.at+1].name())
	}
	if p.peek().text == "(" {
		return p.arguments(start, exprCall, names[len(names)-1])
	}
	e := &expr{kind: exprColumn, name: names[len(names)-1], text: p.span(start, p.at)}
	if len(names) > 1 {
		e.alias = names[len(names)-2]
	}
	return e
}

// arguments reads the list of a call, a row or an array.
func (p *exprParser) arguments(start int, kind exprKind, name string) *expr {
	end := ")"
	if p.peek().text == "[" {
		end = "]"
	}
	p.at++
	e := &expr{kind: kind, name: name}
	for p.at < len(p.tokens) && p.peek().text != end {
		e.args = append(e.args, p.sequence())
		if !p.accept(",") && p.peek().text != end {
			return p.rest(start)
		}
	}
	p.at++
	e.text = p.span(start, p.at)
	return e
}

// columns are all columns in an expression.
func (e *expr) columns() []*expr { return e.find(exprColumn) }

// params are all parameters in an expression, and results of subqueries.
func (e *expr) params() []*expr { return e.find(exprParam) }

func (e *expr) find(kind exprKind) []*expr {
	if e.kind == kind {
		return []*expr{e}
	}
	var found []*expr
	for _, a := range e.args {
		found = append(found, a.find(kind)...)
	}
	return found
}

// conjuncts takes AND apart.
func (e *expr) conjuncts() []*expr {
	if e.kind != exprAnd {
		return []*expr{e}
	}
	var all []*expr
	for _, a := range e.args {
		all = append(all, a.conjuncts()...)
	}
	return all
}
