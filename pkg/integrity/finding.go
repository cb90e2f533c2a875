package integrity

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
)

// FindingType says what is wrong.
type FindingType string

// The types of findings.
const (
	RowModified         FindingType = "row_modified"   // a row differs from its leaf
	RowMissing          FindingType = "row_missing"    // a row of a leaf set is gone
	RowUnexpected       FindingType = "row_unexpected" // a row whose id claims a leaf set that does not have it
	RowLate             FindingType = "row_late"       // sealed after larger ids of its partition had been sealed (warning)
	RowsUnsealed        FindingType = "rows_unsealed"  // rows of other writers in no leaf set yet (info)
	BatchRootMismatch   FindingType = "batch_root_mismatch"
	LeavesCorrupt       FindingType = "leaves_corrupt"
	PartitionMissing    FindingType = "partition_missing"
	PartitionUnlogged   FindingType = "partition_unlogged"
	PartitionBounds     FindingType = "partition_bounds_changed"
	LogGap              FindingType = "log_gap"
	LogRootMismatch     FindingType = "log_root_mismatch"
	MACInvalid          FindingType = "mac_invalid"
	CheckpointSignature FindingType = "checkpoint_signature_invalid"
	LogTruncated        FindingType = "log_truncated"
	LogForked           FindingType = "log_forked"
	AnchorInvalid       FindingType = "anchor_invalid"
	KeyUnknown          FindingType = "key_unknown"
	WrongKey            FindingType = "wrong_key"
	RedactionUnlogged   FindingType = "redaction_unlogged"      // an entry of auditdb.redaction that no record covers
	RedactionMismatch   FindingType = "redaction_mismatch"      // the list of erased rows, or an erased row, is not what was logged
	RuleMismatch        FindingType = "rule_mismatch"           // a retention policy, floor or hold is not what was logged
	ArchiveMismatch     FindingType = "archive_digest_mismatch" // an archive, or what is recorded of it, is not what was logged
	HostileRelation     FindingType = "hostile_relation"
	SchemaDrift         FindingType = "schema_drift"
	UncoveredColumn     FindingType = "uncovered_column"
	defaultMaxFindings              = 1000
	summariseRowsAbove              = 16 // rows of one set with the same finding, above which they are one finding
)

// Severity decides the exit code: only errors mean that something is wrong for certain.
type Severity string

// The severities.
const (
	SeverityError   Severity = "error"
	SeverityWarning Severity = "warning"
	SeverityInfo    Severity = "info"
)

// Finding is one thing that the verifier found. Fields that do not apply are nil. It never holds values of rows but their ids.
type Finding struct {
	Type      FindingType `json:"type"`
	Severity  Severity    `json:"severity"`
	Table     *string     `json:"table"`
	Partition *string     `json:"partition"`
	Batch     *int64      `json:"batch"` // sequence number of the leaf set's record in the log
	RowID     *int64      `json:"row_id"`
	Detail    string      `json:"detail"`
	Hint      string      `json:"hint"`

	count int64 // how many things it stands for; 0: one
}

// Add puts findings of severity error into a report that others than Verify have made.
func (r *Report) Add(t FindingType, partition, detail, hint string) {
	f := Finding{Type: t, Severity: SeverityError, Detail: detail, Hint: hint}
	if partition != "" {
		f.Partition = &partition
	}
	r.Findings, r.OK = append(r.Findings, f), false
	r.FindingsTotal++
	r.Errors++
}

func newFinding(t FindingType, format string, args ...any) Finding {
	f := Finding{Type: t, Severity: SeverityError, Detail: fmt.Sprintf(format, args...), Hint: hintOf(t)}
	switch t {
	case RowLate:
		f.Severity = SeverityWarning
	case RowsUnsealed:
		f.Severity = SeverityInfo
	case WrongKey:
		f.Severity = SeverityWarning // it says that the verifier could not look, not that anything is wrong
	}
	return f
}

func hintOf(t FindingType) string {
	switch t {
	case RowModified, RowMissing, RowUnexpected, BatchRootMismatch, LeavesCorrupt, RedactionUnlogged, RedactionMismatch:
		return "keep the database as it is; compare with a backup, an archive or the source"
	case RowLate:
		return "rows of a long transaction arrive like this; rows written back later do too"
	case RowsUnsealed:
		return "auditdb integrity seal"
	case PartitionMissing:
		return "find out who dropped it: auditdb logs what it drops itself"
	case PartitionUnlogged:
		return "where it was attached on purpose: auditdb integrity seal --accept-partitions"
	case PartitionBounds, HostileRelation, SchemaDrift, UncoveredColumn:
		return "compare with the schema that auditdb migrate up makes"
	case LogGap, LogRootMismatch, MACInvalid, CheckpointSignature, LogTruncated, LogForked, KeyUnknown, AnchorInvalid:
		return "keep the database as it is; compare the log with its newest external checkpoint"
	case WrongKey:
		return "set integrity.key_file to the key that the log was begun with"
	}
	return ""
}

func (f Finding) on(table string) Finding {
	if table != "" {
		f.Table = &table
	}
	return f
}

func (f Finding) in(partition string) Finding {
	if partition != "" {
		f.Partition = &partition
	}
	return f
}

func (f Finding) of(seq int64) Finding {
	f.Batch = &seq
	return f
}

func (f Finding) row(id int64) Finding {
	f.RowID = &id
	return f
}

func (f Finding) times(n int64) Finding {
	f.count = n
	return f
}

// collector keeps findings up to a cap for each severity and counts all of them.
type collector struct {
	mu     sync.Mutex
	max    int
	kept   map[Severity][]Finding
	counts map[Severity]int64
}

func newCollector(limit int) *collector {
	if limit <= 0 {
		limit = defaultMaxFindings
	}
	return &collector{max: limit, kept: map[Severity][]Finding{}, counts: map[Severity]int64{}}
}

func (c *collector) add(f Finding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[f.Severity] += max(f.count, 1)
	if len(c.kept[f.Severity]) < c.max {
		c.kept[f.Severity] = append(c.kept[f.Severity], f)
	}
}

// merge takes over what another collector, which nobody uses any more, has found.
func (c *collector) merge(o *collector) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for sev, n := range o.counts {
		c.counts[sev] += n
		room := c.max - len(c.kept[sev])
		c.kept[sev] = append(c.kept[sev], o.kept[sev][:min(max(room, 0), len(o.kept[sev]))]...)
	}
}

func (c *collector) errors() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[SeverityError]
}

func (c *collector) total() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[SeverityError] + c.counts[SeverityWarning] + c.counts[SeverityInfo]
}

// list returns at most the cap, errors first, then by table, partition, batch and row.
func (c *collector) list() []Finding {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := []Finding{}
	for _, sev := range []Severity{SeverityError, SeverityWarning, SeverityInfo} {
		kept := c.kept[sev]
		slices.SortStableFunc(kept, compareFindings)
		out = append(out, kept...)
	}
	return out[:min(len(out), c.max)]
}

func compareFindings(a, b Finding) int {
	return cmp.Or(compareOptional(a.Table, b.Table), compareOptional(a.Partition, b.Partition),
		compareOptional(a.Batch, b.Batch), compareOptional(a.RowID, b.RowID))
}

func compareOptional[T cmp.Ordered](a, b *T) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return -1
	case b == nil:
		return 1
	}
	return cmp.Compare(*a, *b)
}
