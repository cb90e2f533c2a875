package partitions

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"auditdb/internal/fault"
)

const hostile = `DO $$ BEGIN
  EXECUTE format('ALTER DATABASE %I SET timezone = ''America/St_Johns''', current_database());
  EXECUTE format('ALTER DATABASE %I SET datestyle = ''SQL, DMY''', current_database());
  EXECUTE format('ALTER DATABASE %I SET intervalstyle = ''sql_standard''', current_database());
  EXECUTE format('ALTER DATABASE %I SET search_path = ''''', current_database());
  EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = ''serializable''', current_database());
END $$`

// Every kind of key, interval and name, on a database whose defaults are against us: the second run finds everything there.
func TestCreateAnything(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 55)
	tables := []struct{ name, typ, zone string }{
		{"plain", "timestamptz", "UTC"},
		{`We"ird %s Name`, "timestamptz", "Europe/Paris"},
		{"naïve_журнал", "timestamptz", "Asia/Kolkata"},
		{"select", "timestamp", "America/St_Johns"},
		{long + "12345678", "timestamptz(3)", "Europe/Paris"},
		{long + "87654321", "timestamp", "Europe/Paris"},
		{strings.Repeat("ж", 31), "timestamptz", "America/St_Johns"},
		{"UPPER", "date", "Europe/Paris"},
	}
	setup := []string{`CREATE SCHEMA "Über ""all"""`}
	for _, table := range tables {
		setup = append(setup, fmt.Sprintf(`CREATE TABLE "Über ""all""".%s (id bigint GENERATED ALWAYS AS IDENTITY, "a ""key""" %s NOT NULL, twice bigint GENERATED ALWAYS AS (1 + 1) STORED,
		  PRIMARY KEY ("a ""key""", id)) PARTITION BY RANGE ("a ""key""")`, quoted(table.name), table.typ))
	}
	b := fresh(t, append(setup, hostile)...)
	for _, table := range tables { //nolint:paralleltest // the intervals share a table
		for _, interval := range Intervals() {
			if table.typ == "date" && interval == Hourly {
				continue
			}
			t.Run(table.name+" "+string(interval), func(t *testing.T) {
				tab := b.table(`"Über ""all""".` + quoted(table.name))
				if err := tab.SetZone(table.zone); err != nil {
					t.Fatal(err)
				}
				tab.Interval = interval
				from := time.Date(2026, 10, 24, 0, 0, 0, 0, time.UTC).AddDate(10*slices.Index(Intervals(), interval), 0, 0)
				o := CreateOptions{From: from, To: from.AddDate(0, 0, 2)}
				made := b.create(tab, o)
				if len(made) == 0 {
					t.Fatal("nothing was made")
				}
				if again := b.create(tab, o); len(again) > 0 {
					t.Errorf("a second run made %v", again)
				}
				for _, m := range made {
					key := tab.Key.literal(m.From)
					b.exec(fmt.Sprintf(`INSERT INTO %s ("a ""key""") VALUES (%s)`, tab.Ident(), key))
					if got := value[int64](b, fmt.Sprintf("SELECT count(*) FROM %s", m.Ident())); got != 1 {
						t.Errorf("%s: %d rows at %s", m, got, key)
					}
				}
				if _, ok := b.catalog(tab).Find(from); !ok {
					t.Error("the range is not covered")
				}
			})
		}
	}
	if checks := value[int64](b, "SELECT count(*) FROM pg_constraint WHERE contype = 'c' AND conname LIKE 'auditdb%'"); checks != 0 {
		t.Errorf("%d checks were left", checks)
	}
}

