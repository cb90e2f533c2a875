package indexes

import "time"

// Index is an index as the catalog has it: of a table, of a partition, or, without storage, of a partitioned table.
type Index struct {
	Definition

	OID      uint32
	TableOID uint32
	Root     uint32 // the table that was asked for; TableOID or a partitioned table above it
	Level    int    // of the table below Root; 0: Root itself
	Parent   uint32 // the partitioned index that it is attached to; 0: none
	Above    string // the name of Parent, quoted and qualified
	Owner    string // of the table

	Partitioned     bool // an index of a partitioned table, which has no storage
	Valid           bool // queries use it, and nobody has begun to drop it; a partitioned one: every partition has an attached valid one
	Ready           bool // writes maintain it
	Primary         bool
	Exclusion       bool
	Constraint      string // the constraint that it belongs to; "": none
	ReplicaIdentity bool
	Clustered       bool

	SizeBytes int64      // of its main fork
	Rows      float64    // entries by the last VACUUM, ANALYZE or build; negative: not known
	Scans     int64      // since the statistics were reset
	LastScan  *time.Time // nil: never, or not known before PostgreSQL 16
}

// Enforces says whether the index does more than make queries faster: it may then never be dropped as unused.
func (i Index) Enforces() bool {
	return i.Unique || i.Primary || i.Exclusion || i.Constraint != "" || i.ReplicaIdentity || i.Clustered
}
