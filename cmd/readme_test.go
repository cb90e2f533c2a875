package cmd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"auditdb/internal/pgtest"
)

var (
	shellBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")
	wantedExit = regexp.MustCompile(`^(.*\S)\s+# exit (\d+).*$`)
	makeTarget = regexp.MustCompile(`^make ([a-z-]+)`)
)

// TestReadme runs every shell block of README.md in order, on an empty database. A line that ends in "# exit N" has to end with
// that code, all others with 0; make's targets only have to exist; the line that names the reader's own database is replaced.
func TestReadme(t *testing.T) {
	t.Parallel()
	readme := readFile(t, "../README.md")
	makefile := readFile(t, "../Makefile")
	script := "set -euo pipefail\n"
	blocks := shellBlock.FindAllStringSubmatch(readme, -1)
	if len(blocks) < 3 {
		t.Fatalf("README.md has %d shell blocks", len(blocks))
	}
	for _, b := range blocks {
		for line := range strings.Lines(b[1]) {
			line = strings.TrimRight(line, "\n")
			if m := makeTarget.FindStringSubmatch(line); m != nil {
				if !strings.Contains(makefile, "\n"+m[1]+":") {
					t.Errorf("README.md names make %s, which the Makefile does not have", m[1])
				}
				continue
			}
			script += readmeLine(line)
		}
	}
	c := exec.CommandContext(t.Context(), "bash")
	c.Dir = t.TempDir()
	c.Env = append(os.Environ(), "DATABASE_URL="+pgtest.Empty(t), "HOME="+c.Dir, "AUDITDB_CONFIG=", "TMPDIR="+os.TempDir())
	c.Stdin = strings.NewReader(script)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\n--- script:\n%s", err, out, script)
	}
}

func readmeLine(line string) string {
	if strings.HasPrefix(line, "export DATABASE_URL=") || strings.HasPrefix(line, "auditdb demo") {
		return ""
	}
	if m := wantedExit.FindStringSubmatch(line); m != nil {
		return fmt.Sprintf("got=0; %s || got=$?\n[ $got = %s ] || { echo \"exit code $got of: %s\"; exit 1; }\n", m[1], m[2], strings.ReplaceAll(m[1], `"`, `'`))
	}
	return line + "\n"
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.FromSlash(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
