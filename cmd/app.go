package cmd

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/term"

	"auditdb/internal/breaker"
	"auditdb/internal/config"
	"auditdb/internal/fault"
	"auditdb/internal/job"
	"auditdb/internal/output"
	"auditdb/internal/postgres"
	"auditdb/internal/redact"
	"auditdb/internal/redis"
	"auditdb/internal/tracing"
	"auditdb/pkg/cache"
	"auditdb/pkg/integrity"
)

// App is what commands share. Dependencies are opened on first use, so --help and completion never connect.
type App struct {
	In       io.Reader
	Out, Err io.Writer
	Now      func() time.Time // the only clock
	Config   *config.Config   // effective configuration; set before RunE
	Log      *slog.Logger     // to standard error
	Printer  *output.Printer  // data to standard output

	stderr *messages
	help   *lossWriter  // to standard output
	ended  func() error // why the command's context ended: a signal, --timeout, or nil
	limit  context.CancelFunc

	mu        sync.Mutex
	db        *postgres.DB
	redis     *redis.Client
	redisGone bool
	routers   []*postgres.Router
	breakers  map[string]*breaker.Breaker // by name
	cache     *cache.Cache
	runs      []*job.Run
	logs      []*integrity.Log // opened for writing
	summary   any
	trace     *tracing.Trace // nil: none is wanted
}

func newApp(in io.Reader, out, errOut io.Writer, now func() time.Time) *App {
	stderr := &messages{w: errOut, redactor: redact.NewRedactor()}
	return &App{
		In: in, Out: out, Err: stderr, Now: now,
		Config:  &config.Config{},
		Log:     slog.New(slog.DiscardHandler),
		Printer: &output.Printer{Out: out, Format: output.TableFormat},
		stderr:  stderr,
		ended:   func() error { return nil },
		limit:   func() {},
	}
}

// Postgres opens the configured database on first use; Main closes it. command is the command's path with dots or spaces,
// e.g. "partition.create", and becomes a part of application_name. No database named anywhere is a configuration error (2). With
// redis.required a command that changes something is refused (3) while Redis does not answer, dry or not.
func (a *App) Postgres(ctx context.Context, command string) (*postgres.DB, error) {
	if err := a.requireRedis(ctx, command); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.db != nil {
		return a.db, nil
	}
	if !a.Config.NamesDatabase() {
		return nil, errNoDatabase()
	}
	db, err := postgres.Open(ctx, postgres.Options{
		URL:         a.Config.Database.URL,
		Application: strings.ReplaceAll(command, " ", "."),
		MaxConns:    a.Config.Database.MaxConns,
		LockTimeout: a.Config.LockTimeout,
		WaitForDB:   a.Config.WaitForDB,
		Log:         a.Log,
	})
	if err != nil {
		return nil, err
	}
	a.db = db
	return db, nil
}

func errNoDatabase() error {
	return fault.New(fault.Config,
		"name one with --database-url, AUDITDB_DATABASE_URL or DATABASE_URL, database.url in auditdb.yaml, or PGHOST, PGSERVICE or PGDATABASE",
		"connect to PostgreSQL: no database is named")
}

// Emit writes a command's answer in the chosen format. doc is a struct with JSON tags; the schema key is put before its own keys.
func (a *App) Emit(command string, doc any, table func(*output.Table)) error {
	return a.Printer.Emit(command, doc, table)
}

// EmitList is Emit for an answer that is one list (a slice of structs inside doc), which CSV can show as well.
// The command must also be marked with listOutput, so that -o csv is accepted.
func (a *App) EmitList(command string, doc, list any, table func(*output.Table)) error {
	return a.Printer.EmitList(command, doc, list, table)
}

// Confirm asks on the terminal whether to go on with what, a phrase such as "drop 3 partitions of public.audit_log".
// It returns nil with --yes, and a refused error (6) on a no or where there is no terminal to ask on.
func (a *App) Confirm(ctx context.Context, what string) error {
	if a.Config.Yes {
		return nil
	}
	const hint = "look at it with --dry-run, then confirm with --yes"
	if _, ok := a.stderr.terminal(); !ok {
		return fault.New(fault.Refused, hint, "%s: not confirmed, and there is no terminal to ask on", what)
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return fault.New(fault.Refused, hint, "%s: not confirmed, and there is no terminal to ask on", what)
	}
	if _, err := fmt.Fprintf(tty, "%s? [y/N] ", what); err != nil {
		return fault.New(fault.Refused, hint, "%s: ask for confirmation: %w", what, err)
	}
	answer := make(chan string, 1)
	go func() { // outlives a cancelled question until the process ends: a terminal's read cannot be interrupted
		line, _ := bufio.NewReader(tty).ReadString('\n')
		answer <- line
	}()
	select {
	case <-ctx.Done():
		_, _ = io.WriteString(tty, "\n") // ends the line of the question
		return fmt.Errorf("%s: not confirmed: %w", what, context.Cause(ctx))
	case line := <-answer:
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "y", "yes":
			return nil
		}
		return fault.New(fault.Refused, "", "%s: not confirmed", what)
	}
}

// Progress shows how far work has come: a bar on a terminal, else a log line every 30 s; nothing with --quiet. total 0 means not
// known. The caller ends it with Done before it prints anything.
func (a *App) Progress(label string, total int64, unit output.Unit) output.Progress {
	if a.Config.Quiet {
		return output.Silent()
	}
	if _, ok := a.stderr.terminal(); ok && os.Getenv("TERM") != "dumb" {
		a.stderr.bars.Add(1)
		return bar{output.Bar(barWriter{a.stderr}, label, total, unit), a.stderr}
	}
	return output.LogLines(a.Log, label, total, unit)
}

// Warn writes one warning line to standard error.
func (a *App) Warn(format string, args ...any) {
	a.Log.Warn(fmt.Sprintf(format, args...))
}

// messages is standard error: every write is redacted, one at a time.
type messages struct {
	mu       sync.Mutex
	w        io.Writer
	redactor *redact.Redactor
	bars     atomic.Int32 // progress bars on the terminal
}

// bar is a progress bar among messages.
type bar struct {
	output.Progress
	on *messages
}

// Done takes the bar away.
func (b bar) Done() {
	b.Progress.Done()
	b.on.bars.Add(-1)
}

// barWriter draws on the terminal between messages.
type barWriter struct{ m *messages }

// Write draws.
func (b barWriter) Write(p []byte) (int, error) {
	b.m.mu.Lock()
	defer b.m.mu.Unlock()
	return b.m.w.Write(p)
}

// Write masks what is secret in p, which has to be whole lines.
func (m *messages) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	erase := ""
	if m.bars.Load() > 0 {
		erase = "\r\x1b[K" // the bar is drawn again below the message
	}
	if _, err := io.WriteString(m.w, erase+m.redactor.Redact(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (m *messages) setRedactor(r *redact.Redactor) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.redactor = r
}

func (m *messages) redact(s string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.redactor.Redact(s)
}

func (m *messages) terminal() (*os.File, bool) { return terminal(m.w) }

// terminal gives w as a file when it is a terminal.
func terminal(w any) (*os.File, bool) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, false
	}
	return f, true
}
