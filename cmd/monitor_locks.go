package cmd

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/output"
	"auditdb/pkg/monitor"
)

// monitorLocksDoc is auditdb.monitor.locks.v1.
type monitorLocksDoc struct {
	Waiting  int                   `json:"waiting"` // sessions that wait for a lock
	Sessions []monitor.LockSession `json:"sessions"`
}

func newMonitorLocksCmd(app *App) *cobra.Command {
	var every *time.Duration
	cmd := &cobra.Command{
		Use:   "locks",
		Short: "Show who waits for whose locks",
		Long: "A tree: sessions that wait for nobody but keep others waiting, below each those that wait for it. End the session at the top of a tree with\n" +
			"SELECT pg_cancel_backend(PID), or pg_terminate_backend(PID) where it is idle in a transaction. Statements are shown without their values.",
		Example: "  auditdb monitor locks\n  auditdb monitor locks --watch=2s",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return app.watch(cmd.Context(), "monitor locks", *every, func(ctx context.Context) error { return runMonitorLocks(ctx, app) })
		},
	}
	every = watchFlag(cmd.Flags())
	return listOutput(cmd)
}

func runMonitorLocks(ctx context.Context, app *App) error {
	db, err := app.Postgres(ctx, "monitor.locks")
	if err != nil {
		return err
	}
	if err := app.warnOfHidden(ctx, db); err != nil {
		return err
	}
	doc := monitorLocksDoc{}
	if doc.Sessions, err = monitor.Locks(ctx, db.Pool()); err != nil {
		return err
	}
	for _, s := range doc.Sessions {
		if len(s.BlockedBy) > 0 {
			doc.Waiting++
		}
	}
	return app.EmitList("monitor.locks", doc, doc.Sessions, doc.print)
}

func (d monitorLocksDoc) print(t *output.Table) {
	if len(d.Sessions) == 0 {
		t.Line("No session waits for a lock.")
		return
	}
	t.Line("%s for a lock.", waiting(d.Waiting))
	t.Header("pid", "session")
	for _, s := range d.Sessions {
		pid := strings.Repeat("  ", s.Depth) + strconv.Itoa(s.PID)
		if s.PID == 0 {
			pid = strings.Repeat("  ", s.Depth) + "-"
		}
		t.Row(pid, lockText(s))
		if s.Query != "" {
			t.Row("", output.Cut(s.Query))
		}
	}
	for _, s := range d.Sessions {
		if s.Depth == 0 && s.Blocks > 0 {
			t.Line("%s", unblock(s))
		}
	}
}

func waiting(sessions int) string {
	if sessions == 1 {
		return "1 session waits"
	}
	return strconv.Itoa(sessions) + " sessions wait"
}

// lockText says what a session waits for, or is in the way with, and whose it is.
func lockText(s monitor.LockSession) string {
	if s.PID == 0 {
		return "a prepared transaction"
	}
	var parts []string
	switch {
	case s.WaitSeconds != nil && s.Object != "":
		parts = append(parts, fmt.Sprintf("waits %s for %s on %s", output.Cell(secondsCell(s.WaitSeconds)), strings.TrimSuffix(s.Mode, "Lock"), s.Object))
	case s.TransactionSeconds != nil:
		parts = append(parts, orUnknown(s.State), "open for "+output.Cell(secondsCell(s.TransactionSeconds)))
	default:
		parts = append(parts, orUnknown(s.State))
	}
	whose := s.Application
	if s.User != "" {
		whose = strings.TrimSpace(whose + " of " + s.User)
	}
	if whose != "" {
		parts = append(parts, whose)
	}
	return strings.Join(parts, ", ")
}

// orUnknown is for what a role may not see.
func orUnknown(state string) string {
	if state == "" {
		return "state not known"
	}
	return state
}

// unblock is what ends the session that a tree of others waits for.
func unblock(s monitor.LockSession) string {
	switch {
	case s.PID == 0:
		return "Prepared transactions are in SELECT * FROM pg_prepared_xacts; ROLLBACK PREPARED 'GID' ends one."
	case s.State == "active":
		return fmt.Sprintf("To end what pid %d does: SELECT pg_cancel_backend(%d);", s.PID, s.PID)
	}
	return fmt.Sprintf("To end pid %d: SELECT pg_terminate_backend(%d);", s.PID, s.PID)
}

// shorten cuts a text at a number of characters.
func shorten(s string, most int) string {
	runes := []rune(s)
	if len(runes) <= most {
		return s
	}
	return string(runes[:most-1]) + "…"
}
