package partitions

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
)

// What was detached does not come back by itself, with rows or without, whether there is a log or not; and no other partition waits for it.
func TestDetachedStaysDetached(t *testing.T) {
	t.Parallel()
	for name, setup := range map[string]string{
		"managed":   ``,
		"unmanaged": `DELETE FROM auditdb.managed_table`,
		"empty":     `SET auditdb.purpose = 'move'; DELETE FROM audit_log`,
		"in log":    `INSERT INTO auditdb.log VALUES (0, E'auditdb/1 detach\nseq 0\n', 'k', sha256('')); INSERT INTO auditdb.log_partition VALUES (1, '2024-02-01Z', '2024-03-01Z', 0)`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := old(t, setup)
			tab := b.table("audit_log")
			o := before(t, "2025-01-01")
			o.Action, o.Partition = Detach, "audit_log_2024_02"
			b.prune(tab, o)
			c := b.catalog(tab)
			if left := c.Leftovers(); len(left) != 1 || left[0].Name != "audit_log_2024_02" || left[0].State != Detached || left[0].Text() != "[2024-02-01 00:00:00, 2024-03-01 00:00:00)" {
				t.Errorf("listed: %+v", left)
			}
			if name == "in log" { // also when the table itself is gone, or no longer known
				b.exec("DROP TABLE audit_log_2024_02")
			}
			wide := exactly(t, "2024-02-01", "2024-06-01")
			made, d, err := b.tryCreate(tab, wide)
			if err != nil || len(made) != 2 || made[0].Name != "audit_log_2024_04" || len(d.Plan.Skipped) != 1 || d.Plan.Skipped[0].Reason != errDetached.Error() {
				t.Errorf("%+v %+v %v", made, d.Plan.Skipped, err)
			}
			creator := &Creator{Worker: b.w}
			if _, made, err := creator.Ensure(t.Context(), tab, ranges(t, "2024-02-05/2024-02-06 2024-06-01/2024-06-02")); err != nil || len(made) != 1 {
				t.Errorf("for rows: %+v %v", made, err)
			}
			if why := creator.WhyNot(at(t, "2024-02-05")); !strings.Contains(why, "detached") || creator.WhyNot(at(t, "2024-06-01")) != "" {
				t.Errorf("why not: %q", why)
			}
			wide.AllowPruned = true
			if made := b.create(tab, wide); len(made) != 1 || (name != "in log") == (made[0].Name == "audit_log_2024_02") {
				t.Errorf("allowed: %+v", made)
			}
			if rows := map[string]int64{"empty": 0, "managed": 9, "unmanaged": 9, "in log": 0}[name]; value[int64](b, "SELECT count(*) FROM public.audit_log_2024_02") != rows {
				t.Error("the table has changed")
			}
		})
	}
}

// A partition stays as long as its latest verification found an error.
func TestPruneKeepsFindings(t *testing.T) {
	t.Parallel()
	verdict := func(month string, ok bool, next string) string {
		return fmt.Sprintf(`INSERT INTO auditdb.verdict (table_id, part_from, part_to, ok, log_size, checked_at) VALUES (1, '2024-%s-01Z', '2024-%s-01Z', %v, 1, now())
			ON CONFLICT (table_id, part_from, part_to) DO UPDATE SET ok = excluded.ok`, month, next, ok)
	}
	b := old(t, verdict("01", false, "02"), verdict("02", true, "03"))
	tab := b.table("audit_log")
	o := before(t, "2025-01-01")
	o.Partition = "audit_log_2024_01"
	_, _, err := b.tryPrune(tab, o)
	wantClass(t, err, fault.Refused)
	if !strings.Contains(err.Error(), "integrity_finding") || !strings.Contains(fault.HintOf(err), "verify-integrity") {
		t.Errorf("%v; %q", err, fault.HintOf(err))
	}
	done, d := b.prune(tab, before(t, "2025-01-01"))
	if got := goneNames(done); !slices.Equal(got, []string{"audit_log_2024_02", "audit_log_2024_03"}) || reasonOf(d, "audit_log_2024_01") != KeptFinding {
		t.Errorf("%v %+v", got, d.Kept)
	}
	b.exec(verdict("01", true, "02"))
	if done, _ := b.prune(tab, before(t, "2025-01-01")); len(done) != 1 {
		t.Errorf("after a clean verification: %+v", done)
	}
}

// Work whose lock is lost ends as unavailable, not as if the user had stopped it.
func TestLockedSaysThatTheLockIsLost(t *testing.T) {
	t.Parallel()
	b := old(t)
	tab := b.table("audit_log")
	err := b.w.Locked(t.Context(), tab, func(ctx context.Context) error {
		holders, err := b.db.Holders(ctx, LockName(tab))
		if err != nil || len(holders) != 1 {
			t.Errorf("%v %v", holders, err)
			return err
		}
		b.exec(fmt.Sprintf("SELECT pg_terminate_backend(%d)", holders[0].PID)) //nolint:contextcheck // the test's own connection
		_, err = b.db.Pool().Exec(ctx, "SELECT pg_sleep(30)")
		return err
	})
	wantClass(t, err, fault.Unavailable)
	if err == nil || !strings.Contains(err.Error(), "lock was lost") || fault.HintOf(err) == "" {
		t.Errorf("%v; %q", err, fault.HintOf(err))
	}
}

// Verifications that may not be read are no clean ones: nothing is pruned. Listing goes on.
func TestPruneNeedsToReadFindings(t *testing.T) {
	t.Parallel()
	b := old(t)
	tab := b.table("audit_log")
	user := "blind_" + strings.ToLower(rand.Text())
	b.exec(`CREATE ROLE `+user, `GRANT auditdb_reader TO `+user)
	t.Cleanup(func() {
		if conn, err := pgx.Connect(context.Background(), b.url); err == nil {
			_, _ = conn.Exec(context.Background(), `DROP ROLE `+user)
			_ = conn.Close(context.Background())
		}
	})
	b.exec(`REVOKE SELECT ON auditdb.verdict FROM auditdb_reader`)
	conn := b.conn()
	if _, err := conn.Exec(t.Context(), `SET ROLE `+user); err != nil {
		t.Fatal(err)
	}
	_, _, err := b.w.rule(t.Context(), conn, tab, before(t, "2025-01-01"))
	wantClass(t, err, fault.Permission)
	if hint := fault.HintOf(err); !strings.Contains(hint, `GRANT SELECT ON auditdb.verdict TO "`+user+`"`) {
		t.Errorf("hint %q", hint)
	}
	if r, _, err := b.w.rule(t.Context(), conn, tab, PruneOptions{lenient: true}); err != nil || len(r.Findings) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// What could not be recorded is refused before anything is planned, also when it is only asked what would be done.
func TestDraftsNeedEvidence(t *testing.T) {
	t.Parallel()
	b := old(t)
	b.ledger.refuse = fault.New(fault.Config, "make one", "there is no key")
	tab := b.table("audit_log")
	_, err := b.w.DraftCreate(t.Context(), tab, CreateOptions{Ahead: 9})
	wantClass(t, err, fault.Config)
	_, err = b.w.DraftPrune(t.Context(), tab, before(t, "2025-01-01"))
	wantClass(t, err, fault.Config)
	_, _, err = (&Creator{Worker: b.w, DryRun: true}).Ensure(t.Context(), tab, ranges(t, "2025-01-01/2025-01-02"))
	wantClass(t, err, fault.Config)
}
