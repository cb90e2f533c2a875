package cmd

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/output"
	"auditdb/pkg/monitor"
)

// monitorReplicasDoc is auditdb.monitor.replicas.v1.
type monitorReplicasDoc struct{ monitor.Replication }

func newMonitorReplicasCmd(app *App) *cobra.Command {
	var every *time.Duration
	cmd := &cobra.Command{
		Use:   "replicas",
		Short: "Show how far standbys and replication slots are",
		Long: "On a primary: each connected standby with what it has not received, written to disk and replayed, and the WAL that slots keep. On a\n" +
			"standby: what it has received and not replayed. Lag is measured in bytes of WAL; times are the server's own. Also each of database.replicas as\n" +
			"queries see it: whether it is used, or why not.",
		Example: "  auditdb monitor replicas\n  auditdb monitor replicas --watch",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return app.watch(cmd.Context(), "monitor replicas", *every, func(ctx context.Context) error { return runMonitorReplicas(ctx, app) })
		},
	}
	every = watchFlag(cmd.Flags())
	return cmd
}

func runMonitorReplicas(ctx context.Context, app *App) error {
	db, err := app.Postgres(ctx, "monitor.replicas")
	if err != nil {
		return err
	}
	found, err := monitor.Replicas(ctx, db.Pool())
	if err != nil {
		return err
	}
	if found.Configured, err = app.configuredReplicas(ctx, db); err != nil {
		return err
	}
	doc := monitorReplicasDoc{*found}
	return app.Emit("monitor.replicas", doc, doc.print)
}

func (d monitorReplicasDoc) print(t *output.Table) {
	switch r := d.Receiver; {
	case r != nil && r.Status == nil:
		t.Line("This is a standby that is not connected to a primary.")
	case r != nil:
		t.Line("This is a standby, %s from %s.", *r.Status, output.Cell(r.Sender))
	case len(d.Standbys) == 0:
		t.Line("No standby is connected.")
	}
	if r := d.Receiver; r != nil {
		delay := ""
		if r.ReplayDelaySeconds != nil {
			delay = ", for " + output.Cell(secondsCell(r.ReplayDelaySeconds))
		}
		t.Line("Not replayed: %s%s%s.", output.Cell(sizeCell(r.UnreplayedBytes)), delay, map[bool]string{true: "; replay is paused: SELECT pg_wal_replay_resume()"}[r.Paused])
	}
	t.Header("standby", "client", "state", "sync", "not sent", "not on disk", "not replayed", "delay")
	for _, s := range d.Standbys {
		t.Row(orDash(s.Application), s.Client, orDash(s.State), orDash(s.Sync), sizeCell(s.UnsentBytes), sizeCell(s.UnflushedBytes), sizeCell(s.UnreplayedBytes), secondsCell(s.ReplayDelaySeconds))
	}
	t.Header("replica of the configuration", "used", "behind", "at most", "circuit breaker", "why not")
	for _, r := range d.Configured {
		t.Row(r.Name, r.Usable, sizeCell(r.LagBytes), secondsCell(r.LagSeconds), r.Breaker, r.Reason)
	}
	t.Header("slot", "type", "active", "keeps", "wal status")
	for _, s := range d.Slots {
		t.Row(s.Name, s.Type, s.Active, sizeCell(s.RetainedBytes), orDash(s.WALStatus))
	}
}
