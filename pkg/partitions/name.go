package partitions

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// maxName is the longest identifier of PostgreSQL in bytes (NAMEDATALEN - 1).
const maxName = 63

const hashDigits = 8

// PartitionName returns the name for a new partition of t: the table's name and the label of the interval. A range that is only a part of an interval
// has 8 hex digits more; so has one whose table name had to be cut.
func (t Table) PartitionName(b Bounds) string { return t.name(b, false) }

// altName is the name to take when that of PartitionName belongs to something else.
func (t Table) altName(b Bounds) string { return t.name(b, true) }

func (t Table) name(b Bounds, alt bool) string {
	loc := t.keyZone()
	start := t.Interval.Floor(b.From, loc)
	label := t.Interval.Label(start, loc)
	whole := start.Equal(b.From) && t.Interval.Next(start, loc).Equal(b.To)
	if !whole || alt {
		label += "_" + hash8(t.Schema, t.Name, b.Text())
	}
	return joinName(t.Schema, t.Name, label)
}

// joinName makes table_label, and where that is too long table_hash_label with the table's name cut between characters.
func joinName(schema, table, label string) string {
	if name := table + "_" + label; len(name) <= maxName {
		return name
	}
	tail := "_" + hash8(schema, table) + "_" + label
	cut := maxName - len(tail)
	for cut > 0 && !utf8.RuneStart(table[cut]) {
		cut--
	}
	return table[:cut] + tail
}

func hash8(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:])[:hashDigits]
}

// displayName writes a qualified name as a person would, with quotes only where they are needed.
func displayName(schema, name string) string {
	return quoteWhereNeeded(schema) + "." + quoteWhereNeeded(name)
}

func quoteWhereNeeded(s string) string {
	for i, r := range s {
		if (r < 'a' || r > 'z') && r != '_' && (i == 0 || r < '0' || r > '9') {
			return pgx.Identifier{s}.Sanitize()
		}
	}
	if s == "" {
		return `""`
	}
	return s
}

// literal writes a key value as an SQL literal that means the same under every DateStyle and TimeZone.
func (k Key) literal(at time.Time) string {
	at = at.UTC()
	era, year := "", at.Year()
	if year <= 0 {
		year, era = 1-year, " BC"
	}
	text := fmt.Sprintf("%04d", year) + at.Format("-01-02")
	switch k.Kind {
	case KeyDate:
	case KeyTimestamp:
		text += at.Format(" 15:04:05.999999")
	case KeyTimestamptz:
		text += at.Format(" 15:04:05.999999+00")
	}
	return "'" + text + era + "'"
}

// forValues is the range as ALTER TABLE … ATTACH PARTITION takes it.
func (k Key) forValues(b Bounds) string {
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
		terms = append(terms, column+" >= "+k.literal(b.From)+"::"+string(k.Kind))
	}
	if !b.ToMax {
		terms = append(terms, column+" < "+k.literal(b.To)+"::"+string(k.Kind))
	}
	return strings.Join(terms, " AND ")
}

// quoteText writes a string literal; the session has standard_conforming_strings on.
func quoteText(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
