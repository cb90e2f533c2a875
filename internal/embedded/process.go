package embedded

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// children lists the processes whose parent is pid, by /proc where there is one, else by pgrep.
func children(ctx context.Context, pid int) []int {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(stats) == 0 {
		return pgrep(ctx, pid)
	}
	var pids []int
	for _, file := range stats {
		fields, ok := statFields(file)
		if !ok || fields[1] != strconv.Itoa(pid) {
			continue
		}
		if c, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			pids = append(pids, c)
		}
	}
	return pids
}

func pgrep(ctx context.Context, pid int) []int {
	out, err := exec.CommandContext(ctx, "pgrep", "-P", strconv.Itoa(pid)).Output() //nolint:gosec // a number
	if err != nil {
		return nil
	}
	var pids []int
	for f := range strings.FieldsSeq(string(out)) {
		if c, err := strconv.Atoi(f); err == nil {
			pids = append(pids, c)
		}
	}
	return pids
}

// statFields returns the fields of /proc/PID/stat after the command's name: state, parent, …
func statFields(file string) ([]string, bool) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, false
	}
	_, rest, ok := strings.Cut(string(raw[strings.LastIndexByte(string(raw), ')')+1:]), " ")
	fields := strings.Fields(rest)
	return fields, ok && len(fields) > 1
}

// alive says whether a process runs; one that has ended and waits for its parent to notice does not.
func alive(pid int) bool {
	if fields, ok := statFields(filepath.Join("/proc", strconv.Itoa(pid), "stat")); ok {
		return fields[0] != "Z" && fields[0] != "X"
	}
	return syscall.Kill(pid, 0) == nil
}

// commandLine returns a process's program and arguments, or "" when there is no such process.
func commandLine(ctx context.Context, pid int) string {
	id := strconv.Itoa(pid)
	if raw, err := os.ReadFile(filepath.Join("/proc", id, "cmdline")); err == nil {
		return strings.ReplaceAll(string(raw), "\x00", " ")
	}
	out, err := exec.CommandContext(ctx, "ps", "-p", id, "-o", "args=").Output() //nolint:gosec // a number
	if err != nil {
		return ""
	}
	return string(out)
}

// dropSegment removes a System V shared memory segment that no process uses any more.
func dropSegment(id int) {
	_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
}
