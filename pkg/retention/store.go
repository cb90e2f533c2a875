package retention

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"auditdb/internal/postgres"
	"auditdb/pkg/integrity"
	"auditdb/pkg/partitions"
)

const (
	policiesSQL = `
SELECT name, coalesce(data_classification, ''), coalesce(organization_id, ''), coalesce(retention_policy, ''), keep, archive_after, archive_required, action, min_keep,
  max_drop_per_run, max_clock_skew
FROM auditdb.policy WHERE table_id = $1 ORDER BY policy_id`
	floorsSQL    = `SELECT data_classification, keep FROM auditdb.floor ORDER BY 1`
	lockRulesSQL = `LOCK TABLE auditdb.policy, auditdb.floor IN SHARE ROW EXCLUSIVE MODE`
	setPolicySQL = `
INSERT INTO auditdb.policy AS p (table_id, name, data_classification, organization_id, retention_policy, keep, archive_after, archive_required, action, min_keep,
  max_drop_per_run, max_clock_skew)
VALUES ($1, $2, nullif($3, ''), nullif($4, ''), nullif($5, ''), $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (table_id, name) DO UPDATE SET data_classification = excluded.data_classification, organization_id = excluded.organization_id,
  retention_policy = excluded.retention_policy, keep = excluded.keep, archive_after = excluded.archive_after, archive_required = excluded.archive_required,
  action = excluded.action, min_keep = excluded.min_keep, max_drop_per_run = excluded.max_drop_per_run, max_clock_skew = excluded.max_clock_skew,
  set_at = now(), set_by = session_user`
	removePolicySQL = `DELETE FROM auditdb.policy WHERE table_id = $1 AND name = $2`
	setFloorSQL     = `INSERT INTO auditdb.floor VALUES ($1, $2) ON CONFLICT (data_classification) DO UPDATE SET keep = excluded.keep`
	removeFloorSQL  = `DELETE FROM auditdb.floor WHERE data_classification = $1`
)

func interval(s partitions.Span) pgtype.Interval {
	return pgtype.Interval{Months: int32(s.Months), Days: int32(s.Days), Microseconds: s.Time.Microseconds(), Valid: true} //nolint:gosec // bounded by the parser
}

func spanOf(i pgtype.Interval) partitions.Span {
	return partitions.Span{Months: int(i.Months), Days: int(i.Days), Time: time.Duration(i.Microseconds) * time.Microsecond}
}

// LoadRules reads the rules of a managed table.
func LoadRules(ctx context.Context, q partitions.Querier, table int16) (Rules, error) {
	var r Rules
	rows, err := q.Query(ctx, policiesSQL, table)
	if err != nil {
		return r, fmt.Errorf("read the retention policies: %w", err)
	}
	var p Policy
	var keep, after, skew pgtype.Interval
	var action string
	_, err = pgx.ForEachRow(rows, []any{&p.Name, &p.Classification, &p.Organization, &p.RowPolicy, &keep, &after, &p.ArchiveRequired, &action, &p.MinKeep, &p.MaxDrop, &skew}, func() error {
		one := p
		one.Keep, one.Action, one.MaxClockSkew, one.ArchiveAfter = spanOf(keep), partitions.Action(action), spanOf(skew).Time, nil
		if after.Valid {
			s := spanOf(after)
			one.ArchiveAfter = &s
		}
		if !one.Whole() {
			one.ArchiveRequired = false
		}
		r.Policies = append(r.Policies, one)
		return nil
	})
	if err != nil {
		return r, fmt.Errorf("read the retention policies: %w", err)
	}
	if rows, err = q.Query(ctx, floorsSQL); err != nil {
		return r, fmt.Errorf("read the retention floors: %w", err)
	}
	var f Floor
	_, err = pgx.ForEachRow(rows, []any{&f.Classification, &keep}, func() error {
		r.Floors = append(r.Floors, Floor{Classification: f.Classification, Keep: spanOf(keep)})
		return nil
	})
	if err != nil {
		return r, fmt.Errorf("read the retention floors: %w", err)
	}
	return r, nil
}

// Store changes policies and holds; every change is a log record in the same transaction.
type Store struct {
	DB  *postgres.DB
	Log *integrity.Log
	Now func() time.Time
}

// change runs fn under the lock of the rules and appends what it returns.
func (s Store) change(ctx context.Context, fn func(tx pgx.Tx) ([]integrity.Entry, error)) error {
	err := s.DB.Tx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, lockRulesSQL); err != nil {
			return err
		}
		entries, err := fn(tx)
		if err != nil || len(entries) == 0 {
			return err
		}
		if err := integrity.Lock(ctx, tx); err != nil {
			return err
		}
		_, err = s.Log.Append(ctx, tx, s.Now(), entries, nil)
		return err
	})
	return integrity.Held(ctx, s.DB, err)
}

// Wanted says what the rules of tables shall be; floors nil: they stay as they are.
type Wanted func(ctx context.Context, q partitions.Querier) (want map[int16][]Policy, floors []Floor, err error)

// ApplyRules makes the rules of tables what is wanted, which is asked under the lock, and returns what differed.
func (s Store) ApplyRules(ctx context.Context, wanted Wanted) (changes []Change, err error) {
	err = s.change(ctx, func(tx pgx.Tx) ([]integrity.Entry, error) {
		changes, err = Differences(ctx, tx, wanted)
		if err != nil {
			return nil, err
		}
		var entries []integrity.Entry
		for _, c := range changes {
			if err := c.apply(ctx, tx); err != nil {
				return nil, fmt.Errorf("%s: %w", c, err)
			}
			entries = append(entries, integrity.Entry{Body: c.record()})
		}
		return entries, nil
	})
	if err != nil {
		return nil, fmt.Errorf("change retention policies: %w", err)
	}
	return changes, nil
}

func (c Change) apply(ctx context.Context, tx pgx.Tx) error {
	var err error
	switch {
	case c.Policy != nil:
		p := *c.Policy
		var after *pgtype.Interval
		if p.ArchiveAfter != nil {
			i := interval(*p.ArchiveAfter)
			after = &i
		}
		_, err = tx.Exec(ctx, setPolicySQL, c.Table, p.Name, p.Classification, p.Organization, p.RowPolicy, interval(p.Keep), after, p.ArchiveRequired, string(p.Action),
			p.MinKeep, p.MaxDrop, interval(partitions.Span{Time: p.MaxClockSkew}))
	case c.Floor != nil:
		_, err = tx.Exec(ctx, setFloorSQL, c.Floor.Classification, interval(c.Floor.Keep))
	case c.isFloor:
		_, err = tx.Exec(ctx, removeFloorSQL, c.Name)
	default:
		_, err = tx.Exec(ctx, removePolicySQL, c.Table, c.Name)
	}
	return err
}
