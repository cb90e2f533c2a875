package partitions

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"auditdb/internal/pgtest"
)

// A new partition has the replica identity of its newest sibling, in all four forms; of a first one, that of the table.
func TestCreateTakesTheReplicaIdentity(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ setup, want, skipped string }{
		"default":         {`ALTER TABLE s REPLICA IDENTITY DEFAULT`, "d", ""},
		"full":            {`ALTER TABLE s REPLICA IDENTITY FULL`, "f", ""},
		"nothing":         {`ALTER TABLE s REPLICA IDENTITY NOTHING`, "n", ""},
		"index":           {`ALTER TABLE s REPLICA IDENTITY USING INDEX s_u_k_idx`, "i(u, k)", ""},
		"table's alone":   {`DROP TABLE s; ALTER TABLE events REPLICA IDENTITY FULL`, "f", ""},
		"table's index":   {`DROP TABLE s; ALTER TABLE events REPLICA IDENTITY USING INDEX "We""ird %s index"`, "i(u, k)", ""},
		"sibling's alone": {`CREATE UNIQUE INDEX lonely ON s (u); ALTER TABLE s REPLICA IDENTITY USING INDEX lonely`, "d", "replica identity"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := fresh(t,
				`CREATE TABLE events (id bigint, k timestamptz NOT NULL, u uuid NOT NULL, PRIMARY KEY (id, k)) PARTITION BY RANGE (k)`, `CREATE UNIQUE INDEX "We""ird %s index" ON events (u, k)`,
				`CREATE TABLE s PARTITION OF events FOR VALUES FROM ('2026-01-01Z') TO ('2026-02-01Z')`, c.setup)
			made, d, err := b.tryCreate(b.table("events"), exactly(t, "2026-02-01", "2026-03-01"))
			if err != nil || len(made) != 1 {
				t.Fatalf("%+v, %v", made, err)
			}
			got := value[string](b, `SELECT c.relreplident::text || CASE WHEN c.relreplident = 'i' THEN
			  (SELECT substring(pg_get_indexdef(indexrelid) FROM '\(.*\)') FROM pg_index WHERE indrelid = c.oid AND indisreplident) ELSE '' END FROM pg_class c WHERE c.oid = $1`, made[0].OID)
			if got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if skipped := fmt.Sprint(d.Plan.Skipped); strings.Contains(skipped, "replica identity") != (c.skipped != "") {
				t.Errorf("skipped %s", skipped)
			}
		})
	}
}

// Grants on columns, storage, compression and tablespace come from the newest sibling.
func TestCreateTakesColumnSettings(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t)
	space := filepath.Join(server.Dir(), "space")
	if err := os.Mkdir(space, 0o700); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(server.DataDir()); err != nil || chownLike(space, info) != nil {
		t.Fatal(err)
	}
	b := on(t, server.URL("postgres"),
		`CREATE TABLESPACE "far %s away" LOCATION '`+space+`'`, `CREATE ROLE "Column ""%s"""`,
		`CREATE TABLE events (k timestamptz, a text, "b ""%s" text) PARTITION BY RANGE (k)`,
		`ALTER TABLE events ALTER a SET STORAGE EXTERNAL, ALTER a SET COMPRESSION pglz`,
		`CREATE TABLE s PARTITION OF events FOR VALUES FROM ('2026-01-01Z') TO ('2026-02-01Z') TABLESPACE "far %s away"`,
		`ALTER TABLE s ALTER "b ""%s" SET STORAGE MAIN, ALTER "b ""%s" SET COMPRESSION pglz`,
		`GRANT SELECT ("b ""%s", k), UPDATE (a) ON s TO "Column ""%s"""`, `GRANT INSERT (k) ON s TO PUBLIC`)
	made := b.create(b.table("events"), exactly(t, "2026-02-01", "2026-03-01"))
	const acl = `SELECT string_agg(concat_ws(' ', attname, grantee, privilege_type), '; ' ORDER BY attname, grantee) FROM pg_attribute, aclexplode(attacl) WHERE attrelid = $1`
	for sql, want := range map[string]string{
		`SELECT string_agg(attname || ' ' || attstorage::text || attcompression::text, ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = $1 AND attnum > 0`: `k p, a ep, b "%s mp`,
		`SELECT spcname::text FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace WHERE c.oid = $1`:                                                    `far %s away`,
		acl: value[string](b, acl, value[uint32](b, `SELECT 'public.s'::regclass::oid`)),
	} {
		if got := value[string](b, sql, made[0].OID); got != want {
			t.Errorf("%s: %q, want %q", sql, got, want)
		}
	}
}

