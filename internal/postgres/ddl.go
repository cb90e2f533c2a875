package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
)

const (
	// DefaultLockTimeout is how long an attempt at a table lock takes where nothing else is said.
	DefaultLockTimeout = 100 * time.Millisecond

	ddlFirstPause   = 50 * time.Millisecond
	ddlMaxPause     = 2 * time.Second
	queryShapeLimit = 60
)

// DDLOptions say how DDL waits for table locks.
type DDLOptions struct {
	LockTimeout time.Duration // one attempt; 0: 100 ms
	Wait        time.Duration // all attempts together; 0: one attempt
	Role        string        // SET LOCAL ROLE, usually the table's owner; "": stay the session's user
	What        string        // for the error, e.g. "attach partition audit_log_2026_01"; "": "change the table"
	// Before runs ahead of every attempt, outside of its transaction, e.g. to have autovacuum give way; nil: nothing. Its error ends DDL.
	Before func(context.Context) error
}

// DDL runs fn in a transaction whose lock requests give up after LockTimeout, and runs it again with jittered pauses until Wait is
// over: a queue behind a long transaction would stall every reader. Then a fault.Locked error names who was in the way.
// fn must be safe to repeat, since a failed attempt was rolled back.
func (db *DB) DDL(ctx context.Context, o DDLOptions, fn func(pgx.Tx) error) error {
	if o.LockTimeout <= 0 {
		o.LockTimeout = DefaultLockTimeout
	}
	if o.What == "" {
		o.What = "change the table"
	}
	waitCtx, cancel := context.WithTimeout(ctx, Patience(ctx, o.Wait))
	defer cancel()
	var seen []Blocker
	for try := 0; ; try++ {
		if o.Before != nil {
			if err := o.Before(ctx); err != nil {
				return err
			}
		}
		blockers, err := db.attempt(ctx, o, fn)
		if len(blockers) > 0 {
			seen = blockers
		}
		if err == nil || !IsLockNotAvailable(err) || fault.ClassOf(err) != "" {
			return err
		}
		db.opts.Log.LogAttrs(ctx, slog.LevelDebug, "table lock not to be had yet", slog.String("what", o.What), slog.Int("attempt", try+1), slog.String("blockers", describeBlockers(seen)))
		if !pause(waitCtx, jitter(try, ddlFirstPause, ddlMaxPause)) {
			if ctx.Err() != nil {
				return fmt.Errorf("%s: %w", o.What, context.Cause(ctx))
			}
			return fault.New(fault.Locked, "end or wait for that transaction, or allow more time with --wait", "%s: no lock within %s: %s: %w", o.What, o.Wait, describeBlockers(seen), err)
		}
	}
}

// attempt runs fn once and looks meanwhile who it waits for.
func (db *DB) attempt(ctx context.Context, o DDLOptions, fn func(pgx.Tx) error) (seen []Blocker, err error) {
	look, stop := context.WithCancel(ctx)
	found := make(chan []Blocker, 1)
	looking := false
	err = db.Tx(ctx, func(tx pgx.Tx) error {
		var ignored string
		var pid int32
		if err := tx.QueryRow(ctx, startDDLSQL, milliseconds(o.LockTimeout)).Scan(&ignored, &pid); err != nil {
			return fmt.Errorf("start DDL: %w", err)
		}
		if o.Role != "" {
			if _, err := tx.Exec(ctx, "SET LOCAL ROLE "+pgx.Identifier{o.Role}.Sanitize()); err != nil {
				return fmt.Errorf("become %s: %w", o.Role, err)
			}
		}
		looking = true
		go func() { found <- db.lookForBlockers(look, pid, o.LockTimeout) }()
		return fn(tx)
	})
	stop()
	if looking && err != nil {
		seen = <-found
	}
	return seen, err
}

// lookTimeout bounds one look at who blocks.
const lookTimeout = 5 * time.Second

// lookForBlockers samples who keeps backend pid waiting until ctx ends, and returns the last answer that named somebody. A look that has begun
// is not cancelled: it takes a millisecond.
func (db *DB) lookForBlockers(ctx context.Context, pid int32, lockTimeout time.Duration) []Blocker {
	var last []Blocker
	for pause(ctx, max(lockTimeout/2, time.Millisecond)) {
		now, err := db.blocking(context.WithoutCancel(ctx), pid)
		if err != nil {
			return last
		}
		if len(now) > 0 {
			last = now
		}
	}
	return last
}

// Autovacuum is the Backend of an autovacuum worker that gives way to who waits for its lock longer than deadlock_timeout; one that works to
// prevent wraparound does not, and is called otherwise.
const (
	Autovacuum     = "autovacuum worker"
	antiWraparound = "(to prevent wraparound)"
)

