package cmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
)

// play runs the story, step by step. A step that ends with another exit code than the story says is an error.
func (d *demo) play(ctx context.Context) error {
	d.chapter("The schema, and a key that stays outside the database")
	if err := d.step(ctx, "migrate", "up"); err != nil {
		return err
	}
	if err := d.step(ctx, "integrity", "keygen", "-f", d.file("integrity.key")); err != nil {
		return err
	}
	if err := d.load(ctx); err != nil {
		return err
	}
	d.chapter("Check every row against the log")
	if err := d.step(ctx, "verify-integrity"); err != nil {
		return err
	}
	if err := d.tamper(ctx); err != nil {
		return err
	}
	d.chapter("What a prune would remove, as a plan with the exact SQL")
	return d.step(ctx, "partition", "prune", "--older-than", "365d", "--dry-run")
}

func (d *demo) load(ctx context.Context) error {
	if d.o.input != "" {
		d.chapter("Your events, with the partitions that they need")
		if err := d.step(ctx, "ingest", "--mapping", d.o.mapping, "--create-partitions", d.o.input); err != nil {
			return err
		}
	} else {
		d.chapter("Monthly partitions for the last %d months and the next 3", demoMonths)
		if err := d.step(ctx, "partition", "create", "--quiet", "--behind", fmt.Sprint(demoMonths-1)); err != nil {
			return err
		}
		events, err := d.generate()
		if err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		d.chapter("%s generated events, by binary COPY straight into the partitions", humanize.Comma(int64(d.o.events)))
		if err := d.step(ctx, "ingest", events); err != nil {
			return err
		}
	}
	return d.step(ctx, "partition", "list", "--exact")
}

// tamper changes one row as a superuser who switches the guard triggers off, and expects verify-integrity to name that row.
func (d *demo) tamper(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, d.pg.URL("postgres"))
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing to do about it
	var id int64
	if err := conn.QueryRow(ctx, `SELECT id FROM public.audit_log ORDER BY (status = 'failure') DESC, "timestamp" LIMIT 1`).Scan(&id); err != nil {
		return fmt.Errorf("demo: choose a row: %w", err)
	}
	sql := fmt.Sprintf("SET session_replication_role = replica; UPDATE public.audit_log SET status = 'tampered' WHERE id = %d;", id)
	d.chapter("A superuser changes one row, past the guard triggers")
	d.say("\n$ psql -c \"%s\"", sql)
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("demo: tamper: %w", err)
	}
	out, err := d.run(ctx, 4, "verify-integrity")
	if err != nil {
		return err
	}
	if !strings.Contains(out, fmt.Sprint(id)) {
		return fault.New(fault.Internal, "", "demo: verify-integrity did not name row %d", id)
	}
	d.say("Found and named: row %d (exit code 4).", id)
	return nil
}

// chapter begins the next part of the story.
func (d *demo) chapter(format string, args ...any) {
	d.chapters++
	d.say("\n%d. "+format, append([]any{d.chapters}, args...)...)
}

// step runs a command that has to end with exit code 0.
func (d *demo) step(ctx context.Context, args ...string) error {
	_, err := d.run(ctx, 0, args...)
	return err
}

// run runs one command as a user would, shows it with its output, and returns the output.
func (d *demo) run(ctx context.Context, want int, args ...string) (string, error) {
	line := "auditdb " + strings.Join(args, " ")
	d.say("\n$ %s", line)
	var out bytes.Buffer
	c := exec.CommandContext(ctx, d.exe, args...) //nolint:gosec // this very program
	c.Env = d.env
	show := &excerpt{w: d.text, lines: demoLines}
	c.Stdout, c.Stderr = io.MultiWriter(show, &out), d.app.Err
	// A group of its own: an interrupt on the terminal reaches the step once, through ctx.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGINT) }
	c.WaitDelay = 30 * time.Second
	began := d.app.Now()
	err := c.Run()
	show.end()
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if exit := (&exec.ExitError{}); err != nil && !errors.As(err, &exit) {
		return "", fmt.Errorf("demo: run %s: %w", line, err)
	}
	code := c.ProcessState.ExitCode()
	d.doc.Steps = append(d.doc.Steps, demoStep{Command: line, ExitCode: code, ElapsedSeconds: d.app.Now().Sub(began).Seconds()})
	if code != want {
		return "", fault.New(fault.Internal, "", "demo: %s ended with exit code %d, not %d", line, code, want)
	}
	return out.String(), nil
}

// demoLines is how many lines of a step's output the demo shows: enough for the tables, not for the SQL of every partition.
const demoLines = 42

// excerpt passes the first lines on and counts the rest.
type excerpt struct {
	w            io.Writer
	lines, after int
}

// Write shows what is left of the lines.
func (e *excerpt) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		if e.lines == 0 {
			e.after++
			continue
		}
		e.lines--
		if _, err := e.w.Write(line); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (e *excerpt) end() {
	if e.after > 0 {
		_, _ = fmt.Fprintf(e.w, "… and %d lines more\n", e.after)
	}
}
