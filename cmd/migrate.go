package cmd

import "github.com/spf13/cobra"

func newMigrateCmd(_ *App) *cobra.Command {
	return &cobra.Command{Use: "migrate", Short: "Bring auditdb's schema up to date"}
}
