package cmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"auditdb/internal/fault"
)

func TestExitCodes(t *testing.T) {
	t.Parallel()
	pg := func(state string) error { return fmt.Errorf("do it: %w", &pgconn.PgError{Code: state, Message: "m"}) }
	interrupted, terminated := signalError{os.Interrupt}, signalError{syscall.SIGTERM}
	tests := []struct {
		name  string
		err   error
		ended error
		code  int
		class fault.Class
	}{
		{"done", nil, nil, 0, ""},
		{"done in spite of a signal", nil, interrupted, 0, ""},
		{"usage", fault.New(fault.Usage, "", "x"), nil, 2, fault.Usage},
		{"config", fault.New(fault.Config, "", "x"), nil, 2, fault.Config},
		{"unavailable", fmt.Errorf("a: %w", fault.New(fault.Unavailable, "", "x")), nil, 3, fault.Unavailable},
		{"integrity", fault.New(fault.Integrity, "", "x"), nil, 4, fault.Integrity},
		{"locked", fault.New(fault.Locked, "", "x"), nil, 5, fault.Locked},
		{"refused", fault.New(fault.Refused, "", "x"), nil, 6, fault.Refused},
		{"data", fault.New(fault.Data, "", "x"), nil, 1, fault.Data},
		{"plain", errors.New("x"), nil, 1, fault.Internal},
		{"denied", pg("42501"), nil, 1, fault.Permission},
		{"log-in", pg("28P01"), nil, 3, fault.Unavailable},
		{"no database", pg("3D000"), nil, 3, fault.Unavailable},
		{"table lock", pg("55P03"), nil, 5, fault.Locked},
		{"bad value", pg("22P02"), nil, 1, fault.Data},
		{"full disk", fmt.Errorf("write: %w", &os.PathError{Op: "write", Path: "f", Err: syscall.ENOSPC}), nil, 1, fault.Internal},
		{"SIGINT", context.Canceled, interrupted, 130, fault.Interrupted},
		{"SIGTERM", fmt.Errorf("copy: %w", context.Canceled), terminated, 143, fault.Interrupted},
		{"SIGTERM seen as a cancelled statement", pg("57014"), terminated, 143, fault.Interrupted},
		{"SIGHUP", context.Canceled, signalError{syscall.SIGHUP}, 129, fault.Interrupted},
		{"timeout", fmt.Errorf("copy: %w", context.DeadlineExceeded), errTimeout, 124, fault.Timeout},
		{"worst of several", errors.Join(fault.New(fault.Locked, "", "x"), fault.New(fault.Data, "", "y"), fault.New(fault.Refused, "", "z")), nil, 1, fault.Data},
		{"worst of several, wrapped", fmt.Errorf("a: %w", errors.Join(fault.New(fault.Locked, "", "x"), fault.New(fault.Integrity, "", "y"))), nil, 4, fault.Integrity},
		{"class over several", fault.New(fault.Refused, "", "r: %w", errors.Join(errors.New("x"), pg("42501"))), nil, 6, fault.Refused},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if o := judge(test.err, test.ended); o.code != test.code || o.class != test.class {
				t.Errorf("code %d %s, want %d %s", o.code, o.class, test.code, test.class)
			}
		})
	}
}

func TestMessageOfInterruptions(t *testing.T) {
	t.Parallel()
	for want, o := range map[string]outcome{
		"copy audit.ndjson: stopped by SIGINT":         judge(fmt.Errorf("copy audit.ndjson: %w", context.Canceled), signalError{os.Interrupt}),
		"copy: --timeout ran out":                      judge(fmt.Errorf("copy: %w", context.DeadlineExceeded), errTimeout),
		"copy: 3 of 5 sources done: stopped by SIGINT": judge(errors.New("copy: 3 of 5 sources done"), signalError{os.Interrupt}),
		"stopped by SIGHUP":                            judge(errors.Join(signalError{syscall.SIGHUP}, context.Canceled), signalError{syscall.SIGHUP}),
		"read a: stopped by SIGINT; read b: stopped by SIGINT": judge(errors.Join(fmt.Errorf("read a: %w", signalError{os.Interrupt}), signalError{os.Interrupt},
			fmt.Errorf("read b: %w", context.Canceled), fmt.Errorf("read a: %w", context.Canceled)), signalError{os.Interrupt}),
		"look: --timeout ran out":            judge(errors.Join(errTimeout, fmt.Errorf("look: %w", context.DeadlineExceeded)), errTimeout),
		"--timeout ran out":                  judge(errors.Join(errTimeout, errTimeout), errTimeout),
		"verify public.x: stopped by SIGINT": judge(fmt.Errorf("verify public.x: %w", &pgconn.PgError{Severity: "ERROR", Code: "57014", Message: "canceling statement due to user request"}), signalError{os.Interrupt}),
		"a; b: stopped by SIGINT":            judge(errors.Join(errors.New("a"), errors.New("b"), errors.New("a")), signalError{os.Interrupt}),
	} {
		if o.message != want {
			t.Errorf("%q, want %q", o.message, want)
		}
	}
}

// run executes one made-up command under the root's manners.
func run(t *testing.T, do func(app *App, cmd *cobra.Command) error, args ...string) (code int, out, errOut string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	app := newApp(strings.NewReader(""), &stdout, &stderr, time.Now)
	root := newRootCmd(app)
	sub := &cobra.Command{Use: "try", RunE: func(cmd *cobra.Command, _ []string) error { return do(app, cmd) }}
	finishTree(sub)
	root.AddCommand(sub)
	root.SetArgs(append([]string{"try", "--config", os.DevNull}, args...))
	cmd, err := app.execute(t.Context(), root)
	code = app.end(t.Context(), cmd, err, asksJSON(args))
	return code, stdout.String(), stderr.String()
}

