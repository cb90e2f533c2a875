package postgres_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
)

func TestLockKey(t *testing.T) {
	t.Parallel()
	// Other programs and older versions of this one use the same keys.
	if got := postgres.LockKey("log"); got != logKey {
		t.Errorf("key of the log is %d", got)
	}
}

func TestLockExcludesAndNamesHolder(t *testing.T) {
	t.Parallel()
	address := pgtest.Empty(t)
	a := open(t, postgres.Options{URL: address, Application: "partition.create"})
	b := open(t, postgres.Options{URL: address, Application: "retention.run"})
	lock, err := a.Lock(t.Context(), "partition:1", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, wait := range []time.Duration{0, 300 * time.Millisecond} {
		_, err = b.Lock(t.Context(), "partition:1", wait)
		wantClass(t, err, fault.Locked)
		for _, part := range []string{"partition:1", "auditdb/partition.create", "pid ", "user postgres", "since 20"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q does not say %q", err, part)
			}
		}
	}
	other, err := b.Lock(t.Context(), "partition:2", 0)
	if err != nil {
		t.Fatal(err)
	}
	other.Release()

	taken := make(chan error, 1)
	go func() {
		lock, err := b.Lock(t.Context(), "partition:1", time.Minute)
		if err == nil {
			lock.Release()
		}
		taken <- err
	}()
	lock.Release()
	lock.Release()
	if err := <-taken; err != nil {
		t.Fatal(err)
	}
	again, err := a.Lock(t.Context(), "partition:1", 0)
	if err != nil {
		t.Fatalf("free lock: %v", err)
	}
	again.Release()
	select {
	case <-lock.Lost():
		t.Error("a released lock counts as lost")
	default:
	}
}

func TestLockHeldByPreparedTransaction(t *testing.T) {
	t.Parallel()
	address := pgtest.Empty(t)
	db := open(t, postgres.Options{URL: address})
	conn, err := db.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	if _, err := conn.Exec(t.Context(), `BEGIN`); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `SELECT pg_advisory_xact_lock($1)`, postgres.LockKey("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `PREPARE TRANSACTION 'held'`); err != nil {
		t.Fatal(err)
	}
	_, err = db.Lock(t.Context(), "x", 0)
	wantClass(t, err, fault.Locked)
	if !strings.Contains(err.Error(), "prepared transaction") {
		t.Error(err)
	}
	run(t, db, `ROLLBACK PREPARED 'held'`)
}

func TestLockReleaseAfterCancel(t *testing.T) {
	t.Parallel()
	db := open(t, postgres.Options{URL: pgtest.Empty(t)})
	ctx, cancel := context.WithCancel(t.Context())
	lock, err := db.Lock(ctx, "x", 0)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	lock.Release()
	again, err := db.Lock(t.Context(), "x", 0) // no waiting: Release unlocked before it closed
	if err != nil {
		t.Fatal(err)
	}
	defer again.Release()
	waiting, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	_, err = db.Lock(waiting, "x", time.Minute)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ended context: %v", err)
	}
}

func TestLockLost(t *testing.T) {
	t.Parallel()
	db := open(t, postgres.Options{URL: pgtest.Empty(t)})
	lock, err := db.Lock(t.Context(), "x", 0)
	if err != nil {
		t.Fatal(err)
	}
	guarded, cancel := lock.Guard(t.Context())
	defer cancel()
	holders, err := db.Holders(t.Context(), "x")
	if err != nil || len(holders) != 1 {
		t.Fatalf("%v, %v", holders, err)
	}
	if _, err := db.Pool().Exec(t.Context(), `SELECT pg_terminate_backend($1)`, holders[0].PID); err != nil {
		t.Fatal(err)
	}
	select {
	case <-lock.Lost():
	case <-time.After(20 * time.Second):
		t.Fatal("not noticed")
	}
	<-guarded.Done()
	if !errors.Is(context.Cause(guarded), postgres.ErrLockLost) {
		t.Errorf("cause: %v", context.Cause(guarded))
	}
	_, err = db.Pool().Exec(guarded, `SELECT 1`)
	for _, err := range []error{err, context.Cause(guarded), fault.New(fault.Locked, "wait", "while: %w", context.Cause(guarded)), errors.New("something else")} {
		lost := postgres.LockLost(guarded, err)
		if !errors.Is(lost, postgres.ErrLockLost) || postgres.Class(lost) != fault.Unavailable || !strings.Contains(fault.HintOf(lost), "run it again") || !strings.Contains(lost.Error(), err.Error()) {
			t.Errorf("%v: class %q, hint %q", lost, postgres.Class(lost), fault.HintOf(lost))
		}
	}
	if err := postgres.LockLost(guarded, nil); err != nil {
		t.Errorf("done all the same: %v", err)
	}
	if err := postgres.LockLost(t.Context(), context.Canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("another cause: %v", err)
	}
	lock.Release()
}

// The connection that holds or waits for a lock has no open transaction and no snapshot, which would hold up CONCURRENTLY and VACUUM.
func TestLockHoldsNoSnapshot(t *testing.T) {
	t.Parallel()
	address := pgtest.Empty(t)
	db := open(t, postgres.Options{URL: address, Application: "holder"})
	lock, err := db.Lock(t.Context(), "x", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	waiter := open(t, postgres.Options{URL: address, Application: "waiter"})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = waiter.Lock(ctx, "x", time.Minute)
	}()
	eventually(t, "the waiter polls and is idle", func() bool {
		var idle, total int
		if err := db.Pool().QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE state = 'idle' AND xact_start IS NULL AND backend_xmin IS NULL), count(*) FROM pg_stat_activity
			WHERE application_name IN ('auditdb/holder', 'auditdb/waiter') AND pid <> pg_backend_pid()`).Scan(&idle, &total); err != nil {
			t.Fatal(err)
		}
		return total == 3 && idle == 3
	})
	cancel()
	<-done
}

func TestLockManyAtOnce(t *testing.T) {
	t.Parallel()
	address := pgtest.Empty(t)
	db := open(t, postgres.Options{URL: address})
	var inside, runs atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			lock, err := db.Lock(t.Context(), "x", time.Minute)
			if err != nil {
				t.Error(err)
				return
			}
			if inside.Add(1) != 1 {
				t.Error("two at once")
			}
			if _, err := db.Pool().Exec(t.Context(), `SELECT 1`); err != nil {
				t.Error(err)
			}
			inside.Add(-1)
			runs.Add(1)
			lock.Release()
		})
	}
	wg.Wait()
	if runs.Load() != 20 {
		t.Errorf("%d runs", runs.Load())
	}
}

func TestPatienceIsShared(t *testing.T) {
	t.Parallel()
	db := open(t, postgres.Options{URL: pgtest.Empty(t)})
	lock, err := db.Lock(t.Context(), "x", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	ctx := postgres.WithPatience(t.Context(), 200*time.Millisecond)
	started := time.Now()
	for range 3 {
		_, err := db.Lock(ctx, "x", time.Hour)
		wantClass(t, err, fault.Locked)
	}
	if took := time.Since(started); took > 20*time.Second {
		t.Errorf("took %s", took)
	}
}
