package cmd

import (
	"bytes"
	"strings"
	"testing"

	"auditdb/internal/output"
	"auditdb/pkg/monitor"
)

// drawnAt is what a table looks like on a terminal of so many columns.
func drawnAt(t *testing.T, width int, colour bool, table func(*output.Table)) string {
	t.Helper()
	var b bytes.Buffer
	if err := (&output.Printer{Out: &b, Format: output.TableFormat, Width: width, Color: colour}).Emit("x", nil, table); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func seconds(n float64) *float64 { return &n }

// What the server does fits a terminal of 80 columns, and the words that matter stay whole.
func TestMonitorFits(t *testing.T) {
	t.Parallel()
	const long, alter = "reporting-dashboard-nightly", "ALTER TABLE orders ADD COLUMN extra_information_about_the_order text DEFAULT ?"
	locks := []monitor.LockSession{
		{PID: 1031412, Blocks: 1, Application: "billing-worker", User: "postgres", State: "idle in transaction", TransactionSeconds: seconds(5000), Query: "UPDATE orders SET note = ? WHERE id = ?"},
		{
			PID: 1031444, Depth: 1, BlockedBy: []int{1031412}, Blocks: 1, Application: long, User: "postgres", State: "active", WaitSeconds: seconds(75), TransactionSeconds: seconds(75),
			Mode: "AccessExclusiveLock", Object: "public.orders", Query: alter,
		},
		{PID: 1031480, Depth: 2, BlockedBy: []int{1031444}, Application: "web", User: "postgres", State: "active", WaitSeconds: seconds(1.26), Mode: "AccessShareLock", Object: "public.orders", Query: "SELECT 1"},
		{PID: 0, Blocks: 1},
	}
	top := monitorTopDoc{Version: "15.18 (Debian 15.18-0+deb12u1)", UptimeSeconds: 60, Connections: connectionsUsed{4, 100, 3}, Waiting: locks, Sessions: []monitor.Session{
		{PID: 1031412, Application: "billing-worker", State: "idle in transaction", Wait: "Client:ClientRead", TransactionSeconds: seconds(5000), QuerySeconds: seconds(5000), Query: "UPDATE orders SET note = ? WHERE id = ?"},
		{PID: 1031444, Application: long, State: "active", Wait: "Lock:relation", TransactionSeconds: seconds(75), QuerySeconds: seconds(75), Query: alter},
	}}
	per, more := 40.0*(1<<20), int64(1200<<20)
	rows := int64(123_456_789)
	for name, test := range map[string]struct {
		draw func(*output.Table)
		want []string
	}{
		"locks": {monitorLocksDoc{Waiting: 2, Sessions: locks}.print, []string{
			"2 sessions wait for a lock.", "\n1031412 ", "\n  1031444 ", "idle in transaction, open for 1h 23m, billing-worker of postgres", "waits 1m 15s for AccessExclusive on public.orders", "waits 1.3s for",
			"\nTo end pid 1031412: SELECT pg_terminate_backend(1031412);\n", "ROLLBACK PREPARED",
		}},
		"top": {top.print, []string{"PostgreSQL 15.18, primary, up 1m", "idle in trans ", "lock of 1031412", "\n2 sessions wait for a lock: auditdb monitor locks"}},
		"connections": {monitorConnectionsDoc{monitor.Connections{Used: 2, Max: 100, Groups: []monitor.ConnectionGroup{
			{User: "postgres", Application: long, Database: "audit", State: "idle in transaction", Count: 12, TransactionSeconds: seconds(5000), StateSeconds: seconds(75)},
		}}}.print, []string{"idle in trans ", " 1h 23m ", "1m 15s\n"}},
		"growth": {monitorGrowthDoc{Tables: []monitor.TableGrowth{
			{Table: "public.audit_log", Rows: &rows, SizeBytes: &more, Counted: 6, BytesPerDay: &per, RowsPerDay: &per, In30Days: &more, In365Days: &more},
		}}.print, []string{"rows ~", "123,456,789", "+1.2 GiB"}},
	} {
		for _, width := range []int{80, 120} {
			got := drawnAt(t, width, false, test.draw)
			for line := range strings.Lines(got) {
				if n := len([]rune(strings.TrimRight(line, "\n"))); n > width {
					t.Errorf("%s: %d columns of %d: %s", name, n, width, line)
				}
			}
			for _, want := range test.want {
				if !strings.Contains(strings.Join(strings.Fields(strings.ReplaceAll(got, "\n", "\x00")), " "), strings.Join(strings.Fields(strings.ReplaceAll(want, "\n", "\x00")), " ")) {
					t.Errorf("%s at %d: no %q in\n%s", name, width, want, got)
				}
			}
		}
		// No space stands at the end of a line, before the end of a colour either: a terminal as wide as the line would wrap it.
		for line := range strings.Lines(drawnAt(t, 80, true, test.draw)) {
			if text := strings.TrimSuffix(strings.TrimRight(line, "\n"), "\x1b[0m"); strings.HasSuffix(text, " ") {
				t.Errorf("%s: %q", name, line)
			}
		}
	}
}
