package partitions

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
)

// KeyKind is the kind of a partition key: the names of auditdb.managed_table.key_kind.
type KeyKind string

// The key kinds that can be written.
const (
	KeyTimestamptz KeyKind = "timestamptz"
	KeyTimestamp   KeyKind = "timestamp"
	KeyDate        KeyKind = "date"
	KeyUUIDv7      KeyKind = "uuidv7"   // a uuid whose first 48 bits are milliseconds since 1970
	KeyEpochS      KeyKind = "epoch_s"  // a bigint: seconds since 1970
	KeyEpochMS     KeyKind = "epoch_ms" // milliseconds
	KeyEpochUS     KeyKind = "epoch_us" // microseconds
	KeyEpochNS     KeyKind = "epoch_ns" // nanoseconds
)

// KeyKinds lists all.
func KeyKinds() []KeyKind {
	return []KeyKind{KeyTimestamptz, KeyTimestamp, KeyDate, KeyUUIDv7, KeyEpochS, KeyEpochMS, KeyEpochUS, KeyEpochNS}
}

// ParseKeyKind reads the name of a kind. An error has class usage.
func ParseKeyKind(s string) (KeyKind, error) {
	for _, k := range KeyKinds() {
		if s == string(k) {
			return k, nil
		}
	}
	return "", fault.New(fault.Usage, "one of timestamptz, timestamp, date, uuidv7, epoch_s, epoch_ms, epoch_us, epoch_ns", "unknown key kind %q", s)
}

// Instant says that values of the kind are moments, not readings of a clock.
func (k KeyKind) Instant() bool { return k != KeyTimestamp && k != KeyDate }

// SQLType is the type of a column of the kind.
func (k KeyKind) SQLType() string {
	switch k {
	case KeyUUIDv7:
		return "uuid"
	case KeyEpochS, KeyEpochMS, KeyEpochUS, KeyEpochNS:
		return "bigint"
	case KeyTimestamptz, KeyTimestamp, KeyDate:
	}
	return string(k)
}

// unit is how many nanoseconds 1 of an epoch kind is; 0 for the others.
func (k KeyKind) unit() int64 {
	switch k {
	case KeyEpochS:
		return int64(time.Second)
	case KeyEpochMS:
		return int64(time.Millisecond)
	case KeyEpochUS:
		return int64(time.Microsecond)
	case KeyEpochNS:
		return 1
	case KeyTimestamptz, KeyTimestamp, KeyDate, KeyUUIDv7:
	}
	return 0
}

// limits is the range that bounds of the kind may lie in: what can be logged, the years 1 to 9999, as far as the column can hold it.
func (k KeyKind) limits() Bounds {
	b := Bounds{From: time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), To: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC).Add(-time.Microsecond)}
	switch k {
	case KeyUUIDv7:
		b.From = time.Unix(0, 0).UTC()
	case KeyEpochNS:
		b.From, b.To = time.Date(1678, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC)
	case KeyTimestamptz, KeyTimestamp, KeyDate, KeyEpochS, KeyEpochMS, KeyEpochUS:
	}
	return b
}

// Key is the one column that a table is partitioned by.
type Key struct {
	Column string
	Kind   KeyKind
	// LeastV7 says that bounds of kind uuidv7 are the least version 7 values of their millisecond (…-7000-8000-000000000000), not those
	// whose bits after the time are all zero. All bounds of a table are of one style, so that neighbours touch.
	LeastV7 bool
}

// Text is the least value of the key that is not before at, as text for a parameter of the key's type.
func (k Key) Text(at time.Time) string {
	unit := time.Microsecond
	switch k.Kind {
	case KeyDate:
		unit = 24 * time.Hour
	case KeyEpochS:
		unit = time.Second
	case KeyUUIDv7, KeyEpochMS:
		unit = time.Millisecond
	case KeyTimestamptz, KeyTimestamp, KeyEpochUS, KeyEpochNS:
	}
	at = at.UTC()
	if whole := at.Truncate(unit); whole.Before(at) {
		at = whole.Add(unit)
	}
	return strings.Trim(k.literal(at), "'")
}

// literal writes a key value as an SQL literal that means the same under every DateStyle and TimeZone.
func (k Key) literal(at time.Time) string {
	switch k.Kind {
	case KeyUUIDv7:
		return "'" + uuidBound(at, k.LeastV7) + "'"
	case KeyEpochS, KeyEpochMS, KeyEpochUS:
		return "'" + strconv.FormatInt(at.UnixMicro()/(k.Kind.unit()/1000), 10) + "'"
	case KeyEpochNS:
		return "'" + strconv.FormatInt(at.UnixNano(), 10) + "'"
	case KeyTimestamptz, KeyTimestamp, KeyDate:
	}
	at = at.UTC()
	era, year := "", at.Year()
	if year <= 0 {
		year, era = 1-year, " BC"
	}
	text := fmt.Sprintf("%04d", year) + at.Format("-01-02")
	switch k.Kind {
	case KeyTimestamp:
		text += at.Format(" 15:04:05.999999")
	case KeyTimestamptz:
		text += at.Format(" 15:04:05.999999+00")
	case KeyDate, KeyUUIDv7, KeyEpochS, KeyEpochMS, KeyEpochUS, KeyEpochNS:
	}
	return "'" + text + era + "'"
}