func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func TestCreateAroundNow(t *testing.T) {
	t.Parallel()
	b := migrated(t)
	tab := b.table("audit_log")
	if got := b.create(tab, CreateOptions{Ahead: 2, Behind: 1}); len(got) != 4 || got[0].Name != "audit_log_2026_10" || got[3].Name != "audit_log_2027_01" || got[0].OID == 0 {
		t.Fatalf("%+v", got)
	}
	b.exec("DROP TABLE audit_log_2026_12")
	if got := b.create(tab, CreateOptions{Ahead: 2}); len(got) != 1 || got[0].Name != "audit_log_2026_12" {
		t.Errorf("gap: %+v", got)
	}
	if kinds := b.ledger.kinds(); len(kinds) != 5 || kinds[0] != EventAttached {
		t.Errorf("recorded: %v", kinds)
	}
	made, d, err := b.tryCreate(tab, CreateOptions{Ahead: 2})
	if err != nil || len(made) != 0 || len(d.Existing) != 4 || len(d.Plan.Steps) != 0 {
		t.Errorf("%v %+v %v", made, d, err)
	}
}

func TestCreateInherits(t *testing.T) {
	t.Parallel()
	b := migrated(t,
		`DO $$ BEGIN CREATE ROLE inherits_reader; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$`,
		`CREATE TABLE audit_log_2026_10 PARTITION OF audit_log FOR VALUES FROM ('2026-10-01Z') TO ('2026-11-01Z') WITH (fillfactor = 70, autovacuum_enabled = false, toast.autovacuum_enabled = false)`,
		`GRANT SELECT ON audit_log_2026_10 TO inherits_reader WITH GRANT OPTION; GRANT REFERENCES ON audit_log_2026_10 TO PUBLIC`,
		`ALTER TABLE audit_log_2026_10 ALTER action SET STATISTICS 500, ALTER status SET (n_distinct = 4)`,
		`ALTER TABLE audit_log_2026_10 REPLICA IDENTITY USING INDEX audit_log_2026_10_pkey`,
		`COMMENT ON COLUMN audit_log.action IS 'what was done'`)
	tab := b.table("audit_log")
	made := b.create(tab, exactly(t, "2026-11-01", "2026-12-01"))
	if len(made) != 1 {
		t.Fatal(made)
	}
	for sql, want := range map[string]string{
		"SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE oid = $1::oid":                                                                       "auditdb_admin",
		"SELECT array_to_string(reloptions, ' ') FROM pg_class WHERE oid = $1::oid":                                                                      "fillfactor=70 autovacuum_enabled=false",
		"SELECT array_to_string(reloptions, ' ') FROM pg_class WHERE oid = (SELECT reltoastrelid FROM pg_class WHERE oid = $1::oid)":                     "autovacuum_enabled=false",
		"SELECT relreplident::text || (SELECT indisprimary FROM pg_index WHERE indrelid = c.oid AND indisreplident) FROM pg_class c WHERE oid = $1::oid": "itrue",
		"SELECT attstattarget::text FROM pg_attribute WHERE attrelid = $1::oid AND attname = 'action'":                                                   "500",
		"SELECT (attoptions::text LIKE '%n_distinct=4%')::text FROM pg_attribute WHERE attrelid = $1::oid AND attname = 'status'":                        "true",
		"SELECT col_description($1::oid, (SELECT attnum FROM pg_attribute WHERE attrelid = $1::oid AND attname = 'action'))":                             "what was done",
		"SELECT string_agg(tgname, ' ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = $1::oid":                                                         "audit_log_guard audit_log_guard_truncate",
		`SELECT array_to_string(ARRAY(SELECT CASE WHEN grantee = 0 THEN 'public' ELSE pg_get_userbyid(grantee) END || ' ' || privilege_type || CASE WHEN is_grantable THEN '*' ELSE '' END
		 FROM pg_class c, aclexplode(relacl) WHERE c.oid = $1::oid AND grantee <> relowner ORDER BY 1), ', ')`: "auditdb_ingest INSERT, auditdb_verifier SELECT, inherits_reader SELECT*, public REFERENCES",
		"SELECT count(*)::text FROM pg_index WHERE indrelid = $1::oid": "4",
		// From 17 on a partition has its parent's identity.
		"SELECT (attidentity::text = CASE WHEN current_setting('server_version_num')::int >= 170000 THEN 'a' ELSE '' END)::text FROM pg_attribute WHERE attrelid = $1::oid AND attname = 'id'": "true",
	} {
		if got := value[string](b, sql, made[0].OID); got != want {
			t.Errorf("%s: %q, want %q", sql, got, want)
		}
	}
	conn := b.conn()
	if _, err := conn.Exec(t.Context(), "TRUNCATE audit_log_2026_11"); err == nil {
		t.Error("the guard lets TRUNCATE through")
	}
}

