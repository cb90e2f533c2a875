// Package partitions plans, makes, lists and removes the range partitions of a table. Bounds, catalog and planning are pure; store*.go
// talks to PostgreSQL.
package partitions

import (
	"cmp"
	"math"
	"time"
)

// shownTime is the layout of times in texts for people.
const shownTime = "2006-01-02 15:04:05Z"

// Bounds is a half-open range of partition key values [From, To). The times are instants whatever the kind of the key, but for timestamp
// and date keys, which have no zone: there they are wall-clock readings carried as UTC. See Table.KeyTime.
type Bounds struct {
	From, To time.Time // UTC, whole microseconds
	FromMin  bool      // no lower end: MINVALUE or -infinity; From is not looked at
	ToMax    bool      // no upper end: MAXVALUE or infinity; To is not looked at
}

const (
	minMicros = math.MinInt64
	maxMicros = math.MaxInt64
)

// lower and upper give the ends in microseconds since 1970, open ends as the extreme values.
func (b Bounds) lower() int64 {
	if b.FromMin {
		return minMicros
	}
	return b.From.UnixMicro()
}

func (b Bounds) upper() int64 {
	if b.ToMax {
		return maxMicros
	}
	return b.To.UnixMicro()
}

func fromMicros(from, to int64) Bounds {
	b := Bounds{FromMin: from == minMicros, ToMax: to == maxMicros}
	if !b.FromMin {
		b.From = time.UnixMicro(from).UTC()
	}
	if !b.ToMax {
		b.To = time.UnixMicro(to).UTC()
	}
	return b
}

// Empty says that no value lies within b.
func (b Bounds) Empty() bool { return b.lower() >= b.upper() }

// Contains says whether t lies within b.
func (b Bounds) Contains(t time.Time) bool {
	us := t.UnixMicro()
	return b.lower() <= us && (b.ToMax || us < b.upper())
}

// Overlaps says whether a value lies within both b and c.
func (b Bounds) Overlaps(c Bounds) bool {
	return !b.Empty() && !c.Empty() && b.lower() < c.upper() && c.lower() < b.upper()
}

// Covers says whether all of c lies within b.
func (b Bounds) Covers(c Bounds) bool {
	return c.Empty() || (b.lower() <= c.lower() && c.upper() <= b.upper())
}

// Equal compares the ranges, whatever the locations of the times.
func (b Bounds) Equal(c Bounds) bool { return b.lower() == c.lower() && b.upper() == c.upper() }

// Text shows the range as "[2026-11-01 00:00:00, 2026-12-01 00:00:00)", times in UTC.
func (b Bounds) Text() string {
	from, to := "-infinity", "infinity"
	if !b.FromMin {
		from = b.From.UTC().Format(textLayout)
	}
	if !b.ToMax {
		to = b.To.UTC().Format(textLayout)
	}
	return "[" + from + ", " + to + ")"
}

const textLayout = "2006-01-02 15:04:05.999999"

func compareBounds(a, b Bounds) int {
	if c := cmp.Compare(a.lower(), b.lower()); c != 0 {
		return c
	}
	return cmp.Compare(a.upper(), b.upper())
}

// subtract returns the parts of b that none of covered, sorted by lower end, takes.
func subtract(b Bounds, covered []Bounds) []Bounds {
	var rest []Bounds
	at, end := b.lower(), b.upper()
	for _, c := range covered {
		from, to := c.lower(), c.upper()
		if to <= at || from >= to {
			continue
		}
		if from >= end {
			break
		}
		if from > at {
			rest = append(rest, fromMicros(at, from))
		}
		at = to
		if at >= end {
			return rest
		}
	}
	if at < end {
		rest = append(rest, fromMicros(at, end))
	}
	return rest
}
