package ingest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/audit"
	"auditdb/pkg/integrity"
)

// committer owns a connection and commits one batch after the other.
type committer struct {
	run       *run
	hasher    *audit.Hasher
	conn      *pgx.Conn
	uncertain bool // a COMMIT of the present batch got no answer
	last      *batchMark
}

// batchMark says where the last batch was that a committer got an answer for.
type batchMark struct {
	source string
	first  int64
}

// Reasons to begin a batch anew within one attempt.
var (
	errStale      = errors.New("the partitions have changed")
	errDuplicates = errors.New("an event is there already")
)

const (
	maxRounds     = 8   // of an attempt: changed partitions, duplicates
	readBackEvery = 256 // batches; the first of a run is read back too
)

// outcome is what a committed batch came to.
type outcome struct {
	counts     Counts
	checkpoint *integrity.Checkpoint
	rejects    []Reject
}

// commit puts a batch into the table, whatever happens to the connection in between.
func (c *committer) commit(ctx context.Context, b *batch) error {
	if c.run.opts.DryRun {
		return c.rehearse(ctx, b)
	}
	c.uncertain = false
	readBack := (c.run.number.Add(1)-1)%readBackEvery == 0 || c.run.opts.ReadBack
	var out outcome
	err := postgres.Retry(ctx, c.run.retry(), func(ctx context.Context) (err error) {
		defer func() { b.turn.end(err) }()
		if out, err = c.attempt(ctx, b, readBack); err != nil {
			err = c.blocked(ctx, b, err)
			c.reset(ctx)
		}
		return err
	})
	if err != nil {
		return b.failed(err)
	}
	if b.records > 0 {
		c.last = &batchMark{b.chunk.src.Name, b.chunk.first}
	}
	c.run.done(b, out.counts, out.checkpoint, out.rejects)
	return nil
}

// failed says which records an error is about, where it does not say so itself.
func (b *batch) failed(err error) error {
	var over *limitError
	if errors.As(err, &over) {
		return err
	}
	var locked *lockedError
	if errors.As(err, &locked) {
		err = locked.err
	}
	return fmt.Errorf("%s, records %d to %d: %w", b.chunk.src.Name, b.chunk.first, b.chunk.first+int64(len(b.chunk.records))-1, plainError(err))
}

// lockedError stands for a lock that was not to be had within the time for it. It hides the server's error, after which the batch would
// be tried again.
type lockedError struct{ err error }

// Error is the message of what it stands for.
func (e *lockedError) Error() string { return e.err.Error() }

// blocked names who holds a lock that the batch did not get in time; other errors stay as they are.
func (c *committer) blocked(ctx context.Context, b *batch, err error) error {
	if postgres.SQLState(err) != postgres.LockNotAvailable || fault.ClassOf(err) != "" {
		return err
	}
	holders, lookErr := c.run.db.Holders(ctx, logLock)
	if lookErr == nil && len(holders) > 0 && b.atLog {
		return &lockedError{fault.New(fault.Locked, "wait for that run to end", "%w: the integrity log is held by %s", err, holders[0])}
	}
	oids := []uint32{c.run.opts.Table.OID}
	for _, s := range b.shares {
		oids = append(oids, s.leaf.oid)
	}
	return &lockedError{c.run.db.Blocked(ctx, oids, true, err)}
}

// plainError keeps the values of rows out of messages: those stand in the detail and the context of a server's error only.
func plainError(err error) error {
	if isOverlap(err) {
		return fault.New(fault.Locked, "let the other run end", "another run has taken records of this source: %w", err)
	}
	return err
}

// attempt tries until the batch is committed or an error comes that needs a new connection or ends the run.
func (c *committer) attempt(ctx context.Context, b *batch, readBack bool) (outcome, error) {
	if err := b.chunk.src.acquire(ctx, c.run); err != nil {
		return outcome{}, err
	}
	if err := c.connect(ctx); err != nil {
		return outcome{}, err
	}
	if c.uncertain {
		if out, found, err := c.lookUp(ctx, b); err != nil || found {
			return out, err
		}
		c.uncertain = false
	}
	if c.run.lookFirst.Load() {
		if err := c.dropKnown(ctx, b); err != nil {
			return outcome{}, err
		}
	}
	for range maxRounds {
		out, err := c.once(ctx, b, readBack)
		switch {
		case errors.Is(err, errStale):
			if err := c.run.reload(ctx); err != nil {
				return outcome{}, err
			}
			if err := c.run.seal(ctx, c.hasher, b); err != nil {
				return outcome{}, err
			}
		case errors.Is(err, errDuplicates):
			c.run.lookFirst.Store(true)
			if err := c.dropKnown(ctx, b); err != nil {
				return outcome{}, err
			}
		default:
			return out, err
		}
	}
	return outcome{}, fault.New(fault.Locked, "run again when the others have ended", "partitions or events kept changing under the batch")
}

