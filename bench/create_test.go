//go:build bench

package bench

import (
	"fmt"
	"os/exec"
	"strings"
	"time"
)

const (
	batch = 50 // partitions that the script makes in one transaction

	// eventsSQL is a table as applications have it, in a database that knows nothing of auditdb.
	eventsSQL = `
CREATE TABLE public.events (id bigint GENERATED ALWAYS AS IDENTITY, ts timestamptz NOT NULL, actor text NOT NULL, detail jsonb NOT NULL, PRIMARY KEY (ts, id)) PARTITION BY RANGE (ts);
CREATE INDEX ON public.events (actor, ts)`
)

// span is the range of one partition.
type span struct{ from, to time.Time }

func (s span) String() string {
	return fmt.Sprintf("FOR VALUES FROM ('%s') TO ('%s')", s.from.Format(time.RFC3339), s.to.Format(time.RFC3339))
}

// name is what the scripts call the partition.
func (s span) name(table string) string { return table + s.from.Format("_2006_01_02") }

// spans cuts n ranges, each of so many months and days, beginning at from.
func spans(from time.Time, n, months, days int) []span {
	out := make([]span, n)
	for i := range out {
		to := from.AddDate(0, months, days)
		out[i], from = span{from, to}, to
	}
	return out
}

// likeAttach is the script that people write who must not stall anybody: empty tables made beside the table and attached, 50 in a
// transaction. Being empty they need no CHECK for ATTACH to skip its scan. more is what else each partition gets; %s is its name.
func likeAttach(table, more string, all []span) string {
	var sql strings.Builder
	for i, s := range all {
		if i%batch == 0 {
			sql.WriteString("BEGIN;\n")
		}
		name := s.name(table)
		fmt.Fprintf(&sql, "CREATE TABLE %s (LIKE %s INCLUDING ALL EXCLUDING IDENTITY);\nALTER TABLE %s ATTACH PARTITION %s %s;\n", name, table, table, name, s)
		sql.WriteString(strings.ReplaceAll(more, "%s", name))
		if i%batch == batch-1 || i == len(all)-1 {
			sql.WriteString("COMMIT;\n")
		}
	}
	return sql.String()
}

// partitionOf is the simple script, which takes an exclusive lock on the table.
func partitionOf(table string, all []span) string {
	var sql strings.Builder
	for _, s := range all {
		fmt.Fprintf(&sql, "CREATE TABLE %s PARTITION OF %s %s;\n", s.name(table), table, s)
	}
	return sql.String()
}

// auditParts is what belongs on each partition of audit_log besides. PARTITION OF does without it.
const auditParts = `CREATE TRIGGER audit_log_guard_truncate BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION auditdb.guard();
GRANT INSERT ON TABLE %s TO auditdb_ingest;
GRANT SELECT ON TABLE %s TO auditdb_verifier;
`

// create makes many partitions at once: of an application's table, and of audit_log, where auditdb also writes evidence.
func (b *bench) create() []row {
	b.sql("postgres", "CREATE DATABASE template_events")
	b.sql("template_events", eventsSQL)
	var rows []row
	for _, c := range []struct{ template, table, more string }{
		{"template_events", "public.events", ""}, {"template_audit", "public.audit_log", auditParts},
	} {
		rows = append(rows, b.createMany(c.template, c.table, c.more, "monthly", spans(b.from, number("BENCH_MONTHLY", 120), 1, 0))...)
		rows = append(rows, b.createMany(c.template, c.table, c.more, "daily", spans(b.from, number("BENCH_DAILY", 1_000), 0, 1))...)
	}
	return rows
}

func (b *bench) createMany(template, table, more, interval string, all []span) []row {
	attach := b.write("attach.sql", likeAttach(table, more, all))
	simple := b.write("simple.sql", partitionOf(table, all))
	on := func(c func() *exec.Cmd) run {
		b.fresh("bench", template)
		r := b.measure(c())
		if n := b.ask("bench", "SELECT count(*) FROM pg_inherits WHERE inhparent = '"+table+"'::regclass"); n != fmt.Sprint(len(all)) {
			b.t.Errorf("%s has %s partitions, not %d", table, n, len(all))
		}
		return r
	}
	var ours, script, plain []run
	for range b.rounds {
		script = append(script, on(func() *exec.Cmd { return b.psqlFile("bench", attach) }))
		ours = append(ours, on(func() *exec.Cmd {
			return b.cmd("bench", "partition", "create", table, "--interval", interval, "--quiet",
				"--from", all[0].from.Format(time.RFC3339), "--to", all[len(all)-1].to.Format(time.RFC3339))
		}))
		plain = append(plain, on(func() *exec.Cmd { return b.psqlFile("bench", simple) }))
	}
	name := fmt.Sprintf("create %d %s of %s", len(all), interval, table)
	seconds := func(rs []run) string { return fmt.Sprintf("%.2f s", median(rs, wallSeconds)) }
	return []row{
		{name + " / LIKE + ATTACH, 50 a transaction", seconds(ours), seconds(script), ratio(ours, script), "≤ 1.2x"},
		{name + " / PARTITION OF, which stalls", seconds(ours), seconds(plain), ratio(ours, plain), ""},
	}
}

// list shows a table of 10,000 partitions. Making them one by one in one table takes minutes, so they are made in small tables and moved
// by hand in the catalog, in a database that nobody needs afterwards.
func (b *bench) list() []row {
	const each = 100
	n := number("BENCH_LIST", 10_000)
	var sql strings.Builder
	sql.WriteString(eventsSQL + ";\n")
	all := spans(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), n, 0, 1)
	for from := 0; from < n; from += each {
		fmt.Fprintf(&sql, "CREATE TABLE public.part%d (LIKE public.events INCLUDING ALL EXCLUDING IDENTITY) PARTITION BY RANGE (ts);\n", from)
		sql.WriteString(partitionOf(fmt.Sprintf("public.part%d", from), all[from:min(from+each, n)]))
	}
	sql.WriteString(`
SET allow_system_table_mods = on;
UPDATE pg_inherits i SET inhparent = 'public.events'::regclass, inhseqno = 1 FROM pg_class c
  WHERE c.oid = i.inhparent AND c.relname ~ '^part[0-9]+$' AND c.relkind = 'p';
UPDATE pg_class SET relhassubclass = true WHERE oid = 'public.events'::regclass;
VACUUM (ANALYZE) pg_class, pg_inherits, pg_index, pg_description, pg_attribute;
`)
	b.fresh("bench", "template0")
	b.must(b.psqlFile("bench", b.write("list.sql", sql.String())))
	if got := b.ask("bench", "SELECT count(*) FROM pg_inherits WHERE inhparent = 'public.events'::regclass"); got != fmt.Sprint(n) {
		b.t.Errorf("%s partitions to list, not %d", got, n)
	}
	var rows []row
	for _, format := range []string{"table", "json"} {
		var runs []run
		for range max(b.rounds, 5) {
			runs = append(runs, b.measure(b.cmd("bench", "partition", "list", "public.events", "-o", format)))
		}
		rows = append(rows, row{
			name:   fmt.Sprintf("partition list of %d, -o %s", n, format),
			figure: fmt.Sprintf("%.0f ms, %.0f MB", 1000*median(runs, wallSeconds), median(runs, peakMB)), bar: "≤ 500 ms, ≤ 60 MB",
		})
	}
	return rows
}
