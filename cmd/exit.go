package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/pflag"

	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/internal/postgres"
)

// Exit codes that no class of error decides.
const (
	exitDone    = 0
	exitTimeout = 124
	signalBase  = 128 // a shell's exit code of a process that a signal ended is 128 + its number
)

// errTimeout is why a context ended when --timeout ran out.
var errTimeout = errors.New("--timeout ran out")

// signalError is why a context ended when a signal came.
type signalError struct{ signal os.Signal }

// Error names the signal.
func (e signalError) Error() string { return "stopped by " + e.name() }

func (e signalError) name() string {
	switch e.signal {
	case os.Interrupt:
		return "SIGINT"
	case syscall.SIGTERM:
		return "SIGTERM"
	case syscall.SIGHUP:
		return "SIGHUP"
	}
	return e.signal.String()
}

func (e signalError) code() int {
	if n, ok := e.signal.(syscall.Signal); ok {
		return signalBase + int(n)
	}
	return signalBase + int(syscall.SIGINT)
}

// exitCode is the one place where a class of error becomes a number.
func exitCode(c fault.Class) int {
	switch c {
	case "":
		return exitDone
	case fault.Usage, fault.Config:
		return 2
	case fault.Unavailable:
		return 3
	case fault.Integrity:
		return 4
	case fault.Locked:
		return 5
	case fault.Refused:
		return 6
	case fault.Timeout:
		return exitTimeout
	case fault.Interrupted:
		return signalBase + int(syscall.SIGINT)
	case fault.Permission, fault.Data, fault.Internal:
		return 1
	}
	return 1
}

// classes orders the classes for errors that stand for several: the first is the worst. What could not be done at all goes before
// what was found, and that before what may be tried again.
func classes() []fault.Class {
	return []fault.Class{
		fault.Interrupted, fault.Timeout, fault.Internal, fault.Data, fault.Permission, fault.Integrity,
		fault.Unavailable, fault.Refused, fault.Locked, fault.Config, fault.Usage,
	}
}

// classOf gives the class of err; of joined errors the worst.
func classOf(err error) fault.Class {
	switch e := err.(type) { //nolint:errorlint // walks the chain itself
	case nil:
		return ""
	case *fault.Error:
		return e.Class
	case interface{ Unwrap() []error }:
		found := []fault.Class{}
		for _, one := range e.Unwrap() {
			found = append(found, classOf(one))
		}
		return worst(found)
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil && fault.ClassOf(inner) != "" {
			return classOf(inner)
		}
	}
	var file *fs.PathError
	if errors.As(err, &file) { // an error number looks like a network's
		return fault.Internal
	}
	return postgres.Class(err)
}

func worst(found []fault.Class) fault.Class {
	for _, c := range classes() {
		for _, f := range found {
			if f == c {
				return c
			}
		}
	}
	return ""
}

// outcome is how a command ended.
type outcome struct {
	code    int
	class   fault.Class
	message string
	hint    string
	state   string
}

// pluginCode ends health as monitoring plugins end: its document has said everything.
type pluginCode int

// Error names the code.
func (c pluginCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// Exit codes of monitoring plugins for what is no finding.
const (
	pluginCritical = 2
	pluginUnknown  = 3
)

// asPlugin changes how an error of health ends the process: a monitor takes 1 and 2 for findings. A signal stays one.
func (o outcome) asPlugin() outcome {
	switch o.class {
	case fault.Interrupted:
	case fault.Timeout:
		o.code = pluginCritical
	default:
		o.code = pluginUnknown
	}
	return o
}

// judge turns the error of a command into its outcome. A command that failed after a signal or --timeout failed because of that.
func judge(err, ended error) outcome {
	if err == nil {
		return outcome{}
	}
	o := outcome{class: classOf(err), message: oneLine(err.Error()), hint: postgres.Hint(err), state: postgres.SQLState(err)}
	o.code = exitCode(o.class)
	var sig signalError
	switch {
	case errors.As(ended, &sig):
		o.class, o.code, o.state = fault.Interrupted, sig.code(), ""
		o.message = because(err, ended, sig.Error())
	case errors.Is(ended, errTimeout):
		o.class, o.code, o.state = fault.Timeout, exitTimeout, ""
		o.message = because(err, ended, errTimeout.Error())
		if o.hint == "" {
			o.hint = "allow more time with --timeout"
		}
	}
	return o
}

// because puts the reason for which a context ended in the place of what broke by it, and says it once, however many parts of a
// command ended by it.
func because(err, ended error, reason string) string {
	var parts []string
	for part := range strings.SplitSeq(oneLine(err.Error()), "; ") {
		for _, text := range broken(err, ended) {
			if what, ok := strings.CutSuffix(part, text); ok {
				part = what + reason
				break
			}
		}
		if !slices.Contains(parts, part) {
			parts = append(parts, part)
		}
	}
	tells := func(part string) bool { return strings.Contains(part, reason) }
	if len(parts) > 1 && slices.ContainsFunc(parts, func(part string) bool { return part != reason && tells(part) }) {
		parts = slices.DeleteFunc(parts, func(part string) bool { return part == reason })
	}
	message := strings.Join(parts, "; ")
	if !tells(message) {
		message += ": " + reason
	}
	return message
}

// broken lists what errors end with when a context has ended, longest first.
func broken(err, ended error) []string {
	texts := []string{"timeout: context already done: " + context.Canceled.Error(), context.Canceled.Error(), context.DeadlineExceeded.Error(), ended.Error()}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == postgres.QueryCanceled {
		texts = append([]string{oneLine(pg.Error())}, texts...)
	}
	return texts
}

// errorDoc is auditdb.error.v1.
type errorDoc struct {
	Code     int         `json:"code"`
	Class    fault.Class `json:"class"`
	Message  string      `json:"message"`
	Hint     *string     `json:"hint"`
	SQLState *string     `json:"sqlstate"`
}

// report writes the outcome of a command that failed as the last of standard error.
func (a *App) report(o outcome, asJSON bool) {
	o.message, o.hint = a.stderr.redact(o.message), a.stderr.redact(oneLine(o.hint))
	if asJSON {
		doc := errorDoc{Code: o.code, Class: o.class, Message: o.message, Hint: orNull(o.hint), SQLState: orNull(o.state)}
		if line, err := output.MarshalLine("error", doc); err == nil {
			_, _ = io.WriteString(a.Err, line+"\n") // nowhere is left to complain
			return
		}
	}
	name := "auditdb:"
	if _, ok := a.stderr.terminal(); ok && !a.Config.NoColor {
		name = "\x1b[31mauditdb:\x1b[0m"
	}
	text := fmt.Sprintf("%s %s\n", name, o.message)
	if o.hint != "" {
		text += "hint: " + o.hint + "\n"
	}
	_, _ = io.WriteString(a.Err, text) // nowhere is left to complain
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// usage is the error of a command line that cannot be understood.
func usage(path, hint, format string, args ...any) error {
	if hint == "" {
		hint = path + " --help"
	}
	err := fmt.Errorf(format, args...)
	if name := strings.TrimPrefix(path, "auditdb "); name != path {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return fault.New(fault.Usage, hint, "%w", err)
}

// unknownFlag gives the name of the flag that err says is unknown.
func unknownFlag(err error) (string, bool) {
	var e *pflag.NotExistError
	if errors.As(err, &e) {
		return e.GetSpecifiedName(), true
	}
	return "", false
}
