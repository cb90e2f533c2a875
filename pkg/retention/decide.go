package retention

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/pkg/partitions"
)

const (
	columnsSQL = `
SELECT attname FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND atttypid IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype)`

	// maxGroups is how many groups of rows a census of one partition may have; with more, the longest rule of the table is for all of it.
	maxGroups = 10_000
	// holdScanLimit is the size of a partition up to which it is looked for rows that a hold matches; in a larger one they could be.
	holdScanLimit = 8 << 30
)

// Judgement is what the rules say about one partition, and why.
type Judgement struct {
	Reason  partitions.Reason // why it is kept; "": it may go
	Rule    string            // the policy or hold that decided; "": none
	Detail  string            // for people
	Groups  []Group           // its census
	Expired []int             // groups past a rule for rows that is shorter than the table's, by position
	Archive string            // why it is to be archived first; "": it need not be
	Loses   bool              // once it is archived, rows of it go
	Rows    int64             // of the census
	past    string            // since when no rule keeps it; "": one does
	waiting int64             // rows past a rule for rows that go once it is archived
}

// Decider decides about the partitions of one table. It keeps what it has read of a partition, so that deciding again, while the partition
// is locked, takes only the rules and holds anew. It is for one goroutine.
type Decider struct {
	Table    partitions.Table
	Now      func() time.Time
	Span     ParseSpan
	Stop     func() bool // time is up: nothing more is begun
	columns  map[string]bool
	census   map[uint32][]Group
	held     map[holdOf]bool
	archived []partitions.Bounds
	asked    map[uint32]int
	verified map[uint32]bool              // by oid, candidates only; nil: integrity is off, or nothing was verified yet
	stays    map[uint32]partitions.Reason // what was no candidate when the others were verified
	Found    map[uint32]Judgement         // by oid: the latest
	// CheckArchive reads the newest archive of a partition back from the store; nil: what is recorded is believed.
	CheckArchive func(ctx context.Context, t partitions.Table, p partitions.Partition) error
	stored       map[uint32]error // what CheckArchive said, by oid
}

type holdOf struct {
	hold int64
	oid  uint32
}

