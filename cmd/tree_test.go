package cmd

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"auditdb/internal/output"
)

// walk visits every command that people can call.
func walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, sub := range cmd.Commands() {
		walk(sub, visit)
	}
}

func wholeTree() *cobra.Command {
	return newRootCmd(newApp(strings.NewReader(""), io.Discard, io.Discard, time.Now))
}

func TestEveryCommandHelps(t *testing.T) {
	t.Parallel()
	root := wholeTree()
	walk(root, func(cmd *cobra.Command) {
		path := cmd.CommandPath()
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: Short %q", path, cmd.Short)
		}
		if !strings.Contains(cmd.Example, path) && cmd != root {
			t.Errorf("%s: no example of it: %q", path, cmd.Example)
		}
		for line := range strings.Lines(cmd.Example) {
			if !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: example %q is not indented by two spaces", path, line)
			}
		}
		if !cmd.Flags().SortFlags {
			t.Errorf("%s: flags are not sorted", path)
		}
		if cmd.PersistentPreRunE != nil && cmd != root || cmd.PersistentPreRun != nil {
			t.Errorf("%s: hides the root's PersistentPreRunE", path)
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s: no help", path, f.Name)
			}
		})
	})
}

var exampleWord = regexp.MustCompile(`'[^']*'|\S+`)

// The examples of all commands parse: each names commands and flags that exist.
func TestExamplesParse(t *testing.T) {
	t.Parallel()
	walk(wholeTree(), func(cmd *cobra.Command) {
		for line := range strings.Lines(cmd.Example) {
			words := exampleWord.FindAllString(line, -1)
			i := slices.Index(words, "auditdb")
			if i < 0 {
				continue
			}
			words = words[i+1:]
			if end := slices.IndexFunc(words, func(w string) bool { return strings.ContainsAny(w, "|<>;&)#") }); end >= 0 {
				words = words[:end]
			}
			found, rest, err := wholeTree().Find(words)
			if err != nil {
				t.Errorf("%s: %q: %v", cmd.CommandPath(), line, err)
				continue
			}
			if err := found.ParseFlags(rest); err != nil {
				t.Errorf("%s: %q: %v", cmd.CommandPath(), line, err)
				continue
			}
			if err := found.ValidateArgs(found.Flags().Args()); err != nil {
				t.Errorf("%s: %q: %v", cmd.CommandPath(), line, err)
			}
		}
	})
}

func TestCompletionsAreCurrent(t *testing.T) {
	t.Parallel()
	for shell, name := range map[string]string{"bash": "auditdb.bash", "zsh": "_auditdb", "fish": "auditdb.fish", "powershell": "auditdb.ps1"} {
		var now bytes.Buffer
		if err := writeCompletion(wholeTree(), &now, shell); err != nil {
			t.Fatal(err)
		}
		kept, err := os.ReadFile(filepath.Join("..", "completions", name))
		if err != nil || !bytes.Equal(kept, now.Bytes()) {
			t.Errorf("completions/%s is not what auditdb completion %s prints (make completions): %v", name, shell, err)
		}
	}
}

// Every schema can be made, and the zero value of each document fits it as the printer writes it.
func TestSchemas(t *testing.T) {
	t.Parallel()
	for name, doc := range documents() {
		schema, err := documentSchema(name, doc)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		line, err := output.MarshalLine(name, doc)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var instance any
		if err := json.Unmarshal([]byte(line), &instance); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		resolved, err := schema.Resolve(nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := resolved.Validate(instance); err != nil {
			t.Errorf("%s: %v in %s", name, err, line)
		}
	}
}

// Every command that prints a document has a schema, and every schema a command.
func TestDocumentsHaveCommands(t *testing.T) {
	t.Parallel()
	paths := map[string]bool{"error": true}
	walk(wholeTree(), func(cmd *cobra.Command) {
		paths[strings.ReplaceAll(strings.TrimPrefix(cmd.CommandPath(), "auditdb "), " ", ".")] = true
	})
	for _, name := range slices.Sorted(maps.Keys(documents())) {
		if !paths[name] {
			t.Errorf("document %s belongs to no command", name)
		}
	}
}
