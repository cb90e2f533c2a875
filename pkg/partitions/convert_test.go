package partitions

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
)

func (b *base) plainTable(name string) Table {
	b.t.Helper()
	t, _, err := ResolveAny(b.t.Context(), b.db, name)
	if err != nil {
		b.t.Fatal(err)
	}
	return t
}

// tryConvert is a whole convert: lock, draft, apply.
func (b *base) tryConvert(name string, o ConvertOptions) (done Converted, d *ConvertDraft, err error) {
	t, _, err := ResolveAny(b.t.Context(), b.db, name)
	if err != nil {
		return done, nil, err
	}
	err = b.w.Locked(b.t.Context(), t, func(ctx context.Context) error {
		var err error
		if d, err = b.w.DraftConvert(ctx, t, o); err != nil {
			return err
		}
		done, err = b.w.ApplyConvert(ctx, d, nil)
		return err
	})
	return done, d, err
}

func (b *base) convert(name string, o ConvertOptions) Converted {
	b.t.Helper()
	done, _, err := b.tryConvert(name, o)
	if err != nil {
		b.t.Fatal(err)
	}
	return done
}

func byColumn(column string) ConvertOptions {
	return ConvertOptions{Key: Key{Column: column}, Interval: Monthly, Ahead: 2}
}

// everything is a table with all that can be kept, in a schema of its own, owned by a role that does not connect.
const everything = `
DO $$ DECLARE r text; BEGIN FOREACH r IN ARRAY ARRAY['conv_owner', 'conv_app', 'conv_viewer'] LOOP
  BEGIN EXECUTE format('CREATE ROLE %I', r); EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END; END LOOP; END $$;
CREATE SCHEMA "Über ""all""" AUTHORIZATION conv_owner;
GRANT USAGE ON SCHEMA "Über ""all""" TO conv_app, conv_viewer;
GRANT CREATE ON SCHEMA "Über ""all""" TO conv_viewer;
SET ROLE conv_owner;
SET search_path = "Über ""all""", pg_catalog;
CREATE TABLE kinds (kind text PRIMARY KEY);
INSERT INTO kinds VALUES ('a'), ('b');
GRANT REFERENCES, SELECT ON kinds TO PUBLIC;
CREATE TABLE "We""ird %s Name" (
  id bigint GENERATED ALWAYS AS IDENTITY (INCREMENT BY 3 START WITH 7 CACHE 5),
  "a ""key""" timestamptz,
  n serial,
  kind text NOT NULL DEFAULT 'a' CONSTRAINT "kind fk" REFERENCES kinds ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
  body jsonb DEFAULT '{"it''s": 1}',
  twice bigint GENERATED ALWAYS AS (id * 2) STORED,
  who text COLLATE "C",
  gone int,
  CONSTRAINT "the pk" PRIMARY KEY (id),
  CONSTRAINT "a check" CHECK (who <> 'nobody'),
  CONSTRAINT "uq" UNIQUE (n, "a ""key""")
) WITH (fillfactor = 80);
ALTER TABLE "We""ird %s Name" DROP gone, ALTER who SET STATISTICS 321, ALTER kind SET (n_distinct = 2), ALTER body SET STORAGE EXTERNAL;
CREATE INDEX "an index" ON "We""ird %s Name" (lower(who), "a ""key""" DESC) INCLUDE (kind) WHERE who IS NOT NULL;
CREATE INDEX ginned ON "We""ird %s Name" USING gin (body);
CREATE UNIQUE INDEX partly ON "We""ird %s Name" (who, "a ""key""") WHERE kind = 'b';
CREATE STATISTICS "some stats" (dependencies, ndistinct) ON kind, who FROM "We""ird %s Name";
COMMENT ON TABLE "We""ird %s Name" IS 'what it''s for';
COMMENT ON COLUMN "We""ird %s Name".who IS 'who';
COMMENT ON INDEX "an index" IS 'fast';
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.who := coalesce(NEW.who, 'trigger'); RETURN NEW; END $$;
CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER stamp BEFORE INSERT ON "We""ird %s Name" FOR EACH ROW WHEN (NEW.who IS NULL) EXECUTE FUNCTION stamp();
CREATE TRIGGER "sleeps" AFTER UPDATE OF who ON "We""ird %s Name" FOR EACH ROW EXECUTE FUNCTION count_it();
CREATE TRIGGER counted AFTER INSERT ON "We""ird %s Name" REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION count_it();
ALTER TABLE "We""ird %s Name" DISABLE TRIGGER "sleeps", ENABLE ALWAYS TRIGGER counted;
ALTER TABLE "We""ird %s Name" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "own rows" ON "We""ird %s Name" AS PERMISSIVE FOR SELECT TO conv_app USING (who = current_user OR "We""ird %s Name".kind IN (SELECT kind FROM kinds));
CREATE POLICY writes ON "We""ird %s Name" FOR INSERT TO conv_app WITH CHECK (kind <> 'z');
ALTER TABLE "We""ird %s Name" REPLICA IDENTITY FULL;
GRANT SELECT, INSERT ON "We""ird %s Name" TO conv_app WITH GRANT OPTION;
GRANT SELECT ON "We""ird %s Name" TO conv_viewer;
GRANT UPDATE (who, body) ON "We""ird %s Name" TO conv_app;
GRANT USAGE ON SEQUENCE "We""ird %s Name_id_seq", "We""ird %s Name_n_seq" TO conv_app;
CREATE VIEW inner_view WITH (security_barrier = true) AS SELECT id, who, kind FROM "We""ird %s Name" WHERE who IS NOT NULL WITH LOCAL CHECK OPTION;
CREATE VIEW outer_view AS SELECT kind, count(*) AS n FROM inner_view GROUP BY kind;
GRANT SELECT ON inner_view, outer_view TO conv_app;
COMMENT ON VIEW inner_view IS 'inner';
RESET ROLE;
SET ROLE conv_viewer;
SET search_path = "Über ""all""", pg_catalog;
CREATE VIEW others_view AS SELECT t.*, k.kind AS k FROM "We""ird %s Name" t JOIN kinds k USING (kind);
RESET ROLE;
INSERT INTO "Über ""all"""."We""ird %s Name" ("a ""key""", who, kind) SELECT timestamptz '2026-03-05' + g * interval '1 hour', 'w' || g, CASE WHEN g % 2 = 0 THEN 'a' ELSE 'b' END FROM generate_series(1, 3000) g;
CREATE MATERIALIZED VIEW "Über ""all""".summary AS SELECT * FROM "Über ""all""".outer_view`

