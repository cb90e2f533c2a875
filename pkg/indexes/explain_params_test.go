package indexes

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// What the statistics hold stands for parameters, and is shown nowhere: not in errors, not in what is recommended.
func TestAnalyzeShowsNoSampleValues(t *testing.T) {
	t.Parallel()
	b := fresh(
		t,
		`CREATE DOMAIN level AS text CHECK (VALUE ~ '^[0-9]+$')`,
		`CREATE TABLE e (id bigint, app text, status text, state text, n integer)`,
		`INSERT INTO e SELECT n, 'secret/' || n % 3000, CASE WHEN n % 50 = 0 THEN 'secretly' ELSE 'secretless' END, 'secret' || n % 24, n % 700 FROM generate_series(1, 40000) n`,
		`VACUUM ANALYZE e`,
	)
	for _, query := range []string{
		"SELECT id FROM e WHERE length(app) = $1", "SELECT id FROM e WHERE app::integer = $1", "SELECT id FROM e WHERE app = ($1::level)::text", "SELECT id FROM e WHERE status = $1 AND n = $2",
		"SELECT id FROM e WHERE app = $1", "SELECT id, n FROM e WHERE state = $1", "SELECT n FROM e WHERE state = $1 AND n > $2 ORDER BY n", "SELECT id FROM e WHERE state = $1 ORDER BY n DESC LIMIT 10",
		"SELECT id FROM e WHERE app LIKE $1", "SELECT id FROM e WHERE app > $1::integer::text", "SELECT id FROM e WHERE status = $1", "SELECT id FROM e WHERE app = 'secret' AND n = 'secret'",
		"SELECT id FROM e WHERE app = 'x' 'secret'",
	} {
		w := queriesOf(t, "-- calls: 1000\n"+query)
		a := b.analyze(w, Budget{})
		for i := range a.Recommendations {
			a.Recommendations[i].Queries = nil // the workload's own text
		}
		all, err := json.Marshal(a)
		if err != nil || strings.Contains(string(all), "secret") {
			t.Errorf("%s: %s, %v", query, all, err)
		}
		if own := strings.Contains(query, "secret'"); !own && len(a.LeftOut) > 0 || own && !strings.Contains(fmt.Sprint(a.LeftOut), "(SQLSTATE ") {
			t.Errorf("%s: left out %v", query, a.LeftOut)
		}
	}
}

// No index is thought of whose predicate has a value that stands for a parameter; one of the statement's own literals may be.
func TestPredicatesAreNotGuessed(t *testing.T) {
	t.Parallel()
	b := fresh(t, `CREATE TABLE e (id bigint, state text, kind text, n integer)`,
		`INSERT INTO e SELECT n, 'guess' || n % 20, 'given' || n % 20, n % 700 FROM generate_series(1, 40000) n`, `VACUUM ANALYZE e`)
	given := false
	for _, p := range b.predicates("SELECT id FROM e WHERE state IN ($1, $2) AND kind IN ('given3', 'given4') ORDER BY n") {
		given = given || strings.Contains(p, "given3")
		if strings.Contains(p, "guess") {
			t.Error(p)
		}
	}
	if !given {
		t.Error("the statement's own literal is in no predicate")
	}
}

func TestFits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		column, parameter string
		want              bool
	}{
		{"text", "text", true},
		{"character varying", "text", true},
		{"text", "text[]", true},
		{"integer", "bigint", true},
		{"integer", "integer[]", true},
		{"bigint", "integer", false},
		{"text", "integer", false},
		{"jsonb", "text", false},
		{"timestamp with time zone", "date", true},
		{"timestamp with time zone", "interval", false},
		{"uuid", "uuid", true},
	} {
		if got := (&columnStats{typeName: c.column}).fits(c.parameter); got != c.want {
			t.Errorf("%s for a parameter of %s: %v", c.column, c.parameter, got)
		}
	}
}

// What a table is partitioned by has values of all its leaves, by their rows.
func TestSpread(t *testing.T) {
	t.Parallel()
	leaves := []*leaf{{oid: 1, tuples: 100}, {oid: 2, tuples: 300}, {oid: 3, tuples: 0}, {oid: 4, tuples: 5}}
	c := &columnStats{histogram: []string{"12"}}
	c.spreadOver(leaves, map[uint32][]string{1: {"100", "125", "150", "175", "199"}, 2: {"9", "10", "11", "12", "13"}, 3: {"1"}})
	for part, want := range map[float64]string{0: "9", 0.5: "12", 0.74: "13", 0.83: "125", 0.99: "199"} {
		if got, ok := c.quantile(part); !ok || got != want {
			t.Errorf("%v: %s, want %s", part, got, want)
		}
	}
	if len(c.histogram) != 101 {
		t.Error(len(c.histogram))
	}
}
