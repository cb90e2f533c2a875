package archive

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/audit"
	"auditdb/pkg/integrity"
	"auditdb/pkg/partitions"
)

// Restorer puts archived rows back.
type Restorer struct {
	*Archiver
	Worker      *partitions.Worker
	LockTimeout time.Duration // one attempt at the table's lock
	Wait        time.Duration // all of them together
}

// RestoreOptions say where the rows go. Neither: they are a partition again.
type RestoreOptions struct {
	Detached bool   // a table of the partition's name that is not attached
	As       string // a new table of this name in the partition's schema, which the log knows nothing of
}

// Restored is what was put back.
type Restored struct {
	Table  string // schema.name
	Rows   int64
	Erased int64 // without personal data: erased since they were archived, or before
}

// Restore makes a table like t, copies the rows of an archive into it exactly as they were, without what has been erased since, attaches it and
// records that, all in one transaction. The object is checked as a whole while it is read: an archive that is not right restores nothing.
func (r *Restorer) Restore(ctx context.Context, t partitions.Table, e Entry, o RestoreOptions) (out *Restored, err error) {
	m, key, err := r.Store.Manifest(ctx, e, r.publics())
	if err != nil {
		return nil, fmt.Errorf("restore %s: %w", e.Partition, err)
	}
	err = r.Worker.Locked(ctx, t, func(ctx context.Context) error {
		if err := r.free(ctx, t, e, o); err != nil {
			return err
		}
		return r.DB.Tx(ctx, func(tx pgx.Tx) (err error) {
			out, err = r.restore(ctx, tx, t, m, key, e, o)
			return integrity.Held(ctx, r.DB, err)
		})
	})
	if err != nil {
		return nil, fmt.Errorf("restore %s: %w", e.Partition, err)
	}
	return out, nil
}

// publics are the keys that manifests may be signed with: an archive that was made before a rotation is signed by an older one.
func (a *Archiver) publics() (keys []*integrity.PublicKey) {
	if a.Log != nil {
		keys = a.Log.Keys().Publics()
	}
	if a.Verify.Public != nil {
		keys = append(keys, a.Verify.Public)
	}
	return keys
}

// free refuses a range that has a partition.
func (r *Restorer) free(ctx context.Context, t partitions.Table, e Entry, o RestoreOptions) error {
	if o.Detached || o.As != "" {
		return nil
	}
	c, err := partitions.Load(ctx, r.DB.Pool(), t)
	if err != nil {
		return err
	}
	if over := c.Overlaps(e.bounds()); len(over) > 0 {
		return fault.New(fault.Refused, "restore it with --detached or --as TABLE", "its range has a partition already: %s", over[0])
	}
	return nil
}

func (e Entry) bounds() partitions.Bounds {
	b := partitions.Bounds{FromMin: e.From == nil, ToMax: e.To == nil}
	if e.From != nil {
		b.From = e.From.UTC()
	}
	if e.To != nil {
		b.To = e.To.UTC()
	}
	return b
}

func (r *Restorer) restore(ctx context.Context, tx pgx.Tx, t partitions.Table, m *Manifest, key string, e Entry, o RestoreOptions) (*Restored, error) {
	name := m.Partition
	if o.As != "" {
		name = o.As
	}
	ident := pgx.Identifier{m.Schema, name}.Sanitize()
	gone, err := erased(ctx, tx, redactedSQL, m.TableID, m.MinID, m.MaxID)
	if err != nil {
		return nil, err
	}
	for _, sql := range []string{
		"SET LOCAL ROLE " + pgx.Identifier{t.Owner}.Sanitize(),
		"CREATE TABLE " + ident + " (LIKE " + t.Ident() + " INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE INCLUDING COMMENTS)",
	} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return nil, err
		}
	}
	out := &Restored{Table: m.Schema + "." + name, Rows: m.Rows}
	if out.Erased, err = r.copyRows(ctx, tx, m, key, ident, gone); err != nil {
		return nil, err
	}
	if o.As != "" {
		return out, nil
	}
	if !o.Detached {
		finish, err := partitions.FinishSQL(ctx, r.DB.Pool(), t, partitions.Partition{Schema: m.Schema, Name: name})
		if err != nil {
			return nil, err
		}
		if err := r.attach(ctx, tx, t, e, ident); err != nil {
			return nil, err
		}
		for _, sql := range finish {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return nil, err
			}
		}
	}
	return out, r.note(ctx, tx, t, m, e, ident, o)
}

