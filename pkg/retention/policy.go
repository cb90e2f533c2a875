// Package retention decides which audit rows may go, and makes them go: policies and legal holds in the database, the run that prunes
// partitions, and the expiry of single rows. docs/retention.md has the rules.
package retention

import (
	"fmt"
	"strings"
	"time"

	"auditdb/internal/fault"
	"auditdb/pkg/partitions"
)

// Defaults of a policy.
const (
	DefaultKeepDays  = 2555 // seven years
	DefaultPolicy    = "base"
	defaultFloor     = "default" // classification of the floor for rules and rows without one of their own
	actionDrop       = string(partitions.Drop)
	actionDetach     = string(partitions.Detach)
	maxNameBytes     = 200
	daysInMonthTimes = 30.436875 // days in a mean Gregorian month, for comparing lengths only
)

// Policy is one rule of a table. Without Classification, Organization and RowPolicy it is the rule of the whole table; else it is a rule
// for rows.
type Policy struct {
	Name            string
	Classification  string // of data_classification; "": any
	Organization    string // of organization_id; "": any
	RowPolicy       string // of the row's own retention_policy; "": any
	Keep            partitions.Span
	ArchiveAfter    *partitions.Span // nil: when it is pruned
	ArchiveRequired bool
	Action          partitions.Action
	MinKeep         int
	MaxDrop         int
	MaxClockSkew    time.Duration
}

// Floor is the least that rows of a classification, or, as "default", those without a floor of their own, are kept.
type Floor struct {
	Classification string
	Keep           partitions.Span
}

// Whole says that the policy is for whole partitions.
func (p Policy) Whole() bool {
	return p.Classification == "" && p.Organization == "" && p.RowPolicy == ""
}

// rank orders rules by how specific they are: a rule that the row names, organization and classification, organization, classification,
// the table.
func (p Policy) rank() (rank int) {
	if p.RowPolicy != "" {
		rank += 4
	}
	if p.Organization != "" {
		rank += 2
	}
	if p.Classification != "" {
		rank++
	}
	return rank
}

// SpanText writes a span as people do: 7y, 13mo, 90d.
func SpanText(s partitions.Span) string {
	var text strings.Builder
	add := func(n int, unit string) {
		if n != 0 {
			fmt.Fprintf(&text, "%d%s", n, unit)
		}
	}
	add(s.Months/12, "y")
	add(s.Months%12, "mo")
	add(s.Days, "d")
	add(int(s.Time/time.Hour), "h")
	if text.Len() == 0 {
		return "0d"
	}
	return text.String()
}

// longer compares lengths of spans, months being of mean length.
func longer(a, b partitions.Span) bool { return meanDays(a) > meanDays(b) }

func meanDays(s partitions.Span) float64 {
	return float64(s.Months)*daysInMonthTimes + float64(s.Days) + s.Time.Hours()/24
}

// Definition is the policy as the log and people see it.
func (p Policy) Definition() string {
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+"="+value)
		}
	}
	add("classification", p.Classification)
	add("organization", p.Organization)
	add("retention_policy", p.RowPolicy)
	add("keep", SpanText(p.Keep))
	if p.Whole() {
		if p.ArchiveAfter != nil {
			add("archive_after", SpanText(*p.ArchiveAfter))
		}
		add("archive", archiveWord(p.ArchiveRequired))
		add("action", string(p.Action))
		parts = append(parts, fmt.Sprintf("min_keep=%d max_drop=%d max_clock_skew=%s", p.MinKeep, p.MaxDrop, p.MaxClockSkew))
	}
	return strings.Join(parts, " ")
}

func archiveWord(required bool) string {
	if required {
		return archiveRequired
	}
	return archiveNone
}

