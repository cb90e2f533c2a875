package partitions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

const (
	firstBatch = 128     // blocks
	mostBlocks = 1 << 16 // of a batch
	batchAim   = time.Second
	flushRows  = 10_000
	// fewRows is how many new rows may be left before writers put each into both tables.
	fewRows = 1000
)

// CopySource is a table whose rows are copied: a plain table, a partition, or all leaves of a partitioned table.
type CopySource struct {
	OID          uint32
	Schema, Name string
	Owner        string
}

// Ident is the quoted, schema-qualified name.
func (s CopySource) Ident() string { return pgx.Identifier{s.Schema, s.Name}.Sanitize() }

// String is the name for people.
func (s CopySource) String() string { return displayName(s.Schema, s.Name) }

// CopyColumn fills a column of the target. Expr is an expression over the source's columns, of the target column's very type, such as
// "id"::bigint or 'INTERNAL'::text; "": the source's column of the same name.
type CopyColumn struct{ Target, Expr string }

// CopyTarget is where rows go.
type CopyTarget struct {
	Schema, Name string
	Owner        string
}

// Ident is the quoted, schema-qualified name.
func (t CopyTarget) Ident() string { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }

// CopySpec says what is copied where. The copy is kept up to date with rows that are inserted meanwhile; UPDATE, DELETE and TRUNCATE of the
// source are refused as long as it goes on.
type CopySpec struct {
	Purpose string     // the command: drain, split, create, adopt, undo
	Table   Table      // whose lock is held and in whose name the ledger is told; locked before Source where it is another table
	Source  CopySource // what is copied
	Target  CopyTarget // a table, or a partitioned one that sends each row to its partition; made by Make
	Columns []CopyColumn

	// Make makes Target in tx, as the target's owner, before anything else: once, not again when a copy is resumed. What it makes besides
	// Target has to depend on it, so that DROP TABLE takes it along. nil: it is there already.
	Make func(ctx context.Context, tx pgx.Tx) error
	Meta json.RawMessage // the caller's own, kept with the copy: see CopyState

	Until  time.Time                 // Run stops with ErrIncomplete after this; zero: never
	OnRows func(rows, ofAbout int64) // told after each batch; nil: nobody is
}

// CopyState is a copy that has begun and not ended: a run is at it, or was interrupted.
type CopyState struct {
	Purpose   string
	Source    CopySource // OID 0: it is gone
	Target    CopyTarget
	Rows      int64 // copied; -1: not allowed to look
	Total     int64 // of the source, about
	Meta      json.RawMessage
	StartedAt time.Time
	head      copyHead
}

// ErrIncomplete says that the time was over before the copy was done; a later run goes on.
var ErrIncomplete = errors.New("the time that was given is over; run it again to go on")

// errMoved says that the source was written anew, by VACUUM FULL for instance, or has other leaves than before: rows are not where they were.
var errMoved = errors.New("the rows of the source are not where they were")

// Copy is a copy that goes on. It belongs to one goroutine.
type Copy struct {
	w      *Worker
	spec   CopySpec
	head   copyHead
	rows   int64
	counts map[uint32]int64 // rows of each relation of the target, once they have been compared, without those that writers put there
	moved  map[uint32]int64 // all of them, when they are swapped
}

// StartCopy begins a copy, or finds the one that an interrupted run has left. It is called under the table's lock. A copy of the same source
// for another purpose, or to another target, is an error of class refused.
func (w *Worker) StartCopy(ctx context.Context, spec CopySpec) (*Copy, error) {
	c := &Copy{w: w, spec: spec}
	found, err := FindCopy(ctx, w.o.DB.Pool(), spec.Source)
	if err != nil {
		return nil, err
	}
	if found == nil {
		err = c.begin(ctx)
		if state := postgres.SQLState(err); state != postgres.UniqueViolation && state != postgres.DuplicateTable {
			return c, err
		}
		// The last statement of a run that was killed has come through after all.
		if found, err = FindCopy(ctx, w.o.DB.Pool(), spec.Source); err != nil {
			return nil, err
		}
	}
	if found != nil {
		if found.Purpose != spec.Purpose || found.Target != spec.Target || !slices.Equal(found.head.Columns, spec.Columns) {
			return nil, found.refusal()
		}
		c.head = found.head
		w.o.Log.LogAttrs(ctx, slog.LevelInfo, "going on with a copy", slog.String("source", spec.Source.String()), slog.Time("begun", found.StartedAt), slog.Int64("rows", found.Rows))
		return c, nil
	}
	return nil, fault.New(fault.Data, "rename or drop what is in the way", "%s: a relation has a name that begins with %s", c.what("begin the copy of"), copyPrefix)
}

// Rows is how many rows have been copied, by interrupted runs as well.
func (c *Copy) Rows() int64 { return c.rows }

// role is whom the copy works as: the owner of source and target, or, where these are two, the connected user.
func (c *Copy) role() string {
	if c.spec.Source.Owner == c.spec.Target.Owner {
		return c.spec.Source.Owner
	}
	return ""
}

