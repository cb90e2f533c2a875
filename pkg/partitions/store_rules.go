package partitions

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

const (
	policySQL = `
SELECT name, keep, action, archive_required, min_keep, max_drop_per_run, retention_policy IS NULL AND data_classification IS NULL AND organization_id IS NULL
FROM auditdb.policy WHERE table_id = $1`
	floorSQL = `SELECT keep FROM auditdb.floor`
	holdSQL  = `
SELECT lower(span), upper(span) + CASE WHEN upper_inc(span) THEN interval '1 microsecond' ELSE interval '0' END, isempty(span) FROM auditdb.hold WHERE released_at IS NULL AND (table_id IS NULL OR table_id = $1)`
	// An archive counts as long as nothing was logged of the partition since it was read, but that it was archived and taken out of the table.
	archiveSQL = `
SELECT a.part_from, a.part_to FROM auditdb.archive a WHERE a.table_id = $1 AND a.verified_at IS NOT NULL AND a.deleted_at IS NULL
  AND NOT EXISTS (SELECT FROM auditdb.log_partition p JOIN auditdb.log l USING (seq) WHERE p.table_id = a.table_id AND p.part_from = a.part_from AND p.part_to = a.part_to AND p.seq >= a.log_size
    AND l.record NOT LIKE 'auditdb/1 archive' || chr(10) || '%' AND l.record NOT LIKE 'auditdb/1 detach' || chr(10) || '%')
  AND NOT EXISTS (SELECT FROM auditdb.redaction r JOIN auditdb.leaf s ON s.table_id = r.table_id AND r.id BETWEEN s.min_id AND s.max_id
    WHERE r.table_id = a.table_id AND r.seq >= a.log_size AND s.part_from = a.part_from AND s.part_to = a.part_to)`
	prunedSQL = `
SELECT DISTINCT p.part_from, p.part_to FROM auditdb.log_partition p JOIN auditdb.log l ON l.seq = p.seq
WHERE p.table_id = $1 AND p.part_from < $3 AND p.part_to > $2 AND l.record LIKE 'auditdb/1 ' || $4 || chr(10) || '%'`
	findingSQL = `SELECT part_from, part_to FROM auditdb.verdict WHERE table_id = $1 AND NOT ok`
	logKeySQL  = `SELECT key_id FROM auditdb.log ORDER BY seq DESC LIMIT 1`
	clockSQL   = `SELECT clock_timestamp()`
)

// Policy is the retention of a table's whole partitions.
type Policy struct {
	Name            string
	Keep            []Span // all rules of the table and the floors: the one that reaches back furthest counts
	Detach          bool   // action detach, not drop
	ArchiveRequired bool
	MinKeep         int
	MaxDrop         int
}

// Cutoff returns the key value at or before which partitions have expired.
func (p Policy) Cutoff(t Table, now time.Time) time.Time {
	var cutoff time.Time
	for i, s := range p.Keep {
		if c := s.Before(now, t.zone()); i == 0 || c.Before(cutoff) {
			cutoff = c
		}
	}
	return t.KeyTime(cutoff)
}

// LoadPolicy reads the table's policy. It is nil when there is none for whole partitions. Where rules for some rows keep longer, no
// partition goes before them.
func LoadPolicy(ctx context.Context, q Querier, t Table) (*Policy, error) {
	there, err := hasOwnTable(ctx, q, "policy")
	if err != nil || !there || t.ManagedID == nil {
		return nil, err
	}
	rows, err := q.Query(ctx, policySQL, *t.ManagedID)
	if err != nil {
		return nil, fmt.Errorf("read the policy of %s: %w", t, err)
	}
	var found *Policy
	var keep []Span
	var one Policy
	var span pgtype.Interval
	var action string
	var whole bool
	_, err = pgx.ForEachRow(rows, []any{&one.Name, &span, &action, &one.ArchiveRequired, &one.MinKeep, &one.MaxDrop, &whole}, func() error {
		keep = append(keep, spanOf(span))
		if !whole {
			return nil
		}
		one.Detach = action == "detach"
		if found == nil {
			copied := one
			found = &copied
			return nil
		}
		// Several rules for the whole table: the careful side of each.
		found.Name += ", " + one.Name
		found.Detach = found.Detach || one.Detach
		found.ArchiveRequired = found.ArchiveRequired || one.ArchiveRequired
		found.MinKeep, found.MaxDrop = max(found.MinKeep, one.MinKeep), min(found.MaxDrop, one.MaxDrop)
		return nil
	})
	if err != nil || found == nil {
		return nil, wrap(err, "read the policy of %s", t)
	}
	floors, err := q.Query(ctx, floorSQL)
	if err != nil {
		return nil, fmt.Errorf("read the retention floors: %w", err)
	}
	if _, err = pgx.ForEachRow(floors, []any{&span}, func() error { keep = append(keep, spanOf(span)); return nil }); err != nil {
		return nil, fmt.Errorf("read the retention floors: %w", err)
	}
	found.Keep = keep
	return found, nil
}

func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
}

func spanOf(i pgtype.Interval) Span {
	return Span{Months: int(i.Months), Days: int(i.Days), Time: time.Duration(i.Microseconds) * time.Microsecond}
}

