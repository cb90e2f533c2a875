package partitions

import (
	"slices"
	"time"
)

// Reason says why prune keeps a partition.
type Reason string

// The reasons, as the JSON of partition prune has them.
const (
	KeptHold        Reason = "hold"
	KeptMinKeep     Reason = "min_keep"
	KeptMaxDrop     Reason = "max_drop"
	KeptNotArchived Reason = "not_archived"
	KeptNotExpired  Reason = "not_expired"
	KeptDefault     Reason = "default"
	KeptFuture      Reason = "future"
	KeptNoPolicy    Reason = "no_policy"
	KeptFinding     Reason = "integrity_finding"
	KeptMaxDuration Reason = "max_duration" // of retention run: its time was up
)

// Text is the reason with what can be done about it, where something can.
func (r Reason) Text() string {
	if r == KeptFinding {
		return "integrity_finding: its latest verification found something wrong; auditdb verify-integrity shows it, and a clean one lifts this"
	}
	return string(r)
}

// Rule says which partitions have expired. All times are key values.
type Rule struct {
	Known           bool      // there is a policy, or the user gave a cutoff
	Cutoff          time.Time // a partition has expired when its upper end is at or before it
	MinKeep         int       // so many of the newest partitions that do not begin in the future stay in any case
	MaxDrop         int       // at most so many go, the oldest first; 0: no limit
	Holds           []Bounds  // ranges with an active hold
	ArchiveRequired bool
	Archived        []Bounds          // ranges with a verified archive
	Findings        []Bounds          // ranges whose latest verification found an error
	decided         map[uint32]Reason // by oid; it stands for Known, Cutoff, Holds and archives. nil: they decide
	taken           int               // so many of MaxDrop are taken by what an interrupted prune has left
}

// Kept is a partition that prune leaves alone, and why.
type Kept struct {
	Partition
	Reason Reason
}

// Expired divides partitions into those that a rule lets go, oldest first, and those that are kept. It goes by the real upper end of each.
// The default partition and partitions that reach beyond now never expire. It is pure; now is a key value.
func Expired(parts []Partition, r Rule, now time.Time) (expired []Partition, kept []Kept) {
	parts = slices.Clone(parts)
	slices.SortStableFunc(parts, func(a, b Partition) int {
		if a.Default != b.Default {
			return map[bool]int{true: 1, false: -1}[a.Default]
		}
		return compareBounds(a.Bounds, b.Bounds)
	})
	reasons := make([]Reason, len(parts))
	present := 0 // partitions that are neither default nor wholly in the future
	for i, p := range parts {
		reasons[i] = r.reason(p, now)
		if p.begun(now) {
			present++
		}
	}
	dropped := r.taken
	for i, p := range parts {
		if !p.begun(now) {
			continue
		}
		newest := present <= r.MinKeep
		present--
		switch {
		case reasons[i] != "":
		case newest:
			reasons[i] = KeptMinKeep
		case r.MaxDrop > 0 && dropped >= r.MaxDrop:
			reasons[i] = KeptMaxDrop
		default:
			dropped++
		}
	}
	for i, p := range parts {
		if reasons[i] == "" {
			expired = append(expired, p)
		} else {
			kept = append(kept, Kept{Partition: p, Reason: reasons[i]})
		}
	}
	return expired, kept
}

// begun says that p is for times that are, at least in part, not in the future.
func (p Partition) begun(now time.Time) bool {
	return !p.Default && (p.FromMin || !p.From.After(now))
}

// reason is why p is kept by itself, whatever becomes of the others; "" when it may go.
func (r Rule) reason(p Partition, now time.Time) Reason {
	switch {
	case p.Default:
		return KeptDefault
	case !p.begun(now):
		return KeptFuture
	case r.decided != nil:
		return r.decision(p, now)
	case !r.Known:
		return KeptNoPolicy
	case p.ToMax || p.To.After(r.Cutoff):
		return KeptNotExpired
	case p.To.After(now):
		return KeptFuture
	case slices.ContainsFunc(r.Holds, p.Overlaps):
		return KeptHold
	case slices.ContainsFunc(r.Findings, p.Equal):
		return KeptFinding
	case r.ArchiveRequired && !slices.ContainsFunc(r.Archived, p.Equal):
		return KeptNotArchived
	}
	return ""
}

// decision is reason where somebody else decides; what must never go does not go.
func (r Rule) decision(p Partition, now time.Time) Reason {
	reason, known := r.decided[p.OID]
	switch {
	case !known:
		return KeptNoPolicy
	case reason != "":
		return reason
	case p.ToMax || p.To.After(now):
		return KeptFuture
	case slices.ContainsFunc(r.Findings, p.Equal):
		return KeptFinding
	}
	return ""
}

// Span is a calendar span as PostgreSQL's interval keeps it.
type Span struct {
	Months, Days int
	Time         time.Duration
}

// Before goes the span back from t on the calendar and clock of loc: months first, where a day that the month does not have becomes its last
// (one month before 31 March is the end of February), then days, then hours.
func (s Span) Before(t time.Time, loc *time.Location) time.Time {
	wall := wallOf(t, loc)
	y, m, d := wall.Date()
	first := time.Date(y, m-time.Month(s.Months), 1, 0, 0, 0, 0, time.UTC)
	last := first.AddDate(0, 1, -1).Day()
	day := time.Date(first.Year(), first.Month(), min(d, last), wall.Hour(), wall.Minute(), wall.Second(), wall.Nanosecond(), time.UTC)
	return instantOf(day.AddDate(0, 0, -s.Days), loc).Add(-s.Time)
}
