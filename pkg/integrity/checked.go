package integrity

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// CheckedPartition is the verdict on one partition of a managed table: by its bounds, which are its identity in the log.
type CheckedPartition struct {
	TableID int16  `json:"table_id"`
	From    string `json:"from"` // RFC 3339 with microseconds, UTC, or "min"
	To      string `json:"to"`   // likewise, or "max"
	OK      bool   `json:"ok"`   // no finding of severity error
}

// verdicts gathers what became of partitions. An error stands, whatever comes later in the run.
type verdicts map[verdictKey]bool

type verdictKey struct {
	table int16
	rng   rangeKey
}

func (v verdicts) add(table int16, rng rangeKey, ok bool) {
	k := verdictKey{table, rng}
	before, known := v[k]
	v[k] = ok && (before || !known)
}

// list returns the verdicts: those with errors first, then by table and time. The default partition has no bounds and is left out.
// Unless the log is proven nothing can be called clean.
func (v verdicts) list(proven bool) []CheckedPartition {
	keys := make([]verdictKey, 0, len(v))
	for k, ok := range v {
		if !k.rng.def && (proven || !ok) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b verdictKey) int {
		if v[a] != v[b] {
			if v[b] {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.table, b.table), a.rng.compare(b.rng))
	})
	out := make([]CheckedPartition, len(keys))
	for i, k := range keys {
		out[i] = CheckedPartition{TableID: k.table, From: "min", To: "max", OK: v[k]}
		if k.rng.from != math.MinInt64 {
			out[i].From = formatTime(time.UnixMicro(k.rng.from))
		}
		if k.rng.to != math.MaxInt64 {
			out[i].To = formatTime(time.UnixMicro(k.rng.to))
		}
	}
	return out
}
