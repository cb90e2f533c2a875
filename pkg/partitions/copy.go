package partitions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
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
	// fewRows is how many new rows may be left when the rest is done while writers wait.
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

// tx runs fn in a transaction in which the source stays where it is, with what has been copied of each leaf.
func (c *Copy) tx(ctx context.Context, o pgx.TxOptions, fn func(tx pgx.Tx, leaves map[uint32]leaf, parts []done) error) error {
	return c.w.o.DB.TxWith(ctx, o, func(tx pgx.Tx) error {
		if role := c.role(); role != "" {
			if _, err := tx.Exec(ctx, "SET LOCAL ROLE "+pgx.Identifier{role}.Sanitize()); err != nil {
				return err
			}
		}
		// A policy that hides rows from the owner has to be an error.
		for _, sql := range []string{"SET LOCAL row_security = off", "SET LOCAL lock_timeout = 0", "LOCK TABLE " + c.spec.Source.Ident() + " IN ACCESS SHARE MODE"} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		leaves, parts, err := c.look(ctx, tx, o.IsoLevel != pgx.RepeatableRead)
		if err != nil {
			return err
		}
		return fn(tx, leaves, parts)
	})
}

// look reads the leaves and how far each has come, and checks that both are about the same.
//
// alone keeps the server's rest of a run that was killed, which may still be about to commit a batch, from doing the same twice.
func (c *Copy) look(ctx context.Context, tx pgx.Tx, alone bool) (map[uint32]leaf, []done, error) {
	if alone {
		if _, err := tx.Exec(ctx, "LOCK TABLE "+c.head.names().state()+" IN SHARE ROW EXCLUSIVE MODE"); err != nil {
			return nil, nil, err
		}
	}
	all, err := leavesOf(ctx, tx, c.spec.Source.OID)
	if err != nil {
		return nil, nil, err
	}
	parts, err := c.head.progress(ctx, tx)
	if err != nil {
		return nil, nil, err
	}
	leaves := make(map[uint32]leaf, len(all))
	for _, l := range all {
		leaves[l.OID] = l
	}
	if len(all) != len(parts) {
		return nil, nil, errMoved
	}
	for _, p := range parts {
		if leaves[p.OID].Filenode != p.Filenode {
			return nil, nil, errMoved
		}
	}
	var shape string
	if err := tx.QueryRow(ctx, copyColumnsSQL, c.spec.Source.OID).Scan(&shape); err != nil {
		return nil, nil, err
	}
	if shape != c.head.SourceShape {
		return nil, nil, fault.New(fault.Refused, "take it back with auditdb partition "+c.spec.Purpose+" --abort and begin again", "%s has other columns than when its copy began", c.spec.Source)
	}
	return leaves, parts, nil
}

// Run copies until the target has every row but the last few, compares both, and waits for transactions that could not see the copied rows.
// It may be called again after any error.
func (c *Copy) Run(ctx context.Context) error {
	parts, err := c.head.progress(ctx, c.w.o.DB.Pool())
	if err != nil {
		return fmt.Errorf("%s: %w", c.what("go on with the copy of"), err)
	}
	if len(parts) == 0 && !c.watched(ctx) {
		if err := c.watch(ctx); err != nil {
			return err
		}
	}
	for {
		err := c.run(ctx)
		if !errors.Is(err, errMoved) {
			return c.explain(err)
		}
		if err := c.restart(ctx); err != nil {
			return err
		}
	}
}

// watched says whether new rows are noted already; a partitioned source may have no leaf yet.
func (c *Copy) watched(ctx context.Context) bool {
	var oid uint32
	err := c.w.o.DB.Pool().QueryRow(ctx, relationOIDSQL, c.head.Schema, c.head.names().base+"_delta").Scan(&oid)
	return err == nil && oid != 0
}

func (c *Copy) run(ctx context.Context) error {
	if err := c.backfill(ctx); err != nil {
		return err
	}
	if err := c.catchUp(ctx, fewRows); err != nil {
		return err
	}
	if err := c.analyze(ctx); err != nil {
		return err
	}
	if err := c.compare(ctx); err != nil {
		return err
	}
	if err := c.catchUp(ctx, fewRows); err != nil {
		return err
	}
	if err := c.both(ctx); err != nil {
		return err
	}
	if err := c.catchUp(ctx, 1); err != nil {
		return err
	}
	return c.w.awaitSnapshots(ctx, c.what("replace"))
}

// catchUp copies new rows until fewer than few were left.
func (c *Copy) catchUp(ctx context.Context, few int64) error {
	for {
		n, err := c.flush(ctx, flushRows)
		if err != nil || n < few {
			return err
		}
		if c.late() {
			return ErrIncomplete
		}
	}
}

// both makes writers put each new row into the target too, in their own transaction: for every snapshot it is in both tables or in none. So
// once the rows that were noted before are copied, and no snapshot is older than that, it makes no difference to a reader which of the two it
// reads.
func (c *Copy) both(ctx context.Context) error {
	return c.ddl(ctx, "watch", func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "LOCK TABLE "+c.spec.Source.Ident()+" IN SHARE ROW EXCLUSIVE MODE"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, c.head.bothSQL())
		return err
	})
}

func (c *Copy) late() bool { return !c.spec.Until.IsZero() && !c.w.o.Now().Before(c.spec.Until) }

