//go:build bench

package bench

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/embedded"
)

// healthPartitions are how many partitions the tables have that all checks look at: memory has to be the same.
var healthPartitions = []int{1_000, 10_000}

// health looks at a small database, and with all checks at tables of many partitions: how long the process takes, its memory, how many connections it
// has at once, and what it writes. The server is one of its own that counts statements.
func (b *bench) health() []row {
	shared := b.pg
	defer func() { b.pg = shared }()
	var err error
	b.pg, err = embedded.StartPostgres(context.Background(), embedded.Options{Settings: map[string]string{
		"shared_buffers": "512MB", "max_wal_size": "8GB", "autovacuum_naptime": "1d", "shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track": "all",
		"max_locks_per_transaction": "256",
	}})
	b.check(err)
	defer func() { _ = b.pg.Stop(context.Background()) }()
	b.withLog("small")
	b.must(b.cmd("small", "partition", "create"))
	now := time.Now().UTC().Truncate(24 * time.Hour)
	for _, n := range healthPartitions {
		name := fmt.Sprintf("wide%d", n)
		b.withLog(name)
		b.must(b.cmd(name, "partition", "create", "public.audit_log", "--interval", "daily", "--from", now.AddDate(0, 0, 100-n).Format(time.DateOnly), "--to", now.AddDate(0, 0, 100).Format(time.DateOnly)))
		b.sql(name, "VACUUM (FREEZE, ANALYZE)")
	}
	b.sql("small", "VACUUM (FREEZE, ANALYZE)")
	b.sql("postgres", "CHECKPOINT")
	rows := b.healthOf("small", "a small database", "<= 300 ms")
	for _, n := range healthPartitions {
		rows = append(rows, b.healthOf(fmt.Sprintf("wide%d", n), fmt.Sprintf("%d partitions, all checks", n), "<= 3 s, < 60 MB, <= 3 connections, 0 bytes", "--deep")...)
	}
	return rows
}

// withLog makes a database that has auditdb's schema and counts statements.
func (b *bench) withLog(name string) {
	b.t.Helper()
	b.sql("postgres", "CREATE DATABASE "+name)
	b.must(b.cmd(name, "migrate", "up"))
	b.sql(name, "CREATE EXTENSION pg_stat_statements")
}

// healthOf measures health in a database some times. What is not well there does not matter, as long as it is answered.
func (b *bench) healthOf(database, what, bar string, args ...string) []row {
	b.t.Helper()
	command := func() []string {
		c := b.cmd(database, append([]string{"health", "--fail-on", "critical"}, args...)...)
		return c.Args
	}
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, b.pg.URL("postgres"))
	b.check(err)
	defer func() { _ = conn.Close(ctx) }()
	var runs []run
	most := 0
	b.sql(database, "SELECT pg_stat_statements_reset()")
	before := b.ask("postgres", "SELECT pg_current_wal_insert_lsn()")
	for range b.rounds {
		var over atomic.Bool
		peak := make(chan int)
		go func() {
			at := 0
			for !over.Load() {
				var n int
				if err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name = 'auditdb/health'").Scan(&n); err != nil {
					n = -1
				}
				at = max(at, n)
			}
			peak <- at
		}()
		c := b.cmd(database, command()[1:]...)
		runs = append(runs, b.measure(c))
		over.Store(true)
		most = max(most, <-peak)
	}
	wrote := b.ask("postgres", "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '"+before+"')")
	statements := b.ask(database, "SELECT count(*) FILTER (WHERE wal_bytes > 0) || ' of ' || count(*) FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = current_database()")
	var walls []string
	for _, r := range runs {
		walls = append(walls, fmt.Sprintf("%.0f", 1000*wallSeconds(r)))
	}
	return []row{{
		"health, " + what, fmt.Sprintf("%.0f ms (%s), %.0f MB, %d connections, WAL %s bytes, %s statements wrote", 1000*median(runs, wallSeconds), strings.Join(walls, " "), median(runs, peakMB), most, wrote, statements), "", "", bar,
	}}
}
