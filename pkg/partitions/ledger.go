package partitions

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// EventKind is what happened to a partition.
type EventKind string

// The events that a ledger keeps.
const (
	EventAttached EventKind = "attached" // a new partition is there
	EventDetached EventKind = "detached" // intent: it is going to be detached
	EventReturned EventKind = "returned" // the one that was detached is attached again, with its rows
	EventPruned   EventKind = "pruned"   // it was dropped
	EventMoved    EventKind = "moved"    // rows went from one partition to another
)

// Event is something that a ledger keeps about one partition. A partition's identity is its table and bounds, never its name.
type Event struct {
	Kind EventKind
	Name string // the partition's name at that time, unquoted, without schema
	Bounds
	Default bool
	Rows    int64 // pruned, moved

	// moved only: where the rows went to
	To        string
	ToBounds  Bounds
	ToDefault bool

	Evidence any // pruned only: what Ledger.Dropping found
}

// Ledger keeps evidence of what happened to partitions. A nil Ledger keeps none.
type Ledger interface {
	// Check says, before anything is planned, whether Record could not work for t: there is no key, or another than the log's.
	Check(ctx context.Context, q Querier, t Table) error
	// Dropping reads in tx, which has p locked and is going to drop it, what Record has to know of p's rows once they are gone. What it
	// returns is the Evidence of the pruned event. It runs as the role that connected.
	Dropping(ctx context.Context, tx pgx.Tx, t Table, p Partition) (any, error)
	// Record writes events in tx. It is the last thing that happens in tx before COMMIT, because it takes the log's lock; it runs as the
	// role that connected, not as the table's owner. It waits for that lock under the transaction's lock_timeout; what it returns when that
	// has run out still has its SQLSTATE, so that the transaction can be tried again.
	Record(ctx context.Context, tx pgx.Tx, t Table, events []Event) error
}

// LockFunc takes the lock that partition work on t needs, from all hosts. The context that it returns ends when the lock is lost.
type LockFunc func(ctx context.Context, t Table) (locked context.Context, release func(), err error)
