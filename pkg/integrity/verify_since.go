package integrity

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// since leaves out what an earlier verification found right and the log has not touched from then on, but for a sample of it: the
// partitions that were read longest ago, so that every one has its turn.
type since struct {
	percent float64
	past    map[verdictKey]pastVerdict

	left   int       // partitions left out
	oldest time.Time // when the first of them was read
}

// settled tells whether a unit need not be read, and when its partitions were read, the first of them.
func (s *since) settled(t *tableState, u *unit) (at time.Time, ok bool) {
	if t == nil || len(u.rels) == 0 {
		return at, false
	}
	redacted := int64(-1)
	for seq := range t.redacted { // a redact record does not say which partitions have the rows
		redacted = max(redacted, seq)
	}
	for _, k := range u.allRanges() {
		past, known := s.past[verdictKey{u.table.id, k}]
		state := t.parts[k]
		if !known || !past.ok || past.size > u.after || state == nil || redacted >= past.size || t.touched(state) >= past.size {
			return at, false
		}
		if at.IsZero() || past.at.Before(at) {
			at = past.at
		}
	}
	for _, r := range u.rels {
		if r.unlogged != "" {
			return at, false
		}
	}
	return at, true
}

// touched is the newest record about a range, its leaf sets and what has expired of them.
func (t *tableState) touched(p *partState) int64 {
	last := p.changed
	for _, seq := range p.sets {
		last = max(last, seq)
		for _, x := range t.expired[seq] {
			last = max(last, x.seq)
		}
	}
	return last
}

// choose returns the units to read.
func (s *since) choose(state *logState, units []*unit) []*unit {
	type old struct {
		u  *unit
		at time.Time
	}
	var read []*unit
	var settled []old
	for _, u := range units {
		if at, ok := s.settled(state.tables[u.table.id], u); ok {
			settled = append(settled, old{u, at})
			continue
		}
		read = append(read, u)
	}
	slices.SortStableFunc(settled, func(a, b old) int { return a.at.Compare(b.at) })
	sample := min(int(math.Ceil(float64(len(settled))*s.percent/100)), len(settled))
	for _, o := range settled[:sample] {
		read = append(read, o.u)
	}
	s.left = 0
	for i, o := range settled[sample:] {
		if s.left += len(o.u.rels); i == 0 {
			s.oldest = o.at
		}
	}
	return read
}

// describe says what was left out, for the assurance.
func (s *since) describe() string {
	if s == nil || s.left == 0 {
		return ""
	}
	return fmt.Sprintf("NOT READ: %d partitions that auditdb.verdict calls right and the log has not touched since, the first read %s", s.left, formatTime(s.oldest))
}
