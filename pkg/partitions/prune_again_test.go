package partitions

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
)

// meddler is a ledger that changes the rules once the detach of a partition is recorded.
type meddler struct {
	*book
	b         *base
	part, sql string
}

func (m *meddler) Record(ctx context.Context, tx pgx.Tx, t Table, events []Event) error {
	for _, e := range events {
		if e.Kind == EventDetached && e.Name == m.part {
			m.b.exec(m.sql) //nolint:contextcheck // the test's own connection
		}
	}
	return m.book.Record(ctx, tx, t, events)
}

// A hold, a finding or the loss of an archive that comes after the plan keeps its partition; the others go.
func TestPruneReadsTheRulesAgain(t *testing.T) {
	t.Parallel()
	const hold = `INSERT INTO auditdb.hold (span, reason) VALUES ('[2024-02-10Z,2024-02-11Z)', 'lawsuit')`
	for name, c := range map[string]struct {
		setup, change string
		reason        Reason
		late          bool // the change comes between DETACH and DROP
	}{
		"hold": {``, hold, KeptHold, false},
		"finding": {
			``,
			`INSERT INTO auditdb.verdict (table_id, part_from, part_to, ok, log_size, checked_at) VALUES (1, '2024-02-01Z', '2024-03-01Z', false, 1, now())`,
			KeptFinding, false,
		},
		"hold before the drop":         {``, hold, KeptHold, true},
		"hold with a default":          {`CREATE TABLE audit_log_rest PARTITION OF audit_log DEFAULT`, hold, KeptHold, false},
		"hold with a default, between": {`CREATE TABLE audit_log_rest PARTITION OF audit_log DEFAULT`, hold, KeptHold, true},
		"archive gone": {
			`INSERT INTO auditdb.policy (table_id, name, keep) VALUES (1, 'base', '1 year');
			 INSERT INTO auditdb.archive (table_id, part_name, part_from, part_to, url, format, rows, bytes, sha256, root, log_size, verified_at)
			 SELECT 1, 'x' || m, make_timestamptz(2024, m, 1, 0, 0, 0, 'UTC'), make_timestamptz(2024, m + 1, 1, 0, 0, 0, 'UTC'), 'u' || m, 'f', 1, 1, '', '', 1, now() FROM generate_series(1, 3) m`,
			`UPDATE auditdb.archive SET deleted_at = now() WHERE part_name = 'x2'`, KeptNotArchived, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := old(t, c.setup)
			tab := b.table("audit_log")
			o := before(t, "2025-01-01")
			if strings.Contains(c.setup, "policy") {
				o = PruneOptions{}
			}
			if c.late {
				b.o.Ledger = &meddler{b.ledger, b, "audit_log_2024_02", c.change}
				b.w = NewWorker(b.o)
			}
			d, err := b.w.DraftPrune(t.Context(), tab, o)
			if err != nil || len(d.Goes) != 3 {
				t.Fatalf("%+v, %v", d, err)
			}
			if !c.late {
				b.exec(c.change)
			}
			done, err := b.w.ApplyPrune(t.Context(), d, nil)
			if err != nil || !slices.Equal(goneNames(done), []string{"audit_log_2024_01", "audit_log_2024_03"}) || reasonOf(d, "audit_log_2024_02") != c.reason {
				t.Errorf("%v %+v, %v", goneNames(done), d.Kept, err)
			}
			if n := value[int64](b, "SELECT count(*) FROM public.audit_log_2024_02"); n != 9 {
				t.Errorf("%d rows left", n)
			}
			all := b.catalog(tab).All()
			if attached := all[0].Name == "audit_log_2024_02"; attached && all[0].mark != "" || !attached && !c.late {
				t.Errorf("%+v", all[0])
			}
		})
	}
	b := old(t)
	o := before(t, "2025-01-01")
	o.Partition = "audit_log_2024_02"
	d, err := b.w.DraftPrune(t.Context(), b.table("audit_log"), o)
	if err != nil {
		t.Fatal(err)
	}
	b.exec(hold)
	_, err = b.w.ApplyPrune(t.Context(), d, nil)
	wantClass(t, err, fault.Refused)
}

// FINALIZE waits neither for ever nor with a lock held: who is in the way is named, whether it uses the table or has only a snapshot.
func TestPruneFinalizeWaitsForReaders(t *testing.T) {
	t.Parallel()
	b := old(t)
	tab := b.table("audit_log")
	reader := b.conn()
	tx, err := reader.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT FROM audit_log LIMIT 1"); err != nil {
		t.Fatal(err)
	}
	conn := b.conn()
	_, _ = conn.Exec(t.Context(), "SET lock_timeout = '200ms'")
	if _, err := conn.Exec(t.Context(), "ALTER TABLE audit_log DETACH PARTITION audit_log_2024_03 CONCURRENTLY"); err == nil {
		t.Fatal("the detach was not interrupted")
	}
	b.o.Wait = 900 * time.Millisecond
	b.w = NewWorker(b.o)
	blocked := func(pid uint32) {
		t.Helper()
		done, _, err := b.tryPrune(tab, before(t, "2023-01-01"))
		wantClass(t, err, fault.Locked)
		if len(done) != 0 || err == nil || !strings.Contains(err.Error(), fmt.Sprintf("finalize the detach of public.audit_log_2024_03: blocked by pid %d", pid)) {
			t.Errorf("%+v, %v", done, err)
		}
	}
	blocked(reader.PgConn().PID())
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{"BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1"} {
		if _, err := reader.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	blocked(reader.PgConn().PID())
	if _, err := reader.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.tryPrune(tab, before(t, "2023-01-01")); err != nil {
		t.Error(err)
	}
	if n := value[int64](b, "SELECT count(*) FROM pg_inherits WHERE inhparent = $1 AND inhdetachpending", tab.OID); n != 0 {
		t.Error("still pending")
	}
}

// What an interrupted run has left counts towards max_drop, before what is still attached.
func TestPruneCountsLeftovers(t *testing.T) {
	t.Parallel()
	for limit, c := range map[int]struct {
		goes []string
		kept map[string]Reason
	}{
		1:  {[]string{"audit_log_2024_02"}, map[string]Reason{"audit_log_2024_01": KeptMaxDrop, "audit_log_2024_03": KeptMaxDrop}},
		2:  {[]string{"audit_log_2024_02", "audit_log_2024_03"}, map[string]Reason{"audit_log_2024_01": KeptMaxDrop}},
		3:  {[]string{"audit_log_2024_01", "audit_log_2024_02", "audit_log_2024_03"}, nil},
		12: {[]string{"audit_log_2024_01", "audit_log_2024_02", "audit_log_2024_03"}, nil},
	} {
		t.Run(strconv.Itoa(limit), func(t *testing.T) {
			t.Parallel()
			b := old(t)
			tab := b.table("audit_log")
			for _, p := range b.catalog(tab).All()[1:3] {
				b.exec(commentSQL(p, tab.mark(p, Drop, "")), "ALTER TABLE audit_log DETACH PARTITION "+p.Ident())
			}
			o := before(t, "2025-01-01")
			o.MaxDrop = &limit
			done, d := b.prune(tab, o)
			if got := goneNames(done); !slices.Equal(got, c.goes) {
				t.Errorf("pruned %v, want %v", got, c.goes)
			}
			for name, want := range c.kept {
				if got := reasonOf(d, name); got != want {
					t.Errorf("%s kept because of %q, want %q", name, got, want)
				}
			}
		})
	}
}
