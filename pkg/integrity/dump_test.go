package integrity

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"auditdb/internal/pgtest"
)

// A dump that was restored elsewhere verifies, findings included.
func TestDumpAndRestore(t *testing.T) {
	t.Parallel()
	f, first := filled(t)
	dir, file := pgtest.Shared(t).BinDir(), filepath.Join(t.TempDir(), "dump")
	if _, err := os.Stat(filepath.Join(dir, "pg_dump")); err != nil {
		t.Skipf("this build of PostgreSQL comes without pg_dump: %v", err)
	}
	run := func(program string, args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), filepath.Join(dir, program), args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", program, err, out)
		}
	}
	restored := func() *fixture {
		url := pgtest.Empty(t)
		run("pg_dump", "-Fc", "-f", file, f.db.Pool().Config().ConnString())
		run("pg_restore", "-d", url, file)
		g := *f
		g.db = openDB(t, url)
		return &g
	}
	if r := restored().clean(); r.RowsChecked != 230 {
		t.Error(r.RowsChecked)
	}
	f.exec("UPDATE public.audit_log SET ttl = 'x' WHERE id = 1 OR action = 'x'")
	if r := restored().verify(); r.OK || *r.Findings[0].RowID != 1 {
		t.Error(first, r.text())
	}
}
