package integrity

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

const (
	verdictsSQL = `SELECT table_id, part_from, part_to, ok, log_size, checked_at FROM auditdb.verdict WHERE checked_at <= clock_timestamp()`
	// A run that began later has the last word.
	saveVerdictSQL = `
INSERT INTO auditdb.verdict AS v (table_id, part_from, part_to, ok, log_size, checked_at)
SELECT * FROM unnest($1::smallint[], $2::timestamptz[], $3::timestamptz[], $4::boolean[], $5::bigint[]) x, (SELECT $6::timestamptz) t
ON CONFLICT (table_id, part_from, part_to) DO UPDATE SET ok = excluded.ok, log_size = excluded.log_size, checked_at = excluded.checked_at, checked_by = session_user
WHERE v.checked_at <= excluded.checked_at OR v.checked_at > clock_timestamp()`
)

// SaveVerdicts keeps what a verification that began at a time found of each partition, for prune and for the next verification since then.
// A role that may not write them gets an error of class permission.
func SaveVerdicts(ctx context.Context, db *postgres.DB, checked []CheckedPartition, began time.Time) error {
	n := len(checked)
	tables, oks, sizes := make([]int16, n), make([]bool, n), make([]int64, n)
	froms, tos := make([]pgtype.Timestamptz, n), make([]pgtype.Timestamptz, n)
	for i, c := range checked {
		tables[i], oks[i], sizes[i] = c.TableID, c.OK, c.LogSize
		froms[i], tos[i] = timestampOf(c.rng.from), timestampOf(c.rng.to)
	}
	_, err := db.Pool().Exec(ctx, saveVerdictSQL, tables, froms, tos, oks, sizes, began)
	if err == nil {
		return nil
	}
	if postgres.SQLState(err) == postgres.InsufficientPrivilege {
		return fault.New(fault.Permission, "GRANT auditdb_verifier to the user that verifies", "keep the verdicts in auditdb.verdict: %w", err)
	}
	return fmt.Errorf("keep the verdicts in auditdb.verdict: %w", err)
}

// timestampOf is the end of a range, whose outermost values are infinite.
func timestampOf(micros int64) pgtype.Timestamptz {
	switch micros {
	case math.MinInt64:
		return pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
	case math.MaxInt64:
		return pgtype.Timestamptz{InfinityModifier: pgtype.Infinity, Valid: true}
	}
	return pgtype.Timestamptz{Time: time.UnixMicro(micros).UTC(), Valid: true}
}

func microsOf(t pgtype.Timestamptz) int64 {
	switch t.InfinityModifier {
	case pgtype.NegativeInfinity:
		return math.MinInt64
	case pgtype.Infinity:
		return math.MaxInt64
	case pgtype.Finite:
	}
	return t.Time.UnixMicro()
}

// pastVerdict is what an earlier verification found of a range.
type pastVerdict struct {
	verdict
	at time.Time
}

func readVerdicts(ctx context.Context, q Querier) (map[verdictKey]pastVerdict, error) {
	rows, err := q.Query(ctx, verdictsSQL)
	if err != nil {
		return nil, fmt.Errorf("read the verdicts of earlier verifications: %w", err)
	}
	out := map[verdictKey]pastVerdict{}
	var k verdictKey
	var from, to pgtype.Timestamptz
	var p pastVerdict
	_, err = pgx.ForEachRow(rows, []any{&k.table, &from, &to, &p.ok, &p.size, &p.at}, func() error {
		k.rng.from, k.rng.to = microsOf(from), microsOf(to)
		out[k] = p
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the verdicts of earlier verifications: %w", err)
	}
	return out, nil
}
