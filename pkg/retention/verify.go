package retention

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/pkg/integrity"
	"auditdb/pkg/partitions"
)

const recordedSinceSQL = `
SELECT count(*) FROM auditdb.log_partition p JOIN auditdb.log l USING (seq)
WHERE p.table_id = $1 AND p.part_from = $2 AND p.part_to = $3 AND p.seq >= $4 AND l.record NOT LIKE 'auditdb/1 detach' || chr(10) || '%'`

// verify checks every partition that would lose rows, and keeps the verdicts. It returns the size of the log that they were compared with.
func (r *Runner) verify(ctx context.Context, d *Draft, res *Result) (size int64, err error) {
	if !r.integrityOn(d.Table) {
		res.add(Step{Step: StepVerify, State: StateSkipped, Detail: "integrity is off, or no key is configured and nothing was ever logged"})
		return 0, nil
	}
	began := r.Now()
	if err := r.planPrune(ctx, d, nil); err != nil || d.Prune == nil {
		return 0, err
	}
	parts := d.candidates()
	if len(parts) == 0 {
		return 0, nil
	}
	o := r.Verify
	o.Tables = []int16{*d.Table.ManagedID}
	o.From, o.To = extent(parts)
	report, err := integrity.Verify(ctx, r.DB, o)
	if err != nil {
		return 0, fmt.Errorf("verify %s before pruning: %w", d.Table, err)
	}
	if err := integrity.SaveVerdicts(ctx, r.DB, report.Checked, began); err != nil {
		return 0, err
	}
	if report.Unproven != "" {
		return 0, fault.New(fault.Unavailable, "configure the key of the log", "verify %s before pruning: %s", d.Table, report.Unproven)
	}
	for _, f := range report.Findings {
		if f.Partition == nil && f.Severity == integrity.SeverityError {
			return 0, fault.New(fault.Integrity, "auditdb verify-integrity", "retention of %s: nothing is pruned, for the log itself is not right: %s", d.Table, f.Detail)
		}
	}
	res.verdicts(d, parts, report)
	if report.Checkpoint != nil {
		size = report.Checkpoint.Size
	}
	return size, nil
}

// candidates are the partitions to verify. From here on no other partition loses rows, whatever becomes of these. What an interrupted run had
// verified, and taken out of the table, is not verified again.
func (d *Draft) candidates() (parts []partitions.Partition) {
	d.Decider.verified, d.Decider.stays = map[uint32]bool{}, map[uint32]partitions.Reason{}
	for _, k := range d.Prune.Kept {
		d.Decider.stays[k.OID] = k.Reason
	}
	for _, p := range append(slices.Clone(d.Prune.Goes), d.Expire...) {
		if d.Decider.verified[p.OID] = p.State == partitions.Detached; p.State != partitions.Detached {
			parts = append(parts, p)
		}
	}
	return parts
}

func (res *Result) verdicts(d *Draft, parts []partitions.Partition, report *integrity.Report) {
	for _, p := range parts {
		from, to := recorded(p.Bounds)
		i := slices.IndexFunc(report.Checked, func(c integrity.CheckedPartition) bool {
			return c.TableID == *d.Table.ManagedID && c.From == from && c.To == to
		})
		s := Step{Step: StepVerify, Partition: &p.Name, State: StateDone, Detail: report.Assurance}
		switch {
		case i < 0:
			s.State, s.Detail = StateFinding, "it could not be verified"
		case !report.Checked[i].OK:
			s.State, s.Detail = StateFinding, firstFinding(report, p)
		default:
			d.Decider.verified[p.OID] = true
			rows := d.Decider.Found[p.OID].Rows
			s.Rows = &rows
		}
		res.add(s)
	}
}

func firstFinding(report *integrity.Report, p partitions.Partition) string {
	for _, f := range report.Findings {
		if f.Severity == integrity.SeverityError && f.Partition != nil && (*f.Partition == p.Name || *f.Partition == p.String()) {
			return fmt.Sprintf("%s: %s", f.Type, f.Detail)
		}
	}
	return "it has findings"
}

// recorded writes the ends of a range as verdicts have them.
func recorded(b partitions.Bounds) (from, to string) {
	const layout = "2006-01-02T15:04:05.000000Z"
	from, to = "min", "max"
	if !b.FromMin {
		from = b.From.UTC().Format(layout)
	}
	if !b.ToMax {
		to = b.To.UTC().Format(layout)
	}
	return from, to
}

// extent is the range around partitions; zero: open.
func extent(parts []partitions.Partition) (from, to time.Time) {
	openFrom, openTo := false, false
	for _, p := range parts {
		openFrom, openTo = openFrom || p.FromMin, openTo || p.ToMax
		if from.IsZero() || p.From.Before(from) {
			from = p.From
		}
		if p.To.After(to) {
			to = p.To
		}
	}
	if openFrom {
		from = time.Time{}
	}
	if openTo {
		to = time.Time{}
	}
	return from, to
}

// recheck looks at a detached partition before it is dropped: it must have the rows that were counted before it was verified, and nothing about
// it may have been logged since.
func (r *Runner) recheck(ctx context.Context, tx pgx.Tx, d *Draft, p partitions.Partition, counted []Group, rows, logSize int64) error {
	if p.State != partitions.Attached || logSize == 0 { // an interrupted run has verified it, or nothing is
		return nil
	}
	var want int64
	for _, g := range counted {
		want += g.Rows
	}
	if rows != want {
		return fault.New(fault.Refused, "run it again", "partition %s is not dropped: it has %d rows, not the %d that were verified", p, rows, want)
	}
	from, to := recorded(p.Bounds)
	var since int64
	if err := tx.QueryRow(ctx, recordedSinceSQL, *d.Table.ManagedID, infinite(from), infinite(to), logSize).Scan(&since); err != nil {
		return fmt.Errorf("look for new records about %s: %w", p, err)
	}
	if since > 0 {
		return fault.New(fault.Refused, "run it again", "partition %s is not dropped: %d records about it were logged since it was verified", p, since)
	}
	return nil
}

func infinite(text string) string {
	switch text {
	case "min":
		return "-infinity"
	case "max":
		return "infinity"
	}
	return text
}
