//go:build bench

package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// advice measures index analyze by what the planner thinks of the queries with the indexes that it recommends, really made, as a share
// of what the best of all that a brute force tries would do for each query alone.
type advice struct {
	*bench
	conn      *pgx.Conn
	url       string
	queries   []adviceQuery
	baseBytes float64 // of WAL for an inserted row without any new index
	on        adviceCase
}

// adviceCase is a workload with the data that it asks for.
type adviceCase struct {
	name     string // of the database, and before those of the rows
	data     string // file
	workload string // file
	optimum  string // file: what the brute force tries
	schemas  string // as a list of literals
	insert   string // copies of adviceInserts rows into the log
	refill   string // the partition that they are in
}

type adviceQuery struct {
	text                 string
	calls, before, ideal float64
}

const adviceInserts = 20_000

// adviceCases are the workload that the choice was developed with, and one that it was not.
var adviceCases = []adviceCase{
	{
		name: "advice", data: "testdata/index_data.sql", workload: "testdata/index_workload.sql", optimum: "testdata/index_optimum.txt", schemas: "'audit', 'shop'", refill: "audit.audit_log_2024_12",
		insert: `INSERT INTO audit.audit_log (ts, org_id, actor_id, actor_email, action, status, resource_type, resource_id, ip, session_id, correlation_id, latency_ms, severity, archived_at, reviewed, details)
SELECT ts, org_id, actor_id, actor_email, action, status, resource_type, resource_id, ip, session_id, correlation_id, latency_ms, severity, archived_at, reviewed, details FROM audit.audit_log WHERE ts >= '2024-12-01' ORDER BY ts LIMIT %d`,
	},
	{
		name: "saas", data: "testdata/index_data_saas.sql", workload: "testdata/index_workload_saas.sql", optimum: "testdata/index_optimum_saas.txt", schemas: "'saas', 'app'", refill: "saas.access_log_2025_12",
		insert: `INSERT INTO saas.access_log (at, tenant_id, user_id, method, path, status, bytes, duration_ms, country, client_ip, trace_id, api_key, error, meta)
SELECT at, tenant_id, user_id, method, path, status, bytes, duration_ms, country, client_ip, trace_id, api_key, error, meta FROM saas.access_log WHERE at >= '2025-12-01' ORDER BY at LIMIT %d`,
	},
}

// advice runs the cases, or the one that BENCH_ADVICE names.
func (b *bench) advice() (rows []row) {
	for _, c := range adviceCases {
		if name := os.Getenv("BENCH_ADVICE"); name == "" || name == c.name {
			rows = append(rows, b.advise(c)...)
		}
	}
	return rows
}

func (b *bench) advise(on adviceCase) []row {
	a := &advice{bench: b, url: os.Getenv("BENCH_ADVICE_URL"), on: on}
	ctx := context.Background()
	if a.url == "" { // else a database that has been loaded before
		a.load()
	}
	var err error
	if a.conn, err = pgx.Connect(ctx, a.url); err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = a.conn.Close(ctx) }()
	a.exec("SET max_parallel_workers_per_gather = 0; SET jit = off; SET maintenance_work_mem = '512MB'")
	// Images of whole pages after a checkpoint say nothing about what an index costs.
	a.exec("ALTER SYSTEM SET full_page_writes = off")
	a.exec("SELECT pg_reload_conf()")
	defer a.exec("ALTER SYSTEM RESET full_page_writes")
	a.read()
	a.bruteForce()
	a.baseBytes = a.walPerRow()
	rows := a.contend("read", "≥ 0.98, ≥ 0.87, ≤ 30, ≤ 650 MB", "--mode", "read")
	rows = append(rows, a.contend("balanced", "≥ 0.94, ≥ 0.76, ≤ 25, ≤ 1100 B", "--mode", "balanced")...)
	rows = append(rows, a.contend("balanced, --max-write 1000", "≥ 0.94, ≥ 0.76, ≤ 25", "--mode", "balanced", "--max-write", "1000")...)
	rows = append(rows, a.contend("read, --max-size 650MB", "≥ 0.98, ≥ 0.87, ≤ 30, ≤ 650 MB", "--mode", "read", "--max-size", "650MB")...)
	if os.Getenv("BENCH_ADVICE_BRIEF") != "" {
		return rows
	}
	parameters := b.write(on.name+"-parameters.sql", withParameters(a.queries))
	rows = append(rows, a.contend("read, $1", "within 0.05", "--mode", "read", "--queries", parameters)...)
	rows = append(rows, a.contend("balanced, $1", "within 0.05", "--mode", "balanced", "--queries", parameters)...)
	if a.text("SELECT count(*)::text FROM pg_extension WHERE extname = 'hypopg'") == "1" {
		a.exec("DROP EXTENSION hypopg")
		defer a.exec("CREATE EXTENSION hypopg")
		rows = append(rows, a.contend("read, without HypoPG", "within 0.05", "--mode", "read")...)
		rows = append(rows, a.contend("balanced, without HypoPG", "within 0.05", "--mode", "balanced")...)
	}
	return rows
}

