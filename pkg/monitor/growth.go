package monitor

import (
	"time"

	"auditdb/pkg/partitions"
)

// closedCounted is how many of the newest partitions whose range is over tell how fast a table grows.
const closedCounted = 6

// TableGrowth is how large a partitioned table is, and how fast it grows by its newest partitions whose range is over. Sizes are what VACUUM and
// ANALYZE last saw.
type TableGrowth struct {
	Table        string   `json:"table"`
	Partitions   int      `json:"partitions"`
	Rows         *int64   `json:"rows_estimate"` // null where a partition's rows are not known
	SizeBytes    *int64   `json:"size_bytes"`
	Counted      int      `json:"partitions_counted"`
	BytesPerDay  *float64 `json:"bytes_per_day"` // null: no partition with a known size is closed yet
	RowsPerDay   *float64 `json:"rows_per_day"`
	In30Days     *int64   `json:"growth_30_days_bytes"`
	In365Days    *int64   `json:"growth_365_days_bytes"`
	UnknownSizes int      `json:"partitions_of_unknown_size"`
}

// Growth adds up a catalog with sizes. now is a key value.
func Growth(t partitions.Table, c *partitions.Catalog, now time.Time) TableGrowth {
	g := TableGrowth{Table: t.String()}
	rows, size, rowsKnown := int64(0), int64(0), true
	parts := c.All()
	if p := c.Default(); p != nil {
		g.add(*p, &rows, &size, &rowsKnown)
	}
	for _, p := range parts {
		g.add(p, &rows, &size, &rowsKnown)
	}
	if rowsKnown {
		g.Rows = &rows
	}
	g.SizeBytes = &size
	var span time.Duration
	var bytes, count int64
	for i := len(parts) - 1; i >= 0 && g.Counted < closedCounted; i-- {
		p := parts[i]
		if p.FromMin || p.ToMax || p.To.After(now) || p.SizeBytes < 0 || p.RowsEstimate < 0 {
			continue
		}
		g.Counted++
		span += p.To.Sub(p.From)
		bytes, count = bytes+p.SizeBytes, count+p.RowsEstimate
	}
	if span <= 0 {
		return g
	}
	days := span.Hours() / 24
	perDay, rowsPerDay := float64(bytes)/days, float64(count)/days
	month, year := int64(30*perDay), int64(365*perDay)
	g.BytesPerDay, g.RowsPerDay, g.In30Days, g.In365Days = &perDay, &rowsPerDay, &month, &year
	return g
}

func (g *TableGrowth) add(p partitions.Partition, rows, size *int64, rowsKnown *bool) {
	g.Partitions++
	if p.RowsEstimate < 0 {
		*rowsKnown = false
	} else {
		*rows += p.RowsEstimate
	}
	if p.SizeBytes < 0 {
		g.UnknownSizes++
	} else {
		*size += p.SizeBytes
	}
}
