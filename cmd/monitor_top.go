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
	if err := app.warnOfHidden(ctx, db); err != nil {
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
	if rows := app.screenRows(); rows > 0 {
		limit = max(min(limit, rows-topLines), 1)
	}
	if doc.Sessions, err = monitor.Activity(ctx, db.Pool(), limit); err != nil {
		return nil, err
	}
	return &now, app.Emit("monitor.top", doc, doc.print)
}

// topLines is how many lines of the screen what is above and below the sessions takes.
const topLines = 8

func (d monitorTopDoc) print(t *output.Table) {
	version, _, _ := strings.Cut(d.Version, " ")
	t.Line("PostgreSQL %s, %s, up %s. Connections: %d of %d (%d reserved).", version, map[bool]string{true: "standby", false: "primary"}[d.Standby],
		output.HumanDuration(time.Duration(d.UptimeSeconds)*time.Second), d.Connections.Used, d.Connections.Max, d.Connections.Reserved)
	if r := d.Rates; r.Transactions != nil {
		hit := ""
		if r.HitRatio != nil {
			hit = fmt.Sprintf(", %.1f%% of blocks from the cache", 100**r.HitRatio)
		}
		t.Line("%s transactions/s, %s rows inserted/s%s.", rateText(*r.Transactions), rateText(*r.RowsInserted), hit)
	}
	t.Line("")
	if len(d.Sessions) == 0 {
		t.Line("No other session is busy.")
		return
	}
	blockers := map[int][]int{}
	waits := 0
	for _, s := range d.Waiting {
		if blockers[s.PID] = s.BlockedBy; len(s.BlockedBy) > 0 {
			waits++
		}
	}
	t.Header("pid", "open", "runs", "state", "waits for", "application", "query")
	for _, s := range d.Sessions {
		var runs any
		if s.State == "active" {
			runs = secondsCell(s.QuerySeconds)
		}
		t.Row(strconv.Itoa(s.PID), secondsCell(s.TransactionSeconds), runs, stateText(s.State),
			waitText(s, blockers[s.PID]), cutCell(s.Application), cutCell(s.Query))
	}
	if waits > 0 {
		t.Line("%s for a lock: auditdb monitor locks shows the tree.", waiting(waits))
	}
}

// waitText says whose lock a session waits for, or else what its server process does. That an idle one waits for its client goes without saying.
func waitText(s monitor.Session, blockers []int) any {
	switch {
	case len(blockers) == 1 && blockers[0] != 0:
		return fmt.Sprintf("lock of %d", blockers[0])
	case len(blockers) > 0:
		return fmt.Sprintf("%s of others", countOf(len(blockers), "lock"))
	case strings.HasPrefix(s.State, "idle"):
		return "-"
	}
	return orDash(s.Wait)
}

// rateText is a figure a second: whole, or with one digit where it is small.
func rateText(perSecond float64) string {
	if perSecond >= 10 {
		return output.Cell(int64(perSecond + 0.5))
	}
	return strconv.FormatFloat(perSecond, 'f', 1, 64)
}
