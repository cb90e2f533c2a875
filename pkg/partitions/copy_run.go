package partitions

import (
	"context"
	"errors"
	"fmt"
	"math/big"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

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

// analyze gives the new tables statistics before anybody reads them. The server's rest of a run that was killed, or autovacuum, may be at the
// same: that is waited for as for any table lock.
func (c *Copy) analyze(ctx context.Context) error {
	o := postgres.DDLOptions{LockTimeout: c.w.o.LockTimeout, Wait: c.w.o.Wait, Role: c.spec.Target.Owner, What: c.what("analyze the copy of")}
	return c.w.o.DB.DDL(postgres.WithPatience(ctx, c.w.o.Wait), o, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "ANALYZE "+c.spec.Target.Ident())
		return err
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
