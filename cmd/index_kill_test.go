package cmd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/pgtest"
)

// advice asks for two indexes, one of them on an expression.
const advice = `{"recommendations": [
 {"action": "create", "ddl": "CREATE INDEX \"ev_who\" ON \"public\".\"ev\" USING \"btree\" (\"who\", \"at\" DESC)",
  "definition": {"schema": "public", "table": "ev", "name": "ev_who", "method": "btree", "keys": [{"column": "who"}, {"column": "at", "descending": true}]}},
 {"action": "create", "ddl": "CREATE INDEX \"ev_lower\" ON \"public\".\"ev\" USING \"btree\" ((lower(who)))",
  "definition": {"schema": "public", "table": "ev", "name": "ev_lower", "method": "btree", "keys": [{"expression": "lower(who)"}]}}]}`

// madeSQL is all indexes of the table as they are at the end, with what they are attached to.
const madeSQL = `SELECT string_agg(format('%s %s %s', pg_get_indexdef(i.indexrelid), i.indisvalid, h.inhparent::regclass), E'\n' ORDER BY i.indexrelid::regclass::text)
FROM pg_partition_tree('ev') t JOIN pg_index i ON i.indrelid = t.relid LEFT JOIN pg_inherits h ON h.inhrelid = i.indexrelid`

// indexKilled kills an apply on 24 partitions several times while four clients insert, then finishes it: the indexes are those of an
// undisturbed run. It returns what there is.
func indexKilled(t *testing.T, kills, rows int, limit time.Duration) string {
	t.Helper()
	url := pgtest.Empty(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	_, err = conn.Exec(t.Context(), fmt.Sprintf(`CREATE TABLE ev (id bigint, at timestamptz NOT NULL, who text) PARTITION BY RANGE (at);
DO $$ BEGIN FOR m IN 0..23 LOOP EXECUTE format('CREATE TABLE ev_%%s PARTITION OF ev FOR VALUES FROM (%%L) TO (%%L)', m, timestamptz '2025-01-01Z' + m * interval '1 month', timestamptz '2025-01-01Z' + (m + 1) * interval '1 month'); END LOOP; END $$;
INSERT INTO ev SELECT n, timestamptz '2025-01-01Z' + n %% 700 * interval '1 day', 'w' || n %% 999 FROM generate_series(1, %d) n; ANALYZE ev`, rows))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "advice.json")
	if err := os.WriteFile(file, []byte(advice), 0o600); err != nil {
		t.Fatal(err)
	}
	var all []*traffic
	for n := range 4 {
		all = append(all, startTraffic(t, url, fmt.Sprintf("INSERT INTO ev VALUES (1, timestamptz '2025-01-01Z' + (random() * 700) * interval '1 day', 'live %d')", n), "SELECT 1000000000", 0))
	}
	for range kills {
		killed(t, url, limit, "index", "apply", "--from", file)
	}
	finish(t, url, "index", "apply", "--from", file)
	for _, x := range all {
		if x.end() == 0 {
			t.Error("nobody inserted")
		}
	}
	var made string
	if err := conn.QueryRow(t.Context(), madeSQL).Scan(&made); err != nil {
		t.Fatal(err)
	}
	return made
}

func TestIndexApplyKilled(t *testing.T) {
	t.Parallel()
	want := indexKilled(t, 0, 10_000, 0)
	if got := indexKilled(t, 3, 10_000, time.Second); got != want {
		t.Errorf("killed:\n%s\nundisturbed:\n%s", got, want)
	}
}
