package integrity

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// split cuts January into three, as partition split does, and returns the pieces. The rows of filled are all in the first hours.
func (f *fixture) split() []PartitionRef {
	f.t.Helper()
	at := func(d, h, m int) time.Time { return time.Date(2024, 1, d, h, m, 0, 0, time.UTC) }
	pieces := []PartitionRef{
		{Name: "jan_a", Range: Range{From: at(1, 0, 0), To: at(1, 0, 30)}},
		{Name: "jan_b", Range: Range{From: at(1, 0, 30), To: at(1, 0, 50)}},
		{Name: "jan_c", Range: Range{From: at(1, 0, 50), To: at(32, 0, 0)}},
	}
	sql := "ALTER TABLE public.audit_log DETACH PARTITION public.audit_log_2024_01;"
	var bodies []Body
	for _, p := range pieces {
		sql += fmt.Sprintf("CREATE TABLE public.%s PARTITION OF public.audit_log FOR VALUES FROM ('%s') TO ('%s');", p.Name, p.Range.From.Format(time.RFC3339), p.Range.To.Format(time.RFC3339))
		bodies = append(bodies, &Partition{Table: 1, Event: EventCreated, Partition: p}, &Move{Table: 1, From: month(0), To: p, Rows: 40})
	}
	sql += "INSERT INTO public.audit_log OVERRIDING SYSTEM VALUE SELECT * FROM public.audit_log_2024_01; DROP TABLE public.audit_log_2024_01"
	f.lifecycle(sql, append(bodies, &Prune{Table: 1, Partition: month(0)})...)
	return pieces
}

// detach announces and detaches a piece; drop removes it with the records that partition prune writes.
func (f *fixture) detach(p PartitionRef) {
	f.t.Helper()
	oid := f.int("SELECT $1::regclass::oid::bigint", "public."+p.Name)
	f.lifecycle("ALTER TABLE public.audit_log DETACH PARTITION public."+p.Name, &Detach{Table: 1, Partition: p, OID: oid})
}

