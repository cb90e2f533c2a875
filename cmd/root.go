// Package cmd is the command line: flags, wiring, rendering, exit codes.
package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"auditdb/internal/config"
	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/internal/redact"
	"auditdb/internal/tracing"
)

// Main runs one command line and returns its exit code.
func Main(args []string, in io.Reader, out, errOut io.Writer) int {
	app := newApp(in, out, errOut, time.Now)
	ctx, release := catchSignals(context.Background())
	defer release()
	app.ended = func() error { return context.Cause(ctx) }
	root := newRootCmd(app)
	root.SetArgs(args)
	cmd, err := app.execute(ctx, root)
	return app.end(ctx, cmd, err, asksJSON(args))
}

// execute runs the command that the arguments name. A panic becomes an internal error.
func (a *App) execute(ctx context.Context, root *cobra.Command) (cmd *cobra.Command, err error) {
	defer func() {
		if p := recover(); p != nil {
			a.Log.LogAttrs(ctx, slog.LevelDebug, "panic", slog.String("stack", string(debug.Stack())))
			err = fault.New(fault.Internal, "this is a bug; --log-level debug shows where", "internal error: %v", p)
		}
	}()
	cmd, err = root.ExecuteContextC(ctx)
	if err == nil {
		err = a.help.lost()
	}
	return cmd, err
}

// lossWriter remembers the first error of a writer, for help, whose printing tells of none.
type lossWriter struct {
	to  io.Writer
	err error
}

// Write passes on.
func (w *lossWriter) Write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	if w.err == nil {
		w.err = err
	}
	return n, err
}

// lost is the error of help that was not written; a reader who went away has read enough.
func (w *lossWriter) lost() error {
	if w == nil || w.err == nil || errors.Is(w.err, syscall.EPIPE) {
		return nil
	}
	return fmt.Errorf("write the answer: %w", w.err)
}

// end closes everything and reports how it went. asJSON stands in for a configuration that was never read.
func (a *App) end(ctx context.Context, cmd *cobra.Command, err error, asJSON bool) int {
	var found pluginCode
	if errors.As(err, &found) {
		a.close(ctx, int(found))
		return int(found)
	}
	o := judge(err, a.ended())
	if err != nil && cmd != nil && cmd.Name() == healthName {
		o = o.asPlugin()
	}
	a.anchorAppended(ctx)
	a.close(ctx, o.code)
	if err != nil {
		a.report(o, asJSON || a.Printer.Format == output.JSONFormat)
	}
	return o.code
}

// catchSignals ends the context at the first SIGINT, SIGTERM or SIGHUP (the terminal was closed), so that commands stop at a safe point;
// the second kills as usual. SIGHUP stays ignored under nohup.
// SIGPIPE is caught so that a reader who goes away (| head) ends the output and not the work.
func catchSignals(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	came := make(chan os.Signal, 1)
	pipe := make(chan os.Signal, 1)
	done := make(chan struct{})
	signal.Notify(came, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(came, syscall.SIGHUP)
	}
	signal.Notify(pipe, syscall.SIGPIPE)
	go func() {
		select {
		case s := <-came:
			signal.Stop(came)
			cancel(signalError{s})
		case <-done:
		}
	}()
	return ctx, func() {
		close(done)
		signal.Stop(came)
		cancel(nil)
	}
}

// newRootCmd assembles all commands.
func newRootCmd(app *App) *cobra.Command {
	root := &cobra.Command{
		Use:   "auditdb",
		Short: "Run large PostgreSQL audit-log databases",
		Long: "auditdb keeps large audit logs in PostgreSQL: partitions made ahead and pruned safely, events taken in exactly once,\n" +
			"and a signed log beside the rows that shows every change made to them afterwards.",
		Example: "  auditdb demo\n  auditdb migrate up\n  auditdb partition create --ahead 12\n" +
			"  auditdb ingest --create-partitions events.ndjson.gz\n  auditdb verify-integrity",
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return app.prepare(cmd) },
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	app.help = &lossWriter{to: app.Out}
	root.SetOut(app.help)
	root.SetErr(app.Err)
	root.SetIn(app.In)
	addGlobalFlags(root)
	root.SetFlagErrorFunc(flagError)
	root.SetUsageFunc(printUsage)
	root.AddCommand(newMigrateCmd(app), newDoctorCmd(app), newPartitionCmd(app), newIngestCmd(app), newQueryCmd(app), newIndexCmd(app), newMonitorCmd(app),
		newVerifyIntegrityCmd(app), newIntegrityCmd(app), newRetentionCmd(app), newCacheCmd(app), newDemoCmd(app), newHealthCmd(app), newServeCmd(app), newAlertCmd(app),
		newConfigCmd(app), newSchemaCmd(app), newVersionCmd(app), newCompletionCmd(app))
	root.SetHelpCommand(newHelpCmd())
	root.InitDefaultHelpCmd()
	finishTree(root)
	return root
}

func addGlobalFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.String("config", "", "configuration `FILE` (default: $AUDITDB_CONFIG, ./auditdb.yaml, …)")
	f.String("database-url", "", "`URL` of the database, without a password: others can see the command line")
	f.String("redis-url", "", "`URL` of Redis, optional unless redis.required is set")
	f.StringP("output", "o", "table", "`FORMAT` of the answer: table, json, yaml; where it is one list also csv, ndjson")
	durationFlag(f, "timeout", 0, "end the command after this time, exit 124 (0: never)")
	durationFlag(f, "lock-timeout", 100*time.Millisecond, "limit of one attempt at a table lock")
	durationFlag(f, "wait", time.Minute, "limit of waiting for other runs and for table locks together (0: do not wait)")
	durationFlag(f, "wait-for-db", 0, "wait this long for a server that is starting")
	f.String("log-level", "info", "`LEVEL` of messages on standard error: debug, info, warn, error")
	f.String("log-format", "text", "`FORMAT` of messages on standard error: text, json")
	f.Bool("no-color", false, "no colour (also: NO_COLOR)")
	f.BoolP("quiet", "q", false, "no progress and no messages below warnings")
	f.BoolP("yes", "y", false, "confirm what would be asked")
	choices := map[string][]string{
		"output":     outputFormats(),
		"log-level":  {"debug", "info", "warn", "error"},
		"log-format": {"text", "json"},
	}
	for name, values := range choices {
		_ = root.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) // the flags exist
	}
}

// Annotations by which a command says what it needs.
const (
	formatsKey = "auditdb.formats" // formats beyond table, json and yaml
	lenientKey = "auditdb.lenient" // works with a broken configuration
	groupKey   = "auditdb.group"   // does nothing but hold subcommands
)

// listOutput marks a command whose answer is one list, so that it takes -o csv (and ndjson). It prints with App.EmitList.
func listOutput(cmd *cobra.Command) *cobra.Command { return annotate(cmd, formatsKey, "csv ndjson") }

// lenient marks a command that needs no settings and works with a broken configuration file.
func lenient(cmd *cobra.Command) *cobra.Command { return annotate(cmd, lenientKey, "yes") }

func annotate(cmd *cobra.Command, key, value string) *cobra.Command {
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	cmd.Annotations[key] = value
	return cmd
}

// prepare reads the configuration and sets up everything that commands share.
func (a *App) prepare(cmd *cobra.Command) error {
	if cmd.Name() == cobra.ShellCompRequestCmd || cmd.Name() == cobra.ShellCompNoDescRequestCmd {
		return nil // words for the shell, which need no settings
	}
	flags := cmd.Flags()
	loader := config.NewLoader(flags)
	loader.Lenient = cmd.Annotations[lenientKey] != ""
	c, err := loader.Load()
	if err != nil {
		return err
	}
	a.Config = c
	a.stderr.setRedactor(c.Redactor())
	a.Log = newLogger(a.Err, c)
	a.Printer = &output.Printer{Out: a.Out, Format: output.Format(c.Output)}
	if f, ok := terminal(a.Out); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil {
			a.Printer.Width = max(w, 60)
		}
		a.Printer.Color = !c.NoColor && os.Getenv("TERM") != "dumb"
	}
	if err := checkFormat(cmd, a.Printer.Format); err != nil {
		return err
	}
	if err := checkOutputFlag(cmd); err != nil {
		return err
	}
	a.warnOfPasswords(flags)
	ctx, trace, err := tracing.Start(cmd.Context(), cmd.CommandPath(), buildVersion().Version, os.Getenv)
	if err != nil {
		return err
	}
	a.trace = trace
	cmd.SetContext(ctx)
	a.startTimeout(cmd)
	a.Log.LogAttrs(cmd.Context(), slog.LevelDebug, "configuration read", slog.String("file", c.File), slog.String("command", cmd.CommandPath()))
	return nil
}

func checkFormat(cmd *cobra.Command, f output.Format) error {
	switch f {
	case output.CSVFormat, output.NDJSONFormat:
		if !slices.Contains(strings.Fields(cmd.Annotations[formatsKey]), string(f)) && cmd.Annotations[lenientKey] == "" {
			return usage(cmd.CommandPath(), "use -o json, -o yaml or -o table", "-o %s only fits an answer that is one list", f)
		}
	}
	return nil
}

// checkOutputFlag refuses an unknown --output of a command that needs no configuration: with any other, reading that has done so.
func checkOutputFlag(cmd *cobra.Command) error {
	f := cmd.Flags().Lookup("output")
	if f == nil || !f.Changed || slices.Contains(outputFormats(), f.Value.String()) {
		return nil
	}
	return usage(cmd.CommandPath(), "", "--output must be one of %s, not %q", strings.Join(outputFormats(), ", "), f.Value.String())
}