func TestCreateSparesRowSecurity(t *testing.T) {
	t.Parallel()
	b := migrated(t, `CREATE TABLE audit_log_2026_10 PARTITION OF audit_log FOR VALUES FROM ('2026-10-01Z') TO ('2026-11-01Z')`,
		`GRANT UPDATE ON audit_log_2026_10 TO PUBLIC`, `ALTER TABLE audit_log ENABLE ROW LEVEL SECURITY`)
	made, d, err := b.tryCreate(b.table("audit_log"), exactly(t, "2026-11-01", "2026-12-01"))
	if err != nil || len(made) != 1 || len(d.Plan.Skipped) != 1 {
		t.Fatalf("%+v %+v %v", made, d.Plan.Skipped, err)
	}
	if n := value[int64](b, "SELECT count(*) FROM pg_class c, aclexplode(relacl) WHERE c.oid = $1 AND privilege_type = 'UPDATE' AND grantee = 0", made[0].OID); n != 0 {
		t.Error("a grant on the partition bypasses row security")
	}
}

// A reader that holds its transaction open must not stop a create, and rows go on coming in.
func TestCreateBesideAReader(t *testing.T) {
	t.Parallel()
	b := migrated(t)
	tab := b.table("audit_log")
	b.create(tab, CreateOptions{})
	reader := b.conn()
	tx, err := reader.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT count(*) FROM audit_log"); err != nil {
		t.Fatal(err)
	}
	writer := b.conn()
	wtx, err := writer.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wtx.Exec(t.Context(), "INSERT INTO audit_log (timestamp, action, status) VALUES ('2026-11-02Z', 'a', 'b')"); err != nil {
		t.Fatal(err)
	}
	if got := b.create(tab, CreateOptions{Ahead: 12}); len(got) != 12 {
		t.Errorf("%d made", len(got))
	}
	for _, end := range []func(context.Context) error{tx.Rollback, wtx.Commit} {
		if err := end(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func withDefault(t *testing.T) *base {
	t.Helper()
	return migrated(t, `CREATE TABLE audit_log_rest PARTITION OF audit_log DEFAULT`,
		`INSERT INTO audit_log (timestamp, action, status, details) SELECT '2026-11-01Z'::timestamptz + i * interval '1 hour', 'a' || i, 's', jsonb_build_object('i', i) FROM generate_series(0, 2999) i`)
}

// Rows of the default partition go into the new partitions: none is lost, none changed, and a reader always sees all of them.
func TestCreateDrainsTheDefault(t *testing.T) {
	t.Parallel()
	b := withDefault(t)
	tab := b.table("audit_log")
	sum := "SELECT count(*) || ' ' || sum(hashtextextended(a::text, 0)) FROM audit_log a"
	earlier := value[string](b, strings.ReplaceAll(sum, "FROM audit_log", "FROM public.audit_log"))
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	conn := b.conn()
	seen := 0
	wg.Go(func() {
		for ctx.Err() == nil {
			var n int
			if err := conn.QueryRow(context.WithoutCancel(ctx), "SELECT count(*) FROM audit_log").Scan(&n); err != nil || n != 3000 {
				t.Errorf("a reader saw %d rows: %v", n, err)
				return
			}
			seen++
		}
	})
	made := b.create(tab, CreateOptions{Ahead: 5})
	stop()
	wg.Wait()
	if seen == 0 {
		t.Error("the reader read nothing")
	}
	var moved int64
	for _, m := range made {
		moved += m.Moved
	}
	if now := value[string](b, strings.ReplaceAll(sum, "FROM audit_log", "FROM public.audit_log")); now != earlier || moved != 3000 || len(made) != 6 {
		t.Errorf("%s, before %s; moved %d into %d", now, earlier, moved, len(made))
	}
	if n := value[int64](b, "SELECT count(*) FROM public.audit_log_rest"); n != 0 {
		t.Errorf("%d rows left in the default partition", n)
	}
	var kinds []string
	for _, e := range b.ledger.events[:2] {
		kinds = append(kinds, fmt.Sprintf("%s %s %v %s %d", e.Kind, e.Name, e.Default, e.To, e.Rows))
	}
	if want := []string{"attached audit_log_2026_11 false  0", "moved audit_log_rest true audit_log_2026_11 720"}; !slices.Equal(kinds, want) {
		t.Errorf("recorded %q", kinds)
	}
}

// Rows that come in between plan and work are moved as well.
func TestCreateDrainsLatecomers(t *testing.T) {
	t.Parallel()
	b := withDefault(t)
	tab := b.table("audit_log")
	d, err := b.w.DraftCreate(t.Context(), tab, exactly(t, "2027-06-01", "2027-07-01"))
	if err != nil {
		t.Fatal(err)
	}
	b.exec("INSERT INTO audit_log (timestamp, action, status) VALUES ('2027-06-02Z', 'a', 'b')")
	made, err := b.w.ApplyCreate(t.Context(), d, nil)
	if err != nil || len(made) != 1 || made[0].Moved != 1 || value[int64](b, "SELECT count(*) FROM public.audit_log_2027_06") != 1 {
		t.Errorf("%+v, %v", made, err)
	}
}

func TestCreateRefusesToMoveMany(t *testing.T) {
	t.Parallel()
	b := withDefault(t)
	made, d, err := b.tryCreate(b.table("audit_log"), CreateOptions{Ahead: 6, MoveRowLimit: 730})
	wantClass(t, err, fault.Refused)
	var names []string
	for _, m := range made {
		names = append(names, m.Name)
	}
	// December and January have 744 hours.
	if want := []string{"audit_log_2026_11", "audit_log_2027_02", "audit_log_2027_03", "audit_log_2027_04", "audit_log_2027_05"}; !slices.Equal(names, want) {
		t.Errorf("made %v", names)
	}
	if n := value[int64](b, "SELECT count(*) FROM public.audit_log"); n != 3000 {
		t.Errorf("%d rows", n)
	}
	if len(d.Plan.Skipped) == 0 || !strings.Contains(d.Plan.Skipped[0].Reason, "744 rows") {
		t.Errorf("%+v", d.Plan.Skipped)
	}
}

func TestCreateFiresNoTrigger(t *testing.T) {
	t.Parallel()
	b := withDefault(t)
	b.exec(`CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''a row has gone''; END'; CREATE TRIGGER noted AFTER DELETE ON audit_log FOR EACH ROW EXECUTE FUNCTION noted()`)
	made, _, err := b.tryCreate(b.table("audit_log"), CreateOptions{Ahead: 4})
	if err != nil || len(made) != 5 || value[int64](b, "SELECT count(*) FROM public.audit_log") != 3000 {
		t.Errorf("made %v, %v", made, err)
	}
	if n := value[int64](b, "SELECT count(*) FROM pg_trigger WHERE tgname = 'noted'"); n != 7 {
		t.Errorf("%d triggers", n)
	}
}

func TestCreateLeavesKeysAlone(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"foreign key": `CREATE TABLE remarks (t timestamptz, i bigint, FOREIGN KEY (t, i) REFERENCES audit_log ON DELETE CASCADE); INSERT INTO remarks SELECT timestamp, id FROM audit_log`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := withDefault(t)
			b.exec(sql)
			made, _, err := b.tryCreate(b.table("audit_log"), CreateOptions{Ahead: 4})
			wantClass(t, err, fault.Refused)
			if len(made) != 0 || value[int64](b, "SELECT count(*) FROM public.audit_log_rest") != 3000 {
				t.Errorf("made %v", made)
			}
			if made, _, err := b.tryCreate(b.table("audit_log"), exactly(t, "2027-06-01", "2027-08-01")); err != nil || len(made) != 2 {
				t.Errorf("ranges without rows: %v %v", made, err)
			}
		})
	}
}

