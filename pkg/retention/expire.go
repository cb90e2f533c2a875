package retention

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/postgres"
	"auditdb/pkg/integrity"
	"auditdb/pkg/partitions"
)

const (
	// expireBatch is how many rows one transaction deletes.
	expireBatch = 5000
	purposeSQL  = `SET LOCAL auditdb.purpose = 'expire'`
	deadSQL     = `
SELECT s.n_dead_tup, s.n_live_tup FROM pg_stat_all_tables s WHERE s.relid = $1`
	// vacuumShare is the share of deleted rows in a partition from which on a VACUUM is worth it.
	vacuumShare = 0.2
)

// Expiry is what the expiry of single rows did to one partition.
type Expiry struct {
	Rows     int64
	Batches  int
	Vacuum   bool // a VACUUM is due
	TimeIsUp bool
}

// Expirer deletes rows of rules for rows, in bounded batches; each batch has its records in its transaction.
type Expirer struct {
	DB      *postgres.DB
	Log     *integrity.Log // nil: integrity is off
	Decider *Decider
}

// Expire deletes the rows of p that are past a rule for rows, which its judgement names, apart from those that a hold matches. Batches that
// are done stay done when it is interrupted; the next run goes on.
func (e *Expirer) Expire(ctx context.Context, p partitions.Partition, j Judgement) (out Expiry, err error) {
	for {
		if e.Decider.Stop() {
			out.TimeIsUp = true
			return out, nil
		}
		n, err := e.batch(ctx, p, j)
		out.Rows += n
		if err != nil {
			return out, fmt.Errorf("expire rows of %s: %w", p, err)
		}
		if n == 0 {
			break
		}
		out.Batches++
	}
	if out.Rows > 0 {
		var dead, live int64
		if err := e.DB.Pool().QueryRow(ctx, deadSQL, p.OID).Scan(&dead, &live); err != nil {
			return out, fmt.Errorf("look at the statistics of %s: %w", p, err)
		}
		out.Vacuum = float64(max(dead, out.Rows)) >= vacuumShare*float64(live+max(dead, out.Rows))
	}
	return out, nil
}

func (e *Expirer) batch(ctx context.Context, p partitions.Partition, j Judgement) (n int64, err error) {
	err = e.DB.Tx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, purposeSQL); err != nil {
			return err
		}
		rules, err := LoadRules(ctx, tx, *e.Decider.Table.ManagedID)
		if err != nil {
			return err
		}
		holds, err := LoadHolds(ctx, tx, false, e.Decider.Table.ManagedID)
		if err != nil {
			return err
		}
		sql, args, ok := e.statement(p, j, rules, holds)
		if !ok {
			return nil
		}
		if _, err := tx.Exec(ctx, "SET LOCAL ROLE "+pgx.Identifier{p.Owner}.Sanitize()); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "RESET ROLE"); err != nil {
			return err
		}
		n = int64(len(ids))
		return e.record(ctx, tx, p, ids)
	})
	if err != nil {
		return 0, integrity.Held(ctx, e.DB, err)
	}
	return n, nil
}

func (e *Expirer) record(ctx context.Context, tx pgx.Tx, p partitions.Partition, ids []int64) error {
	if e.Log == nil || len(ids) == 0 {
		return nil
	}
	t := e.Decider.Table
	table := &integrity.Table{ID: *t.ManagedID, OID: t.OID, Schema: t.Schema, Name: t.Name, KeyColumn: t.Key.Column}
	ref := integrity.PartitionRef{Name: p.Name, Range: integrity.Range{From: p.From, To: p.To, FromMin: p.FromMin, ToMax: p.ToMax}}
	entries, err := e.Log.ExpiringRows(ctx, tx, table, ref, ids)
	if err != nil {
		return err
	}
	if err := integrity.Lock(ctx, tx); err != nil {
		return err
	}
	_, err = e.Log.Append(ctx, tx, e.Decider.Now(), entries, nil)
	return err
}

// statement deletes a batch of the rows in groups that are past a rule for rows, as the rules are by now, and that no hold matches.
// ok is false where there are none.
func (e *Expirer) statement(p partitions.Partition, j Judgement, rules Rules, holds []Hold) (sql string, args []any, ok bool) {
	d := e.Decider
	if d.unarchived(p, rules) {
		return "", nil, false
	}
	var groups []string
	arg := func(v any) string { args = append(args, v); return fmt.Sprintf("$%d", len(args)) }
	for _, i := range j.Expired {
		g := j.Groups[i]
		decision, found, err := rules.For(g, d.Span)
		if !found || err != nil || decision.Whole || p.To.After(decision.Cutoff(d.Table, d.Now())) {
			continue
		}
		var parts []string
		for k, v := range []*string{g.Classification, g.Organization, g.RowPolicy, g.TTL} {
			name := []string{"data_classification", "organization_id", "retention_policy", "ttl"}[k]
			if !d.columns[name] || name == "organization_id" && g.Organization == nil && !rulesNameOrganizations(rules) {
				continue
			}
			parts = append(parts, d.column(name)+" IS NOT DISTINCT FROM "+arg(v)+"::text")
		}
		groups = append(groups, "("+strings.Join(parts, " AND ")+")")
	}
	if len(groups) == 0 {
		return "", nil, false
	}
	where := "(" + strings.Join(groups, " OR ") + ")"
	for _, h := range holds {
		if !d.span(h).Overlaps(p.Bounds) {
			continue
		}
		cond, sure := d.where(h, func(v string) string { return arg(v) })
		if !sure || cond == "" {
			return "", nil, false // all of the partition is held
		}
		where += " AND (" + cond + ") IS NOT TRUE"
	}
	ident := p.Ident()
	return fmt.Sprintf("DELETE FROM ONLY %s WHERE ctid = ANY (ARRAY(SELECT ctid FROM ONLY %s WHERE %s LIMIT %d)) RETURNING id", ident, ident, where, expireBatch), args, true
}

func rulesNameOrganizations(r Rules) bool {
	for _, p := range r.Policies {
		if p.Organization != "" {
			return true
		}
	}
	return false
}