func (c *committer) connect(ctx context.Context) error {
	if c.conn != nil && !c.conn.IsClosed() {
		return nil
	}
	conn, err := c.run.db.Connect(ctx)
	if err != nil {
		return err
	}
	c.conn = conn
	return c.checkLast(ctx)
}

// checkLast makes sure that the server still has the last batch that was committed: one that took over from another without all that was
// committed there would leave a hole.
func (c *committer) checkLast(ctx context.Context) error {
	if c.last == nil {
		return nil
	}
	_, found, err := findRange(ctx, c.conn, c.run.tableID, c.last.source, c.last.first)
	if err == nil && !found {
		return errLost(c.last.source)
	}
	return err
}

// errLost says that commits are gone that the server had confirmed.
func errLost(source string) error {
	return fault.New(fault.Data, "run again: exactly what is missing is added. Look into the failover, and into synchronous_commit",
		"%s: the server has lost records that it had committed", source)
}

// reset drops the connection after a failed attempt: the next one gets a new one, from the present primary.
func (c *committer) reset(ctx context.Context) {
	if c.conn != nil {
		c.close(ctx)
	}
}

func (c *committer) close(ctx context.Context) {
	if c.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = c.conn.Close(ctx) // the server ends the session either way
	c.conn = nil
}

// dropKnown takes the events out of the batch that the table has already.
func (c *committer) dropKnown(ctx context.Context, b *batch) error {
	var uids []string
	var at []time.Time
	var positions []int
	for i, r := range b.order {
		if uid := b.uid(r); uid != nil {
			uids = append(uids, string(uid))
			at = append(at, audit.MicrosTime(b.rows[r].micros))
			positions = append(positions, i)
		}
	}
	if len(uids) == 0 {
		return nil
	}
	found, err := c.findEvents(ctx, uids, at)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		c.run.lookFirst.Store(false)
		return nil
	}
	for i, f := range found {
		found[i] = positions[f]
	}
	b.drop(found)
	return c.run.seal(ctx, c.hasher, b)
}

// findEvents looks in a transaction, which waits for table locks as long as that of a batch does.
func (c *committer) findEvents(ctx context.Context, uids []string, at []time.Time) ([]int, error) {
	tx, err := c.conn.BeginTx(ctx, pgx.TxOptions{BeginQuery: beginSQL(c.run.opts.Wait)})
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	defer func() {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = tx.Rollback(undo) // only looked
	}()
	return findEvents(ctx, tx, c.run.ident, uids, at)
}

// once runs the batch's transaction: rows, checks, rejects on disk, log and range, COMMIT.
func (c *committer) once(ctx context.Context, b *batch, readBack bool) (out outcome, err error) {
	tx, err := c.conn.BeginTx(ctx, pgx.TxOptions{BeginQuery: beginSQL(c.run.opts.Wait)})
	if err != nil {
		return out, fmt.Errorf("begin: %w", err)
	}
	defer func() {
		if err != nil && !c.conn.IsClosed() {
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			_ = tx.Rollback(undo) // a connection that cannot is dropped by whoever sees the error
		}
	}()
	b.atLog = false
	if err = c.copyRows(ctx, b); err != nil {
		return out, err
	}
	if err = c.checkLeaves(ctx, tx, b); err != nil {
		return out, err
	}
	if readBack {
		if err = c.readBack(ctx, b); err != nil {
			return out, err
		}
	}
	if err = b.before.awaitEnd(ctx); err != nil {
		return out, err
	}
	out.rejects = b.rejects()
	out.counts = b.counts(out.rejects)
	if err = c.run.reserve(out.rejects); err != nil {
		return out, err
	}
	defer func() {
		if err != nil {
			c.run.unreserve(len(out.rejects))
		}
	}()
	if c.run.opts.Rejects != nil && len(out.rejects) > 0 {
		if err = c.run.opts.Rejects.write(out.rejects); err != nil {
			return out, err
		}
	}
	if b.records == 0 {
		return out, tx.Rollback(ctx) // all there is is an unfinished last line
	}
	id, err := c.sourceRow(ctx, tx, b.chunk.src)
	if err != nil {
		return out, err
	}
	b.atLog = true
	if out.checkpoint, err = c.record(ctx, tx, b, id, out.counts); err != nil {
		return out, err
	}
	if err = tx.Commit(ctx); err != nil {
		c.uncertain = postgres.SQLState(err) == "" || c.conn.IsClosed()
		return out, fmt.Errorf("commit: %w", err)
	}
	b.chunk.src.known(id)
	return out, nil
}

