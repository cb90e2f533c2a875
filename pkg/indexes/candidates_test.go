package indexes

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// An index holds only the rows that a query can ask for, where these are few, and the planner uses it.
func TestAnalyzePartial(t *testing.T) {
	t.Parallel()
	b := fresh(
		t,
		`CREATE TABLE e (id bigint, "Api" text, note text)`,
		`INSERT INTO e SELECT n, CASE WHEN n % 10 = 0 THEN 'key' || n % 3000 END, repeat('x', 60) FROM generate_series(1, 60000) n`,
		`VACUUM ANALYZE e`,
	)
	for _, query := range []string{`SELECT note FROM e WHERE "Api" = 'key770'`, `SELECT note FROM e WHERE "Api" = $1`, `SELECT note FROM e WHERE "Api" IN ('key770', 'key10')`} {
		a := b.analyze(queriesOf(t, "-- calls: 900\n"+query), Budget{Mode: ModeBalanced})
		if len(a.Recommendations) != 1 || a.Recommendations[0].Definition.Predicate != `"Api" IS NOT NULL` {
			t.Errorf("%s: %+v, left out %v", query, a.Recommendations, a.LeftOut)
			continue
		}
		if strings.Contains(query, "$") {
			continue
		}
		before := b.planCost(query)
		b.exec(a.Recommendations[0].DDL)
		if after := b.planCost(query); after > before/2 {
			t.Errorf("%s: %.0f before and %.0f after", query, before, after)
		}
		b.exec("DROP INDEX " + a.Recommendations[0].Definition.Ident())
	}
}

// A condition is a predicate where it is the same for ever, and the server takes it as one.
func TestPredicates(t *testing.T) {
	t.Parallel()
	b := fresh(t, `CREATE TABLE e (id bigint, state text, kind text, due date, n integer)`,
		`INSERT INTO e SELECT n, CASE WHEN n % 50 = 0 THEN 'held' ELSE 'done' END, 'k' || n % 9, '2025-01-01'::date + n % 20, n % 700 FROM generate_series(1, 20000) n`, `VACUUM ANALYZE e`)
	for query, want := range map[string][]string{
		`SELECT id FROM e WHERE state = 'held' AND n > 600`:                                             {"state = 'held'::text"},
		`SELECT id FROM e WHERE state = 'held' AND kind IN ('k7', 'k8')`:                                {"state = 'held'::text", "kind = ANY ('{k7,k8}'::text[])", "(kind = ANY ('{k7,k8}'::text[])) AND (state = 'held'::text)"},
		`SELECT id FROM e WHERE state = 'done' AND n = 5`:                                               nil, // most rows are
		`SELECT id FROM e WHERE id = 7`:                                                                 nil, // others are asked for as well
		`SELECT id FROM e WHERE state = $1 AND n > 600`:                                                 nil,
		`SELECT id FROM e WHERE due = '2025-01-07 00:00+00'::timestamptz AND n = 5`:                     nil, // depends on the session
		`SELECT id FROM e WHERE due = ANY ('{2025-01-07 00:00+00,2025-01-08 00:00+00}'::timestamptz[])`: nil,
		`SELECT id FROM e WHERE kind = (SELECT max(kind) FROM e)`:                                       nil,
	} {
		got := b.predicates(query)
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Errorf("%s:\n%q, want\n%q", query, got, want)
		}
		for _, p := range got {
			b.exec("CREATE INDEX tried ON e (n) WHERE "+p, "DROP INDEX tried")
		}
	}
}

// predicates are those of the indexes that are thought of for a query.
func (b *base) predicates(query string) (all []string) {
	b.Helper()
	err := b.db.TxWith(b.Context(), pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		a := &analyst{o: AnalyzeOptions{Workload: &Workload{}}, leaves: map[string]leafOf{}}
		if a.explainer, err = newExplainer(b.Context(), tx, b.db.UserSearchPath(), time.Minute); err != nil {
			return err
		}
		bare, err := a.plans(b.Context(), []Query{{query, 1}})
		if err == nil {
			err = a.know(b.Context(), tx, bare)
		}
		if err == nil {
			err = a.model(b.Context(), bare[0])
		}
		if err != nil {
			return err
		}
		for _, m := range a.generator.made {
			if m != nil && m.def.Predicate != "" && !slices.Contains(all, m.def.Predicate) {
				all = append(all, m.def.Predicate)
			}
		}
		slices.Sort(all)
		return nil
	})
	if err != nil {
		b.Fatalf("%s: %v", query, err)
	}
	return all
}

// Indexes of a small database may take twice its size, of a large one its size.
func TestRoomByDefault(t *testing.T) {
	t.Parallel()
	for heap, want := range map[float64]int64{1 << 20: 64 << 20, 100 << 20: 200 << 20, 400 << 20: 580 << 20, 2 << 30: 2 << 30} {
		if b, _ := (Budget{}).withDefaults(heap); b.MaxSize != want {
			t.Errorf("%.0f MiB: %d MiB", heap/(1<<20), b.MaxSize>>20)
		}
	}
}
