// Package fault gives an error a class, which decides the exit code, and a hint, which tells the user what to do next.
package fault

import (
	"errors"
	"fmt"
)

// Class says what kind of failure an error is. The strings are part of the command line's contract (auditdb.error.v1).
type Class string

// The classes and, through cmd/exit.go, their exit codes.
const (
	Usage       Class = "usage"       // 2
	Config      Class = "config"      // 2
	Unavailable Class = "unavailable" // 3
	Permission  Class = "permission"  // 1
	Locked      Class = "locked"      // 5
	Refused     Class = "refused"     // 6
	Data        Class = "data"        // 1
	Integrity   Class = "integrity"   // 4
	Interrupted Class = "interrupted" // 130, 143
	Timeout     Class = "timeout"     // 124
	Internal    Class = "internal"    // 1
)

// Error is an error with a class and an optional hint.
type Error struct {
	Class Class
	Hint  string
	Err   error
}

// Error returns the message without the hint, which is printed on a line of its own.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap lets errors.Is and errors.As see the cause.
func (e *Error) Unwrap() error { return e.Err }

// New makes an error of class c. The format may wrap a cause with %w.
func New(c Class, hint, format string, args ...any) error {
	return &Error{Class: c, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// ClassOf returns the class of the outermost Error in err's chain, or "" when there is none.
func ClassOf(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return ""
}

// HintOf returns the first non-empty hint in err's chain.
func HintOf(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}
