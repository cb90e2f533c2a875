package postgres

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/multitracer"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/tracelog"

	"auditdb/internal/fault"
	"auditdb/internal/tracing"
)

var errStandby = errors.New("the server is a hot standby")

// parseConfig turns options into the driver's configuration.
func parseConfig(o Options) (*pgxpool.Config, error) {
	if err := refuseUnencoded(o.URL); err != nil {
		return nil, err
	}
	pool, err := pgxpool.ParseConfig(o.URL)
	if err != nil {
		return nil, badURL(o.URL)
	}
	if o.MaxConns > 0 {
		pool.MaxConns = o.MaxConns
	} else if !strings.Contains(o.URL, "pool_max_conns") {
		pool.MaxConns = defaultMaxConns
	}
	config := pool.ConnConfig
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = o.ConnectTimeout
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = defaultConnectTimeout
	}
	// PgBouncer keeps these four apart for each client and rejects others at startup.
	config.RuntimeParams["application_name"] = applicationName(o.Application)
	config.RuntimeParams["client_encoding"] = "UTF8"
	config.RuntimeParams["TimeZone"] = "UTC"
	config.RuntimeParams["DateStyle"] = "ISO, MDY"
	for _, other := range []string{"timezone", "datestyle"} {
		delete(config.RuntimeParams, other)
	}
	if config.ValidateConnect == nil && !o.ReadOnly {
		config.ValidateConnect = requirePrimary
	}
	config.OnPgError = keepAfter
	config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &cancelHandler{pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: 2 * time.Second}}
	}
	pool.PrepareConn = neverCancelled
	return pool, nil
}

// tracer counts waits for connections, and writes the log and traces where they are wanted.
func tracer(ctx context.Context, q *queue, log *slog.Logger) pgx.QueryTracer {
	tracers := []pgx.QueryTracer{q}
	if log.Enabled(ctx, slog.LevelDebug) {
		tracers = append(tracers, &tracelog.TraceLog{Logger: traceLogger{log}, LogLevel: tracelog.LogLevelInfo})
	}
	if tracing.On() {
		tracers = append(tracers, otelpgx.NewTracer(otelpgx.WithDisableSQLStatementInAttributes()))
	}
	if len(tracers) == 1 {
		return q
	}
	return multitracer.New(tracers...)
}

// cancelHandler cancels the statement on the server too when its context ends, and the connection stays usable for the rollback. A busy server
// may get the request late, and would end whatever runs on the connection by then, so it is marked for neverCancelled.
type cancelHandler struct {
	pgconn.CancelRequestContextWatcherHandler
}

// HandleUnwatchAfterCancel is called by the goroutine that uses the connection.
func (h *cancelHandler) HandleUnwatchAfterCancel() {
	h.CancelRequestContextWatcherHandler.HandleUnwatchAfterCancel()
	h.Conn.CustomData()[cancelSent] = true
}

const cancelSent = "auditdb.cancel-sent"

// neverCancelled says whether the pool may give a connection out again.
func neverCancelled(_ context.Context, conn *pgx.Conn) (bool, error) {
	return conn.PgConn().CustomData()[cancelSent] == nil, nil
}

func applicationName(command string) string {
	if command == "" {
		return "auditdb"
	}
	return "auditdb/" + command
}

// requirePrimary refuses a standby, so that the driver tries the next host. Servers from 14 on say which they are when they greet.
func requirePrimary(ctx context.Context, conn *pgconn.PgConn) error {
	status := conn.ParameterStatus("in_hot_standby")
	if status == "" {
		results, err := conn.Exec(ctx, inRecoverySQL).ReadAll()
		if err != nil || len(results) == 0 || len(results[0].Rows) == 0 {
			return err
		}
		status = string(results[0].Rows[0][0])
	}
	if status == "on" || status == "t" {
		return errStandby
	}
	return nil
}

// keepAfter says whether a connection may be used on after a server error: not after a fatal one, nor when the server turned
// out to be read-only (a demoted primary), unless a read-only transaction was asked for.
func keepAfter(conn *pgconn.PgConn, e *pgconn.PgError) bool {
	severity := e.SeverityUnlocalized
	if severity == "" {
		severity = e.Severity
	}
	return severity != "FATAL" && severity != "PANIC" && (e.Code != ReadOnlySQLTransaction || conn.CustomData()[askedReadOnly] != nil)
}

const askedReadOnly = "auditdb.asked-read-only"

// connectFault words a connection error in one line without secrets.
func (db *DB) connectFault(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return fault.New(Class(ctx.Err()), "", "connect to %s: %w", db.Target(), ctx.Err())
	}
	hint := Hint(err)
	if hint == "" {
		hint = "check the address, or wait for a server that is starting with --wait-for-db 60s"
	}
	return &fault.Error{Class: Class(err), Hint: hint, Err: &connectError{target: db.Target(), err: err}}
}

// connectError shows the cause without the driver's repetition of user, database and every address tried.
type connectError struct {
	target string
	err    error
}

func (e *connectError) Error() string {
	return "connect to " + e.target + ": " + oneLine(connectReason(e.err))
}

func (e *connectError) Unwrap() error { return e.err }

func connectReason(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Error()
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		err = connect.Unwrap()
	}
	var lines []string // one a try; with and without TLS the same address is tried twice
	for line := range strings.Lines(err.Error()) {
		if _, dialled, ok := strings.Cut(line, ": dial error: "); ok {
			line = dialled // it names the address again
		}
		if line = oneLine(line); line != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

// Target names the server and database as a user would recognise them: "user@host:5432/database".
func (db *DB) Target() string {
	c := db.config
	database := c.Database
	if strings.Contains(database, "@") { // an unencoded "/" in a password shifted everything after it
		database = "***"
	}
	hosts := []string{hostPort(c.Host, c.Port)}
	for _, f := range c.Fallbacks {
		if h := hostPort(f.Host, f.Port); h != hosts[len(hosts)-1] {
			hosts = append(hosts, h)
		}
	}
	return c.User + "@" + strings.Join(hosts, ",") + "/" + database
}

func hostPort(host string, port uint16) string {
	if strings.HasPrefix(host, "/") {
		return host
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
