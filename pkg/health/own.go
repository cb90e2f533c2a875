package health

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/postgres"
	"auditdb/pkg/partitions"
	"auditdb/pkg/retention"
)

// managedTables gives the managed tables that can be worked on; not ok: the finding says why there are none to look at.
func (p *probe) managedTables(ctx context.Context) ([]managed, finding, bool, error) {
	if f, ok := p.ownSchema(); !ok {
		return nil, f, false, nil
	}
	all, err := p.shared.tables(ctx, p.q)
	if err != nil {
		return nil, finding{}, false, err
	}
	var usable []managed
	for _, m := range all {
		if m.err != nil {
			return nil, finding{}, false, m.err
		}
		if m.ReadOnly == nil {
			usable = append(usable, m)
		}
	}
	if len(usable) == 0 {
		return nil, skip("no table is managed"), false, nil
	}
	return usable, finding{}, true, nil
}

// auditOIDs are the managed tables and all their partitions.
func (p *probe) auditOIDs(ctx context.Context) ([]uint32, error) {
	if !p.server.schema || !p.server.own {
		return []uint32{}, nil
	}
	return p.shared.oids(ctx, p.q)
}

func loadOIDs(ctx context.Context, q partitions.Querier) ([]uint32, error) {
	rows, err := q.Query(ctx, auditOIDsSQL)
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
	return append([]uint32{}, found...), err
}

// worst keeps the worse of two findings, by their status and then by what they are judged by.
func (c *check) worst(a *finding, b finding) *finding {
	if a == nil {
		return &b
	}
	rank := func(f finding) int { return c.result(f).Status.rank() }
	if rank(b) > rank(*a) || rank(b) == rank(*a) && b.value != nil && a.value != nil && *b.value > *a.value {
		return &b
	}
	return a
}

// lookCoverage counts the intervals after the current one for which there are partitions.
func lookCoverage(ctx context.Context, p *probe, c *check) (finding, error) {
	tables, f, ok, err := p.managedTables(ctx)
	if !ok {
		return f, err
	}
	var worst *finding
	for _, t := range tables {
		one := coverage(t, p.o.Now(), c)
		if worst == nil || one.status.rank() > worst.status.rank() || one.status == worst.status && *one.value < *worst.value {
			worst = &one
		}
	}
	return *worst, nil
}

func coverage(t managed, now time.Time, c *check) finding {
	key := t.KeyTime(now)
	current := t.IntervalOf(key)
	left, forever := t.tree.Runway(key)
	end := key.Add(left)
	ahead := -1
	for at := current; ahead < t.Ahead && (forever || !end.Before(at.To)); at = t.IntervalOf(at.To) {
		ahead++
	}
	warning, critical := float64(t.Ahead), 1.0
	if t.Ahead == 0 {
		critical = 0
	}
	if c.warning != nil {
		warning = *c.warning
	}
	if c.critical != nil {
		critical = *c.critical
	}
	f := measured(float64(ahead), "auditdb partition create "+t.String()+", best by a timer", "%s has partitions for this interval and %d more, of %d that should be ready", t, ahead, t.Ahead)
	f.judged = true // fewer than the limits are bad, not as many
	if ahead < 0 {
		f.value = pointer(0)
		f.message = fmt.Sprintf("%s has no partition for the current interval, %s: its rows are refused, or go to the default partition", t, current.Text())
	}
	switch {
	case float64(ahead) < critical:
		f.status = Critical
	case float64(ahead) < warning:
		f.status = Warning
	default:
		f.status = OK
	}
	return f
}

func lookGaps(ctx context.Context, p *probe, _ *check) (finding, error) {
	return lookProblems(ctx, p, "no gaps and no overlaps between partitions", partitions.ProblemGap, partitions.ProblemOverlap)
}

func lookOrphans(ctx context.Context, p *probe, _ *check) (finding, error) {
	return lookProblems(ctx, p, "no table was left behind by an interrupted run", partitions.ProblemOrphan)
}

func lookDrift(ctx context.Context, p *probe, _ *check) (finding, error) {
	return lookProblems(ctx, p, "partitions are as their tables and siblings are", partitions.ProblemDrift, partitions.ProblemGuard)
}

