// Package postgres is the only place that opens connections to PostgreSQL: session settings, locks, transactions, retries, SQLSTATE classes.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"auditdb/internal/fault"
)

const (
	defaultMaxConns       = 8
	defaultConnectTimeout = 10 * time.Second
	cleanupTimeout        = 5 * time.Second // rollback, unlock and close after the caller's context has ended
)

// Options say where to connect and under which session settings.
type Options struct {
	URL              string        // libpq URL or keyword string; empty: PG* environment, service and password files
	Application      string        // becomes application_name "auditdb/<Application>"
	MaxConns         int32         // pool size; 0: pool_max_conns of the URL, else 8
	StatementTimeout time.Duration // 0: none
	LockTimeout      time.Duration // one attempt at a lock, advisory transaction locks included; 0: none
	ConnectTimeout   time.Duration // 0: 10 s, unless the URL has connect_timeout
	WaitForDB        time.Duration // keep trying to connect this long while the server starts
	ReadOnly         bool          // any host of a multi-host URL will do; otherwise a primary is preferred
	Log              *slog.Logger  // nil: no log
}

// DB is an open database: a pool whose every connection has the session settings of this package.
type DB struct {
	pool       *pgxpool.Pool
	opts       Options
	poolConfig *pgxpool.Config
	config     *pgx.ConnConfig // the pool's
	pooling    Pooling
	searchPath atomic.Pointer[string]
	queue      queue
	room       atomic.Int64 // connections that the server could give when the first one was made; 0: not known
	wires      wires
	strangers  atomic.Bool // a connection's backend was not the one that greeted us: a pooler sits in between
}

// Open connects and pings. An error has class config (a URL that cannot be read) or unavailable, and never shows the password. A server that hangs does
// not keep it past the end of the context.
func Open(ctx context.Context, o Options) (*DB, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	config, err := parseConfig(o)
	if err != nil {
		return nil, err
	}
	db := &DB{opts: o, poolConfig: config, config: config.ConnConfig}
	db.config.Tracer = tracer(ctx, &db.queue, o.Log)
	db.config.DialFunc = db.wires.dial(db.config.DialFunc)
	stop := context.AfterFunc(ctx, db.Abort)
	err = db.open(ctx)
	if !stop() && err == nil {
		db.Close()
		err = db.connectFault(ctx, ctx.Err())
	}
	if err != nil {
		return nil, err
	}
	return db, nil
}

// open makes the pool that fits what is at the other end.
func (db *DB) open(ctx context.Context) error {
	err := db.openPool(ctx)
	if errors.Is(err, errStandby) { // no host is a primary: reads work, and changes are refused with the reason
		db.config.ValidateConnect = nil
		err = db.openPool(ctx)
	}
	if err != nil {
		return err
	}
	if !db.strangers.Load() {
		if db.fits(ctx) {
			return nil
		}
		db.pool.Close()
		return db.openPool(ctx)
	}
	// Nothing was set yet on the pooler's servers: other applications may share them.
	db.pool.Close()
	db.pool = nil
	if db.pooling, err = detectPooling(ctx, db); err != nil {
		return err
	}
	db.opts.Log.LogAttrs(ctx, slog.LevelDebug, "connection pooler in between", slog.String("pooling", db.pooling.String()))
	if db.pooling == PoolingTransaction {
		db.config.DefaultQueryExecMode = pgx.QueryExecModeExec // prepared statements stay behind on the pooler's servers
		db.config.StatementCacheCapacity, db.config.DescriptionCacheCapacity = 0, 0
	}
	return db.openPool(ctx)
}

func (db *DB) openPool(ctx context.Context) error {
	poolConfig := db.poolConfig.Copy()
	poolConfig.AfterConnect = db.prepareSession
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return fault.New(fault.Config, "", "make a connection pool: %w", err)
	}
	if err := db.awaitServer(ctx, pool); err != nil {
		pool.Close()
		return err
	}
	db.pool = pool
	return nil
}

// reach makes the pool's first connection, which the server has answered on by then.
func reach(ctx context.Context, pool *pgxpool.Pool) error {
	conn, err := pool.Acquire(ctx)
	if err == nil {
		conn.Release()
	}
	return err
}

