package indexes

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// overlapping are queries that are served best by indexes of which some cover others.
const overlapping = `-- calls: 500
SELECT count(*) FROM log WHERE org = 5;
-- calls: 500
SELECT org, who, email, status, ts FROM log WHERE org = 5;
-- calls: 400
SELECT count(*) FROM orders WHERE cid = 7;
-- calls: 400
SELECT cid, at, total, clerk FROM orders WHERE cid BETWEEN 7 AND 90;
-- calls: 300
SELECT count(*) FROM orders WHERE cid = 7 AND at > '2024-01-01';
-- calls: 100
SELECT who, ts FROM log WHERE who = 17 ORDER BY ts DESC LIMIT 5;
-- calls: 100
SELECT who, ts FROM log WHERE who = 17 ORDER BY ts LIMIT 5;
-- calls: 100
SELECT count(*) FROM log WHERE who BETWEEN 10 AND 200;
-- calls: 90
SELECT * FROM log WHERE org = 5 ORDER BY who DESC, ts LIMIT 5;
-- calls: 90
SELECT * FROM log WHERE org = 5 ORDER BY who, ts DESC LIMIT 5;
-- calls: 80
SELECT count(*) FROM log WHERE status = 'failed' AND org = 3;
-- calls: 80
SELECT id, ts, status FROM log WHERE status = 'failed' AND org = 3;
`

// What is recommended is neither redundant nor duplicate in the eyes of hygiene.
func TestAnalyzeAdvisesNothingRedundant(t *testing.T) {
	t.Parallel()
	b := audited(t)
	b.exec("CREATE INDEX log_org ON log (org)", "CREATE INDEX orders_at ON orders (at) INCLUDE (cid)")
	for _, mode := range []Mode{ModeBalanced, ModeRead} {
		a := b.analyze(queriesOf(t, overlapping), Budget{Mode: mode})
		if len(a.Recommendations) < 3 {
			t.Fatalf("%s: only %d recommendations", mode, len(a.Recommendations))
		}
		var made []string
		for _, r := range a.Recommendations {
			b.exec(r.DDL)
			made = append(made, r.Definition.Ident())
		}
		b.exec("VACUUM ANALYZE")
		lines, _ := b.hygiene(time.Now())
		for _, line := range lines {
			outdone := slices.ContainsFunc(a.Notes, func(n string) bool {
				return strings.HasPrefix(n, "index public.log_org is redundant once") && strings.HasPrefix(line, "drop public.log log_org")
			})
			if strings.Contains(line, "redundant") && !outdone || strings.Contains(line, "duplicate") {
				t.Errorf("%s: after all was made: %s", mode, line)
			}
		}
		b.exec("DROP INDEX " + strings.Join(made, ", "))
	}
}

func TestTogether(t *testing.T) {
	t.Parallel()
	benefit := 1.0
	need := func(d Definition) Recommendation {
		r := create(d)
		r.Benefit = &benefit
		return r
	}
	a, ab, b := on(column("a")), on(column("a"), column("b")), on(column("b"))
	for _, c := range []struct {
		needs, others []Recommendation
		want          int
	}{
		{[]Recommendation{need(ab)}, []Recommendation{create(a)}, 1},
		{[]Recommendation{need(a)}, []Recommendation{create(ab)}, 1},
		{[]Recommendation{need(a)}, []Recommendation{create(a)}, 1},
		{[]Recommendation{need(a)}, []Recommendation{create(b)}, 2},
	} {
		got := Together(c.needs, c.others)
		if len(got) != c.want || len(c.others[0].Definition.Keys) <= len(c.needs[0].Definition.Keys) && got[0].Benefit == nil {
			t.Errorf("%+v", got)
		}
	}
}
