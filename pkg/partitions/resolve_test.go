package partitions

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"auditdb/internal/fault"
)

func TestResolve(t *testing.T) {
	t.Parallel()
	b := fresh(t,
		`CREATE SCHEMA "Log"; CREATE SCHEMA hidden`,
		`CREATE TABLE "Log"."We""ird %s Name" (k timestamptz) PARTITION BY RANGE (k)`,
		`CREATE TABLE hidden.events (k date, n int) PARTITION BY RANGE (k)`,
		`CREATE TABLE plain (k timestamptz)`, `CREATE VIEW looks AS SELECT * FROM plain`,
		`CREATE TABLE listed (k text) PARTITION BY LIST (k)`, `CREATE TABLE hashed (k text) PARTITION BY HASH (k)`,
		`CREATE TABLE two (k timestamptz, n int) PARTITION BY RANGE (k, n)`, `CREATE TABLE expression (k timestamp) PARTITION BY RANGE (date_trunc('day', k))`,
		`CREATE TABLE numbers (k bigint) PARTITION BY RANGE (k)`, `CREATE TABLE stamps (k timestamp(3)) PARTITION BY RANGE (k)`,
		`CREATE TABLE part PARTITION OF stamps FOR VALUES FROM ('2026-01-01') TO ('2026-01-08')`,
		`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = "Log", public', current_database()); END $$`)
	for name, want := range map[string]string{
		`"We""ird %s Name"`:       `"Log"."We""ird %s Name"`,
		`"Log"."We""ird %s Name"`: `"Log"."We""ird %s Name"`,
		`Hidden.EVENTS`:           `hidden.events`,
		`stamps`:                  `public.stamps`,
	} {
		if got := b.table(name); got.String() != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if got := b.table("stamps"); got.Key != (Key{Column: "k", Kind: KeyTimestamp}) || got.Interval != Monthly || got.ManagedID != nil {
		t.Errorf("%+v", got)
	}
	for name, want := range map[string]string{
		"nothing":                  "does not exist",
		"events":                   "does not exist",
		"public.nothing":           "does not exist",
		"nowhere.nothing":          "does not exist",
		"plain":                    "not a partitioned table but a plain table",
		"looks":                    "not a partitioned table but a view",
		"part":                     "not a partitioned table but a partition itself",
		"listed":                   "unsupported key: it is partitioned by list",
		"hashed":                   "unsupported key: it is partitioned by hash",
		"two":                      "unsupported key: it is partitioned by 2 columns",
		"expression":               "unsupported key: it is partitioned by an expression",
		"numbers":                  "unsupported key: column k has type bigint",
		`"`:                        "not a name",
		"a.b.c.d":                  "not a name",
		"public.plain; DROP TABLE": "not a name",
	} {
		_, err := Resolve(t.Context(), b.db, name)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
		wantClass(t, err, fault.Usage)
	}
	_, err := Resolve(t.Context(), b.db, "events")
	if !strings.Contains(fault.HintOf(err), "hidden.events") {
		t.Errorf("hint %q", fault.HintOf(err))
	}
}

func TestResolveRegistered(t *testing.T) {
	t.Parallel()
	b := migrated(t, "UPDATE auditdb.managed_table SET partition_interval = 'weekly', time_zone = 'Europe/Paris', ahead = 7, block_ids = false")
	got := b.table("audit_log")
	if got.ManagedID == nil || got.Interval != Weekly || got.Location.String() != "Europe/Paris" || got.Ahead != 7 || !got.Integrity || got.BlockIDs || got.Owner != "auditdb_admin" {
		t.Errorf("%+v", got)
	}
	names, err := Registered(t.Context(), b.db.Pool())
	if err != nil || len(names) != 1 || names[0] != "public.audit_log" {
		t.Errorf("%v %v", names, err)
	}
	b.exec("UPDATE auditdb.managed_table SET time_zone = 'Europe/Atlantis'")
	_, err = Resolve(t.Context(), b.db, "audit_log")
	wantClass(t, err, fault.Usage)
	if names, err := Registered(t.Context(), fresh(t).db.Pool()); err != nil || names[0] != DefaultTable {
		t.Errorf("%v %v", names, err)
	}
}

// The bounds that the catalog gives do not depend on how the server would like to print them.
func TestCatalogUnderHostileDefaults(t *testing.T) {
	t.Parallel()
	b := fresh(t,
		`CREATE TABLE events (k timestamptz) PARTITION BY RANGE (k)`,
		`CREATE TABLE p1 PARTITION OF events FOR VALUES FROM (MINVALUE) TO ('2026-01-01 00:00:00+05:30')`,
		`CREATE TABLE p2 PARTITION OF events FOR VALUES FROM ('2026-01-01 00:00:00+05:30') TO ('12026-02-01 00:00:00+00')`,
		`CREATE TABLE p3 PARTITION OF events FOR VALUES FROM ('infinity') TO (MAXVALUE)`,
		`CREATE TABLE rest PARTITION OF events DEFAULT`,
		`CREATE TABLE old (k date) PARTITION BY RANGE (k)`,
		`CREATE TABLE o1 PARTITION OF old FOR VALUES FROM ('0044-03-15 BC') TO ('0001-01-01')`,
		`DO $$ BEGIN
		  EXECUTE format('ALTER DATABASE %I SET timezone = ''America/St_Johns''', current_database());
		  EXECUTE format('ALTER DATABASE %I SET datestyle = ''SQL, DMY''', current_database());
		  EXECUTE format('ALTER DATABASE %I SET intervalstyle = ''sql_standard''', current_database());
		END $$`)
	c := b.catalog(b.table("events"))
	var got []string
	for _, p := range c.All() {
		got = append(got, p.Name+" "+p.Text())
	}
	want := []string{"p1 [-infinity, 2025-12-31 18:30:00)", "p2 [2025-12-31 18:30:00, 12026-02-01 00:00:00)"}
	if len(got) != 3 || got[0] != want[0] || got[1] != want[1] || c.Default() == nil || c.Default().Name != "rest" {
		t.Errorf("%q", got)
	}
	if got := b.catalog(b.table("old")).All()[0].Text(); got != "[-0043-03-15 00:00:00, 0001-01-01 00:00:00)" {
		t.Error(got)
	}
}

func TestListKindsAndSizes(t *testing.T) {
	t.Parallel()
	b := fresh(t,
		`CREATE TABLE events (k timestamptz PRIMARY KEY, n text) PARTITION BY RANGE (k)`,
		`CREATE TABLE a PARTITION OF events FOR VALUES FROM ('2026-01-01Z') TO ('2026-02-01Z')`,
		`CREATE TABLE b PARTITION OF events FOR VALUES FROM ('2026-02-01Z') TO ('2026-03-01Z') PARTITION BY RANGE (k)`,
		`CREATE TABLE b1 PARTITION OF b FOR VALUES FROM ('2026-02-01Z') TO ('2026-02-02Z')`,
		`INSERT INTO events SELECT '2026-01-01Z'::timestamptz + i * interval '1 minute', repeat('x', 100) FROM generate_series(1, 10000) i`,
		`ANALYZE events`)
	tab := b.table("events")
	c := b.catalog(tab)
	if c.Len() != 2 || c.All()[0].Kind != 'r' || c.All()[1].Kind != 'p' {
		t.Fatalf("%+v", c.All())
	}
	a := c.All()[0]
	if a.RowsEstimate != 10000 || !a.SizeEstimated || a.SizeBytes < 1<<20 {
		t.Errorf("%+v", a)
	}
	sizes, err := b.w.ExactSizes(t.Context(), tab, c.All())
	if err != nil || sizes[a.OID] != value[int64](b, "SELECT pg_total_relation_size('public.a')") || sizes[c.All()[1].OID] != value[int64](b, "SELECT pg_total_relation_size('public.b1')") {
		t.Errorf("%v, %v", sizes, err)
	}
	if _, ok := c.All()[1].Writable(); ok {
		t.Error("a partition with partitions takes no rows itself")
	}
}

// A partition that somebody has locked is waited for; when waiting ends, that session is named.
func TestExactSizesWait(t *testing.T) {
	t.Parallel()
	b := fresh(t, `CREATE TABLE events (k timestamptz) PARTITION BY RANGE (k)`, `CREATE TABLE a PARTITION OF events FOR VALUES FROM ('2026-01-01Z') TO ('2026-02-01Z')`)
	tab := b.table("events")
	parts := b.catalog(tab).All()
	tx, err := b.conn().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if err := tx.QueryRow(t.Context(), "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "LOCK TABLE events IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	b.o.Wait = 300 * time.Millisecond
	impatient := NewWorker(b.o)
	_, err = impatient.ExactSizes(t.Context(), tab, parts)
	wantClass(t, err, fault.Locked)
	if !strings.Contains(err.Error(), fmt.Sprintf("pid %d", pid)) {
		t.Errorf("the holder is not named: %v", err)
	}
	_, err = impatient.CountRows(t.Context(), parts[0])
	wantClass(t, err, fault.Locked)
	var wg sync.WaitGroup
	wg.Go(func() {
		for value[int64](b, "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = $1", parts[0].OID) == 0 && t.Context().Err() == nil {
			<-time.After(10 * time.Millisecond)
		}
		if err := tx.Rollback(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	if sizes, err := b.w.ExactSizes(t.Context(), tab, parts); err != nil || len(sizes) != 1 {
		t.Errorf("%v %v", sizes, err)
	}
	wg.Wait()
}