func (a *advice) load() {
	a.url = a.pg.URL(a.on.name)
	a.sql("postgres", "CREATE DATABASE "+a.on.name+" TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'")
	load := a.psqlFile(a.on.name, a.on.data)
	load.Args = append(load.Args, "-v", "rows="+strconv.Itoa(number("BENCH_ADVICE_ROWS", 1_200_000)))
	a.must(load)
	a.sql(a.on.name, "CREATE EXTENSION pg_trgm")
	_ = a.psqlCmd(a.on.name, "CREATE EXTENSION hypopg").Run() // where it is installed
	a.sql(a.on.name, "VACUUM ANALYZE")
}

func (a *advice) exec(sql string) {
	a.t.Helper()
	if _, err := a.conn.Exec(context.Background(), sql); err != nil {
		a.t.Fatalf("%s: %v", sql, err)
	}
}

func (a *advice) text(sql string) (text string) {
	a.t.Helper()
	if err := a.conn.QueryRow(context.Background(), sql).Scan(&text); err != nil {
		a.t.Fatalf("%s: %v", sql, err)
	}
	return text
}

var adviceStatement = regexp.MustCompile(`(?m)^-- calls: (\d+)\n((?:.*\n)*?.*;)$`)

func (a *advice) read() {
	text, err := os.ReadFile(a.on.workload)
	if err != nil {
		a.t.Fatal(err)
	}
	for _, m := range adviceStatement.FindAllStringSubmatch(string(text), -1) {
		calls, _ := strconv.ParseFloat(m[1], 64)
		q := adviceQuery{text: strings.TrimSuffix(m[2], ";"), calls: calls}
		q.before = a.cost(q.text)
		q.ideal = q.before
		a.queries = append(a.queries, q)
	}
}

// cost is the planner's, with the indexes that are there.
func (a *advice) cost(query string) float64 {
	var plans []struct {
		Plan struct {
			Cost float64 `json:"Total Cost"`
		}
	}
	if err := json.Unmarshal([]byte(a.text("EXPLAIN (FORMAT JSON) "+query)), &plans); err != nil {
		a.t.Fatal(err)
	}
	return plans[0].Plan.Cost
}

// bruteForce makes, for each query, all indexes that may help it, and looks what it then costs.
func (a *advice) bruteForce() {
	text, err := os.ReadFile(a.on.optimum)
	if err != nil {
		a.t.Fatal(err)
	}
	tries := map[int][]string{}
	tables := map[int]map[string]bool{}
	for _, line := range strings.Split(string(text), "\n") {
		parts := strings.Split(line, "|")
		n, err := strconv.Atoi(strings.TrimSpace(parts[0]))
		if err != nil {
			continue
		}
		statements, table := expand(parts[1:])
		tries[n] = append(tries[n], statements...)
		if tables[n] == nil {
			tables[n] = map[string]bool{}
		}
		tables[n][table] = true
	}
	kept := keptIdeals(os.Getenv("BENCH_ADVICE_IDEALS"), a.on.name, a.t.Logf)
	for i := range a.queries {
		if ideal, ok := kept.known[i]; ok {
			a.queries[i].ideal = ideal
			continue
		}
		a.exec("BEGIN")
		for _, ddl := range tries[i+1] {
			a.exec(ddl)
		}
		for table := range tables[i+1] {
			a.exec("ANALYZE " + table)
		}
		a.queries[i].ideal = min(a.queries[i].before, a.cost(a.queries[i].text))
		a.exec("ROLLBACK")
		kept.add(i, a.queries[i].ideal)
		a.t.Logf("query %d: %.0f, with the best of %d indexes %.0f", i+1, a.queries[i].before, len(tries[i+1]), a.queries[i].ideal)
	}
}

