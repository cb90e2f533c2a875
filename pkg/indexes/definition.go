// Package indexes says which indexes a database needs and which it does not, and makes, rebuilds and drops them while it is in use.
package indexes

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// Definition is everything that decides what an index is, at the level of the table that it is made for: the partitioned parent where there
// is one. It is the part of an analysis that an apply builds its statements from.
type Definition struct {
	Schema           string            `json:"schema"` // of the table and of the index
	Table            string            `json:"table"`
	Name             string            `json:"name"` // of the index; "": made by IndexName
	Method           string            `json:"method"`
	Keys             []Key             `json:"keys"`
	Include          []string          `json:"include"`
	Predicate        string            `json:"predicate"` // without WHERE; "": none
	Unique           bool              `json:"unique"`
	NullsNotDistinct bool              `json:"nulls_not_distinct"`
	Options          map[string]string `json:"options"`    // storage parameters
	Tablespace       string            `json:"tablespace"` // "": the default one
}

// Key is one key of an index: a column or an expression. Empty parts are the defaults.
type Key struct {
	Column     string `json:"column"`
	Expression string `json:"expression"` // without the outer parentheses
	OpClass    string `json:"opclass"`    // as SQL writes it, e.g. text_pattern_ops, public.gin_trgm_ops
	Collation  string `json:"collation"`  // as SQL writes it, e.g. "C" in double quotes
	Descending bool   `json:"descending"`
	Nulls      string `json:"nulls"` // first or last; "": last when ascending, first when descending
}

// Nulls of a key that are not where its direction has them.
const (
	NullsFirst = "first"
	NullsLast  = "last"
)

// maxName is the longest identifier of PostgreSQL in bytes (NAMEDATALEN - 1).
const maxName = 63

// BTree is the access method that orders.
const BTree = "btree"

// IndexName is the name of the index: the given one, else one of table, columns and a hash of the whole definition.
func (d Definition) IndexName() string {
	if d.Name != "" {
		return d.Name
	}
	return d.ownName(0)
}

// ownNameLimit leaves room for what REINDEX CONCURRENTLY appends, in bytes.
const ownNameLimit = maxName - len("_ccnew1")

// ownName is the name that this program gives the index; a salt makes another one where that is taken.
func (d Definition) ownName(salt int) string {
	var parts []string
	for _, k := range d.Keys {
		if k.Column != "" {
			parts = append(parts, k.Column)
		} else {
			parts = append(parts, "expr")
		}
	}
	sum := sha256.Sum256([]byte(d.Schema + "\x00" + d.Table + "\x00" + d.shape() + strings.Repeat("\x00", salt)))
	tail := "_idx_" + hex.EncodeToString(sum[:])[:8]
	return cutName(d.Table+"_"+strings.Join(parts, "_"), ownNameLimit-len(tail)) + tail
}

// cutName keeps whole characters of s, at most limit bytes.
func cutName(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

// On is the definition for another table of the same columns, such as a partition, with a name of its own.
func (d Definition) On(schema, table string) Definition {
	d.Schema, d.Table, d.Name = schema, table, ""
	return d
}

// DDL is the statement that makes the index, and on a partitioned table those of all partitions. psql alone can run it.
func (d Definition) DDL() string { return d.create("") }

// create renders the statement with CONCURRENTLY or ONLY or neither.
func (d Definition) create(how string) string {
	var b strings.Builder
	b.WriteString("CREATE ")
	if d.Unique {
		b.WriteString("UNIQUE ")
	}
	b.WriteString("INDEX ")
	if how == concurrently {
		b.WriteString("CONCURRENTLY ")
	}
	b.WriteString(quote(d.IndexName()) + " ON ")
	if how == only {
		b.WriteString("ONLY ")
	}
	b.WriteString(d.TableIdent() + " " + d.shape())
	return b.String()
}

// Ways of create.
const (
	concurrently = "CONCURRENTLY"
	only         = "ONLY"
)

// shape is what follows the table's name.
func (d Definition) shape() string {
	var b strings.Builder
	b.WriteString("USING " + quote(d.Method) + " (")
	for i, k := range d.Keys {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(k.String())
	}
	b.WriteByte(')')
	if len(d.Include) > 0 {
		columns := make([]string, len(d.Include))
		for i, c := range d.Include {
			columns[i] = quote(c)
		}
		b.WriteString(" INCLUDE (" + strings.Join(columns, ", ") + ")")
	}
	if d.NullsNotDistinct {
		b.WriteString(" NULLS NOT DISTINCT")
	}
	if len(d.Options) > 0 {
		var options []string
		for _, name := range slices.Sorted(maps.Keys(d.Options)) {
			options = append(options, quote(name)+" = "+quoteText(d.Options[name]))
		}
		b.WriteString(" WITH (" + strings.Join(options, ", ") + ")")
	}
	if d.Tablespace != "" {
		b.WriteString(" TABLESPACE " + quote(d.Tablespace))
	}
	if d.Predicate != "" {
		b.WriteString(" WHERE (" + d.Predicate + ")")
	}
	return b.String()
}

// String is the key as CREATE INDEX takes it.
func (k Key) String() string {
	s := quote(k.Column)
	if k.Column == "" {
		s = "(" + k.Expression + ")"
	}
	if k.Collation != "" {
		s += " COLLATE " + k.Collation
	}
	if k.OpClass != "" {
		s += " " + k.OpClass
	}
	if k.Descending {
		s += " DESC"
	}
	switch k.nulls() {
	case NullsFirst:
		s += " NULLS FIRST"
	case NullsLast:
		s += " NULLS LAST"
	}
	return s
}

// nulls is Nulls without what the direction implies.
func (k Key) nulls() string {
	if (k.Nulls == NullsFirst) == k.Descending {
		return ""
	}
	return k.Nulls
}

// TableIdent is the table's quoted, schema-qualified name.
func (d Definition) TableIdent() string { return pgx.Identifier{d.Schema, d.Table}.Sanitize() }

// Ident is the index's quoted, schema-qualified name.
func (d Definition) Ident() string { return pgx.Identifier{d.Schema, d.IndexName()}.Sanitize() }

// TableName is the table's name for people: schema.name, quoted only where SQL needs it.
func (d Definition) TableName() string { return displayName(d.Schema, d.Table) }

// DisplayName is the index's name for people.
func (d Definition) DisplayName() string { return displayName(d.Schema, d.IndexName()) }

func displayName(schema, name string) string {
	return quoteWhereNeeded(schema) + "." + quoteWhereNeeded(name)
}

func quoteWhereNeeded(s string) string {
	for i, r := range s {
		if (r < 'a' || r > 'z') && r != '_' && (i == 0 || r < '0' || r > '9') {
			return quote(s)
		}
	}
	if s == "" {
		return `""`
	}
	return s
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// quoteText writes a string literal; the session has standard_conforming_strings on.
func quoteText(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// KeyText is the keys, and what else decides what is in the index, for people.
func (d Definition) KeyText() string {
	var parts []string
	for _, k := range d.Keys {
		text := quoteWhereNeeded(k.Column)
		if k.Column == "" {
			text = k.Expression
		}
		if k.Descending {
			text += " DESC"
		}
		parts = append(parts, text)
	}
	text := strings.Join(parts, ", ")
	if d.Method != BTree {
		text = d.Method + " " + text
	}
	if len(d.Include) > 0 {
		text += " + " + strings.Join(d.Include, ", ")
	}
	if d.Predicate != "" {
		text += " where " + d.Predicate
	}
	return text
}
