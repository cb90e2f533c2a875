package ingest

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// functions lists the functions of a mapping file.
func functions() []string {
	return []string{"path", "coalesce", "const", "template", "map", "lower", "split", "match", "jq"}
}

// call is a function with its options.
type call struct {
	name    string
	at, arg *yaml.Node
	options map[string]*yaml.Node
	keys    []entry
}

// option takes an option; nil where it was not given.
func (f *call) option(name string) *yaml.Node {
	n := f.options[name]
	delete(f.options, name)
	return n
}

// expr reads a value: a bare text is a path, keys and values are one function with its options.
func (c *compiler) expr(n *yaml.Node, depth int) (expr, error) {
	switch {
	case depth > maxExprDepth:
		return nil, c.errorAt(n, "functions are nested more than %d deep", maxExprDepth)
	case n.Kind == yaml.AliasNode:
		return nil, c.errorAt(n, "aliases are not taken: write it out")
	case n.Kind == yaml.ScalarNode:
		return c.pathOf(n)
	}
	all, err := c.entries(n, "a value")
	if err != nil {
		return nil, err
	}
	f, err := c.call(n, all)
	if err != nil {
		return nil, err
	}
	x, err := c.function(f, depth+1)
	if err != nil {
		return nil, err
	}
	if x, err = c.modifiers(f, x, depth+1); err != nil {
		return nil, err
	}
	for _, e := range f.keys {
		if _, left := f.options[e.key]; left {
			return nil, c.errorAt(e.at, "%s has no option %s", f.name, shortName([]byte(e.key)))
		}
	}
	return x, nil
}

// call finds out which of the keys is the function.
func (c *compiler) call(n *yaml.Node, all []entry) (*call, error) {
	f := &call{options: map[string]*yaml.Node{}, keys: all}
	for _, e := range all {
		switch {
		case !slices.Contains(functions(), e.key):
			f.options[e.key] = e.value
		case f.name != "":
			return nil, c.errorAt(e.at, "%s and %s are two functions: one can be the other's argument", f.name, e.key)
		default:
			f.name, f.at, f.arg = e.key, e.at, e.value
		}
	}
	if f.name != "" {
		return f, nil
	}
	for _, e := range all {
		switch e.key {
		case "time":
			return nil, c.errorAt(e.at, "time is for the column timestamp alone")
		case "raw":
			return nil, c.errorAt(e.at, "raw is for the column details alone")
		}
	}
	if len(all) > 0 {
		return nil, c.errorAt(all[0].at, "unknown function %s: the functions are %s", shortName([]byte(all[0].key)), strings.Join(functions(), ", "))
	}
	return nil, c.errorAt(n, "there is no function")
}

func (c *compiler) function(f *call, depth int) (expr, error) {
	switch f.name {
	case "path":
		return c.pathOf(f.arg)
	case "const":
		text, err := c.text(f.arg, "const")
		return constExpr(append([]byte{}, text...)), err
	case "template":
		text, err := c.text(f.arg, "template")
		if err != nil {
			return nil, err
		}
		return c.template(f.arg, text)
	case "coalesce":
		return c.coalesce(f, depth)
	case "map":
		return c.table(f, depth)
	case "lower":
		of, err := c.expr(f.arg, depth)
		return lowerExpr{of}, err
	case "split":
		return c.split(f, depth)
	case "match":
		return c.match(f, depth)
	}
	return c.jq(f.arg)
}

// modifiers reads what any function may have: ignore, when and then.
func (c *compiler) modifiers(f *call, x expr, depth int) (expr, error) {
	var ignore []string
	if n := f.option("ignore"); n != nil {
		var err error
		if ignore, err = c.texts(n, "ignore"); err != nil {
			return nil, err
		}
		if list, ok := x.(coalesceExpr); ok {
			list.ignore = ignore
			x = list
		} else {
			x = coalesceExpr{of: []expr{x}, ignore: ignore}
		}
	}
	when, then := f.option("when"), f.option("then")
	switch {
	case when == nil && then == nil:
		return x, nil
	case when == nil || then == nil:
		return nil, c.errorAt(f.at, "when and then go together")
	}
	conditions, err := c.conditions(when)
	if err != nil {
		return nil, err
	}
	instead, err := c.expr(then, depth)
	if err != nil {
		return nil, err
	}
	if ignore != nil {
		instead = coalesceExpr{of: []expr{instead}, ignore: ignore}
	}
	return whenExpr{conditions, instead, x}, nil
}

