package monitor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

// StatementOptions say which statements to list.
type StatementOptions struct {
	Sort     string        // one of StatementOrders; "": total
	MinCalls int64         // only statements that ran as often
	MinMean  time.Duration // only statements that took as long on average
	Limit    int
	Period   time.Duration // only what they took in this time, by a sample of RecordStatements; 0: since the counters were reset
	Now      time.Time     // that Period ends at
}

// StatementOrders are what statements can be sorted by, the greatest first.
func StatementOrders() []string {
	return []string{"total", "mean", "max", "calls", "rows", "blocks", "temp", "wal"}
}

func statementOrder(by string) (string, bool) {
	column, ok := map[string]string{
		"": "s.total_exec_time", "total": "s.total_exec_time", "mean": "s.mean_exec_time", "max": "s.max_exec_time", "calls": "s.calls", "rows": "s.rows",
		"blocks": "s.shared_blks_hit + s.shared_blks_read", "temp": "s.temp_blks_written", "wal": "s.wal_bytes",
	}[by]
	return column, ok
}

// Statements is what pg_stat_statements says of a database.
type Statements struct {
	Since   *time.Time  `json:"since"`  // from when it counts: the last reset, or the sample that is compared with; null: not known
	Hidden  int64       `json:"hidden"` // statements that the role may not see
	Entries []Statement `json:"statements"`
}

// Statement is one statement with what it has taken since then.
type Statement struct {
	QueryID      int64    `json:"query_id"`
	Calls        int64    `json:"calls"`
	TotalSeconds float64  `json:"total_seconds"`
	MeanSeconds  float64  `json:"mean_seconds"`
	MaxSeconds   *float64 `json:"max_seconds"` // null: not known of a period
	Rows         int64    `json:"rows"`
	BlocksHit    int64    `json:"blocks_hit"`
	BlocksRead   int64    `json:"blocks_read"`
	TempBlocks   int64    `json:"temp_blocks_written"`
	WALBytes     int64    `json:"wal_bytes"`
	User         string   `json:"user"`
	Unrecorded   bool     `json:"unrecorded"` // it is not in the sample that is compared with, and counts from its first call on
	Query        string   `json:"query"`      // parameters as $1, without literals
	Hint         *string  `json:"hint"`
}

// SlowStatements reads pg_stat_statements, and never resets it. Where it is not there, or not loaded, the error has class config and says what to do.
func SlowStatements(ctx context.Context, q Querier, o StatementOptions) (*Statements, error) {
	order, ok := statementOrder(o.Sort)
	if !ok {
		return nil, fault.New(fault.Usage, "", "statements cannot be sorted by %q", o.Sort)
	}
	if o.Period > 0 && o.Sort == "max" {
		return nil, fault.New(fault.Usage, "sort by mean", "the longest call of a period is not known")
	}
	view, err := findStatements(ctx, q)
	if err != nil {
		return nil, err
	}
	from, longest, unrecorded, args := view.name, "s.max_exec_time / 1000", "false", []any{o.MinCalls, o.MinMean.Seconds(), o.Limit}
	out := &Statements{}
	if out.Since, err = view.since(ctx, q); err != nil {
		return nil, err
	}
	if o.Period > 0 {
		at, err := sampleOf(ctx, q, o, out.Since)
		if err != nil {
			return nil, err
		}
		out.Since = &at
		from, longest, unrecorded, args = view.period(), "NULL::float8", "s.unrecorded", append(args, at, recordedStatements)
	}
	rows, err := q.Query(ctx, fmt.Sprintf(statementsSQL, from, order, longest, unrecorded), args...)
	if err != nil {
		return nil, fmt.Errorf("read pg_stat_statements: %w", err)
	}
	out.Entries, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (s Statement, err error) {
		var id *int64
		err = row.Scan(&id, &s.Calls, &s.TotalSeconds, &s.MeanSeconds, &s.MaxSeconds, &s.Rows, &s.BlocksHit, &s.BlocksRead, &s.TempBlocks, &s.WALBytes, &s.User, &s.Query, &s.Unrecorded)
		if id != nil {
			s.QueryID = *id
		}
		s.Query, s.Hint = postgres.Shape(s.Query, 1000), s.advice()
		return s, err
	})
	if err != nil {
		return nil, view.failed(err)
	}
	if err := q.QueryRow(ctx, fmt.Sprintf(statementsHiddenSQL, view.name)).Scan(&out.Hidden); err != nil {
		return nil, fmt.Errorf("read pg_stat_statements: %w", err)
	}
	return out, nil
}