// counts are the batch's share of the report.
func (b *batch) counts(rejects []Reject) Counts {
	n := Counts{Skipped: int64(b.unselected), Unselected: int64(b.unselected), Inserted: int64(len(b.order)), Duplicate: int64(b.dropped), Rejected: int64(len(rejects))}
	n.Read = n.Inserted + n.Duplicate + n.Rejected
	return n
}

// copyRows sends each partition its share.
func (c *committer) copyRows(ctx context.Context, b *batch) error {
	if err := b.before.awaitCopied(ctx); err != nil {
		return err
	}
	defer b.turn.passCopied()
	select {
	case c.run.copying <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-c.run.copying }()
	for _, s := range b.shares {
		if s.n == 0 {
			continue
		}
		tag, err := c.conn.PgConn().CopyFrom(ctx, b.reader(s), copyInSQL(s.leaf.ident))
		if err != nil {
			return copyError(s.leaf, err)
		}
		if tag.RowsAffected() != int64(s.n) {
			return fault.New(fault.Data, "look for triggers or rules on the table", "copy into %s: %d of %d rows were taken", s.leaf.ident, tag.RowsAffected(), s.n)
		}
	}
	return nil
}

// copyError tells what can be mended from what cannot.
func copyError(l *leaf, err error) error {
	switch state := postgres.SQLState(err); state {
	case postgres.UniqueViolation:
		return errDuplicates
	case postgres.UndefinedTable:
		return errStale
	case postgres.CheckViolation:
		// A violated CHECK is named. The bounds of a partition have no name, and the message is in the server's language.
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.ConstraintName == "" && pg.TableName != "" {
			return errStale
		}
	}
	return fmt.Errorf("copy into %s: %w", l.ident, err)
}

// checkLeaves makes sure, under the locks that COPY took, that what was written to are this table's partitions with the bounds by which
// the rows were routed.
func (c *committer) checkLeaves(ctx context.Context, tx pgx.Tx, b *batch) error {
	if len(b.shares) == 0 {
		return nil
	}
	oids := make([]uint32, len(b.shares))
	for i, s := range b.shares {
		oids[i] = s.leaf.oid
	}
	states, err := leafStates(ctx, tx, c.run.opts.Table.OID, oids)
	if err != nil {
		return err
	}
	now := make(map[uint32]leafState, len(states))
	for _, s := range states {
		now[s.oid] = s
	}
	for _, s := range b.shares {
		if now[s.leaf.oid] != s.leaf.leafState {
			return errStale
		}
	}
	return nil
}

// readBack hashes the rows as the server has them and compares the leaves.
func (c *committer) readBack(ctx context.Context, b *batch) error {
	if len(b.leaves) == 0 {
		return nil
	}
	first, last := b.span()
	h := audit.NewHasher(audit.AuditLog())
	n, differ := 0, 0
	scan := audit.NewTupleScanner(audit.AuditLog(), func(r audit.Row) error {
		k := int(r.ID - b.id(0))
		if k < 0 || k >= len(b.order) || r.Salt == nil {
			differ++
			return nil
		}
		n++
		got := h.LeafOf(r.Core, r.Personal, r.Salt)
		if !bytes.Equal(got[:], b.leaves[k*audit.HashSize:(k+1)*audit.HashSize]) {
			differ++
		}
		return nil
	})
	if _, err := c.conn.PgConn().CopyTo(ctx, scan, readBackSQL(c.run.ident, b.id(0), b.id(len(b.order)-1), first, last)); err != nil {
		return fmt.Errorf("read the batch back: %w", err)
	}
	if err := scan.Close(); err != nil {
		return fmt.Errorf("read the batch back: %w", err)
	}
	if n != len(b.order) || differ > 0 {
		return fault.New(fault.Integrity, "look for triggers, rules and row security on the table and its partitions",
			"the table does not hold what was written: of %d rows %d came back, %d of them changed; nothing was committed", len(b.order), n, differ)
	}
	return nil
}

