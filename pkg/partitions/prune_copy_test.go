package partitions

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
)

// A partition that is being copied, or whose copy was interrupted, is not pruned; while the whole table is copied, nothing is changed.
func TestCopiedTablesAreLeftAlone(t *testing.T) {
	t.Parallel()
	b := old(t)
	tab := b.table("audit_log")
	begin := func(purpose string, oid uint32, schema, name string) CopyState {
		target := CopyTarget{Schema: "public", Name: "copy_" + purpose, Owner: tab.Owner}
		spec := CopySpec{
			Purpose: purpose, Table: tab, Source: CopySource{OID: oid, Schema: schema, Name: name, Owner: tab.Owner}, Target: target,
			Columns: []CopyColumn{{Target: "timestamp"}, {Target: "action"}, {Target: "status"}},
			Make: func(ctx context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(ctx, "CREATE TABLE "+target.Ident()+" (LIKE public.audit_log)")
				return err
			},
		}
		if _, err := b.w.StartCopy(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		found, err := FindCopy(t.Context(), b.db.Pool(), spec.Source)
		if err != nil || found == nil {
			t.Fatalf("%+v, %v", found, err)
		}
		return *found
	}
	p := b.catalog(tab).All()[1]
	split := begin("split", p.OID, p.Schema, p.Name)
	done, d := b.prune(tab, before(t, "2024-04-01"))
	if !slices.Equal(goneNames(done), []string{"audit_log_2024_01", "audit_log_2024_03"}) || len(d.Plan.Skipped) != 1 || !strings.Contains(d.Plan.Skipped[0].Reason, "being copied by partition split") {
		t.Errorf("%v %+v", goneNames(done), d.Plan.Skipped)
	}
	o := before(t, "2024-04-01")
	o.Partition = p.Name
	_, _, err := b.tryPrune(tab, o)
	wantClass(t, err, fault.Refused)
	if made := b.create(tab, exactly(t, "2024-06-01", "2024-07-01")); len(made) != 1 {
		t.Errorf("beside it: %+v", made)
	}
	undo := begin("undo", tab.OID, tab.Schema, tab.Name)
	_, _, err = b.tryPrune(tab, before(t, "2024-07-01"))
	wantClass(t, err, fault.Refused)
	_, _, err = b.tryCreate(tab, exactly(t, "2024-08-01", "2024-09-01"))
	wantClass(t, err, fault.Refused)
	if err == nil || !strings.Contains(err.Error(), "public.audit_log is being copied by partition undo") || !strings.Contains(fault.HintOf(err), "--abort") {
		t.Errorf("%v; hint %q", err, fault.HintOf(err))
	}
	for _, s := range []CopyState{undo, split} {
		if err := b.w.AbortCopy(t.Context(), tab, s); err != nil {
			t.Fatal(err)
		}
	}
	if done, _ := b.prune(tab, before(t, "2024-04-01")); len(done) != 1 || done[0].Rows != 9 {
		t.Errorf("afterwards: %+v", done)
	}
}

// What is planned by a catalog that has changed since goes nowhere wrong: a range that somebody else has taken is refused, a name is not
// taken from its owner, and a table that has got the other's name gets no partition.
func TestCreateGoesByTheCatalog(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change string
		left   int64 // partitions of the table afterwards
	}{
		"range taken":   {`CREATE TABLE theirs PARTITION OF audit_log FOR VALUES FROM ('2025-01-10Z') TO ('2025-01-20Z')`, 7},
		"made already":  {`CREATE TABLE audit_log_2025_01 PARTITION OF audit_log FOR VALUES FROM ('2025-01-01Z') TO ('2025-02-01Z')`, 7},
		"name taken":    {`CREATE TABLE audit_log_2025_01 AS SELECT 1 AS precious`, 6},
		"default added": {`CREATE TABLE rest PARTITION OF audit_log DEFAULT; INSERT INTO audit_log (timestamp, action, status) VALUES ('2025-01-05Z', 'a', 'b')`, 7},
		"table renamed": {`ALTER TABLE audit_log RENAME TO was; CREATE TABLE audit_log (LIKE was) PARTITION BY RANGE (timestamp); ALTER TABLE audit_log OWNER TO auditdb_admin`, 6},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := old(t)
			tab := b.table("audit_log")
			d, err := b.w.DraftCreate(t.Context(), tab, exactly(t, "2025-01-01", "2025-02-01"))
			if err != nil || len(d.Plan.Steps) != 1 {
				t.Fatalf("%+v, %v", d, err)
			}
			b.exec(c.change)
			rows := value[int64](b, "SELECT count(*) FROM "+map[bool]string{true: "public.was", false: "public.audit_log"}[name == "table renamed"])
			if made, err := b.w.ApplyCreate(t.Context(), d, nil); err == nil || len(made) != 0 {
				t.Errorf("%+v, %v", made, err)
			}
			if n := value[int64](b, "SELECT count(*) FROM pg_inherits WHERE inhparent = $1", tab.OID); n != c.left {
				t.Errorf("%d partitions, want %d", n, c.left)
			}
			if n := value[int64](b, "SELECT count(*) FROM pg_inherits WHERE inhparent <> $1 AND inhparent IN (SELECT partrelid FROM pg_partitioned_table)", tab.OID); n != 0 {
				t.Errorf("another table has got %d partitions", n)
			}
			if n := value[int64](b, "SELECT count(*) FROM "+map[bool]string{true: "public.was", false: "public.audit_log"}[name == "table renamed"]); n != rows {
				t.Errorf("%d rows of %d", n, rows)
			}
			if name == "name taken" && value[int64](b, "SELECT sum(precious) FROM public.audit_log_2025_01") != 1 {
				t.Error("the other table has changed")
			}
		})
	}
}
