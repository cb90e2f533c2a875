package postgres

import (
	"context"
	"log/slog"
	"math"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// PoolStat is how busy the pool is, and has been.
type PoolStat struct {
	*pgxpool.Stat
	Waiting     int64         // callers that are waiting for a connection now, first come, first served
	LongestWait time.Duration // of any caller so far, those who gave up included
}

// Stat gives the pool's figures.
func (db *DB) Stat() PoolStat {
	return PoolStat{Stat: db.pool.Stat(), Waiting: db.queue.waiting.Load(), LongestWait: time.Duration(db.queue.longest.Load())}
}

// queue counts who waits for a connection, which the pool itself does not tell. It traces nothing else.
type queue struct {
	waiting, longest atomic.Int64
}

type waitsSince struct{}

// TraceAcquireStart notes when the wait began.
func (q *queue) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData) context.Context {
	q.waiting.Add(1)
	return context.WithValue(ctx, waitsSince{}, time.Now()) //nolint:forbidigo // measures, and decides nothing
}

// TraceAcquireEnd notes how long the wait was.
func (q *queue) TraceAcquireEnd(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireEndData) {
	q.waiting.Add(-1)
	since, ok := ctx.Value(waitsSince{}).(time.Time)
	if !ok {
		return
	}
	took := int64(time.Since(since))
	for {
		longest := q.longest.Load()
		if took <= longest || q.longest.CompareAndSwap(longest, took) {
			return
		}
	}
}

// TraceQueryStart does nothing: a tracer has to have it.
func (*queue) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

// TraceQueryEnd does nothing.
func (*queue) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

const (
	leastConns = 2 // a pool is not cut down below: some work needs a second one while it holds the first
	lockConns  = 1 // connections beside the pool's, see Connect
)

// noteRoom keeps what the server has said about how many connections it can still give.
func (db *DB) noteRoom(result *pgconn.Result) {
	if len(result.Rows) != 1 {
		return
	}
	if n, err := strconv.ParseInt(string(result.Rows[0][0]), 10, 32); err == nil {
		db.room.Store(max(n, 1))
	}
}

// fits says whether the server can give as many connections as the pool may open. Where not, the next pool is smaller: its callers then wait
// for one of its connections, instead of failing because there is no other to be had.
func (db *DB) fits(ctx context.Context) bool {
	known := db.room.Load()
	room := int32(min(max(known-lockConns, leastConns), math.MaxInt32))
	if known == 0 || db.poolConfig.MaxConns <= room {
		return true
	}
	db.opts.Log.LogAttrs(ctx, slog.LevelDebug, "the server has no more connections to give", slog.Int("wanted", int(db.poolConfig.MaxConns)), slog.Int("pool", int(room)))
	db.poolConfig.MaxConns = room
	db.poolConfig.MinConns, db.poolConfig.MinIdleConns = min(db.poolConfig.MinConns, room), min(db.poolConfig.MinIdleConns, room)
	return false
}