// portrait describes all that belongs to a table and to the views on it, the primary key apart.
const portrait = `
WITH t AS (SELECT c.* FROM pg_class c WHERE c.oid = $1::regclass)
SELECT line FROM (
  SELECT format('table %s %s %s %s %s', relname, pg_get_userbyid(relowner), relrowsecurity, relreplident, obj_description(oid)) AS line FROM t
  UNION ALL SELECT format('grant %s %s %s', CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(g.grantee)::text END, g.privilege_type, g.is_grantable) FROM t, aclexplode(relacl) g WHERE g.grantee <> relowner
  UNION ALL SELECT format('column grant %s %s %s', a.attname, pg_get_userbyid(g.grantee), g.privilege_type) FROM t JOIN pg_attribute a ON a.attrelid = t.oid, aclexplode(a.attacl) g
  UNION ALL SELECT format('column %s %s %s %s %s %s %s %s %s %s', a.attname, format_type(a.atttypid, a.atttypmod), a.attcollation::regcollation, a.attnotnull OR a.attname = 'a "key"', a.attidentity, a.attgenerated, a.attstorage,
     coalesce(a.attstattarget, -1), ARRAY(SELECT o FROM unnest(a.attoptions) o WHERE o LIKE 'n_distinct%'), pg_get_expr(d.adbin, d.adrelid)) || coalesce(col_description(t.oid, a.attnum), '') FROM t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped LEFT JOIN pg_attrdef d ON d.adrelid = t.oid AND d.adnum = a.attnum
  UNION ALL SELECT format('constraint %s %s', k.conname, pg_get_constraintdef(k.oid)) FROM t JOIN pg_constraint k ON k.conrelid = t.oid WHERE k.contype NOT IN ('p', 'n', 't') AND k.conparentid = 0
  UNION ALL SELECT format('index %s %s', replace(pg_get_indexdef(i.oid), ' ON ONLY ', ' ON '), obj_description(i.oid)) FROM t JOIN pg_index x ON x.indrelid = t.oid JOIN pg_class i ON i.oid = x.indexrelid WHERE NOT x.indisprimary
  UNION ALL SELECT format('trigger %s %s', pg_get_triggerdef(g.oid), g.tgenabled) FROM t JOIN pg_trigger g ON g.tgrelid = t.oid WHERE NOT g.tgisinternal
  UNION ALL SELECT format('policy %s %s %s %s %s', polname, polcmd, polroles::regrole[], pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)) FROM t JOIN pg_policy ON polrelid = t.oid
  UNION ALL SELECT format('statistics %s %s', stxname, pg_get_statisticsobjdef(s.oid)) FROM t JOIN pg_statistic_ext s ON stxrelid = t.oid
  UNION ALL SELECT format('sequence %s %s', s.oid::regclass, s.relacl) || (SELECT format(' %s %s %s %s', seqstart, seqincrement, seqcache, seqmax) FROM pg_sequence WHERE seqrelid = s.oid) FROM t JOIN pg_depend d ON d.refobjid = t.oid AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
  UNION ALL SELECT format('view %s %s %s %s %s %s', v.oid::regclass, pg_get_userbyid(v.relowner), v.relacl, v.reloptions, obj_description(v.oid), pg_get_viewdef(v.oid)) FROM pg_class v WHERE v.relkind IN ('v', 'm') AND v.relnamespace = (SELECT relnamespace FROM t)
) x ORDER BY line`

