package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"

	"auditdb/internal/fault"
)

// MinPostgres is the oldest major version of PostgreSQL that auditdb works with.
const MinPostgres = 14

// BinEnv names the environment variable with the directory of the PostgreSQL programs to use, before all other places.
const BinEnv = "AUDITDB_PG_BIN"

// hintInstall is the way out when no usable server is installed.
const hintInstall = "install PostgreSQL 14 or later (scripts/install-servers.sh), or set " + BinEnv + " to the directory of initdb and postgres"

// FindPostgres finds the directory with the real initdb and postgres programs, and their major version: $AUDITDB_PG_BIN, then PATH, then
// the newest of the places where packages put them. It returns a fault.Config error when none is of minMajor or later.
func FindPostgres(ctx context.Context, minMajor int) (binDir string, major int, err error) {
	if dir := os.Getenv(BinEnv); dir != "" {
		binDir, major, err = Inspect(ctx, dir)
		if err != nil {
			return "", 0, fault.New(fault.Config, hintInstall, "use the PostgreSQL of $%s: %w", BinEnv, err)
		}
		if major < minMajor {
			return "", 0, fault.New(fault.Config, hintInstall, "use the PostgreSQL of $%s: %s has version %d, older than %d", BinEnv, dir, major, minMajor)
		}
		return binDir, major, nil
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if dir, v, err := Inspect(ctx, dir); err == nil && v >= minMajor {
			return dir, v, nil
		}
	}
	for _, pattern := range packageDirs() {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			return "", 0, fmt.Errorf("list %s: %w", pattern, err)
		}
		for _, dir := range dirs {
			if dir, v, err := Inspect(ctx, dir); err == nil && v >= minMajor && v > major {
				binDir, major = dir, v
			}
		}
	}
	if binDir == "" {
		return "", 0, fault.New(fault.Config, hintInstall, "find an installed PostgreSQL: no initdb and postgres of version %d or later", minMajor)
	}
	return binDir, major, nil
}

// packageDirs lists where Debian, Red Hat, Homebrew and Postgres.app put server programs, which are often not on PATH.
func packageDirs() []string {
	return []string{
		"/usr/lib/postgresql/*/bin",
		"/usr/pgsql-*/bin",
		"/usr/libexec/postgresql*",
		"/opt/homebrew/opt/postgresql@*/bin",
		"/usr/local/opt/postgresql@*/bin",
		"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
		"/Applications/Postgres.app/Contents/Versions/*/bin",
	}
}

var versionPattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\(PostgreSQL\) (\d+)`) })

// Inspect follows links from dir to the directory that really holds initdb and postgres, because they look for their files next to
// themselves, and returns it with the server's major version.
func Inspect(ctx context.Context, dir string) (binDir string, major int, err error) {
	for _, name := range []string{"initdb", "postgres"} {
		path, err := filepath.EvalSymlinks(filepath.Join(dir, name))
		if err != nil {
			return "", 0, fmt.Errorf("look for %s: %w", name, err)
		}
		if path, err = filepath.Abs(path); err != nil {
			return "", 0, fmt.Errorf("look for %s: %w", name, err)
		}
		if binDir != "" && filepath.Dir(path) != binDir {
			return "", 0, fmt.Errorf("%s has an initdb of %s and a postgres of %s", dir, binDir, filepath.Dir(path))
		}
		binDir = filepath.Dir(path)
	}
	version := exec.CommandContext(ctx, filepath.Join(binDir, "postgres"), "--version") //nolint:gosec // the program to look at
	version.Env = cleanEnv()
	out, err := version.Output()
	if err != nil {
		return "", 0, fmt.Errorf("ask %s/postgres for its version: %w", binDir, err)
	}
	m := versionPattern().FindSubmatch(out)
	if m == nil {
		return "", 0, errors.New("ask postgres for its version: unknown answer " + strconv.Quote(string(out)))
	}
	if major, err = strconv.Atoi(string(m[1])); err != nil {
		return "", 0, fmt.Errorf("ask postgres for its version: %w", err)
	}
	return binDir, major, nil
}