// A table that is like a partition is somebody's, also an empty one.
func TestCreateLeavesLookalikesAlone(t *testing.T) {
	t.Parallel()
	b := migrated(t, `SET ROLE auditdb_admin; CREATE TABLE audit_log_2026_11 (LIKE audit_log INCLUDING ALL EXCLUDING IDENTITY)`)
	oid := value[uint32](b, "SELECT 'public.audit_log_2026_11'::regclass::oid")
	if made := b.create(b.table("audit_log"), CreateOptions{}); len(made) != 1 || made[0].OID == oid || made[0].Name == "audit_log_2026_11" {
		t.Errorf("%+v, there was %d", made, oid)
	}
}

func TestCreateAdoptsItsLeftovers(t *testing.T) {
	t.Parallel()
	b := migrated(t, `SET ROLE auditdb_admin; CREATE TABLE audit_log_2026_11 (LIKE audit_log INCLUDING ALL EXCLUDING IDENTITY, CONSTRAINT auditdb_attach_range CHECK (timestamp > '2020-01-01Z'))`)
	oid := value[uint32](b, "SELECT 'public.audit_log_2026_11'::regclass::oid")
	made := b.create(b.table("audit_log"), CreateOptions{})
	if len(made) != 1 || made[0].OID != oid || made[0].Name != "audit_log_2026_11" {
		t.Errorf("%+v, left was %d", made, oid)
	}
	if n := value[int64](b, "SELECT count(*) FROM pg_constraint WHERE conrelid = $1 AND conname LIKE 'auditdb%'", oid); n != 0 {
		t.Error("checks were left")
	}
}

