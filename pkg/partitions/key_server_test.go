package partitions

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"auditdb/internal/fault"
)

// keyed is a table by a key of a kind, with a first partition in the style that the kind has to keep.
type keyed struct {
	name  string
	kind  KeyKind
	typ   string
	least bool
}

func keyedTables() []keyed {
	return []keyed{
		{"stamps", KeyTimestamptz, "timestamptz", false},
		{"uuids", KeyUUIDv7, "uuid", false},
		{"uuids_least", KeyUUIDv7, "uuid", true},
		{"seconds", KeyEpochS, "bigint", false},
		{"millis", KeyEpochMS, "bigint", false},
		{"micros", KeyEpochUS, "bigint", false},
		{"nanos", KeyEpochNS, "bigint", false},
	}
}

// Of every kind of key: partitions are found and made beside those that are there, rows go where their moment belongs, those in the default
// partition too, and what has expired goes.
func TestKeyKindsOnServer(t *testing.T) {
	t.Parallel()
	b := fresh(t, hostile)
	for _, k := range keyedTables() { //nolint:paralleltest // they share a database
		t.Run(k.name, func(t *testing.T) {
			key := Key{Column: "k", Kind: k.kind, LeastV7: k.least}
			first := Bounds{From: at(t, "2026-08-31T22:00:00Z"), To: at(t, "2026-09-30T22:00:00Z")}
			b.exec(fmt.Sprintf(`CREATE TABLE public.%[1]s (k %[2]s NOT NULL, n int) PARTITION BY RANGE (k); CREATE TABLE public."first of %[1]s" PARTITION OF public.%[1]s %[3]s;
				CREATE TABLE public.%[1]s_rest PARTITION OF public.%[1]s DEFAULT`,
				k.name, k.typ, key.ForValues(first)))
			tab := b.table("public." + k.name)
			if tab.Key != key || tab.ReadOnly != nil {
				t.Fatalf("%+v %v", tab.Key, tab.ReadOnly)
			}
			if err := tab.SetZone("Europe/Paris"); err != nil {
				t.Fatal(err)
			}
			tab.Interval = Monthly
			october, november := at(t, "2026-10-15"), at(t, "2026-10-31T23:00:00Z")
			b.exec(fmt.Sprintf(`INSERT INTO public.%s VALUES (%s, 1), (%s, 2)`, k.name, key.literal(october), key.literal(november)))
			made := b.create(tab, CreateOptions{Ahead: 1})
			var names []string
			var moved int64
			for _, m := range made {
				names, moved = append(names, m.Name), moved+m.Moved
			}
			if got, want := strings.Join(names, " "), fmt.Sprintf("%[1]s_2026_10 %[1]s_2026_11 %[1]s_2026_12", k.name); got != want || moved != 2 {
				t.Fatalf("made %s, want %s; %d rows moved", got, want, moved)
			}
			for name, n := range map[string]int{"_2026_10": 1, "_2026_11": 2} {
				if got := value[int](b, fmt.Sprintf("SELECT n FROM ONLY public.%s%s", k.name, name)); got != n {
					t.Errorf("%s holds row %d, not %d", name, got, n)
				}
			}
			c := b.catalog(tab)
			if gaps := c.Inner(); len(gaps) != 0 || c.Len() != 4 {
				t.Errorf("%d partitions, gaps %v", c.Len(), gaps)
			}
			if p, ok := c.Find(tab.KeyTime(november)); !ok || p.Name != k.name+"_2026_11" {
				t.Errorf("%v", p)
			}
			b.exec(fmt.Sprintf("DROP TABLE public.%s_2026_11", k.name))
			if again := b.create(tab, CreateOptions{Ahead: 1}); len(again) != 1 || again[0].Name != k.name+"_2026_11" {
				t.Errorf("the gap is filled with %v", again)
			}
			clock := *b
			clock.realClock()
			done, d := clock.prune(tab, before(t, "2026-11-01"))
			if len(done) != 2 || done[0].Name != "first of "+k.name || done[1].Name != k.name+"_2026_10" || done[1].Rows != 1 {
				t.Errorf("pruned %+v of %+v", done, d.Plan.Skipped)
			}
		})
	}
}

