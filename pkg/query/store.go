package query

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/partitions"
)

const (
	columnsSQL = `
SELECT a.attname, a.atttypid, pg_catalog.format_type(a.atttypid, NULL), coalesce(pg_catalog.array_position(k.indkey::int2[], a.attnum) + 1, 0),
  $2::bool AND a.attname = 'details' AND EXISTS (SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid JOIN pg_catalog.pg_am m ON m.oid = x.relam
    WHERE i.indrelid = a.attrelid AND m.amname = 'gin' AND i.indkey[0] = a.attnum AND i.indpred IS NULL AND i.indisvalid)
FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_index k ON k.indrelid = a.attrelid AND k.indisprimary
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`
	// READ ONLY and one snapshot, with the limits in milliseconds set in the same round trip.
	beginSQL  = `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; `
	limitsSQL = `SET LOCAL statement_timeout = %d; SET LOCAL lock_timeout = %d`

	inOrderSQL  = `SET LOCAL enable_sort = off`
	positionSQL = `SELECT pg_catalog.pg_current_wal_insert_lsn()::text`
	replayedSQL = `SELECT coalesce(pg_catalog.pg_last_wal_replay_lsn() >= $1::pg_lsn, false)`
)

// readColumns reads the columns of t, and, if documents says so, whether a GIN index over the documents is there.
func readColumns(ctx context.Context, q partitions.Querier, t partitions.Table, documents bool) (columns []column, gin bool, err error) {
	rows, err := q.Query(ctx, columnsSQL, pgx.QueryExecModeExec, t.OID, documents)
	if err == nil {
		columns, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (c column, err error) {
			var indexed bool
			err = row.Scan(&c.name, &c.oid, &c.typ, &c.key, &indexed)
			gin = gin || indexed
			return c, err
		})
	}
	if err != nil {
		return nil, false, fmt.Errorf("read the columns of %s: %w", t, err)
	}
	return columns, gin, nil
}

// read runs fn in one snapshot, of a replica if there are any that will do. It may be called again on another server, and has to begin anew.
func (e *Engine) read(ctx context.Context, fn func(tx pgx.Tx, from Source) error) error {
	return e.readAfter(ctx, "", func(tx pgx.Tx, from Source, _ bool) error { return fn(tx, from) })
}

// readAfter is read; whole says whether the snapshot has all that the primary's log had at position. Replicas promise that, but while the
// primary cannot be asked they serve without.
func (e *Engine) readAfter(ctx context.Context, position string, fn func(tx pgx.Tx, from Source, whole bool) error) error {
	if e.o.Replicas == nil {
		return e.readFrom(ctx, e.o.DB, func(tx pgx.Tx) error { return fn(tx, SourcePrimary, true) })
	}
	return e.o.Replicas.Read(ctx, func(ctx context.Context, db *postgres.DB, replica string) error {
		if replica == "" {
			return e.readFrom(ctx, db, func(tx pgx.Tx) error { return fn(tx, SourcePrimary, true) })
		}
		whole := false
		if position != "" {
			if err := db.Pool().QueryRow(ctx, replayedSQL, position).Scan(&whole); err != nil {
				return err
			}
		}
		return e.readFrom(ctx, db, func(tx pgx.Tx) error { return fn(tx, SourceReplica, whole) })
	})
}

func (e *Engine) readFrom(ctx context.Context, db *postgres.DB, fn func(pgx.Tx) error) error {
	limits := fmt.Sprintf(limitsSQL, milliseconds(e.o.StatementTimeout), milliseconds(max(e.o.Wait, postgres.DefaultLockTimeout)))
	return db.TxWith(ctx, pgx.TxOptions{BeginQuery: beginSQL + limits}, func(tx pgx.Tx) error {
		if db.Pooling() == postgres.PoolingTransaction { // where each transaction gets the session's settings after it has begun
			if _, err := tx.Conn().PgConn().Exec(ctx, limits).ReadAll(); err != nil {
				return err
			}
		}
		return fn(tx)
	})
}

// milliseconds are those of a server's setting; 0, which is no limit there, only for 0.
func milliseconds(d time.Duration) int64 {
	return min((d + time.Millisecond - 1).Milliseconds(), math.MaxInt32)
}

// inOrder has the server read by an index that has the order of the answer, where it would rather sort all of a partition: a stream of
// everything would wait for that, and take the partition's size on the server's disk. A GIN index may find few enough rows to sort.
func (p *prepared) inOrder(ctx context.Context, tx pgx.Tx) error {
	if p.req.Limit > 0 || len(p.req.Details) > 0 {
		return nil
	}
	_, err := tx.Exec(ctx, inOrderSQL)
	return err
}

// rowsStatement reads rows of a range in the order of the answer; limit 0 reads all.
func (p *prepared) rowsStatement(within partitions.Bounds, limit int) *statement {
	s := &statement{}
	p.rowsOf(s, p.layout.table.Ident(), within, limit)
	return s
}

// rowsOf writes a statement that reads rows from something that has the table's columns.
func (p *prepared) rowsOf(s *statement, source string, within partitions.Bounds, limit int) {
	s.sql.WriteString("SELECT " + p.layout.list() + " FROM " + source)
	p.where(s, within)
	s.sql.WriteString(p.layout.orderBy())
	if limit > 0 {
		s.sql.WriteString(" LIMIT " + s.arg(strconv.Itoa(limit)) + "::bigint")
	}
}

// each runs a statement and hands over each row, whose values are good until the next one.
func each(ctx context.Context, tx pgx.Tx, s *statement, fn func([][]byte) error) error {
	// Planned anew each time, in one round trip: a plan that was kept would not be made for these values, and would look at every partition.
	// In this mode everything is sent and read as text, as the server shows it.
	args := append([]any{pgx.QueryExecModeExec}, s.args...)
	rows, err := tx.Query(ctx, s.text(), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows.RawValues()); err != nil {
			return err
		}
	}
	return rows.Err()
}

// explain says what went wrong in the terms of the request.
func (e *Engine) explain(ctx context.Context, p *prepared, err error) error {
	if err == nil || fault.ClassOf(err) != "" {
		return err
	}
	if postgres.IsLockNotAvailable(err) {
		err = e.o.DB.Blocked(ctx, p.relations(), false, err)
	}
	what := "query " + p.req.Table.String()
	switch state := postgres.SQLState(err); {
	case state == postgres.QueryCanceled && e.o.StatementTimeout > 0:
		return fault.New(fault.Timeout, "narrow it with --from, --to or a filter that an index serves (--explain shows which), or raise --statement-timeout",
			"%s: a statement ran longer than %s: %w", what, e.o.StatementTimeout.Round(time.Millisecond), err)
	case slices.Contains([]string{"22P02", "22007", "22008", "22003", "22021", "22P05"}, state):
		return fault.New(fault.Usage, "the value of each filter has to be one of its column's type", "%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// relations are those that a lock may keep the request from.
func (p *prepared) relations() []uint32 {
	oids := []uint32{p.req.Table.OID}
	for _, part := range p.catalog.All() {
		oids = append(oids, part.OID)
	}
	return oids
}
