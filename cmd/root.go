// Package cmd is the command line: flags, wiring, rendering, exit codes.
package cmd

import (
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"
)

// Main runs one command line and returns its exit code.
func Main(args []string, in io.Reader, out, errOut io.Writer) int {
	app := &App{In: in, Out: out, Err: errOut, Now: time.Now}
	root := newRootCmd(app)
	root.SetArgs(args)
	if err := root.ExecuteContext(context.Background()); err != nil {
		return 1
	}
	return 0
}

func newRootCmd(app *App) *cobra.Command {
	root := &cobra.Command{Use: "auditdb", Short: "Run large PostgreSQL audit-log databases"}
	root.AddCommand(newMigrateCmd(app), newDoctorCmd(app), newPartitionCmd(app), newIngestCmd(app),
		newVerifyIntegrityCmd(app), newIntegrityCmd(app), newDemoCmd(app))
	return root
}
