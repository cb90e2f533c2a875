package integrity

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"golang.org/x/mod/sumdb/tlog"

	"auditdb/internal/postgres"
)

// logEnd is the end of the log as the database has it.
type logEnd struct {
	size           int64
	isolation      string
	durable        bool // synchronous_commit is on or better
	checkpointSize int64
	root           tlog.Hash
	note           string
	edge           [][]byte // empty when the caller's known end is still the end
	touched        []int16  // those of the asked tables that the log knows
	control        int64    // the newest record about keys or servers; -1: none
	server         identity
}

// logLock is the name of the advisory lock that serialises appends.
const logLock = "log"

const (
	defaultLockWait = time.Minute
	minLockWait     = time.Second
)

// sqlLock waits for the lock longer than sessions wait for table locks: whoever holds it is about to commit. What is planned behind it
// must go by the primary keys however small the tables were when they were last analyzed, and must not be planned each time.
const sqlLock = `
SELECT set_config('lock_timeout', $2::text, true), set_config('enable_seqscan', 'off', true), set_config('plan_cache_mode', 'force_generic_plan', true),
       pg_advisory_xact_lock($1)`

// sqlTail reads the end of the log. The indexes of the right edge follow from the size: for each bit k of it the full subtree of level
// k is node (size>>k)-1, stored at index 2m - popcount(m) + k, where m = ((size>>k)<<k) - 1 is its last record (tlog.StoredHashIndex).
const sqlTail = `
SELECT s.n,
       current_setting('transaction_isolation'), current_setting('synchronous_commit') IN ('on', 'remote_apply'),
       coalesce(c.size, 0), coalesce(c.root, ''), coalesce(c.note, ''),
       CASE WHEN c.size = $1 AND c.root = $2 THEN '{}' ELSE ARRAY(
         SELECT (SELECT h.hash FROM auditdb.log_hash h WHERE h.idx = 2 * (((s.n >> k) << k) - 1) - bit_count((((s.n >> k) << k) - 1)::bit(64)) + k)
         FROM generate_series(0, 62) k WHERE (s.n >> k) & 1 = 1 ORDER BY k DESC) END,
       ARRAY(SELECT t FROM unnest($3::smallint[]) t WHERE (SELECT p.seq FROM auditdb.log_partition p WHERE p.table_id = t LIMIT 1) IS NOT NULL),
       coalesce((SELECT max(l.seq) FROM auditdb.log l WHERE ` + controlRecords + `), -1),
       (SELECT i.system_identifier FROM pg_control_system() i), ` + sqlTimeline + `
FROM (SELECT coalesce(max(seq), -1) + 1 AS n FROM auditdb.log) s
LEFT JOIN LATERAL (SELECT size, root, note FROM auditdb.checkpoint ORDER BY size DESC LIMIT 1) c ON true`

// controlRecords are the records about the log itself; there is an index on them.
const controlRecords = `split_part(l.record, E'\n', 1) IN ('auditdb/1 genesis', 'auditdb/1 key', 'auditdb/1 recovery', 'auditdb/1 revoke')`

// sqlTimeline is the server's timeline. A standby shows that of the last restart point.
const sqlTimeline = `CASE WHEN pg_is_in_recovery() THEN (SELECT p.timeline_id FROM pg_control_checkpoint() p)::bigint
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint END`

// readControlRecords reads the records about the log itself, in order.
func readControlRecords(ctx context.Context, q Querier) ([]numbered, error) {
	rows, err := q.Query(ctx, "SELECT l.seq, l.record, l.key_id, l.mac FROM auditdb.log l WHERE "+controlRecords+" ORDER BY l.seq")
	if err != nil {
		return nil, fmt.Errorf("read the integrity log: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (numbered, error) {
		var r numbered
		err := row.Scan(&r.seq, &r.text, &r.keyID, &r.mac)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the integrity log: %w", err)
	}
	return list, nil
}

// numbered is a row of auditdb.log with its number.
type numbered struct {
	seq int64
	storedRecord
}

// readIdentity reads what names the server.
func readIdentity(ctx context.Context, q Querier) (identity, error) {
	var id identity
	var system int64
	if err := q.QueryRow(ctx, "SELECT i.system_identifier, "+sqlTimeline+" FROM pg_control_system() i").Scan(&system, &id.timeline); err != nil {
		return id, fmt.Errorf("read the server's identity: %w", err)
	}
	id.system = uint64(system) //nolint:gosec // the server shows an unsigned number in a bigint
	return id, nil
}

// lockTail takes the log's lock and reads the log's end in a statement of its own, whose snapshot is younger than the lock; both go
// in one round trip.
func lockTail(ctx context.Context, tx pgx.Tx, wait time.Duration, known tail, tables []int16) (logEnd, error) {
	var end logEnd
	b := &pgx.Batch{}
	b.Queue(sqlLock, postgres.LockKey(logLock), strconv.FormatInt(min(wait.Milliseconds(), math.MaxInt32), 10))
	b.Queue(sqlTail, known.edge.size, known.root[:], tables).QueryRow(end.scan)
	err := tx.SendBatch(ctx, b).Close()
	return end, err
}

// Lock takes the log's lock for the rest of tx, waiting as long as tx's lock_timeout allows, so that an Append in tx need not wait: for
// transactions that others wait for.
func Lock(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", postgres.LockKey(logLock)); err != nil {
		return fmt.Errorf("lock the integrity log: %w", err)
	}
	return nil
}

// readTail reads the log's end without its lock: somebody may be appending.
func readTail(ctx context.Context, tx pgx.Tx) (end logEnd, err error) {
	var none tlog.Hash
	err = end.scan(tx.QueryRow(ctx, sqlTail, int64(0), none[:], []int16{}))
	return end, err
}

