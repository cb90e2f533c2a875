package cmd

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// printUsage writes what --help shows below a command's description.
func printUsage(cmd *cobra.Command) error {
	var b strings.Builder
	b.WriteString("Usage:\n")
	if !cmd.HasAvailableSubCommands() || cmd.Args != nil && !isGroup(cmd) {
		fmt.Fprintf(&b, "  %s [flags]\n", cmd.UseLine())
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "  %s COMMAND\n", cmd.CommandPath())
	}
	if cmd.HasExample() {
		b.WriteString("\nExamples:\n" + cmd.Example + "\n")
	}
	if cmd.HasAvailableSubCommands() {
		b.WriteString("\nCommands:\n")
		width := 0
		for _, sub := range cmd.Commands() {
			width = max(width, len(sub.Name()))
		}
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				fmt.Fprintf(&b, "  %-*s  %s\n", width, sub.Name(), sub.Short)
			}
		}
	}
	writeFlags(&b, "Flags", cmd.LocalNonPersistentFlags())
	writeFlags(&b, "Global flags", cmd.Root().PersistentFlags())
	_, err := cmd.OutOrStderr().Write([]byte(b.String()))
	return err
}

func isGroup(cmd *cobra.Command) bool { return cmd.Annotations[groupKey] != "" }

// writeFlags lists flags in the order of their names: the spelling, the help, the default where it is not nothing.
func writeFlags(b *strings.Builder, title string, flags *pflag.FlagSet) {
	var left, right []string
	width := 0
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Deprecated != "" {
			return
		}
		spelling, help := spell(f)
		left, right = append(left, spelling), append(right, help)
		width = max(width, len(spelling))
	})
	if len(left) == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s:\n", title)
	for i := range left {
		fmt.Fprintf(b, "  %-*s  %s\n", width, left[i], right[i])
	}
}

func spell(f *pflag.Flag) (spelling, help string) {
	name, help := pflag.UnquoteUsage(f)
	spelling = "    --" + f.Name
	if f.Shorthand != "" {
		spelling = "-" + f.Shorthand + ", --" + f.Name
	}
	if name != "" && f.Value.Type() != "bool" {
		spelling += " " + strings.ToUpper(name)
	}
	switch f.DefValue {
	case "", "false", "0", "0s", "[]":
	default:
		help += " (default " + f.DefValue + ")"
	}
	return spelling, help
}
