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
	From    string `json:"from"`     // RFC 3339 with microseconds, UTC, or "min"
	To      string `json:"to"`       // likewise, or "max"
	OK      bool   `json:"ok"`       // no finding of severity error
	LogSize int64  `json:"log_size"` // records of the log that the rows were compared with, at least

	rng rangeKey
}

// verdicts gathers what became of partitions. An error stands, whatever comes later in the run.
type verdicts map[verdictKey]verdict

type verdict struct {
	ok   bool
	size int64 // of the log
}

type verdictKey struct {
	table int16
	rng   rangeKey
}

func (v verdicts) add(table int16, rng rangeKey, found verdict) {
	k := verdictKey{table, rng}
	if before, known := v[k]; known {
		found = verdict{before.ok && found.ok, min(before.size, found.size)}
	}
	v[k] = found
}

// list returns the verdicts: those with errors first, then by table and time. The default partition has no bounds and is left out.
// Unless the log is proven nothing can be called clean.
func (v verdicts) list(proven bool) []CheckedPartition {
	keys := make([]verdictKey, 0, len(v))
	for k, found := range v {
		if !k.rng.def && (proven || !found.ok) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b verdictKey) int {
		if v[a].ok != v[b].ok {
			if v[b].ok {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.table, b.table), a.rng.compare(b.rng))
	})
	out := make([]CheckedPartition, len(keys))
	for i, k := range keys {
		out[i] = CheckedPartition{TableID: k.table, From: "min", To: "max", OK: v[k].ok, LogSize: v[k].size, rng: k.rng}
		if k.rng.from != math.MinInt64 {
			out[i].From = formatTime(time.UnixMicro(k.rng.from))
		}
		if k.rng.to != math.MaxInt64 {
			out[i].To = formatTime(time.UnixMicro(k.rng.to))
		}
	}
	return out
}
