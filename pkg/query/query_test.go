package query

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
	"auditdb/pkg/partitions"
)

// event is a row as the plain filter in Go sees it.
type event struct {
	id                     int64
	at                     time.Time
	action, status         string
	principal, org, object *string
	details                any // as encoding/json reads it, numbers as they are written
	raw                    string
}

func open(t *testing.T, url string) *postgres.DB {
	t.Helper()
	db, err := postgres.Open(t.Context(), postgres.Options{URL: url, Application: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

func run(t *testing.T, db *postgres.DB, sql string, args ...any) {
	t.Helper()
	if _, err := db.Pool().Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func resolve(t *testing.T, db *postgres.DB, name string) partitions.Table {
	t.Helper()
	table, err := partitions.Resolve(t.Context(), db, name)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// filled makes months of 2026, some of them missing, with a default partition, and 600 rows with few different values and many equal times.
func filled(t *testing.T, url string) (*postgres.DB, partitions.Table) {
	t.Helper()
	db := open(t, url)
	for _, m := range []string{"01", "02", "04"} {
		next, _ := strconv.Atoi(m)
		run(t, db, fmt.Sprintf(`CREATE TABLE public.audit_log_2026_%s PARTITION OF public.audit_log FOR VALUES FROM ('2026-%s-01Z') TO ('2026-%02d-01Z')`, m, m, next+1))
	}
	run(t, db, `CREATE TABLE public.audit_log_rest PARTITION OF public.audit_log DEFAULT`)
	run(t, db, `INSERT INTO public.audit_log ("timestamp", action, status, principal_id, organization_id, target_resource_id, details)
SELECT $1::timestamptz + (n * 7919 % 150) * interval '1 day' + (n % 3) * interval '1 microsecond', 'a' || n % 4, 's' || n % 3,
  CASE n % 5 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE 'p' || n % 5 END, CASE n % 3 WHEN 1 THEN 'Org' ELSE 'org' END, 'r' || n % 7,
  CASE n % 11 WHEN 0 THEN NULL WHEN 1 THEN '"text"' WHEN 2 THEN '[1, [2, "x"], {"a": 1}]' WHEN 3 THEN '5'
  ELSE jsonb_build_object('k', CASE n % 6 WHEN 0 THEN '1'::jsonb WHEN 1 THEN '"1"' WHEN 2 THEN 'null' WHEN 3 THEN 'true' WHEN 4 THEN '1.0' ELSE '{"a": "x", "b": [1, 2]}' END,
    'a.b', 'v' || n % 3, '0', 'zero', 'l', jsonb_build_array('x', n % 4, jsonb_build_object('d', n % 2))) END
FROM generate_series(1, 600) n`, start)
	return db, resolve(t, db, "public.audit_log")
}

func events(t *testing.T, db *postgres.DB) []event {
	t.Helper()
	rows, err := db.Pool().Query(t.Context(), `SELECT id, "timestamp", action, status, principal_id, organization_id, target_resource_id, details::text FROM public.audit_log`)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e event, err error) {
		var raw *string
		if err = row.Scan(&e.id, &e.at, &e.action, &e.status, &e.principal, &e.org, &e.object, &raw); err != nil || raw == nil {
			return e, err
		}
		e.raw = *raw
		dec := json.NewDecoder(strings.NewReader(e.raw))
		dec.UseNumber()
		return e, dec.Decode(&e.details)
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(list, func(a, b event) int { return cmp.Or(b.at.Compare(a.at), cmp.Compare(b.id, a.id)) })
	return list
}

// at follows a path in a document.
func at(doc any, path []string) (any, bool) {
	for _, step := range path {
		switch d := doc.(type) {
		case map[string]any:
			v, ok := d[step]
			if !ok {
				return nil, false
			}
			doc = v
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil {
				return nil, false
			}
			if i < 0 {
				i += len(d)
			}
			if i < 0 || i >= len(d) {
				return nil, false
			}
			doc = d[i]
		default:
			return nil, false
		}
	}
	return doc, true
}

// has is the plain filter for documents: the text of what is at the path.
func (e event) has(f DetailsFilter) bool {
	v, ok := at(e.details, f.Path)
	if !ok || e.raw == "" {
		return false
	}
	switch x := v.(type) {
	case nil:
		return f.Value == "null"
	case string:
		return x == f.Value
	case bool:
		return strconv.FormatBool(x) == f.Value
	case json.Number:
		return x.String() == f.Value
	}
	var want any
	dec := json.NewDecoder(strings.NewReader(f.Value))
	dec.UseNumber()
	if dec.Decode(&want) != nil {
		return false
	}
	mine, err := json.Marshal(v)
	theirs, err2 := json.Marshal(want)
	return err == nil && err2 == nil && string(mine) == string(theirs)
}

func (e event) passes(r Request) bool {
	if r.Window.From != nil && e.at.Before(*r.Window.From) || r.Window.To != nil && !e.at.Before(*r.Window.To) {
		return false
	}
	for _, f := range r.Filters {
		value := map[string]*string{"action": &e.action, "status": &e.status, "principal_id": e.principal, "organization_id": e.org, "target_resource_id": e.object}[f.Column]
		if value == nil || *value != f.Value {
			return false
		}
	}
	return !slices.ContainsFunc(r.Details, func(f DetailsFilter) bool { return !e.has(f) })
}

func drawRequest(rt *rapid.T, t partitions.Table) Request {
	r := Request{Table: t, Limit: rapid.SampledFrom([]int{5, 20, 100, 1000}).Draw(rt, "limit"), Partitions: rapid.SampledFrom([]int{0, 4}).Draw(rt, "partitions known")}
	for _, c := range []struct {
		name   string
		values []string
	}{
		{"action", []string{"a0", "a1", "a9"}},
		{"status", []string{"s0", "s2"}},
		{"principal_id", []string{"p2", "", "P2"}},
		{"organization_id", []string{"org", "Org", "ORG"}},
		{"target_resource_id", []string{"r0", "r6"}},
	} {
		if rapid.IntRange(0, 4).Draw(rt, c.name+" filtered") == 0 {
			r.Filters = append(r.Filters, Filter{Column: c.name, Value: rapid.SampledFrom(c.values).Draw(rt, c.name)})
		}
	}
	if rapid.IntRange(0, 1).Draw(rt, "details filtered") == 0 {
		r.Details = append(r.Details, DetailsFilter{
			Path:  rapid.SampledFrom([][]string{{"k"}, {"a.b"}, {"l", "0"}, {"l", "-1", "d"}, {"k", "a"}, {"0"}, {"1"}, {"1", "1"}, {"l"}, {"none"}, {"k", "b"}}).Draw(rt, "path"),
			Value: rapid.SampledFrom([]string{"1", "1.0", "null", "true", "v1", "x", "zero", "[1, 2]", "[2, \"x\"]", "0", "", "5", `{"a": "x", "b": [1, 2]}`}).Draw(rt, "value"),
		})
	}
	day := func(name string) *time.Time {
		if rapid.IntRange(0, 2).Draw(rt, name+" open") == 0 {
			return nil
		}
		d := start.AddDate(0, 0, rapid.IntRange(-3, 155).Draw(rt, name)).Add(time.Duration(rapid.IntRange(-1, 2).Draw(rt, name+" µs")) * time.Microsecond)
		return &d
	}
	r.Window = Window{From: day("from"), To: day("to")}
	return r
}

// Whatever is asked for, pages, streams, counts and groups are those of a plain filter in Go over the same rows, with a GIN index and without.
func TestAnswersAreThoseOfAPlainFilter(t *testing.T) {
	t.Parallel()
	db, table := filled(t, pgtest.DB(t))
	all := events(t, db)
	engine := New(Options{DB: db, Now: func() time.Time { return start.AddDate(0, 3, 0) }, StatementTimeout: time.Minute})
	checkAnswers(t, engine, table, all)
	run(t, db, `CREATE INDEX ON public.audit_log USING gin (details)`)
	checkAnswers(t, engine, table, all)
}

func checkAnswers(t *testing.T, engine *Engine, table partitions.Table, all []event) {
	t.Helper()
	ctx := t.Context()
	rapid.Check(t, func(rt *rapid.T) {
		r := drawRequest(rt, table)
		var want []int64
		groups := map[string]int64{}
		for _, e := range all {
			if e.passes(r) {
				want = append(want, e.id)
				groups[e.action]++
			}
		}
		got := pages(ctx, rt, engine, r)
		if !slices.Equal(got, want) {
			rt.Fatalf("%+v: pages have %d rows %v, want %d %v", r, len(got), got, len(want), want)
		}
		got = got[:0]
		if _, _, err := engine.Stream(ctx, streamOf(r), func(row Row) error { got = append(got, id(rt, row)); return nil }); err != nil {
			rt.Fatal(err)
		}
		if !slices.Equal(got, want) {
			rt.Fatalf("%+v: the stream has %v, want %v", r, got, want)
		}
		if _, n, err := engine.Count(ctx, r); err != nil || n != int64(len(want)) {
			rt.Fatalf("%+v: count %d, %v, want %d", r, n, err, len(want))
		}
		_, found, n, err := engine.Groups(ctx, r, "action")
		if err != nil || n != len(groups) {
			rt.Fatalf("%+v: %d groups, %v, want %d", r, n, err, len(groups))
		}
		for _, g := range found {
			if groups[*g.Key] != g.Count {
				rt.Fatalf("%+v: group %s has %d, want %d", r, *g.Key, g.Count, groups[*g.Key])
			}
		}
	})
}

func streamOf(r Request) Request {
	r.Limit = 0
	return r
}

func id(t rapid.TB, r Row) int64 {
	n, err := strconv.ParseInt(r.Text("id"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// pages follows the cursors to the end.
func pages(ctx context.Context, t rapid.TB, engine *Engine, r Request) []int64 {
	var got []int64
	for {
		page, err := engine.Page(ctx, r)
		if err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
		if len(page.Rows) > r.Limit || page.Next != "" && len(page.Rows) != r.Limit {
			t.Fatalf("%+v: a page of %d rows, next %q", r, len(page.Rows), page.Next)
		}
		for _, row := range page.Rows {
			got = append(got, id(t, row))
		}
		if page.Next == "" {
			return got
		}
		r.After = page.Next
	}
}

// A cursor that was changed anywhere, or made by hand, is refused and never panics; a right one is read as it was written.
func FuzzCursor(f *testing.F) {
	of := Request{Table: partitions.Table{Schema: "s", Name: "t"}}.digest()
	c := cursor{from: &start, at: []string{"2026-01-01 00:00:00+00", "17"}}
	f.Add(c.text(of))
	f.Add("")
	f.Add("AQ")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseCursor(s, of)
		if err != nil {
			if fault.ClassOf(err) != fault.Usage {
				t.Fatalf("class of %v", err)
			}
			return
		}
		if got.text(of) != s {
			t.Fatalf("%q is read as %+v, which is %q", s, got, got.text(of))
		}
	})
}

func TestCursorsAreBoundToTheirQuery(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		of := Request{Window: Window{Written: rapid.String().Draw(rt, "window")}}.digest()
		c := cursor{at: rapid.SliceOfN(rapid.String(), 1, 4).Draw(rt, "at")}
		if rapid.Bool().Draw(rt, "bounded") {
			end := time.Unix(rapid.Int64Range(-1e11, 1e11).Draw(rt, "s"), rapid.Int64Range(0, 999_999_999).Draw(rt, "ns")).UTC()
			c.to = &end
		}
		text := c.text(of)
		got, err := parseCursor(text, of)
		if err != nil || !slices.Equal(got.at, c.at) || (got.to == nil) != (c.to == nil) || c.to != nil && !got.to.Equal(*c.to) {
			rt.Fatalf("%+v is read as %+v, %v", c, got, err)
		}
		other := Request{Window: Window{Written: "x"}, Details: []DetailsFilter{{Path: []string{"a"}, Value: "b"}}}.digest()
		if _, err := parseCursor(text, other); fault.ClassOf(err) != fault.Usage {
			rt.Fatalf("taken for another query: %v", err)
		}
		i := rapid.IntRange(0, len(text)-1).Draw(rt, "changed at")
		changed := []byte(text)
		changed[i] = map[bool]byte{true: 'A', false: 'B'}[changed[i] != 'A']
		if _, err := parseCursor(string(changed), of); err == nil {
			rt.Fatalf("a changed cursor is taken")
		}
	})
}

func FuzzParseDetails(f *testing.F) {
	for _, s := range []string{"a=b", `a\.b.0=x=y`, "", "=", `\`, "a.=b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseDetails(s)
		if err != nil {
			return
		}
		var b strings.Builder
		for i, step := range got.Path {
			if i > 0 {
				b.WriteByte('.')
			}
			b.WriteString(strings.NewReplacer(`\`, `\\`, ".", `\.`, "=", `\=`).Replace(step))
		}
		again, err := ParseDetails(b.String() + "=" + got.Value)
		if err != nil || !slices.Equal(again.Path, got.Path) || again.Value != got.Value {
			t.Fatalf("%q: %+v, again %+v, %v", s, got, again, err)
		}
	})
}

// Keys of every kind are ranged, ordered and paged as times.
func TestKeysOfEveryKind(t *testing.T) {
	t.Parallel()
	db := open(t, pgtest.Empty(t))
	for kind, sql := range map[string]string{
		"timestamptz": `$1::timestamptz`,
		"timestamp":   `$1::timestamptz AT TIME ZONE 'UTC'`,
		"date":        `($1::timestamptz AT TIME ZONE 'UTC')::date`,
		"uuid":        `(lpad(to_hex((extract(epoch FROM $1::timestamptz) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid`,
		"bigint":      `(extract(epoch FROM $1::timestamptz) * 1000)::bigint`,
	} {
		run(t, db, fmt.Sprintf(`CREATE TABLE public.k_%s (k %s NOT NULL, n int NOT NULL, PRIMARY KEY (k, n)) PARTITION BY RANGE (k)`, kind, kind))
		for d := range 4 {
			day := func(d int) (text string) {
				if err := db.Pool().QueryRow(t.Context(), "SELECT ("+sql+")::text", start.AddDate(0, 0, d)).Scan(&text); err != nil {
					t.Fatal(err)
				}
				return text
			}
			run(t, db, fmt.Sprintf(`CREATE TABLE public.k_%s_%d PARTITION OF public.k_%s FOR VALUES FROM ('%s') TO ('%s')`, kind, d, kind, day(d), day(d+1)))
			for n := range 3 {
				run(t, db, fmt.Sprintf(`INSERT INTO public.k_%s VALUES (%s, $2)`, kind, sql), start.AddDate(0, 0, d).Add(time.Duration(n)*time.Hour), 10*d+n)
			}
		}
		engine := New(Options{DB: db, Now: time.Now})
		from, to := start.AddDate(0, 0, 1), start.AddDate(0, 0, 3)
		r := Request{Table: resolve(t, db, "public.k_"+kind), Window: Window{From: &from, To: &to}, Limit: 2}
		var got []string
		for {
			page, err := engine.Page(t.Context(), r)
			if err != nil {
				t.Fatal(kind, err)
			}
			for _, row := range page.Rows {
				got = append(got, row.Text("n"))
			}
			if r.After = page.Next; r.After == "" {
				break
			}
		}
		if text := strings.Join(got, " "); text != "22 21 20 12 11 10" {
			t.Errorf("%s: %s", kind, text)
		}
	}
}

// A row whose values have every form comes out as JSON that says the same.
func TestRowsAsJSON(t *testing.T) {
	t.Parallel()
	db := open(t, pgtest.Empty(t))
	run(t, db, `CREATE TABLE public.f (at timestamptz PRIMARY KEY, b bool, n numeric, f8 float8, j json, s text, a int[], bt bytea, salt uuid, d date, ts timestamp) PARTITION BY RANGE (at);
CREATE TABLE public.f_1 PARTITION OF public.f FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
INSERT INTO public.f VALUES ('2026-01-01Z', true, 1.10, 'NaN', '{"b":1,  "a":1.0}', E'q"\\\n<é\u2028', '{1,2}', '\x00', gen_random_uuid(), '2026-01-02', '2026-01-02 03:04:05.6'),
  ('infinity', false, 'NaN', 1e300, NULL, '', NULL, NULL, NULL, NULL, NULL), ('0044-03-15 BC', NULL, 123456789012345678901234567890, -0.5, 'null', NULL, NULL, NULL, NULL, NULL, 'infinity')`)
	page, err := New(Options{DB: db, Now: time.Now}).Page(t.Context(), Request{Table: resolve(t, db, "public.f"), Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`{"at":"infinity","b":false,"n":"NaN","f8":1e+300,"j":null,"s":"","a":null,"bt":null,"d":null,"ts":null}`,
		`{"at":"2026-01-01T00:00:00.000000Z","b":true,"n":1.10,"f8":"NaN","j":{"b":1,"a":1.0},"s":"q\"\\\n<é\u2028","a":"{1,2}","bt":"\\x00","d":"2026-01-02","ts":"2026-01-02T03:04:05.600000"}`,
		`{"at":"0044-03-15 00:00:00+00 BC","b":null,"n":123456789012345678901234567890,"f8":-0.5,"j":null,"s":null,"a":null,"bt":null,"d":null,"ts":"infinity"}`,
	}
	for i, row := range page.Rows {
		if got := string(row.AppendJSON(nil)); got != want[i] {
			t.Errorf("got  %s\nwant %s", got, want[i])
		}
	}
}

// A stream that its reader gives up ends at once, and one that the server cancels says why.
func TestStreamsEnd(t *testing.T) {
	t.Parallel()
	db, table := filled(t, pgtest.DB(t))
	enough := errors.New("enough")
	_, _, err := New(Options{DB: db, Now: time.Now}).Stream(t.Context(), Request{Table: table}, func(Row) error { return enough })
	if !errors.Is(err, enough) {
		t.Errorf("%v", err)
	}
	err = db.Tx(t.Context(), func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "LOCK TABLE public.audit_log_rest"); err != nil {
			return err
		}
		engine := New(Options{DB: db, Now: time.Now, StatementTimeout: 20 * time.Millisecond})
		if _, err := engine.Page(t.Context(), Request{Table: table, Limit: 1}); fault.ClassOf(err) != fault.Timeout {
			t.Errorf("%v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// fragile are replicas of which the first goes away when a row is read from it that lose says.
type fragile struct {
	primary, replica *postgres.DB
	cut              context.CancelFunc
}

func (f *fragile) Read(ctx context.Context, fn func(ctx context.Context, db *postgres.DB, name string) error) error {
	first, cut := context.WithCancel(ctx)
	defer cut()
	f.cut = cut
	if err := fn(first, f.replica, "r1"); first.Err() == nil {
		return err
	}
	return fn(ctx, f.primary, "")
}

// A replica that goes away in the middle of an answer leaves no gap and nothing twice.
func TestReplicasGoAway(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	f := &fragile{primary: b.db, replica: open(t, b.db.Pool().Config().ConnString())}
	engine := b.newEngine(CacheOptions{})
	engine.o.Replicas = f
	want := pages(t.Context(), t, b.newEngine(CacheOptions{}), Request{Table: b.table, Limit: 1000})
	for _, limit := range []int{0, len(want), len(want) - 1, 100} {
		for _, after := range []int{-1, 1, 50, 99, 100, 101} {
			var got []int64
			answer, next, err := engine.Stream(t.Context(), Request{Table: b.table, Limit: limit}, func(r Row) error {
				if got = append(got, id(t, r)); len(got) == after {
					f.cut()
				}
				return nil
			})
			wanted := want
			if limit > 0 {
				wanted = want[:limit]
			}
			if err != nil || !slices.Equal(got, wanted) || (next != "") != (limit > 0 && limit < len(want)) {
				t.Errorf("limit %d, cut after %d: %d rows, next %q, %v; sources %s", limit, after, len(got), next, err, answer.Sources)
			}
			if answer.Sources[SourceReplica] == 0 {
				t.Errorf("limit %d, cut after %d: sources %s", limit, after, answer.Sources)
			}
		}
	}
	page, err := engine.Page(t.Context(), Request{Table: b.table, Limit: 100})
	if err != nil || page.Sources.Costliest() != SourceReplica || len(page.Rows) != 100 {
		t.Errorf("%+v, %v", page, err)
	}
}

// A stream of everything begins at once: the server does not sort first.
func TestStreamsOfEverythingAreNotSorted(t *testing.T) {
	t.Parallel()
	db, table := filled(t, pgtest.DB(t))
	run(t, db, `INSERT INTO public.audit_log ("timestamp", action, status) SELECT $1::timestamptz + (n * 7919 % 40009) * interval '1 minute', 'a', 's' FROM generate_series(1, 40000) n`, start)
	run(t, db, "ANALYZE public.audit_log")
	engine := New(Options{DB: db, Now: time.Now})
	for limit, sorted := range map[int]bool{0: false, 1_000_000: true} {
		p, err := engine.prepare(t.Context(), Request{Table: table, Limit: limit})
		if err != nil {
			t.Fatal(err)
		}
		plan := ""
		err = engine.read(t.Context(), func(tx pgx.Tx, _ Source) error {
			if err := p.inOrder(t.Context(), tx); err != nil {
				return err
			}
			// By itself the server would go on sorting.
			if _, err := tx.Exec(t.Context(), "SET LOCAL cpu_index_tuple_cost = 100"); err != nil {
				return err
			}
			s := &statement{}
			s.sql.WriteString("EXPLAIN " + p.rowsStatement(p.window, 0).text())
			return each(t.Context(), tx, s, func(r [][]byte) error { plan += string(r[0]) + "\n"; return nil })
		})
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(plan, "Sort  (cost") != sorted {
			t.Errorf("limit %d:\n%s", limit, plan)
		}
	}
}

// Whoever shuts readers out for a moment is waited for, as long as Options.Wait allows, and is named where that is over.
func TestLockedAgainstReaders(t *testing.T) {
	t.Parallel()
	db, table := filled(t, pgtest.DB(t))
	holder, err := db.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Close(context.WithoutCancel(t.Context())) }()
	hold := func() pgx.Tx {
		t.Helper()
		tx, err := holder.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), "LOCK TABLE public.audit_log_2026_02 IN ACCESS EXCLUSIVE MODE"); err != nil {
			t.Fatal(err)
		}
		return tx
	}
	request := Request{Table: table, Limit: 500}
	tx := hold()
	_, err = New(Options{DB: db, Now: time.Now, Wait: 200 * time.Millisecond}).Page(t.Context(), request)
	if want := fmt.Sprintf("blocked by pid %d", holder.PgConn().PID()); fault.ClassOf(err) != fault.Locked || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	answered := make(chan error, 1)
	go func() {
		page, err := New(Options{DB: db, Now: time.Now, Wait: time.Minute}).Page(t.Context(), request)
		if err == nil && len(page.Rows) != 500 {
			err = fmt.Errorf("%d rows", len(page.Rows))
		}
		answered <- err
	}()
	for waits, deadline := false, time.Now().Add(time.Minute); !waits; time.Sleep(time.Millisecond) {
		if err := db.Pool().QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'public.audit_log_2026_02'::regclass)").Scan(&waits); err != nil || time.Now().After(deadline) {
			t.Fatal("no reader waits", err)
		}
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
}
