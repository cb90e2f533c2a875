package ingest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"auditdb/internal/fault"
)

const (
	maxMappingFile = 1 << 20
	maxExprDepth   = 32
	mappingHint    = "docs/mapping.md has the functions and examples"
)

// compiler turns a mapping file into a program. Its errors name file, line and column and are of class config.
type compiler struct {
	file string
	prog *program
}

// readMapping reads and compiles a mapping file.
func readMapping(path string) (text []byte, prog *program, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fault.New(fault.Config, "", "open the mapping file: %w", err)
	}
	defer func() { _ = f.Close() }() // read only
	text, err = io.ReadAll(io.LimitReader(f, maxMappingFile+1))
	switch {
	case err != nil:
		return nil, nil, fault.New(fault.Config, "", "read the mapping file: %w", err)
	case len(text) > maxMappingFile:
		return nil, nil, fault.New(fault.Config, "", "mapping file %s is larger than %d bytes", path, maxMappingFile)
	}
	prog, err = compileMapping(path, text)
	return text, prog, err
}

// compileMapping compiles the text of a mapping file; file names it in errors.
func compileMapping(file string, text []byte) (*program, error) {
	c := &compiler{file: file, prog: &program{root: &pathNode{index: -1, slot: -1}}}
	d := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	err := d.Decode(&doc)
	switch {
	case errors.Is(err, io.EOF):
		return nil, fault.New(fault.Config, mappingHint, "%s: the mapping file is empty", file)
	case err != nil:
		return nil, c.syntax(err)
	}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, fault.New(fault.Config, mappingHint, "%s: more than one YAML document", file)
	}
	if err := c.top(doc.Content[0]); err != nil {
		return nil, err
	}
	return c.prog, nil
}

// syntax words an error of the YAML parser, which knows the line only.
func (c *compiler) syntax(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if line, rest, ok := strings.Cut(strings.TrimPrefix(text, "line "), ": "); ok && strings.HasPrefix(text, "line ") {
		return fault.New(fault.Config, mappingHint, "%s:%s: %s", c.file, line, rest)
	}
	return fault.New(fault.Config, mappingHint, "%s: %s", c.file, text)
}

func (c *compiler) errorAt(n *yaml.Node, format string, args ...any) error {
	return fault.New(fault.Config, mappingHint, "%s:%d:%d: %s", c.file, n.Line, n.Column, fmt.Sprintf(format, args...))
}

// entry is a key of a YAML mapping with its value.
type entry struct {
	key   string
	at    *yaml.Node
	value *yaml.Node
}

// entries reads a YAML mapping: each key once, no aliases, no merges.
func (c *compiler) entries(n *yaml.Node, what string) ([]entry, error) {
	if n.Kind != yaml.MappingNode {
		return nil, c.errorAt(n, "%s must be a list of keys and values", what)
	}
	all := make([]entry, 0, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
			return nil, c.errorAt(key, "a key must be plain text")
		}
		if slices.ContainsFunc(all, func(e entry) bool { return e.key == key.Value }) {
			return nil, c.errorAt(key, "%s stands twice", shortName([]byte(key.Value)))
		}
		if value.Kind == yaml.AliasNode {
			return nil, c.errorAt(value, "aliases are not taken: write it out")
		}
		all = append(all, entry{key.Value, key, value})
	}
	return all, nil
}

// text reads a scalar that a column can hold.
func (c *compiler) text(n *yaml.Node, what string) (string, error) {
	switch {
	case n.Kind != yaml.ScalarNode || n.Tag == "!!null":
		return "", c.errorAt(n, "%s must be text", what)
	case !isStorable([]byte(n.Value)):
		return "", c.errorAt(n, "%s is not UTF-8 text", what)
	}
	return n.Value, nil
}

// list returns the items of a YAML list, or the one value that stands for it.
func (c *compiler) list(n *yaml.Node) ([]*yaml.Node, error) {
	if n.Kind != yaml.SequenceNode {
		return []*yaml.Node{n}, nil
	}
	for _, item := range n.Content {
		if item.Kind == yaml.AliasNode {
			return nil, c.errorAt(item, "aliases are not taken: write it out")
		}
	}
	if len(n.Content) == 0 {
		return nil, c.errorAt(n, "the list is empty")
	}
	return n.Content, nil
}

