package indexes

import "testing"

// One call that becomes somewhat cheaper does not pay for an index, many do.
func TestAnalyzeWeighsTheSizeOfAnIndex(t *testing.T) {
	t.Parallel()
	b := fresh(
		t,
		`CREATE TABLE e (at timestamptz, a bigint, b bigint, c bigint, d bigint, note varchar(40))`,
		`INSERT INTO e SELECT '2025-01-01 00:00+00'::timestamptz + n * 7919 % 60000 * interval '1 minute', n, n, n, n, 'n' || n FROM generate_series(1, 60000) n`,
		`VACUUM ANALYZE e`,
	)
	const query = `SELECT at, a, b, c, d, note FROM e WHERE at >= '2025-01-03' AND at < '2025-01-16';`
	few, many := b.analyze(queriesOf(t, "-- calls: 1\n"+query), Budget{}), b.analyze(queriesOf(t, "-- calls: 2000\n"+query), Budget{})
	if len(few.Recommendations) > 0 || len(many.Recommendations) != 1 {
		t.Fatalf("%v for one call, %v for 2000", few.Recommendations, many.Recommendations)
	}
	if r := many.Recommendations[0]; *r.CostBefore / *r.CostAfter > muchCheaper {
		t.Errorf("%s makes it %.1f times cheaper: not what is to be weighed", r.DDL, *r.CostBefore / *r.CostAfter)
	}
}
