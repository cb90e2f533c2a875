package cmd

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"auditdb/internal/pgtest"
)

// A store without room for an archive keeps the partition; with room the next run archives and removes it. As root the store is a file system of
// its own that is full, otherwise files may not become larger.
func TestRetentionStoreFull(t *testing.T) {
	t.Parallel()
	store := filepath.Join(t.TempDir(), "store")
	if err := os.Mkdir(store, 0o700); err != nil {
		t.Fatal(err)
	}
	p := processes(t, pgtest.DB(t), "AUDITDB_ARCHIVE_URL="+store, "PATH="+os.Getenv("PATH"))
	p.must("partition", "create", "--from", "2022-01", "--to", "2022-02")
	p.exec(`INSERT INTO audit_log (timestamp, action, status, correlation_id) SELECT '2022-01-01Z'::timestamptz + i * interval '1 minute', 'read', 'ok', md5(i::text) FROM generate_series(1, 20000) i`)
	p.must("retention", "policy", "set", "--keep", "1y", "--min-keep", "0", "--yes")
	run := []string{"retention", "run", "--yes", "--allow-remove-all"}
	full := func() *exec.Cmd {
		c, _, _ := p.command(t.Context(), run...)
		limited := exec.CommandContext(t.Context(), "bash", append([]string{"-c", `ulimit -f 64; exec "$0" "$@"`, p.path}, run...)...)
		limited.Env = c.Env
		return limited
	}
	room := func() {}
	if mount := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", store); os.Geteuid() == 0 && mount.Run() == nil {
		away := context.WithoutCancel(t.Context())
		t.Cleanup(func() { _ = exec.CommandContext(away, "umount", "-l", store).Run() }) // it is gone by then, unless the test failed
		room = func() {
			if out, err := exec.CommandContext(t.Context(), "umount", store).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		full = func() *exec.Cmd { c, _, _ := p.command(t.Context(), run...); c.Stdout, c.Stderr = nil, nil; return c }
	}
	c := full()
	out, err := c.CombinedOutput()
	if err == nil || c.ProcessState.ExitCode() != 3 || !strings.Contains(string(out), "no space left") && !strings.Contains(string(out), "file too large") {
		t.Errorf("exit %d: %s", c.ProcessState.ExitCode(), out)
	}
	if rows, archives := p.scan("SELECT count(*) FROM audit_log"), p.scan("SELECT count(*) FROM auditdb.archive"); rows != "20000" || archives != "0" {
		t.Errorf("%s rows, %s archives", rows, archives)
	}
	room()
	p.must(run...)
	if rows, archives := p.scan("SELECT count(*) FROM audit_log"), p.scan("SELECT sum(rows) FROM auditdb.archive"); rows != "0" || archives != "20000" {
		t.Errorf("afterwards: %s rows, %s archived", rows, archives)
	}
	p.must("verify-integrity", "--archives")
}
