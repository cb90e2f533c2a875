// Package query answers questions about the rows of a partitioned table: newest first, page by page or as a stream, counted or grouped.
package query

import (
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/pkg/partitions"
)

// column is one of the table's.
type column struct {
	name string
	oid  uint32 // of its type
	typ  string // as SQL writes it, without a length
	key  int    // place in the primary key from 1 on; 0: not in it
}

func (c column) ident() string { return pgx.Identifier{c.name}.Sanitize() }

// The oids of the types that have a form of their own in JSON, and of those that are told apart elsewhere.
const (
	oidBool        = 16
	oidInt8        = 20
	oidInt2        = 21
	oidInt4        = 23
	oidOID         = 26
	oidJSON        = 114
	oidFloat4      = 700
	oidFloat8      = 701
	oidTimestamp   = 1114
	oidTimestamptz = 1184
	oidNumeric     = 1700
	oidUUID        = 2950
	oidJSONB       = 3802
)

// layout is what rows of a table consist of.
type layout struct {
	table   partitions.Table
	columns []column // all that are shown, in the table's order
	order   []int    // places in columns: the partition key, then what else makes a row unique
}

// newLayout takes the salt out, which only a verifier needs.
func newLayout(t partitions.Table, all []column) (*layout, error) {
	l := &layout{table: t}
	for _, c := range all {
		if c.name != "salt" || c.oid != oidUUID {
			l.columns = append(l.columns, c)
		}
	}
	at := l.find(t.Key.Column)
	if at < 0 {
		return nil, fault.New(fault.Internal, "", "%s has no column %s", t, t.Key.Column)
	}
	if l.columns[at].key == 0 {
		return nil, fault.New(fault.Usage, "rows are paged by the primary key: add one that has the partition key in it", "query %s: the table has no primary key", t)
	}
	l.order = append(l.order, at)
	for i, c := range l.columns {
		if c.key > 0 && i != at {
			l.order = append(l.order, i)
		}
	}
	slices.SortFunc(l.order[1:], func(a, b int) int { return l.columns[a].key - l.columns[b].key })
	return l, nil
}

func (l *layout) find(name string) int {
	return slices.IndexFunc(l.columns, func(c column) bool { return c.name == name })
}

// column finds the column that option, a flag as the user writes it, is about.
func (l *layout) column(name, option string) (column, error) {
	i := l.find(name)
	if i < 0 {
		names := make([]string, len(l.columns))
		for i, c := range l.columns {
			names[i] = c.name
		}
		return column{}, fault.New(fault.Usage, "its columns are "+strings.Join(names, ", "), "%s: %s has no column %s", option, l.table, name)
	}
	return l.columns[i], nil
}

// list is the columns that rows are read with.
func (l *layout) list() string {
	names := make([]string, len(l.columns))
	for i, c := range l.columns {
		names[i] = c.ident()
	}
	return strings.Join(names, ", ")
}
