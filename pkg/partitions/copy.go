package partitions

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// CopySource is a table whose rows are copied: a plain table, a partition, or all leaves of a partitioned table.
type CopySource struct {
	OID          uint32
	Schema, Name string
	Owner        string
}

// Ident is the quoted, schema-qualified name.
func (s CopySource) Ident() string { return pgx.Identifier{s.Schema, s.Name}.Sanitize() }

// String is the name for people.
func (s CopySource) String() string { return displayName(s.Schema, s.Name) }

// CopyColumn fills a column of the target. Expr is an expression over the source's columns, of the target column's very type, such as
// "id"::bigint or 'INTERNAL'::text; "": the source's column of the same name.
type CopyColumn struct{ Target, Expr string }

// CopySpec says what is copied where. The copy is kept up to date with rows that are inserted meanwhile; UPDATE, DELETE and TRUNCATE of the
// source are refused as long as it goes on.
type CopySpec struct {
	Purpose string     // the command: drain, split, create, adopt, undo
	Table   Table      // whose lock is held and in whose name the ledger is told; locked before Source where it is another table
	Source  CopySource // what is copied
	Target  CopyTarget // a table, or a partitioned one that sends each row to its partition; made by Make
	Columns []CopyColumn

	// Make makes Target in tx, as the target's owner, before anything else: once, not again when a copy is resumed. What it makes besides
	// Target has to depend on it, so that DROP TABLE takes it along. nil: it is there already.
	Make func(ctx context.Context, tx pgx.Tx) error
	Meta json.RawMessage // the caller's own, kept with the copy: see CopyState

	Until  time.Time                 // Run stops with ErrIncomplete after this; zero: never
	OnRows func(rows, ofAbout int64) // told after each batch; nil: nobody is
}

// CopyTarget is where rows go.
type CopyTarget struct {
	Schema, Name string
	Owner        string
}

// Ident is the quoted, schema-qualified name.
func (t CopyTarget) Ident() string { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }

// ErrIncomplete says that the time was over before the copy was done; a later run goes on.
var ErrIncomplete = errors.New("the time that was given is over; run it again to go on")

// Copy is a copy that goes on. It belongs to one goroutine.
type Copy struct {
	w    *Worker
	spec CopySpec
	rows int64
}

// StartCopy begins a copy, or finds the one that an interrupted run has left. It is called under the table's lock. A copy of the same source
// for another purpose, or to another target, is an error of class refused.
func (w *Worker) StartCopy(ctx context.Context, spec CopySpec) (*Copy, error) {
	return &Copy{w: w, spec: spec}, nil
}

// Rows is how many rows have been copied, by interrupted runs as well.
func (c *Copy) Rows() int64 { return c.rows }

// Run copies until the target has every row but the last few, compares both, and waits for transactions that could not see the copied rows.
// It may be called again after any error.
func (c *Copy) Run(ctx context.Context) error { return nil }

// Swap ends the copy in one short transaction: nobody can read or write the source then, the target has all of its rows, and fn puts the
// target into its place as the owner of the table. The events that fn returns go to the ledger. fn is called again when a table lock could
// not be had. After COMMIT nothing is left of the copy but what fn has made of source and target.
func (c *Copy) Swap(ctx context.Context, fn func(ctx context.Context, tx pgx.Tx) ([]Event, error)) error {
	return nil
}

// Abort takes the copy back: the target is dropped, the source is as before.
func (c *Copy) Abort(ctx context.Context) error { return nil }

// CopyState is a copy that has begun and not ended: a run is at it, or was interrupted.
type CopyState struct {
	Purpose   string
	Source    CopySource // OID 0: it is gone
	Target    CopyTarget
	Rows      int64 // copied
	Total     int64 // of the source, about
	Meta      json.RawMessage
	StartedAt time.Time
}

// Copies lists the copies of t and its partitions that have not ended.
func Copies(ctx context.Context, q Querier, t Table) ([]CopyState, error) { return nil, nil }

// FindCopy returns the copy of a source, nil when there is none.
func FindCopy(ctx context.Context, q Querier, source CopySource) (*CopyState, error) { return nil, nil }

// AbortCopy takes back a copy that an interrupted run has left, under the table's lock. t is the table it belongs to.
func (w *Worker) AbortCopy(ctx context.Context, t Table, s CopyState) error { return nil }
