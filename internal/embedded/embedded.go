// Package embedded runs private PostgreSQL and Redis servers for the demo and for tests: on sockets in a temporary directory, with nothing
// shared with servers that run already, and never longer than the process that started them unless they are detached on purpose.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	markerName = "auditdb-server" // marks a directory as made by this package and names the kind of server in it
	logName    = "server.log"     // the server's standard output and error

	kindPostgres = "postgres"
	kindRedis    = "redis"

	// maxDir leaves room for the socket's name within the 103 (macOS) or 107 (Linux) bytes of a socket address.
	maxDir = 80
)

// maxTail is how many bytes of a log an error message shows.
const maxTail = 2000

// stopGrace bounds each step of ending a server: asking, asking harder, killing.
const stopGrace = 30 * time.Second

// account is the user that servers run as when this process is root, which PostgreSQL refuses to run under.
type account struct {
	name     string
	uid, gid uint32
}

// serverAccount returns the account for servers, or nil when they run as the present user.
func serverAccount() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			continue
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			continue
		}
		return &account{name: name, uid: uint32(uid), gid: uint32(gid)}, nil
	}
	return nil, errors.New("find a user other than root for the server: neither postgres nor nobody exists")
}

// own gives a path to the account; nil leaves it alone.
func (a *account) own(path string) error {
	if a == nil {
		return nil
	}
	if err := os.Lchown(path, int(a.uid), int(a.gid)); err != nil {
		return fmt.Errorf("give %s to user %s: %w", path, a.name, err)
	}
	return nil
}

// command prepares a program that runs as the account, in a session of its own (no signal of the terminal reaches it), in dir, and with an
// environment in which no PG* variable can change what it does.
func (a *account) command(ctx context.Context, dir, program string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, program, args...) //nolint:gosec // a program found by FindPostgres or on PATH
	c.Dir = dir
	c.Env = cleanEnv()
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) } // with the processes it started
	if a != nil {
		c.SysProcAttr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	return c
}

func cleanEnv() []string {
	env := []string{"LC_ALL=C", "TZ=UTC"}
	for _, name := range []string{"PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "GOCOVERDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// makeDir makes the server's directory: dir itself, which must not exist or be empty, or a new one in the temporary folder.
func makeDir(dir, kind string, a *account) (string, error) {
	if dir == "" {
		root, err := tempRoot(a)
		if err != nil {
			return "", err
		}
		if dir, err = os.MkdirTemp(root, "auditdb-"+kind+"-"); err != nil {
			return "", fmt.Errorf("make a directory for %s: %w", kind, err)
		}
	} else if err := takeDir(&dir); err != nil {
		return "", err
	}
	if len(dir) > maxDir {
		return "", errors.Join(fmt.Errorf("make a directory for %s: %s is longer than %d bytes, too long for a socket", kind, dir, maxDir), os.Remove(dir))
	}
	if err := os.WriteFile(filepath.Join(dir, markerName), []byte(kind+"\n"), 0o600); err != nil {
		return "", errors.Join(fmt.Errorf("mark %s: %w", dir, err), os.RemoveAll(dir))
	}
	if err := a.own(dir); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

func takeDir(dir *string) error {
	abs, err := filepath.Abs(*dir)
	if err != nil {
		return fmt.Errorf("find %s: %w", *dir, err)
	}
	*dir = abs
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", abs, err)
	}
	entries, err := os.ReadDir(abs)
	if err != nil {
		return fmt.Errorf("look into %s: %w", abs, err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("use %s for a server: it is not empty", abs)
	}
	return nil
}

// tempRoot returns a temporary folder that is short enough for sockets and that the account can get to.
func tempRoot(a *account) (string, error) {
	for _, dir := range []string{os.TempDir(), "/tmp", "/var/tmp"} {
		abs, err := filepath.Abs(dir)
		if err != nil || len(abs) > maxDir-32 {
			continue
		}
		if a == nil || reachable(abs) {
			return abs, nil
		}
	}
	return "", fmt.Errorf("find a temporary folder: %s is too long or not open to the server's user; set TMPDIR", os.TempDir())
}

// reachable says whether any user may pass through path and all folders above it.
func reachable(path string) bool {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false
	}
	for {
		info, err := os.Stat(resolved)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		parent := filepath.Dir(resolved)
		if parent == resolved {
			return true
		}
		resolved = parent
	}
}

// readPID reads the first line of a pid file. ok is false when there is none.
func readPID(file string) (pid int, ok bool) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	pid, err = strconv.Atoi(strings.TrimSpace(line))
	return pid, err == nil && pid > 1
}

// logTail returns the last lines of the server's log, for error messages.
func logTail(dir string) string {
	raw, err := os.ReadFile(filepath.Join(dir, logName))
	if errors.Is(err, fs.ErrNotExist) {
		return "no log"
	} else if err != nil {
		return err.Error()
	}
	if len(raw) > maxTail {
		raw = raw[len(raw)-maxTail:]
	}
	return strings.TrimSpace(string(raw))
}

// poll calls done every step until it returns true, or returns ctx's error.
func poll(ctx context.Context, step time.Duration, done func() bool) error {
	tick := time.NewTicker(step)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}