// A unit that nothing tells has to be registered; one that the bounds tell wins over a registration that says something else about another type.
func TestEpochUnitOnServer(t *testing.T) {
	t.Parallel()
	b := migrated(t, `CREATE TABLE bare (k bigint) PARTITION BY RANGE (k)`, `CREATE TABLE ids (k bigint) PARTITION BY RANGE (k)`,
		`CREATE TABLE ids_1 PARTITION OF ids FOR VALUES FROM (1) TO (1000000)`)
	for _, name := range []string{"bare", "ids"} {
		_, err := Resolve(t.Context(), b.db, name)
		wantClass(t, err, fault.Usage)
		if err == nil || !strings.Contains(err.Error(), "unit not known") || !strings.Contains(fault.HintOf(err), "--register --key-kind") {
			t.Errorf("%v", err)
		}
	}
	b.exec(`INSERT INTO auditdb.managed_table (schema_name, table_name, time_column, key_kind, partition_interval, integrity) VALUES ('public', 'bare', 'k', 'epoch_ms', '15d', 'off')`)
	tab := b.table("bare")
	if tab.Key.Kind != KeyEpochMS || tab.Interval != "15d" {
		t.Fatalf("%+v", tab)
	}
	made := b.create(tab, CreateOptions{Ahead: 1})
	if len(made) != 2 || made[0].Name != "bare_2026_11_10" || made[1].Name != "bare_2026_11_25" {
		t.Errorf("%+v", made)
	}
	b.exec("INSERT INTO public.bare VALUES (1795737600000)")
	if got := value[string](b, "SELECT tableoid::regclass::text FROM public.bare"); !strings.HasSuffix(got, "bare_2026_11_25") {
		t.Error(got)
	}
	b.exec("DELETE FROM auditdb.managed_table WHERE table_name = 'bare'")
	if tab := b.table("bare"); tab.Key.Kind != KeyEpochMS || tab.Interval != "15d" {
		t.Errorf("told by the bounds: %+v", tab)
	}
}

func TestKeyLimitsOnServer(t *testing.T) {
	t.Parallel()
	b := migrated(t, `CREATE TABLE uuids (k uuid) PARTITION BY RANGE (k)`, `CREATE TABLE nanos (k bigint) PARTITION BY RANGE (k)`,
		`CREATE TABLE secs (k bigint) PARTITION BY RANGE (k)`,
		`INSERT INTO auditdb.managed_table (schema_name, table_name, key_kind, integrity) VALUES ('public', 'nanos', 'epoch_ns', 'off'), ('public', 'secs', 'epoch_s', 'off')`)
	for _, c := range []struct{ table, from, to, want string }{
		{"uuids", "1969-12-15", "1970-01-02", "1970 to 9999"},
		{"nanos", "2262-01-01", "2262-04-01", "1678 to 2261"},
		{"nanos", "1677-01-01", "1678-01-01", "1678 to 2261"},
		{"secs", "9999-12-31", "9999-12-31T23:00:00Z", "1 to 9999"},
	} {
		tab := b.table(c.table)
		_, _, err := b.tryCreate(tab, exactly(t, c.from, c.to))
		wantClass(t, err, fault.Usage)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.table, err)
		}
	}
	for _, c := range []struct{ table, from string }{{"uuids", "1970-01-01"}, {"uuids", "9999-11-01"}, {"nanos", "2261-12-01"}, {"nanos", "1678-01-01"}, {"secs", "0001-02-01"}, {"secs", "9999-11-01"}} {
		tab := b.table(c.table)
		from := at(t, c.from)
		made := b.create(tab, CreateOptions{From: from, To: from.Add(time.Hour)})
		if len(made) != 1 || !made[0].From.Equal(from) {
			t.Errorf("%s %s: %+v", c.table, c.from, made)
		}
		b.exec(fmt.Sprintf("INSERT INTO %s VALUES (%s)", tab.Ident(), tab.Key.literal(from)))
	}
}

