package retention

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"auditdb/internal/fault"
	"auditdb/pkg/partitions"
)

// ParseSpan reads a span such as 90d or 7y.
type ParseSpan func(text string) (partitions.Span, error)

const (
	archiveRequired = "required"
	archiveNone     = "none"
)

// File is a policy file: everything that it does not name is removed when it is applied.
type File struct {
	Floors []Floor
	Tables []TablePolicies // in the order of the file
}

// TablePolicies are the policies of one table.
type TablePolicies struct {
	Table    string // as in SQL; "": the default table
	Policies []Policy
}

// fileReader reads a policy file strictly: keys that are not known, twice the same key, and values of another kind are errors with their line.
type fileReader struct {
	span         ParseSpan
	minKeep      int
	maxDrop      int
	maxClockSkew time.Duration
}

// ReadFile reads a policy file. Errors are of class config and name the line.
func ReadFile(text io.Reader, span ParseSpan) (*File, error) {
	var doc yaml.Node
	dec := yaml.NewDecoder(text)
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, fault.New(fault.Config, "auditdb retention policy remove removes policies", "the policy file is empty")
		}
		return nil, fault.New(fault.Config, "", "the policy file is no YAML: %w", err)
	}
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, fault.New(fault.Config, "", "the policy file has more than one document")
	}
	r := &fileReader{span: span, minKeep: partitions.DefaultMinKeep, maxDrop: partitions.DefaultMaxDrop, maxClockSkew: partitions.MaxClockSkew}
	f, err := r.file(doc.Content[0])
	if err != nil {
		return nil, fault.New(fault.Config, fault.HintOf(err), "policy file: %w", err)
	}
	return f, nil
}

func lineError(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("line %d: %s", n.Line, fmt.Sprintf(format, args...))
}

// fields calls fn for each key of a mapping; fn says whether it knows the key.
func fields(n *yaml.Node, what string, fn func(key string, value *yaml.Node) (known bool, err error)) error {
	if n.Kind != yaml.MappingNode {
		return lineError(n, "%s is no mapping", what)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if seen[key.Value] {
			return lineError(key, "%s has %q twice", what, key.Value)
		}
		seen[key.Value] = true
		known, err := fn(key.Value, value)
		if err != nil {
			return err
		}
		if !known {
			return lineError(key, "%s has no key %q", what, key.Value)
		}
	}
	return nil
}

func (r *fileReader) file(root *yaml.Node) (*File, error) {
	f := &File{}
	var list *yaml.Node
	err := fields(root, "the file", func(key string, v *yaml.Node) (bool, error) {
		var err error
		switch key {
		case "floors":
			f.Floors, err = r.floors(v)
		case "policies":
			list = v
		case "min_keep":
			err = whole(v, key, 0, &r.minKeep)
		case "max_drop":
			err = whole(v, key, 1, &r.maxDrop)
		case "max_clock_skew":
			r.maxClockSkew, err = skew(v)
		default:
			return false, nil
		}
		return true, err
	})
	if err != nil {
		return nil, err
	}
	if list == nil || list.Kind != yaml.SequenceNode || len(list.Content) == 0 {
		return nil, fault.New(fault.Config, "auditdb retention policy remove removes policies", "it has no policies: an empty policy is refused")
	}
	return f, r.policies(f, list)
}

func (r *fileReader) policies(f *File, list *yaml.Node) error {
	tables := map[string]int{}
	names := map[string]bool{}
	first := ""
	for _, n := range list.Content {
		p, table, err := r.policy(n)
		if err != nil {
			return err
		}
		if first == "" {
			first = table
		}
		if table == "" {
			table = first // rules without a table are for the first one that is named
		}
		if names[table+"\x00"+p.Name] {
			return lineError(n, "policy %q is there twice", p.Name)
		}
		names[table+"\x00"+p.Name] = true
		if err := p.Check(f.Floors); err != nil {
			return fault.New(fault.Config, fault.HintOf(err), "line %d: %w", n.Line, err)
		}
		at, known := tables[table]
		if !known {
			at = len(f.Tables)
			tables[table] = at
			f.Tables = append(f.Tables, TablePolicies{Table: table})
		}
		f.Tables[at].Policies = append(f.Tables[at].Policies, p)
	}
	return nil
}