// Blocker is a session that holds a lock which somebody wants.
type Blocker struct {
	PID         int // 0: a prepared transaction
	Application string
	User        string
	Client      string
	Backend     string // e.g. "client backend", "autovacuum worker"
	State       string // e.g. "idle in transaction"
	Mode        string // of the lock, e.g. "AccessShareLock"; "" when not asked by relation
	Relation    string
	Since       time.Time     // when its transaction started; zero: not known
	Age         time.Duration // of its transaction, by the server's clock
	Query       string        // shape of its last statement: no literals, at most 60 characters
}

// String is how an error names a blocker.
func (b Blocker) String() string {
	if b.PID == 0 {
		return "a prepared transaction (see pg_prepared_xacts)"
	}
	parts := []string{fmt.Sprintf("pid %d", b.PID)}
	switch {
	case b.Application != "":
		parts = append(parts, "("+oneLine(b.Application)+")")
	case b.Backend != "" && b.Backend != "client backend":
		parts = append(parts, "("+b.Backend+")")
	}
	if b.User != "" {
		parts = append(parts, "of user "+b.User)
	}
	if b.Age > 0 {
		parts = append(parts, "in a transaction for "+b.Age.Round(time.Second/10).String())
	}
	if b.State != "" && b.State != "active" {
		parts = append(parts, b.State)
	}
	if b.Query != "" {
		parts = append(parts, "last statement: "+b.Query)
	}
	return strings.Join(parts, " ")
}

func describeBlockers(blockers []Blocker) string {
	if len(blockers) == 0 {
		return "the blocking session has ended or could not be seen"
	}
	texts := make([]string, 0, 3)
	for i, b := range blockers {
		if i == 3 {
			texts = append(texts, fmt.Sprintf("and %d more", len(blockers)-3))
			break
		}
		texts = append(texts, b.String())
	}
	return "blocked by " + strings.Join(texts, "; ")
}

// Blockers lists the sessions that hold any lock on the relations (by oid), longest transaction first.
func (db *DB) Blockers(ctx context.Context, relations []uint32) ([]Blocker, error) {
	rows, err := db.pool.Query(ctx, blockersSQL, relations)
	if err != nil {
		return nil, fmt.Errorf("look for blocking sessions: %w", err)
	}
	return collectBlockers(rows)
}

func (db *DB) blocking(ctx context.Context, pid int32) ([]Blocker, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	rows, err := db.pool.Query(ctx, blockingSQL, pid)
	if err != nil {
		return nil, fmt.Errorf("look for blocking sessions: %w", err)
	}
	return collectBlockers(rows)
}

func collectBlockers(rows pgx.Rows) ([]Blocker, error) {
	blockers, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Blocker, error) {
		var b Blocker
		var since *time.Time
		var age float64
		var query string
		err := row.Scan(&b.PID, &b.Application, &b.User, &b.Client, &b.Backend, &b.State, &b.Mode, &b.Relation, &since, &age, &query)
		if since != nil {
			b.Since = *since
		}
		b.Age = time.Duration(age * float64(time.Second))
		b.Query = QueryShape(query)
		if b.Backend == Autovacuum && strings.HasSuffix(query, antiWraparound) {
			b.Backend += " to prevent wraparound"
		}
		return b, err
	})
	if err != nil {
		return nil, fmt.Errorf("look for blocking sessions: %w", err)
	}
	return blockers, nil
}

// QueryShape is Shape with at most 60 characters.
func QueryShape(query string) string { return Shape(query, queryShapeLimit) }

// Shape makes another session's statement fit for an error, a log or a list: comments go, every literal becomes ?, and no more than
// so many characters are kept. A literal that is cut off or not closed hides all that follows.
func Shape(query string, limit int) string {
	literals := regexp.MustCompile(`(?s)--[^\n]*|/\*.*?(?:\*/|$)|\$([A-Za-z_]\w*)?\$.*|[eE]'(?:[^'\\]|\\.|'')*(?:'|$)|'(?:[^']|'')*(?:'|$)|"(?:[^"]|"")*(?:"|$)|[A-Za-z_$][\w$]*|\d[\w.]*`)
	shape := literals.ReplaceAllStringFunc(query, func(match string) string {
		switch c := match[0]; {
		case c == '-' || c == '/':
			return " "
		case c == '\'' || c >= '0' && c <= '9' || strings.HasSuffix(match, "'") || strings.HasPrefix(match, "e'") || strings.HasPrefix(match, "E'"):
			return "?"
		case c == '$' && strings.Count(match, "$") > 1:
			return "?"
		}
		return match
	})
	return cut(oneLine(shape), limit)
}