// Privileges that every new table of the owner gets would go past the row security of the partitioned one.
func TestCreateRevokesDefaultPrivileges(t *testing.T) {
	t.Parallel()
	for setup, want := range map[string]bool{`ALTER TABLE events ENABLE ROW LEVEL SECURITY`: false, ``: true} {
		b := fresh(t, `DO $$ BEGIN CREATE ROLE default_reader; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$`,
			`CREATE TABLE events (k timestamptz, a text) PARTITION BY RANGE (k)`, setup,
			`ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO default_reader`)
		made := b.create(b.table("events"), exactly(t, "2026-02-01", "2026-03-01"))
		if got := value[bool](b, `SELECT has_table_privilege('default_reader', $1::oid, 'SELECT')`, made[0].OID); got != want {
			t.Errorf("row security %v: the reader may read %v", setup != "", got)
		}
		b.exec(`ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE SELECT ON TABLES FROM default_reader`)
	}
}

// It is said which publications new partitions belong to, and which have siblings of theirs only.
func TestCreateTellsOfPublications(t *testing.T) {
	t.Parallel()
	b := fresh(t,
		`CREATE TABLE events (k timestamptz PRIMARY KEY) PARTITION BY RANGE (k)`, `CREATE TABLE elsewhere (k int)`,
		`CREATE TABLE s PARTITION OF events FOR VALUES FROM ('2026-01-01Z') TO ('2026-02-01Z')`,
		`CREATE PUBLICATION "all %s" FOR ALL TABLES`, `CREATE PUBLICATION of_table FOR TABLE events WITH (publish_via_partition_root = true)`,
		`CREATE PUBLICATION "of ""one" FOR TABLE s`, `CREATE PUBLICATION of_others FOR TABLE elsewhere`)
	want := `[{all %s all_tables false} {of "one partition false} {of_table table true}]`
	if value[int](b, `SELECT current_setting('server_version_num')::int / 10000`) >= 15 {
		b.exec(`CREATE PUBLICATION schemas FOR TABLES IN SCHEMA public`)
		want = strings.TrimSuffix(want, "]") + " {schemas schema false}]"
	}
	tab := b.table("events")
	made, d, err := b.tryCreate(tab, exactly(t, "2026-02-01", "2026-03-01"))
	if err != nil || len(made) != 1 {
		t.Fatalf("%+v, %v", made, err)
	}
	if got := fmt.Sprint(d.Publications); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if len(d.Plan.Skipped) != 1 || !strings.Contains(d.Plan.Skipped[0].Reason, `ALTER PUBLICATION "of ""one" ADD TABLE`) {
		t.Errorf("%+v", d.Plan.Skipped)
	}
	for _, p := range d.Publications {
		sql := `SELECT EXISTS (SELECT FROM pg_publication_tables WHERE pubname = $1 AND tablename IN ($2, CASE WHEN $3 THEN 'events' END))`
		if got := value[bool](b, sql, p.Name, made[0].Name, p.ViaRoot); got != p.Member() {
			t.Errorf("%s: published %v, said %v", p.Name, got, p.Member())
		}
	}
}

// chownLike gives a file to whom another belongs.
func chownLike(path string, like os.FileInfo) error {
	owner, ok := like.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return os.Chown(path, int(owner.Uid), int(owner.Gid))
}
