//go:build bench

// Package bench measures auditdb against the tools it has to beat, as ratios within one run. It asserts nothing about time:
// `make bench` prints a table, and people judge it. BENCH names the groups to run, all of them by default.
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
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"auditdb/internal/embedded"
)

// bench holds one private server, the binary under test and the sizes of what is measured.
type bench struct {
	t            *testing.T
	pg           *embedded.Postgres
	dir, auditdb string
	psql         string
	events       int           // to load
	rows         int           // of the tables that are converted and drained
	rounds       int           // of what is measured in turn
	reader       time.Duration // that the open transaction lasts
	from, to     time.Time     // of the events
	loaded       func()        // makes the events and the database that has them, once
	busy         func()        // makes the databases that stalls are measured in, once
}

// run is one measured process.
type run struct {
	wall   time.Duration
	peakKB int64
}

// row is one line of the printed table.
type row struct{ name, figure, baseline, ratio, bar string }

// group is what BENCH can name; "partitions" means all that have it as their set.
type group struct {
	name, set string
	run       func(*bench) []row
}

func groups() []group {
	return []group{
		{"startup", "", (*bench).startup},
		{"ingest", "", (*bench).ingest},
		{"verify", "", (*bench).verify},
		{"proof", "", (*bench).proof},
		{"lookup", "partitions", (*bench).lookup},
		{"create", "partitions", (*bench).create},
		{"list", "partitions", (*bench).list},
		{"stalls", "partitions", (*bench).stalls},
		{"default", "partitions", (*bench).withDefault},
		{"convert", "partitions", (*bench).convert},
		{"drain", "partitions", (*bench).drain},
		{"indexes", "", (*bench).indexes},
		{"advice", "", (*bench).advice},
		{"pages", "query", (*bench).query},
		{"pool", "query", (*bench).pool},
		{"cached", "query", (*bench).cachedQuery},
		{"local", "cache", (*bench).local},
		{"shared", "cache", (*bench).fromRedis},
		{"health", "", (*bench).health},
		{"archive", "", (*bench).archive},
	}
}

// betweenEnv makes the process that measures another one.
const betweenEnv = "BENCH_BETWEEN"

func TestMain(m *testing.M) {
	if os.Getenv(betweenEnv) == "" {
		os.Exit(m.Run())
	}
	c := exec.Command(os.Args[1], os.Args[2:]...)
	c.Stderr = os.Stderr
	start := time.Now()
	if err := c.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	usage, _ := c.ProcessState.SysUsage().(*syscall.Rusage)
	fmt.Println(time.Since(start).Nanoseconds(), usage.Maxrss)
}

func TestBench(t *testing.T) {
	wanted := strings.FieldsFunc(os.Getenv("BENCH"), func(r rune) bool { return r == ',' || r == ' ' })
	var chosen []group
	for _, g := range groups() {
		if len(wanted) == 0 || slices.Contains(wanted, g.name) || g.set != "" && slices.Contains(wanted, g.set) {
			chosen = append(chosen, g)
		}
	}
	if len(chosen) == 0 {
		t.Fatalf("BENCH=%s names no group", os.Getenv("BENCH"))
	}
	b := setup(t)
	tables := make([][]row, len(chosen))
	for i, g := range chosen {
		t.Logf("%s %s", time.Now().Format(time.TimeOnly), g.name)
		tables[i] = g.run(b)
	}
	for _, rows := range tables {
		printTable(os.Stdout, rows)
	}
}

func number(name string, def int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return def
}

func setup(t *testing.T) *bench {
	b := &bench{
		t: t, dir: t.TempDir(), events: number("BENCH_EVENTS", 1_000_000), rows: number("BENCH_ROWS", 1_000_000), rounds: number("BENCH_ROUNDS", 5),
		reader: time.Duration(number("BENCH_READER", 60)) * time.Second,
		from:   time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), to: time.Date(2024, 5, 1, 0, 0, 0, 0, time.UTC),
	}
	b.loaded, b.busy = sync.OnceFunc(b.load), sync.OnceFunc(b.makeBusy)
	var err error
	b.pg, err = embedded.StartPostgres(context.Background(), embedded.Options{Settings: map[string]string{
		"shared_buffers": "512MB", "max_wal_size": "8GB", "min_wal_size": "2GB", "checkpoint_timeout": "1h", "autovacuum": "off",
		// The log tells waiting for locks from all else that makes clients wait.
		"log_lock_waits": "on", "deadlock_timeout": "10ms", "log_line_prefix": "%a ",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.pg.Stop(context.Background()) })
	b.psql = filepath.Join(b.pg.BinDir(), "psql")
	b.auditdb = filepath.Join(b.dir, "auditdb")
	build := exec.Command("go", "build", "-trimpath", "-o", b.auditdb, "..") // as make build does
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	b.must(build)
	b.sql("postgres", "CREATE DATABASE template_audit")
	b.must(b.cmd("template_audit", "integrity", "keygen", "-f", b.key(), "--public", b.file("key.pub")))
	b.must(b.cmd("template_audit", "migrate", "up"))
	return b
}