// explain says of an error in the midst of a copy what it was about.
func (c *Copy) explain(err error) error {
	if err == nil || errors.Is(err, ErrIncomplete) {
		return err
	}
	return c.w.explain(c.spec.Table, c.what("copy"), err)
}

// backfill copies the rows that were there when new ones began to be noted.
func (c *Copy) backfill(ctx context.Context) error {
	size := int64(firstBatch)
	for {
		started := c.w.o.Now()
		more := false
		err := c.tx(ctx, pgx.TxOptions{}, func(tx pgx.Tx, leaves map[uint32]leaf, parts []done) error {
			c.rows, more = 0, false
			var next *done
			for i, p := range parts {
				c.rows += p.Rows
				if p.Next < p.Blocks && next == nil {
					next, more = &parts[i], true
				}
			}
			if next == nil {
				return nil
			}
			var n int64
			err := tx.QueryRow(ctx, c.head.batchSQL(leaves[next.OID]), next.OID, next.Next, min(next.Next+size, next.Blocks)).Scan(&n)
			c.rows += n
			return err
		})
		if err != nil || !more {
			return err
		}
		if c.spec.OnRows != nil {
			c.spec.OnRows(c.rows, max(c.head.Total, c.rows))
		}
		if c.late() {
			return ErrIncomplete
		}
		switch took := c.w.o.Now().Sub(started); {
		case took < batchAim/2:
			size = min(2*size, mostBlocks)
		case took > batchAim:
			size = max(size/2, 1)
		}
	}
}

// flush copies up to limit of the new rows of each leaf, and says how many there were.
func (c *Copy) flush(ctx context.Context, limit int) (n int64, err error) {
	var put map[uint32]int64
	err = c.tx(ctx, pgx.TxOptions{}, func(tx pgx.Tx, leaves map[uint32]leaf, _ []done) error {
		noted, err := c.head.noted(ctx, tx)
		if err != nil {
			return err
		}
		put, n = map[uint32]int64{}, 0
		for rel := range noted {
			l, ok := leaves[rel]
			if !ok {
				continue // a writer has put the row there
			}
			if err := c.flushLeaf(ctx, tx, l, limit, put); err != nil {
				return err
			}
		}
		n, put[0] = put[0], 0
		return nil
	})
	if err == nil && c.counts != nil {
		for rel, rows := range put {
			c.counts[rel] += rows
		}
	}
	return n, err
}

func (c *Copy) flushLeaf(ctx context.Context, tx pgx.Tx, l leaf, limit int, put map[uint32]int64) error {
	rows, err := tx.Query(ctx, c.head.flushSQL(l), l.OID, limit)
	if err != nil {
		return err
	}
	var rel uint32
	var n, noted, copied int64
	if _, err := pgx.ForEachRow(rows, []any{&rel, &n}, func() error {
		put[rel] += n
		if rel == 0 {
			noted += n
		} else {
			copied += n
		}
		return nil
	}); err != nil {
		return err
	}
	if noted != copied {
		return fault.New(fault.Data, "something has changed rows past the triggers that refuse it: take the copy back with --abort and begin again",
			"%d of the %d rows that were inserted into %s meanwhile are not there any more", noted-copied, noted, displayName(l.Schema, l.Name))
	}
	return nil
}

// analyze gives the new tables statistics before anybody reads them.
func (c *Copy) analyze(ctx context.Context) error {
	return c.w.o.DB.Tx(ctx, func(tx pgx.Tx) error {
		return asRole(ctx, tx, c.spec.Target.Owner, "", func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "ANALYZE "+c.spec.Target.Ident())
			return err
		})
	})
}

// compare counts and hashes the rows of both sides in one snapshot.
func (c *Copy) compare(ctx context.Context) error {
	return c.tx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx, leaves map[uint32]leaf, _ []done) error {
		var there, copied int64
		left, right := new(big.Int), new(big.Int)
		for _, l := range leaves {
			var n int64
			var sum string
			if err := tx.QueryRow(ctx, c.head.sumSQL(l), l.OID).Scan(&n, &sum); err != nil {
				return err
			}
			there += n
			addText(left, sum)
		}
		counts := map[uint32]int64{}
		rows, err := tx.Query(ctx, c.head.targetSumSQL())
		if err != nil {
			return err
		}
		var rel uint32
		var n int64
		var sum string
		if _, err := pgx.ForEachRow(rows, []any{&rel, &n, &sum}, func() error {
			counts[rel] = n
			copied += n
			addText(right, sum)
			return nil
		}); err != nil {
			return err
		}
		if there != copied || left.Cmp(right) != 0 {
			return fault.New(fault.Data, "nothing was replaced; take the copy back with --abort and begin again",
				"the copy differs from its source: %d rows in %s, %d in the copy, checksums %s and %s", there, c.spec.Source, copied, left, right)
		}
		noted, err := c.head.noted(ctx, tx)
		for rel, n := range noted {
			if _, ok := leaves[rel]; !ok {
				counts[rel] -= n
			}
		}
		c.counts = counts
		return err
	})
}

func addText(sum *big.Int, text string) {
	if n, ok := new(big.Int).SetString(text, 10); ok {
		sum.Add(sum, n)
	}
}
