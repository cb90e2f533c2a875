package integrity

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
)

const (
	historySQL = `SELECT l.seq, l.record, l.key_id, l.mac FROM auditdb.log l WHERE (%s) ORDER BY l.seq`
	// archivedRangesSQL leaves the records of ranges that were never archived out.
	archivedRangesSQL = `l.seq IN (SELECT p.seq FROM auditdb.log_partition p JOIN auditdb.archive a ON a.table_id = p.table_id AND a.part_from < p.part_to AND p.part_from < a.part_to WHERE p.table_id = $1)`
)

// history reads the records of some kinds that a further condition is true of ("": none), the oldest first. A record whose MAC is not right, or that
// cannot be read, is an integrity error; without keys MACs are not looked at.
func history(ctx context.Context, q Querier, keys *Keys, kinds []Kind, condition string, args ...any) ([]Record, error) {
	likes := make([]string, len(kinds))
	for i, k := range kinds {
		likes[i] = fmt.Sprintf("l.record LIKE 'auditdb/1 %s' || chr(10) || '%%'", k)
	}
	where := strings.Join(likes, " OR ")
	if condition != "" {
		where = "(" + where + ") AND " + condition
	}
	rows, err := q.Query(ctx, fmt.Sprintf(historySQL, where), args...)
	if err != nil {
		return nil, fmt.Errorf("read the %s records of the log: %w", kinds[0], err)
	}
	stored, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r numbered, err error) {
		return r, row.Scan(&r.seq, &r.text, &r.keyID, &r.mac)
	})
	if err != nil {
		return nil, fmt.Errorf("read the %s records of the log: %w", kinds[0], err)
	}
	list := make([]Record, len(stored))
	for i, r := range stored {
		if keys != nil && !keys.checkRecord(&r.storedRecord) {
			return nil, fault.New(fault.Integrity, "auditdb verify-integrity", "record %d of the log was not written with one of the keys at hand", r.seq)
		}
		if list[i], err = Parse([]byte(r.text)); err != nil {
			return nil, fault.New(fault.Integrity, "auditdb verify-integrity", "record %d of the log: %w", r.seq, err)
		}
	}
	return list, nil
}

// RuleHistory reads what was logged of retention policies, floors and holds. Its errors are those of ArchiveHistory.
func RuleHistory(ctx context.Context, q Querier, keys *Keys) ([]Record, error) {
	return history(ctx, q, keys, []Kind{KindPolicy, KindHold}, "")
}

// ArchiveHistory reads what was logged of the archived ranges of a table, the oldest record first: that they were archived, pruned and restored. A
// record whose MAC is not right, or that cannot be read, is an integrity error; without keys MACs are not looked at.
func ArchiveHistory(ctx context.Context, q Querier, keys *Keys, table int16) ([]Record, error) {
	return history(ctx, q, keys, []Kind{KindArchive, KindPrune, KindRestore}, archivedRangesSQL, table)
}

// Archived reads what the log says of archives: the newest record of each address, of one table or all. Its errors are those of ArchiveHistory.
func Archived(ctx context.Context, q Querier, keys *Keys, table *int16) (map[string]*Archive, error) {
	records, err := history(ctx, q, keys, []Kind{KindArchive}, "")
	if err != nil {
		return nil, err
	}
	newest := map[string]*Archive{}
	for _, r := range records {
		if a, ok := r.Body.(*Archive); ok && (table == nil || a.Table == *table) {
			newest[a.URL] = a
		}
	}
	return newest, nil
}
