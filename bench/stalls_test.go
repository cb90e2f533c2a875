//go:build bench

package bench

import (
	"fmt"
	"strings"
	"time"
)

const (
	twelve     = 12     // partitions that are made or pruned
	perMonth   = 10_000 // rows in each partition that is there before
	insertSQL  = "INSERT INTO public.events (ts, actor, detail) VALUES ($1, 'somebody', '{}')"
	auditSQL   = `INSERT INTO public.audit_log ("timestamp", action, status, principal_id) VALUES ($1, 'login', 'ok', 'somebody')`
	partmanSQL = "SELECT partman.run_maintenance('public.events', p_analyze := false)"
)

// month is the first moment of the month n months from now.
func month(n int) time.Time {
	now := time.Now().UTC()
	return time.Date(now.Year(), now.Month()+time.Month(n), 1, 0, 0, 0, 0, time.UTC)
}

// fill inserts rows evenly over [from, to).
func fill(table, columns, values string, from, to time.Time, rows int) string {
	step := to.Sub(from) / time.Duration(max(rows, 1))
	return fmt.Sprintf("INSERT INTO %s (%s) SELECT timestamptz '%s' + n * interval '%d microseconds', %s FROM generate_series(0, %d) n;\n",
		table, columns, from.Format(time.RFC3339), step.Microseconds(), values, rows-1)
}

func fillEvents(from, to time.Time, rows int) string {
	return fill("public.events", "ts, actor, detail", `'actor ' || n % 997, jsonb_build_object('n', n)`, from, to, rows)
}

// makeBusy makes the databases that stalls are measured in: tables with 12 partitions that have expired, last month's and this month's.
// pg_partman makes its own.
func (b *bench) makeBusy() {
	old := spans(month(-13), 14, 1, 0)
	b.sql("postgres", "CREATE DATABASE busy_events")
	b.must(b.psqlFile("busy_events", b.write("busy.sql", eventsSQL+";\n"+partitionOf("public.events", old)+fillEvents(month(-13), month(0), 13*perMonth)+"VACUUM ANALYZE")))

	b.sql("postgres", "CREATE DATABASE busy_audit TEMPLATE template_audit")
	b.must(b.cmd("busy_audit", "partition", "create", "--from", month(-13).Format(time.RFC3339), "--to", month(1).Format(time.RFC3339)))
	b.must(b.psqlFile("busy_audit", b.write("busy.sql", fill("public.audit_log", `"timestamp", action, status, principal_id`,
		`'login', 'ok', 'actor ' || n % 997`, month(-13), month(0), 13*perMonth)+"VACUUM ANALYZE")))

	if !b.hasPartman() {
		return
	}
	b.sql("postgres", "CREATE DATABASE busy_partman")
	b.must(b.psqlFile("busy_partman", b.write("busy.sql", eventsSQL+partmanParent(-13)+fillEvents(month(-13), month(0), 13*perMonth)+"VACUUM ANALYZE")))
}

// partmanParent lets pg_partman manage the table from the month on.
func partmanParent(first int) string {
	return ";\nCREATE SCHEMA partman;\nCREATE EXTENSION pg_partman SCHEMA partman;\n" +
		"SELECT partman.create_parent('public.events', 'ts', 'native', 'monthly', p_premake := 1, p_start_partition := '" + month(first).Format(time.DateOnly) + "');\n"
}

// stalls measures what inserting clients notice while 12 partitions are made and pruned and one reader's transaction stays open.
func (b *bench) stalls() []row {
	b.busy()
	w := workload{hold: "SELECT count(*) FROM %s", held: b.reader}
	wait := (b.reader + time.Minute).String()
	events := contender{template: "busy_events", table: "public.events"}
	audit := contender{template: "busy_audit", table: "public.audit_log"}
	partman := contender{template: "busy_partman", table: "public.events"}

	rows := b.race("nothing done", "", w, []contender{events.by("control", nothing(min(b.reader, 10*time.Second)))})
	rows = append(rows, b.race("create 12", "insert ≤ 25 ms", w, []contender{
		events.by("auditdb", b.ours("partition", "create", "public.events", "--ahead", "12", "--wait", wait)),
		audit.by("auditdb, audit_log", b.ours("partition", "create", "--ahead", "12", "--wait", wait)),
		events.by("PARTITION OF", b.raw(partitionOf("public.events", spans(month(1), twelve, 1, 0)))),
		partman.by("pg_partman", b.byPartman(partmanSQL)).after("DROP TABLE public.events_default; UPDATE partman.part_config SET premake = 13"),
	})...)
	var drop strings.Builder
	for _, s := range spans(month(-13), twelve, 1, 0) {
		fmt.Fprintf(&drop, "DROP TABLE %s;\n", s.name("public.events"))
	}
	prune := []string{"--older-than", month(-1).Format(time.RFC3339), "--yes", "--wait", wait}
	return append(rows, b.race("prune 12", "insert ≤ 110 ms, 0 pending", w, []contender{
		events.by("auditdb", b.ours(append([]string{"partition", "prune", "public.events"}, prune...)...)),
		audit.by("auditdb, audit_log", b.ours(append([]string{"partition", "prune"}, prune...)...)),
		events.by("DROP TABLE", b.raw(drop.String())),
		partman.by("pg_partman", b.byPartman(partmanSQL)).after("DROP TABLE public.events_default; UPDATE partman.part_config SET retention = '1 month', retention_keep_table = false"),
	})...)
}

// withDefault measures the same, and what a reader notices, where the table has a default partition with rows of years ago, which keep
// coming: ATTACH locks it, so that nobody can do without waiting for the open transaction.
func (b *bench) withDefault() []row {
	b.busy()
	w := workload{read: "SELECT 1 FROM %s LIMIT 1", old: month(-40)}
	rows := fillEvents(month(-48), month(-36), b.rows) + "; VACUUM ANALYZE"
	addDefault := "CREATE TABLE public.events_default PARTITION OF public.events DEFAULT;\n"
	events := contender{template: "busy_events", table: "public.events"}.after(addDefault + rows)
	ours := b.ours("partition", "create", "public.events", "--ahead", "12", "--wait", (b.reader + time.Minute).String())
	what := fmt.Sprintf("create 12 beside a default of %d rows", b.rows)
	bar := "insert, read ≤ 110 ms"
	out := b.race(what, bar, w, []contender{
		events.by("control", nothing(min(b.reader, 10*time.Second))),
		events.by("auditdb", ours),
		events.by("PARTITION OF", b.raw(partitionOf("public.events", spans(month(1), twelve, 1, 0)))),
		contender{template: "busy_partman", table: "public.events"}.by("pg_partman", b.byPartman(partmanSQL)).after("UPDATE partman.part_config SET premake = 13;\n" + rows),
	})
	w.hold, w.held = "SELECT count(*) FROM %s", b.reader
	return append(out, b.race(what+", reader open", bar, w, []contender{events.by("auditdb", ours)})...)
}
