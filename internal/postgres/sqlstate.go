package postgres

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"

	"auditdb/internal/fault"
)

// The SQLSTATEs that decide something in this program.
const (
	ReadOnlySQLTransaction = "25006"
	RestrictViolation      = "23001"
	NotNullViolation       = "23502"
	UniqueViolation        = "23505"
	CheckViolation         = "23514"
	InvalidCatalogName     = "3D000"
	InvalidSchemaName      = "3F000"
	SerializationFailure   = "40001"
	DeadlockDetected       = "40P01"
	InsufficientPrivilege  = "42501"
	UndefinedTable         = "42P01"
	DuplicateSchema        = "42P06"
	DuplicateTable         = "42P07"
	InternalError          = "XX000"
	DuplicateObject        = "42710"
	OutOfMemory            = "53200" // most often of the lock table
	TooManyConnections     = "53300"
	ObjectNotInState       = "55000"
	ObjectInUse            = "55006"
	LockNotAvailable       = "55P03"
	QueryCanceled          = "57014"
	AdminShutdown          = "57P01"
	CrashShutdown          = "57P02"
	CannotConnectNow       = "57P03"
	DatabaseDropped        = "57P04"
	classConnection        = "08"
	classData              = "22"
	classConstraint        = "23"
	classAuthorization     = "28"
	classResources         = "53"
	idleInTransactionEnd   = "25P03"
	transactionTimeoutEnd  = "25P04"
	idleSessionEnd         = "57P05"
)

// SQLState gives the five-character code of a server error anywhere in err's chain, or "".
func SQLState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// IsLockNotAvailable says whether a lock could not be had within lock_timeout or was lost to a deadlock.
func IsLockNotAvailable(err error) bool {
	state := SQLState(err)
	return state == LockNotAvailable || state == DeadlockDetected
}

// Class gives the class of an error of the server, of the driver or of the network. An error that has a class already keeps it.
// Data errors can hold values of a row in their message: show those of one's own statements only.
func Class(err error) fault.Class {
	if err == nil {
		return ""
	}
	if c := fault.ClassOf(err); c != "" {
		return c
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return classOfState(pg.Code)
	}
	var connect *pgconn.ConnectError
	switch {
	case errors.As(err, &connect):
		return fault.Unavailable
	case errors.Is(err, context.Canceled):
		return fault.Interrupted
	case errors.Is(err, context.DeadlineExceeded):
		return fault.Timeout
	case isNetwork(err):
		return fault.Unavailable
	}
	return fault.Internal
}

func classOfState(state string) fault.Class {
	switch state {
	case ReadOnlySQLTransaction, InvalidCatalogName, AdminShutdown, CrashShutdown, CannotConnectNow, DatabaseDropped,
		idleInTransactionEnd, transactionTimeoutEnd, idleSessionEnd:
		return fault.Unavailable
	case InsufficientPrivilege:
		return fault.Permission
	case LockNotAvailable, DeadlockDetected, ObjectInUse:
		return fault.Locked
	}
	if len(state) < 2 {
		return fault.Internal
	}
	switch state[:2] {
	case classConnection, classAuthorization, classResources:
		return fault.Unavailable
	case classData, classConstraint:
		return fault.Data
	}
	return fault.Internal
}

// isNetwork says whether err is the network's or a closed connection's.
func isNetwork(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE) || pgconn.SafeToRetry(err)
}

// isTransient says whether the same statement may succeed on a second try in a new transaction.
func isTransient(err error) bool {
	if errors.Is(err, context.Canceled) {
		return false
	}
	state := SQLState(err)
	switch state {
	case SerializationFailure, DeadlockDetected, TooManyConnections, LockNotAvailable, AdminShutdown, CrashShutdown, CannotConnectNow:
		return true
	case "":
		return isNetwork(err) && !isRefusedByClient(err)
	}
	return strings.HasPrefix(state, classConnection)
}

// isStarting says whether a server that is starting could give err when it is connected to.
func isStarting(err error) bool {
	var connect *pgconn.ConnectError
	switch state := SQLState(err); state {
	case "":
		return (isNetwork(err) || errors.As(err, &connect)) && !errors.Is(err, context.Canceled) && !isRefusedByClient(err)
	case CannotConnectNow, AdminShutdown, CrashShutdown, TooManyConnections:
		return true
	default:
		return strings.HasPrefix(state, classConnection)
	}
}

// IsStandby says whether a connection was refused because every host that answered is a standby: in a failover until one is promoted.
func IsStandby(err error) bool { return errors.Is(err, errStandby) }

// isRefusedByClient says whether it was this side that gave up on an answering server.
func isRefusedByClient(err error) bool { return errors.Is(err, errStandby) }

// Hint says what to do about an error of the server, or "".
func Hint(err error) string {
	if h := fault.HintOf(err); h != "" {
		return h
	}
	state := SQLState(err)
	switch state {
	case ReadOnlySQLTransaction:
		return "the server is a standby or was demoted: name the primary, or all hosts in one URL (postgres://host1,host2/database)"
	case InvalidCatalogName:
		return "create the database, or name an existing one"
	case InsufficientPrivilege:
		return "auditdb doctor lists the missing grants"
	case TooManyConnections:
		return "wait for connections to end, or raise max_connections"
	case OutOfMemory:
		return "raise max_locks_per_transaction, which needs a restart of the server"
	case LockNotAvailable, DeadlockDetected:
		return "wait for the other transaction to end, or allow more time with --wait"
	}
	if strings.HasPrefix(state, classAuthorization) {
		return "check user and password (PGPASSWORD, password file) and the server's pg_hba.conf"
	}
	return ""
}
