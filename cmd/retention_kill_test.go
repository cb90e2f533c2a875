package cmd

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/pgtest"
)

// retentionKilled kills retention runs at random moments, and right after each kind of step. At every moment each row is in the table, or in an archive
// that reads back; the last run leaves what an undisturbed one would.
func retentionKilled(t *testing.T, times int) {
	t.Helper()
	url := pgtest.DB(t)
	p := processes(t, url)
	p.env = append(p.env, "AUDITDB_ARCHIVE_URL="+filepath.Join(t.TempDir(), "store"))
	p.must("partition", "create", "--from", "2022-01", "--to", "2023-01")
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	for _, sql := range []string{
		`INSERT INTO audit_log (timestamp, action, status, details) SELECT m + i * interval '1 minute', 'read', 'ok', jsonb_build_object('i', i)
			FROM generate_series('2022-01-01Z'::timestamptz, '2022-12-01Z', '1 month') m, generate_series(1, 500) i`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	p.must("integrity", "seal")
	p.must("retention", "policy", "set", "--keep", "1y", "--max-drop", "100", "--yes")
	safe := func() {
		t.Helper()
		var months int
		err := conn.QueryRow(t.Context(), `
SELECT count(*) FROM generate_series('2022-01-01Z'::timestamptz, '2022-12-01Z', '1 month') m
WHERE (SELECT count(*) FROM audit_log WHERE timestamp >= m AND timestamp < m + interval '1 month') <> 500
  AND NOT EXISTS (SELECT FROM pg_class WHERE relname = 'audit_log_' || to_char(m, 'YYYY_MM'))
  AND NOT EXISTS (SELECT FROM auditdb.archive WHERE part_from = m AND rows = 500 AND verified_at IS NOT NULL)`).Scan(&months)
		if err != nil {
			t.Fatal(err)
		}
		if months > 0 {
			t.Fatalf("rows of %d months are neither in a table nor in an archive", months)
		}
	}
	args := []string{"retention", "run", "--yes", "--wait", "60s"}
	for range times {
		cmd, _, _ := p.command(t.Context(), args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.NewTimer(time.Duration(rand.Int64N(int64(900 * time.Millisecond))))
		<-timer.C
		_ = cmd.Process.Kill() // it may have come to its end
		_ = cmd.Wait()
		safe()
	}
	p.must(append(args, "--allow-remove-all")...)
	safe()
	if code, text := p.run(t.Context(), "retention", "archive", "verify"); code != 0 {
		t.Errorf("exit %d: %s", code, text)
	}
	if code, text := p.run(t.Context(), "verify-integrity"); code != 0 {
		t.Errorf("exit %d: %s", code, text)
	}
	var left int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_partition_tree('audit_log') WHERE isleaf AND relid::text LIKE 'audit_log_2022%'").Scan(&left); err != nil || left > 1 {
		t.Errorf("%d partitions are left, %v", left, err)
	}
	if code, text := p.run(t.Context(), append(args, "-o", "json")...); code != 0 || strings.Contains(text, `"step": "archive"`) {
		t.Errorf("a second run does something: exit %d: %s", code, text)
	}
}

func TestRetentionKilled(t *testing.T) {
	t.Parallel()
	retentionKilled(t, 6)
}
