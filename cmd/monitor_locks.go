package cmd

import (
	"context"
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
	t.Line("%s for a lock.", map[bool]string{true: "1 session waits", false: strconv.Itoa(d.Waiting) + " sessions wait"}[d.Waiting == 1])
	lockTable(t, d.Sessions)
}

// lockTable draws the tree by indenting the pid.
func lockTable(t *output.Table, sessions []monitor.LockSession) {
	t.Header("pid", "application", "user", "waits", "transaction", "state", "lock", "statement")
	for _, s := range sessions {
		pid := strings.Repeat("  ", s.Depth) + strconv.Itoa(s.PID)
		if s.PID == 0 {
			pid = strings.Repeat("  ", s.Depth) + "prepared transaction"
		}
		t.Row(pid, orDash(s.Application), orDash(s.User), secondsCell(s.WaitSeconds), secondsCell(s.TransactionSeconds), orDash(s.State),
			orDash(strings.TrimSpace(strings.TrimSuffix(s.Mode, "Lock")+" "+s.Object)), orDash(shorten(s.Query, 60)))
	}
}

// shorten cuts a text at a number of characters.
func shorten(s string, most int) string {
	runes := []rune(s)
	if len(runes) <= most {
		return s
	}
	return string(runes[:most-1]) + "…"
}