func (c *compiler) pathOf(n *yaml.Node) (pathExpr, error) {
	text, err := c.text(n, "a path")
	if err != nil {
		return pathExpr{}, err
	}
	return c.path(n, text)
}

func (c *compiler) jq(n *yaml.Node) (jqText, error) {
	text, err := c.text(n, "jq")
	if err != nil {
		return jqText{}, err
	}
	code, err := compileJQ(text)
	if err != nil {
		return jqText{}, c.errorAt(n, "%s", strings.ReplaceAll(err.Error(), "\n", " "))
	}
	return jqText{code}, nil
}

func (c *compiler) coalesce(f *call, depth int) (expr, error) {
	items, err := c.list(f.arg)
	if err != nil {
		return nil, err
	}
	var x coalesceExpr
	for _, item := range items {
		one, err := c.expr(item, depth)
		if err != nil {
			return nil, err
		}
		x.of = append(x.of, one)
	}
	return x, nil
}

// table reads map with its values and default.
func (c *compiler) table(f *call, depth int) (expr, error) {
	of, err := c.expr(f.arg, depth)
	if err != nil {
		return nil, err
	}
	x := tableExpr{of: of, values: map[string][]byte{}}
	values := f.option("values")
	if values == nil {
		return nil, c.errorAt(f.at, "map needs values")
	}
	all, err := c.entries(values, "values")
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		text, err := c.text(e.value, "a value")
		if err != nil {
			return nil, err
		}
		x.values[e.key] = append([]byte{}, text...)
	}
	if n := f.option("default"); n != nil {
		text, err := c.text(n, "default")
		if err != nil {
			return nil, err
		}
		x.fallback = append([]byte{}, text...)
	}
	return x, nil
}

func (c *compiler) split(f *call, depth int) (expr, error) {
	of, err := c.expr(f.arg, depth)
	if err != nil {
		return nil, err
	}
	x := splitExpr{of: of}
	on := f.option("on")
	if on == nil {
		return nil, c.errorAt(f.at, "split needs on, the text between the pieces")
	}
	if x.on, err = c.text(on, "on"); err != nil {
		return nil, err
	}
	if x.on == "" {
		return nil, c.errorAt(on, "on must not be empty")
	}
	if n := f.option("index"); n != nil {
		if x.index, err = strconv.Atoi(n.Value); err != nil || n.Kind != yaml.ScalarNode {
			return nil, c.errorAt(n, "index must be a number: 0 is the first piece, -1 the last")
		}
	}
	return x, nil
}

