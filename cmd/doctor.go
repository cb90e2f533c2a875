package cmd

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"auditdb/internal/doctor"
	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/migrations"
	"auditdb/pkg/integrity"
)

// doctorDocuments lists the document of doctor.
func doctorDocuments() map[string]any { return map[string]any{"doctor": doctorDoc{}} }

// doctorDoc is auditdb.doctor.v1.
type doctorDoc struct {
	OK     bool           `json:"ok"`
	User   string         `json:"user"`
	Checks []doctor.Check `json:"checks"`
}

func newDoctorCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor [COMMAND…]",
		Short: "Check rights and settings, and print the missing GRANTs",
		Long: "Looks whether the connected role may do what each command does, and whether server, connection, clocks, Redis and key file suit.\n" +
			"COMMAND restricts it to some commands (\"partition create\", or partition for all of the group). Exit 4 when something is missing.\n" +
			"Nothing is changed.",
		Example: "  auditdb doctor\n  auditdb doctor ingest verify-integrity\n  auditdb doctor -o json | jq -r '.checks[].hint // empty'",
		Args: func(cmd *cobra.Command, args []string) error {
			for _, arg := range args {
				if !slices.ContainsFunc(doctor.Known(), func(c string) bool { return c == arg || strings.HasPrefix(c, arg+" ") }) {
					return usage(cmd.CommandPath(), "one of: "+strings.Join(doctor.Known(), ", "), "no rights are known for %q", arg)
				}
			}
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return doctor.Known(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runDoctor(cmd.Context(), app, args) },
	}
	return listOutput(cmd)
}

func runDoctor(ctx context.Context, app *App, commands []string) error {
	db, err := app.Postgres(ctx, "doctor")
	if err != nil {
		return err
	}
	options := doctor.Options{Commands: commands, Now: app.Now, LockTimeout: app.Config.LockTimeout, Wait: app.Config.Wait}
	status, err := migrations.Status(ctx, db)
	switch {
	case err == nil:
		options.Pending, options.Ahead = status.Pending, status.Ahead
	case classOf(err) != fault.Permission: // that right is checked below
		return err
	}
	report, err := doctor.Examine(ctx, db, options)
	if err != nil {
		return err
	}
	checks := report.Checks
	checks = append(checks, checkRedis(ctx, app)...)
	checks = append(checks, checkKeyFile(app, report)...)
	slices.SortStableFunc(checks, func(a, b doctor.Check) int { return rank(a) - rank(b) })
	doc := doctorDoc{OK: true, User: report.User, Checks: checks}
	bad := 0
	for _, c := range checks {
		if c.Status.Bad() {
			doc.OK = false
			bad++
		}
	}
	if err := app.EmitList("doctor", doc, doc.Checks, func(t *output.Table) { doctorTable(t, doc) }); err != nil {
		return err
	}
	if bad > 0 {
		return fault.New(fault.Integrity, "its hints say what to do", "doctor: %s found", countOf(bad, "problem"))
	}
	return nil
}

// rank puts what concerns all commands first.
func rank(c doctor.Check) int {
	if c.Command == "all" {
		return 0
	}
	return 1
}

func doctorTable(t *output.Table, doc doctorDoc) {
	t.Line("Connected as %s.", doc.User)
	t.Line("")
	t.Header("command", "check", "status", "detail")
	for _, c := range doc.Checks {
		t.Row(c.Command, c.Name, string(c.Status), c.Detail)
	}
	hintsTable(t, doc.Checks)
}

// hintsTable shows each hint once, under the commands that need it.
func hintsTable(t *output.Table, checks []doctor.Check) {
	var hints []string
	commands := map[string][]string{}
	for _, c := range checks {
		if c.Hint == nil {
			continue
		}
		if commands[*c.Hint] == nil {
			hints = append(hints, *c.Hint)
		}
		if !slices.Contains(commands[*c.Hint], c.Command) {
			commands[*c.Hint] = append(commands[*c.Hint], c.Command)
		}
	}
	var groups []string
	of := map[string][]string{}
	for _, hint := range hints {
		group := strings.Join(commands[hint], ", ")
		if of[group] == nil {
			groups = append(groups, group)
		}
		of[group] = append(of[group], hint)
	}
	for i, group := range groups {
		if i == 0 {
			t.Line("")
			t.Line("What to do:")
		}
		t.Line("For %s:", strings.Replace(group, "all", "all commands", 1))
		for _, hint := range of[group] {
			t.Line("  %s", hint)
		}
	}
}

func checkRedis(ctx context.Context, app *App) []doctor.Check {
	const name = "redis"
	if app.Config.Redis.URL == "" && !app.Config.Redis.Required {
		return []doctor.Check{doctor.New("all", name, doctor.Skipped, "", "not configured: PostgreSQL's locks alone, which is enough")}
	}
	client, err := app.Redis(ctx)
	switch {
	case err != nil:
		return []doctor.Check{doctor.New("all", name, doctor.Problem, fault.HintOf(err), "%s", oneLine(err.Error()))}
	case client == nil:
		return []doctor.Check{doctor.New("all", name, doctor.Warning, "start Redis, or leave redis.url out", "does not answer: work goes on with PostgreSQL's locks alone")}
	}
	return []doctor.Check{doctor.New("all", name, doctor.OK, "", "answers at %s", client.Addr())}
}

// checkKeyFile looks at the key of the integrity log, which writing needs once the log has begun, and which then has to be the log's.
func checkKeyFile(app *App, report doctor.Report) []doctor.Check {
	const name = "integrity key"
	const keygen = "auditdb integrity keygen -f FILE, then integrity.key_file"
	file := app.Config.Integrity.KeyFile
	if file == "" {
		if report.LogKey != "" {
			return []doctor.Check{doctor.New("all", name, doctor.Problem, integrity.KeyHint(report.LogKey), "no integrity.key_file, and the integrity log has begun")}
		}
		return []doctor.Check{doctor.New("all", name, doctor.Warning, keygen, "no integrity.key_file: nothing is logged, and changes of rows are not found")}
	}
	keys, err := loadKeys(app)
	if err != nil {
		hint := fault.HintOf(err)
		if errors.Is(err, os.ErrNotExist) {
			hint = integrity.KeyHint(report.LogKey)
		}
		return []doctor.Check{doctor.New("all", name, doctor.Problem, hint, "%s", oneLine(err.Error()))}
	}
	switch {
	case report.LogKey != "" && report.LogKey != keys.ID():
		return []doctor.Check{doctor.New("all", name, doctor.Problem, "name the file of key "+report.LogKey+": integrity.key_file",
			"%s holds key %s, but the integrity log is written with key %s", file, keys.ID(), report.LogKey)}
	case report.Origin != "" && report.Origin != keys.Origin():
		return []doctor.Check{doctor.New("all", name, doctor.Problem, "set integrity.origin to the log's own name",
			"the integrity log's origin is %q, the configured one %q", report.Origin, keys.Origin())}
	}
	return []doctor.Check{doctor.New("all", name, doctor.OK, "", "key %s of %s", keys.ID(), keys.Origin())}
}
