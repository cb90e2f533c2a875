package indexes

import (
	"context"
	"time"

	"auditdb/internal/postgres"
)

// Listed is a table with its indexes.
type Listed struct {
	Table      string        `json:"table"`
	Partitions int           `json:"partitions"`    // that hold rows; 0: it is not partitioned
	Rows       *int64        `json:"rows_estimate"` // null: it was never analyzed
	TableBytes int64         `json:"table_bytes"`
	IndexBytes int64         `json:"index_bytes"`
	Indexes    []ListedIndex `json:"indexes"`
}

// ListedIndex is an index, with sums over those of all partitions that are attached to it.
type ListedIndex struct {
	Index      string     `json:"index"`
	Table      string     `json:"table"` // the one that it is of: the listed one, or a partition
	Definition Definition `json:"definition"`
	DDL        string     `json:"ddl"`
	Partitions int        `json:"partitions"` // that have it
	Missing    int        `json:"missing"`    // partitions that have not
	Invalid    int        `json:"invalid"`    // indexes, itself included, that no query uses
	Attached   bool       `json:"attached"`
	Valid      bool       `json:"valid"`
	Building   bool       `json:"building"` // invalid, and somebody may be building it
	Primary    bool       `json:"primary"`
	Constraint *string    `json:"constraint"`
	SizeBytes  int64      `json:"size_bytes"`
	BloatBytes *int64     `json:"bloat_bytes"` // estimated; null: not known
	Scans      int64      `json:"scans"`       // on all servers that were asked
	LastScan   *time.Time `json:"last_scan"`   // null: never, or not known before PostgreSQL 16
	Advice     *string    `json:"advice"`      // what to do about it; null: nothing
}

// ListOptions say what to list.
type ListOptions struct {
	HygieneOptions

	All bool // the indexes of partitions one by one, too
}

// List reads indexes with their usage, size, bloat and validity. since is when scans began to be counted.
func List(ctx context.Context, db *postgres.DB, o ListOptions) (tables []Listed, notes []string, since time.Time, err error) {
	f, err := gather(ctx, db, o.HygieneOptions)
	if err != nil {
		return nil, nil, since, err
	}
	advice := map[string]string{}
	for _, r := range f.judge(o.Now) {
		if r.Index != "" {
			advice[r.Index] = string(r.Action) + ": " + r.Reason
		}
	}
	tables = []Listed{}
	for n, root := range f.nodes {
		if root.Level > 0 {
			continue
		}
		l := Listed{Table: root.String(), Indexes: []ListedIndex{}}
		var rows int64
		known := false
		for _, below := range f.tree(n) {
			if !below.partitioned() {
				l.TableBytes += below.Bytes
				if below.Rows >= 0 {
					rows, known = rows+int64(below.Rows), true
				}
				if below.Level > 0 {
					l.Partitions++
				}
			}
			for _, i := range f.indexes[below.OID] {
				l.IndexBytes += i.SizeBytes
				if o.All || i.Parent == 0 {
					l.Indexes = append(l.Indexes, f.describe(i, advice))
				}
			}
		}
		if known {
			l.Rows = &rows
		}
		l.count()
		tables = append(tables, l)
	}
	return tables, f.notes, f.since, nil
}

// count fills in what is known when all partitions have been seen.
func (l *Listed) count() {
	for n := range l.Indexes {
		if i := &l.Indexes[n]; i.Table == l.Table && l.Partitions > 0 {
			i.Missing = l.Partitions - i.Partitions
		}
	}
}

// describe sums up an index and those attached to it.
func (f *hygieneFacts) describe(i Index, advice map[string]string) ListedIndex {
	d := ListedIndex{
		Index: i.DisplayName(), Table: i.TableName(), Definition: i.Definition, DDL: i.DDL(), Attached: i.Parent != 0, Valid: i.Valid,
		Primary: i.Primary, Building: !i.Valid && f.builders[i.TableOID] != "",
	}
	if i.Constraint != "" {
		d.Constraint = &i.Constraint
	}
	if text, ok := advice[d.Index]; ok {
		d.Advice = &text
	}
	for _, one := range append([]Index{i}, f.below(i)...) {
		d.SizeBytes += one.SizeBytes
		d.Scans += one.Scans
		if !one.Valid {
			d.Invalid++
		}
		if one.Parent != 0 && !one.Partitioned && one.OID != i.OID {
			d.Partitions++
		}
		if one.LastScan != nil && (d.LastScan == nil || one.LastScan.After(*d.LastScan)) {
			d.LastScan = one.LastScan
		}
		if part, _, ok := f.waste(one); ok {
			bytes := int64(part * float64(one.SizeBytes))
			if d.BloatBytes != nil {
				bytes += *d.BloatBytes
			}
			d.BloatBytes = &bytes
		}
	}
	return d
}