func (c *Copy) what(do string) string {
	return fmt.Sprintf("%s %s (partition %s)", do, c.spec.Source, c.spec.Purpose)
}

func (c *Copy) ddl(ctx context.Context, do string, fn func(pgx.Tx) error) error {
	o := postgres.DDLOptions{LockTimeout: c.w.o.LockTimeout, Wait: c.w.o.Wait, Role: c.role(), What: c.what(do)}
	if err := c.w.o.DB.DDL(postgres.WithPatience(ctx, c.w.o.Wait), o, fn); err != nil {
		return c.w.explain(c.spec.Table, o.What, err)
	}
	return nil
}

// begin makes target and state; the source is not touched yet.
func (c *Copy) begin(ctx context.Context) error {
	leaves, err := leavesOf(ctx, c.w.o.DB.Pool(), c.spec.Source.OID)
	if err != nil {
		return fmt.Errorf("%s: %w", c.what("look at"), err)
	}
	c.head = copyHead{
		Purpose: c.spec.Purpose, TableOID: c.spec.Table.OID, Table: c.spec.Table.Ident(), SourceOID: c.spec.Source.OID, Schema: c.spec.Source.Schema, Name: c.spec.Source.Name,
		Target: c.spec.Target, Columns: c.spec.Columns, Meta: c.spec.Meta, StartedAt: c.w.o.Now().UTC(),
	}
	for _, l := range leaves {
		c.head.Total += l.Rows
		if l.Kind != "r" || l.Method != "heap" {
			return fault.New(fault.Refused, "", "%s: %s is not an ordinary table, so that its rows cannot be copied in parts", c.what("copy"), displayName(l.Schema, l.Name))
		}
	}
	return c.ddl(ctx, "begin the copy of", func(tx pgx.Tx) error {
		if c.spec.Make != nil {
			if err := asRole(ctx, tx, c.spec.Target.Owner, c.role(), c.spec.Make); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, c.head.startSQL()); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, relationOIDSQL, c.spec.Target.Schema, c.spec.Target.Name).Scan(&c.head.TargetOID); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, copyColumnsSQL, c.spec.Source.OID).Scan(&c.head.SourceShape); err != nil {
			return err
		}
		sql, err := c.head.commentSQL()
		if err == nil {
			_, err = tx.Exec(ctx, sql)
		}
		return err
	})
}

// asRole runs fn as another role than the transaction's and goes back.
func asRole(ctx context.Context, tx pgx.Tx, role, back string, fn func(context.Context, pgx.Tx) error) error {
	if role == back || role == "" {
		return fn(ctx, tx)
	}
	if _, err := tx.Exec(ctx, "SET LOCAL ROLE "+pgx.Identifier{role}.Sanitize()); err != nil {
		return err
	}
	if err := fn(ctx, tx); err != nil {
		return err
	}
	sql := resetRoleSQL
	if back != "" {
		sql = "SET LOCAL ROLE " + pgx.Identifier{back}.Sanitize()
	}
	_, err := tx.Exec(ctx, sql)
	return err
}

// watch starts noting new rows: writers that began before have ended by then.
func (c *Copy) watch(ctx context.Context) error {
	return c.ddl(ctx, "watch", func(tx pgx.Tx) error {
		if _, err := tx.Conn().PgConn().Exec(ctx, c.head.watchSQL()).ReadAll(); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "LOCK TABLE "+c.spec.Source.Ident()+" IN SHARE ROW EXCLUSIVE MODE"); err != nil {
			return err
		}
		if _, err := tx.Conn().PgConn().Exec(ctx, c.head.triggersSQL()).ReadAll(); err != nil {
			return err
		}
		return c.noteLeaves(ctx, tx)
	})
}

// noteLeaves fills the state with where the rows are.
func (c *Copy) noteLeaves(ctx context.Context, tx pgx.Tx) error {
	leaves, err := leavesOf(ctx, tx, c.spec.Source.OID)
	if err != nil {
		return err
	}
	var batch pgx.Batch
	for _, l := range leaves {
		batch.Queue("INSERT INTO "+c.head.names().state()+" (rel, filenode, blocks) VALUES ($1, $2, $3)", l.OID, l.Filenode, l.Blocks)
	}
	return tx.SendBatch(ctx, &batch).Close()
}

// restart throws the target's rows away and begins anew.
func (c *Copy) restart(ctx context.Context) error {
	c.w.o.Log.LogAttrs(ctx, slog.LevelWarn, "the table was written anew (VACUUM FULL?): copying it from its beginning", slog.String("source", c.spec.Source.String()))
	return c.ddl(ctx, "begin again the copy of", func(tx pgx.Tx) error {
		n := c.head.names()
		for _, sql := range []string{
			"LOCK TABLE " + c.spec.Source.Ident() + " IN SHARE ROW EXCLUSIVE MODE", "SET LOCAL auditdb.purpose = 'move'",
			c.head.noteSQL(), "TRUNCATE " + c.spec.Target.Ident(), "SET LOCAL auditdb.purpose = ''", "DELETE FROM " + n.delta(), "DELETE FROM " + n.state(),
		} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return c.noteLeaves(ctx, tx)
	})
}
