package cmd

import (
	"github.com/spf13/cobra"

	"auditdb/pkg/query"
)

func newRetentionArchiveSearchCmd(app *App) *cobra.Command {
	o := queryOptions{columns: map[string]*string{}, archives: query.OnlyArchives}
	var all bool
	cmd := &cobra.Command{
		Use:   "search [TABLE]",
		Short: "Find rows in archives without restoring them, newest first",
		Long: "Takes the filters of query, and answers like it. Of each archive in the range only the parts are read that the filters cannot rule out; what is\n" +
			"read is compared with the signed manifest. Personal data of rows that were erased since they were archived is not shown. Archives of partitions that\n" +
			"the table has, still or again, are named and left out; --all searches them too. query --archives puts archives and table together.",
		Example: "  auditdb retention archive search --principal alice\n  auditdb retention archive search --correlation-id 4f1c --from 2022-01 --to 2023-01 -o json\n" +
			"  auditdb retention archive search --action user.login --limit 0 -o ndjson\n  auditdb retention archive search public.audit_log --organization acme --count",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.given(app, cmd, args)
			if all {
				o.archives = query.AllArchives
			}
			return runSearch(cmd.Context(), app, o, "retention.archive.search")
		},
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "search archives of partitions that are in the table as well")
	return listOutput(cmd)
}