func TestCreateAvoidsNamesakes(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"table":    `CREATE TABLE audit_log_2026_11 (n int)`,
		"view":     `CREATE VIEW audit_log_2026_11 AS SELECT 1 AS one`,
		"sequence": `CREATE SEQUENCE audit_log_2026_11`,
		"type":     `CREATE TYPE audit_log_2026_11 AS ENUM ('a')`,
		"index":    `CREATE TABLE other (k int); CREATE INDEX audit_log_2026_11 ON other (k)`,
		"stranger": `CREATE TABLE other (k timestamptz) PARTITION BY RANGE (k); CREATE TABLE audit_log_2026_11 PARTITION OF other FOR VALUES FROM ('2026-11-01Z') TO ('2026-12-01Z')`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := migrated(t, sql)
			made := b.create(b.table("audit_log"), CreateOptions{Ahead: 1})
			if len(made) != 2 || !strings.HasPrefix(made[0].Name, "audit_log_2026_11_") || made[1].Name != "audit_log_2026_12" {
				t.Errorf("%+v", made)
			}
		})
	}
}

// A table of the right shape that has rows is somebody's: it is neither attached nor overwritten.
func TestCreateLeavesRowsOfOthersAlone(t *testing.T) {
	t.Parallel()
	b := migrated(t, `SET ROLE auditdb_admin; CREATE TABLE audit_log_2026_11 (LIKE audit_log INCLUDING ALL EXCLUDING IDENTITY)`,
		`INSERT INTO audit_log_2026_11 (id, timestamp, action, status) VALUES (1, '2026-11-02Z', 'a', 'b')`)
	made := b.create(b.table("audit_log"), CreateOptions{})
	if len(made) != 1 || made[0].Name == "audit_log_2026_11" {
		t.Errorf("%+v", made)
	}
	if n := value[int64](b, "SELECT count(*) FROM public.audit_log"); n != 0 {
		t.Error("rows of another table turned up")
	}
}