func TestPanicIsOneLine(t *testing.T) {
	t.Parallel()
	boom := func(*App, *cobra.Command) error { panic("boom\nsecond line") }
	code, _, stderr := run(t, boom)
	if code != 1 || stderr != "auditdb: internal error: boom; second line\nhint: this is a bug; --log-level debug shows where\n" {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if _, _, stderr = run(t, boom, "--log-level", "debug"); !strings.Contains(stderr, "exit_test.go") {
		t.Errorf("no stack at debug level: %s", stderr)
	}
}

func TestTimeoutEndsTheContext(t *testing.T) {
	t.Parallel()
	code, _, stderr := run(t, func(_ *App, cmd *cobra.Command) error {
		<-cmd.Context().Done()
		return fmt.Errorf("wait: %w", cmd.Context().Err())
	}, "--timeout", "1ms", "-o", "json")
	if code != 124 || !strings.Contains(stderr, `"code":124,"class":"timeout","message":"wait: --timeout ran out"`) {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

func TestNoSecretIsShown(t *testing.T) {
	t.Parallel()
	const url = "postgres://joe:Tr0ub4dor@db.example/audit"
	for _, format := range []string{"table", "json"} {
		code, stdout, stderr := run(t, func(app *App, _ *cobra.Command) error {
			app.Log.Debug("opening " + url)
			app.Warn("retry %s", url)
			_, _ = io.WriteString(app.Err, "raw Tr0ub4dor\n")
			return fault.New(fault.Unavailable, "try "+url, "connect to %s with Tr0ub4dor: refused", url)
		}, "--database-url", url, "--log-level", "debug", "-o", format)
		if code != 3 || strings.Contains(stdout+stderr, "Tr0ub4dor") || !strings.Contains(stderr, "postgres://joe:***@db.example/audit") {
			t.Errorf("exit %d: %s%s", code, stdout, stderr)
		}
		if !strings.Contains(stderr, "--database-url holds a password") {
			t.Errorf("no warning: %s", stderr)
		}
	}
}

func TestFlagGroupsAreUsage(t *testing.T) {
	t.Parallel()
	try := func(mark func(*cobra.Command), args ...string) string {
		t.Helper()
		root := newRootCmd(newApp(strings.NewReader(""), io.Discard, io.Discard, time.Now))
		sub := &cobra.Command{Use: "try", RunE: func(*cobra.Command, []string) error { return nil }}
		for _, name := range []string{"keep", "stop", "other"} {
			sub.Flags().Bool(name, false, "")
		}
		mark(sub)
		finishTree(sub)
		root.AddCommand(sub)
		root.SetArgs(append([]string{"try", "--config", os.DevNull}, args...))
		o := judge(root.ExecuteContext(t.Context()), nil)
		if o.code != 2 || o.class != fault.Usage || o.hint != "auditdb try --help" {
			t.Errorf("%v: exit %d, %s, hint %q", args, o.code, o.class, o.hint)
		}
		return o.message
	}
	for want, got := range map[string]string{
		"try: --keep, --stop do not go together":             try(func(c *cobra.Command) { c.MarkFlagsMutuallyExclusive("keep", "stop", "other") }, "--keep", "--stop"),
		"try: --stop is missing: --keep, --stop go together": try(func(c *cobra.Command) { c.MarkFlagsRequiredTogether("keep", "stop") }, "--keep"),
		"try: one of --keep, --stop is needed":               try(func(c *cobra.Command) { c.MarkFlagsOneRequired("keep", "stop") }),
		`try: required flag(s) "keep" not set`:               try(func(c *cobra.Command) { _ = c.MarkFlagRequired("keep") }),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestConfirmWithoutTerminal(t *testing.T) {
	t.Parallel()
	ask := func(app *App, cmd *cobra.Command) error { return app.Confirm(cmd.Context(), "drop 3 partitions") }
	if code, _, stderr := run(t, ask); code != 6 || !strings.Contains(stderr, "--yes") || !strings.Contains(stderr, "drop 3 partitions: not confirmed") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if code, _, stderr := run(t, ask, "--yes"); code != 0 || stderr != "" {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

func TestLogFormats(t *testing.T) {
	t.Parallel()
	say := func(app *App, _ *cobra.Command) error {
		app.Log.WithGroup("g").With(slog.Int("a", 1)).Info("a\nb", slog.String("c", "d e"), slog.Time("t", time.Unix(0, 0)))
		app.Warn("careful")
		return nil
	}
	_, _, stderr := run(t, say)
	if want := "auditdb: a; b g.a=1 g.c=\"d e\" g.t=1970-01-01T00:00:00Z\nauditdb: warning: careful\n"; stderr != want {
		t.Errorf("text: %q, want %q", stderr, want)
	}
	_, _, stderr = run(t, say, "--quiet")
	if want := "auditdb: warning: careful\n"; stderr != want {
		t.Errorf("quiet: %q", stderr)
	}
	_, _, stderr = run(t, say, "--log-format", "json")
	if !strings.Contains(stderr, `"level":"INFO","msg":"a\nb","g":{"a":1,"c":"d e"`) || !strings.Contains(stderr, `Z","level":"WARN","msg":"careful"}`) {
		t.Errorf("json: %s", stderr)
	}
}
