package monitor

import (
	"context"
	"fmt"
	"time"

	"auditdb/internal/postgres"
)

// Recorded is how all databases of the server have grown by the samples that health --deep --record keeps.
type Recorded struct {
	Samples       int        `json:"samples"` // of the last 30 days
	Since         *time.Time `json:"since"`
	Newest        *time.Time `json:"newest"`
	SizeBytes     *int64     `json:"size_bytes"`
	Grown1Day     *int64     `json:"grown_1_day_bytes"` // null: no sample is as old
	Grown7Days    *int64     `json:"grown_7_days_bytes"`
	Grown30Days   *int64     `json:"grown_30_days_bytes"`
	BytesPerDay   *float64   `json:"bytes_per_day"`   // a line through the samples; null: they do not span a day
	DaysUntilFull *float64   `json:"days_until_full"` // by what was free when it was last recorded; null: not known
}

// ReadRecorded reads the samples; nil: auditdb's schema is not there, or closed to the role.
func ReadRecorded(ctx context.Context, q Querier, now time.Time) (*Recorded, error) {
	var r Recorded
	err := q.QueryRow(ctx, recordedSQL, now).Scan(&r.Samples, &r.Since, &r.Newest, &r.SizeBytes, &r.Grown1Day, &r.Grown7Days, &r.Grown30Days, &r.BytesPerDay, &r.DaysUntilFull)
	switch postgres.SQLState(err) {
	case postgres.UndefinedTable, postgres.InvalidSchemaName, postgres.InsufficientPrivilege:
		return nil, nil //nolint:nilnil // nothing is recorded there
	}
	if err != nil {
		return nil, fmt.Errorf("read the samples of health: %w", err)
	}
	return &r, nil
}