// statementsHint is what makes pg_stat_statements readable.
const statementsHint = "set shared_preload_libraries = 'pg_stat_statements', restart the server, and CREATE EXTENSION pg_stat_statements in this database"

// statementsView is where pg_stat_statements is.
type statementsView struct {
	name, info string // as SQL; info is "" before version 1.9, which did not tell statements of functions either
}

func findStatements(ctx context.Context, q Querier) (v statementsView, err error) {
	var schema string
	var info bool
	err = q.QueryRow(ctx, statementsWhereSQL).Scan(&schema, &info)
	if errors.Is(err, pgx.ErrNoRows) {
		return v, fault.New(fault.Config, statementsHint, "read pg_stat_statements: the extension is not installed in this database")
	}
	if err != nil {
		return v, fmt.Errorf("look for pg_stat_statements: %w", err)
	}
	v.name = pgx.Identifier{schema, "pg_stat_statements"}.Sanitize()
	if info {
		v.info = pgx.Identifier{schema, "pg_stat_statements_info"}.Sanitize()
	}
	return v, nil
}

// since is when the counters were last reset; nil: not known.
func (v statementsView) since(ctx context.Context, q Querier) (at *time.Time, err error) {
	if v.info == "" {
		return nil, nil //nolint:nilnil // not known
	}
	if err := q.QueryRow(ctx, fmt.Sprintf(statementsSinceSQL, v.info)).Scan(&at); err != nil {
		return nil, v.failed(err)
	}
	return at, nil
}

func (statementsView) failed(err error) error {
	if postgres.SQLState(err) == postgres.ObjectNotInState {
		return fault.New(fault.Config, statementsHint, "read pg_stat_statements: the library is not loaded: %w", err)
	}
	return fmt.Errorf("read pg_stat_statements: %w", err)
}

const (
	manyBlocks   = 1000 // a call: 8 MB
	blocksPerRow = 20   // more for a row that is returned than finding it by an index takes
)

// verb is the first word of the statement, past comments.
func (s Statement) verb() string {
	text := strings.TrimSpace(s.Query)
	for strings.HasPrefix(text, "/*") {
		_, after, ok := strings.Cut(text, "*/")
		if !ok {
			return ""
		}
		text = strings.TrimSpace(after)
	}
	word, _, _ := strings.Cut(strings.TrimLeft(text, "( "), " ")
	return strings.ToUpper(word)
}

// readsRows says that the statement looks for rows, which an index could find: CREATE INDEX and ANALYZE have to read all, and catalogs get no more indexes.
func (s Statement) readsRows() bool {
	return !strings.Contains(strings.ToLower(s.Query), "from pg_") && slices.Contains([]string{"SELECT", "WITH", "UPDATE", "DELETE", "MERGE", "INSERT", "DECLARE", "TABLE"}, s.verb())
}

// Own says that the statement is of auditdb's own upkeep: it names auditdb's schema.
func (s Statement) Own() bool {
	return strings.Contains(s.Query, "auditdb.") || strings.Contains(s.Query, `"auditdb".`)
}

// counted is "1 block" or "1,234 blocks".
func counted(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return humanize.Comma(n) + " " + noun + "s"
}

// advice is what a statement's counters suggest.
func (s Statement) advice() *string {
	calls := max(s.Calls, 1)
	blocks, rows := (s.BlocksHit+s.BlocksRead)/calls, s.Rows/calls
	var text string
	switch {
	case s.TempBlocks > 0:
		text = fmt.Sprintf("writes %s a call: more work_mem, or an index in the order that it sorts by", counted(max(s.TempBlocks/calls, 1), "temporary block"))
	case blocks > manyBlocks && s.readsRows() && blocks > blocksPerRow*max(rows, 1):
		text = fmt.Sprintf("reads %s for %s a call: an index may be missing (auditdb index analyze)", counted(blocks, "block"), counted(rows, "row"))
	default:
		return nil
	}
	return &text
}
