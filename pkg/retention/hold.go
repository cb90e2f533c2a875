package retention

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/pkg/integrity"
	"auditdb/pkg/partitions"
)

const (
	holdsSQL = `
SELECT h.hold_id, h.table_id, coalesce(quote_ident(m.schema_name) || '.' || quote_ident(m.table_name), ''), lower(h.span), upper(h.span), h.organization_id, h.principal_id,
  h.correlation_id, h.review_at, h.reason, h.added_at, h.added_by, h.released_at, h.released_by, h.release_reason
FROM auditdb.hold h LEFT JOIN auditdb.managed_table m USING (table_id)
WHERE ($1 OR h.released_at IS NULL) AND ($2::smallint IS NULL OR h.table_id IS NULL OR h.table_id = $2) AND NOT isempty(h.span) ORDER BY h.hold_id`
	addHoldSQL = `
INSERT INTO auditdb.hold (table_id, span, organization_id, principal_id, correlation_id, review_at, reason)
VALUES ($1, tstzrange($2, $3), $4, $5, $6, $7, $8) RETURNING hold_id, salt`
	lockHoldSQL    = `SELECT salt, released_at IS NOT NULL FROM auditdb.hold WHERE hold_id = $1 FOR UPDATE`
	seeHoldSQL     = `SELECT EXISTS (SELECT FROM auditdb.hold WHERE hold_id = $1)`
	releaseHoldSQL = `UPDATE auditdb.hold SET released_at = now(), released_by = session_user, release_reason = $2 WHERE hold_id = $1`
)

// Hold is a legal hold: what matches it is kept. Fields that are nil match everything; all others have to match.
type Hold struct {
	ID            int64      `json:"id"`
	TableID       *int16     `json:"-"`
	Table         *string    `json:"table"` // null: every table
	From          *time.Time `json:"from"`
	To            *time.Time `json:"to"` // not included
	Organization  *string    `json:"organization"`
	Principal     *string    `json:"principal"`
	Correlation   *string    `json:"correlation_id"`
	Reason        string     `json:"reason"`
	ReviewAt      *time.Time `json:"review_at"`
	AddedAt       time.Time  `json:"added_at"`
	AddedBy       string     `json:"added_by"`
	ReleasedAt    *time.Time `json:"released_at"`
	ReleasedBy    *string    `json:"released_by"`
	ReleaseReason *string    `json:"release_reason"`
}

// LoadHolds reads holds: with released, also those that are over; with a table, those that are for it.
func LoadHolds(ctx context.Context, q partitions.Querier, released bool, table *int16) ([]Hold, error) {
	rows, err := q.Query(ctx, holdsSQL, released, table)
	if err != nil {
		return nil, fmt.Errorf("read the holds: %w", err)
	}
	holds, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (h Hold, err error) {
		var name string
		err = row.Scan(&h.ID, &h.TableID, &name, &h.From, &h.To, &h.Organization, &h.Principal, &h.Correlation, &h.ReviewAt, &h.Reason, &h.AddedAt, &h.AddedBy,
			&h.ReleasedAt, &h.ReleasedBy, &h.ReleaseReason)
		if name != "" {
			h.Table = &name
		}
		for _, at := range []*time.Time{h.From, h.To, h.ReviewAt, &h.AddedAt, h.ReleasedAt} {
			if at != nil {
				*at = at.UTC()
			}
		}
		return h, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the holds: %w", err)
	}
	return holds, nil
}

// text is what the log's commitment is over: one line a field, empty fields left out.
func (h Hold) text(event, reason string) string {
	var b strings.Builder
	line := func(name string, value any) { fmt.Fprintf(&b, "%s %q\n", name, fmt.Sprint(value)) }
	line("event", event)
	if h.TableID != nil {
		line("table", *h.TableID)
	}
	if h.From != nil {
		line("from", h.From.UTC().Format(time.RFC3339Nano))
	}
	if h.To != nil {
		line("to", h.To.UTC().Format(time.RFC3339Nano))
	}
	for i, value := range []*string{h.Organization, h.Principal, h.Correlation} {
		if value != nil {
			line([]string{"organization", "principal", "correlation_id"}[i], *value)
		}
	}
	if h.ReviewAt != nil {
		line("review_at", h.ReviewAt.UTC().Format(time.RFC3339Nano))
	}
	line("reason", reason)
	return b.String()
}

func commitment(salt []byte, text string) [32]byte {
	return sha256.Sum256(append(append([]byte{}, salt...), text...))
}

// AddHold stores a hold, and returns its id.
func (s Store) AddHold(ctx context.Context, h Hold) (id int64, err error) {
	for _, at := range []**time.Time{&h.From, &h.To, &h.ReviewAt} { // what is logged is what is stored
		if *at != nil {
			micros := (*at).Truncate(time.Microsecond)
			*at = &micros
		}
	}
	err = s.change(ctx, func(tx pgx.Tx) ([]integrity.Entry, error) {
		var salt []byte
		err := tx.QueryRow(ctx, addHoldSQL, h.TableID, h.From, h.To, h.Organization, h.Principal, h.Correlation, h.ReviewAt, h.Reason).Scan(&id, &salt)
		if err != nil {
			return nil, err
		}
		return []integrity.Entry{{Body: &integrity.Hold{ID: id, Event: integrity.EventAdded, Commit: commitment(salt, h.text(integrity.EventAdded, h.Reason))}}}, nil
	})
	if err != nil {
		return 0, fmt.Errorf("add a hold: %w", err)
	}
	return id, nil
}

// ReleaseHold ends a hold. One that is not there is a usage error; one that was released before is left as it is, and false returned.
func (s Store) ReleaseHold(ctx context.Context, id int64, reason string) (released bool, err error) {
	err = s.change(ctx, func(tx pgx.Tx) ([]integrity.Entry, error) {
		var salt []byte
		var over bool
		err := tx.QueryRow(ctx, lockHoldSQL, id).Scan(&salt, &over)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil, noHold(id)
		}
		if err != nil || over {
			return nil, err
		}
		if _, err := tx.Exec(ctx, releaseHoldSQL, id, reason); err != nil {
			return nil, err
		}
		released = true
		return []integrity.Entry{{Body: &integrity.Hold{ID: id, Event: integrity.EventReleased, Commit: commitment(salt, Hold{}.text(integrity.EventReleased, reason))}}}, nil
	})
	if err != nil {
		return false, fmt.Errorf("release hold %d: %w", id, err)
	}
	return released, nil
}

func noHold(id int64) error {
	return fault.New(fault.Usage, "auditdb retention hold list shows the holds", "there is no hold %d", id)
}

// RequireHold is an error where there is no such hold, released or not.
func RequireHold(ctx context.Context, q partitions.Querier, id int64) error {
	var there bool
	if err := q.QueryRow(ctx, seeHoldSQL, id).Scan(&there); err != nil {
		return fmt.Errorf("look for hold %d: %w", id, err)
	}
	if !there {
		return noHold(id)
	}
	return nil
}

// PastReview lists the active holds whose date of review has come.
func PastReview(holds []Hold, now time.Time) (due []Hold) {
	for _, h := range holds {
		if h.ReleasedAt == nil && h.ReviewAt != nil && !h.ReviewAt.After(now) {
			due = append(due, h)
		}
	}
	return due
}
