package cmd

import "github.com/spf13/cobra"

// indexDocuments lists the documents of the index commands.
func indexDocuments() map[string]any {
	return map[string]any{"index.analyze": indexAnalyzeDoc{}, "index.apply": indexApplyDoc{}, "index.list": indexListDoc{}, "index.hygiene": indexHygieneDoc{}}
}

func newIndexCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "index",
		Short: "Find out which indexes are needed, and make or drop them online",
		Long: "These commands work on any database; auditdb's own schema need not be there. An index of a partitioned table is made, rebuilt and dropped\n" +
			"for the whole table, at any depth of partitions, while others read and write.",
		Example: "  auditdb index list public.audit_log\n  auditdb index apply --from advice.json --dry-run\n  auditdb index apply --from advice.json --only create",
	}
	cmd.AddCommand(newIndexAnalyzeCmd(app), newIndexApplyCmd(app), newIndexHygieneCmd(app), newIndexListCmd(app))
	return cmd
}
