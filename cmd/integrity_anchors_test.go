package cmd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/pgtest"
)

// While a run goes on, its anchors get what it has appended.
func TestAnchorsAreKeptUp(t *testing.T) {
	t.Parallel()
	url := pgtest.DB(t)
	p := processes(t, url)
	anchor := filepath.Join(t.TempDir(), "anchor")
	p.must("partition", "create", "--from", "2024-01", "--to", "2024-02")
	code, _, stderr := run(t, func(app *App, cmd *cobra.Command) error {
		app.Config.Integrity.Anchors = []string{"file://" + anchor}
		db, err := app.Postgres(cmd.Context(), "ingest")
		if err != nil {
			return err
		}
		stop := app.keepAnchored(cmd.Context(), db, 5*time.Millisecond)
		defer stop()
		for events := 1; events <= 2; events++ {
			p.must("ingest", writeEvents(t, events))
			size := p.scan("SELECT max(size) FROM auditdb.checkpoint")
			for cmd.Context().Err() == nil {
				text, _ := os.ReadFile(anchor)
				if strings.Contains(string(text), "\n"+size+"\n") {
					break
				}
			}
		}
		return cmd.Context().Err()
	}, "--database-url", url, "--timeout", "60s")
	if code != 0 || stderr != "" {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

// writeEvents makes a file of n events in January 2024.
func writeEvents(t *testing.T, n int) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "events.ndjson")
	text := strings.Repeat(`{"timestamp":"2024-01-05T00:00:00Z","action":"a","status":"s"}`+"\n", n)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
