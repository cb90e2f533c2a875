package integrity

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/postgres"
)

// ListOptions say which records to list.
type ListOptions struct {
	Keys             *Keys  // nil: MACs are not checked
	From, To         *int64 // record numbers, half open
	FromTime, ToTime *time.Time
	Kinds            []string // empty: all
	Table            int16    // auditdb.managed_table; 0: all
	Limit            int64    // 0: none
	Newest           bool     // with a limit the newest ones, not the oldest
}

// ListedItem is one record of the log.
type ListedItem struct {
	Seq     int64     `json:"seq"`
	Time    time.Time `json:"time"` // zero where the record cannot be read
	Kind    Kind      `json:"kind"`
	KeyID   string    `json:"key_id"`
	Genuine *bool     `json:"genuine"` // its MAC is right; null: not checked, there is no such key at hand
	TableID *int16    `json:"table_id"`
	About   string    `json:"about"`
	Record  string    `json:"record"` // its text
}

// List reads records in their order. It also tells how many the log has, and whether the limit left some out.
func List(ctx context.Context, db *postgres.DB, o ListOptions) (items []ListedItem, size int64, more bool, err error) {
	items = []ListedItem{}
	err = db.TxWith(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		end, err := readLogSize(ctx, tx)
		if err != nil {
			return err
		}
		size = end.records
		return readListed(ctx, tx, o, func(seq int64, rec storedRecord) bool {
			item := o.item(seq, rec)
			if !o.wants(item) {
				return true
			}
			if more = o.Limit > 0 && int64(len(items)) == o.Limit; !more {
				items = append(items, item)
			}
			return !more
		})
	})
	if err != nil {
		return nil, 0, false, fmt.Errorf("list the integrity log: %w", err)
	}
	if o.Newest {
		slices.Reverse(items)
	}
	return items, size, more, nil
}

func (o ListOptions) wants(i ListedItem) bool {
	return (o.FromTime == nil || !i.Time.Before(*o.FromTime)) && (o.ToTime == nil || i.Time.Before(*o.ToTime)) &&
		(len(o.Kinds) == 0 || slices.Contains(o.Kinds, string(i.Kind))) && (o.Table == 0 || i.TableID != nil && *i.TableID == o.Table)
}

func (o ListOptions) item(seq int64, rec storedRecord) ListedItem {
	item := ListedItem{Seq: seq, KeyID: rec.keyID, Record: rec.text, Kind: "unreadable"}
	if o.Keys != nil {
		if k := o.Keys.find(rec.keyID); k != nil {
			genuine := k.CheckMAC([]byte(rec.text), rec.mac)
			item.Genuine = &genuine
		}
	}
	r, err := Parse([]byte(rec.text))
	if err != nil {
		item.About = err.Error()
		return item
	}
	item.Kind, item.Time, item.About = r.Body.Kind(), r.Time, describe(r.Body)
	if t := tableOf(r.Body); t != 0 {
		item.TableID = &t
	}
	return item
}

// tableOf is the table that a record is about, 0 for none.
func tableOf(b Body) int16 {
	switch b := b.(type) {
	case *Redact:
		return b.Table
	case *Policy:
		return b.Table
	}
	table, _ := touches(b)
	return table
}

// describe says in a few words what a record is about.
func describe(b Body) string {
	switch b := b.(type) {
	case *Genesis:
		return b.Origin + ", database " + b.Database
	case *Format:
		return fmt.Sprintf("%s: %d columns", tableName(b.Schema, b.Name), len(b.Leaf.Core)+len(b.Leaf.Personal))
	case *Partition:
		return b.Event + " " + b.Partition.Name
	case *Batch:
		return fmt.Sprintf("%d rows in %s", b.Set.Rows, b.Partition.Name)
	case *Seal:
		return fmt.Sprintf("%d rows in %s", b.Set.Rows, b.Partition.Name)
	case *Move:
		return fmt.Sprintf("%d rows from %s to %s", b.Rows, b.From.Name, b.To.Name)
	case *Detach:
		return b.Partition.Name
	case *Prune:
		return fmt.Sprintf("%s, %d rows", b.Partition.Name, b.Rows)
	}
	return describeEvidence(b)
}

func describeEvidence(b Body) string {
	switch b := b.(type) {
	case *Key:
		return b.KeyID
	case *Revoke:
		return strings.TrimSuffix(b.KeyID+": "+b.Reason, ": ")
	case *Expire:
		return fmt.Sprintf("%d rows of record %d in %s", b.Set.Rows, b.Leaf, b.Partition.Name)
	case *Redact:
		return fmt.Sprintf("%d rows", b.Rows)
	case *Archive:
		return fmt.Sprintf("%s, %d rows, generation %d", b.Partition.Name, b.Rows, b.Generation)
	case *Restore:
		return fmt.Sprintf("%s, %d rows", b.Partition.Name, b.Rows)
	case *Hold:
		return fmt.Sprintf("hold %d %s", b.ID, b.Event)
	case *Policy:
		return "policy " + b.Name + " " + b.Event
	case *Recovery:
		text := b.Event
		if b.Event == EventLoss {
			text += fmt.Sprintf(" of checkpoints of %d to %d records", b.After+1, b.Size)
		}
		return strings.TrimSuffix(fmt.Sprintf("%s, %s, timeline %d: %s", text, b.Origin, b.Timeline, b.Reason), ": ")
	}
	return ""
}

// readListed reads records in the order of the list until fn has enough.
func readListed(ctx context.Context, tx pgx.Tx, o ListOptions, fn func(int64, storedRecord) bool) error {
	sql, args := "SELECT seq, record, key_id, mac FROM auditdb.log WHERE true", []any{}
	for _, bound := range []struct {
		op string
		at *int64
	}{{">=", o.From}, {"<", o.To}} {
		if bound.at != nil {
			args = append(args, *bound.at)
			sql += fmt.Sprintf(" AND seq %s $%d", bound.op, len(args))
		}
	}
	sql += " ORDER BY seq"
	if o.Newest {
		sql += " DESC"
	}
	// A cursor, so that a limit does not read the whole log.
	if _, err := tx.Exec(ctx, "DECLARE records NO SCROLL CURSOR FOR "+sql, args...); err != nil {
		return err
	}
	for {
		rows, err := tx.Query(ctx, fmt.Sprintf("FETCH %d FROM records", logChunk))
		if err != nil {
			return err
		}
		list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (numbered, error) {
			var r numbered
			err := row.Scan(&r.seq, &r.text, &r.keyID, &r.mac)
			return r, err
		})
		if err != nil {
			return err
		}
		for _, r := range list {
			if !fn(r.seq, r.storedRecord) {
				return nil
			}
		}
		if len(list) < logChunk {
			return nil
		}
	}
}