// lookProblems counts what partition check finds of some kinds.
func lookProblems(ctx context.Context, p *probe, fine string, kinds ...partitions.ProblemKind) (finding, error) {
	tables, f, ok, err := p.managedTables(ctx)
	if !ok {
		return f, err
	}
	w := partitions.NewWorker(partitions.Options{DB: p.db, Now: p.o.Now, LockTimeout: time.Second, Wait: time.Second})
	var all []partitions.Problem
	name := ""
	for _, t := range tables {
		found, err := w.Examine(ctx, t.Table, partitions.CheckOptions{Kinds: kinds, Tree: t.tree})
		if err != nil {
			return finding{}, err
		}
		if len(all) == 0 && len(found) > 0 {
			name = t.String()
		}
		all = append(all, found...)
	}
	if len(all) == 0 {
		return measured(0, "", "%s", fine), nil
	}
	where := all[0].Partition
	if where == "" {
		where = name
	}
	f = measured(float64(len(all)), all[0].Hint, "%s: %s", where, all[0].Detail)
	if len(all) > 1 {
		f.message += fmt.Sprintf("; and %d more: auditdb partition check", len(all)-1)
	}
	if all[0].Kind == partitions.ProblemGap && p.gapNow(tables) {
		return f.as(Critical), nil
	}
	return f, nil
}

// gapNow says whether rows of this moment find no partition.
func (p *probe) gapNow(tables []managed) bool {
	for _, t := range tables {
		if _, found := t.tree.Find(t.KeyTime(p.o.Now())); !found {
			return true
		}
	}
	return false
}

// lookDefaultRows looks whether a default partition has rows, and whether they are in the way of the next partition.
func lookDefaultRows(ctx context.Context, p *probe, c *check) (finding, error) {
	tables, f, ok, err := p.managedTables(ctx)
	if !ok {
		return f, err
	}
	var worst *finding
	for _, t := range tables {
		def := t.tree.Default()
		if def == nil || def.Kind == 'f' {
			continue
		}
		one, err := p.defaultRows(ctx, t, *def)
		if err != nil {
			return finding{}, err
		}
		worst = c.worst(worst, one)
	}
	if worst == nil {
		return measured(0, "", "there is no default partition"), nil
	}
	return *worst, nil
}

func (p *probe) defaultRows(ctx context.Context, t managed, def partitions.Partition) (finding, error) {
	var some bool
	err := p.shortly(ctx, fmt.Sprintf(someRowsSQL, def.Ident()), &some)
	switch {
	case postgres.SQLState(err) == postgres.InsufficientPrivilege:
		f := skip("this role may not read %s", def)
		f.hint = "GRANT SELECT ON " + def.Ident() + " TO " + p.server.user
		return f, nil
	case err != nil:
		return finding{}, err
	case !some:
		return measured(0, "", "the default partition of %s is empty", t), nil
	}
	f := measured(1, "auditdb partition drain "+t.String(), "%s has rows: no retention reaches them, and partitions for their range cannot be made", def)
	now := t.KeyTime(p.o.Now())
	next := t.IntervalOf(t.IntervalOf(now).To)
	var near bool
	if err := p.shortly(ctx, fmt.Sprintf(nearRowsSQL, def.Ident(), pgx.Identifier{t.Key.Column}.Sanitize()), &near, t.Key.Text(now), t.Key.Text(next.To)); err != nil {
		return finding{}, err
	}
	if near {
		f.message += "; some are of the next interval"
		return f.as(Critical), nil
	}
	return f, nil
}

// shortly asks one question without waiting for a table's lock.
func (p *probe) shortly(ctx context.Context, sql string, into any, args ...any) error {
	return p.db.TxWith(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, shortLockSQL); err != nil {
			return err
		}
		return tx.QueryRow(ctx, sql, args...).Scan(into)
	})
}

func lookPending(ctx context.Context, p *probe, _ *check) (finding, error) {
	var count int
	var name, parent string
	var running bool
	if err := p.q.QueryRow(ctx, pendingSQL).Scan(&count, &name, &parent, &running); err != nil {
		return finding{}, err
	}
	switch {
	case count == 0:
		return measured(0, "", "no detach is pending"), nil
	case running:
		return measured(float64(count), "", "%s is being detached", name), nil
	}
	f := measured(float64(count), "auditdb partition finalize "+parent, "the detach of %s has not ended: rows of its range cannot be inserted, and no other partition of %s can be detached", name, parent)
	return f.as(Critical), nil
}

