package partitions

import (
	"strings"
	"time"

	"auditdb/internal/fault"
)

// ParseBounds reads the bounds of a partition by a key of a kind, as pg_get_expr(relpartbound) writes them with DateStyle ISO, in whatever time
// zone: "DEFAULT" or "FOR VALUES FROM ('2026-11-01 00:00:00+00') TO (MAXVALUE)". Years may have more than four digits or be BC. An error has
// class data: also for a uuid that is not the least of its millisecond, and for a number that is no whole microsecond.
func ParseBounds(expr string, kind KeyKind) (b Bounds, isDefault bool, err error) {
	if expr == "DEFAULT" {
		return Bounds{}, true, nil
	}
	rest, ok := strings.CutPrefix(expr, "FOR VALUES FROM (")
	rest, ok2 := strings.CutSuffix(rest, ")")
	from, to, ok3 := strings.Cut(rest, ") TO (")
	if !ok || !ok2 || !ok3 {
		return Bounds{}, false, unreadable(expr, kind)
	}
	low, ok := parseBound(from, kind)
	high, ok2 := parseBound(to, kind)
	if !ok || !ok2 {
		return Bounds{}, false, unreadable(expr, kind)
	}
	b.From, b.FromMin = low.at, low.infinity < 0
	b.To, b.ToMax = high.at, high.infinity > 0
	switch { // ranges that hold nothing but an infinite value, or nothing at all
	case low.infinity > 0:
		b.From = time.UnixMicro(maxMicros - 1).UTC()
	case high.infinity < 0:
		b.To = time.UnixMicro(minMicros + 1).UTC()
	}
	return b, false, nil
}

func unreadable(expr string, kind KeyKind) error {
	what := map[KeyKind]string{KeyUUIDv7: "uuids that are the least of their millisecond", KeyEpochNS: "whole microseconds"}[kind]
	if what == "" {
		what = "dates or times"
	}
	return fault.New(fault.Data, "", "partition bounds %q: not a range of %s", expr, what)
}

type bound struct {
	at       time.Time
	infinity int // -1, 0, 1
}

func parseBound(s string, kind KeyKind) (bound, bool) {
	switch s {
	case "MINVALUE":
		return bound{infinity: -1}, true
	case "MAXVALUE":
		return bound{infinity: 1}, true
	}
	if len(s) < 2 || s[0] != '\'' || s[len(s)-1] != '\'' {
		return bound{}, false
	}
	var at time.Time
	ok := false
	switch s = s[1 : len(s)-1]; {
	case kind == KeyUUIDv7:
		at, ok = parseUUID(s)
	case kind.unit() > 0:
		at, ok = parseEpoch(s, kind.unit())
	case s == "-infinity":
		return bound{infinity: -1}, true
	case s == "infinity":
		return bound{infinity: 1}, true
	default:
		at, ok = parseISO(s)
	}
	return bound{at: at}, ok
}

// parseISO reads a date, timestamp or timestamptz of DateStyle ISO: YYYY-MM-DD[ hh:mm:ss[.ffffff][±hh[:mm[:ss]]]][ BC].
func parseISO(s string) (time.Time, bool) {
	s, bc := strings.CutSuffix(s, " BC")
	r := digits{s: s, ok: true}
	year := r.number(4, 7)
	r.skip('-')
	month := r.number(2, 2)
	r.skip('-')
	day := r.number(2, 2)
	var clock [4]int
	offset := 0
	if r.next(' ') {
		clock, offset = r.clock()
	}
	if bc {
		year = 1 - year
	}
	t := time.Date(year, time.Month(month), day, clock[0], clock[1], clock[2], clock[3]*1000, time.UTC)
	sane := t.Month() == time.Month(month) && t.Day() == day && clock[0] < 24 && clock[1] < 60 && clock[2] < 60
	return t.Add(-time.Duration(offset) * time.Second), r.ok && r.s == "" && sane
}

// digits reads numbers off the front of a string; ok turns false at the first surprise.
type digits struct {
	s  string
	ok bool
}

func (r *digits) number(least, most int) int {
	n, i := 0, 0
	for i < len(r.s) && i < most && r.s[i] >= '0' && r.s[i] <= '9' {
		n = n*10 + int(r.s[i]-'0')
		i++
	}
	r.ok = r.ok && i >= least
	r.s = r.s[i:]
	return n
}

func (r *digits) next(c byte) bool {
	if r.s == "" || r.s[0] != c {
		return false
	}
	r.s = r.s[1:]
	return true
}

func (r *digits) skip(c byte) { r.ok = r.next(c) && r.ok }

// clock reads hours, minutes, seconds and microseconds, and the offset from UTC in seconds.
func (r *digits) clock() (parts [4]int, offset int) {
	parts[0] = r.number(2, 2)
	r.skip(':')
	parts[1] = r.number(2, 2)
	r.skip(':')
	parts[2] = r.number(2, 2)
	if r.next('.') {
		before := len(r.s)
		parts[3] = r.number(1, 6)
		for n := before - len(r.s); n < 6; n++ {
			parts[3] *= 10
		}
	}
	sign := 0
	if r.next('+') {
		sign = 1
	} else if r.next('-') {
		sign = -1
	}
	if sign == 0 {
		return parts, 0
	}
	offset = r.number(2, 2) * 3600
	if r.next(':') {
		offset += r.number(2, 2) * 60
	}
	if r.next(':') {
		offset += r.number(2, 2)
	}
	return parts, sign * offset
}