// NewDecider returns a decider for a managed table.
func NewDecider(ctx context.Context, q partitions.Querier, t partitions.Table, now func() time.Time, span ParseSpan, stop func() bool) (*Decider, error) {
	d := &Decider{
		Table: t, Now: now, Span: span, Stop: stop, columns: map[string]bool{}, census: map[uint32][]Group{}, held: map[holdOf]bool{},
		asked: map[uint32]int{}, Found: map[uint32]Judgement{}, stored: map[uint32]error{},
	}
	rows, err := q.Query(ctx, columnsSQL, t.OID)
	if err != nil {
		return nil, fmt.Errorf("read the columns of %s: %w", t, err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, n := range names {
		d.columns[n] = true
	}
	if err != nil {
		return nil, fmt.Errorf("read the columns of %s: %w", t, err)
	}
	return d, nil
}

// Decide is partitions.PruneOptions.Decide.
func (d *Decider) Decide(ctx context.Context, q partitions.Querier, p partitions.Partition) (partitions.Reason, error) {
	j, err := d.Judge(ctx, q, p)
	if err != nil {
		return "", err
	}
	d.Found[p.OID] = j
	d.asked[p.OID]++
	if j.Reason == "" && d.verified != nil && !d.verified[p.OID] {
		return cmp.Or(d.stays[p.OID], partitions.KeptFinding), nil
	}
	if j.Reason == "" && d.asked[p.OID] == 2 && d.Stop() { // the first time it is planned, the second it would be detached
		return partitions.KeptMaxDuration, nil
	}
	return j.Reason, nil
}

// Judge says what the rules, as they are now, say about a partition.
func (d *Decider) Judge(ctx context.Context, q partitions.Querier, p partitions.Partition) (j Judgement, err error) {
	now := d.Table.KeyTime(d.Now())
	if p.Default || !p.FromMin && p.From.After(now) {
		return Judgement{Reason: partitions.KeptFuture}, nil
	}
	if p.Kind != 'r' {
		return Judgement{Reason: partitions.KeptNoPolicy, Detail: "it is no plain table"}, nil
	}
	rules, err := LoadRules(ctx, q, *d.Table.ManagedID)
	if err != nil {
		return j, err
	}
	if len(rules.Policies) == 0 {
		return Judgement{Reason: partitions.KeptNoPolicy, Detail: "the table has no policy"}, nil
	}
	groups, complete, err := d.groups(ctx, q, p, rules)
	if err != nil {
		return j, err
	}
	hold, whole, err := d.hold(ctx, q, p)
	if err != nil {
		return j, err
	}
	if d.archived, err = partitions.LoadArchived(ctx, q, d.Table); err != nil {
		return j, err
	}
	j = d.weigh(p, rules, groups, complete)
	if j.Reason == "" && hold != nil {
		j.Reason, j.Rule, j.Detail = partitions.KeptHold, fmt.Sprintf("hold %d", hold.ID), "held: "+hold.Reason
	}
	if whole {
		j.Expired = nil
	}
	if !slices.ContainsFunc(d.archived, p.Equal) {
		d.wantArchive(&j, p, rules)
	} else if j.Reason == "" && needsArchive(rules) {
		if err := d.lostArchive(ctx, p); err != nil {
			d.wantArchive(&j, p, rules)
			j.Detail = err.Error()
		}
	}
	return j, nil
}

// lostArchive says why the archive of a partition that would go cannot be relied on: it may have been read back years ago. Each is read once.
func (d *Decider) lostArchive(ctx context.Context, p partitions.Partition) error {
	if d.CheckArchive == nil {
		return nil
	}
	err, known := d.stored[p.OID]
	if !known {
		err = d.CheckArchive(ctx, d.Table, p)
		d.stored[p.OID] = err
	}
	return err
}

// wantArchive says why a partition without a verified archive is to have one.
func (d *Decider) wantArchive(j *Judgement, p partitions.Partition, rules Rules) {
	required, after := needsArchive(rules), archiveAfter(rules)
	switch {
	case required && j.Reason == "":
		j.Reason, j.Detail, j.Archive, j.Loses = partitions.KeptNotArchived, j.past+", and has no verified archive", "then it is removed", true
	case required && len(j.Expired) > 0:
		j.Detail += "; rows past a shorter rule wait for a verified archive"
		j.waiting = j.expiring()
		j.Archive, j.Loses = fmt.Sprintf("then %d rows past a rule for rows are deleted", j.waiting), true
	case after != nil && !p.ToMax && !p.To.After(Decision{Keep: []partitions.Span{*after}}.Cutoff(d.Table, d.Now())):
		j.Archive = "older than archive_after " + SpanText(*after) + "; it stays"
	}
	if required {
		j.Expired = nil
	}
}

// archiveAfter is the age from which on partitions are archived though they stay; nil: none is.
func archiveAfter(r Rules) *partitions.Span {
	if p := r.Table(); p != nil {
		return p.ArchiveAfter
	}
	return nil
}

// unarchived says that the table's rule wants a verified archive of p, and there is none: then no row of it may go, neither with the partition nor
// by itself.
func (d *Decider) unarchived(p partitions.Partition, r Rules) bool {
	return needsArchive(r) && !slices.ContainsFunc(d.archived, p.Equal)
}

func needsArchive(r Rules) bool {
	return slices.ContainsFunc(r.Policies, func(p Policy) bool { return p.Whole() && p.ArchiveRequired })
}

// weigh compares the end of a partition with the rule of each of its groups. It is pure.
func (d *Decider) weigh(p partitions.Partition, rules Rules, groups []Group, complete bool) (j Judgement) {
	j.Groups = groups
	if len(groups) == 0 { // empty: as rows without any mark
		groups = []Group{{}}
	}
	if !complete {
		return Judgement{Reason: partitions.KeptNotExpired, Detail: fmt.Sprintf("more than %d kinds of rows: not looked at one by one", maxGroups)}
	}
	now, past := d.Now(), 0
	var latest time.Time
	for i, g := range groups {
		j.Rows += g.Rows
		decision, ok, err := rules.For(g, d.Span)
		switch {
		case !ok:
			j.Reason, j.Rule, j.Detail = partitions.KeptNoPolicy, "", "rows without a policy"
			continue
		case err != nil:
			if j.Reason == "" {
				j.Reason, j.Rule, j.Detail = partitions.KeptNotExpired, decision.Rule, err.Error()
			}
			continue
		}
		if !p.ToMax && !p.To.After(decision.Cutoff(d.Table, now)) {
			past++
			if !decision.Whole && g.Rows > 0 {
				j.Expired = append(j.Expired, i)
			}
		}
		if until := d.until(decision, p); until.After(latest) {
			latest = until
			if j.Reason == "" || j.Reason == partitions.KeptNotExpired {
				j.Rule = decision.Rule
			}
		}
	}
	switch {
	case j.Reason != "":
	case past == len(groups):
		j.past = "expired on " + latest.UTC().Format(time.DateOnly)
		j.Detail = j.past
	default:
		j.Reason, j.Detail = partitions.KeptNotExpired, "kept until "+latest.UTC().Format(time.DateOnly)
	}
	return j
}

// until is when a partition has expired by a decision; never: the end of time.
func (d *Decider) until(decision Decision, p partitions.Partition) time.Time {
	if p.ToMax {
		return time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)
	}
	return partitions.Policy{Keep: decision.Keep}.Expiry(d.Table, p.To)
}

func (d *Decider) column(name string) string {
	if d.columns[name] {
		return pgx.Identifier{name}.Sanitize() + "::text"
	}
	return "NULL::text"
}

// groups counts the rows of a partition by what rules go by. A partition that no rule can have expired in is not read.
func (d *Decider) groups(ctx context.Context, q partitions.Querier, p partitions.Partition, rules Rules) (groups []Group, complete bool, err error) {
	if known, ok := d.census[p.OID]; ok {
		return known, len(known) <= maxGroups, nil
	}
	if !d.oldEnough(p, rules) {
		return nil, true, nil
	}
	cols := strings.Join([]string{d.column("data_classification"), d.column("organization_id"), d.column("retention_policy"), d.column("ttl")}, ", ")
	if !slices.ContainsFunc(rules.Policies, func(p Policy) bool { return p.Organization != "" }) {
		cols = strings.Replace(cols, d.column("organization_id"), "NULL::text", 1)
	}
	sql := fmt.Sprintf("SELECT %s, count(*) FROM ONLY %s GROUP BY 1, 2, 3, 4 LIMIT %d", cols, p.Ident(), maxGroups+1)
	rows, err := q.Query(ctx, sql)
	if err != nil {
		return nil, false, fmt.Errorf("count the rows of %s by classification: %w", p, err)
	}
	groups, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (g Group, err error) {
		err = row.Scan(&g.Classification, &g.Organization, &g.RowPolicy, &g.TTL, &g.Rows)
		return g, err
	})
	if err != nil {
		return nil, false, fmt.Errorf("count the rows of %s by classification: %w", p, err)
	}
	d.census[p.OID] = groups
	return groups, len(groups) <= maxGroups, nil
}