// Check refuses a policy that could not work, and one that keeps for less than its floor.
func (p Policy) Check(floors []Floor) error {
	bad := func(format string, args ...any) error {
		return fault.New(fault.Config, "", "policy %s: %s", p.Name, fmt.Sprintf(format, args...))
	}
	switch {
	case p.Name == "" || len(p.Name) > maxNameBytes || strings.ContainsFunc(p.Name, func(r rune) bool { return r < ' ' }):
		return bad("a name has 1 to %d bytes and no control characters", maxNameBytes)
	case isFloorName(p.Name):
		return bad("the name of a policy does not begin with %q", floorPrefix)
	case meanDays(p.Keep) <= 0:
		return bad("keep must be longer than nothing")
	case p.Action != partitions.Drop && p.Action != partitions.Detach:
		return bad("action is drop or detach, not %q", p.Action)
	case !p.Whole() && (p.Action != partitions.Drop || p.ArchiveAfter != nil):
		return bad("action, archive and archive_after go with the rule of a whole table: single rows are deleted, and logged as expired")
	case p.MinKeep < 0 || p.MaxDrop < 1:
		return bad("min_keep cannot be negative, max_drop must be positive")
	case p.MaxClockSkew <= 0 || p.MaxClockSkew > time.Hour:
		return bad("max_clock_skew lies between 0 and 1h")
	case p.ArchiveAfter != nil && longer(*p.ArchiveAfter, p.Keep):
		return bad("archive_after %s is longer than keep %s", SpanText(*p.ArchiveAfter), SpanText(p.Keep))
	}
	if f := floorOf(floors, p.Classification, p.Classification == ""); f != nil && longer(f.Keep, p.Keep) {
		return fault.New(fault.Config, "keep at least the floor, or lower the floor", "policy %s: keep %s is shorter than the floor of %s for %s",
			p.Name, SpanText(p.Keep), SpanText(f.Keep), f.Classification)
	}
	return nil
}

// floorOf is the floor for a classification: its own, else, where byDefault says so, the default one. nil: none.
func floorOf(floors []Floor, classification string, byDefault bool) *Floor {
	var found *Floor
	for i, f := range floors {
		if f.Classification == classification && classification != "" {
			return &floors[i]
		}
		if f.Classification == defaultFloor && byDefault {
			found = &floors[i]
		}
	}
	return found
}

// Rules are all rules of one table.
type Rules struct {
	Policies []Policy
	Floors   []Floor
}

// Table is the rule of whole partitions; nil: there is none. Where several are for the whole table, the longest counts.
func (r Rules) Table() *Policy {
	var found *Policy
	for i, p := range r.Policies {
		if p.Whole() && (found == nil || longer(p.Keep, found.Keep)) {
			found = &r.Policies[i]
		}
	}
	return found
}

// Group is rows that the same rule is for.
type Group struct {
	Classification, Organization, RowPolicy, TTL *string // nil: NULL
	Rows                                         int64
}

// Decision is which rule is for a group of rows, and the spans that all have to be over.
type Decision struct {
	Rule  string // name of the policy; with "+ floor" or "+ ttl" where these keep longer
	Keep  []partitions.Span
	Whole bool // the rule of the table
}

// For decides which rule is for a group. ok is false where none is. A ttl that cannot be read by span keeps for ever: err says so.
func (r Rules) For(g Group, span ParseSpan) (d Decision, ok bool, err error) {
	var best *Policy
	for i, p := range r.Policies {
		if !matches(p.Classification, g.Classification) || !matches(p.Organization, g.Organization) || !matches(p.RowPolicy, g.RowPolicy) {
			continue
		}
		if best == nil || p.rank() > best.rank() || p.rank() == best.rank() && longer(p.Keep, best.Keep) {
			best = &r.Policies[i]
		}
	}
	if best == nil {
		return d, false, nil
	}
	d = Decision{Rule: best.Name, Keep: []partitions.Span{best.Keep}, Whole: best.Whole()}
	class := ""
	if g.Classification != nil {
		class = *g.Classification
	}
	if f := floorOf(r.Floors, class, best.Classification == ""); f != nil {
		if longer(f.Keep, best.Keep) {
			d.Rule += " + floor"
		}
		d.Keep = append(d.Keep, f.Keep)
	}
	if g.TTL != nil && strings.TrimSpace(*g.TTL) != "" {
		ttl, err := span(strings.TrimSpace(*g.TTL))
		if err != nil {
			return d, true, fmt.Errorf("rows have a ttl that cannot be read: %w", err)
		}
		if longer(ttl, best.Keep) {
			d.Rule += " + ttl"
		}
		d.Keep = append(d.Keep, ttl)
	}
	return d, true, nil
}

func matches(want string, have *string) bool { return want == "" || have != nil && *have == want }

// Cutoff is the key value at or before which rows of the decision have expired.
func (d Decision) Cutoff(t partitions.Table, now time.Time) time.Time {
	return partitions.Policy{Keep: d.Keep}.Cutoff(t, now)
}