// awaitServer connects until the server answers, an error is final, or Options.WaitForDB is over.
func (db *DB) awaitServer(ctx context.Context, pool *pgxpool.Pool) error {
	err := reach(ctx, pool)
	if err == nil {
		return nil
	}
	if db.opts.WaitForDB <= 0 || !isStarting(err) {
		return db.connectFault(ctx, err)
	}
	waitCtx, cancel := context.WithTimeout(ctx, db.opts.WaitForDB)
	defer cancel()
	for try := 0; ; try++ {
		if !pause(waitCtx, jitter(try, 50*time.Millisecond, time.Second)) {
			return db.connectFault(ctx, err)
		}
		again := reach(waitCtx, pool)
		if again == nil {
			return nil
		}
		if waitCtx.Err() == nil {
			err = again
		}
		if !isStarting(err) {
			return db.connectFault(ctx, err)
		}
	}
}

// Close ends all connections.
func (db *DB) Close() {
	if db.pool != nil {
		db.pool.Close()
	}
}

// Pool gives the pool for queries that need no transaction. Who finds it empty waits in a queue, first come, first served, until its context
// ends: so nobody may ask for a connection while holding one, where many do so at once.
func (db *DB) Pool() *pgxpool.Pool { return db.pool }

// Log gives the logger that the database was opened with; it is never nil.
func (db *DB) Log() *slog.Logger { return db.opts.Log }

// UserSearchPath is the search_path that the connected role would have had without this package, which empties it.
// A name that a user typed is resolved under it: SELECT set_config('search_path', $1, true) in a transaction, then to_regclass.
func (db *DB) UserSearchPath() string {
	if p := db.searchPath.Load(); p != nil {
		return *p
	}
	return ""
}

// Connect opens one dedicated connection outside the pool with the same session settings, for locks and for COPY workers.
// The caller closes it.
func (db *DB) Connect(ctx context.Context) (*pgx.Conn, error) {
	return db.connect(ctx, db.config.Copy())
}

func (db *DB) connect(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, db.connectFault(ctx, err)
	}
	if err := db.prepareSession(ctx, conn); err != nil {
		closeConn(ctx, conn)
		return nil, db.connectFault(ctx, err)
	}
	return conn, nil
}

// Tx runs fn in a READ COMMITTED transaction, commits when it returns nil, and otherwise rolls back even when ctx has ended.
// An error at COMMIT may mean that the transaction was committed and only the answer was lost: never repeat it blindly.
func (db *DB) Tx(ctx context.Context, fn func(pgx.Tx) error) error {
	return db.TxWith(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, fn)
}

// TxWith is Tx with other transaction options, e.g. a REPEATABLE READ READ ONLY snapshot.
func (db *DB) TxWith(ctx context.Context, o pgx.TxOptions, fn func(pgx.Tx) error) (err error) {
	tx, err := db.pool.BeginTx(ctx, o)
	if err != nil {
		return db.noted(err)
	}
	finished := false
	defer func() {
		if finished {
			return
		}
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		if back := tx.Rollback(undo); back != nil && !errors.Is(back, pgx.ErrTxClosed) {
			db.opts.Log.LogAttrs(ctx, slog.LevelDebug, "rollback", slog.String("sqlstate", SQLState(back)))
		}
	}()
	if db.pooling == PoolingTransaction {
		if err := db.localSession(ctx, tx); err != nil {
			return db.noted(err)
		}
	}
	if o.AccessMode == pgx.ReadOnly {
		fn = readOnly(fn)
	}
	if err := fn(tx); err != nil {
		return db.noted(err)
	}
	finished = true // Commit ends the transaction whatever it returns
	return db.noted(tx.Commit(ctx))
}

// readOnly marks the connection while fn has it: that a statement cannot write there says nothing about the server, see keepAfter.
func readOnly(fn func(pgx.Tx) error) func(pgx.Tx) error {
	return func(tx pgx.Tx) error {
		data := tx.Conn().PgConn().CustomData()
		data[askedReadOnly] = true
		defer delete(data, askedReadOnly)
		return fn(tx)
	}
}

// noted drops the pool's connections after an error which says that their server is no primary any more, so that the next
// acquire looks for the new one.
func (db *DB) noted(err error) error {
	if SQLState(err) == ReadOnlySQLTransaction {
		db.pool.Reset()
	}
	return err
}

func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	_ = conn.Close(ctx) // the server ends the session either way
}

// SQL gives a database/sql handle with the same session settings, for libraries that want one. role not "": every connection does
// SET ROLE first. The caller closes it.
func (db *DB) SQL(role string) *sql.DB {
	return stdlib.OpenDB(*db.config.Copy(), stdlib.OptionAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
		if err := db.prepareSession(ctx, conn); err != nil {
			return err
		}
		if role == "" {
			return nil
		}
		_, err := conn.Exec(ctx, "SET ROLE "+pgx.Identifier{role}.Sanitize())
		return err
	}))
}
