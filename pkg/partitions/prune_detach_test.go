package partitions

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"auditdb/internal/fault"
)

// detachTo is a prune that detaches to a schema.
func detachTo(t *testing.T, cutoff, schema string) PruneOptions {
	t.Helper()
	o := before(t, cutoff)
	o.Action, o.DetachSchema = Detach, schema
	return o
}

// Detached partitions go to their schema with mark, rows and evidence; what has no room there stays a partition.
func TestPruneDetachesToASchema(t *testing.T) {
	t.Parallel()
	b := old(t, `CREATE SCHEMA "The ""Attic"`, `GRANT ALL ON SCHEMA "The ""Attic" TO auditdb_admin`, `CREATE VIEW "The ""Attic".audit_log_2024_02 AS SELECT 1`, `COMMENT ON TABLE audit_log_2024_01 IS 'mine'`)
	tab := b.table("audit_log")
	done, d := b.prune(tab, detachTo(t, "2025-01-01", `"The ""Attic"`))
	if got := goneNames(done); !slices.Equal(got, []string{"audit_log_2024_01", "audit_log_2024_03"}) || done[0].Schema != `The "Attic` || done[0].Rows != 11 {
		t.Errorf("%+v", done)
	}
	if len(d.Plan.Skipped) != 1 || !strings.Contains(d.Plan.Skipped[0].Reason, "has something of that name") {
		t.Errorf("%+v", d.Plan.Skipped)
	}
	if n := value[int64](b, `SELECT count(*) FROM "The ""Attic".audit_log_2024_01`); n != 11 {
		t.Errorf("%d rows", n)
	}
	if got := value[string](b, `SELECT obj_description('"The ""Attic".audit_log_2024_01'::regclass)`); !strings.HasSuffix(got, ` SCHEMA "The ""Attic"`+"\nmine") {
		t.Errorf("comment %q", got)
	}
	left := b.catalog(tab).Leftovers()
	if len(left) != 2 || left[0].Schema != `The "Attic` || left[0].Text() != "[2024-01-01 00:00:00, 2024-02-01 00:00:00)" || left[0].State != Detached {
		t.Errorf("%+v", left)
	}
	if want := []EventKind{EventDetached, EventDetached}; !slices.Equal(b.ledger.kinds(), want) {
		t.Errorf("recorded %v", b.ledger.kinds())
	}
	made, _, err := b.tryCreate(tab, exactly(t, "2024-01-01", "2024-04-01"))
	if err != nil || len(made) != 0 {
		t.Errorf("it came back: %+v, %v", made, err)
	}
	for name, class := range map[string]fault.Class{"nowhere": fault.Usage, "a.b": fault.Usage, `"`: fault.Usage} {
		_, _, err := b.tryPrune(tab, detachTo(t, "2025-01-01", name))
		wantClass(t, err, class)
	}
	o := before(t, "2025-01-01")
	o.DetachSchema = "public"
	_, _, err = b.tryPrune(tab, o)
	wantClass(t, err, fault.Usage)
}

