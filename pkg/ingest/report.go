package ingest

import (
	"time"

	"auditdb/pkg/integrity"
)

// Counts says what became of records. Read = Inserted + Duplicate + Rejected; Skipped ones were committed by an earlier run, or are
// none of those that the mapping takes.
type Counts struct {
	Read       int64 `json:"read"`
	Skipped    int64 `json:"skipped"`
	Unselected int64 `json:"unselected"` // of the skipped ones: not selected by the mapping
	Inserted   int64 `json:"inserted"`
	Duplicate  int64 `json:"duplicate"`
	Rejected   int64 `json:"rejected"`
}

func (c *Counts) add(o Counts) {
	c.Read += o.Read
	c.Skipped += o.Skipped
	c.Unselected += o.Unselected
	c.Inserted += o.Inserted
	c.Duplicate += o.Duplicate
	c.Rejected += o.Rejected
}

// SourceReport is what became of one source's records.
type SourceReport struct {
	Name string `json:"name"`
	Counts
}

// LeftOut is a file in a folder that is not of events.
type LeftOut struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// NewPartition is a partition that a run made.
type NewPartition struct {
	Name string    `json:"name"`
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// Report is the result of a run, also of one that ended early: what it says is committed.
type Report struct {
	Sources []SourceReport `json:"sources"`
	Counts
	LeftOut        []LeftOut             `json:"left_out"` // files in folders that were not read
	Created        []NewPartition        `json:"created"`  // partitions made, or in a dry run those that would be
	Batches        int64                 `json:"batches"`
	Bytes          int64                 `json:"bytes"`      // of the records read, decompressed
	Checkpoint     *integrity.Checkpoint `json:"checkpoint"` // the receipt: covers everything inserted; null when nothing was, or integrity is off
	ElapsedSeconds float64               `json:"elapsed_seconds"`
	RowsPerSecond  float64               `json:"rows_per_second"`

	// Begun is false where the run was refused before anything was read.
	Begun bool `json:"-"`
}
