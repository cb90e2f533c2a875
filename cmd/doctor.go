package cmd

import "github.com/spf13/cobra"

func newDoctorCmd(_ *App) *cobra.Command {
	return &cobra.Command{Use: "doctor", Short: "Check rights and settings"}
}
