package postgres

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"auditdb/internal/fault"
)

const (
	lockFirstPause = 20 * time.Millisecond
	lockMaxPause   = 250 * time.Millisecond
	lockPing       = 15 * time.Second // finds a network that swallows everything
	lockPingLimit  = 10 * time.Second
)

// Lock is a session advisory lock on a connection of its own, which has no open transaction.
type Lock struct {
	release func()
	lost    chan struct{}
}

// LockHolder names who has a lock.
type LockHolder struct {
	PID         int // 0: a prepared transaction
	Application string
	User        string
	Client      string    // address, "" for a local socket
	Since       time.Time // when its session started; zero: not allowed to look
}

// LockKey gives the advisory lock key of a name: the FNV-1a hash (64 bits) of "auditdb:" and the name.
func LockKey(name string) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte("auditdb:" + name)) // never fails
	return int64(h.Sum64())                   //nolint:gosec // all 64 bits are the key
}

// Lock takes the advisory lock called name, waiting up to wait (0: not at all); then a fault.Locked error names the holder.
// It polls: a session that waits inside the server would hold a snapshot, for which the holder's own CONCURRENTLY work waits.
func (db *DB) Lock(ctx context.Context, name string, wait time.Duration) (*Lock, error) {
	if db.pooling == PoolingTransaction {
		return nil, fault.New(fault.Config, "connect to the server itself or to a session-mode pool", "lock %s: %s is a transaction-pooled connection, where session locks do not hold", name, db.Target())
	}
	conn, err := db.lockConn(ctx)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	if conn.PgConn().ParameterStatus("in_hot_standby") == "on" {
		closeConn(ctx, conn)
		return nil, fault.New(fault.Unavailable, "name the primary, or all hosts in one URL (postgres://host1,host2/database)", "lock %s: %s is a hot standby, which cannot be changed", name, db.Target())
	}
	if err := db.poll(ctx, conn, name, wait); err != nil {
		closeConn(ctx, conn)
		return nil, err
	}
	return db.hold(ctx, conn, name), nil
}

// lockConn connects without cancel requests: the watch on the connection is interrupted often, and a late cancel could hit the
// statement after it.
func (db *DB) lockConn(ctx context.Context) (*pgx.Conn, error) {
	config := db.config.Copy()
	config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.DeadlineContextWatcherHandler{Conn: conn.Conn()}
	}
	return db.connect(ctx, config)
}

func (db *DB) poll(ctx context.Context, conn *pgx.Conn, name string, wait time.Duration) error {
	waitCtx, cancel := context.WithTimeout(ctx, Patience(ctx, wait))
	defer cancel()
	told := false
	for try := 0; ; try++ {
		var got bool
		if err := conn.QueryRow(ctx, tryLockSQL, LockKey(name)).Scan(&got); err != nil {
			return fmt.Errorf("lock %s: %w", name, err)
		}
		if got {
			return nil
		}
		if !told {
			told = true
			db.opts.Log.LogAttrs(ctx, slog.LevelInfo, "waiting for another run", slog.String("lock", name), slog.String("holder", db.describeHolders(ctx, conn, name)))
		}
		if !pause(waitCtx, jitter(try, lockFirstPause, lockMaxPause)) {
			if ctx.Err() != nil {
				return fmt.Errorf("lock %s: %w", name, context.Cause(ctx))
			}
			return fault.New(fault.Locked, "wait for that run to end, or allow more time with --wait", "lock %s: held by %s", name, db.describeHolders(ctx, conn, name))
		}
	}
}

func (db *DB) describeHolders(ctx context.Context, conn *pgx.Conn, name string) string {
	holders, err := lockHolders(ctx, conn, name)
	if err != nil {
		return "another session (" + oneLine(err.Error()) + ")"
	}
	if len(holders) == 0 {
		return "another session that has just ended"
	}
	texts := make([]string, len(holders))
	for i, h := range holders {
		texts[i] = h.String()
	}
	return strings.Join(texts, "; ")
}

// String is how an error names a holder.
func (h LockHolder) String() string {
	if h.PID == 0 {
		return "a prepared transaction (see pg_prepared_xacts)"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "pid %d", h.PID)
	if h.Application != "" {
		fmt.Fprintf(&b, " (%s)", oneLine(h.Application))
	}
	if h.User != "" {
		b.WriteString(" of user " + h.User)
	}
	if h.Client != "" {
		b.WriteString(" from " + h.Client)
	}
	if !h.Since.IsZero() {
		b.WriteString(" since " + h.Since.UTC().Format(time.RFC3339))
	}
	return b.String()
}

// Holders says who has the advisory lock called name at the moment.
func (db *DB) Holders(ctx context.Context, name string) ([]LockHolder, error) {
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for the holder of lock %s: %w", name, err)
	}
	defer conn.Release()
	return lockHolders(ctx, conn.Conn(), name)
}