// ForValues is the range as ALTER TABLE … ATTACH PARTITION takes it.
func (k Key) ForValues(b Bounds) string {
	from, to := "MINVALUE", "MAXVALUE"
	if !b.FromMin {
		from = k.literal(b.From)
	}
	if !b.ToMax {
		to = k.literal(b.To)
	}
	return "FOR VALUES FROM (" + from + ") TO (" + to + ")"
}

// within is the condition that the key lies in the range.
func (k Key) within(b Bounds) string {
	column := pgx.Identifier{k.Column}.Sanitize()
	terms := []string{column + " IS NOT NULL"}
	if !b.FromMin {
		terms = append(terms, column+" >= "+k.literal(b.From)+"::"+k.Kind.SQLType())
	}
	if !b.ToMax {
		terms = append(terms, column+" < "+k.literal(b.To)+"::"+k.Kind.SQLType())
	}
	return strings.Join(terms, " AND ")
}

const (
	uuidTail   = "-0000-0000-000000000000" // after the 48 bits of the time
	leastV7    = "-7000-8000-000000000000"
	uuidLength = 36
)

// uuidBound is the least uuid of at's millisecond.
func uuidBound(at time.Time, least bool) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(at.UnixMilli())<<16) // limits() keeps it within 48 bits
	text := hex.EncodeToString(b[:6])
	tail := uuidTail
	if least {
		tail = leastV7
	}
	return text[:8] + "-" + text[8:] + tail
}

// parseUUID reads the moment of a uuid that is the least of its millisecond, in either style.
func parseUUID(s string) (at time.Time, ok bool) {
	if len(s) != uuidLength || s[8] != '-' || (s[13:] != uuidTail && s[13:] != leastV7) {
		return time.Time{}, false
	}
	ms, err := strconv.ParseUint(s[:8]+s[9:13], 16, 48)
	return time.UnixMilli(int64(ms)).UTC(), err == nil && strings.ToLower(s) == s
}

// parseEpoch reads a number of units; it must be a whole number of microseconds that an int64 can hold.
func parseEpoch(s string, unit int64) (at time.Time, ok bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != s {
		return time.Time{}, false
	}
	const us = int64(time.Microsecond)
	switch {
	case unit < us:
		return time.UnixMicro(n / (us / unit)).UTC(), n%(us/unit) == 0
	case n > math.MaxInt64/(unit/us)-1 || n < math.MinInt64/(unit/us)+1:
		return time.Time{}, false
	}
	return time.UnixMicro(n * (unit / us)).UTC(), true
}

// epochKinds are tried in this order; the years that are taken for likely do not overlap.
func epochKinds() []KeyKind { return []KeyKind{KeyEpochS, KeyEpochMS, KeyEpochUS, KeyEpochNS} }

// inferEpoch tells the unit of a bigint key by the bounds of its partitions: by the one in which all finite ones lie within 1990 and 2200.
func inferEpoch(exprs []string) (KeyKind, bool) {
	likely := Bounds{From: time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC), To: time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)}
	for _, kind := range epochKinds() {
		finite, fits := 0, true
		for _, expr := range exprs {
			b, isDefault, err := ParseBounds(expr, kind)
			if err != nil {
				fits = false
				break
			}
			if isDefault {
				continue
			}
			for _, end := range []struct {
				at   time.Time
				open bool
			}{{b.From, b.FromMin}, {b.To, b.ToMax}} {
				if !end.open {
					finite++
					fits = fits && likely.Contains(end.at)
				}
			}
		}
		if fits && finite > 0 {
			return kind, true
		}
	}
	return "", false
}

// learn takes from the bounds of t's partitions what is not known otherwise: the unit of a number, the style of uuids and, where nothing is
// registered, the interval.
func (t *Table) learn(exprs []string) {
	if t.Key.Kind == someEpoch {
		kind, ok := inferEpoch(exprs)
		if !ok {
			t.ReadOnly = fault.New(fault.Usage, "register it: auditdb partition adopt "+t.String()+" --register --key-kind epoch_ms",
				"unsupported key: column %s has type bigint, unit not known", t.Key.Column)
			return
		}
		t.Key.Kind = kind
	}
	for i := 0; i < len(exprs) && t.Key.Kind == KeyUUIDv7 && !t.Key.LeastV7; i++ {
		t.Key.LeastV7 = strings.Contains(exprs[i], leastV7)
	}
	parts := make([]Partition, 0, len(exprs))
	for _, expr := range exprs {
		b, isDefault, err := t.Key.parse(expr)
		if err != nil {
			t.ReadOnly = fault.New(fault.Usage, "its partitions can be listed, not changed", "unsupported key: %w", err)
			return
		}
		parts = append(parts, Partition{Bounds: b, Default: isDefault, State: Attached})
	}
	if i, ok := NewCatalog(parts).Interval(t.keyZone()); ok && !t.registered {
		t.Interval = i
	}
}

// parse is ParseBounds for bounds that must also be written as literal writes them, so that new ones touch them.
func (k Key) parse(expr string) (b Bounds, isDefault bool, err error) {
	b, isDefault, err = ParseBounds(expr, k.Kind)
	if err == nil && !isDefault && k.Kind == KeyUUIDv7 && k.ForValues(b) != expr {
		err = fault.New(fault.Data, "", "partition bounds %q: the uuids of other bounds are of another style", expr)
	}
	return b, isDefault, err
}
