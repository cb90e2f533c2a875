// Package migrations holds auditdb's schema and brings a database to any version of it.
package migrations

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

//go:embed *.sql
var files embed.FS

// source is one embedded migration.
type source struct {
	version  int64
	name     string // file name without ".sql"
	up, down string // statements without goose's marks and without comments on lines of their own
	guarded  []string
}

// sources lists the embedded migrations, oldest first.
func sources() ([]source, error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return nil, fmt.Errorf("list migrations: %w", err)
	}
	slices.Sort(names)
	list := make([]source, 0, len(names))
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read migration %s: %w", name, err)
		}
		number, _, _ := strings.Cut(name, "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read migration %s: %w", name, err)
		}
		_, body, _ := strings.Cut(string(text), "-- +goose Up\n")
		up, down, ok := strings.Cut(body, "-- +goose Down\n")
		if !ok {
			return nil, fmt.Errorf("read migration %s: it has no Up and Down part", name)
		}
		list = append(list, source{version: version, name: strings.TrimSuffix(path.Base(name), ".sql"), up: statements(up), down: statements(down), guarded: guarded(down)})
	}
	return list, nil
}

// statements drops lines that are comments, goose's marks among them.
func statements(text string) string {
	var kept []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "--") && strings.TrimSpace(line) != "" {
			kept = append(kept, strings.TrimRight(line, "\n"))
		}
	}
	return strings.TrimSuffix(strings.Join(kept, "\n"), ";")
}

// guarded reads which tables (with an optional condition) the Down part's own guard wants to be empty.
func guarded(down string) []string {
	list := regexp.MustCompile(`ARRAY\[(.*)\] LOOP`).FindStringSubmatch(down)
	if list == nil {
		return nil
	}
	var tables []string
	for _, quoted := range regexp.MustCompile(`'((?:[^']|'')*)'`).FindAllStringSubmatch(list[1], -1) {
		tables = append(tables, strings.ReplaceAll(quoted[1], "''", "'"))
	}
	return tables
}
