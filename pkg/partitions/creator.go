package partitions

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"auditdb/internal/postgres"
)

// CreatorOptions say how a Creator works.
type CreatorOptions struct {
	DB           *postgres.DB
	Ledger       Ledger   // nil: keep no evidence
	Lock         LockFunc // nil: the database's advisory lock alone
	Now          func() time.Time
	LockTimeout  time.Duration // one attempt at a table lock
	Wait         time.Duration // waiting for other runs and all attempts together
	AllowPruned  bool
	MoveRowLimit int64 // most rows to move out of a default partition for one range; 0: DefaultMoveRows
	Log          *slog.Logger
}

// Creator makes partitions that rows need while they are being taken in. It may be used by several goroutines.
type Creator struct{ o CreatorOptions }

// NewCreator returns a creator.
func NewCreator(o CreatorOptions) *Creator { return &Creator{o: o} }

// Ensure makes a partition for each interval of t that one of the ranges touches (key values; a range may be as short as one microsecond),
// under the table's lock, and returns the catalog as it is afterwards and what it made. Intervals wholly before the table's retention and
// ranges that were pruned are not made: the catalog shows them as gaps. It bounds nothing in the future: that is the caller's business.
func (c *Creator) Ensure(ctx context.Context, t Table, ranges []Bounds) (*Catalog, []Partition, error) {
	return nil, nil, errors.New("not written yet")
}
