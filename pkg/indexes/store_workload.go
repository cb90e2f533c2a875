package indexes

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

const (
	statementsSQL = `SELECT quote_ident(n.nspname), e.extversion FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements'`
	// Columns of a view that was made by an old version of the extension stay as they were until ALTER EXTENSION … UPDATE.
	timeColumnSQL = `SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = to_regclass($1) AND a.attname IN ('total_exec_time', 'total_time')`
	mostTimeSQL   = `SELECT coalesce(s.query, ''), s.calls::float8 FROM %s.pg_stat_statements s WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
  ORDER BY s.%s DESC LIMIT 5000`
	sinceThereSQL = `SELECT to_regclass($1) IS NOT NULL`
	sinceSQL      = `SELECT stats_reset FROM %s.pg_stat_statements_info`
	databaseSQL   = `SELECT current_database()`
	countLimit    = "SET LOCAL statement_timeout = '60s'"
)

const (
	workloadHint = "name a file of SQL with --queries, or the server's csv or JSON logs with --logs"
	loadHint     = "put pg_stat_statements into shared_preload_libraries and restart the server; until then "
	rightsHint   = "GRANT USAGE ON SCHEMA %[1]s TO the role that connects, SELECT ON %[1]s.pg_stat_statements as well, and pg_read_all_stats for the texts of others; or "
)

// CountedWorkload reads what pg_stat_statements has counted in this database, the statements that took most time first. Where it is not
// there, or cannot be read, the error has class usage: there is no workload.
func CountedWorkload(ctx context.Context, db *postgres.DB) (*Workload, error) {
	w := &Workload{Source: sourceCounted}
	var schema, version string
	err := db.TxWith(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, countLimit); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, statementsSQL).Scan(&schema, &version)
		if errors.Is(err, pgx.ErrNoRows) {
			return fault.New(fault.Usage, "CREATE EXTENSION pg_stat_statements; until it has counted, "+workloadHint, "there is no workload: the extension pg_stat_statements is not installed in this database")
		}
		if err == nil {
			err = w.count(ctx, tx, schema)
		}
		return err
	})
	if state := postgres.SQLState(err); state != "" && postgres.Class(err) != fault.Unavailable && ctx.Err() == nil {
		err = fault.New(fault.Usage, uncountedHint(state, schema), "there is no workload: pg_stat_statements %s cannot be read: %w", version, err)
	}
	if err == nil && len(w.Queries) == 0 && len(w.LeftOut) == 0 && w.utility == 0 && w.hidden == 0 {
		err = fault.New(fault.Usage, workloadHint, "there is no workload: pg_stat_statements has counted nothing in this database")
	}
	if err != nil {
		return nil, err
	}
	w.merge()
	return w, nil
}

// uncountedHint says what to do where pg_stat_statements is installed and cannot be read.
func uncountedHint(state, schema string) string {
	switch state {
	case postgres.InsufficientPrivilege:
		return fmt.Sprintf(rightsHint, schema) + workloadHint
	case postgres.ObjectNotInState:
		return loadHint + workloadHint
	}
	return workloadHint
}

func (w *Workload) count(ctx context.Context, tx pgx.Tx, schema string) error {
	var column string
	if err := tx.QueryRow(ctx, timeColumnSQL, schema+".pg_stat_statements").Scan(&column); err != nil {
		return fmt.Errorf("look at the columns of pg_stat_statements: %w", err)
	}
	rows, err := tx.Query(ctx, fmt.Sprintf(mostTimeSQL, schema, column))
	if err != nil {
		return err
	}
	var text string
	var calls float64
	_, err = pgx.ForEachRow(rows, []any{&text, &calls}, func() error {
		w.add(text, calls)
		return nil
	})
	if err != nil {
		return err
	}
	known := false // since when is told from version 1.9 on
	if err := tx.QueryRow(ctx, sinceThereSQL, schema+".pg_stat_statements_info").Scan(&known); err != nil || !known {
		return err
	}
	return tx.QueryRow(ctx, fmt.Sprintf(sinceSQL, schema)).Scan(&w.Since)
}

// CurrentDatabase is the name of the database, which logs tell statements apart by.
func CurrentDatabase(ctx context.Context, db *postgres.DB) (name string, err error) {
	return name, db.Pool().QueryRow(ctx, databaseSQL).Scan(&name)
}
