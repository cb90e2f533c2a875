package indexes

import (
	"fmt"
	"strings"
	"testing"
)

func queriesOf(t *testing.T, text string) *Workload {
	t.Helper()
	w, err := ReadQueries(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestReadQueries(t *testing.T) {
	t.Parallel()
	w := queriesOf(t, "\ufeff-- a comment\n-- calls: 12.5\nSELECT ';', \"a;b\", $x$;$x$ /* ; /* ; */ */ FROM t -- ;\n;\nselect 1;;\nSELECT ';', \"a;b\", $x$;$x$ /* ; /* ; */ */ FROM t -- ;\n; VACUUM; -- calls: 3\nDELETE FROM t WHERE a = -- calls: 9\n 1")
	var got []string
	for _, q := range w.Queries {
		got = append(got, fmt.Sprintf("%g %s", q.Calls, strings.Fields(q.Text)[0]))
	}
	if want := "13.5 SELECT|3 DELETE|1 select"; strings.Join(got, "|") != want {
		t.Errorf("read %q, want %s", got, want)
	}
	if len(w.LeftOut) != 1 || w.LeftOut[0].Query != "(1 utility statements)" {
		t.Errorf("left out %v", w.LeftOut)
	}
}

func TestReadQueriesSaysWhatItLeavesOut(t *testing.T) {
	t.Parallel()
	for text, reason := range map[string]string{
		"SELECT 'a\xff' FROM t":                         "UTF-8",
		"SELECT 1 /*" + strings.Repeat("x", 2<<20):      "longer",
		"SELECT 'secret":                                "not closed",
		"SELECT 1 \x00":                                 "zero byte",
		"<insufficient privilege>":                      "pg_read_all_stats",
		"FROBNICATE t WHERE password = 'secret'":        "cannot be planned",
		"SELECT $99999999999999999999 FROM t":           "too many parameters",
		"SELECT * FROM t WHERE secret = E'it\\'s; one'": "",
	} {
		w := queriesOf(t, text)
		switch {
		case reason == "" && len(w.Queries) != 1:
			t.Errorf("%.40q is left out: %v", text, w.LeftOut)
		case reason != "" && (len(w.LeftOut) != 1 || !strings.Contains(w.LeftOut[0].Reason, reason)):
			t.Errorf("%.40q: left out %v, want %q", text, w.LeftOut, reason)
		case reason != "" && strings.Contains(w.LeftOut[0].Query, "secret'"), reason != "" && len(w.LeftOut[0].Query) > 1000:
			t.Errorf("%.40q is shown as %q", text, w.LeftOut[0].Query)
		}
	}
}

func TestIsOwn(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"SELECT * FROM auditdb.policy WHERE id = $1":                   true,
		`UPDATE "auditdb"."leaf" SET a = $1`:                           true,
		"INSERT INTO auditdb.log(a) VALUES ($1)":                       true,
		"SELECT * FROM t JOIN auditdb.hold h USING (id)":               true,
		"SELECT /* auditdb */ a FROM public.t TABLESAMPLE SYSTEM ($1)": true,
		"SELECT * FROM t WHERE id = auditdb.uuid($1)":                  false,
		"SELECT * FROM t WHERE a = 'auditdb.policy'":                   false,
		"SELECT * FROM public.auditdb -- auditdb.policy":               false,
		"SELECT x.auditdb.policy FROM x":                               false,
		"SELECT * FROM public.audit_log WHERE principal_id = $1":       false,
	} {
		if got := isOwn(text); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func TestIsOfCatalog(t *testing.T) {
	t.Parallel()
	const recursive = "WITH RECURSIVE tree AS (SELECT $2 AS l FROM unnest($1::oid[]) r UNION ALL SELECT l + $3 FROM tree) SELECT * FROM tree t JOIN pg_class c ON c.oid = t.l"
	for text, want := range map[string]bool{
		recursive: true,

		"SELECT * FROM information_schema.tables":                              true,
		"SELECT * FROM pg_catalog.pg_class c, LATERAL (SELECT 1 FROM pg_am) x": true,
		"SELECT * FROM pg_class JOIN gone ON true":                             false,

		"SELECT * FROM gone": false,
		"SELECT 1":           false,
	} {
		if got := isOfCatalog(text); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func csvLine(database, message, detail string) string {
	fields := make([]string, 26)
	fields[csvDatabase], fields[csvMessage], fields[csvDetail] = database, message, detail
	for i, f := range fields {
		fields[i] = `"` + strings.ReplaceAll(f, `"`, `""`) + `"`
	}
	return strings.Join(fields, ",") + "\n"
}

func TestReadLogs(t *testing.T) {
	t.Parallel()
	csv := csvLine("d", "duration: 1.5 ms  statement: SELECT * FROM t WHERE a = 'x''y'", "") +
		csvLine("d", "duration: 1.5 ms  statement: SELECT * FROM t WHERE a = 'other'", "") +
		csvLine("d", "duration: 1.5 ms  statement: SELECT * FROM t WHERE a = 'third'", "") +
		csvLine("elsewhere", "duration: 1.5 ms  statement: SELECT * FROM nothing", "") +
		csvLine("d", "duration: 0.1 ms  execute stmt_1: SELECT * FROM u WHERE b > interval $1 AND c = $2", "parameters: $1 = '1 day', $2 = NULL") +
		csvLine("d", "duration: 0.1 ms  bind stmt_1: SELECT * FROM u", "") +
		csvLine("d", "duration: 9.1 ms  plan:\nQuery Text: SELECT count(*)\n  FROM v\nAggregate  (cost=1.00..2.00 rows=1 width=8)\n  ->  Seq Scan on v  (cost=0.00..1.00 rows=1 width=0)", "") +
		csvLine("d", "checkpoint starting: time", "") + "broken,line\n"
	json := `{"dbname":"d","message":"duration: 1.0 ms  plan:\n{ \"Query Text\": \"SELECT * FROM w WHERE x = $1\", \"Query Parameters\": \"$1 = '7'\", \"Plan\": {} }"}` + "\n{broken\n" +
		`{"dbname":"d","message":"duration: 1.0 ms  statement: SELECT 1"}`
	w, err := ReadLogs("d", strings.NewReader(csv), strings.NewReader(json), strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, q := range w.Queries {
		got[strings.Join(strings.Fields(q.Text), " ")] = q.Calls
	}
	want := map[string]float64{
		"SELECT * FROM t WHERE a = 'x''y'": 1.5, "SELECT * FROM t WHERE a = 'other'": 1.5, "SELECT * FROM u WHERE b > '1 day'::interval AND c = NULL": 1,
		"SELECT count(*) FROM v": 1, "SELECT * FROM w WHERE x = '7'": 1, "SELECT 1": 1,
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("read %v, want %v", got, want)
	}
	if len(w.LeftOut) != 1 || w.LeftOut[0].Calls != 2 {
		t.Errorf("left out %v", w.LeftOut)
	}
	if _, err := ReadLogs("d", strings.NewReader("2026-01-01 LOG:  nothing\n")); err == nil {
		t.Error("a log in text is read")
	}
}

func TestTypedLiterals(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"a > now() - interval $1":               "a > now() - $1::interval",
		"a = date $1 AND b = $2":                "a = $1::date AND b = $2",
		"a = timestamp with time zone $3":       "a = $3::timestamp with time zone",
		"a = $1::date AND 'date $2' = $3":       "a = $1::date AND 'date $2' = $3",
		"WHERE $1 = a LIMIT $2":                 "WHERE $1 = a LIMIT $2",
		"extract(day from timestamp $1) = $2":   "extract(day from $1::timestamp) = $2",
		"a BETWEEN DATE $1 AND DATE $2 LIMIT 1": "a BETWEEN $1::date AND $2::date LIMIT 1",
	} {
		if got := typedLiterals(query); got != want {
			t.Errorf("%s becomes %s", query, got)
		}
	}
}

func FuzzReadQueries(f *testing.F) {
	f.Add("-- calls: 3\nSELECT 1; $a$ x")
	f.Add("'\x00/*")
	f.Add("U&'a' E'\\''")
	f.Fuzz(func(t *testing.T, text string) {
		w, err := ReadQueries(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range w.Queries {
			if len(tokenize(q.Text)) == 0 {
				t.Errorf("a query without a token: %q", q.Text)
			}
		}
	})
}

func FuzzReadLogs(f *testing.F) {
	f.Add(csvLine("d", "duration: 1 ms  plan:\nQuery Text: x", ""))
	f.Add(`{"dbname":"d","message":"duration: 1.0 ms  plan:\n{"}`)
	f.Fuzz(func(_ *testing.T, text string) { _, _ = ReadLogs("d", strings.NewReader(text)) })
}
