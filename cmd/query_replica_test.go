package cmd

import (
	"os"
	"os/exec"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/tidwall/gjson"

	"auditdb/internal/embedded"
	"auditdb/internal/pgtest"
)

// Rows come from a real standby that has everything; --fresh and a standby that is paused or gone leave it to the primary. Nothing is missing.
func TestQueryReadsFromReplicas(t *testing.T) {
	t.Parallel()
	primary := pgtest.Server(t)
	standby, caughtUp := pgtest.Standby(t, primary)
	url := primary.URL(embedded.Superuser)
	pgtest.Migrate(t, url)
	finish(t, url, "partition", "create", "--from", "2026-01", "--to", "2026-02")
	rows := 0
	insert := func() {
		t.Helper()
		on(t, url, `INSERT INTO public.audit_log ("timestamp", action, status) VALUES ('2026-01-05Z', 'a', 's')`)
		rows++
	}
	insert()
	caughtUp()
	ask := func(args ...string) string {
		t.Helper()
		c := exec.CommandContext(t.Context(), "auditdb", append([]string{"query", "-o", "json"}, args...)...)
		c.Env = append(os.Environ(), "DATABASE_URL="+url, "AUDITDB_DATABASE_REPLICAS="+standby.URL(embedded.Superuser), "HOME="+t.TempDir())
		out, err := c.Output()
		if err != nil {
			t.Fatal(err)
		}
		doc := gjson.ParseBytes(out)
		if n := doc.Get("rows.#").Int(); n != int64(rows) {
			t.Errorf("query %v: %d rows from %s, want %d", args, n, doc.Get("source"), rows)
		}
		return doc.Get("source").String()
	}
	want := func(source string, args ...string) {
		t.Helper()
		got := ask(args...)
		for try := 0; try < 20 && source == "replica" && got != source; try++ { // a busy machine's standby may need more than the router's patience
			got = ask(args...)
		}
		if got != source {
			t.Errorf("query %v: from %s, want %s", args, got, source)
		}
	}
	want("replica")
	want("replica", "--explain")
	want("primary", "--fresh")
	insert()
	caughtUp()
	want("replica")
	on(t, standby.URL(embedded.Superuser), "SELECT pg_wal_replay_pause()")
	insert()
	want("primary")
	on(t, standby.URL(embedded.Superuser), "SELECT pg_wal_replay_resume()")
	caughtUp()
	want("replica")
	if err := standby.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	want("primary")
}

// on runs a statement.
func on(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}
