package partitions

import (
	"crypto/sha256"
	"encoding/hex"
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
	from := b.From
	if b.FromMin { // it is called by where it ends
		from = b.To.Add(-time.Microsecond)
	}
	start := t.Interval.Floor(from, loc)
	label := t.Interval.Label(start, loc)
	whole := !b.FromMin && !b.ToMax && start.Equal(b.From) && t.Interval.Next(start, loc).Equal(b.To)
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

// quoteText writes a string literal; the session has standard_conforming_strings on.
func quoteText(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
