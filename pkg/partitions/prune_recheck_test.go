package partitions

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
)

// A detached partition that is refused before its drop is a partition again, with its rows, and can be pruned later.
func TestRecheckAttachesAgain(t *testing.T) {
	t.Parallel()
	b := old(t)
	tab := b.table("audit_log")
	o := before(t, "2024-02-01")
	var seen int64
	o.Recheck = func(_ context.Context, _ pgx.Tx, _ Partition, rows int64) error {
		seen = rows
		return fault.New(fault.Refused, "", "it has changed")
	}
	done, _, err := b.tryPrune(tab, o)
	wantClass(t, err, fault.Refused)
	if len(done) != 0 || seen != 11 || value[int64](b, "SELECT count(*) FROM public.audit_log WHERE timestamp < '2024-02-01Z'") != 11 {
		t.Errorf("%+v, %d rows seen", done, seen)
	}
	if got := b.catalog(tab).All()[0]; got.State != Attached || got.mark != "" {
		t.Errorf("%+v", got)
	}
	if done, _ := b.prune(tab, before(t, "2024-02-01")); len(done) != 1 {
		t.Errorf("later: %+v", done)
	}
}

// What somebody else decides stands for the policy; what has not begun, and what is not known, stays.
func TestDecideStandsForThePolicy(t *testing.T) {
	t.Parallel()
	b := old(t)
	tab := b.table("audit_log")
	o := PruneOptions{Decide: func(_ context.Context, _ Querier, p Partition) (Reason, error) {
		if p.Name == "audit_log_2024_02" {
			return KeptHold, nil
		}
		return "", nil
	}}
	done, d := b.prune(tab, o)
	if got := goneNames(done); len(got) != 2 || reasonOf(d, "audit_log_2024_02") != KeptHold {
		t.Errorf("%v %+v", got, d.Kept)
	}
}
