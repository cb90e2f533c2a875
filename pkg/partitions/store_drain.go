package partitions

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

// firstKey returns the least key of p's rows within b, or the greatest. Infinite keys are not found.
func firstKey(ctx context.Context, q Querier, t Table, p Partition, b Bounds, greatest bool) (at time.Time, ok bool, err error) {
	order := "ASC"
	if greatest {
		order = "DESC"
	}
	column := pgx.Identifier{t.Key.Column}.Sanitize()
	var text string
	err = q.QueryRow(ctx, fmt.Sprintf("SELECT %s::text FROM ONLY %s WHERE %s%s ORDER BY %s %s LIMIT 1", column, p.Ident(), t.Key.within(b), t.Key.finite(), column, order)).Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) {
		return time.Time{}, false, nil
	}
	if err != nil {
		return time.Time{}, false, fmt.Errorf("look for keys in %s: %w", p, err)
	}
	if at, ok = t.Key.value(text); !ok {
		return time.Time{}, false, fault.New(fault.Data, "", "%s has a key that cannot be read as a moment", p)
	}
	return at, true, nil
}

// infinite is the condition that the key is infinite; "" where it cannot be.
func (k Key) infinite() string {
	switch k.Kind {
	case KeyTimestamptz, KeyTimestamp, KeyDate:
		return "NOT isfinite(" + pgx.Identifier{k.Column}.Sanitize() + ")"
	case KeyUUIDv7, KeyEpochS, KeyEpochMS, KeyEpochUS, KeyEpochNS:
	}
	return "false"
}

func (k Key) finite() string {
	if k.infinite() == "false" {
		return ""
	}
	return " AND NOT (" + k.infinite() + ")"
}

// value reads a key as the server writes it with DateStyle ISO and in UTC: rounded down to whole microseconds, a uuid to its milliseconds.
func (k Key) value(text string) (at time.Time, ok bool) {
	switch k.Kind {
	case KeyUUIDv7:
		ms, err := strconv.ParseInt(strings.ReplaceAll(text, "-", "")[:12], 16, 64)
		return time.UnixMilli(ms).UTC(), err == nil
	case KeyEpochS, KeyEpochMS, KeyEpochUS, KeyEpochNS:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return time.Time{}, false
		}
		switch k.Kind {
		case KeyEpochS:
			return time.Unix(n, 0).UTC(), true
		case KeyEpochMS:
			return time.UnixMilli(n).UTC(), true
		case KeyEpochUS:
			return time.UnixMicro(n).UTC(), true
		default:
			return time.Unix(0, n).UTC().Truncate(time.Microsecond), true
		}
	case KeyTimestamptz, KeyTimestamp, KeyDate:
	}
	return parseISO(text)
}

// countLeft counts the rows of the default partition by where their keys lie.
func countLeft(ctx context.Context, q Querier, t Table, p Partition, drainable Bounds) ([]Left, error) {
	column := pgx.Identifier{t.Key.Column}.Sanitize()
	conditions := []struct {
		reason LeftReason
		where  string
	}{
		{LeftNull, column + " IS NULL"},
		{LeftInfinite, t.Key.infinite()},
		{LeftFuture, t.Key.within(Bounds{From: drainable.To, ToMax: true}) + t.Key.finite()},
		{LeftRange, t.Key.within(Bounds{FromMin: true, To: drainable.From}) + t.Key.finite()},
		{LeftNotMade, t.Key.within(drainable) + t.Key.finite()},
	}
	counts := make([]string, len(conditions))
	left := make([]Left, len(conditions))
	into := make([]any, len(conditions))
	for i, c := range conditions {
		counts[i] = "count(*) FILTER (WHERE " + c.where + ")"
		left[i].Reason = c.reason
		into[i] = &left[i].Rows
	}
	if err := q.QueryRow(ctx, "SELECT "+strings.Join(counts, ", ")+" FROM ONLY "+p.Ident()).Scan(into...); err != nil {
		return nil, fmt.Errorf("count rows of %s: %w", p, err)
	}
	return left, nil
}

const parentSQL = `
SELECT c.oid, pn.nspname, p.relname::text FROM pg_class c JOIN pg_inherits h ON h.inhrelid = c.oid JOIN pg_class p ON p.oid = h.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
WHERE c.oid = $1 AND c.relispartition`

// ResolvePartition finds a partition by its name, "[schema.]name" quoted as in SQL, and the table that it belongs to. A name that is none of a
// partition is an error of class usage.
func ResolvePartition(ctx context.Context, db *postgres.DB, name string) (t Table, p Partition, err error) {
	var oid, found uint32
	var schema, table string
	err = db.TxWith(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if oid, err = lookUp(ctx, tx, db.UserSearchPath(), name); err != nil {
			return err
		}
		if oid == 0 {
			return notFound(ctx, tx, name)
		}
		err := tx.QueryRow(ctx, parentSQL, oid).Scan(&found, &schema, &table)
		if errors.Is(err, pgx.ErrNoRows) {
			return fault.New(fault.Usage, "name a partition: auditdb partition list shows them", "it is not a partition")
		}
		return err
	})
	if err != nil {
		return t, p, fmt.Errorf("partition %s: %w", name, err)
	}
	if t, err = Resolve(ctx, db, displayName(schema, table)); err != nil {
		return t, p, err
	}
	c, err := Load(ctx, db.Pool(), t)
	if err != nil {
		return t, p, err
	}
	for _, p := range c.All() {
		if p.OID == oid {
			return t, p, nil
		}
	}
	if d := c.Default(); d != nil && d.OID == oid {
		return t, *d, nil
	}
	return t, p, fault.New(fault.Usage, "auditdb partition list shows them", "partition %s: it is none of %s any more", name, t)
}

// apartFacts reads the size of a default partition in bytes, and whether it has the check of a create that was interrupted.
func apartFacts(ctx context.Context, q Querier, p Partition) (size int64, left bool, err error) {
	err = q.QueryRow(ctx, `SELECT coalesce(pg_relation_size($1), 0), EXISTS (SELECT FROM pg_constraint WHERE conrelid = $1 AND conname = $2)`, p.OID, apartCheck).Scan(&size, &left)
	return size, left, wrap(err, "measure %s", p)
}