// Tables that cannot be worked on are listed as far as their bounds can be understood, and refused otherwise with the reason.
func TestReadOnlyTables(t *testing.T) {
	t.Parallel()
	b := fresh(t,
		`CREATE TABLE two (k timestamptz, n int) PARTITION BY RANGE (k, n); CREATE TABLE two_1 PARTITION OF two FOR VALUES FROM ('2026-01-01Z', 1) TO ('2026-02-01Z', 5)`,
		`CREATE TABLE expr (k timestamp) PARTITION BY RANGE (date_trunc('day', k)); CREATE TABLE expr_1 PARTITION OF expr FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')`,
		`CREATE TABLE listed (k text) PARTITION BY LIST (k); CREATE TABLE listed_a PARTITION OF listed FOR VALUES IN ('a', 'b'); CREATE TABLE listed_rest PARTITION OF listed DEFAULT`,
		`CREATE TABLE hashed (k text) PARTITION BY HASH (k); CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0)`,
		`CREATE TABLE words (k text) PARTITION BY RANGE (k); CREATE TABLE words_a PARTITION OF words FOR VALUES FROM ('a') TO ('b')`,
		`CREATE TABLE nanos (k bigint) PARTITION BY RANGE (k); CREATE TABLE nanos_1 PARTITION OF nanos FOR VALUES FROM (1793491200000000000) TO (1796083200000000001)`,
		`CREATE TABLE mixed (k uuid) PARTITION BY RANGE (k); CREATE TABLE mixed_1 PARTITION OF mixed FOR VALUES FROM ('019a3ccc-c800-0000-0000-000000000000') TO ('01a3ccc0-0000-7000-8000-000000000000')`,
		`CREATE TABLE random (k uuid) PARTITION BY RANGE (k); CREATE TABLE random_1 PARTITION OF random FOR VALUES FROM (MINVALUE) TO ('80000000-0000-4000-8000-000000000001')`,
		`CREATE TABLE ids (k int) PARTITION BY RANGE (k); CREATE TABLE ids_1 PARTITION OF ids FOR VALUES FROM (1) TO (1000)`)
	for name, c := range map[string]struct {
		reason  string
		ranges  int
		foreign int
	}{
		"two": {"by 2 columns", 0, 1}, "expr": {"by an expression", 1, 0}, "listed": {"by list", 0, 1}, "hashed": {"by hash", 0, 1}, "words": {"type text", 0, 1},
		"nanos": {"unit not known", 0, 1}, "mixed": {"another style", 0, 1}, "random": {"least of their millisecond", 0, 1}, "ids": {"type integer", 0, 1},
	} {
		_, err := Resolve(t.Context(), b.db, name)
		wantClass(t, err, fault.Usage)
		if err == nil || !strings.Contains(err.Error(), "unsupported key") || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: %v", name, err)
		}
		tab, err := ResolveToRead(t.Context(), b.db, name)
		if err != nil {
			t.Fatal(err)
		}
		cat := b.catalog(tab)
		if cat.Len() != c.ranges || len(cat.Foreign()) != c.foreign {
			t.Errorf("%s: %d ranges, %+v", name, cat.Len(), cat.Foreign())
		}
	}
	// A bound that comes after the table was found is no range of times for those who write.
	b.exec(`CREATE TABLE later (k uuid) PARTITION BY RANGE (k)`)
	tab := b.table("later")
	b.exec(`CREATE TABLE later_1 PARTITION OF later FOR VALUES FROM (MINVALUE) TO ('019a3ccc-c800-7000-8000-000000000000')`)
	_, _, err := b.tryCreate(tab, CreateOptions{Ahead: 1})
	wantClass(t, err, fault.Data)
}