// ideals of an earlier run are kept in the file that BENCH_ADVICE_IDEALS names, with the case's name after it: the brute force takes most of the time.
type ideals struct {
	file  string
	known map[int]float64
}

func keptIdeals(file, name string, log func(string, ...any)) ideals {
	if file != "" {
		file += "." + name
	}
	k := ideals{file, map[int]float64{}}
	text, err := os.ReadFile(file)
	if err != nil {
		return k
	}
	for _, line := range strings.Split(string(text), "\n") {
		var i int
		var cost float64
		if _, err := fmt.Sscan(line, &i, &cost); err == nil {
			k.known[i] = cost
		}
	}
	log("%d results of an earlier brute force", len(k.known))
	return k
}

func (k ideals) add(i int, cost float64) {
	f, err := os.OpenFile(k.file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return // none is named
	}
	fmt.Fprintln(f, i, cost)
	_ = f.Close()
}

// expand makes the statements of a line of the brute force.
func expand(parts []string) (statements []string, table string) {
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	if method, ok := strings.CutPrefix(parts[0], "using "); ok {
		return []string{"CREATE INDEX ON " + parts[1] + " USING " + method + " (" + parts[2] + ")"}, parts[1]
	}
	for len(parts) < 5 {
		parts = append(parts, "")
	}
	list := func(s string) []string {
		var all []string
		for _, one := range strings.Split(s, ";") {
			if one = strings.TrimSpace(one); one != "" {
				all = append(all, one)
			}
		}
		return all
	}
	seen := map[string]bool{}
	for _, head := range arrangements(list(parts[1])) {
		for _, tail := range append([]string{""}, list(parts[2])...) {
			keys := append([]string{}, head...)
			if tail != "" {
				keys = append(keys, tail)
			}
			if len(keys) == 0 {
				continue
			}
			on := "CREATE INDEX ON " + parts[0] + " (" + strings.Join(keys, ", ") + ")"
			for _, include := range []string{"", parts[3]} {
				for _, where := range []string{"", parts[4]} {
					ddl := on
					if include != "" {
						ddl += " INCLUDE (" + include + ")"
					}
					if where != "" {
						ddl += " WHERE " + where
					}
					if !seen[ddl] {
						seen[ddl] = true
						statements = append(statements, ddl)
					}
				}
			}
		}
	}
	return statements, parts[0]
}

// arrangements are all orders of all subsets.
func arrangements(keys []string) [][]string {
	all := [][]string{nil}
	for i, k := range keys {
		rest := append(append([]string{}, keys[:i]...), keys[i+1:]...)
		for _, more := range arrangements(rest) {
			all = append(all, append([]string{k}, more...))
		}
	}
	return all
}

// walPerRow inserts copies of rows and says how many bytes of WAL each took, without images of whole pages.
func (a *advice) walPerRow() float64 {
	a.exec("BEGIN")
	insert := fmt.Sprintf(a.on.insert, adviceInserts)
	var explained []byte
	if err := a.conn.QueryRow(context.Background(), "EXPLAIN (ANALYZE, WAL, FORMAT JSON) "+insert).Scan(&explained); err != nil {
		a.t.Fatal(err)
	}
	var plans []struct {
		Plan struct {
			Bytes float64 `json:"WAL Bytes"`
		}
	}
	if err := json.Unmarshal(explained, &plans); err != nil {
		a.t.Fatal(err)
	}
	a.exec("ROLLBACK")
	a.exec("VACUUM " + a.on.refill) // gives the pages of the copies back
	return plans[0].Plan.Bytes / adviceInserts
}

