package cmd

import "github.com/spf13/cobra"

func newVerifyIntegrityCmd(_ *App) *cobra.Command {
	return &cobra.Command{Use: "verify-integrity", Short: "Check rows against the integrity log"}
}
