package cmd

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/pgtest"
)

// lineCount counts lines and keeps none.
type lineCount int

func (n *lineCount) Write(p []byte) (int, error) {
	*n += lineCount(bytes.Count(p, []byte("\n")))
	return len(p), nil
}

// A stream of sixteen times as many rows takes no more memory.
func TestStreamsTakeConstantMemory(t *testing.T) {
	t.Parallel()
	url := pgtest.DB(t)
	finish(t, url, "partition", "create", "--from", "2026-01", "--to", "2026-05")
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Exec(t.Context(), `INSERT INTO public.audit_log ("timestamp", action, status, details) SELECT '2026-01-01Z'::timestamptz + n * interval '1 minute', 'a', 's', jsonb_build_object('n', n, 'text', repeat('x', 300))
FROM generate_series(1, 80000) n`)
	if err := errors.Join(err, conn.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	peak := map[string]int64{}
	for limit, want := range map[string]lineCount{"5000": 5000, "0": 80_000} {
		for _, format := range []string{"ndjson", "csv"} {
			c := exec.CommandContext(t.Context(), "auditdb", "query", "--quiet", "--limit", limit, "-o", format)
			c.Env = append(os.Environ(), "DATABASE_URL="+url, "HOME="+t.TempDir())
			var lines lineCount
			c.Stdout, c.Stderr = &lines, os.Stderr
			if err := c.Run(); err != nil {
				t.Fatal(err)
			}
			if format == "csv" {
				lines-- // the header
			}
			if lines != want {
				t.Errorf("%s: %d lines, want %d", format, lines, want)
			}
			usage, _ := c.ProcessState.SysUsage().(*syscall.Rusage)
			peak[format+limit] = usage.Maxrss
		}
	}
	t.Log(peak)
	for _, format := range []string{"ndjson", "csv"} {
		if few, many := peak[format+"5000"], peak[format+"0"]; many > few+few/2 {
			t.Errorf("%s: 5,000 rows take %d kB, 80,000 take %d", format, few, many)
		}
	}
}
