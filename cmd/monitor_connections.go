package cmd

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/output"
	"auditdb/pkg/monitor"
)

// monitorConnectionsDoc is auditdb.monitor.connections.v1.
type monitorConnectionsDoc struct{ monitor.Connections }

func newMonitorConnectionsCmd(app *App) *cobra.Command {
	var every *time.Duration
	cmd := &cobra.Command{
		Use:     "connections",
		Short:   "Show who is connected, in which state, and how much room is left",
		Long:    "Client connections of the whole server by user, application, database and state, with the longest time in a transaction and in that state.",
		Example: "  auditdb monitor connections\n  auditdb monitor connections -o csv",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return app.watch(cmd.Context(), "monitor connections", *every, func(ctx context.Context) error { return runMonitorConnections(ctx, app) })
		},
	}
	every = watchFlag(cmd.Flags())
	return listOutput(cmd)
}

func runMonitorConnections(ctx context.Context, app *App) error {
	db, err := app.Postgres(ctx, "monitor.connections")
	if err != nil {
		return err
	}
	if err := app.warnOfHidden(ctx, db); err != nil {
		return err
	}
	found, err := monitor.ReadConnections(ctx, db.Pool())
	if err != nil {
		return err
	}
	doc := monitorConnectionsDoc{*found}
	return app.EmitList("monitor.connections", doc, doc.Groups, doc.print)
}

func (d monitorConnectionsDoc) print(t *output.Table) {
	t.Line("%d of %d connections are used; %d are reserved.", d.Used, d.Max, d.Reserved)
	t.Header("user", "application", "database", "state", "count", "transaction", "in state")
	for _, g := range d.Groups {
		t.Row(cutCell(g.User), cutCell(g.Application), cutCell(g.Database), orDash(stateText(g.State)), g.Count, secondsCell(g.TransactionSeconds), secondsCell(g.StateSeconds))
	}
}
