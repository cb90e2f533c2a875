//go:build bench

// Package bench measures auditdb against the tools it has to beat, as ratios within one run. It asserts nothing:
// `make bench` prints a table, and people judge it.
package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"auditdb/internal/embedded"
	"auditdb/internal/sample"
)

// bench holds one private server, the binary under test and the events to load.
type bench struct {
	t            *testing.T
	pg           *embedded.Postgres
	dir, auditdb string
	psql         string
	events       int
	rounds       int
	from, to     time.Time
}

// run is one measured process.
type run struct {
	wall   time.Duration
	peakKB int64
}

// row is one line of the printed table.
type row struct{ name, figure, baseline, ratio, bar string }

func TestBench(t *testing.T) {
	b := setup(t)
	var rows []row
	rows = append(rows, b.startup()...)
	rows = append(rows, b.ingest()...)
	rows = append(rows, b.verify()...)
	printTable(os.Stdout, rows)
}

func number(name string, def int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return def
}

func setup(t *testing.T) *bench {
	b := &bench{
		t: t, dir: t.TempDir(), events: number("BENCH_EVENTS", 1_000_000), rounds: number("BENCH_ROUNDS", 3),
		from: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), to: time.Date(2024, 5, 1, 0, 0, 0, 0, time.UTC),
	}
	var err error
	b.pg, err = embedded.StartPostgres(context.Background(), embedded.Options{Settings: map[string]string{
		"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "1h", "autovacuum": "off",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.pg.Stop(context.Background()) })
	b.psql = filepath.Join(b.pg.BinDir(), "psql")
	b.auditdb = filepath.Join(b.dir, "auditdb")
	b.must(exec.Command("go", "build", "-o", b.auditdb, ".."))
	b.sql("postgres", "CREATE DATABASE template_audit")
	b.must(b.cmd("template_audit", "integrity", "keygen", "-f", b.key()))
	b.must(b.cmd("template_audit", "migrate", "up"))
	b.must(b.cmd("template_audit", "partition", "create", "--from", "2024-01", "--to", "2024-05"))
	f, err := os.Create(b.file("events.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := sample.WriteNDJSON(f, sample.Options{Seed: 1, Events: b.events, From: b.from, To: b.to}); err != nil {
		t.Fatal(err)
	}
	// The baseline loads the very rows that auditdb wrote, salts and ids included.
	b.fresh("loaded")
	b.must(b.cmd("loaded", "ingest", b.file("events.ndjson")))
	b.sql("loaded", `\copy (SELECT * FROM public.audit_log) TO '`+b.file("events.csv")+`' CSV HEADER`)
	return b
}

func (b *bench) file(name string) string { return filepath.Join(b.dir, name) }
func (b *bench) key() string             { return b.file("key") }

func (b *bench) cmd(database string, args ...string) *exec.Cmd {
	c := exec.Command(b.auditdb, args...)
	c.Env = append(os.Environ(), "DATABASE_URL="+b.pg.URL(database), "AUDITDB_INTEGRITY_KEY_FILE="+b.key())
	return c
}

func (b *bench) psqlCmd(database, sql string) *exec.Cmd {
	return exec.Command(b.psql, "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", b.pg.URL(database), "-c", sql)
}

func (b *bench) sql(database, sql string) { b.must(b.psqlCmd(database, sql)) }

func (b *bench) must(c *exec.Cmd) {
	b.t.Helper()
	if out, err := c.CombinedOutput(); err != nil {
		b.t.Fatalf("%s: %v\n%s", strings.Join(c.Args, " "), err, out)
	}
}

// fresh makes database name a copy of the migrated, still empty one and flushes the server.
func (b *bench) fresh(name string) {
	b.sql("postgres", "DROP DATABASE IF EXISTS "+name)
	b.sql("postgres", "CREATE DATABASE "+name+" TEMPLATE template_audit")
	b.sql("postgres", "CHECKPOINT")
}

// measure runs the command with its output thrown away.
func (b *bench) measure(c *exec.Cmd) run {
	b.t.Helper()
	var stderr strings.Builder
	c.Stdout, c.Stderr = io.Discard, &stderr
	start := time.Now()
	if err := c.Run(); err != nil {
		b.t.Fatalf("%s: %v\n%s", strings.Join(c.Args, " "), err, stderr.String())
	}
	usage, _ := c.ProcessState.SysUsage().(*syscall.Rusage)
	return run{wall: time.Since(start), peakKB: usage.Maxrss}
}

// ingest loads the same rows by `psql \copy` and by auditdb with one and two jobs, in turn.
func (b *bench) ingest() []row {
	var base, one, two []run
	for range b.rounds {
		b.fresh("bench")
		base = append(base, b.measure(b.psqlCmd("bench", `\copy public.audit_log FROM '`+b.file("events.csv")+`' CSV HEADER`)))
		b.fresh("bench")
		one = append(one, b.measure(b.cmd("bench", "ingest", "--quiet", b.file("events.ndjson"))))
		b.fresh("bench")
		two = append(two, b.measure(b.cmd("bench", "ingest", "--quiet", "--jobs", "2", b.file("events.ndjson"))))
	}
	return []row{
		b.rate(`ingest, 1 job / psql \copy csv`, one, base, "≥ 1.0x", "≤ 100 MB"),
		b.rate(`ingest, 2 jobs / psql \copy csv`, two, base, "≥ 1.4x", "≤ 100 MB"),
	}
}

// verify reads the same table by `psql \copy (select *)` and by verify-integrity with one and two jobs, in turn.
func (b *bench) verify() []row {
	var base, one, two []run
	b.sql("loaded", "VACUUM (FREEZE, ANALYZE)")
	for range b.rounds {
		base = append(base, b.measure(b.psqlCmd("loaded", `\copy (SELECT * FROM public.audit_log) TO '/dev/null'`)))
		one = append(one, b.measure(b.cmd("loaded", "verify-integrity", "--quiet", "--jobs", "1")))
		two = append(two, b.measure(b.cmd("loaded", "verify-integrity", "--quiet", "--jobs", "2")))
	}
	return []row{
		b.rate(`verify, 1 job / psql \copy (select *)`, one, base, "≥ 0.9x", "≤ 64 MB"),
		b.rate(`verify, 2 jobs / psql \copy (select *)`, two, base, "≥ 1.2x", "≤ 64 MB"),
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
		m := median(runs, func(r run) float64 { return r.wall.Seconds() * 1000 })
		rows = append(rows, row{name: "auditdb " + args[0], figure: fmt.Sprintf("%.1f ms", m), bar: "≤ 50 ms"})
	}
	return rows
}

// rate compares rows a second pair by pair and reports the median ratio and the median peak memory.
func (b *bench) rate(name string, got, base []run, bar, memBar string) row {
	ratios := make([]float64, len(got))
	for i := range got {
		ratios[i] = base[i].wall.Seconds() / got[i].wall.Seconds()
	}
	slices.Sort(ratios)
	perSecond := func(rs []run) string {
		return fmt.Sprintf("%.0f rows/s", float64(b.events)/median(rs, func(r run) float64 { return r.wall.Seconds() }))
	}
	peak := median(got, func(r run) float64 { return float64(r.peakKB) / 1024 })
	return row{
		name: name, figure: fmt.Sprintf("%s, %.0f MB", perSecond(got), peak), baseline: perSecond(base),
		ratio: fmt.Sprintf("%.2fx (%.2f-%.2f)", ratios[len(ratios)/2], ratios[0], ratios[len(ratios)-1]), bar: bar + ", " + memBar,
	}
}

func median(rs []run, value func(run) float64) float64 {
	v := make([]float64, len(rs))
	for i, r := range rs {
		v[i] = value(r)
	}
	slices.Sort(v)
	return v[len(v)/2]
}

func printTable(w io.Writer, rows []row) {
	format := "%-40s %-26s %-16s %-20s %s\n"
	fmt.Fprintf(w, format, "what", "auditdb", "baseline", "ratio (min-max)", "bar")
	for _, r := range rows {
		fmt.Fprintf(w, format, r.name, r.figure, r.baseline, r.ratio, r.bar)
	}
}
