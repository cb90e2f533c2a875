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
WHERE p.table_id = $1 AND p.part_from = $2 AND p.part_to = $3 AND p.seq >= $4 AND l.record NOT LIKE 'auditdb/1 detach' || chr(10) || '%'
  AND l.record NOT LIKE 'auditdb/1 archive' || chr(10) || '%'`

const archivedRowsSQL = `
SELECT coalesce((SELECT rows FROM auditdb.archive WHERE table_id = $1 AND part_from = $2::timestamptz AND part_to = $3::timestamptz AND verified_at IS NOT NULL AND deleted_at IS NULL
  ORDER BY generation DESC LIMIT 1), -1)`

// versionSQL tells the versions of rows apart: whatever writes a row leaves another xmin, and VACUUM leaves it as it is.
const versionSQL = "SELECT count(*), coalesce(sum(xmin::text::bigint), 0)::text FROM ONLY "

// version is what the rows of a partition were when they began to be verified.
type version struct {
	rows  int64
	xmins string
}

func versionOf(ctx context.Context, q partitions.Querier, p partitions.Partition) (v version, err error) {
	if err := q.QueryRow(ctx, versionSQL+p.Ident()).Scan(&v.rows, &v.xmins); err != nil {
		return v, fmt.Errorf("count the rows of %s: %w", p, err)
	}
	return v, nil
}

func versionsOf(ctx context.Context, q partitions.Querier, parts []partitions.Partition) (map[uint32]version, error) {
	versions := map[uint32]version{}
	for _, p := range parts {
		v, err := versionOf(ctx, q, p)
		if err != nil {
			return nil, err
		}
		versions[p.OID] = v
	}
	return versions, nil
}

// verify checks every partition that would lose rows, and keeps the verdicts. It returns the size of the log that they were compared with.
func (r *Runner) verify(ctx context.Context, d *Draft, res *Result) (size int64, err error) {
	if !d.integrity {
		res.add(Step{Step: StepVerify, State: StateSkipped, Detail: "integrity is off, or no key is configured and nothing was ever logged"})
		return 0, nil
	}
	if err := r.planPrune(ctx, d, nil); err != nil || d.Prune == nil {
		return 0, err
	}
	parts := d.candidates()
	if len(parts) == 0 {
		return 0, nil
	}
	if d.versions, err = versionsOf(ctx, r.DB.Pool(), d.Prune.Goes); err != nil {
		return 0, err
	}
	report, size, err := r.verifyParts(ctx, d.Table, parts)
	if err != nil {
		return 0, err
	}
	res.verdicts(d, parts, report)
	return size, nil
}

// verifyParts verifies partitions of a table, and keeps the verdicts. A log that is not right itself is an error: nothing may go then.
func (r *Runner) verifyParts(ctx context.Context, t partitions.Table, parts []partitions.Partition) (report *integrity.Report, size int64, err error) {
	began := r.Now()
	o := r.Verify
	o.Tables = []int16{*t.ManagedID}
	o.From, o.To = extent(parts)
	if report, err = integrity.Verify(ctx, r.DB, o); err != nil {
		return nil, 0, fmt.Errorf("verify %s before pruning: %w", t, err)
	}
	if err := integrity.SaveVerdicts(ctx, r.DB, report.Checked, began); err != nil {
		return nil, 0, err
	}
	if report.Unproven != "" {
		return nil, 0, fault.New(fault.Unavailable, "configure the key of the log", "verify %s before pruning: %s", t, report.Unproven)
	}
	for _, f := range report.Findings {
		if f.Partition == nil && f.Severity == integrity.SeverityError {
			return nil, 0, fault.New(fault.Integrity, "auditdb verify-integrity", "nothing of %s is pruned, for the log itself is not right: %s", t, f.Detail)
		}
	}
	if report.Checkpoint != nil {
		size = report.Checkpoint.Size
	}
	return report, size, nil
}

// candidates are the partitions to verify, also those that an interrupted run has taken out of the table: anybody may have changed them since. From
// here on no other partition loses rows, whatever becomes of these.
func (d *Draft) candidates() []partitions.Partition {
	d.Decider.verified, d.Decider.stays = map[uint32]bool{}, map[uint32]partitions.Reason{}
	for _, k := range d.Prune.Kept {
		d.Decider.stays[k.OID] = k.Reason
	}
	return append(slices.Clone(d.Prune.Goes), d.Expire...)
}

func (res *Result) verdicts(d *Draft, parts []partitions.Partition, report *integrity.Report) {
	for _, p := range parts {
		i := checkedAt(report, d.Table, p)
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

// recheck is that of this run's drafts.
func (r *Runner) recheck(ctx context.Context, tx pgx.Tx, d *Draft, p partitions.Partition, counted []Group, rows, logSize int64) error {
	if !d.integrity {
		return nil
	}
	want := expectation{xmins: d.versions[p.OID].xmins, archived: needsArchive(d.Rules), logSize: logSize}
	for _, g := range counted {
		want.rows += g.Rows
	}
	return recheck(ctx, tx, d.Table, p, want, rows)
}

// expectation is what a detached partition has to be when it is dropped.
type expectation struct {
	rows     int64  // that were counted before they were verified
	xmins    string // of these
	archived bool   // so many are in its archive
	logSize  int64  // records that it was compared with
}

// recheck looks at a detached partition before it is dropped: it must have the very rows that were there before it was verified, and nothing about
// it may have been logged since.
func recheck(ctx context.Context, tx pgx.Tx, t partitions.Table, p partitions.Partition, want expectation, rows int64) error {
	if rows != want.rows {
		return fault.New(fault.Refused, "run it again", "partition %s is not dropped: it has %d rows, not the %d that were verified", p, rows, want.rows)
	}
	now, err := versionOf(ctx, tx, p)
	if err != nil {
		return err
	}
	if now.xmins != want.xmins {
		return fault.New(fault.Refused, "run it again", "partition %s is not dropped: its rows have changed since they were verified", p)
	}
	from, to := recorded(p.Bounds)
	if want.archived {
		var archived int64
		if err := tx.QueryRow(ctx, archivedRowsSQL, *t.ManagedID, infinite(from), infinite(to)).Scan(&archived); err != nil {
			return fmt.Errorf("look for the archive of %s: %w", p, err)
		}
		if archived != rows {
			return fault.New(fault.Refused, "auditdb retention run archives it anew", "partition %s is not dropped: it has %d rows, its archive %d", p, rows, archived)
		}
	}
	var since int64
	if err := tx.QueryRow(ctx, recordedSinceSQL, *t.ManagedID, infinite(from), infinite(to), want.logSize).Scan(&since); err != nil {
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