func (b *bench) file(name string) string { return filepath.Join(b.dir, name) }
func (b *bench) key() string             { return b.file("key") }

// write makes a file of statements for psql.
func (b *bench) write(name, text string) string {
	b.t.Helper()
	if err := os.WriteFile(b.file(name), []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return b.file(name)
}

func (b *bench) cmd(database string, args ...string) *exec.Cmd {
	c := exec.Command(b.auditdb, args...)
	c.Env = append(os.Environ(), "DATABASE_URL="+b.pg.URL(database), "AUDITDB_INTEGRITY_KEY_FILE="+b.key())
	return c
}

func (b *bench) psqlCmd(database, sql string) *exec.Cmd {
	return exec.Command(b.psql, "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", b.pg.URL(database), "-c", sql)
}

func (b *bench) psqlFile(database, file string) *exec.Cmd {
	return exec.Command(b.psql, "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", b.pg.URL(database), "-f", file)
}

func (b *bench) sql(database, sql string) { b.t.Helper(); b.must(b.psqlCmd(database, sql)) }

// ask returns what a query prints.
func (b *bench) ask(database, sql string) string {
	b.t.Helper()
	out, err := b.psqlCmd(database, sql).Output()
	if err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
	return strings.TrimSpace(string(out))
}

func (b *bench) must(c *exec.Cmd) {
	b.t.Helper()
	if out, err := c.CombinedOutput(); err != nil {
		b.t.Fatalf("%s: %v\n%s", strings.Join(c.Args, " "), err, out)
	}
}

// fresh makes database name a copy of template and flushes the server.
func (b *bench) fresh(name, template string) {
	b.t.Helper()
	b.sql("postgres", "DROP DATABASE IF EXISTS "+name)
	b.sql("postgres", "CREATE DATABASE "+name+" TEMPLATE "+template)
	b.sql("postgres", "CHECKPOINT")
}

// measure runs the command with its output thrown away. A process between measures it: a child's peak memory counts from its parent's.
func (b *bench) measure(c *exec.Cmd) run {
	b.t.Helper()
	self, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	between := exec.Command(self, c.Args...)
	between.Env = append(c.Environ(), betweenEnv+"=1")
	var stderr strings.Builder
	between.Stderr = &stderr
	out, err := between.Output()
	var r run
	if err == nil {
		_, err = fmt.Sscan(string(out), (*int64)(&r.wall), &r.peakKB)
	}
	if err != nil {
		b.t.Fatalf("%s: %v\n%s", strings.Join(c.Args, " "), err, stderr.String())
	}
	return r
}

func wallSeconds(r run) float64 { return r.wall.Seconds() }
func peakMB(r run) float64      { return float64(r.peakKB) / 1024 }

func median(rs []run, value func(run) float64) float64 {
	v := make([]float64, len(rs))
	for i, r := range rs {
		v[i] = value(r)
	}
	return middle(v)
}

// middle sorts v and returns its median.
func middle(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// ratio divides pair by pair and says the median, the least and the greatest.
func ratio(over, under []run) string {
	v := make([]float64, len(over))
	for i := range over {
		v[i] = wallSeconds(over[i]) / wallSeconds(under[i])
	}
	m := middle(v)
	return fmt.Sprintf("%.2fx (%.2f-%.2f)", m, v[0], v[len(v)-1])
}

func printTable(w io.Writer, rows []row) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "what\tauditdb\tbaseline\tratio (min-max)\tbar")
	for _, r := range rows {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", r.name, r.figure, r.baseline, r.ratio, r.bar)
	}
	fmt.Fprintln(table)
	_ = table.Flush()
}