func (f *fixture) drop(p PartitionRef) {
	f.t.Helper()
	ctx := f.t.Context()
	err := f.db.Tx(ctx, func(tx pgx.Tx) error {
		var oid uint32
		if err := tx.QueryRow(ctx, "SELECT $1::regclass::oid", "public."+p.Name).Scan(&oid); err != nil {
			return err
		}
		entries, err := f.log.Expiring(ctx, tx, f.table, p, oid)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "DROP TABLE public."+p.Name); err != nil {
			return err
		}
		_, err = f.log.Append(ctx, tx, time.Now(), append(entries, Entry{Table: f.table, Body: &Prune{Table: 1, Partition: p}}), nil)
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// A piece of a split partition takes its rows of the whole's leaf sets along; the others are still checked against them.
func TestPruneOfASplitPartition(t *testing.T) {
	t.Parallel()
	f, first := filled(t)
	pieces := f.split()
	f.clean()
	f.detach(pieces[1])
	f.clean()
	f.clean(func(o *VerifyOptions) { o.Partition = "jan_b" })
	f.drop(pieces[1])
	left := f.int("SELECT count(*) FROM public.audit_log")
	if r := f.clean(); r.RowsChecked != left || left >= 230 {
		t.Error(r.RowsChecked, left)
	}
	if n := f.int("SELECT sum(n) FROM auditdb.expired"); n != 230-left {
		t.Errorf("%d of %d rows have expired", n, 230-left)
	}
	f.insert(0, 30)
	f.seal()
	r := f.verify()
	if !r.OK {
		t.Error(r.text())
	}
	f.attacksOnExpired(first)
}

func (f *fixture) attacksOnExpired(first int64) {
	f.t.Helper()
	const row = "INSERT INTO public.audit_log (id, timestamp, action, status) OVERRIDING SYSTEM VALUE VALUES (%d, '2024-01-01 00:51', 'a', 's')"
	for _, a := range []struct{ name, do, undo, want string }{
		{"kept row deleted", fmt.Sprintf("CREATE TABLE public.x AS SELECT * FROM public.audit_log WHERE id = %d; DELETE FROM public.audit_log WHERE id = %[1]d", first), "INSERT INTO public.audit_log OVERRIDING SYSTEM VALUE SELECT * FROM public.x; DROP TABLE public.x", "row_missing/error"},
		{"kept row changed", fmt.Sprintf("UPDATE public.audit_log SET ttl = 'x' WHERE id = %d", first), fmt.Sprintf("UPDATE public.audit_log SET ttl = NULL WHERE id = %d", first), "row_modified/error"},
		{"expired row back", fmt.Sprintf(row, first+31), fmt.Sprintf("DELETE FROM public.audit_log WHERE id = %d", first+31), "row_unexpected/error"},
		{"list gone", "CREATE TABLE public.x AS TABLE auditdb.expired; DELETE FROM auditdb.expired", "INSERT INTO auditdb.expired TABLE public.x; DROP TABLE public.x", "leaves_corrupt/error"},
		{"list edited", "CREATE TABLE public.x AS TABLE auditdb.expired; UPDATE auditdb.expired SET n = n + 1, ids = '\\x0001'", "DELETE FROM auditdb.expired; INSERT INTO auditdb.expired TABLE public.x; DROP TABLE public.x", "leaves_corrupt/error"},
		{"leaves edited", "CREATE TABLE public.x AS TABLE auditdb.leaf; UPDATE auditdb.leaf SET leaves = set_byte(leaves, 3, 255 - get_byte(leaves, 3))", "DELETE FROM auditdb.leaf; INSERT INTO auditdb.leaf TABLE public.x; DROP TABLE public.x", "leaves_corrupt/error"},
	} {
		f.exec(a.do)
		if r := f.verify(); r.OK || !slices.Contains(r.types(), a.want) {
			f.t.Errorf("%s: want %s, got\n%s", a.name, a.want, r.text())
		}
		f.exec(a.undo)
	}
	if r := f.verify(); !r.OK {
		f.t.Error(r.text())
	}
}

// When every piece has been pruned nothing is expected any more; without the records everything is.
func TestAllPiecesPruned(t *testing.T) {
	t.Parallel()
	f, _ := filled(t)
	pieces := f.split()
	for _, p := range pieces[:2] {
		f.detach(p)
		f.drop(p)
	}
	f.clean()
	last := pieces[2]
	f.detach(last)
	f.drop(last)
	if r := f.clean(); r.RowsChecked != 110 {
		t.Error(r.RowsChecked)
	}
	f.exec("DELETE FROM auditdb.expired WHERE seq = (SELECT max(seq) FROM auditdb.expired)")
	if r := f.verify(); r.OK {
		t.Error("the lost list was not found")
	}
}

// Rows that were moved out of a range are missed when no partition holds them, and when they were deleted before the split.
func TestRelocatedRowsAreMissed(t *testing.T) {
	t.Parallel()
	f, _ := filled(t)
	for _, p := range f.split() {
		f.lifecycle("DROP TABLE public."+p.Name, &Prune{Table: 1, Partition: p, Rows: 40})
	}
	r := f.verify()
	if r.OK || !slices.Equal(r.types(), []string{"row_missing/error"}) || r.Errors != 120 {
		t.Error(r.Errors, r.text())
	}
	g, _ := filled(t)
	g.exec("DELETE FROM public.audit_log WHERE timestamp < '2024-02-01'")
	g.split()
	if r := g.verify(); r.OK || r.Errors != 120 {
		t.Error(r.Errors, r.text())
	}
}

// A damaged leaf store stops the prune before anything is lost.
func TestExpiringNeedsTheLeafStore(t *testing.T) {
	t.Parallel()
	f, _ := filled(t)
	p := f.split()[0]
	f.detach(p)
	for _, change := range []string{"leaves = set_byte(leaves, 3, 255 - get_byte(leaves, 3))", "ids = '\\x0002'"} {
		err := f.db.Tx(t.Context(), func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), "UPDATE auditdb.leaf SET "+change); err != nil {
				return err
			}
			var oid uint32
			if err := tx.QueryRow(t.Context(), "SELECT 'public.jan_a'::regclass::oid").Scan(&oid); err != nil {
				return err
			}
			_, err := f.log.Expiring(t.Context(), tx, f.table, p, oid)
			if err == nil {
				t.Error("expired by a damaged leaf store:", change)
			}
			return err
		})
		if err == nil {
			t.Error("no error")
		}
	}
}