// copyHeader begins a COPY in binary format: PostgreSQL documentation, COPY, Binary Format.
const copyHeader = "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// copyRows streams the object into a table. That all of it was right is known at its end, before anything is committed.
func (r *Restorer) copyRows(ctx context.Context, tx pgx.Tx, m *Manifest, key, ident string, erased map[int64]bool) (gone int64, err error) {
	names := m.Names()
	for i, n := range names {
		names[i] = pgx.Identifier{n}.Sanitize()
	}
	in, out := io.Pipe()
	scanned := make(chan error, 1)
	go func() {
		buffer := append(make([]byte, 0, 1<<17), copyHeader...)
		err := r.Store.Scan(ctx, m, key, func(row *Row) error {
			erase := erased[row.ID]
			if erase {
				gone++
			}
			buffer = row.AppendTuple(buffer, erase)
			if len(buffer) < 1<<16 {
				return nil
			}
			_, err := out.Write(buffer)
			buffer = buffer[:0]
			return err
		})
		if err == nil {
			_, err = out.Write(append(buffer, 0xff, 0xff))
		}
		_ = out.CloseWithError(err) // it never fails
		scanned <- err
	}()
	tag, err := tx.Conn().PgConn().CopyFrom(ctx, in, "COPY "+ident+" ("+strings.Join(names, ", ")+") FROM STDIN BINARY")
	_ = in.CloseWithError(errors.New("the copy has ended")) // it never fails
	if scanErr := <-scanned; scanErr != nil && (err == nil || fault.ClassOf(scanErr) != "") {
		return 0, scanErr
	}
	if err != nil {
		return 0, err
	}
	if tag.RowsAffected() != m.Rows {
		return 0, fault.New(fault.Internal, "", "%d rows were copied, not %d", tag.RowsAffected(), m.Rows)
	}
	return gone, nil
}

const attachPause = 50 * time.Millisecond

// attach tries for the table's lock again and again, each time so shortly that nobody queues behind it for long.
func (r *Restorer) attach(ctx context.Context, tx pgx.Tx, t partitions.Table, e Entry, ident string) error {
	sql := "ALTER TABLE " + t.Ident() + " ATTACH PARTITION " + ident + " " + t.Key.ForValues(e.bounds())
	if _, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d", max(r.LockTimeout.Milliseconds(), 1))); err != nil {
		return err
	}
	deadline := r.Now().Add(r.Wait)
	for {
		if _, err := tx.Exec(ctx, "SAVEPOINT attach"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, sql)
		if err == nil || !postgres.IsLockNotAvailable(err) || r.Now().After(deadline) {
			return err
		}
		if _, err := tx.Exec(ctx, "ROLLBACK TO SAVEPOINT attach"); err != nil {
			return err
		}
		timer := time.NewTimer(attachPause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}

// note records the restore in the log, as the role that connected.
func (r *Restorer) note(ctx context.Context, tx pgx.Tx, t partitions.Table, m *Manifest, e Entry, ident string, o RestoreOptions) error {
	if _, err := tx.Exec(ctx, "RESET ROLE"); err != nil {
		return err
	}
	root, err := hex.DecodeString(m.Root)
	if err != nil {
		return err
	}
	b := e.bounds()
	body := &integrity.Restore{
		Table: m.TableID, Partition: integrity.PartitionRef{Name: m.Partition, Range: integrity.Range{From: b.From, To: b.To, FromMin: b.FromMin, ToMax: b.ToMax}},
		Generation: m.Generation, Rows: m.Rows, Root: [audit.HashSize]byte(root),
	}
	if o.Detached {
		if err := tx.QueryRow(ctx, "SELECT $1::regclass::oid::bigint", ident).Scan(&body.OID); err != nil {
			return err
		}
	}
	table := &integrity.Table{ID: *t.ManagedID, OID: t.OID, Schema: t.Schema, Name: t.Name, KeyColumn: t.Key.Column}
	if _, err := r.Log.Append(ctx, tx, r.Now(), []integrity.Entry{{Table: table, Body: body}}, nil); err != nil {
		return fmt.Errorf("record it in the log: %w", err)
	}
	return nil
}

// Newest is the newest archive of a partition.
func Newest(list []Entry, partition string) (Entry, bool) {
	i := -1
	for n, e := range list {
		if e.Partition == partition && (i < 0 || e.Generation > list[i].Generation) {
			i = n
		}
	}
	if i < 0 {
		return Entry{}, false
	}
	return list[i], true
}
