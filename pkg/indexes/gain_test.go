package indexes

import "testing"

// The same queries are planned before and after; what cannot be planned, or would do something, is left out.
func TestCost(t *testing.T) {
	t.Parallel()
	b := fresh(t, `CREATE TABLE t (a int, b int)`, `INSERT INTO t SELECT n, n FROM generate_series(1, 20000) n`, `ANALYZE t`)
	queries := []Helped{{Query: `SELECT * FROM t WHERE a = $1 AND b > $2`, Calls: 3}, {Query: `SELECT b FROM t WHERE a = 7`, Calls: 1}}
	for _, bad := range []string{`ANALYZE t`, `SELECT 1; DROP TABLE t`, `DELETE FROM`, `SELECT * FROM nowhere`, `EXECUTE x`, `CREATE TABLE x AS SELECT 1`, ``} {
		queries = append(queries, Helped{Query: bad, Calls: 1e6})
	}
	a := b.applier()
	before := a.Cost(t.Context(), queries)
	b.applied(create(on(column("a"))))
	after := a.Cost(t.Context(), queries)
	if before == nil || after == nil || *before < 1000 || *after > 100 {
		t.Errorf("%v, %v", before, after)
	}
	if cost := a.Cost(t.Context(), queries[2:]); cost != nil {
		t.Error(*cost)
	}
	if n := value[int](b, "SELECT count(*) FROM public.t"); n != 20000 {
		t.Error(n)
	}
}
