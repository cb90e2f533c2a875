package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"auditdb/internal/fault"
)

// StopDetached ends the server that Detach left running in dir and removes dir. It refuses (fault.Usage) a directory that this package did
// not make.
func StopDetached(ctx context.Context, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("find %s: %w", dir, err)
	}
	kind, err := os.ReadFile(filepath.Join(dir, markerName))
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.Usage, "name the directory that demo --keep printed", "stop the server in %s: there is none of auditdb's", dir)
	} else if err != nil {
		return fmt.Errorf("stop the server in %s: %w", dir, err)
	}
	pidFile, match, signals := filepath.Join(dir, "data", "postmaster.pid"), dir, []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT}
	switch strings.TrimSpace(string(kind)) {
	case kindPostgres:
	case kindRedis:
		pidFile, match, signals = filepath.Join(dir, "redis.pid"), "redis-server", []syscall.Signal{syscall.SIGTERM}
	default:
		return fmt.Errorf("stop the server in %s: unknown kind %q", dir, kind)
	}
	if pid, ok := readPID(pidFile); ok && strings.Contains(commandLine(ctx, pid), match) {
		if err := stopPID(ctx, pid, signals); err != nil {
			return err
		}
	}
	removeSegment(filepath.Join(dir, "data", "postmaster.pid"))
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}

// stopPID sends the signals in turn, then SIGKILL, until the process has ended, each with stopGrace.
func stopPID(ctx context.Context, pid int, signals []syscall.Signal) error {
	for _, s := range append(signals, syscall.SIGKILL) {
		if err := syscall.Kill(pid, s); errors.Is(err, syscall.ESRCH) {
			return nil
		} else if err != nil {
			return fmt.Errorf("send %s to process %d: %w", s, pid, err)
		}
		grace, cancel := context.WithTimeout(ctx, stopGrace)
		err := poll(grace, 10*time.Millisecond, func() bool { return !alive(pid) })
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for the end of process %d: %w", pid, ctx.Err())
		}
	}
	return fmt.Errorf("stop process %d: it survived SIGKILL", pid)
}
