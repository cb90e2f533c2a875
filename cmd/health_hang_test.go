package cmd

import (
	"errors"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"auditdb/internal/pgtest"
)

// The process of health ends within --timeout where the server hangs, with the exit code of a critical finding and the whole document.
func TestHealthHangs(t *testing.T) {
	t.Parallel()
	pg := pgtest.Server(t)
	if err := syscall.Kill(pg.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pg.PID(), syscall.SIGCONT) })
	for _, args := range [][]string{{}, {"--only", "partitions"}, {"--deep", "--record"}, {"--only", "redis"}} {
		c := exec.CommandContext(t.Context(), "auditdb", append([]string{"health", "-o", "json", "--timeout", "1s", "--database-url", pg.URL("postgres")}, args...)...)
		started := time.Now()
		out, err := c.Output()
		took := time.Since(started)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), `"status": "critical"`) || !strings.HasSuffix(string(out), "}\n") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
		if took > 20*time.Second { // the server hangs for good
			t.Errorf("%v: it took %s", args, took)
		}
	}
}
