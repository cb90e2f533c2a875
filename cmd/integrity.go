package cmd

import "github.com/spf13/cobra"

func newIntegrityCmd(_ *App) *cobra.Command {
	return &cobra.Command{Use: "integrity", Short: "Keys, seals and the integrity log"}
}