func lockHolders(ctx context.Context, conn *pgx.Conn, name string) ([]LockHolder, error) {
	rows, err := conn.Query(ctx, lockHoldersSQL, LockKey(name))
	if err != nil {
		return nil, fmt.Errorf("look for the holder of lock %s: %w", name, err)
	}
	holders, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (LockHolder, error) {
		var h LockHolder
		var since *time.Time
		err := row.Scan(&h.PID, &h.Application, &h.User, &h.Client, &since)
		if since != nil {
			h.Since = *since
		}
		return h, err
	})
	if err != nil {
		return nil, fmt.Errorf("look for the holder of lock %s: %w", name, err)
	}
	return holders, nil
}

// hold watches the connection until Release.
func (db *DB) hold(ctx context.Context, conn *pgx.Conn, name string) *Lock {
	ctx = context.WithoutCancel(ctx)
	watchCtx, stop := context.WithCancel(ctx)
	lost, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		if err := watch(watchCtx, conn); err != nil {
			db.opts.Log.LogAttrs(ctx, slog.LevelWarn, "lock lost", slog.String("lock", name), slog.String("cause", oneLine(err.Error())))
			close(lost)
		}
	}()
	var once sync.Once
	return &Lock{lost: lost, release: func() {
		once.Do(func() {
			stop()
			<-watched
			unlockCtx, cancel := context.WithTimeout(ctx, cleanupTimeout)
			defer cancel()
			var mine bool
			// Unlocking first makes the lock free when Release returns; closing alone frees it a little later.
			if err := conn.QueryRow(unlockCtx, unlockSQL, LockKey(name)).Scan(&mine); err != nil || !mine {
				db.opts.Log.LogAttrs(ctx, slog.LevelDebug, "unlock", slog.String("lock", name), slog.Bool("held", mine), slog.String("sqlstate", SQLState(err)))
			}
			closeConn(unlockCtx, conn)
		})
	}}
}

// watch reads from the idle connection, so that its end is seen at once, and asks for an answer now and then. It returns nil
// when ctx ends and an error when the connection has.
func watch(ctx context.Context, conn *pgx.Conn) error {
	for {
		quiet, cancel := context.WithTimeout(ctx, lockPing)
		_, err := conn.WaitForNotification(quiet)
		expired := quiet.Err() != nil
		cancel()
		if ctx.Err() != nil {
			return nil //nolint:nilerr // Release stopped the watch
		}
		if err != nil && (!expired || conn.IsClosed()) {
			return err
		}
		if !expired {
			continue
		}
		ping, cancel := context.WithTimeout(ctx, lockPingLimit)
		err = conn.Ping(ping)
		cancel()
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// Release gives the lock up, also when ctx was cancelled; it is safe to call twice.
func (l *Lock) Release() { l.release() }

// Lost is closed when the lock's connection has died, after which nothing may rely on the lock.
func (l *Lock) Lost() <-chan struct{} { return l.lost }

// ErrLockLost is the cause of a context that Guard ended. It has class unavailable.
var ErrLockLost = fault.New(fault.Unavailable, "run it again: it goes on from what is there", "the connection that held the lock was lost")

// LockLost gives err, of work under a context of Guard, its cause when that is the lost lock: what such work says by itself is only that
// it was cancelled. The rest of err stays in the message.
func LockLost(guarded context.Context, err error) error {
	switch {
	case err == nil || !errors.Is(context.Cause(guarded), ErrLockLost):
		return err
	case errors.Is(err, ErrLockLost):
		return fault.New(fault.Unavailable, fault.HintOf(ErrLockLost), "%w", err)
	}
	return fmt.Errorf("%w (%v)", ErrLockLost, err) //nolint:errorlint // its class must not count
}

// Guard gives a context that ends with ErrLockLost as its cause when the lock is lost. Call the function when done.
func (l *Lock) Guard(ctx context.Context) (context.Context, context.CancelFunc) {
	guarded, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-l.lost:
			cancel(ErrLockLost)
		case <-guarded.Done():
		}
	}()
	return guarded, func() { cancel(nil) }
}

type patienceKey struct{}

// WithPatience makes all waiting for locks under the returned context share one budget: Lock and DDL wait no longer than is left.
func WithPatience(ctx context.Context, wait time.Duration) context.Context {
	bounded, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	until, _ := bounded.Deadline()
	return context.WithValue(ctx, patienceKey{}, until)
}

// Patience is the part of wait that the context's budget still allows.
func Patience(ctx context.Context, wait time.Duration) time.Duration {
	if until, ok := ctx.Value(patienceKey{}).(time.Time); ok {
		wait = min(wait, time.Until(until))
	}
	return max(wait, 0)
}
