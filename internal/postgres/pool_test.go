package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/embedded"
	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
)

// A thousand callers share twenty connections: all are served, the server never sees more, and those who wait cost little memory.
func TestPoolServesAThousand(t *testing.T) {
	t.Parallel()
	const callers, each, conns = 1000, 5, 20
	address := pgtest.Empty(t)
	db := open(t, postgres.Options{URL: address, Application: "thousand", MaxConns: conns})
	watcher := open(t, postgres.Options{URL: address, Application: "watcher", MaxConns: 1})
	var before, during runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var served [callers]atomic.Int32
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for n := range each {
				var got int
				err := db.Tx(t.Context(), func(tx pgx.Tx) error { return tx.QueryRow(t.Context(), `SELECT $1::int`, i+n).Scan(&got) })
				if err != nil || got != i+n {
					t.Errorf("%d: %v", got, err)
					return
				}
				served[i].Add(1)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		wg.Wait()
	}()
	most, waiting, memory := 0, int64(0), uint64(0)
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		default:
		}
		var n int
		if err := watcher.Pool().QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'auditdb/thousand'`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&during)
		most, waiting, memory = max(most, n), max(waiting, db.Stat().Waiting), max(memory, during.HeapInuse+during.StackInuse)
	}
	for i := range served {
		if n := served[i].Load(); n != each {
			t.Errorf("caller %d was served %d times", i, n)
		}
	}
	if most > conns || most == 0 {
		t.Errorf("%d connections", most)
	}
	if waiting < callers/2 {
		t.Errorf("only %d were seen waiting", waiting)
	}
	if grown := int64(memory) - int64(before.HeapInuse+before.StackInuse); grown > 64<<20 {
		t.Errorf("memory has grown by %d MB", grown>>20)
	}
	s := db.Stat()
	if s.Waiting != 0 || s.AcquiredConns() != 0 || s.MaxConns() != conns || s.AcquireCount() < callers*each || s.EmptyAcquireCount() == 0 || s.LongestWait <= 0 {
		t.Errorf("afterwards %d wait, %d of %d in use, %d acquired, %d waited, %s at most", s.Waiting, s.AcquiredConns(), s.MaxConns(), s.AcquireCount(), s.EmptyAcquireCount(), s.LongestWait)
	}
}

// Who has waited longest is next, also while others come back again and again.
func TestPoolIsFair(t *testing.T) {
	t.Parallel()
	db := open(t, postgres.Options{URL: pgtest.Empty(t), MaxConns: 2})
	var held []interface{ Release() }
	for range 2 {
		c, err := db.Pool().Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	const callers = 50
	var mu sync.Mutex
	var order []int
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			c, err := db.Pool().Acquire(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			order = append(order, i)
			mu.Unlock()
			c.Release()
		})
		eventually(t, fmt.Sprintf("%d wait", i+1), func() bool { return db.Stat().Waiting == int64(i+1) && queued(t.Name()) == i+1 })
	}
	held[0].Release() // one connection is left, so that the order can be seen
	wg.Wait()
	if !slices.IsSorted(order) || len(order) != callers {
		t.Errorf("served in the order %v", order)
	}
	// The greedy take a connection again as soon as they have given it back; a newcomer waits for those before him only.
	stop := make(chan struct{})
	var turns atomic.Int64
	for range 10 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := db.Pool().Exec(t.Context(), `SELECT 1`); err != nil {
					t.Error(err)
					return
				}
				turns.Add(1)
			}
		})
	}
	eventually(t, "the greedy queue", func() bool { return turns.Load() > 20 && db.Stat().Waiting > 5 })
	for range 20 {
		if _, err := db.Pool().Exec(t.Context(), `SELECT 1`); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	held[1].Release()
}

// queued counts the goroutines of a test that have taken their place in the queue: those that are on their way there wait already, but the order
// among them is open.
func queued(test string) (n int) {
	stacks := make([]byte, 4<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for _, one := range bytes.Split(stacks, []byte("\n\n")) {
		if bytes.Contains(one, []byte("[select")) && bytes.Contains(one, []byte("semaphore.(*Weighted).Acquire(")) && bytes.Contains(one, []byte(test+".")) {
			n++
		}
	}
	return n
}

// A caller whose time is over leaves the queue, is told so, and takes nobody's place.
func TestPoolGivesUp(t *testing.T) {
	t.Parallel()
	db := open(t, postgres.Options{URL: pgtest.Empty(t), MaxConns: 1})
	c, err := db.Pool().Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			err := db.Tx(ctx, func(pgx.Tx) error { return errors.New("was served") })
			if !errors.Is(err, context.DeadlineExceeded) || postgres.Class(err) != fault.Timeout {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if s := db.Stat(); s.Waiting != 0 || s.CanceledAcquireCount() != 100 || s.LongestWait < 20*time.Millisecond {
		t.Errorf("%d wait, %d gave up, %s at most", s.Waiting, s.CanceledAcquireCount(), s.LongestWait)
	}
	c.Release()
	if _, err := db.Pool().Exec(t.Context(), `SELECT 1`); err != nil {
		t.Error(err)
	}
}

// A pool that is larger than what the server, the database or the user has left is made as large as that, but for a connection that locks may need: nobody fails for want of a connection.
func TestPoolFitsTheServer(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, func(o *embedded.Options) {
		o.Settings = map[string]string{"max_connections": "16", "superuser_reserved_connections": "3"}
	})
	address := server.URL("postgres")
	admin := open(t, postgres.Options{URL: address, Application: "admin", MaxConns: 1})
	run(t, admin, `CREATE ROLE small LOGIN CONNECTION LIMIT 4`, `CREATE ROLE free LOGIN`, `CREATE DATABASE narrow CONNECTION LIMIT 6`)
	for range 4 {
		c, err := admin.Connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close(t.Context()) }()
	}
	for name, of := range map[string]struct {
		address string
		want    int32
	}{
		"server":   {as(t, address, "free", ""), 16 - 3 - 5 - 1},
		"user":     {as(t, address, "small", ""), 4 - 1},
		"database": {as(t, server.URL("narrow"), "free", ""), 6 - 1},
	} {
		db, err := postgres.Open(t.Context(), postgres.Options{URL: of.address, Application: name, MaxConns: 50})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				if _, err := db.Pool().Exec(t.Context(), `SELECT pg_sleep(0.001)`); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if s := db.Stat(); s.MaxConns() != of.want || s.TotalConns() == 0 {
			t.Errorf("%s: %d connections, %d are open", name, s.MaxConns(), s.TotalConns())
		}
		db.Close()
		eventually(t, "its sessions end", func() bool {
			var n int
			if err := admin.Pool().QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE application_name = $1`, "auditdb/"+name).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n == 0
		})
	}
}