// LoadHolds returns the ranges of key values that an active hold keeps. Holds on one organization, principal or correlation id keep the whole
// range, since any partition in it may have such rows.
func LoadHolds(ctx context.Context, q Querier, t Table) ([]Bounds, error) {
	there, err := hasOwnTable(ctx, q, "hold")
	if err != nil || !there {
		return nil, err
	}
	held, err := rangesOf(ctx, q, holdSQL, true, t.ManagedID)
	if err != nil {
		return nil, fmt.Errorf("read the holds on %s: %w", t, err)
	}
	if t.Key.Kind.Instant() {
		return held, nil
	}
	for i, b := range held { // instants against wall-clock keys: a day more on both sides
		if !b.FromMin {
			held[i].From = t.KeyTime(b.From).AddDate(0, 0, -1)
		}
		if !b.ToMax {
			held[i].To = t.KeyTime(b.To).AddDate(0, 0, 1)
		}
	}
	return held, nil
}

// LoadArchived returns the ranges whose archive was read back and verified, and of which nothing was logged since: no rows, and no erasure.
func LoadArchived(ctx context.Context, q Querier, t Table) ([]Bounds, error) {
	there, err := hasOwnTable(ctx, q, "archive")
	if err != nil || !there || t.ManagedID == nil {
		return nil, err
	}
	archived, err := rangesOf(ctx, q, archiveSQL, false, *t.ManagedID)
	return archived, wrap(err, "read the archives of %s", t)
}

// LoadFindings returns the ranges of which the latest verification found that something is wrong. Without the table of verdicts nothing is known
// to be wrong; where it is there and may not be read, the error has class permission.
func LoadFindings(ctx context.Context, q Querier, t Table) ([]Bounds, error) {
	there, err := hasOwnTable(ctx, q, "verdict")
	if err != nil || !there || t.ManagedID == nil {
		return nil, err
	}
	found, err := rangesOf(ctx, q, findingSQL, false, *t.ManagedID)
	if postgres.SQLState(err) == postgres.InsufficientPrivilege {
		user, unknown := currentUser(ctx, q)
		if unknown != nil { // in a transaction, which has ended with the error
			user = "the user that connects"
		} else {
			user = pgx.Identifier{user}.Sanitize()
		}
		return nil, fault.New(fault.Permission, "GRANT USAGE ON SCHEMA auditdb TO "+user+"; GRANT SELECT ON auditdb.verdict TO "+user, "read past verifications of %s: %w", t, err)
	}
	return found, wrap(err, "read past verifications of %s", t)
}

// LoadPruned returns the ranges within b that the integrity log says were dropped, and those that it says were going to be detached, to be
// dropped or to be kept in tables of their own.
func LoadPruned(ctx context.Context, q Querier, t Table, b Bounds) (dropped, detached []Bounds, err error) {
	there, err := hasOwnTable(ctx, q, "log_partition")
	if err != nil || !there || t.ManagedID == nil {
		return nil, nil, err
	}
	if dropped, err = rangesOf(ctx, q, prunedSQL, false, *t.ManagedID, b.From, b.To, "prune"); err == nil {
		detached, err = rangesOf(ctx, q, prunedSQL, false, *t.ManagedID, b.From, b.To, "detach")
	}
	return dropped, detached, wrap(err, "read the integrity log of %s", t)
}

// LogKey returns the id of the key that the integrity log was last written with; "" while nothing has been logged.
func LogKey(ctx context.Context, q Querier) (id string, err error) {
	there, err := hasOwnTable(ctx, q, "log")
	if err != nil || !there {
		return "", err
	}
	if err = q.QueryRow(ctx, logKeySQL).Scan(&id); errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	return id, wrap(err, "read the integrity log")
}

// rangesOf reads ranges of timestamptz with open or infinite ends; flagged rows have a third column that says that the range is empty.
func rangesOf(ctx context.Context, q Querier, sql string, flagged bool, args ...any) ([]Bounds, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	var out []Bounds
	var from, to pgtype.Timestamptz
	empty := false
	dest := []any{&from, &to}
	if flagged {
		dest = append(dest, &empty)
	}
	_, err = pgx.ForEachRow(rows, dest, func() error {
		if empty {
			return nil
		}
		b := Bounds{FromMin: !from.Valid || from.InfinityModifier == pgtype.NegativeInfinity, ToMax: !to.Valid || to.InfinityModifier == pgtype.Infinity}
		if !b.FromMin {
			b.From = from.Time.UTC()
		}
		if !b.ToMax {
			b.To = to.Time.UTC()
		}
		out = append(out, b)
		return nil
	})
	return out, err
}

// ClockSkew returns how far the server's clock is ahead of the client's, to half a round trip.
func ClockSkew(ctx context.Context, q Querier, now func() time.Time) (time.Duration, error) {
	var server time.Time
	before := now()
	if err := q.QueryRow(ctx, clockSQL).Scan(&server); err != nil {
		return 0, fmt.Errorf("read the server's clock: %w", err)
	}
	after := now()
	return server.Sub(before.Add(after.Sub(before) / 2)), nil
}
