package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"auditdb/internal/fault"
)

// FileName is the name under which the configuration file is searched.
const FileName = "auditdb.yaml"

// file is a configuration file as it was read: the text or list of every key in it, and the line where it stands.
type file struct {
	path   string
	values map[string]any // string or []string
	lines  map[string]int
	checks map[string]Check
}

// What can name the configuration file.
const (
	byFlag = "--config"
	byEnv  = "$" + EnvPrefix + "CONFIG"
)

// find returns the path of the file to read, "" when there is none, and what named it, "" when it was searched for.
func (l *Loader) find(flagged string) (path, by string, err error) {
	if flagged != "" {
		return flagged, byFlag, nil
	}
	if path, ok := l.LookupEnv(EnvPrefix + "CONFIG"); ok && path != "" {
		return path, byEnv, nil
	}
	for _, path := range l.candidates() {
		_, err := os.Stat(path)
		if err == nil {
			return path, "", nil
		}
		// A folder that may not be entered cannot hold a file meant for this user.
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
			return "", "", fault.New(fault.Config, "", "look for the configuration file: %w", err)
		}
	}
	return "", "", nil
}

func (l *Loader) candidates() []string {
	list := []string{FileName}
	if dir, ok := l.LookupEnv("XDG_CONFIG_HOME"); ok && filepath.IsAbs(dir) {
		list = append(list, filepath.Join(dir, "auditdb", FileName))
	} else if home, ok := l.LookupEnv("HOME"); ok && filepath.IsAbs(home) {
		list = append(list, filepath.Join(home, ".config", "auditdb", FileName))
	}
	return append(list, "/etc/auditdb/"+FileName)
}

// readFile reads and checks the file at path, which was named by a flag or variable, or found ("").
func readFile(path, by string) (*file, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, cannotOpen(by, err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fault.New(fault.Config, "", "read the configuration file: %w", err)
	}
	if err := checkMode(path, info, by != ""); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return nil, fault.New(fault.Config, "", "read the configuration file: %w", err)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fault.New(fault.Config, "", "read the configuration file: %w", err)
	}
	return parseFile(abs, text)
}

func cannotOpen(by string, err error) error {
	what, hint := "the configuration file", "make it readable, or name another with --config"
	missing := errors.Is(err, os.ErrNotExist)
	switch {
	case by == byFlag && missing:
		hint = "name a file that exists with --config, or leave it out"
	case by == byEnv && missing:
		hint = "unset " + EnvPrefix + "CONFIG, or set it to a file that exists"
	case by == byEnv:
		hint = "make it readable, or unset " + EnvPrefix + "CONFIG"
	}
	if by != "" {
		what += " that " + by + " names"
	}
	return fault.New(fault.Config, hint, "read %s: %w", what, err)
}

// checkMode refuses a file through which somebody else could change what auditdb does, or where it sends a password.
func checkMode(path string, info os.FileInfo, named bool) error {
	if info.IsDir() {
		return fault.New(fault.Config, "name a file", "read the configuration file: %s is a directory", path)
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fault.New(fault.Config, "chmod go-w "+path, "read the configuration file: others may write %s (mode %04o)", path, mode)
	}
	if !named && foreignOwner(info) {
		return fault.New(fault.Config, "if you trust it, name it: --config "+path,
			"read the configuration file: %s belongs to another user, who may write it", path)
	}
	return nil
}

// parseFile reads YAML strictly: unknown and doubled keys, values of the wrong shape and further documents are errors, all reported at once.
func parseFile(path string, text []byte) (*file, error) {
	f := &file{path: path, values: map[string]any{}, lines: map[string]int{}, checks: map[string]Check{}}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return f, nil
	}
	if err != nil {
		return nil, fault.New(fault.Config, "", "read %s: %s", path, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fault.New(fault.Config, "keep one document, without a --- line between settings", "read %s: more than one YAML document", path)
	}
	w := walker{file: f, known: knownNames()}
	for _, n := range doc.Content {
		w.mapping("", n, 0)
	}
	if len(w.problems) > 0 {
		return nil, fault.New(fault.Config, w.hint, "read the configuration file: %s", strings.Join(w.problems, "; "))
	}
	return f, nil
}

