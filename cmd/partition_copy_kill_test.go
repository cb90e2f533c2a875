package cmd

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/pgtest"
)

// copyKilled kills a drain or split at random moments, each time on a table of its own, with traffic, and runs it again.
func copyKilled(t *testing.T, times, rows int, partition string, args ...string) {
	t.Helper()
	url := pgtest.Empty(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	var limit time.Duration
	for i := range times + 1 {
		table := fmt.Sprintf(`"T %d"`, i)
		named := func(text string) string { return strings.ReplaceAll(text, "$T", table[1:len(table)-1]) }
		for _, sql := range []string{
			`CREATE TABLE "$T" (id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz NOT NULL, who text, PRIMARY KEY (at, id)) PARTITION BY RANGE (at)`,
			`CREATE TABLE "$T part" PARTITION OF "$T" ` + partition,
			fmt.Sprintf(`INSERT INTO "$T" (at, who) SELECT timestamptz '2026-05-01+00' + g * interval '4 months' / %d, g FROM generate_series(1, %d) g`, rows, rows),
		} {
			if _, err := conn.Exec(t.Context(), named(sql)); err != nil {
				t.Fatal(sql, err)
			}
		}
		run := make([]string, len(args))
		for i, a := range args {
			run[i] = named(a)
		}
		if i == 0 { // how long it takes
			started := time.Now()
			finish(t, url, run...)
			limit = time.Since(started)
			continue
		}
		x := startTraffic(t, url, named(`INSERT INTO "$T" (at) VALUES ('2026-06-15+00')`), named(`SELECT count(*) FROM "$T"`), int64(rows))
		killed(t, url, limit, run...)
		var done bool // the kill came too late
		if err := conn.QueryRow(t.Context(), named(`SELECT to_regclass('"$T part"') IS NULL`)).Scan(&done); err != nil {
			t.Fatal(err)
		}
		if !done {
			finish(t, url, run...)
		}
		want := x.end()
		var n, ids int64
		var left, parts int
		if err := conn.QueryRow(t.Context(), named(`SELECT count(*), count(DISTINCT id), (SELECT count(*) FROM pg_class WHERE relname LIKE 'auditdb%') + (SELECT count(*) FROM pg_constraint WHERE conname LIKE 'auditdb%')
  + (SELECT count(*) FROM pg_proc WHERE proname LIKE 'auditdb%') + (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'auditdb%'), (SELECT count(*) FROM pg_inherits WHERE inhparent = '"$T"'::regclass) FROM "$T"`)).Scan(&n, &ids, &left, &parts); err != nil {
			t.Fatal(err)
		}
		if n < want || n > want+1 || ids != n || left != 0 || parts < 4 {
			t.Errorf("%s: %d rows with %d ids instead of %d, %d leftovers, %d partitions", table, n, ids, want, left, parts)
		}
		cmd, out := auditdb(t, url, "partition", "check", table, "-o", "json")
		if _ = cmd.Wait(); strings.Contains(out.String(), `"orphan"`) { // the runway is a problem of this table
			t.Errorf("%s: %s", table, out)
		}
	}
}

func drainKilled(t *testing.T, times, rows int) {
	t.Helper()
	copyKilled(t, times, rows, "DEFAULT", "partition", "drain", `"$T"`)
}

func splitKilled(t *testing.T, times, rows int) {
	t.Helper()
	copyKilled(t, times, rows, "FOR VALUES FROM ('2026-05-01+00') TO ('2026-09-15+00')", "partition", "split", `"$T part"`, "--interval", "monthly")
}

func TestDrainKilled(t *testing.T) {
	t.Parallel()
	drainKilled(t, 3, 12_000)
}

func TestSplitKilled(t *testing.T) {
	t.Parallel()
	splitKilled(t, 3, 12_000)
}
