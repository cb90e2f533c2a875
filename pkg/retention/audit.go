package retention

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/pkg/integrity"
	"auditdb/pkg/partitions"
)

const (
	ruledSQL       = `SELECT to_regclass('auditdb.log') IS NOT NULL AND to_regclass('auditdb.hold') IS NOT NULL AND to_regclass('auditdb.policy') IS NOT NULL`
	ruledTablesSQL = `SELECT DISTINCT table_id FROM auditdb.policy ORDER BY 1`
	allHoldsSQL    = `
SELECT hold_id, salt, released_at IS NOT NULL, isempty(span), table_id, lower(span), upper(span), organization_id, principal_id, correlation_id, review_at, reason, release_reason
FROM auditdb.hold ORDER BY hold_id`
)

// ErrRules says that policies, floors or holds are not what was logged of them.
var ErrRules = errors.New("retention rules are not what was logged")

// logged is what the log says of rules by its end.
type logged struct {
	rules    map[ruleName]string // their definitions
	added    map[int64][32]byte  // holds: the commitment to their text
	released map[int64][32]byte
}

type ruleName struct {
	table int16 // 0: a floor, which is for all tables
	name  string
}

func replay(records []integrity.Record) logged {
	l := logged{map[ruleName]string{}, map[int64][32]byte{}, map[int64][32]byte{}}
	for _, r := range records {
		switch b := r.Body.(type) {
		case *integrity.Policy:
			name := ruleName{b.Table, b.Name}
			if isFloorName(b.Name) {
				name.table = 0
			}
			if l.rules[name] = b.Definition; b.Event == integrity.EventRemoved {
				delete(l.rules, name)
			}
		case *integrity.Hold:
			if b.Event == integrity.EventAdded {
				l.added[b.ID] = b.Commit
			} else {
				l.released[b.ID] = b.Commit
			}
		}
	}
	return l
}

// Audit compares the stored policies, floors and holds with what was logged of them: somebody may have changed them in the database, so that rows
// go which nobody has given up. What differs is named in an integrity error, which is ErrRules.
func Audit(ctx context.Context, q partitions.Querier, keys *integrity.Keys) error {
	var there bool
	if err := q.QueryRow(ctx, ruledSQL).Scan(&there); err != nil || !there {
		return err
	}
	records, err := integrity.RuleHistory(ctx, q, keys)
	if err != nil {
		return err
	}
	l := replay(records)
	found, err := l.differingRules(ctx, q)
	if err != nil {
		return err
	}
	holds, err := l.differingHolds(ctx, q)
	if err != nil {
		return err
	}
	if found = append(found, holds...); len(found) == 0 {
		return nil
	}
	return fault.New(fault.Integrity, "find out who changed them; auditdb retention policy apply -f FILE, policy set and hold add store and log them anew",
		"%w: %s%s", ErrRules, found[0], others(len(found)-1))
}

func others(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", and %d more", n)
}

func (l logged) differingRules(ctx context.Context, q partitions.Querier) (found []string, err error) {
	rows, err := q.Query(ctx, ruledTablesSQL)
	if err != nil {
		return nil, fmt.Errorf("read the retention policies: %w", err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[int16])
	if err != nil {
		return nil, fmt.Errorf("read the retention policies: %w", err)
	}
	stored := map[ruleName]string{}
	if len(tables) == 0 {
		tables = []int16{0} // the floors are there all the same
	}
	for _, table := range tables {
		rules, err := LoadRules(ctx, q, table)
		if err != nil {
			return nil, err
		}
		for _, p := range rules.Policies {
			stored[ruleName{table, p.Name}] = p.Definition()
		}
		for _, f := range rules.Floors {
			stored[ruleName{0, floorName(f.Classification)}] = Change{Floor: &f}.Becomes()
		}
	}
	for _, name := range sortedRules(stored) {
		if was, ok := l.rules[name]; !ok {
			found = append(found, fmt.Sprintf("%s was never logged", name))
		} else if was != stored[name] {
			found = append(found, fmt.Sprintf("%s is %q, and %q was logged", name, stored[name], was))
		}
	}
	for _, name := range sortedRules(l.rules) {
		if _, ok := stored[name]; !ok {
			found = append(found, fmt.Sprintf("%s was logged, and is gone", name))
		}
	}
	return found, nil
}

// String names the rule for people.
func (n ruleName) String() string {
	if n.table == 0 {
		return n.name
	}
	return fmt.Sprintf("policy %s of table %d", n.name, n.table)
}

func sortedRules(m map[ruleName]string) []ruleName {
	return slices.SortedFunc(maps.Keys(m), func(a, b ruleName) int {
		if a.table != b.table {
			return int(a.table) - int(b.table)
		}
		if a.name < b.name {
			return -1
		}
		return 1
	})
}

func (l logged) differingHolds(ctx context.Context, q partitions.Querier) (found []string, err error) {
	rows, err := q.Query(ctx, allHoldsSQL)
	if err != nil {
		return nil, fmt.Errorf("read the holds: %w", err)
	}
	var h Hold
	var salt []byte
	var released, empty bool
	stored := map[int64]bool{}
	_, err = pgx.ForEachRow(rows, []any{&h.ID, &salt, &released, &empty, &h.TableID, &h.From, &h.To, &h.Organization, &h.Principal, &h.Correlation, &h.ReviewAt, &h.Reason, &h.ReleaseReason}, func() error {
		stored[h.ID] = true
		added, wasAdded := l.added[h.ID]
		gone, wasReleased := l.released[h.ID]
		reason := ""
		if h.ReleaseReason != nil {
			reason = *h.ReleaseReason
		}
		switch {
		case !wasAdded:
			found = append(found, fmt.Sprintf("hold %d was never logged", h.ID))
		case empty || added != commitment(salt, h.text(integrity.EventAdded, h.Reason)):
			found = append(found, fmt.Sprintf("hold %d is not what was logged", h.ID))
		case released != wasReleased:
			found = append(found, fmt.Sprintf("hold %d: whether it was released differs from what was logged", h.ID))
		case released && gone != commitment(salt, Hold{}.text(integrity.EventReleased, reason)):
			found = append(found, fmt.Sprintf("hold %d was released for another reason than was logged", h.ID))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the holds: %w", err)
	}
	for _, id := range slices.Sorted(maps.Keys(l.added)) {
		if !stored[id] {
			found = append(found, fmt.Sprintf("hold %d was logged, and is gone", id))
		}
	}
	return found, nil
}
