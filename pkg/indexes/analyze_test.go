package indexes

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
)

// audited is a database with a partitioned log and a shop, whose statistics are up to date.
func audited(t *testing.T) *base {
	t.Helper()
	b := fresh(
		t,
		`CREATE TABLE log (id bigint NOT NULL, ts timestamptz NOT NULL, org integer NOT NULL, who integer NOT NULL, status text NOT NULL, email text NOT NULL, note varchar(80), done timestamptz, good boolean NOT NULL,
  d jsonb NOT NULL, PRIMARY KEY (ts, id)) PARTITION BY RANGE (ts)`,
		`CREATE TABLE log1 PARTITION OF log FOR VALUES FROM ('2025-01-01') TO ('2025-02-01')`,
		`CREATE TABLE log2 PARTITION OF log FOR VALUES FROM ('2025-02-01') TO ('2025-03-01')`,
		`CREATE TABLE log3 PARTITION OF log FOR VALUES FROM ('2025-03-01') TO ('2025-04-01')`,
		`INSERT INTO log SELECT n, '2025-01-01 00:00+00'::timestamptz + n * interval '129 seconds', n * 7919 % 100, n * 6271 % 5000, CASE WHEN n % 50 = 0 THEN 'failed' ELSE 'ok' END, 'U' || n * 31 % 20000 || '@x.org', repeat('n', n % 40),
  CASE WHEN n % 40 <> 0 THEN now() END, n % 60 <> 0, jsonb_build_object('k', n * 17 % 9000, 'tags', jsonb_build_object(CASE WHEN n % 70 = 0 THEN 'pii' ELSE 'x' END, 1)) FROM generate_series(1, 60000) n`,
		`CREATE TABLE customer (cid integer PRIMARY KEY, name text NOT NULL, phone text NOT NULL)`,
		`INSERT INTO customer SELECT n, 'name ' || md5(n::text), md5((n + 1)::text) FROM generate_series(1, 5000) n`,
		`CREATE TABLE orders (oid integer PRIMARY KEY, cid integer NOT NULL, total integer NOT NULL, at date NOT NULL, clerk integer NOT NULL, ip inet)`,
		`INSERT INTO orders SELECT n, n * 7919 % 5000, n * 31 % 10007, '2020-01-01'::date + n % 2000, n * 13 % 800, '10.0.0.0'::inet + n FROM generate_series(1, 40000) n`,
		`CREATE TABLE tiny (x integer PRIMARY KEY, y integer)`, `INSERT INTO tiny SELECT n, n FROM generate_series(1, 30) n`,
		`VACUUM ANALYZE`,
	)
	// Sessions that begin meanwhile can keep a VACUUM from seeing that all see the rows, and then no index alone answers.
	for value[int](b, `SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relallvisible < relpages`) > 0 {
		b.exec("VACUUM")
	}
	return b
}

func (b *base) analyze(w *Workload, budget Budget) *Analysis {
	b.Helper()
	if budget.Mode == "" {
		budget.Mode = ModeRead
	}
	a, err := Analyze(b.Context(), b.db, AnalyzeOptions{Workload: w, Budget: budget})
	if err != nil {
		b.Fatal(err)
	}
	return a
}

