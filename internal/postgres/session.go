package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// setting is one session setting. Servers older than since do not know it.
type setting struct {
	name, value string
	since       int // major version
}

// sessionSettings is the one list of settings that every connection gets.
func (db *DB) sessionSettings() []setting {
	return []setting{
		{"TimeZone", "UTC", 0},
		{"DateStyle", "ISO, MDY", 0},
		{"IntervalStyle", "postgres", 0},
		{"search_path", "", 0},
		{"client_encoding", "UTF8", 0},
		{"standard_conforming_strings", "on", 0},
		{"extra_float_digits", "1", 0},
		{"bytea_output", "hex", 0},
		{"default_transaction_isolation", "read committed", 0},
		{"jit", "off", 0}, // compiling a query of a catalog with thousands of partitions takes longer than the query
		{"statement_timeout", milliseconds(db.opts.StatementTimeout), 0},
		{"lock_timeout", milliseconds(db.opts.LockTimeout), 0},
		{"idle_in_transaction_session_timeout", milliseconds(10 * time.Minute), 0},
		{"idle_session_timeout", "0", 14},
		{"transaction_timeout", "0", 17},
		{"tcp_keepalives_idle", "30", 0}, // a dead client's locks end within about a minute
		{"tcp_keepalives_interval", "10", 0},
		{"tcp_keepalives_count", "3", 0},
	}
}

// milliseconds rounds up, so that a tiny timeout does not become 0, which is none.
func milliseconds(d time.Duration) string {
	if d <= 0 {
		return "0"
	}
	return strconv.FormatInt(int64((d+time.Millisecond-1)/time.Millisecond), 10)
}

// settingsSQL sets the list, for the session or for the transaction. backend not 0: only on that very backend.
func (db *DB) settingsSQL(major int, local bool, backend uint32) string {
	scope := strconv.FormatBool(local)
	calls := make([]string, 0, 20)
	for _, s := range db.sessionSettings() {
		ofSession := strings.HasPrefix(s.name, "default_transaction")
		if s.since <= major && (!local || !ofSession) {
			calls = append(calls, fmt.Sprintf(setConfigSQL, quoteLiteral(s.name), quoteLiteral(s.value), scope))
		}
	}
	calls = append(calls, fmt.Sprintf(durableCommitSQL, scope))
	sql := "SELECT " + strings.Join(calls, ", ")
	if backend != 0 {
		sql += fmt.Sprintf(" WHERE pg_catalog.pg_backend_pid() = %d", backend)
	}
	return sql
}

// prepareSession gives a fresh connection its settings in one round trip. Behind a transaction pooler nothing may be set for a
// session, because other applications get the same server connection next; Tx sets everything for each transaction instead.
func (db *DB) prepareSession(ctx context.Context, conn *pgx.Conn) error {
	pg := conn.PgConn()
	greeted := pg.PID()
	sql := originalSettingsSQL
	switch db.pooling {
	case PoolingNone:
		sql += ";" + db.settingsSQL(majorVersion(pg), false, greeted)
		if db.poolConfig.MaxConns > defaultMaxConns && db.room.Load() == 0 { // on the first connection; a small pool is not worth the look
			sql += ";" + roomSQL
		}
	case PoolingSession:
		sql += ";" + db.settingsSQL(majorVersion(pg), false, 0)
	case PoolingTransaction:
	}
	results, err := pg.Exec(ctx, sql).ReadAll()
	if err != nil {
		return fmt.Errorf("set up the session: %w", err)
	}
	if len(results) == 0 || len(results[0].Rows) != 1 {
		return errors.New("set up the session: the server gave no answer")
	}
	path, backend := string(results[0].Rows[0][0]), string(results[0].Rows[0][1])
	db.searchPath.CompareAndSwap(nil, &path)
	if backend != strconv.FormatUint(uint64(greeted), 10) {
		db.strangers.Store(true)
	}
	if len(results) > 2 {
		db.noteRoom(results[2])
	}
	return nil
}

func (db *DB) localSession(ctx context.Context, tx pgx.Tx) error {
	pg := tx.Conn().PgConn()
	if _, err := pg.Exec(ctx, db.settingsSQL(majorVersion(pg), true, 0)).ReadAll(); err != nil {
		return fmt.Errorf("set up the transaction: %w", err)
	}
	return nil
}

// majorVersion reads the version that the server greeted with, e.g. "15.14 (Debian 15.14-0+deb12u1)" or "19devel".
func majorVersion(conn *pgconn.PgConn) int {
	version := conn.ParameterStatus("server_version")
	end := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		version = version[:end]
	}
	major, err := strconv.Atoi(version)
	if err != nil {
		return 0
	}
	return major
}

// quoteLiteral is for constants of this package; standard_conforming_strings may still be off.
func quoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// SetLockTimeout bounds waiting for a lock for the rest of the transaction; 0 waits without limit.
func SetLockTimeout(ctx context.Context, tx pgx.Tx, d time.Duration) error {
	if _, err := tx.Exec(ctx, setLocalSQL, "lock_timeout", milliseconds(d)); err != nil {
		return fmt.Errorf("set lock_timeout: %w", err)
	}
	return nil
}
