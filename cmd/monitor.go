package cmd

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"auditdb/internal/output"
	"auditdb/internal/postgres"
	"auditdb/pkg/monitor"
)

// monitorDocuments lists the documents of the monitor commands.
func monitorDocuments() map[string]any {
	return map[string]any{
		"monitor.locks": monitorLocksDoc{}, "monitor.slow-queries": monitorSlowDoc{}, "monitor.replicas": monitorReplicasDoc{},
		"monitor.connections": monitorConnectionsDoc{}, "monitor.growth": monitorGrowthDoc{}, "monitor.top": monitorTopDoc{},
	}
}

func newMonitorCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "monitor",
		Short: "What the server is doing now: locks, statements, connections, standbys, growth",
		Long: "Each command asks the server's own statistics, changes nothing, never resets them, and works on any database. --watch shows it again and\n" +
			"again. A role with pg_monitor sees everything; others see their own sessions and statements.",
		Example: "  auditdb monitor locks\n  auditdb monitor top --watch\n  auditdb monitor slow-queries --sort mean --min-mean 100ms",
	}
	cmd.AddCommand(newMonitorLocksCmd(app), newMonitorSlowCmd(app), newMonitorReplicasCmd(app), newMonitorConnectionsCmd(app), newMonitorGrowthCmd(app), newMonitorTopCmd(app))
	return cmd
}

const clearScreen = "\x1b[H\x1b[2J"

// watchFlag adds --watch, 0 where it is not given.
func watchFlag(f *pflag.FlagSet) *time.Duration {
	every := durationFlag(f, "watch", 0, "show it again every `INTERVAL`, until it is interrupted")
	f.Lookup("watch").NoOptDefVal = "5s"
	return every
}

// watch calls show once, or every so often until ctx ends. On a terminal each answer takes the place of the one before.
func (a *App) watch(ctx context.Context, command string, every time.Duration, show func(context.Context) error) error {
	if every < 0 {
		return usage("auditdb "+command, "", "--watch cannot be negative")
	}
	_, screen := terminal(a.Out)
	screen = screen && a.Printer.Format == output.TableFormat && every > 0
	for {
		if screen {
			if _, err := io.WriteString(a.Out, clearScreen); err != nil {
				return err
			}
		}
		if err := show(ctx); err != nil || every == 0 {
			return err
		}
		if !screen && a.Printer.Format == output.TableFormat {
			if _, err := io.WriteString(a.Out, "\n"); err != nil {
				return err
			}
		}
		timer := time.NewTimer(every)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}

// screenRows is how many lines the terminal has that a table is shown on; 0: it is shown on none.
func (a *App) screenRows() int {
	f, ok := terminal(a.Out)
	if !ok || a.Printer.Format != output.TableFormat {
		return 0
	}
	_, rows, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return rows
}

// warnOfHidden says that sessions of others are not shown as they are, and what would change that.
func (a *App) warnOfHidden(ctx context.Context, db *postgres.DB) error {
	grant, err := monitor.MissingGrant(ctx, db.Pool())
	if err == nil && grant != "" {
		a.Warn("the sessions of other users may not be seen: %s", grant)
	}
	return err
}

// stateText is a session's state in few letters.
func stateText(state string) string { return strings.Replace(state, "in transaction", "in trans", 1) }

// cutCell is a text that may be cut.
func cutCell(s string) any {
	if s == "" {
		return nil
	}
	return output.Cut(s)
}

// secondsCell is a span of time given in seconds, to about three digits.
func secondsCell(seconds *float64) any {
	if seconds == nil {
		return nil
	}
	d, unit := time.Duration(*seconds*float64(time.Second)), time.Millisecond
	switch {
	case d >= 10*time.Second:
		unit = time.Second
	case d >= time.Second:
		unit = 100 * time.Millisecond
	}
	return d.Round(unit)
}