// planCost is what the planner says a query costs now.
func (b *base) planCost(query string) (cost float64) {
	b.Helper()
	err := b.db.TxWith(b.Context(), pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		e, err := newExplainer(b.Context(), tx, b.db.UserSearchPath(), time.Minute)
		if err != nil {
			return err
		}
		plan, err := e.plan(b.Context(), query, false)
		if err == nil {
			cost = plan.Total
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return cost
}

// hasExtension installs an extension where the server has it.
func (b *base) hasExtension(name string) bool {
	b.Helper()
	var there bool
	if err := b.db.Pool().QueryRow(b.Context(), "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = $1)", name).Scan(&there); err != nil {
		b.Fatal(err)
	}
	if there {
		b.exec("CREATE EXTENSION IF NOT EXISTS " + name)
	}
	return there
}

// TestAnalyzeSingleQueries asks for each kind of index, with HypoPG and without, and makes what is recommended.
func TestAnalyzeSingleQueries(t *testing.T) {
	t.Parallel()
	b := audited(t)
	b.hasExtension("pg_trgm")
	cases := []struct {
		query string
		want  string // in the keys of some recommendation; "": nothing is recommended
		times float64
	}{
		{"SELECT * FROM log WHERE who = 17 ORDER BY ts DESC LIMIT 10", "who", 20},
		{"SELECT id, ts FROM log WHERE org = 5 AND who = 17", "who", 20},
		{"SELECT ts, id FROM log WHERE org = 5 AND (ts, id) < ('2025-02-10', 100) ORDER BY ts DESC, id DESC LIMIT 20", "org, ts", 5},
		{"SELECT * FROM log WHERE org = 5 ORDER BY who DESC, ts LIMIT 5", "org, who DESC, ts", 20},
		{"SELECT count(*) FROM log WHERE status = 'failed' AND ts >= '2025-03-01' AND ts < '2025-03-15'", "status", 3},
		{"SELECT id FROM log WHERE lower(email) = 'u17@x.org'", "lower(email)", 20},
		{"SELECT id FROM log WHERE (d ->> 'k')::integer = 17", "(d ->> 'k'", 3},
		{`SELECT id FROM log WHERE d @> '{"k": 17}'`, "gin d", 1.5},
		{"SELECT id FROM log WHERE d -> 'tags' ? 'pii' AND ts > '2025-03-01'", "tags", 1.5},
		{"SELECT id, ts FROM log WHERE done IS NULL ORDER BY ts LIMIT 100", "done", 2},
		{"SELECT id, ts FROM log WHERE NOT good AND org = 3", "good", 2},
		{"SELECT max(ts) FROM log WHERE who = 4", "who", 20},
		{"SELECT id FROM log WHERE who = 17 OR email = 'U1@x.org'", "email", 20},
		{"UPDATE log SET good = false WHERE email = 'U31@x.org'", "email", 20},
		{"SELECT c.name, o.total FROM customer c JOIN orders o ON o.cid = c.cid WHERE c.phone = 'x' ORDER BY o.total", "cid", 5},
		{"SELECT name FROM customer WHERE name LIKE 'name ab%'", "name", 3},
		{"SELECT count(*) FROM orders WHERE at >= '2021-01-01' AND at < '2021-02-01'", "at", 3},
		{"SELECT o.oid FROM orders o WHERE o.clerk = 3 AND EXISTS (SELECT FROM customer c WHERE c.cid = o.cid AND c.name > 'name f')", "clerk", 3},
		{"SELECT id, d FROM log WHERE email = 'U31@x.org'", "email", 20},
		{`SELECT id FROM log WHERE d @? '$.k ? (@ == 17)'`, "gin d", 1.5},
		{`SELECT id FROM log WHERE d @@ '$.k == 17'`, "gin d", 1.5},
		{`SELECT id FROM log WHERE d @? '$.k'`, "", 0},
		{"SELECT id FROM log WHERE coalesce(who, 0) = 17", "COALESCE(who, 0)", 20},
		{"SELECT oid FROM orders WHERE ip <<= '10.0.7.0/28'", "ip", 20},
		{"SELECT * FROM tiny WHERE y = 3", "", 0},
		{"SELECT * FROM customer WHERE cid = 3", "", 0},
		{"SELECT count(*), sum(total) FROM orders WHERE total > 5", "", 0},
		{"SELECT * FROM log WHERE status = 'ok'", "", 0},
		{"SELECT 1", "", 0},
	}
	modes := []bool{false}
	if b.hasExtension("hypopg") {
		modes = append(modes, true)
	}
	for _, hypo := range modes {
		b.exec(map[bool]string{true: "CREATE EXTENSION IF NOT EXISTS hypopg", false: "DROP EXTENSION IF EXISTS hypopg"}[hypo])
		for _, c := range cases {
			a := b.analyze(queriesOf(t, c.query), Budget{})
			var keys []string
			for _, r := range a.Recommendations {
				keys = append(keys, r.Definition.KeyText())
				if slices.Contains(r.Definition.Include, "d") {
					t.Errorf("%s: a document is included: %s", c.query, r.DDL)
				}
			}
			all := strings.Join(keys, "; ")
			if (c.want == "") != (len(keys) == 0) || !strings.Contains(all, c.want) {
				t.Errorf("hypopg %v: %s:\n%q, want %q; left out %v", hypo, c.query, all, c.want, a.LeftOut)
				continue
			}
			if a.Hypothetical != hypo {
				t.Errorf("hypothetical is %v", a.Hypothetical)
			}
			if !hypo {
				b.judge(c.query, a, c.times)
			}
		}
	}
}

// judge makes what is recommended, looks whether the planner agrees, and takes it back.
func (b *base) judge(query string, a *Analysis, times float64) {
	b.Helper()
	if len(a.Recommendations) == 0 {
		return
	}
	before := b.planCost(query)
	var names []string
	for _, r := range a.Recommendations {
		b.exec(r.DDL)
		names = append(names, r.Definition.Ident())
	}
	b.exec("ANALYZE")
	after := b.planCost(query)
	b.exec("DROP INDEX " + strings.Join(names, ", "))
	if before/after < times {
		b.Errorf("%s:\n%.0f, and %.0f with %q", query, before, after, names)
	}
	if predicted := a.CostAfter / a.Calls; predicted/after > 4 || after/predicted > 4 {
		b.Errorf("%s:\n%.0f before, predicted %.0f, and it is %.0f with %q", query, before, predicted, after, names)
	}
}

func TestAnalyzeAWorkload(t *testing.T) {
	t.Parallel()
	b := audited(t)
	w := queriesOf(t, `-- calls: 100
SELECT id, ts FROM log WHERE org = 5 ORDER BY ts DESC LIMIT 10;
-- calls: 100
SELECT id, ts, status FROM log WHERE org = 7 AND ts >= '2025-02-01' AND ts < '2025-02-10';
-- calls: 50
SELECT * FROM log WHERE who = 5;
-- calls: 50
SELECT * FROM orders WHERE cid = 5 AND at > '2024-01-01';
-- calls: 50
SELECT * FROM orders WHERE cid = 5;
-- calls: 10
SELECT count(*) FROM nothing;
INSERT INTO tiny VALUES (31, 1);
SELECT pg_sleep(10) FROM tiny;
DELETE FROM tiny;
`)
	all := b.analyze(w, Budget{Mode: ModeBalanced})
	if all.Queries != 8 && all.Queries != 7 {
		t.Errorf("%d queries, left out %v", all.Queries, all.LeftOut)
	}
	if !slices.ContainsFunc(all.LeftOut, func(l LeftOut) bool { return strings.Contains(l.Reason, "42P01") }) {
		t.Errorf("left out %v", all.LeftOut)
	}
	perTable := map[string]int{}
	for _, r := range all.Recommendations {
		perTable[r.Table]++
		if r.Benefit == nil || *r.Benefit <= 0 || r.Reason == "" || len(r.Queries) == 0 || *r.SizeBytes <= 0 || r.Evidence == "" || r.Confidence == "" {
			t.Errorf("%+v", r)
		}
	}
	if perTable["public.orders"] != 1 || perTable["public.log"] < 2 || perTable["public.log"] > 3 || perTable["public.tiny"] != 0 {
		t.Errorf("%v", perTable)
	}
	var rows int
	if err := b.db.Pool().QueryRow(t.Context(), "SELECT count(*) FROM public.tiny").Scan(&rows); err != nil || rows != 30 {
		t.Errorf("tiny has %d rows: a statement was run (%v)", rows, err)
	}
	if few := b.analyze(w, Budget{MaxIndexes: 1}); len(few.Recommendations) != 1 {
		t.Errorf("%d indexes where one is allowed", len(few.Recommendations))
	}
	if few := b.analyze(w, Budget{MaxSize: 1 << 20}); len(few.Recommendations) == 0 {
		t.Log("nothing fits in 1 MB")
	} else {
		total := int64(0)
		for _, r := range few.Recommendations {
			total += *r.SizeBytes
		}
		if total > 1<<20 {
			t.Errorf("%d bytes where 1 MB is allowed", total)
		}
	}
	if few := b.analyze(w, Budget{MaxWrite: 120}); few.WriteBytes > 120 {
		t.Errorf("%.0f bytes of WAL where 120 are allowed", few.WriteBytes)
	}
	only, err := Analyze(t.Context(), b.db, AnalyzeOptions{Workload: w, Tables: []uint32{b.oid("public.orders")}, Budget: Budget{Mode: ModeRead}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range only.Recommendations {
		if r.Table != "public.orders" {
			t.Errorf("%s, though only orders was asked for", r.DDL)
		}
	}
}

func (b *base) oid(name string) (oid uint32) {
	b.Helper()
	if err := b.db.Pool().QueryRow(b.Context(), "SELECT $1::regclass::oid", name).Scan(&oid); err != nil {
		b.Fatal(err)
	}
	return oid
}

// TestAnalyzeParameters compares the advice for statements with parameters and with literals.
func TestAnalyzeParameters(t *testing.T) {
	t.Parallel()
	b := audited(t)
	for parameters, literals := range map[string]string{
		"SELECT * FROM log WHERE who = $1 ORDER BY ts DESC LIMIT $2":                                  "SELECT * FROM log WHERE who = 17 ORDER BY ts DESC LIMIT 10",
		"SELECT * FROM log WHERE org = $1 AND ts >= $2 AND ts < $3":                                   "SELECT * FROM log WHERE org = 4 AND ts >= '2025-02-03' AND ts < '2025-02-10'",
		"SELECT id FROM log WHERE lower(email) = lower($1)":                                           "SELECT id FROM log WHERE lower(email) = 'u17@x.org'",
		"SELECT * FROM orders WHERE cid IN ($1, $2, $3)":                                              "SELECT * FROM orders WHERE cid IN (5, 7, 9)",
		"SELECT * FROM orders WHERE cid = ANY ($1)":                                                   "SELECT * FROM orders WHERE cid IN (5, 7, 9)",
		"SELECT * FROM orders WHERE at > date $1 - interval $2 AND at < date $1 AND cid = $3":         "SELECT * FROM orders WHERE at > '2024-01-01' AND at < '2024-01-08' AND cid = 8",
		"SELECT id FROM log WHERE d @> $1":                                                            `SELECT id FROM log WHERE d @> '{"k": 17}'`,
		"SELECT * FROM log WHERE org = $1 AND (ts, id) < ($2, $3) ORDER BY ts DESC, id DESC LIMIT $4": "SELECT * FROM log WHERE org = 5 AND (ts, id) < ('2025-02-10', 100) ORDER BY ts DESC, id DESC LIMIT 20",
	} {
		first := func(query string) string {
			a := b.analyze(queriesOf(t, query), Budget{})
			if len(a.Recommendations) == 0 || len(a.LeftOut) > 0 {
				return fmt.Sprint("nothing, left out ", a.LeftOut)
			}
			return a.Recommendations[0].Definition.Method + " " + keyOfDefinition(a.Recommendations[0].Definition.Keys[0])
		}
		if with, without := first(parameters), first(literals); with != without {
			t.Errorf("%s:\n%s, and with literals %s", parameters, with, without)
		}
	}
}

// TestModelAgainstPlanner compares what the model says of indexes that are there with what the planner says.
func TestModelAgainstPlanner(t *testing.T) {
	t.Parallel()
	b := audited(t)
	b.exec("CREATE INDEX ON log (org, ts)", "CREATE INDEX ON log (who) INCLUDE (id)", "CREATE INDEX ON log (lower(email))", "CREATE INDEX ON log (ts) WHERE status = 'failed'",
		"CREATE INDEX ON log USING gin (d jsonb_path_ops)", "CREATE INDEX ON orders (cid, at)", "CREATE INDEX ON orders (clerk)", "CREATE INDEX ON customer (phone)", "VACUUM ANALYZE")
	for _, query := range []string{
		"SELECT * FROM log WHERE org = 5 ORDER BY ts DESC LIMIT 10", "SELECT id FROM log WHERE who = 7", "SELECT * FROM log WHERE who = 7", "SELECT * FROM log WHERE lower(email) = 'u17@x.org'",
		"SELECT id, ts FROM log WHERE status = 'failed' ORDER BY ts", `SELECT id FROM log WHERE d @> '{"k": 17}'`, "SELECT * FROM orders WHERE cid = 3 AND at > '2023-01-01'",
		"SELECT * FROM orders WHERE clerk = 5 OR cid = 3", "SELECT c.name, o.total FROM customer c JOIN orders o ON o.cid = c.cid WHERE c.phone = 'x'", "SELECT max(ts) FROM log WHERE org = 3",
		"SELECT count(*) FROM log WHERE org = 3 AND ts > '2025-03-10'", "SELECT * FROM orders WHERE cid BETWEEN 5 AND 9 ORDER BY cid, at", "SELECT * FROM log WHERE org = 5 AND who = 3",
		"SELECT * FROM orders o JOIN customer c USING (cid) WHERE o.clerk = 3", "SELECT * FROM log WHERE ts > '2025-02-10' ORDER BY ts LIMIT 50",
	} {
		var modelled, planned float64
		err := b.db.TxWith(t.Context(), pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
			a := &analyst{o: AnalyzeOptions{Workload: &Workload{}}, leaves: map[string]leafOf{}}
			if a.explainer, err = newExplainer(t.Context(), tx, b.db.UserSearchPath(), time.Minute); err != nil {
				return err
			}
			bare, err := a.plans(t.Context(), []Query{{query, 1}})
			if err == nil {
				err = a.know(t.Context(), tx, bare)
			}
			if err == nil {
				err = a.model(t.Context(), bare[0])
			}
			if err == nil {
				modelled, planned = a.queries[0].modelled, a.queries[0].before
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(math.Log((modelled+1)/(planned+1))) > math.Log(1.5) {
			t.Errorf("%s: the planner says %.1f, the model %.1f", query, planned, modelled)
		}
	}
}

func TestAnalyzeOnAStandby(t *testing.T) {
	t.Parallel()
	primary := pgtest.Server(t)
	p := &base{T: t, url: primary.URL("postgres")}
	p.exec("CREATE TABLE orders AS SELECT n AS oid, n % 5000 AS cid FROM generate_series(1, 40000) n", "VACUUM ANALYZE orders")
	standby, caughtUp := pgtest.Standby(t, primary)
	caughtUp()
	db, err := postgres.Open(t.Context(), postgres.Options{URL: standby.URL("postgres"), Application: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	a, err := Analyze(context.WithoutCancel(t.Context()), db, AnalyzeOptions{Workload: queriesOf(t, "SELECT * FROM orders WHERE cid = $1"), Budget: Budget{Mode: ModeRead}})
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Recommendations) != 1 {
		t.Errorf("%v, left out %v", a.Recommendations, a.LeftOut)
	}
}