func (b *base) portrait(ident string) []string {
	b.t.Helper()
	lines, err := texts(b.t.Context(), b.db.Pool(), portrait, ident)
	if err != nil {
		b.t.Fatal(err)
	}
	return lines
}

func wantSame(t *testing.T, before, after []string) {
	t.Helper()
	for _, line := range before {
		if !slices.Contains(after, line) {
			t.Errorf("gone: %s", line)
		}
	}
	for _, line := range after {
		if !slices.Contains(before, line) {
			t.Errorf("new: %s", line)
		}
	}
}

// All that belongs to a table belongs to the partitioned one afterwards, and values of sequences go on.
func TestConvertKeepsEverything(t *testing.T) {
	t.Parallel()
	b := fresh(t, everything, hostile)
	const name = `"Über ""all"""."We""ird %s Name"`
	before := b.portrait(name)
	ids := value[int64](b, "SELECT max(id) FROM "+name)
	done := b.convert(name, byColumn(`a "key"`))
	if done.History == nil || done.History.Name != `We"ird %s Name_history` || len(done.Created) != 2 {
		t.Fatalf("%+v", done)
	}
	wantSame(t, before, b.portrait(name))
	if got := value[int64](b, "SELECT count(*) FROM "+name); got != 3000 {
		t.Errorf("%d rows", got)
	}
	if got := value[string](b, "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = $1::regclass AND contype = 'p' AND conname = 'the pk'", name); got != `PRIMARY KEY (id, "a ""key""")` {
		t.Error(got)
	}
	b.exec(`INSERT INTO ` + name + ` ("a ""key""") VALUES ('2026-11-23'), ('2026-12-24')`)
	if got := value[string](b, `SELECT string_agg(who || ' ' || (id > $1) || ' ' || (n > 3000) || ' ' || twice / id, ', ') FROM `+name+` WHERE n > 3000`, ids); got != "trigger true true 2, trigger true true 2" {
		t.Error(got)
	}
	if got := value[int64](b, `SELECT sum(n)::bigint FROM "Über ""all""".outer_view`); got != 3002 {
		t.Errorf("the views see %d rows", got)
	}
	if got := value[int64](b, `SELECT count(*) FROM pg_class c, aclexplode(c.relacl) g WHERE c.oid = $1::oid AND g.grantee <> c.relowner`, done.History.OID); got != 0 {
		t.Errorf("%d grants on the history", got)
	}
	if again, d, err := b.tryConvert(name, byColumn(`a "key"`)); err != nil || len(d.Plan.Steps) != 0 || len(again.Created) != 0 || !d.Converted {
		t.Errorf("a second run: %+v %v", d.Plan.Steps, err)
	}
	if got := value[int64](b, "SELECT count(*) FROM pg_class WHERE relname LIKE 'auditdb%'"); got != 0 {
		t.Errorf("%d relations are left", got)
	}
	tab := b.table(name)
	b.create(tab, CreateOptions{Ahead: 4})
	conn := b.conn()
	if _, err := conn.Exec(t.Context(), `SET ROLE conv_app`); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `INSERT INTO `+name+` ("a ""key""", kind) VALUES ('2026-11-23', 'z')`); err == nil {
		t.Error("the policy lets it through")
	}
}

