package cmd

import "github.com/spf13/cobra"

func newDemoCmd(_ *App) *cobra.Command {
	return &cobra.Command{Use: "demo", Short: "Show everything on private servers"}
}
