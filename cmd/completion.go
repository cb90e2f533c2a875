package cmd

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func newCompletionCmd(app *App) *cobra.Command {
	return lenient(&cobra.Command{
		Use:   "completion SHELL",
		Short: "Print the completion script for bash, zsh, fish or powershell",
		Long: "The script is the same for every version of auditdb: it asks the binary for the words.\n\n" +
			"bash:        source <(auditdb completion bash)\n" +
			"zsh:         auditdb completion zsh > \"${fpath[1]}/_auditdb\"\n" +
			"fish:        auditdb completion fish > ~/.config/fish/completions/auditdb.fish\n" +
			"powershell:  auditdb completion powershell | Out-String | Invoke-Expression",
		Example:   "  source <(auditdb completion bash)",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		RunE: func(cmd *cobra.Command, args []string) error {
			return writeCompletion(cmd.Root(), app.Out, args[0])
		},
	})
}

func writeCompletion(root *cobra.Command, w io.Writer, shell string) error {
	switch shell {
	case "bash":
		return root.GenBashCompletionV2(w, true)
	case "zsh":
		return root.GenZshCompletion(w)
	case "fish":
		return root.GenFishCompletion(w, true)
	case "powershell":
		return root.GenPowerShellCompletionWithDesc(w)
	}
	return fmt.Errorf("no completion for %s", shell)
}