// What cannot be kept is refused, with its name, before anything is changed.
func TestConvertRefuses(t *testing.T) {
	t.Parallel()
	const plain = `CREATE TABLE t (id int PRIMARY KEY, at timestamptz NOT NULL, x int); INSERT INTO t VALUES (1, '2026-11-01'); `
	for name, c := range map[string]struct {
		sql, says string
		class     fault.Class
		o         ConvertOptions
	}{
		"incoming key":      {sql: "CREATE TABLE u (t int CONSTRAINT points REFERENCES t)", says: "points on table", class: fault.Refused},
		"key on itself":     {sql: "ALTER TABLE t ADD up int CONSTRAINT up REFERENCES t", says: "constraint up", class: fault.Refused},
		"unique":            {sql: "ALTER TABLE t ADD CONSTRAINT x_key UNIQUE (x)", says: "--drop-unique x_key", class: fault.Refused},
		"unique expression": {sql: "CREATE UNIQUE INDEX ux ON t ((x + 1))", says: "--drop-unique ux", class: fault.Refused},
		"exclusion":         {sql: "ALTER TABLE t ADD CONSTRAINT ex EXCLUDE USING btree (x WITH =)", says: "exclusion constraint ex", class: fault.Refused},
		"parent":            {sql: "CREATE TABLE u () INHERITS (t)", says: "inheritance", class: fault.Refused},
		"child":             {sql: "CREATE TABLE p (z int); ALTER TABLE t ADD z int; ALTER TABLE t INHERIT p", says: "inheritance", class: fault.Refused},
		"rule":              {sql: "CREATE RULE r AS ON DELETE TO t DO INSTEAD NOTHING", says: "rule r on table", class: fault.Refused},
		"rule elsewhere":    {sql: "CREATE TABLE u (x int); CREATE RULE r AS ON INSERT TO u DO ALSO INSERT INTO t VALUES (NEW.x, now())", says: "rule r on table", class: fault.Refused},
		"materialized":      {sql: "CREATE MATERIALIZED VIEW m AS SELECT x FROM t", says: "materialized view", class: fault.Refused},
		"sql body":          {sql: "CREATE FUNCTION f() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM t; END", says: "f() depends", class: fault.Refused},
		"row type":          {sql: "CREATE FUNCTION f(t) RETURNS int LANGUAGE sql AS 'SELECT 1'", says: "row type", class: fault.Refused},
		"row type column":   {sql: "CREATE TABLE u (r t)", says: "row type", class: fault.Refused},
		"whole row view":    {sql: "CREATE VIEW v AS SELECT t FROM t", says: "row type", class: fault.Refused},
		"grouping view":     {sql: "CREATE VIEW v AS SELECT id, x FROM t GROUP BY id", says: "groups by", class: fault.Refused},
		"foreign policy":    {sql: "CREATE TABLE u (x int); CREATE POLICY p ON u USING (x IN (SELECT x FROM t))", says: "policy p", class: fault.Refused},
		"publication":       {sql: "CREATE PUBLICATION p FOR TABLE t", says: "ALTER PUBLICATION", class: fault.Refused},
		"transition":        {sql: "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER g AFTER INSERT ON t REFERENCING NEW TABLE AS n FOR EACH ROW EXECUTE FUNCTION f()", says: "row trigger g", class: fault.Refused},
		"not valid":         {sql: "ALTER TABLE t ADD CONSTRAINT c CHECK (x > 0) NOT VALID", says: "VALIDATE CONSTRAINT c", class: fault.Refused},
		"no inherit":        {sql: "ALTER TABLE t ADD CONSTRAINT c CHECK (x > 0) NO INHERIT", says: "NO INHERIT", class: fault.Refused},
		"unlogged":          {sql: "ALTER TABLE t SET UNLOGGED", says: "unlogged", class: fault.Refused},
		"nulls":             {sql: "ALTER TABLE t ALTER at DROP NOT NULL; INSERT INTO t VALUES (2, NULL)", says: "no value", class: fault.Refused},
		"infinite":          {sql: "INSERT INTO t VALUES (2, 'infinity')", says: "infinite", class: fault.Refused},
		"future":            {sql: "INSERT INTO t VALUES (2, '2097-01-01')", says: "--history-to", class: fault.Refused},
		"name taken":        {sql: "CREATE TABLE t_history ()", says: "t_history belongs", class: fault.Data},
		"no column":         {o: ConvertOptions{Key: Key{Column: "when"}}, says: "no column when", class: fault.Usage},
		"no time":           {o: ConvertOptions{Key: Key{Column: "x"}}, says: "type integer", class: fault.Usage},
		"view":              {sql: "ALTER TABLE t RENAME TO u; CREATE VIEW t AS SELECT * FROM u", says: "a view", class: fault.Usage},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := fresh(t, plain+c.sql)
			if c.o.Key.Column == "" {
				c.o = byColumn("at")
			}
			const state = "SELECT string_agg(format('%s %s %s', classid, objid, refobjid), ',' ORDER BY classid, objid, refobjid) FROM pg_depend WHERE deptype <> 'p' AND objid > 16000"
			before := value[string](b, state)
			_, _, err := b.tryConvert("t", c.o)
			if err == nil || !strings.Contains(err.Error()+fault.HintOf(err), c.says) {
				t.Fatalf("%v", err)
			}
			wantClass(t, err, c.class)
			if after := value[string](b, state); after != before {
				t.Error("something was changed")
			}
		})
	}
}