// oldEnough says that the shortest of all rules is over for the partition.
func (d *Decider) oldEnough(p partitions.Partition, rules Rules) bool {
	return !p.ToMax && slices.ContainsFunc(rules.Policies, func(r Policy) bool {
		return !p.To.After(Decision{Keep: []partitions.Span{r.Keep}}.Cutoff(d.Table, d.Now()))
	})
}

// hold is an active hold that a row of the partition matches, or could match; whole: one is for all its rows.
func (d *Decider) hold(ctx context.Context, q partitions.Querier, p partitions.Partition) (found *Hold, whole bool, err error) {
	holds, err := LoadHolds(ctx, q, false, d.Table.ManagedID)
	if err != nil {
		return nil, false, err
	}
	for i, h := range holds {
		if !d.span(h).Overlaps(p.Bounds) {
			continue
		}
		key := holdOf{h.ID, p.OID}
		held, known := d.held[key]
		if !known {
			if held, err = d.matches(ctx, q, p, h); err != nil {
				return nil, false, fmt.Errorf("look for rows of hold %d in %s: %w", h.ID, p, err)
			}
			d.held[key] = held
		}
		if held {
			found = cmp.Or(found, &holds[i])
			whole = whole || d.forAll(h)
		}
	}
	return found, whole, nil
}

// forAll says that a hold is for all rows of its range, or that it cannot be told for which.
func (d *Decider) forAll(h Hold) bool {
	where, sure := d.where(h, func(string) string { return "" })
	return !sure || where == ""
}

// span is a hold's range in values of the key; a day more on both sides where keys are no instants.
func (d *Decider) span(h Hold) partitions.Bounds {
	b := partitions.Bounds{FromMin: h.From == nil, ToMax: h.To == nil}
	margin := 0
	if !d.Table.Key.Kind.Instant() {
		margin = 1
	}
	if h.From != nil {
		b.From = d.Table.KeyTime(*h.From).AddDate(0, 0, -margin)
	}
	if h.To != nil {
		b.To = d.Table.KeyTime(*h.To).AddDate(0, 0, margin)
	}
	return b
}

// matches says whether a row of the partition matches a hold. Where that would take a long look, or a column is missing, one could.
func (d *Decider) matches(ctx context.Context, q partitions.Querier, p partitions.Partition, h Hold) (bool, error) {
	var args []any
	where, sure := d.where(h, func(v string) string { args = append(args, v); return fmt.Sprintf("$%d", len(args)) })
	if !sure || where == "" || p.SizeBytes > holdScanLimit {
		return true, nil
	}
	var found bool
	err := q.QueryRow(ctx, "SELECT EXISTS (SELECT FROM ONLY "+p.Ident()+" WHERE "+where+")", args...).Scan(&found)
	return found, err
}

// where is the condition that rows of a hold meet, apart from its range; "": all do. sure is false where a column is missing.
func (d *Decider) where(h Hold, arg func(string) string) (sql string, sure bool) {
	var parts []string
	sure = true
	for i, value := range []*string{h.Organization, h.Principal, h.Correlation} {
		name := []string{"organization_id", "principal_id", "correlation_id"}[i]
		if value != nil {
			sure = sure && d.columns[name]
			parts = append(parts, pgx.Identifier{name}.Sanitize()+" = "+arg(*value))
		}
	}
	return strings.Join(parts, " AND "), sure
}