func TestCreateTakesNothingBack(t *testing.T) {
	t.Parallel()
	b := migrated(t, `INSERT INTO auditdb.log VALUES (0, E'auditdb/1 prune\nseq 0\n', 'k', sha256('')), (1, E'auditdb/1 batch\nseq 1\n', 'k', sha256(''))`,
		`INSERT INTO auditdb.log_partition VALUES (1, '2026-08-01Z', '2026-09-01Z', 0), (1, '2026-09-01Z', '2026-10-01Z', 1), (1, '-infinity', 'infinity', 1)`,
		`CREATE TABLE audit_log_2026_07 PARTITION OF audit_log FOR VALUES FROM ('2026-07-01Z') TO ('2026-08-01Z')`)
	tab := b.table("audit_log")
	made, d, err := b.tryCreate(tab, CreateOptions{})
	if err != nil || len(made) != 3 || made[0].Name != "audit_log_2026_09" || len(d.Plan.Skipped) != 1 {
		t.Errorf("%+v, %+v, %v", made, d.Plan.Skipped, err)
	}
	if made := b.create(tab, exactly(t, "2026-08-01", "2026-09-01")); len(made) != 0 {
		t.Errorf("%+v", made)
	}
	o := exactly(t, "2026-08-01", "2026-09-01")
	o.AllowPruned = true
	if made := b.create(tab, o); len(made) != 1 {
		t.Errorf("%+v", made)
	}
}

// With a policy, gaps before the retention stay.
func TestCreateKeepsToTheRetention(t *testing.T) {
	t.Parallel()
	b := migrated(t, `INSERT INTO auditdb.policy (table_id, name, keep) VALUES (1, 'base', '3 months')`,
		`CREATE TABLE audit_log_2026_01 PARTITION OF audit_log FOR VALUES FROM ('2026-01-01Z') TO ('2026-02-01Z')`,
		`CREATE TABLE audit_log_2026_08 PARTITION OF audit_log FOR VALUES FROM ('2026-08-01Z') TO ('2026-09-01Z')`)
	made := b.create(b.table("audit_log"), CreateOptions{})
	if len(made) != 3 || made[0].Name != "audit_log_2026_09" {
		t.Errorf("%+v", made)
	}
	c, parts, err := (&Creator{Worker: NewWorker(b.o)}).Ensure(t.Context(), b.table("audit_log"), ranges(t, "2026-03-05/2026-03-06 2027-01-31/2027-02-02"))
	if err != nil || len(parts) != 2 || parts[0].Name != "audit_log_2027_01" || c.Len() != 5 {
		t.Errorf("%+v, %v", parts, err)
	}
}