// contend analyzes, makes what is recommended, and judges it.
func (a *advice) contend(name, bar string, args ...string) []row {
	if !strings.Contains(strings.Join(args, " "), "--queries") {
		args = append(args, "--queries", a.on.workload)
	}
	start := time.Now()
	c := exec.Command(a.auditdb, append([]string{"index", "analyze", "-o", "json"}, args...)...)
	c.Env = append(os.Environ(), "DATABASE_URL="+a.url)
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		a.t.Fatalf("%s: %v", name, err)
	}
	took := time.Since(start)
	var doc struct {
		Recommendations []struct {
			Action, DDL, Table string
		}
		Workload struct {
			LeftOut []any `json:"left_out"`
		}
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		a.t.Fatal(err)
	}
	if file := os.Getenv("BENCH_ADVICE_OUT"); file != "" {
		_ = os.WriteFile(file+"."+strings.NewReplacer(" ", "_", ",", "", "$", "").Replace(name)+".json", out, 0o600)
	}
	a.exec("BEGIN")
	before, err := strconv.ParseFloat(a.text(fmt.Sprintf(indexBytesSQL, a.on.schemas)), 64)
	if err != nil {
		a.t.Fatal(err)
	}
	tables := map[string]bool{}
	indexes := 0
	for _, r := range doc.Recommendations {
		if r.Action != "create" {
			continue
		}
		indexes++
		a.exec(r.DDL)
		tables[r.Table] = true
	}
	for table := range tables {
		a.exec("ANALYZE " + table)
	}
	after, err := strconv.ParseFloat(a.text(fmt.Sprintf(indexBytesSQL, a.on.schemas)), 64)
	if err != nil {
		a.t.Fatal(err)
	}
	var gained, possible, logs, allLogs float64
	for _, q := range a.queries {
		possible, allLogs = possible+q.calls*(q.before-q.ideal), allLogs+math.Log(q.before/q.ideal)
	}
	for i, q := range a.queries {
		cost := min(a.cost(q.text), q.before)
		gained, logs = gained+q.calls*(q.before-cost), logs+math.Log(q.before/max(cost, q.ideal))
		if cost > q.ideal*1.3 {
			a.t.Logf("%s: query %d costs %.0f, ideal %.0f, before %.0f, which loses %.4f and %.4f: %.100s", name, i+1, cost, q.ideal, q.before,
				q.calls*(cost-q.ideal)/possible, math.Log(cost/q.ideal)/allLogs, q.text)
		}
	}
	a.exec("COMMIT")
	wal := a.walPerRow()
	a.dropAdvised()
	return []row{{
		name:     "index analyze, " + a.on.name + ", " + name,
		figure:   fmt.Sprintf("%.3f linear, %.3f log", gained/possible, logs/allLogs),
		baseline: fmt.Sprintf("%d indexes, %.0f MB", indexes, (after-before)/(1<<20)),
		ratio:    fmt.Sprintf("%.0f B of WAL a row (%.0f without), %.1f s", wal, a.baseBytes, took.Seconds()),
		bar:      bar,
	}}
}

const indexBytesSQL = `SELECT coalesce(sum(pg_relation_size(c.oid)), 0)::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'i' AND n.nspname IN (%s)`

// dropAdvised drops all indexes that no constraint has.
func (a *advice) dropAdvised() {
	a.exec(`DO $$ DECLARE r regclass; BEGIN
  FOR r IN SELECT i.indexrelid::regclass FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN (` + a.on.schemas + `) AND NOT c.relispartition AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid) LOOP
    EXECUTE format('DROP INDEX %s', r);
  END LOOP;
END $$`)
}

var adviceLiteral = regexp.MustCompile(`(->>? *)?'(?:[^']|'')*'|\b\d+(?:\.\d+)?\b`)

// withParameters writes the workload as drivers with bind parameters send it. Names of JSON fields, patterns and positions stay.
func withParameters(queries []adviceQuery) string {
	var b strings.Builder
	for _, q := range queries {
		n := 0
		text := adviceLiteral.ReplaceAllStringFunc(q.text, func(s string) string {
			keep := strings.HasPrefix(s, "-") || strings.Contains(s, "%") || s == "'day'" || s == "'UTC'" || s == "'pii'" || s == "1"
			if keep {
				return s
			}
			n++
			return "$" + strconv.Itoa(n)
		})
		fmt.Fprintf(&b, "-- calls: %.0f\n%s;\n", q.calls, text)
	}
	return b.String()
}
