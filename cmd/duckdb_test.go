//go:build duckdb

package cmd

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"auditdb/internal/pgtest"
)

// fingerprint is, in the words of both servers, one number and digest over ids, times, and the exact texts of documents and of what is NULL or empty.
const fingerprint = `SELECT count(*)::text AS n, sum(id)::text AS ids,
  md5(string_agg(id::text || '|' || epoch || '|' || coalesce(details, '~') || '|' || coalesce(principal_id, '~') || '|' || status, chr(10) ORDER BY id)) AS digest`

// Another engine reads the tree of archives: rows and texts are what they were.
func TestDuckDBReadsArchives(t *testing.T) {
	t.Parallel()
	store := filepath.Join(t.TempDir(), "store")
	p := processes(t, pgtest.DB(t), "AUDITDB_ARCHIVE_URL="+store)
	p.must("partition", "create", "--from", "2022-01", "--to", "2022-04")
	p.exec(`INSERT INTO audit_log (timestamp, action, status, principal_id, details) SELECT m + i * interval '1 minute 0.000001 second', 'read', CASE WHEN i % 5 = 0 THEN '' ELSE 'ok' END,
		CASE WHEN i % 3 = 0 THEN NULL ELSE 'u-' || i % 50 END,
		CASE WHEN i % 7 = 0 THEN NULL ELSE jsonb_build_object('n', i, 'd', 1.500, 'big', 12345678901234567890.123456789, 't', E'\u00e9\U0001F600\n"\\', 'a', '[1, null, {"b": []}]'::jsonb) END
		FROM generate_series('2022-01-01Z'::timestamptz, '2022-03-01Z', '1 month') m, generate_series(1, 20000) i`)
	p.must("integrity", "seal")
	for _, month := range []string{"01", "02", "03"} {
		p.must("retention", "archive", "create", "audit_log_2022_"+month)
	}
	for _, where := range []string{"true", "dt = '2022-02-01'"} {
		sql := `SELECT n || ' ' || ids || ' ' || digest FROM (` + fingerprint + ` FROM (SELECT id, epoch_us("timestamp")::text AS epoch, details::VARCHAR AS details, principal_id, status
			FROM read_parquet('` + store + `/*/*/*/*.parquet', hive_partitioning = true) WHERE "schema" = 'public' AND "table" = 'audit_log' AND ` + where + `)) r`
		out, err := exec.CommandContext(t.Context(), "node", "../tools/duckdb/query.mjs", sql).Output()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var rows [][]string
		if err := json.Unmarshal(out, &rows); err != nil {
			t.Fatal(err)
		}
		pruned := strings.ReplaceAll(where, "dt = '2022-02-01'", "timestamp >= '2022-02-01Z' AND timestamp < '2022-03-01Z'")
		want := p.scan(`SELECT n || ' ' || ids || ' ' || digest FROM (` + fingerprint + ` FROM (SELECT id, (extract(epoch FROM timestamp) * 1000000)::bigint::text AS epoch, details::text, principal_id, status
			FROM audit_log WHERE ` + pruned + `) s) r`)
		if len(rows) != 1 || !slices.Equal(rows[0], []string{want}) {
			t.Errorf("%s: DuckDB has %v, PostgreSQL %s", where, rows, want)
		}
		t.Logf("%s: %s", where, want)
	}
}
