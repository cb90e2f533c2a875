package partitions

import (
	"strings"
	"testing"
	"time"
)

// Default partitions and wide partitions of all kinds of tables.
func TestDrainKinds(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, table string
		sql         []string
		check       string // a query that gives the empty string
	}{
		{name: "column order, dropped and generated columns", table: "public.ev", sql: []string{
			`CREATE TABLE public.ev (gone int, id bigint, at timestamptz NOT NULL, found text, twice bigint GENERATED ALWAYS AS (id * 2) STORED, "new" int DEFAULT 7) PARTITION BY RANGE (at)`,
			`ALTER TABLE public.ev DROP COLUMN gone`, `CREATE TABLE public.ev_default (twice bigint GENERATED ALWAYS AS (id * 2) STORED, x int, "new" int DEFAULT 7, at timestamptz NOT NULL, found text, id bigint)`,
			`ALTER TABLE public.ev_default DROP COLUMN x`, `ALTER TABLE public.ev ATTACH PARTITION public.ev_default DEFAULT`,
			`INSERT INTO public.ev (id, at, found) SELECT g, timestamptz '2026-08-01+00' + g * interval '1 minute', 't' FROM generate_series(1, 60000) g`,
		}, check: `SELECT coalesce(string_agg(id::text, ' '), '') FROM public.ev WHERE twice <> id * 2 OR "new" <> 7 OR found <> 't'`},
		{name: "guards, row security, serial, unusual names", table: `"Söme ""Schema"`, sql: []string{
			`CREATE SCHEMA "Söme ""Schema"; CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''append only''; END'`,
			`CREATE TABLE "Söme ""Schema"."The % Tàble of 63 bytes which is rather long for a name, isn't i" (id serial, "At %" timestamptz NOT NULL, PRIMARY KEY ("At %", id)) PARTITION BY RANGE ("At %")`,
			`ALTER TABLE "Söme ""Schema"."The % Tàble of 63 bytes which is rather long for a name, isn't i" ENABLE ROW LEVEL SECURITY`,
			`CREATE POLICY p ON "Söme ""Schema"."The % Tàble of 63 bytes which is rather long for a name, isn't i" USING (false)`,
			`CREATE TRIGGER g BEFORE UPDATE OR DELETE ON "Söme ""Schema"."The % Tàble of 63 bytes which is rather long for a name, isn't i" FOR EACH ROW EXECUTE FUNCTION public.refuse()`,
			`CREATE TABLE "Söme ""Schema".d PARTITION OF "Söme ""Schema"."The % Tàble of 63 bytes which is rather long for a name, isn't i" DEFAULT`,
			`ALTER TABLE "Söme ""Schema".d ENABLE ROW LEVEL SECURITY; CREATE TRIGGER own BEFORE TRUNCATE ON "Söme ""Schema".d FOR EACH STATEMENT EXECUTE FUNCTION public.refuse()`,
			`INSERT INTO "Söme ""Schema"."The % Tàble of 63 bytes which is rather long for a name, isn't i" ("At %") SELECT timestamptz '2026-08-01+00' + g * interval '1 minute' FROM generate_series(1, 60000) g`,
		}, check: `SELECT coalesce((SELECT 'security' FROM pg_class WHERE relname = 'd' AND NOT relrowsecurity), '') || coalesce((SELECT 'trigger' WHERE NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = '"Söme ""Schema".d'::regclass AND tgname = 'own')), '')`},
		{name: "foreign key", table: "public.ev", sql: []string{
			`CREATE TABLE public.who (id int PRIMARY KEY); INSERT INTO public.who SELECT g FROM generate_series(0, 9) g`,
			`CREATE TABLE public.ev (at timestamptz NOT NULL, who int REFERENCES public.who ON DELETE CASCADE) PARTITION BY RANGE (at)`, `CREATE TABLE public.ev_default PARTITION OF public.ev DEFAULT`,
			`INSERT INTO public.ev SELECT timestamptz '2026-08-01+00' + g * interval '1 minute', g % 10 FROM generate_series(1, 60000) g`,
		}, check: `SELECT coalesce(string_agg(conrelid::regclass::text || ' ' || conname, ' '), '') FROM pg_constraint WHERE contype = 'f' AND conrelid <> 'public.ev'::regclass AND (conparentid = 0 OR NOT convalidated)`},
		{name: "another owner", table: "public.ev", sql: []string{
			`DO $$ BEGIN CREATE ROLE copy_owner; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$; GRANT CREATE ON SCHEMA public TO copy_owner`,
			drainTable, `ALTER TABLE public.ev OWNER TO copy_owner; ALTER TABLE public.ev_default OWNER TO copy_owner; GRANT SELECT ON public.ev_default TO PUBLIC`, fill("2026-08-01+00", "2026-11-01+00", 10_000),
		}, check: `SELECT coalesce(string_agg(relid::text, ' '), '') FROM pg_partition_tree('public.ev') t JOIN pg_class c ON c.oid = t.relid WHERE pg_get_userbyid(relowner) <> 'copy_owner'`},
		{name: "default of another owner", table: "public.ev", sql: []string{
			`DO $$ BEGIN CREATE ROLE copy_owner_a; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$; DO $$ BEGIN CREATE ROLE copy_owner_b; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
			GRANT CREATE ON SCHEMA public TO copy_owner_a, copy_owner_b`,
			drainTable, `ALTER TABLE public.ev OWNER TO copy_owner_a; ALTER TABLE public.ev_default OWNER TO copy_owner_b`, fill("2026-08-01+00", "2026-11-01+00", 10_000),
		}, check: `SELECT coalesce(string_agg(relid::text, ' '), '') FROM pg_partition_tree('public.ev') t JOIN pg_class c ON c.oid = t.relid WHERE pg_get_userbyid(relowner) <> CASE WHEN relname = 'ev_default' THEN 'copy_owner_b' ELSE 'copy_owner_a' END`},
		{name: "timestamp", table: "public.ev", sql: []string{
			`CREATE TABLE public.ev (at timestamp) PARTITION BY RANGE (at)`, `CREATE TABLE public.ev_default PARTITION OF public.ev DEFAULT`,
			`INSERT INTO public.ev SELECT timestamp '2026-08-01' + g * interval '1 minute' FROM generate_series(1, 60000) g`, `INSERT INTO public.ev VALUES (NULL), ('infinity')`,
		}, check: `SELECT CASE count(*) WHEN 2 THEN '' ELSE 'left ' || count(*) END FROM ONLY public.ev_default`},
		{name: "date", table: "public.ev", sql: []string{
			`CREATE TABLE public.ev (at date, n int) PARTITION BY RANGE (at)`, `CREATE TABLE public.ev_default PARTITION OF public.ev DEFAULT`,
			`INSERT INTO public.ev SELECT date '2026-08-01' + g % 70, g FROM generate_series(1, 60000) g`, `INSERT INTO public.ev VALUES (NULL), ('infinity')`,
		}, check: `SELECT CASE count(*) WHEN 2 THEN '' ELSE 'left ' || count(*) END FROM ONLY public.ev_default`},
		{name: "uuid version 7", table: "public.ev", sql: []string{
			`CREATE TABLE public.ev (at uuid PRIMARY KEY) PARTITION BY RANGE (at)`, `CREATE TABLE public.ev_default PARTITION OF public.ev DEFAULT`,
			`INSERT INTO public.ev SELECT (lpad(to_hex((extract(epoch FROM timestamptz '2026-08-01+00' + g * interval '1 minute') * 1000)::bigint), 12, '0') || '7' || substr(md5(g::text), 1, 3) || '8' || substr(md5(g::text), 4, 15))::uuid FROM generate_series(1, 60000) g`,
		}, check: `SELECT CASE count(*) WHEN 0 THEN '' ELSE 'left ' || count(*) END FROM ONLY public.ev_default`},
		{name: "milliseconds", table: "public.ev", sql: []string{
			`CREATE TABLE public.ev (at bigint) PARTITION BY RANGE (at)`, `CREATE TABLE public.ev_default PARTITION OF public.ev DEFAULT`, `CREATE TABLE public.ev_2026_07 PARTITION OF public.ev FOR VALUES FROM (1782864000000) TO (1785542400000)`,
			`INSERT INTO public.ev SELECT 1785542400000 + g * 60000::bigint FROM generate_series(0, 60000) g`, `INSERT INTO public.ev VALUES (NULL)`,
		}, check: `SELECT CASE count(*) WHEN 1 THEN '' ELSE 'left ' || count(*) END FROM ONLY public.ev_default`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := fresh(t, tt.sql...)
			name := value[string](b, `SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'p'`)
			table := b.table(name)
			sums := `SELECT count(*) || ' ' || coalesce(sum(hashtextextended(e::text, 0)), 0) FROM ` + name + ` e`
			before := value[string](b, sums)
			made, _, err := b.drain(table, DrainOptions{MaxFuture: 48 * time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			if len(made) < 2 {
				t.Errorf("made %v", made)
			}
			if after := value[string](b, sums); after != before {
				t.Errorf("rows are %s, were %s", after, before)
			}
			if got := value[string](b, tt.check); got != "" {
				t.Error(got)
			}
			b.noLeftovers()
			// And back again: the pieces of a wide partition.
			wide := made[0].Partition
			if _, _, err := b.split(table, wide.Ident(), SplitOptions{Interval: Weekly}); err != nil {
				t.Fatal(err)
			}
			if after := value[string](b, sums); after != before {
				t.Errorf("after the split, rows are %s, were %s", after, before)
			}
			b.noLeftovers()
		})
	}
}

func TestSplitRefused(t *testing.T) {
	t.Parallel()
	for want, sql := range map[string]string{
		"foreign key ref_at_id_fkey of public.ref refers to":  `CREATE TABLE public.ref (at timestamptz, id bigint, FOREIGN KEY (at, id) REFERENCES public.ev)`,
		"view public.v depends on it":                         `CREATE VIEW public.v AS SELECT * FROM public.ev_2026`,
		"it has policy p of its own":                          `CREATE POLICY p ON public.ev_2026 USING (true)`,
		"it has publication pub of its own":                   `CREATE PUBLICATION pub FOR TABLE public.ev_2026`,
		"it has trigger mine of its own, which would be lost": `CREATE TRIGGER mine BEFORE INSERT ON public.ev_2026 FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()`,
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			b := fresh(t, splitTable, sql)
			_, _, err := b.split(b.table("public.ev"), "ev_2026", SplitOptions{Interval: Monthly})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %s", err, want)
			}
			b.noLeftovers()
		})
	}
}
