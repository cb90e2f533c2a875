package partitions

import (
	"time"

	"github.com/jackc/pgx/v5"
)

// Table is a range-partitioned table, found by name once and then pinned by its oid.
type Table struct {
	OID          uint32
	Schema, Name string
	Key          Key
	Owner        string
	ManagedID    *int16         // auditdb.managed_table; nil: not registered, or auditdb's schema is missing
	Interval     Interval       // registered, else that of the newest partitions, else monthly
	Location     *time.Location // the zone that bounds are computed in; never nil
	Ahead        int            // partitions to keep ready after the current one
	Integrity    bool           // registered with integrity on
	BlockIDs     bool           // registered, and ids of blocks may be written: ingest is possible
	ReadOnly     error          // why its partitions can be listed but not worked on, of class usage; only from ResolveToRead
	registered   bool           // Interval comes from auditdb.managed_table
}

// Ident is the quoted, schema-qualified name.
func (t Table) Ident() string { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }

// String is the name for people: schema.name, quoted only where SQL needs it.
func (t Table) String() string { return displayName(t.Schema, t.Name) }

// KeyTime turns an instant into a value of the table's key: itself, and for timestamp and date the reading of a clock in the table's
// zone, carried as UTC. Bounds and Catalog work on such values.
func (t Table) KeyTime(instant time.Time) time.Time {
	if t.Key.Kind.Instant() {
		return instant.UTC()
	}
	local := instant.In(t.zone())
	return time.Date(local.Year(), local.Month(), local.Day(), local.Hour(), local.Minute(), local.Second(), local.Nanosecond(), time.UTC)
}

// keyZone is the zone in which interval arithmetic on key values happens.
func (t Table) keyZone() *time.Location {
	if t.Key.Kind.Instant() {
		return t.zone()
	}
	return time.UTC
}

func (t Table) zone() *time.Location {
	if t.Location == nil {
		return time.UTC
	}
	return t.Location
}

// IntervalOf returns the whole interval of the table that a key value lies in.
func (t Table) IntervalOf(key time.Time) Bounds {
	from := t.Interval.Floor(key, t.keyZone())
	return Bounds{From: from, To: t.Interval.Next(from, t.keyZone())}
}

// State says how a partition belongs to its table.
type State string

// The states of a partition.
const (
	Attached      State = "attached"
	DetachPending State = "detach-pending" // a DETACH CONCURRENTLY that did not end: rows of its range cannot be inserted
	Detached      State = "detached"       // a prune has taken it out of the table: to keep it, or, interrupted, still to be dropped
)

// Partition is a table that is, or was, a partition.
type Partition struct {
	OID           uint32
	Schema, Name  string
	Bounds               // nothing for the default partition, and where Foreign is set
	Foreign       string // bounds that are no range of times, as PostgreSQL writes them; only where Table.ReadOnly is set
	Default       bool
	State         State
	Kind          byte  // pg_class.relkind: 'r' table, 'p' partitioned itself, 'f' foreign table
	RowsEstimate  int64 // -1: not known
	SizeBytes     int64 // with indexes and TOAST; -1: not read
	SizeEstimated bool
	Owner         string
	mark          Action // what prune has marked it for; "": it carries no mark
	attic         string // the schema that it goes to once it is detached; "": it stays where it is
	comment       string // without the mark
}

// Ident is the quoted, schema-qualified name.
func (p Partition) Ident() string { return pgx.Identifier{p.Schema, p.Name}.Sanitize() }

// String is the name for people.
func (p Partition) String() string { return displayName(p.Schema, p.Name) }

// Writable says whether rows can be put into the partition itself; if not, why.
func (p Partition) Writable() (reason string, ok bool) {
	switch {
	case p.State != Attached:
		return "it is " + string(p.State), false
	case p.Kind == 'p':
		return "it is partitioned itself", false
	case p.Kind == 'f':
		return "it is a foreign table", false
	}
	return "", true
}
