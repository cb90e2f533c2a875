package partitions

import (
	"context"
	"strings"
	"testing"

	"auditdb/internal/fault"
)

func (b *base) tryUndo(name string, o UndoOptions) (done Undone, d *UndoDraft, err error) {
	t, _, err := ResolveAny(b.t.Context(), b.db, name)
	if err != nil {
		return done, nil, err
	}
	err = b.w.Locked(b.t.Context(), t, func(ctx context.Context) error {
		var err error
		if d, err = b.w.DraftUndo(ctx, t, o); err != nil {
			return err
		}
		done, err = b.w.ApplyUndo(ctx, d, nil)
		return err
	})
	return done, d, err
}

// A table that was converted and copied back is as it was, the primary key apart.
func TestUndoCopyKeepsEverything(t *testing.T) {
	t.Parallel()
	b := fresh(t, everything, hostile)
	const name = `"Über ""all"""."We""ird %s Name"`
	before := b.portrait(name)
	b.convert(name, byColumn(`a "key"`))
	b.exec(`INSERT INTO ` + name + ` ("a ""key""") VALUES ('2026-11-23'), ('2026-12-24')`)
	ids := value[int64](b, "SELECT max(id) FROM "+name)
	done, _, err := b.tryUndo(name, UndoOptions{Mode: UndoCopy})
	if err != nil || done.Rows != 3002 {
		t.Fatalf("%+v %v", done, err)
	}
	wantSame(t, before, b.portrait(name))
	b.exec(`INSERT INTO ` + name + ` ("a ""key""") VALUES ('2029-11-23')`)
	if got := value[string](b, `SELECT count(*) || ' ' || max(id) - $1::bigint || ' ' || (SELECT sum(n) FROM "Über ""all""".outer_view) FROM `+name, ids); !strings.HasPrefix(got, "3003 ") || !strings.HasSuffix(got, " 3003") {
		t.Error(got)
	}
	if got := value[string](b, "SELECT relkind::text FROM pg_class WHERE oid = $1::regclass", name); got != "r" {
		t.Error(got)
	}
	if got := value[int64](b, "SELECT count(*) FROM pg_class WHERE relname LIKE 'auditdb%'"); got != 0 {
		t.Errorf("%d relations are left", got)
	}
	_, _, err = b.tryUndo(name, UndoOptions{Mode: UndoCopy})
	wantClass(t, err, fault.Usage)
}

// All partitions become tables of their own, and are not made again.
func TestUndoDetach(t *testing.T) {
	t.Parallel()
	b := migrated(t)
	tab := b.table("audit_log")
	b.create(tab, CreateOptions{Ahead: 2})
	b.exec(`INSERT INTO audit_log (timestamp, action, status) VALUES ('2026-11-23', 'a', 'b')`)
	_, _, err := b.tryUndo("audit_log", UndoOptions{Mode: UndoCopy})
	wantClass(t, err, fault.Refused)
	done, d, err := b.tryUndo("audit_log", UndoOptions{Mode: UndoDetach})
	if err != nil || len(done.Detached) != 3 || len(d.Plan.Destructive()) != 1 {
		t.Fatalf("%+v %v", done, err)
	}
	if got := value[int64](b, "SELECT count(*) FROM public.audit_log_2026_11"); got != 1 {
		t.Error(got)
	}
	if c := b.catalog(tab); c.Len() != 0 || len(c.Leftovers()) != 3 {
		t.Errorf("%+v", c)
	}
	if made := b.create(tab, CreateOptions{Ahead: 2}); len(made) != 0 {
		t.Errorf("made again: %+v", made)
	}
	if _, d, err := b.tryUndo("audit_log", UndoOptions{Mode: UndoDetach}); err != nil || len(d.Plan.Steps) != 0 {
		t.Errorf("%+v %v", d.Plan.Steps, err)
	}
}
