package cmd

import "github.com/spf13/cobra"

func newPartitionCmd(_ *App) *cobra.Command {
	return &cobra.Command{Use: "partition", Short: "Create, list and prune partitions"}
}
