package monitor

import (
	"context"
	"fmt"
	"time"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

const (
	// recordedStatements are how many statements of a database a sample has: those that took the most time.
	recordedStatements = 200
	// statementsEvery is how long a sample of statements lasts, and statementsKept how long it is kept: it has hundreds of rows.
	statementsEvery = time.Hour
	statementsKept  = 8 * 24 * time.Hour
)

// key tells the entries of a database apart.
func (v statementsView) key() string {
	top := "''"
	if v.info != "" {
		top = "CASE WHEN s.toplevel THEN '' ELSE ' in a function' END"
	}
	return "s.queryid || ' of ' || s.userid || " + top
}

// period is the view since a sample: what its first columns hold, at least as far as they are asked for.
func (v statementsView) period() string {
	return fmt.Sprintf(periodSQL, v.name, v.key())
}

// RecordStatements keeps a sample of pg_stat_statements in auditdb.health_sample, at most one an hour. Where the extension is not there, or not loaded, the error
// has class config.
func RecordStatements(ctx context.Context, q Querier, now time.Time) error {
	view, err := findStatements(ctx, q)
	if err != nil {
		return err
	}
	if _, err := q.Exec(ctx, fmt.Sprintf(keepStatementsSQL, view.name, view.key()), now, now.Add(-statementsEvery), recordedStatements); err != nil {
		return view.failed(err)
	}
	if _, err := q.Exec(ctx, forgetStatementsSQL, now.Add(-statementsKept)); err != nil {
		return fmt.Errorf("remove old samples of statements: %w", err)
	}
	return nil
}

// sampleOf is from when the statements of a period count: the newest sample that is as old, else the oldest one, or the time of a reset since.
func sampleOf(ctx context.Context, q Querier, o StatementOptions, reset *time.Time) (time.Time, error) {
	const hint = "auditdb health --record keeps one each hour; call it by a timer"
	var at *time.Time
	var standby bool
	err := q.QueryRow(ctx, statementSampleSQL, o.Now.Add(-o.Period)).Scan(&at, &standby)
	switch postgres.SQLState(err) {
	case postgres.UndefinedTable, postgres.InvalidSchemaName:
		return time.Time{}, fault.New(fault.Config, "auditdb migrate up", "samples are kept in auditdb's schema, which is not there")
	case postgres.InsufficientPrivilege:
		return time.Time{}, fault.New(fault.Config, "GRANT auditdb_reader TO the user that connects", "this user may not read the samples in auditdb.health_sample")
	}
	switch {
	case err != nil:
		return time.Time{}, fmt.Errorf("look for a sample of statements: %w", err)
	case standby:
		return time.Time{}, fault.New(fault.Config, "ask the primary", "samples are of the primary's statements, and this is a standby")
	case at == nil:
		return time.Time{}, fault.New(fault.Config, hint, "no sample of statements has been recorded")
	case reset != nil && reset.After(*at):
		return *reset, nil
	}
	return *at, nil
}