// A run that is interrupted between DETACH and its end, or within DETACH, is finished by the next one, whatever that is asked for.
func TestPruneConvergesToTheSchema(t *testing.T) {
	t.Parallel()
	for name, finish := range map[string]func(b *base, tab Table){
		"prune": func(b *base, tab Table) { b.prune(tab, before(b.t, "2023-01-01")) },
		"finalize": func(b *base, tab Table) {
			d, err := b.finalize(tab)
			if err != nil || len(d.Pending) != 1 || d.Pending[0].Name != "audit_log_2024_02" {
				b.t.Errorf("%+v, %v", d, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := old(t, `CREATE SCHEMA attic; GRANT ALL ON SCHEMA attic TO auditdb_admin`)
			tab := b.table("audit_log")
			parts := b.catalog(tab).All()
			b.exec(commentSQL(parts[0], tab.mark(parts[0], Detach, "attic")), `ALTER TABLE audit_log DETACH PARTITION audit_log_2024_01`)
			b.exec(commentSQL(parts[1], tab.mark(parts[1], Detach, "attic")))
			b.pending("audit_log_2024_02")
			finish(b, tab)
			for _, name := range []string{"attic.audit_log_2024_01", "attic.audit_log_2024_02", "public.audit_log_2024_03"} {
				if !b.exists(name) {
					t.Errorf("%s is not there", name)
				}
			}
			if n := value[int64](b, "SELECT count(*) FROM pg_inherits WHERE inhparent = $1 AND inhdetachpending", tab.OID); n != 0 {
				t.Error("still pending")
			}
			if n := value[int64](b, "SELECT (SELECT count(*) FROM attic.audit_log_2024_01) + (SELECT count(*) FROM attic.audit_log_2024_02) + (SELECT count(*) FROM public.audit_log)"); n != 30 {
				t.Errorf("%d rows", n)
			}
			if d, err := b.finalize(tab); err != nil || len(d.Plan.Steps) != 0 {
				t.Errorf("a second run: %+v, %v", d, err)
			}
		})
	}
}

// finalize is a whole finalize.
func (b *base) finalize(t Table) (d *PruneDraft, err error) {
	err = b.w.Locked(b.t.Context(), t, func(ctx context.Context) error {
		var err error
		if d, err = b.w.DraftFinalize(ctx, t); err != nil {
			return err
		}
		_, err = b.w.ApplyPrune(ctx, d, nil)
		return err
	})
	return d, err
}

// pending leaves a partition of audit_log with a detach that has not ended.
func (b *base) pending(name string) {
	b.t.Helper()
	reader, err := b.conn().Begin(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := reader.Exec(b.t.Context(), "SELECT FROM audit_log LIMIT 1"); err != nil {
		b.t.Fatal(err)
	}
	conn := b.conn()
	if _, err := conn.Exec(b.t.Context(), "SET lock_timeout = '200ms'"); err != nil {
		b.t.Fatal(err)
	}
	if _, err := conn.Exec(b.t.Context(), "ALTER TABLE audit_log DETACH PARTITION "+name+" CONCURRENTLY"); err == nil {
		b.t.Fatal("the detach was not interrupted")
	}
	if err := reader.Rollback(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
}

// FINALIZE of what somebody else has begun leaves the table, and is repeated without harm; with nothing pending nothing is done.
func TestFinalize(t *testing.T) {
	t.Parallel()
	b := old(t)
	tab := b.table("audit_log")
	if d, err := b.finalize(tab); err != nil || len(d.Plan.Steps) != 0 {
		t.Errorf("%+v, %v", d, err)
	}
	b.pending("audit_log_2024_02")
	d, err := b.finalize(tab)
	if err != nil || len(d.Pending) != 1 || len(d.Plan.Steps) != 1 || !d.Plan.Steps[0].NoTx || len(d.Plan.Destructive()) != 0 {
		t.Errorf("%+v, %v", d, err)
	}
	if n := value[int64](b, "SELECT count(*) FROM public.audit_log_2024_02"); n != 9 || b.catalog(tab).Len() != 5 {
		t.Errorf("%d rows, %d partitions", n, b.catalog(tab).Len())
	}
}

// What goes by a plan is looked at again: a partition with another range by now, or a table with other rows, stays.
func TestPruneGoesByTheRange(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC()
	for name, change := range map[string]string{
		"other range": `ALTER TABLE audit_log DETACH PARTITION audit_log_2024_01; DELETE FROM audit_log_2024_01;
			ALTER TABLE audit_log ATTACH PARTITION audit_log_2024_01 FOR VALUES FROM ('2096-01-01Z') TO ('2096-02-01Z')`,
		"detached":     `ALTER TABLE audit_log DETACH PARTITION audit_log_2024_01`,
		"other parent": `CREATE TABLE other (LIKE audit_log) PARTITION BY RANGE (timestamp); ALTER TABLE audit_log DETACH PARTITION audit_log_2024_01; ALTER TABLE other ATTACH PARTITION audit_log_2024_01 FOR VALUES FROM ('2024-01-01Z') TO ('2024-02-01Z')`,
		"swapped":      `ALTER TABLE audit_log_2024_01 RENAME TO x; ALTER TABLE audit_log_2024_03 RENAME TO audit_log_2024_01`,
		"renamed table": `ALTER TABLE audit_log RENAME TO was; CREATE TABLE audit_log (LIKE was) PARTITION BY RANGE (timestamp);
			CREATE TABLE fresh PARTITION OF audit_log FOR VALUES FROM (MINVALUE) TO (MAXVALUE)`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := old(t)
			tab := b.table("audit_log")
			d, err := b.w.DraftPrune(t.Context(), tab, before(t, "2024-02-01"))
			if err != nil || len(d.Goes) != 1 {
				t.Fatalf("%+v, %v", d, err)
			}
			b.exec("SET auditdb.purpose = 'move'; " + change)
			tables := value[int64](b, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')")
			done, err := b.w.ApplyPrune(t.Context(), d, nil)
			if err == nil || len(done) != 0 {
				t.Errorf("%+v, %v", done, err)
			}
			if n := value[int64](b, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"); n != tables {
				t.Errorf("%d tables of %d are left", n, tables)
			}
		})
	}
	b := old(t)
	tab := b.table("audit_log")
	p := b.catalog(tab).All()[0]
	b.exec(commentSQL(p, tab.mark(p, Drop, "")), `ALTER TABLE audit_log DETACH PARTITION audit_log_2024_01`,
		`INSERT INTO audit_log_2024_01 (timestamp, action, status, id) VALUES ('`+now.Format(time.RFC3339)+`', 'a', 'b', 5)`)
	done, _, err := b.tryPrune(tab, before(t, "2024-02-01"))
	wantClass(t, err, fault.Refused)
	if len(done) != 0 || !b.exists("public.audit_log_2024_01") || !strings.Contains(err.Error(), "1 rows outside of the range") {
		t.Errorf("%+v, %v", done, err)
	}
}