// scan reads what sqlTail gives.
func (e *logEnd) scan(row pgx.Row) error {
	var root []byte
	var system int64
	if err := row.Scan(&e.size, &e.isolation, &e.durable, &e.checkpointSize, &root, &e.note, &e.edge, &e.touched, &e.control, &system, &e.server.timeline); err != nil {
		return err
	}
	e.server.system = uint64(system) //nolint:gosec // the server shows an unsigned number in a bigint
	if len(root) == tlog.HashSize {
		e.root = tlog.Hash(root)
	}
	return nil
}

// queueDurable makes this transaction's commit wait for the disk even where the session does not.
func queueDurable(b *pgx.Batch) { b.Queue("SET LOCAL synchronous_commit = on") }

// queue adds the inserts of an append.
func (w *writer) queue(b *pgx.Batch) {
	b.Queue(`INSERT INTO auditdb.log (seq, record, key_id, mac) SELECT s, r, $3, m FROM unnest($1::bigint[], $2::text[], $4::bytea[]) u(s, r, m)`,
		w.seqs, w.records, w.keys.id, w.macs)
	b.Queue(`INSERT INTO auditdb.log_hash (idx, hash) SELECT i, h FROM unnest($1::bigint[], $2::bytea[]) u(i, h)`, w.hashAt, w.hashes)
	if len(w.touched) > 0 {
		tables, seqs := make([]int16, len(w.touched)), make([]int64, len(w.touched))
		from, to := make([]pgtype.Timestamptz, len(w.touched)), make([]pgtype.Timestamptz, len(w.touched))
		for i, t := range w.touched {
			tables[i], seqs[i] = t.table, t.seq
			from[i], to[i] = t.rng.timestamps()
		}
		b.Queue(`INSERT INTO auditdb.log_partition (table_id, part_from, part_to, seq)
SELECT DISTINCT t, f, e, s FROM unnest($1::smallint[], $2::timestamptz[], $3::timestamptz[], $4::bigint[]) u(t, f, e, s)`, tables, from, to, seqs)
	}
	for _, s := range w.sets {
		from, to := s.rng.timestamps()
		b.Queue(`INSERT INTO auditdb.leaf (seq, table_id, part_from, part_to, block, min_id, max_id, n, ids, leaves, salts)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
			s.seq, s.table, from, to, s.block, s.set.IDs.Min(), s.set.IDs.Max(), s.set.IDs.Len(), s.set.IDs.Encode(), s.set.Leaves, s.set.Salts)
	}
	for _, x := range w.expired {
		b.Queue(`INSERT INTO auditdb.expired (seq, leaf_seq, n, ids) VALUES ($1, $2, $3, $4)`, x.seq, x.leaf, x.ids.Len(), x.ids.Encode())
	}
	if len(w.redacted) > 0 {
		w.queueRedacted(b)
	}
	b.Queue(`INSERT INTO auditdb.checkpoint (size, root, note) VALUES ($1, $2, $3)`, w.checkpoint.Size, w.root[:], w.checkpoint.Note)
}

func (w *writer) queueRedacted(b *pgx.Batch) {
	n := len(w.redacted)
	tables, seqs, ids, commits := make([]int16, n), make([]int64, n), make([]int64, n), make([][]byte, n)
	for i, r := range w.redacted {
		tables[i], seqs[i], ids[i], commits[i] = r.table, r.seq, r.ID, r.Commit[:]
	}
	b.Queue(`INSERT INTO auditdb.redaction (table_id, id, seq, pers_commit)
SELECT t, i, s, c FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::bytea[]) u(t, i, s, c)`, tables, ids, seqs, commits)
}

// readGenesis reads what names this server and database.
func readGenesis(ctx context.Context, tx pgx.Tx) (Genesis, error) {
	server, err := readIdentity(ctx, tx)
	if err != nil {
		return Genesis{}, err
	}
	g := Genesis{System: server.system, Timeline: server.timeline}
	if err := tx.QueryRow(ctx, "SELECT current_database()").Scan(&g.Database); err != nil {
		return g, fmt.Errorf("read the database's name: %w", err)
	}
	return g, nil
}

// timestamps returns the range as auditdb.leaf and auditdb.log_partition store it.
func (r Range) timestamps() (from, to pgtype.Timestamptz) {
	from, to = pgtype.Timestamptz{Valid: true, Time: r.From}, pgtype.Timestamptz{Valid: true, Time: r.To}
	if r.FromMin || r.Default {
		from = pgtype.Timestamptz{Valid: true, InfinityModifier: pgtype.NegativeInfinity}
	}
	if r.ToMax || r.Default {
		to = pgtype.Timestamptz{Valid: true, InfinityModifier: pgtype.Infinity}
	}
	return from, to
}

// IsEmpty tells, under the log's lock, that nothing has been logged yet: until then partitions change without a key. The lock is
// shared and held until the end of the transaction, so no genesis can overlook what the transaction did.
func IsEmpty(ctx context.Context, tx pgx.Tx) (bool, error) {
	if _, err := tx.Exec(ctx, "SELECT set_config('lock_timeout', '60s', true), pg_advisory_xact_lock_shared($1)", postgres.LockKey(logLock)); err != nil {
		return false, fmt.Errorf("lock the integrity log: %w", err)
	}
	var empty bool
	err := tx.QueryRow(ctx, "SELECT NOT EXISTS (SELECT FROM auditdb.log)").Scan(&empty)
	return empty, err
}

// Exists tells whether the database has auditdb's own schema.
func Exists(ctx context.Context, q Querier) (bool, error) {
	var ok bool
	err := q.QueryRow(ctx, "SELECT to_regclass('auditdb.log') IS NOT NULL AND to_regclass('auditdb.leaf') IS NOT NULL").Scan(&ok)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return ok, err
}