// A unique index that cannot hold over all partitions is given up only when it is named.
func TestConvertDropsUnique(t *testing.T) {
	t.Parallel()
	b := fresh(t, `CREATE TABLE t (id int PRIMARY KEY, at timestamptz NOT NULL, x int CONSTRAINT x_key UNIQUE, CONSTRAINT pair UNIQUE (x, at)); INSERT INTO t VALUES (1, '2026-11-01', 1)`)
	o := byColumn("at")
	o.DropUnique = []string{"x_key"}
	b.convert("t", o)
	b.exec("INSERT INTO t VALUES (1, '2026-12-05', 1), (2, '2026-12-05', 2)")
	if got := value[string](b, "SELECT string_agg(conname, ' ' ORDER BY conname) FROM pg_constraint WHERE conrelid = 'public.t'::regclass AND contype IN ('p', 'u')"); got != "pair t_pkey" {
		t.Error(got)
	}
}

// Every kind of key, also without a primary key and without rows.
func TestConvertKeys(t *testing.T) {
	t.Parallel()
	uuid := func(at string) string {
		return fmt.Sprintf("(lpad(to_hex((extract(epoch FROM timestamptz '%s') * 1000)::bigint), 12, '0') || '70008000000000000001')::uuid", at)
	}
	number := func(factor int64) func(string) string {
		return func(at string) string {
			return fmt.Sprintf("(extract(epoch FROM timestamptz '%s') * %d)::bigint", at, factor)
		}
	}
	for kind, c := range map[KeyKind]struct {
		typ   string
		value func(string) string
	}{
		KeyTimestamptz: {"timestamptz", quoteText}, KeyTimestamp: {"timestamp(3)", quoteText}, KeyDate: {"date", quoteText}, KeyUUIDv7: {"uuid", uuid},
		KeyEpochS: {"bigint", number(1)}, KeyEpochMS: {"bigint", number(1000)}, KeyEpochUS: {"bigint", number(1_000_000)}, KeyEpochNS: {"bigint", number(1_000_000_000)},
	} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			b := fresh(t, fmt.Sprintf("CREATE TABLE public.t (id int, k %s); CREATE TABLE public.none (k %[1]s PRIMARY KEY)", c.typ),
				fmt.Sprintf("INSERT INTO public.t VALUES (1, %s), (2, %s), (3, %s)", c.value("2026-03-05"), c.value("2026-10-31"), c.value("2026-11-22")), hostile)
			o := byColumn("k")
			o.Key.Kind, o.Interval = kind, Weekly
			if err := (&Table{}).SetZone("Europe/Paris"); err != nil {
				t.Fatal(err)
			}
			o.Location, _ = time.LoadLocation("Europe/Paris")
			for _, name := range []string{"public.t", "public.none"} {
				done := b.convert(name, o)
				c := b.catalog(b.table(name))
				if len(done.Created) < 1 || c.Len() != len(done.Created)+1 || len(c.Inner()) != 0 || c.All()[0].Name != strings.TrimPrefix(name, "public.")+"_history" {
					t.Errorf("%+v %+v", done, c.All())
				}
			}
			b.exec(fmt.Sprintf("INSERT INTO public.t VALUES (4, %s), (5, %s)", c.value("2026-11-23"), c.value("2026-12-02")))
			if got := value[int64](b, "SELECT count(*) FROM public.t"); got != 5 {
				t.Error(got)
			}
		})
	}
}

