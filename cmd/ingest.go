package cmd

import "github.com/spf13/cobra"

func newIngestCmd(_ *App) *cobra.Command {
	return &cobra.Command{Use: "ingest", Short: "Take audit events in"}
}