func outputFormats() []string { return []string{"table", "json", "yaml", "csv", "ndjson"} }

// warnOfPasswords tells about secrets that every user of the machine can read in the process list.
func (a *App) warnOfPasswords(flags *pflag.FlagSet) {
	for name, instead := range map[string]string{
		"database-url": "AUDITDB_DATABASE_URL, AUDITDB_DATABASE_URL_FILE, PGPASSWORD or a password file",
		"redis-url":    "AUDITDB_REDIS_URL or AUDITDB_REDIS_URL_FILE",
	} {
		if f := flags.Lookup(name); f != nil && f.Changed && redact.HasPassword(f.Value.String()) {
			a.Warn("--%s holds a password, which other users can see in the list of processes: use %s", name, instead)
		}
	}
}

func (a *App) startTimeout(cmd *cobra.Command) {
	if a.Config.Timeout <= 0 {
		return
	}
	ctx, cancel := context.WithTimeoutCause(cmd.Context(), a.Config.Timeout, errTimeout)
	cmd.SetContext(ctx)
	a.limit = cancel
	a.ended = func() error { return context.Cause(ctx) }
}

// flagError makes a usage error of what pflag says, with a suggestion for a mistyped name.
func flagError(cmd *cobra.Command, err error) error {
	if errors.Is(err, pflag.ErrHelp) {
		return err
	}
	hint := ""
	if name, ok := unknownFlag(err); ok {
		names := []string{}
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if near := config.Nearest(name, names); near != "" {
			hint = fmt.Sprintf("did you mean --%s?", near)
		}
	}
	return usage(cmd.CommandPath(), hint, "%w", err)
}

// finishTree gives every command the same manners: usage errors of class usage, groups that know their members.
func finishTree(cmd *cobra.Command) {
	cmd.Flags().SortFlags = true
	cmd.SuggestionsMinimumDistance = 2
	cmd.DisableFlagsInUseLine = true
	if cmd.HasSubCommands() && !cmd.Runnable() {
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = group
		annotate(lenient(cmd), groupKey, "yes")
	}
	check := cmd.Args
	if check == nil {
		check = noArgs
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		for _, err := range []error{check(cmd, args), cmd.ValidateRequiredFlags(), flagGroupError(cmd.ValidateFlagGroups())} {
			if err != nil && fault.ClassOf(err) == "" {
				err = usage(cmd.CommandPath(), "", "%w", err)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	for _, sub := range cmd.Commands() {
		finishTree(sub)
	}
}

// flagGroupError says in our own words which flags do not go together, or which one is missing.
func flagGroupError(err error) error {
	if err == nil {
		return nil
	}
	message := err.Error()
	list := func(before string) string {
		_, rest, _ := strings.Cut(message, before+"[")
		names, _, _ := strings.Cut(rest, "]")
		return "--" + strings.Join(strings.Fields(names), ", --")
	}
	switch {
	case strings.Contains(message, "none of the others can be"):
		return fmt.Errorf("%s do not go together", list("can be; "))
	case strings.Contains(message, "must all be set"):
		return fmt.Errorf("%s is missing: %s go together", list("missing "), list("group "))
	case strings.Contains(message, "at least one of the flags"):
		return fmt.Errorf("one of %s is needed", list("group "))
	}
	return err
}

func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("takes no argument, but got %q", args[0])
	}
	return nil
}

// newHelpCmd prints the help of the command that its arguments name.
func newHelpCmd() *cobra.Command {
	return lenient(&cobra.Command{
		Use:     "help [COMMAND]...",
		Short:   "Help about any command",
		Example: "  auditdb help partition create",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil || found == nil || len(rest) > 0 {
				return usage(cmd.CommandPath(), "auditdb --help lists the commands", "no command is called %q", strings.Join(args, " "))
			}
			found.InitDefaultHelpFlag()
			return found.Help()
		},
	})
}

// group is run when a command that only has subcommands is called without one, or with one that it does not have.
func group(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	hint := ""
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("did you mean %q?", cmd.CommandPath()+" "+near[0])
	}
	return usage(cmd.CommandPath(), hint, "unknown command %q", args[0])
}

// asksJSON tells whether the arguments ask for JSON, for errors that come before they are parsed.
func asksJSON(args []string) bool {
	for i, arg := range args {
		switch {
		case arg == "--":
			return false
		case arg == "-ojson", arg == "-o=json", arg == "--output=json":
			return true
		case (arg == "-o" || arg == "--output") && i+1 < len(args) && args[i+1] == "json":
			return true
		}
	}
	return os.Getenv(config.EnvPrefix+"OUTPUT") == "json"
}
