//go:build bench

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"time"

	"auditdb/internal/sample"
)

// given are the columns that ingest takes from a CSV file; the others it writes itself.
const given = `to_char("timestamp" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS "timestamp", processing_latency, action, status, principal_id, organization_id, target_resource_type, target_resource_id, outcome_description, correlation_id,
event_uid, data_classification, retention_policy, event_version, hash, hash_algorithm, ttl, details`

// load makes the events, and database loaded that has them.
func (b *bench) load() {
	b.sql("postgres", "CREATE DATABASE template_months TEMPLATE template_audit")
	b.must(b.cmd("template_months", "partition", "create", "--from", "2024-01", "--to", "2024-05"))
	f, err := os.Create(b.file("events.ndjson"))
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	if err := sample.WriteNDJSON(f, sample.Options{Seed: 1, Events: b.events, From: b.from, To: b.to}); err != nil {
		b.t.Fatal(err)
	}
	// The baseline loads the very rows that auditdb wrote, salts and ids included.
	b.fresh("loaded", "template_months")
	b.must(b.cmd("loaded", "ingest", b.file("events.ndjson")))
	b.sql("loaded", `\copy (SELECT * FROM public.audit_log) TO '`+b.file("events.csv")+`' CSV HEADER`)
	b.sql("loaded", `\copy (SELECT `+given+` FROM public.audit_log) TO '`+b.file("given.csv")+`' CSV HEADER`)
}

// ingest loads the same rows by `psql \copy` and by auditdb with one and two jobs, in turn.
func (b *bench) ingest() []row {
	b.loaded()
	var base, one, two, csvOne, csvTwo []run
	for range b.rounds {
		b.fresh("bench", "template_months")
		base = append(base, b.measure(b.psqlCmd("bench", `\copy public.audit_log FROM '`+b.file("events.csv")+`' CSV HEADER`)))
		b.fresh("bench", "template_months")
		one = append(one, b.measure(b.cmd("bench", "ingest", "--quiet", b.file("events.ndjson"))))
		b.fresh("bench", "template_months")
		two = append(two, b.measure(b.cmd("bench", "ingest", "--quiet", "--jobs", "2", b.file("events.ndjson"))))
		b.fresh("bench", "template_months")
		csvOne = append(csvOne, b.measure(b.cmd("bench", "ingest", "--quiet", b.file("given.csv"))))
		b.fresh("bench", "template_months")
		csvTwo = append(csvTwo, b.measure(b.cmd("bench", "ingest", "--quiet", "--jobs", "2", b.file("given.csv"))))
	}
	return []row{
		b.rate(`ingest, 1 job / psql \copy csv`, one, base, "≥ 1.2x", "≤ 100 MB"),
		b.rate(`ingest, 2 jobs / psql \copy csv`, two, base, "≥ 1.6x", "≤ 100 MB"),
		b.rate(`ingest of CSV, 1 job / psql \copy csv`, csvOne, base, "≥ 1.2x", "≤ 100 MB"),
		b.rate(`ingest of CSV, 2 jobs / psql \copy csv`, csvTwo, base, "≥ 1.6x", "≤ 100 MB"),
	}
}

// verify reads the same table by `psql \copy (select *)` and by verify-integrity with one and two jobs, in turn.
func (b *bench) verify() []row {
	b.loaded()
	var base, one, two []run
	b.sql("loaded", "VACUUM (FREEZE, ANALYZE)")
	for range b.rounds {
		base = append(base, b.measure(b.psqlCmd("loaded", `\copy (SELECT * FROM public.audit_log) TO '/dev/null'`)))
		one = append(one, b.measure(b.cmd("loaded", "verify-integrity", "--quiet", "--jobs", "1")))
		two = append(two, b.measure(b.cmd("loaded", "verify-integrity", "--quiet", "--jobs", "2")))
	}
	return []row{
		b.rate(`verify, 1 job / psql \copy (select *)`, one, base, "≥ 0.95x", "≤ 64 MB"),
		b.rate(`verify, 2 jobs / psql \copy (select *)`, two, base, "≥ 1.25x", "≤ 64 MB"),
	}
}

// proof proves events all over the table, each by a process of its own, and checks the proofs.
func (b *bench) proof() []row {
	b.loaded()
	var prove, check []run
	for i := range max(b.rounds, 10) {
		id := b.ask("loaded", fmt.Sprintf(`SELECT id FROM public.audit_log WHERE "timestamp" >= '%s' ORDER BY "timestamp", id LIMIT 1`,
			b.from.AddDate(0, 0, 10*i).Format(time.RFC3339)))
		file := b.file(fmt.Sprintf("proof-%d", i))
		prove = append(prove, b.measure(b.cmd("loaded", "verify-integrity", "prove", "--id", id, "-f", file)))
		check = append(check, b.measure(exec.Command(b.auditdb, "verify-integrity", "check-proof", file, "--public-key", b.file("key.pub"))))
	}
	figure := func(rs []run) string {
		return fmt.Sprintf("%.0f ms, %.0f MB", 1000*median(rs, wallSeconds), median(rs, peakMB))
	}
	return []row{
		{name: fmt.Sprintf("prove one of %d events", b.events), figure: figure(prove), bar: "≤ 200 ms (of 10,000,000)"},
		{name: "check-proof", figure: figure(check), bar: "≤ 50 ms"},
	}
}

// startup times commands that need no server.
func (b *bench) startup() []row {
	var rows []row
	for _, args := range [][]string{{"--help"}, {"version"}} {
		var runs []run
		for range 20 {
			runs = append(runs, b.measure(exec.Command(b.auditdb, args...)))
		}
		m := 1000 * median(runs, wallSeconds)
		rows = append(rows, row{name: "auditdb " + args[0], figure: fmt.Sprintf("%.1f ms", m), bar: "≤ 50 ms"})
	}
	return rows
}

// rate compares rows a second pair by pair and reports the median ratio and the median peak memory.
func (b *bench) rate(name string, got, base []run, bar, memBar string) row {
	perSecond := func(rs []run) string { return fmt.Sprintf("%.0f rows/s", float64(b.events)/median(rs, wallSeconds)) }
	return row{
		name: name, figure: fmt.Sprintf("%s, %.0f MB", perSecond(got), median(got, peakMB)), baseline: perSecond(base),
		ratio: ratio(base, got), bar: bar + ", " + memBar,
	}
}