func TestCreateByManyAtOnce(t *testing.T) {
	t.Parallel()
	b := migrated(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	total := 0
	for range 8 {
		other := on(t, b.url)
		tab := other.table("audit_log")
		wg.Go(func() {
			made, _, err := other.tryCreate(tab, CreateOptions{Ahead: 12})
			mu.Lock()
			defer mu.Unlock()
			total += len(made)
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := b.catalog(b.table("audit_log")).Len(); total != 13 || got != 13 {
		t.Errorf("%d made, %d there", total, got)
	}
}

func TestCreateWaitsForTheLock(t *testing.T) {
	t.Parallel()
	b := migrated(t)
	tab := b.table("audit_log")
	b.o.Wait = 300 * time.Millisecond
	impatient := NewWorker(b.o)
	err := b.w.Locked(t.Context(), tab, func(ctx context.Context) error {
		return impatient.Locked(ctx, tab, func(context.Context) error { return errors.New("two have the lock") })
	})
	wantClass(t, err, fault.Locked)
	if !strings.Contains(err.Error(), "auditdb/test") {
		t.Errorf("the holder is not named: %v", err)
	}
}

func TestCreateIsUndoneWithItsRecord(t *testing.T) {
	t.Parallel()
	b := migrated(t)
	b.ledger.fail = fault.New(fault.Config, "make one", "there is no key")
	made, _, err := b.tryCreate(b.table("audit_log"), CreateOptions{})
	wantClass(t, err, fault.Config)
	if len(made) != 0 || b.catalog(b.table("audit_log")).Len() != 0 {
		t.Error("a partition was made without its record")
	}
}

func TestCreateWithoutRights(t *testing.T) {
	t.Parallel()
	b := fresh(t,
		`REVOKE CREATE ON SCHEMA public FROM PUBLIC`, // the default from 15 on
		`DO $$ BEGIN CREATE ROLE rightless LOGIN PASSWORD 'poor'; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$`,
		`DO $$ BEGIN CREATE ROLE landlord; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$`,
		`CREATE TABLE theirs (k timestamptz) PARTITION BY RANGE (k)`, `GRANT SELECT ON theirs TO rightless`, `ALTER TABLE theirs OWNER TO landlord`,
		`CREATE SCHEMA closed; CREATE TABLE closed.events (k timestamptz) PARTITION BY RANGE (k)`)
	// The owner has no right to create in the schema.
	_, _, err := b.tryCreate(b.table("theirs"), CreateOptions{})
	wantClass(t, err, fault.Permission)
	if !strings.Contains(fault.HintOf(err), `CREATE ON SCHEMA "public" TO "landlord"`) {
		t.Errorf("%v; hint %q", err, fault.HintOf(err))
	}
	u, err := url.Parse(b.url)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("rightless", "poor")
	poor := on(t, u.String())
	_, _, err = poor.tryCreate(poor.table("theirs"), CreateOptions{})
	wantClass(t, err, fault.Permission)
	if !strings.Contains(fault.HintOf(err), `GRANT "landlord" TO`) {
		t.Errorf("%v; hint %q", err, fault.HintOf(err))
	}
	_, err = Resolve(t.Context(), poor.db, "closed.events")
	wantClass(t, err, fault.Permission)
}

func TestCreateNeedsHours(t *testing.T) {
	t.Parallel()
	b := fresh(t, `CREATE TABLE d (k date) PARTITION BY RANGE (k)`)
	tab := b.table("d")
	tab.Interval = Hourly
	_, _, err := b.tryCreate(tab, CreateOptions{})
	wantClass(t, err, fault.Usage)
}

// Where partitions are partitioned themselves, or are foreign tables, no plain one is made after them.
func TestCreateKeepsToTheKindOfItsSiblings(t *testing.T) {
	t.Parallel()
	for name, newest := range map[string]string{
		"partitioned": `CREATE TABLE p2 PARTITION OF events FOR VALUES FROM ('2026-02-01Z') TO ('2026-03-01Z') PARTITION BY LIST (org)`,
		"foreign":     `CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER s FOREIGN DATA WRAPPER nowhere; CREATE FOREIGN TABLE p2 PARTITION OF events FOR VALUES FROM ('2026-02-01Z') TO ('2026-03-01Z') SERVER s`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := fresh(t, `CREATE TABLE events (k timestamptz NOT NULL, org text) PARTITION BY RANGE (k)`,
				`CREATE TABLE p1 PARTITION OF events FOR VALUES FROM ('2026-01-01Z') TO ('2026-02-01Z')`)
			b.exec(newest)
			tab := b.table("events")
			_, err := b.w.DraftCreate(t.Context(), tab, exactly(t, "2026-03-01", "2026-04-01"))
			wantClass(t, err, fault.Usage)
			if !strings.Contains(err.Error(), "p2") {
				t.Error(err)
			}
			if d, err := b.w.DraftCreate(t.Context(), tab, exactly(t, "2026-01-01", "2026-03-01")); err != nil || len(d.Creates()) != 0 {
				t.Errorf("nothing is missing: %+v, %v", d, err)
			}
		})
	}
}
