package cmd

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/output"
	"auditdb/pkg/monitor"
)

// monitorTopDoc is auditdb.monitor.top.v1.
type monitorTopDoc struct {
	Version       string                `json:"server_version"`
	Standby       bool                  `json:"standby"`
	UptimeSeconds float64               `json:"uptime_seconds"`
	Connections   connectionsUsed       `json:"connections"`
	Rates         monitor.Rates         `json:"rates"` // since the sample before; null in the first
	Waiting       []monitor.LockSession `json:"locks"`
	Sessions      []monitor.Session     `json:"sessions"`
}

type connectionsUsed struct {
	Used     int64 `json:"used"`
	Max      int64 `json:"max"`
	Reserved int64 `json:"reserved"`
}

func newMonitorTopCmd(app *App) *cobra.Command {
	var every *time.Duration
	var limit int
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show the server on one screen: load, locks, busy sessions",
		Long: "Transactions and inserted rows a second and the cache's hit ratio since the sample before, who waits for whose locks, and the sessions that\n" +
			"are not idle, the longest transactions first. With --watch it refreshes.",
		Example: "  auditdb monitor top --watch=2s\n  auditdb monitor top -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return usage(cmd.CommandPath(), "", "--limit must be at least 1")
			}
			var before *monitor.Counters
			return app.watch(cmd.Context(), "monitor top", *every, func(ctx context.Context) (err error) {
				before, err = runMonitorTop(ctx, app, limit, before)
				return err
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 15, "show so many sessions")
	every = watchFlag(cmd.Flags())
	return cmd
}

// runMonitorTop shows one sample and returns its counters for the next.
func runMonitorTop(ctx context.Context, app *App, limit int, before *monitor.Counters) (*monitor.Counters, error) {
	db, err := app.Postgres(ctx, "monitor.top")
	if err != nil {
		return nil, err
	}
	now, err := monitor.ReadCounters(ctx, db.Pool())
	if err != nil {
		return nil, err
	}
	connections, err := monitor.ReadConnections(ctx, db.Pool())
	if err != nil {
		return nil, err
	}
	doc := monitorTopDoc{
		Version: now.Version, Standby: now.Standby, UptimeSeconds: now.Uptime,
		Connections: connectionsUsed{Used: connections.Used, Max: connections.Max, Reserved: connections.Reserved},
	}
	if before != nil {
		doc.Rates = now.RatesSince(*before)
	}
	if doc.Waiting, err = monitor.Locks(ctx, db.Pool()); err != nil {
		return nil, err
	}
	if doc.Sessions, err = monitor.Activity(ctx, db.Pool(), limit); err != nil {
		return nil, err
	}
	return &now, app.Emit("monitor.top", doc, doc.print)
}

func (d monitorTopDoc) print(t *output.Table) {
	t.Line("PostgreSQL %s, %s, up %s. Connections: %d of %d (%d reserved).", d.Version, map[bool]string{true: "standby", false: "primary"}[d.Standby],
		output.HumanDuration(time.Duration(d.UptimeSeconds)*time.Second), d.Connections.Used, d.Connections.Max, d.Connections.Reserved)
	if r := d.Rates; r.Transactions != nil {
		hit := ""
		if r.HitRatio != nil {
			hit = ", " + output.Cell(100**r.HitRatio) + "% of blocks from the cache"
		}
		t.Line("%s transactions/s, %s rows inserted/s%s.", output.Cell(*r.Transactions), output.Cell(*r.RowsInserted), hit)
	}
	if len(d.Waiting) > 0 {
		t.Line("")
		lockTable(t, d.Waiting)
	}
	t.Line("")
	if len(d.Sessions) == 0 {
		t.Line("No other session is busy.")
		return
	}
	t.Header("pid", "application", "user", "state", "transaction", "statement for", "waits for", "statement")
	for _, s := range d.Sessions {
		t.Row(strconv.Itoa(s.PID), orDash(s.Application), orDash(s.User), s.State, secondsCell(s.TransactionSeconds), secondsCell(s.QuerySeconds), orDash(s.Wait), orDash(shorten(s.Query, 40)))
	}
}