// lookOverdue counts the intervals by which the oldest partition that may go is late.
func lookOverdue(ctx context.Context, p *probe, c *check) (finding, error) {
	tables, f, ok, err := p.managedTables(ctx)
	if !ok {
		return f, err
	}
	w := partitions.NewWorker(partitions.Options{DB: p.db, Now: p.o.Now})
	var worst *finding
	ruled := false
	for _, t := range tables {
		review, err := w.Review(ctx, t.Table, t.tree.Catalog)
		if err != nil {
			return finding{}, err
		}
		if review.Cutoff == nil {
			continue
		}
		ruled = true
		worst = c.worst(worst, overdue(t, review))
	}
	if !ruled {
		f := skip("no table has a retention policy")
		f.hint = "auditdb retention policy set"
		return f, nil
	}
	return *worst, nil
}

func overdue(t managed, review *partitions.Review) finding {
	count, held, late := 0, 0, 0
	oldest := ""
	for _, part := range t.tree.All() {
		if part.To.IsZero() || part.To.After(*review.Cutoff) {
			continue
		}
		if h := review.Held(part); h != nil && *h {
			held++
			continue
		}
		count++
		n := 0
		for at := part.To; n < 1000 && at.Before(*review.Cutoff); n++ {
			at = t.IntervalOf(at).To
		}
		if n > late {
			late, oldest = n, part.String()
		}
	}
	kept := ""
	if held > 0 {
		kept = fmt.Sprintf("; %s held", plural(held, "partition"))
	}
	if late == 0 {
		return measured(0, "", "nothing of %s is overdue%s", t, kept)
	}
	return measured(float64(late), "auditdb retention plan says why; call auditdb retention run by a timer", "%s of %s past retention, the oldest (%s) by %s%s",
		plural(count, "partition"), t, oldest, plural(late, "interval"), kept)
}

func lookHolds(ctx context.Context, p *probe, _ *check) (finding, error) {
	if f, ok := p.ownSchema(); !ok {
		return f, nil
	}
	holds, err := retention.LoadHolds(ctx, p.q, false, nil)
	if err != nil {
		return finding{}, err
	}
	due := retention.PastReview(holds, p.o.Now())
	return measured(float64(len(due)), "auditdb retention hold list; release those that are no longer needed: auditdb retention hold release ID", "%s active, %d past the date of review", plural(len(holds), "hold"), len(due)), nil
}

func lookUnarchived(ctx context.Context, p *probe, _ *check) (finding, error) {
	tables, f, ok, err := p.managedTables(ctx)
	if !ok {
		return f, err
	}
	w := partitions.NewWorker(partitions.Options{DB: p.db, Now: p.o.Now})
	var missing []string
	for _, t := range tables {
		review, err := w.Review(ctx, t.Table, t.tree.Catalog)
		if err != nil {
			return finding{}, err
		}
		for _, part := range t.tree.All() {
			if because := review.KeptBecause(part); because != nil && *because == partitions.KeptNotArchived {
				missing = append(missing, part.String())
			}
		}
	}
	if len(missing) == 0 {
		return measured(0, "", "every expired partition that needs an archive has a verified one"), nil
	}
	return measured(float64(len(missing)), "auditdb retention run", "%s without a verified archive, e.g. %s", plural(len(missing), "expired partition"), missing[0]), nil
}

func lookIntegrity(ctx context.Context, p *probe, _ *check) (finding, error) {
	if f, ok := p.ownSchema(); !ok {
		return f, nil
	}
	var first float64
	if err := none(p.q.QueryRow(ctx, firstRecordSQL).Scan(&first)); err != nil {
		return finding{}, err
	}
	if first < 0 {
		return skip("nothing is in the integrity log yet"), nil
	}
	var count, bad int
	var age float64
	var example string
	if err := p.q.QueryRow(ctx, verdictsSQL).Scan(&count, &bad, &age, &example); err != nil {
		return finding{}, err
	}
	const hint = "auditdb verify-integrity, best by a timer"
	if bad > 0 {
		f := measured(max(age, 0), "auditdb verify-integrity shows the findings", "%s did not pass its last verification: %s", plural(bad, "partition"), example)
		return f.as(Critical), nil
	}
	if count == 0 {
		return measured(first, hint, "nothing was ever verified; the log began %s ago", seconds(first)), nil
	}
	return measured(age, hint, "%s verified, the last time %s ago", plural(count, "partition"), seconds(age)), nil
}