// A reader that stays keeps the swap away: exit 5 with its name, nothing half done, and writers go on. Afterwards the same command goes on.
func TestConvertWaits(t *testing.T) {
	t.Parallel()
	b := fresh(t, `CREATE TABLE t (id int PRIMARY KEY, at timestamptz NOT NULL); INSERT INTO t SELECT g, '2026-11-01' FROM generate_series(1, 100) g`)
	o := byColumn("at")
	d, err := b.w.DraftConvert(t.Context(), b.plainTable("t"), o)
	if err != nil || len(d.Plan.Steps) != 6 {
		t.Fatalf("%+v %v", d, err)
	}
	conn := b.conn()
	reader, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Exec(t.Context(), "SELECT count(*) FROM t"); err != nil {
		t.Fatal(err)
	}
	b.o.Wait = time.Second
	b.w = NewWorker(b.o)
	_, _, err = b.tryConvert("t", o)
	wantClass(t, err, fault.Locked)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", conn.PgConn().PID())) {
		t.Errorf("the blocker is not named: %v", err)
	}
	b.exec("INSERT INTO t VALUES (101, '2026-11-02')")
	if err := reader.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.o.Wait = 20 * time.Second
	b.w = NewWorker(b.o)
	done := b.convert("t", o)
	if got := value[int64](b, "SELECT count(*) FROM public.t"); got != 101 || len(done.Created) != 2 {
		t.Errorf("%d rows, %+v", got, done)
	}
}

// What an interrupted run has left can be taken back.
func TestConvertAborts(t *testing.T) {
	t.Parallel()
	b := fresh(t, `CREATE TABLE t (id int PRIMARY KEY, at timestamptz NOT NULL); INSERT INTO t SELECT g, '2026-11-01' FROM generate_series(1, 100) g`)
	const state = "SELECT string_agg(relname, ' ' ORDER BY relname) || (SELECT count(*) FROM pg_constraint WHERE conrelid = 'public.t'::regclass AND contype = 'c') FROM pg_class WHERE relnamespace = 'public'::regnamespace"
	before := value[string](b, state)
	d, err := b.w.DraftConvert(t.Context(), b.plainTable("t"), byColumn("at"))
	if err != nil {
		t.Fatal(err)
	}
	x := &converting{w: b.w, d: d}
	for _, s := range d.Plan.Steps[:3] {
		if err := x.Execute(t.Context(), d.Plan.Steps[:1]); err != nil && s.Op == opIndex {
			t.Fatal(err)
		}
		d.Plan.Steps = d.Plan.Steps[1:]
	}
	if value[string](b, state) == before {
		t.Fatal("nothing to take back")
	}
	b.convert("t", ConvertOptions{Key: Key{Column: "at"}, Abort: true})
	if after := value[string](b, state); after != before {
		t.Errorf("%s, was %s", after, before)
	}
	b.convert("t", byColumn("at"))
	_, _, err = b.tryConvert("t", ConvertOptions{Key: Key{Column: "at"}, Abort: true})
	wantClass(t, err, fault.Refused)
}

