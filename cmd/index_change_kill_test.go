package cmd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/pgtest"
)

// changes are one index to rebuild and one to drop, of a table without partitions.
const changes = `{"recommendations": [
 {"action": "reindex", "evidence": "estimate", "ddl": "REINDEX INDEX CONCURRENTLY \"public\".\"t_a\"", "definition": {"schema": "public", "table": "t", "name": "t_a", "method": "btree", "keys": [{"column": "a"}]}},
 {"action": "drop", "evidence": "usage statistics", "ddl": "DROP INDEX \"public\".\"t_b\"",
  "definition": {"schema": "public", "table": "t", "name": "t_b", "method": "btree", "keys": [{"column": "b", "descending": true}], "include": ["a"], "predicate": "(a > 1)"}}]}`

// Killed while PostgreSQL waits within REINDEX or DROP INDEX CONCURRENTLY, whether the server's process goes on or ends with it, the next run
// finishes: no invalid index stays, and what undoes both runs makes the dropped index again.
func TestIndexChangeKilled(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ blocker, statement, only string }{
		"reindex, a writer":   {"BEGIN; INSERT INTO t VALUES (1, 1)", "REINDEX", "reindex"},
		"reindex, a snapshot": {"BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1", "REINDEX", "reindex"},
		"reindex, a reader":   {"BEGIN; SELECT count(*) FROM t", "REINDEX", "reindex"},
		"drop, a reader":      {"BEGIN; SELECT count(*) FROM t", "DROP", "drop"},
	} {
		for _, ends := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, the server's process ends %v", name, ends), func(t *testing.T) {
				t.Parallel()
				k := changeKilled(t, c.blocker, c.statement, c.only, ends)
				k.finish(ends)
				k.check(c.only)
			})
		}
	}
}

type killedChange struct {
	*testing.T

	url  string
	args []string
	conn *pgx.Conn // looks on
	old  *pgx.Conn // is waited for
}

func changeKilled(t *testing.T, blocker, statement, only string, ends bool) *killedChange {
	t.Helper()
	k := &killedChange{T: t, url: pgtest.Empty(t)}
	k.conn, k.old = k.connect(), k.connect()
	k.exec(k.conn, "CREATE TABLE t (a int, b int); INSERT INTO t SELECT n, n FROM generate_series(1, 5000) n; CREATE INDEX t_a ON t (a); CREATE INDEX t_b ON t (b DESC) INCLUDE (a) WHERE a > 1; ANALYZE t")
	file := filepath.Join(t.TempDir(), "changes.json")
	if err := os.WriteFile(file, []byte(changes), 0o600); err != nil {
		t.Fatal(err)
	}
	k.args = []string{"index", "apply", "--yes", "--from", file, "--only", only, "--undo", filepath.Join(t.TempDir(), "undo.sql")}
	k.exec(k.old, blocker)
	cmd, out := auditdb(t, k.url, k.args...)
	pid := k.waiting(statement)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if cmd.Wait() == nil {
		t.Fatalf("it came to its end: %s", out)
	}
	if ends {
		k.exec(k.conn, fmt.Sprintf("SELECT pg_terminate_backend(%d)", pid))
		k.until(fmt.Sprintf("SELECT count(*)::int FROM pg_stat_activity WHERE pid = %d", pid), func(n int) bool { return n == 0 })
	}
	return k
}

func (k *killedChange) connect() *pgx.Conn {
	k.Helper()
	conn, err := pgx.Connect(k.Context(), k.url)
	if err != nil {
		k.Fatal(err)
	}
	k.Cleanup(func() { _ = conn.Close(context.WithoutCancel(k.Context())) })
	return conn
}

func (k *killedChange) exec(conn *pgx.Conn, sql string) {
	k.Helper()
	if _, err := conn.Exec(k.Context(), sql); err != nil {
		k.Fatalf("%s: %v", sql, err)
	}
}

// until asks again and again until the number is as wanted.
func (k *killedChange) until(sql string, wanted func(int) bool) (n int) {
	k.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end); <-tick.C {
		if err := k.conn.QueryRow(k.Context(), sql).Scan(&n); err != nil {
			k.Fatalf("%s: %v", sql, err)
		}
		if wanted(n) {
			return n
		}
	}
	k.Fatalf("%s: still %d", sql, n)
	return n
}

// waiting is the server's process that waits for a lock in such a statement.
func (k *killedChange) waiting(statement string) (pid int) {
	k.Helper()
	return k.until(fmt.Sprintf("SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%s INDEX CONCURRENTLY%%' AND wait_event_type = 'Lock'", statement), func(pid int) bool { return pid > 0 })
}

// finish runs it again. Where the first one's process goes on in the server, the second run begins beside it.
func (k *killedChange) finish(ended bool) {
	k.Helper()
	if ended {
		k.exec(k.old, "COMMIT")
		finish(k.T, k.url, k.args...)
		return
	}
	cmd, out := auditdb(k.T, k.url, k.args...)
	k.until("SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'auditdb/index.apply' AND state = 'idle'", func(n int) bool { return n > 0 })
	k.exec(k.old, "COMMIT")
	if err := cmd.Wait(); err != nil {
		k.Errorf("beside the first one: %v\n%s", err, out)
	}
	k.until("SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND query ~ '^(REINDEX|DROP) INDEX CONC' AND state = 'active'", func(n int) bool { return n == 0 })
}

func (k *killedChange) check(only string) {
	k.Helper()
	want := "CREATE INDEX t_a ON public.t USING btree (a)"
	if only == "reindex" {
		want += "\nCREATE INDEX t_b ON public.t USING btree (b DESC) INCLUDE (a) WHERE (a > 1)"
	}
	list := func() (made string, invalid int) {
		err := k.conn.QueryRow(k.Context(), "SELECT string_agg(pg_get_indexdef(indexrelid), E'\\n' ORDER BY indexrelid::regclass::text), count(*) FILTER (WHERE NOT indisvalid)::int FROM pg_index WHERE indrelid = 't'::regclass").Scan(&made, &invalid)
		if err != nil {
			k.Fatal(err)
		}
		return made, invalid
	}
	if made, invalid := list(); made != want || invalid != 0 {
		k.Errorf("%d invalid, and there is\n%s", invalid, made)
	}
	if only == "reindex" {
		return
	}
	undo, err := os.ReadFile(k.args[len(k.args)-1])
	if err != nil {
		k.Fatal(err)
	}
	for _, statement := range strings.Split(string(undo), ";\n") {
		k.exec(k.conn, statement)
	}
	if made, _ := list(); made != want+"\nCREATE INDEX t_b ON public.t USING btree (b DESC) INCLUDE (a) WHERE (a > 1)" {
		k.Errorf("undone with %s:\n%s", undo, made)
	}
}
