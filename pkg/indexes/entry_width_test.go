package indexes

import (
	"slices"
	"strings"
	"testing"
)

// After what is recommended is made, rows with long values go in as before.
func TestAnalyzeLeavesRoomForLongValues(t *testing.T) {
	t.Parallel()
	b := fresh(
		t,
		`CREATE DOMAIN document AS jsonb`,
		`CREATE TABLE e (id bigint, created_at timestamptz, kind integer, payload jsonb, raw bytea, doc document, tags text[], x xml, note text, label varchar(20), code text, big varchar(4000), attrs jsonb)`,
		`INSERT INTO e SELECT n, '2025-01-01'::timestamptz + n * interval '1 minute', n % 500, '{"a": 1}', '\x01', '{}', '{a}', '<a/>', CASE WHEN n % 1000 = 0 THEN repeat('n', 600) ELSE 'n' || n END, 'l' || n % 900, 'c' || n % 3000, 'b',
  jsonb_build_object('k', n % 4000, 'long', repeat(md5(n::text), CASE WHEN n % 500 = 0 THEN 30 ELSE 1 END)) FROM generate_series(1, 40000) n`,
		`VACUUM ANALYZE e`,
	)
	w := queriesOf(t, `-- calls: 1000
SELECT created_at, id, payload FROM e WHERE created_at >= '2025-01-10' AND created_at < '2025-01-11' ORDER BY created_at, id;
-- calls: 1000
SELECT kind, raw FROM e WHERE kind = 7;
-- calls: 1000
SELECT kind, doc FROM e WHERE kind = 8;
-- calls: 1000
SELECT kind, tags, x FROM e WHERE kind = 9;
-- calls: 1000
SELECT id FROM e WHERE note = 'n17';
-- calls: 1000
SELECT id FROM e WHERE tags = '{b}';
-- calls: 1000
SELECT id FROM e WHERE raw = '\x02';
-- calls: 1000
SELECT id FROM e WHERE big = 'x';
-- calls: 1000
SELECT id FROM e WHERE attrs ->> 'long' = 'x';
-- calls: 1000
SELECT id FROM e WHERE attrs ->> 'k' = '17';
-- calls: 1000
SELECT label, kind FROM e WHERE label = 'l17';
-- calls: 1000
SELECT code, kind FROM e WHERE code = 'c17';
`)
	a := b.analyze(w, Budget{})
	var keys []string
	for _, r := range a.Recommendations {
		keys = append(keys, r.Definition.KeyText())
		for _, column := range []string{"payload", "raw", "doc", "tags", "x", "note", "attrs"} {
			if slices.Contains(r.Definition.Include, column) || slices.ContainsFunc(r.Definition.Keys, func(k Key) bool { return k.Column == column || strings.Contains(k.Expression, "'long'") }) {
				t.Errorf("%s holds %s", r.DDL, column)
			}
		}
		b.exec(r.DDL)
	}
	all := strings.Join(keys, "; ")
	for _, want := range []string{"created_at", "kind", "label", "code", "'k'"} {
		if !strings.Contains(all, want) {
			t.Errorf("nothing is recommended on %s: %s", want, all)
		}
	}
	long := `(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 900) n)`
	b.exec(`INSERT INTO e SELECT 0, now(), 1, jsonb_build_object('a', ` + long + `), ` + long + `::bytea, jsonb_build_object('a', ` + long + `), ARRAY[` + long + `], ('<a>' || ` + long + ` || '</a>')::xml, ` + long +
		`, 'l', 'c', 'b', jsonb_build_object('k', 1, 'long', ` + long + `)`)
}

func TestHolds(t *testing.T) {
	t.Parallel()
	text := func(length, declared int) *columnStats {
		return &columnStats{category: "S", known: true, width: min(float64(length), 20), declared: float64(declared), histogram: []string{"a", strings.Repeat("x", length)}}
	}
	tb := &table{widths: map[string]float64{}, columns: map[string]*columnStats{
		"id": {fixed: 8, category: "N"}, "ip": {category: "I"}, "doc": {category: "U", known: true, width: 2, common: []string{"{}"}}, "list": {category: "A", known: true, width: 10, common: []string{"{}"}},
		"short": text(100, 0), "long": text(300, 0), "unknown": {category: "S", width: 32}, "declared": {category: "S", width: 32, declared: 84}, "wide": {category: "S", width: 32, declared: 16004},
		"toasted": {category: "S", known: true, width: 400, common: []string{"a"}}, "nothing": {category: "S", known: true, width: 1}, "s1": text(200, 0), "s2": text(200, 0), "s3": text(200, 0), "sd": text(200, 1024),
	}}
	for _, c := range []struct {
		keys, include string
		want          bool
	}{
		{"id ip", "", true},
		{"id", "doc", false},
		{"doc", "", false},
		{"list", "", false},
		{"short", "ip", true},
		{"long", "", false},
		{"id", "long", false},
		{"unknown", "", false},
		{"declared", "", true},
		{"wide", "", false},
		{"toasted", "", false},
		{"nothing", "", false},
		{"s1 s2", "", true},
		{"s1 s2", "s3", false},
		{"s1 sd", "s3", false},
	} {
		d := Definition{Method: BTree, Include: strings.Fields(c.include)}
		for _, k := range strings.Fields(c.keys) {
			d.Keys = append(d.Keys, column(k))
		}
		if got := tb.holds(d); got != c.want {
			t.Errorf("%s include %s: %v", c.keys, c.include, got)
		}
	}
}