func (r *fileReader) policy(n *yaml.Node) (p Policy, table string, err error) {
	p = Policy{MinKeep: r.minKeep, MaxDrop: r.maxDrop, MaxClockSkew: r.maxClockSkew, Action: partitions.Drop}
	archive, keep := "", false
	err = fields(n, "a policy", func(key string, v *yaml.Node) (bool, error) {
		var err error
		switch key {
		case "name":
			p.Name, err = word(v, key)
		case "table":
			table, err = word(v, key)
		case "match":
			err = p.match(v)
		case "keep":
			keep = true
			p.Keep, err = r.spanOf(v, key)
		case "archive_after":
			var s partitions.Span
			s, err = r.spanOf(v, key)
			p.ArchiveAfter = &s
		case "archive":
			archive, err = oneOf(v, key, archiveRequired, archiveNone)
		case "action":
			var action string
			action, err = oneOf(v, key, actionDrop, actionDetach)
			p.Action = partitions.Action(action)
		default:
			return false, nil
		}
		return true, err
	})
	if err == nil && !keep {
		err = lineError(n, "policy %q has no keep", p.Name)
	}
	if err == nil && archive == archiveRequired && !p.Whole() {
		err = lineError(n, "policy %q: archive goes with the rule of a whole table", p.Name)
	}
	p.ArchiveRequired = p.Whole() && archive != archiveNone
	return p, table, err
}

func (p *Policy) match(n *yaml.Node) error {
	err := fields(n, "match", func(key string, v *yaml.Node) (bool, error) {
		var err error
		switch key {
		case "classification":
			p.Classification, err = word(v, key)
		case "organization":
			p.Organization, err = word(v, key)
		case "retention_policy":
			p.RowPolicy, err = word(v, key)
		default:
			return false, nil
		}
		return true, err
	})
	if err == nil && p.Whole() {
		err = lineError(n, "match is empty")
	}
	return err
}

func (r *fileReader) floors(n *yaml.Node) (floors []Floor, err error) {
	err = fields(n, "floors", func(key string, v *yaml.Node) (bool, error) {
		keep, err := r.spanOf(v, "the floor of "+key)
		if err == nil && meanDays(keep) <= 0 {
			err = lineError(v, "the floor of %s must be longer than nothing", key)
		}
		floors = append(floors, Floor{Classification: key, Keep: keep})
		return true, err
	})
	slices.SortFunc(floors, func(a, b Floor) int { return strings.Compare(a.Classification, b.Classification) })
	return floors, err
}

func (r *fileReader) spanOf(v *yaml.Node, what string) (partitions.Span, error) {
	text, err := word(v, what)
	if err != nil {
		return partitions.Span{}, err
	}
	s, err := r.span(text)
	if err != nil {
		return s, fault.New(fault.Config, fault.HintOf(err), "line %d: %s: %w", v.Line, what, err)
	}
	return s, nil
}

func word(v *yaml.Node, what string) (string, error) {
	if v.Kind != yaml.ScalarNode || v.Tag == "!!null" || v.Value == "" {
		return "", lineError(v, "%s is no text", what)
	}
	return v.Value, nil
}

func oneOf(v *yaml.Node, what string, values ...string) (string, error) {
	if v.Kind != yaml.ScalarNode || !slices.Contains(values, v.Value) {
		return "", lineError(v, "%s is one of %s", what, strings.Join(values, ", "))
	}
	return v.Value, nil
}

func whole(v *yaml.Node, what string, least int, into *int) error {
	n, err := strconv.Atoi(v.Value)
	if v.Kind != yaml.ScalarNode || err != nil || n < least || n > 1_000_000 {
		return lineError(v, "%s is a whole number from %d on", what, least)
	}
	*into = n
	return nil
}

func skew(v *yaml.Node) (time.Duration, error) {
	d, err := time.ParseDuration(v.Value)
	if v.Kind != yaml.ScalarNode || err != nil || d <= 0 || d > time.Hour {
		return 0, lineError(v, "max_clock_skew is a duration between 0 and 1h, such as 5s")
	}
	return d, nil
}