func lookAnchors(ctx context.Context, p *probe, _ *check) (finding, error) {
	if p.o.Anchors == nil {
		return skip("no anchor is configured"), nil
	}
	if f, ok := p.ownSchema(); !ok {
		return f, nil
	}
	all, err := p.o.Anchors(ctx, p.db)
	if err != nil {
		return finding{}, err
	}
	worst := int64(0)
	f := measured(0, "auditdb integrity checkpoint brings the newest checkpoint to all anchors", "%s with the newest checkpoint", plural(len(all), "anchor"))
	for _, a := range all {
		switch {
		case a.Mismatch:
			f.message, f.hint = a.Anchor+" holds a checkpoint that the log does not extend: the log was changed, or another database writes there", "auditdb verify-integrity"
			return f.as(Critical), nil
		case a.Err != nil:
			f.message = a.Anchor + " cannot be read: " + oneLine(a.Err.Error())
			f = f.as(Warning)
		case a.Lag != nil && *a.Lag > worst:
			worst = *a.Lag
			f.value = pointer(float64(worst))
			f.message = fmt.Sprintf("%s lags %s behind the newest checkpoint", a.Anchor, plural(worst, "record"))
			f = f.as(Warning)
		}
	}
	return f, nil
}

func lookMigrations(ctx context.Context, p *probe, _ *check) (finding, error) {
	if f, ok := p.ownSchema(); !ok {
		return f, nil
	}
	pending, ahead, err := p.o.Migrations(ctx, p.db)
	if err != nil {
		return finding{}, err
	}
	f := measured(float64(pending), "auditdb migrate up", "%s", map[bool]string{true: "the schema is up to date", false: plural(pending, "migration") + " pending"}[pending == 0])
	if ahead {
		f.message, f.hint = "the schema is newer than this program", "install a newer auditdb"
		return f.as(Critical), nil
	}
	return f, nil
}

const (
	jobHistory  = 90 * 24 * time.Hour
	leastRuns   = 4    // from which on a job is seen to be regular
	regular     = 2.0  // its gaps are: 90 % of them no longer than this many times the median one
	foundBad    = 4    // exit code of a job that did its work; what it found, other checks report
	shortestGap = hour // of a timer; what is called more often is called by hand
)

// lookJobs says which job has not succeeded for longer than it used to take from run to run, and which failed last.
func lookJobs(ctx context.Context, p *probe, c *check) (finding, error) {
	if f, ok := p.ownSchema(); !ok {
		return f, nil
	}
	rows, err := p.q.Query(ctx, jobsSQL, p.o.Now().Add(-jobHistory))
	if err != nil {
		return finding{}, err
	}
	var worst *finding
	known := 0
	var job string
	var age, median, ninth float64
	var succeeded, exit, killed int
	_, err = pgx.ForEachRow(rows, []any{&job, &age, &median, &ninth, &succeeded, &exit, &killed}, func() error {
		known++
		name := strings.ReplaceAll(job, ".", " ")
		if succeeded >= leastRuns && median >= shortestGap && ninth <= regular*median {
			worst = c.worst(worst, measured(round(age/median), "look at the timer that calls auditdb "+name, "%s last succeeded %s ago; it used to every %s", name, seconds(age), seconds(median)))
		}
		if exit != 0 && exit != foundBad {
			f := measured(0, "auditdb "+name+" by hand shows why", "the last run of %s failed with exit code %d", name, exit)
			worst = c.worst(worst, f.as(Warning))
		}
		if killed > 0 {
			f := measured(0, "start it again: the next run goes on where it ended", "%s of %s ended without a word within the last day", plural(killed, "run"), name)
			worst = c.worst(worst, f.as(Warning))
		}
		return nil
	})
	switch {
	case err != nil:
		return finding{}, err
	case worst != nil:
		return *worst, nil
	}
	return measured(0, "", "%s known, none failed last or is late", plural(known, "job")), nil
}
