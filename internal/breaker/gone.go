package breaker

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
)

// Gone says whether an error means that what is behind an address cannot be used now: a connection that fails, a time that is over, a server or disk that
// says so. What it refuses (permissions, a wrong name or address) would be refused a minute later too, and shows that it is there.
func Gone(err error) bool {
	var call interface {
		error
		Service() string
		Unwrap() error
	} // a call of a cloud's library; one within it is for credentials, of another service
	if errors.As(err, &call) {
		if inner := call; errors.As(call.Unwrap(), &inner) {
			return false
		}
	}
	var answer interface{ HTTPStatusCode() int }
	if errors.As(err, &answer) {
		if code := answer.HTTPStatusCode(); code != 0 {
			return code >= 500 || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout
		}
	}
	var name *net.DNSError
	if errors.As(err, &name) && name.IsNotFound {
		return false
	}
	var conn *net.OpError
	if errors.As(err, &conn) {
		return conn.Op != "remote error" // of TLS: the other side refuses this one
	}
	var late interface{ Timeout() bool }
	if errors.As(err, &late) && late.Timeout() || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return true
	}
	for _, no := range []syscall.Errno{syscall.EIO, syscall.ESTALE, syscall.ENOTCONN, syscall.EHOSTDOWN, syscall.ECONNRESET} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// StatusError is an answer of a server over HTTP that is no success.
type StatusError struct {
	Code   int
	Status string
}

// Error gives the status.
func (e *StatusError) Error() string { return "the server answered " + e.Status }

// HTTPStatusCode is its number.
func (e *StatusError) HTTPStatusCode() int { return e.Code }
