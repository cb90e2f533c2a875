package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// Pooling says what kind of connection pooler, if any, is between this program and the server.
type Pooling int

// The kinds of pooling.
const (
	PoolingNone        Pooling = iota
	PoolingSession             // a server connection belongs to a client until it disconnects
	PoolingTransaction         // each transaction may run on another server connection
)

func (p Pooling) String() string {
	return [...]string{"none", "session", "transaction"}[p]
}

// Pooling says what is between this program and the server, as found by Open.
func (db *DB) Pooling() Pooling { return db.pooling }

const (
	poolingRounds  = 6
	poolingHolders = 2
	poolingTimeout = 2 * time.Second // a session pool that is used up makes its clients wait: that is no transaction pool
)

// IsTransactionPooled says whether conn's statements run on changing server connections. db opens a few more connections,
// whose transactions occupy servers, so that a transaction pooler has to give conn another one.
func (db *DB) IsTransactionPooled(ctx context.Context, conn *pgx.Conn) (bool, error) {
	first, err := backendPID(ctx, conn)
	if err != nil {
		return false, err
	}
	if first == conn.PgConn().PID() {
		return false, nil // the backend that greeted us answers: nothing is in between
	}
	for range poolingRounds {
		pooled, exhausted, err := db.poolingRound(ctx, conn, first)
		if pooled || exhausted || err != nil {
			return pooled, err
		}
	}
	return false, nil
}

// poolingRound occupies servers and looks whether that takes conn's away. exhausted: the pooler had no server left to give and still
// kept conn's.
func (db *DB) poolingRound(ctx context.Context, conn *pgx.Conn, first uint32) (pooled, exhausted bool, err error) {
	for range poolingHolders {
		holder, pid, err := db.holdBackend(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return false, false, err
			}
			exhausted = true
			break
		}
		defer closeConn(ctx, holder)
		if pid == first {
			return true, false, nil // conn is still connected, and its server serves another
		}
	}
	probe, cancel := context.WithTimeout(ctx, poolingTimeout)
	defer cancel()
	again, err := backendPID(probe, conn)
	if err != nil {
		if probe.Err() != nil && ctx.Err() == nil {
			return true, exhausted, nil // its server was given away
		}
		return false, exhausted, err
	}
	return again != first, exhausted, nil
}

// holdBackend opens a transaction on a new connection and says which backend serves it.
func (db *DB) holdBackend(ctx context.Context) (*pgx.Conn, uint32, error) {
	ctx, cancel := context.WithTimeout(ctx, poolingTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, db.config.Copy())
	if err != nil {
		return nil, 0, err
	}
	results, err := conn.PgConn().Exec(ctx, "BEGIN;"+backendPIDSQL).ReadAll()
	if err == nil && (len(results) < 2 || len(results[1].Rows) != 1) {
		err = errNoAnswer
	}
	if err != nil {
		closeConn(ctx, conn)
		return nil, 0, err
	}
	return conn, parsePID(results[1].Rows[0][0]), nil
}

func detectPooling(ctx context.Context, db *DB) (Pooling, error) {
	conn, err := pgx.ConnectConfig(ctx, db.config.Copy())
	if err != nil {
		return PoolingNone, db.connectFault(ctx, err)
	}
	defer closeConn(ctx, conn)
	pooled, err := db.IsTransactionPooled(ctx, conn)
	if err != nil {
		return PoolingNone, db.connectFault(ctx, err)
	}
	if pooled {
		return PoolingTransaction, nil
	}
	return PoolingSession, nil
}

var errNoAnswer = errors.New("the server gave no answer")

func backendPID(ctx context.Context, conn *pgx.Conn) (uint32, error) {
	results, err := conn.PgConn().Exec(ctx, backendPIDSQL).ReadAll()
	if err != nil {
		return 0, err
	}
	if len(results) == 0 || len(results[0].Rows) != 1 {
		return 0, errNoAnswer
	}
	return parsePID(results[0].Rows[0][0]), nil
}

func parsePID(text []byte) uint32 {
	pid := uint32(0)
	for _, c := range text {
		pid = pid*10 + uint32(c-'0')
	}
	return pid
}