// sourceRow returns the id of the source's row in auditdb.ingest_source. A new source's row is made in the transaction of its first batch:
// a source that nothing was taken of leaves no trace.
func (c *committer) sourceRow(ctx context.Context, tx pgx.Tx, s *source) (int64, error) {
	s.mu.Lock()
	id, state := s.state.id, s.state
	s.mu.Unlock()
	if id != 0 {
		return id, nil
	}
	return insertSource(ctx, tx, c.run.tableID, s.Name, &state)
}

// record appends the batch to the integrity log and notes its range, as the transaction's last step.
func (c *committer) record(ctx context.Context, tx pgx.Tx, b *batch, src int64, n Counts) (*integrity.Checkpoint, error) {
	rng := rangeRow{
		source: src, first: b.chunk.first, last: b.chunk.first + int64(b.records) - 1, sum: b.sum[:],
		inserted: int(n.Inserted), duplicate: int(n.Duplicate), rejected: int(n.Rejected),
	}
	if b.records < len(b.chunk.records) {
		rng.rejected-- // the unfinished last line is not of the range
	}
	if len(b.entries) == 0 {
		return nil, c.recordRange(ctx, tx, rng)
	}
	done, err := c.run.opts.Log.Append(ctx, tx, c.run.opts.Now(), b.entries, func(q *pgx.Batch, seqs []int64) {
		queueRange(q, rng, seqs[0])
	})
	if err != nil {
		return nil, err
	}
	return &done.Checkpoint, nil
}

// recordRange notes the range of a batch that is not in the log: no row was inserted, or the table's integrity is off.
func (c *committer) recordRange(ctx context.Context, tx pgx.Tx, rng rangeRow) error {
	if err := lockRanges(ctx, tx, logLock, c.run.lockWait); err != nil {
		return err
	}
	q := &pgx.Batch{}
	queueRange(q, rng, noSeq)
	if err := tx.SendBatch(ctx, q).Close(); err != nil {
		return fmt.Errorf("note the range: %w", err)
	}
	return nil
}

// logLock is the lock that integrity.Log appends under; whoever notes a range has it.
const logLock = "log"

// lookUp finds out whether a COMMIT without an answer arrived. The lock makes it wait for a transaction that is still committing.
func (c *committer) lookUp(ctx context.Context, b *batch) (outcome, bool, error) {
	tx, err := c.conn.BeginTx(ctx, pgx.TxOptions{BeginQuery: beginSQL(c.run.opts.Wait)})
	if err != nil {
		return outcome{}, false, fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // only looked
	if err := lockRanges(ctx, tx, logLock, c.run.lockWait); err != nil {
		return outcome{}, false, err
	}
	rng, found, err := findRange(ctx, tx, c.run.tableID, b.chunk.src.Name, b.chunk.first)
	if err != nil || !found {
		return outcome{}, false, err
	}
	if rng.last != b.chunk.first+int64(b.records)-1 || !bytes.Equal(rng.sum, b.sum[:]) {
		return outcome{}, false, fault.New(fault.Locked, "let the other run end", "another run has taken records of this source")
	}
	b.chunk.src.known(rng.source)
	out := outcome{counts: Counts{Inserted: int64(rng.inserted), Duplicate: int64(rng.duplicate), Rejected: int64(rng.rejected)}, rejects: b.rejects()}
	out.counts.Read = out.counts.Inserted + out.counts.Duplicate + out.counts.Rejected
	out.counts.Skipped, out.counts.Unselected = int64(b.unselected), int64(b.unselected)
	return out, true, nil
}