func (c *compiler) match(f *call, depth int) (expr, error) {
	of, err := c.expr(f.arg, depth)
	if err != nil {
		return nil, err
	}
	x := matchExpr{of: of}
	pattern := f.option("pattern")
	if pattern == nil {
		return nil, c.errorAt(f.at, "match needs a pattern")
	}
	text, err := c.text(pattern, "pattern")
	if err != nil {
		return nil, err
	}
	if x.pattern, err = regexp.Compile(text); err != nil {
		return nil, c.errorAt(pattern, "pattern: %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	if n := f.option("as"); n != nil {
		as, err := c.text(n, "as")
		if err != nil {
			return nil, err
		}
		if group := unknownGroup(as, x.pattern); group != "" {
			return nil, c.errorAt(n, "the pattern has no group %q: write ${1} before letters and digits, $$ for a dollar", group)
		}
		x.as = append([]byte{}, as...)
	}
	return x, nil
}

// timeFunction reads time with its layouts and zone.
func (c *compiler) timeFunction(all []entry) error {
	t := &c.prog.time
	var zone *time.Location
	var layouts *yaml.Node
	var err error
	for _, e := range all {
		switch e.key {
		case "time":
			t.value, err = c.expr(e.value, 0)
		case "layouts":
			layouts = e.value
		case "zone":
			var name string
			if name, err = c.text(e.value, "zone"); err != nil {
				return err
			}
			if zone, err = time.LoadLocation(name); err != nil || name == "Local" || name == "" {
				return c.errorAt(e.value, "unknown zone %s: use a name of the time zone database, such as Europe/Paris", shortName([]byte(name)))
			}
		default:
			return c.errorAt(e.at, "time has no option %s", shortName([]byte(e.key)))
		}
		if err != nil {
			return err
		}
	}
	if layouts == nil {
		layouts = &yaml.Node{Kind: yaml.ScalarNode, Value: "rfc3339"}
	}
	items, err := c.list(layouts)
	if err != nil {
		return err
	}
	t.layouts = nil
	for _, item := range items {
		name, err := c.text(item, "a layout")
		if err != nil {
			return err
		}
		layout := namedLayout(name)
		switch {
		case layout == nil:
			if layout, err = goLayout(name, zone); err != nil {
				return c.errorAt(item, "layout %s: %s", shortName([]byte(name)), err)
			}
		case zone != nil:
			layout = inZone(layout, zone)
		}
		t.layouts = append(t.layouts, layout)
	}
	return nil
}

func inZone(layout timeLayout, zone *time.Location) timeLayout {
	return func(text []byte, _ *time.Location) (int64, error) { return layout(text, zone) }
}

// template reads text with {PATH} for values and […] for a piece that is left out where one of its values is missing; a doubled
// bracket or brace stands for itself.
func (c *compiler) template(at *yaml.Node, text string) (templateExpr, error) {
	x, rest, err := c.templateParts(at, text, false)
	if err == nil && rest != "" {
		err = c.errorAt(at, "template: ] without [")
	}
	if err == nil && len(x) == 0 {
		x = templateExpr{{literal: []byte{}}}
	}
	return x, err
}

func (c *compiler) templateParts(at *yaml.Node, text string, inner bool) (parts templateExpr, rest string, err error) {
	var literal []byte
	flush := func() {
		if len(literal) > 0 {
			parts = append(parts, templatePart{literal: literal})
			literal = nil
		}
	}
	for text != "" {
		ch := text[0]
		switch {
		case strings.IndexByte("{}[]", ch) >= 0 && len(text) > 1 && text[1] == ch:
			literal = append(literal, ch)
			text = text[2:]
		case ch == '{':
			flush()
			path, after, ok := cutPath(text[1:])
			if !ok {
				return nil, "", c.errorAt(at, "template: { without }")
			}
			value, err := c.path(at, path)
			if err != nil {
				return nil, "", err
			}
			parts, text = append(parts, templatePart{value: value}), after
		case ch == '[' && inner:
			return nil, "", c.errorAt(at, "template: [ within […]")
		case ch == '[':
			flush()
			optional, after, err := c.templateParts(at, text[1:], true)
			if err != nil {
				return nil, "", err
			}
			if after == "" || len(optional) == 0 {
				return nil, "", c.errorAt(at, "template: [ without ], or nothing in it")
			}
			parts, text = append(parts, templatePart{optional: optional}), after[1:]
		case ch == '}':
			return nil, "", c.errorAt(at, "template: } without {")
		case ch == ']':
			flush()
			return parts, text, nil
		default:
			literal = append(literal, ch)
			text = text[1:]
		}
	}
	flush()
	return parts, "", nil
}

// cutPath cuts a path off that ends with }, which a backslash takes as it is.
func cutPath(text string) (path, rest string, ok bool) {
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '}':
			return text[:i], text[i+1:], true
		}
	}
	return "", "", false
}