func (c *compiler) texts(n *yaml.Node, what string) ([]string, error) {
	items, err := c.list(n)
	if err != nil {
		return nil, err
	}
	all := make([]string, len(items))
	for i, item := range items {
		if all[i], err = c.text(item, what); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (c *compiler) top(n *yaml.Node) error {
	all, err := c.entries(n, "a mapping file")
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, e := range all {
		seen[e.key] = true
		switch e.key {
		case "version":
			if e.value.Value != "1" || e.value.Kind != yaml.ScalarNode {
				return c.errorAt(e.value, "the version must be 1")
			}
		case "select":
			c.prog.selects, err = c.conditions(e.value)
		case "columns":
			err = c.columns(e.value)
		case "event_uid":
			err = c.eventUID(e.value)
		default:
			return c.errorAt(e.at, "unknown key %s: the keys are version, select, columns, event_uid", shortName([]byte(e.key)))
		}
		if err != nil {
			return err
		}
	}
	switch {
	case !seen["version"]:
		return c.errorAt(n, "version: 1 is missing")
	case !seen["columns"]:
		return c.errorAt(n, "columns is missing")
	case seen["event_uid"] && c.prog.gives(colEventUID):
		return c.errorAt(n, "event_uid is given twice: at the top, and as a column")
	case c.prog.time.value == nil:
		return c.errorAt(n, "the column timestamp is missing")
	}
	return nil
}

// gives tells whether a column of text is mapped.
func (p *program) gives(want column) bool {
	return slices.ContainsFunc(p.columns, func(r columnRule) bool { return r.column == want })
}

func (c *compiler) columns(n *yaml.Node) error {
	all, err := c.entries(n, "columns")
	if err != nil {
		return err
	}
	given := map[column]bool{}
	for _, e := range all {
		col, known := nativeColumn([]byte(e.key))
		switch {
		case !known:
			return c.errorAt(e.at, "there is no column %s", shortName([]byte(e.key)))
		case col.isOurs():
			return c.errorAt(e.at, "%s cannot be given", col.name())
		case given[col]:
			return c.errorAt(e.at, "%s stands twice", col.name())
		}
		given[col] = true
		switch col {
		case colTimestamp:
			err = c.timestamp(e.value)
		case colDetails:
			err = c.details(e.value)
		default:
			var x expr
			x, err = c.expr(e.value, 0)
			c.prog.columns = append(c.prog.columns, columnRule{col, x})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// eventUID reads the list of values that are joined by ':'. An empty one counts as missing.
func (c *compiler) eventUID(n *yaml.Node) error {
	items, err := c.list(n)
	if err != nil {
		return err
	}
	for i, item := range items {
		x, err := c.expr(item, 0)
		if err != nil {
			return err
		}
		if i > 0 {
			c.prog.uid = append(c.prog.uid, templatePart{literal: []byte{':'}})
		}
		c.prog.uid = append(c.prog.uid, templatePart{value: coalesceExpr{of: []expr{x}, ignore: []string{""}}})
	}
	return nil
}

// conditions reads PATH: VALUE, or PATH: [VALUE, …].
func (c *compiler) conditions(n *yaml.Node) ([]condition, error) {
	all, err := c.entries(n, "conditions")
	if err != nil {
		return nil, err
	}
	out := make([]condition, 0, len(all))
	for _, e := range all {
		value, err := c.path(e.at, e.key)
		if err != nil {
			return nil, err
		}
		items, err := c.list(e.value)
		if err != nil {
			return nil, err
		}
		one := condition{value: value}
		for _, item := range items {
			if item.Kind == yaml.ScalarNode && item.Tag == "!!null" {
				one.absent = true
				continue
			}
			text, err := c.text(item, "a value")
			if err != nil {
				return nil, err
			}
			one.texts = append(one.texts, text)
		}
		out = append(out, one)
	}
	return out, nil
}

// path makes room for the value at a path.
func (c *compiler) path(at *yaml.Node, path string) (pathExpr, error) {
	steps, err := splitPath(path)
	if err != nil {
		return pathExpr{}, c.errorAt(at, "path %s: %s", shortName([]byte(path)), err)
	}
	node := c.prog.root.at(steps)
	if node.slot < 0 {
		node.slot = c.prog.slots
		c.prog.slots++
	}
	return pathExpr{node.slot}, nil
}

// timestamp reads the rule of the column timestamp: a path is RFC 3339.
func (c *compiler) timestamp(n *yaml.Node) error {
	c.prog.time.layouts = []timeLayout{parseTimestamp}
	if n.Kind == yaml.MappingNode {
		all, err := c.entries(n, "a function")
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(all, func(e entry) bool { return e.key == "time" }); i >= 0 {
			return c.timeFunction(all)
		}
	}
	var err error
	c.prog.time.value, err = c.expr(n, 0)
	return err
}

// details reads the rule of the column details.
func (c *compiler) details(n *yaml.Node) error {
	d := &c.prog.details
	var err error
	if n.Kind != yaml.MappingNode {
		d.part = true
		d.value, err = c.pathOf(n)
		return err
	}
	all, err := c.entries(n, "a function")
	if err != nil {
		return err
	}
	raw := false
	for _, e := range all {
		switch e.key {
		case "raw":
			if e.value.Value != "true" {
				return c.errorAt(e.value, "raw must be true: it is the whole event")
			}
			raw = true
		case "drop":
			err = c.drop(e.value)
		case "path":
			d.part = true
			d.value, err = c.pathOf(e.value)
		case "jq":
			d.jq, err = c.jq(e.value)
		default:
			return c.errorAt(e.at, "details is made by raw, path or jq, not by %s", shortName([]byte(e.key)))
		}
		if err != nil {
			return err
		}
	}
	switch {
	case d.part && d.jq.code != nil, raw && (d.part || d.jq.code != nil):
		return c.errorAt(n, "details has more than one source")
	case d.drop != nil && (d.part || d.jq.code != nil):
		return c.errorAt(n, "drop goes with raw: true")
	case !raw && d.drop == nil && !d.part && d.jq.code == nil:
		return c.errorAt(n, "details has no source: raw: true, path or jq")
	}
	return nil
}

func (c *compiler) drop(n *yaml.Node) error {
	items, err := c.list(n)
	if err != nil {
		return err
	}
	c.prog.details.drop = &pathNode{index: -1, slot: -1}
	for _, item := range items {
		text, err := c.text(item, "a path")
		if err != nil {
			return err
		}
		steps, err := splitPath(text)
		if err != nil {
			return c.errorAt(item, "path %s: %s", shortName([]byte(text)), err)
		}
		c.prog.details.drop.at(steps).slot = 0
	}
	return nil
}