// knownNames maps each key that may stand in the file to whether it is a leaf; its parents map to false.
func knownNames() map[string]bool {
	known := map[string]bool{healthChecks: false}
	add := func(name string) {
		known[name] = true
		for i := strings.LastIndexByte(name, '.'); i >= 0; i = strings.LastIndexByte(name[:i], '.') {
			known[name[:i]] = false
		}
	}
	for _, k := range keys() {
		add(k.name)
		if k.secret {
			add(k.file().name)
		}
	}
	known["health"] = false
	return known
}

// healthChecks is the one key whose children are not known here: they are the names of checks.
const healthChecks = "health.checks"

// maxDepth ends documents that refer to themselves.
const maxDepth = 8

type walker struct {
	*file
	known    map[string]bool
	problems []string
	hint     string
}

func (w *walker) problem(n *yaml.Node, format string, args ...any) {
	w.problems = append(w.problems, fmt.Sprintf("%s:%d: ", w.path, n.Line)+fmt.Sprintf(format, args...))
}

func (w *walker) mapping(parent string, n *yaml.Node, depth int) {
	n = resolve(n)
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode || depth > maxDepth {
		w.problem(n, "%s holds further keys, not a value", orTop(parent))
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		w.entry(parent, n.Content[i], n.Content[i+1], depth)
	}
}

func (w *walker) entry(parent string, name, value *yaml.Node, depth int) {
	full := strings.TrimPrefix(parent+"."+name.Value, ".")
	if _, again := w.lines[full]; again {
		w.problem(name, "key %q stands there twice", full)
		return
	}
	w.lines[full] = name.Line
	leaf, known := w.known[full]
	switch {
	case parent == healthChecks:
		w.mapping(full, value, depth+1)
	case strings.HasPrefix(parent, healthChecks+"."):
		w.check(parent, name, value)
	case !known:
		w.unknown(full, name)
	case leaf:
		w.leaf(full, value)
	default:
		w.mapping(full, value, depth+1)
	}
}

func (w *walker) unknown(full string, n *yaml.Node) {
	w.problem(n, "unknown key %q", full)
	if w.hint != "" {
		return
	}
	names := make([]string, 0, len(w.known))
	for name := range w.known {
		names = append(names, name)
	}
	slices.Sort(names)
	w.hint = "auditdb config show lists every key"
	if near := Nearest(full, names); near != "" {
		w.hint = fmt.Sprintf("did you mean %q?", near)
	}
}

func (w *walker) leaf(full string, n *yaml.Node) {
	n = resolve(n)
	switch {
	case isNull(n):
	case n.Kind == yaml.ScalarNode:
		w.values[full] = n.Value
	case n.Kind == yaml.SequenceNode:
		list := make([]string, 0, len(n.Content))
		for _, item := range n.Content {
			item = resolve(item)
			if item.Kind != yaml.ScalarNode || isNull(item) {
				w.problem(item, "%s: each item has to be one value", full)
				return
			}
			list = append(list, item.Value)
		}
		w.values[full] = list
	default:
		w.problem(n, "%s: a value is wanted, not further keys", full)
	}
}

// check reads one setting of a health check.
func (w *walker) check(parent string, name, value *yaml.Node) {
	value = resolve(value)
	check := strings.TrimPrefix(parent, healthChecks+".")
	c := w.checks[check]
	if value.Kind != yaml.ScalarNode {
		w.problem(value, "%s.%s: a value is wanted", parent, name.Value)
		return
	}
	switch name.Value {
	case "enabled":
		on, err := parseBool(value.Value)
		if err != nil {
			w.problem(value, "%s.%s: %v", parent, name.Value, err)
			return
		}
		c.Enabled = &on
	case "warning":
		c.Warning = value.Value
	case "critical":
		c.Critical = value.Value
	default:
		w.problem(name, "unknown key %q", parent+"."+name.Value)
		w.hint = "a health check has the keys enabled, warning and critical"
		return
	}
	w.checks[check] = c
}

func resolve(n *yaml.Node) *yaml.Node {
	for range maxDepth {
		if n.Kind != yaml.AliasNode || n.Alias == nil {
			break
		}
		n = n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

func orTop(parent string) string {
	if parent == "" {
		return "the file"
	}
	return parent
}

// Nearest finds the candidate that a mistyped name was meant to be, or "".
func Nearest(name string, candidates []string) string {
	best, bestDistance := "", 4
	for _, c := range candidates {
		if strings.HasSuffix(c, "."+name) { // the right key at the wrong level
			return c
		}
		limit := min(bestDistance, 2+len(c)/4)
		if d := distance(name, c); d < limit {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance is the number of letters to insert, delete or change to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j+1]+1, row[j]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