// Without rights the error says what to grant, before anything is changed.
func TestConvertRights(t *testing.T) {
	t.Parallel()
	b := fresh(t, `DO $$ DECLARE r text; BEGIN FOREACH r IN ARRAY ARRAY['rights_owner', 'rights_viewer'] LOOP
  BEGIN EXECUTE format('CREATE ROLE %I', r); EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END; END LOOP;
  BEGIN CREATE ROLE rights_runner LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END; END $$`,
		`CREATE SCHEMA s; GRANT USAGE ON SCHEMA s TO PUBLIC; CREATE TABLE s.t (id int PRIMARY KEY, at timestamptz NOT NULL); ALTER TABLE s.t OWNER TO rights_owner; GRANT SELECT ON s.t TO rights_viewer`,
		`CREATE VIEW s.v AS SELECT * FROM s.t; ALTER VIEW s.v OWNER TO rights_viewer`)
	config, err := pgx.ParseConfig(b.url)
	if err != nil {
		t.Fatal(err)
	}
	b.db = open(t, strings.Replace(b.url, "//"+config.User, "//rights_runner", 1))
	b.o.DB = b.db
	b.w = NewWorker(b.o)
	for _, grant := range []string{"GRANT rights_owner TO rights_runner", "GRANT USAGE, CREATE ON SCHEMA s TO rights_owner", "GRANT CREATE ON SCHEMA s TO rights_viewer", "GRANT rights_viewer TO rights_runner"} {
		_, _, err := b.tryConvert("s.t", byColumn("at"))
		wantClass(t, err, fault.Permission)
		if hint := fault.HintOf(err); strings.ReplaceAll(hint, `"`, "") != grant {
			t.Fatalf("%q instead of %q: %v", hint, grant, err)
		}
		b.exec(grant)
	}
	if done := b.convert("s.t", byColumn("at")); done.Table.Owner != "rights_owner" || done.Created[0].Owner != "rights_owner" {
		t.Errorf("%+v", done)
	}
	b.exec("REVOKE rights_owner, rights_viewer FROM rights_runner")
}

// The server may still make the index for a run that was killed: the next one waits for that, also where the two end up in a deadlock.
func TestConvertBesideAKilledRun(t *testing.T) {
	t.Parallel()
	b := fresh(t, `CREATE TABLE t (id int PRIMARY KEY, at timestamptz NOT NULL); INSERT INTO t SELECT g, '2026-11-01' FROM generate_series(1, 1000) g`)
	b.o.Wait = time.Minute
	b.w = NewWorker(b.o)
	d, err := b.w.DraftConvert(t.Context(), b.plainTable("t"), byColumn("at"))
	if err != nil || len(d.Plan.Steps) == 0 || d.Plan.Steps[0].Op != opIndex {
		t.Fatalf("%+v, %v", d, err)
	}
	snapshot, killed := b.conn(), b.conn() // what makes the killed run's statement wait
	if _, err := snapshot.Exec(t.Context(), "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM public.t"); err != nil {
		t.Fatal(err)
	}
	done, released := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { <-done; <-released })
	go func() {
		defer close(done)
		_, _ = killed.Exec(t.Context(), d.Plan.Steps[0].SQL)
	}()
	waiting := fmt.Sprintf("SELECT count(*) FROM pg_stat_activity WHERE pid = %d AND wait_event_type = 'Lock'", killed.PgConn().PID())
	for value[int64](b, waiting) == 0 && t.Context().Err() == nil {
		continue
	}
	go func() { // when the second run is there as well
		defer close(released)
		for value[int64](b, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%INDEX CONCURRENTLY%' AND wait_event_type = 'Lock'") < 2 && t.Context().Err() == nil {
			continue
		}
		_, _ = snapshot.Exec(t.Context(), "COMMIT")
	}()
	b.convert("t", byColumn("at"))
	<-done
	if n := value[int64](b, "SELECT count(*) FROM pg_index WHERE NOT indisvalid"); n != 0 || value[int64](b, "SELECT count(*) FROM public.t") != 1000 {
		t.Errorf("%d invalid indexes are left", n)
	}
}
