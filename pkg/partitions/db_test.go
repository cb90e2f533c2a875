package partitions

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
)

// base is a database of the test's own with a worker whose clock stands still.
type base struct {
	t      *testing.T
	url    string
	db     *postgres.DB
	w      *Worker
	o      Options
	ledger *book
}

// book is a ledger that remembers, and forgets what was rolled back.
type book struct {
	mu     sync.Mutex
	events []Event
	fail   error
	refuse error
}

func (b *book) Check(context.Context, Querier, Table) error { return b.refuse }

// Dropping returns the number of rows that are going to be dropped.
func (b *book) Dropping(ctx context.Context, tx pgx.Tx, _ Table, p Partition) (any, error) {
	var rows int64
	err := tx.QueryRow(ctx, "SELECT count(*) FROM "+p.Ident()+" WHERE current_user = session_user").Scan(&rows)
	return rows, err
}

func (b *book) Record(ctx context.Context, tx pgx.Tx, _ Table, events []Event) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return b.fail
	}
	b.events = append(b.events, events...)
	var role, session string
	if err := tx.QueryRow(ctx, "SELECT current_user, session_user").Scan(&role, &session); err != nil {
		return err
	}
	if role != session {
		return fmt.Errorf("recorded as %s, not as %s", role, session)
	}
	return nil
}

func (b *book) kinds() (kinds []EventKind) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

func open(t *testing.T, url string) *postgres.DB {
	t.Helper()
	db, err := postgres.Open(t.Context(), postgres.Options{URL: url, Application: "test", MaxConns: 4, LockTimeout: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

// on opens a database after running statements on it over a plain connection, some of which may change its defaults.
func on(t *testing.T, url string, statements ...string) *base {
	t.Helper()
	b := &base{t: t, url: url, ledger: &book{}}
	b.exec(statements...)
	b.db = open(t, url)
	b.o = Options{DB: b.db, Ledger: b.ledger, Now: func() time.Time { return serverDay }, LockTimeout: 100 * time.Millisecond, Wait: 20 * time.Second}
	b.w = NewWorker(b.o)
	return b
}

// serverDay is "now" for creating; pruning compares clocks and takes the real one.
var serverDay = time.Date(2026, 11, 23, 7, 0, 0, 0, time.UTC)

// fresh is on for an empty database, migrated for one with auditdb's schema.
func fresh(t *testing.T, statements ...string) *base {
	t.Helper()
	return on(t, pgtest.Empty(t), statements...)
}

func migrated(t *testing.T, statements ...string) *base {
	t.Helper()
	return on(t, pgtest.DB(t), statements...)
}

// realClock makes the worker go by the clock, as pruning needs it.
func (b *base) realClock() *base {
	b.o.Now = time.Now
	b.w = NewWorker(b.o)
	return b
}

// conn is a plain connection with the database's own defaults.
func (b *base) conn() *pgx.Conn {
	b.t.Helper()
	conn, err := pgx.Connect(b.t.Context(), b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (b *base) exec(statements ...string) {
	b.t.Helper()
	if len(statements) == 0 {
		return
	}
	conn, err := pgx.Connect(b.t.Context(), b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	for _, sql := range statements {
		if _, err := conn.PgConn().Exec(b.t.Context(), sql).ReadAll(); err != nil {
			b.t.Fatalf("%s: %v", sql, err)
		}
	}
}

// value reads one value.
func value[T any](b *base, sql string, args ...any) (v T) {
	b.t.Helper()
	if err := b.db.Pool().QueryRow(b.t.Context(), sql, args...).Scan(&v); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func (b *base) table(name string) Table {
	b.t.Helper()
	t, err := Resolve(b.t.Context(), b.db, name)
	if err != nil {
		b.t.Fatal(err)
	}
	return t
}

func (b *base) catalog(t Table) *Catalog {
	b.t.Helper()
	c, err := LoadSizes(b.t.Context(), b.db.Pool(), t)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

// tryCreate is a whole create: lock, draft, apply.
func (b *base) tryCreate(t Table, o CreateOptions) (made []Created, d *Draft, err error) {
	err = b.w.Locked(b.t.Context(), t, func(ctx context.Context) error {
		var err error
		if d, err = b.w.DraftCreate(ctx, t, o); err != nil {
			return err
		}
		made, err = b.w.ApplyCreate(ctx, d, nil)
		return err
	})
	return made, d, err
}

func (b *base) create(t Table, o CreateOptions) []Created {
	b.t.Helper()
	made, _, err := b.tryCreate(t, o)
	if err != nil {
		b.t.Fatal(err)
	}
	return made
}

func (b *base) tryPrune(t Table, o PruneOptions) (done []Pruned, d *PruneDraft, err error) {
	err = b.w.Locked(b.t.Context(), t, func(ctx context.Context) error {
		var err error
		if d, err = b.w.DraftPrune(ctx, t, o); err != nil {
			return err
		}
		done, err = b.w.ApplyPrune(ctx, d, nil)
		return err
	})
	return done, d, err
}

func (b *base) prune(t Table, o PruneOptions) ([]Pruned, *PruneDraft) {
	b.t.Helper()
	done, d, err := b.tryPrune(t, o)
	if err != nil {
		b.t.Fatal(err)
	}
	return done, d
}

// exactly is a create of a range.
func exactly(t *testing.T, from, to string) CreateOptions {
	t.Helper()
	return CreateOptions{From: at(t, from), To: at(t, to)}
}

func before(t *testing.T, text string) PruneOptions {
	t.Helper()
	cutoff := at(t, text)
	return PruneOptions{OlderThan: &cutoff}
}

func wantClass(t *testing.T, err error, class fault.Class) {
	t.Helper()
	if got := postgres.Class(err); got != class {
		t.Errorf("class %q, want %q: %v", got, class, err)
	}
}
