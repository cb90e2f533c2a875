package health

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"auditdb/internal/embedded"
	"auditdb/internal/pgtest"
)

// libfaketime finds the library that gives a process another time, from the package faketime. In CI it is there.
func libfaketime(t *testing.T) string {
	t.Helper()
	for _, pattern := range []string{"/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1", "/usr/lib64/faketime/libfaketime.so.1"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[0]
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatal("libfaketime is not installed")
	}
	t.Skip("libfaketime is not installed: sh scripts/install-servers.sh tests")
	return ""
}

// A server whose clock is ten minutes ahead is told of by that check, and by no other one.
func TestServerClock(t *testing.T) {
	t.Parallel()
	library := libfaketime(t)
	if pgtest.Shared(t).Major() < 15 {
		t.Skip("the statistics collector of PostgreSQL 14 does not answer under libfaketime")
	}
	w := newWard(t, func(o *embedded.Options) {
		o.Env = []string{"LD_PRELOAD=" + library, "FAKETIME=+10m", "FAKETIME_DONT_FAKE_MONOTONIC=1", "FAKETIME_DONT_RESET=1"}
	})
	report := w.run(w.o)
	sick := ill(report)
	if names := slices.Collect(maps.Keys(sick)); !slices.Equal(names, []string{"clock_skew"}) {
		t.Fatalf("%+v", sick)
	}
	c := sick["clock_skew"]
	if c.Status != Critical || !strings.Contains(c.Message, "10m") || !strings.Contains(c.Message, "ahead of this one's") || !strings.Contains(c.Hint, "synchronize the clocks") || report.Status != Critical {
		t.Errorf("%s: %+v", report.Status, c)
	}
}
