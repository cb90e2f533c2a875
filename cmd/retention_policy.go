package cmd

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/internal/postgres"
	"auditdb/pkg/partitions"
	"auditdb/pkg/plan"
	"auditdb/pkg/retention"
)

// policyListDoc is auditdb.retention.policy.list.v1.
type policyListDoc struct {
	Policies []policyEntry `json:"policies"`
	Floors   []floorEntry  `json:"floors"`
}

type policyEntry struct {
	Table           string  `json:"table"`
	Name            string  `json:"name"`
	Classification  *string `json:"classification"`
	Organization    *string `json:"organization"`
	RetentionPolicy *string `json:"retention_policy"`
	Keep            string  `json:"keep"`
	ArchiveAfter    *string `json:"archive_after"`
	ArchiveRequired bool    `json:"archive_required"`
	Action          string  `json:"action"`
	MinKeep         int     `json:"min_keep"`
	MaxDrop         int     `json:"max_drop"`
}

type floorEntry struct {
	Classification string `json:"classification"`
	Keep           string `json:"keep"`
}

// policyChangeDoc is auditdb.retention.policy.{set,remove,apply}.v1.
type policyChangeDoc struct {
	Changes []policyChange `json:"changes"`
	OK      bool           `json:"ok"` // --check: nothing differs
	DryRun  bool           `json:"dry_run"`
	Plan    plan.Plan      `json:"plan"`
}

type policyChange struct {
	Kind    string  `json:"kind"` // policy or floor
	Name    string  `json:"name"`
	Was     *string `json:"was"`
	Becomes *string `json:"becomes"`
}

func newRetentionPolicyCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "policy",
		Short:   "List, set and remove retention policies",
		Long:    "A policy is the rule of a whole table, or, with a match, of rows. The most specific rule wins. docs/retention.md has the language.",
		Example: "  auditdb retention policy list\n  auditdb retention policy set --keep 2555d\n  auditdb retention policy apply -f retention.yaml --check",
	}
	cmd.AddCommand(newPolicyListCmd(app), newPolicySetCmd(app), newPolicyRemoveCmd(app), newPolicyApplyCmd(app))
	return cmd
}

func newPolicyListCmd(app *App) *cobra.Command {
	return listOutput(&cobra.Command{
		Use:     "list [TABLE]",
		Short:   "List the retention policies",
		Long:    "Lists the policies of TABLE, else of every managed table, and the floors that no policy goes below.",
		Example: "  auditdb retention policy list -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPolicyList(cmd.Context(), app, args)
		},
	})
}

func runPolicyList(ctx context.Context, app *App, names []string) error {
	db, err := retentionDB(ctx, app, "retention.policy.list")
	if err != nil {
		return err
	}
	tables, err := partitionTables(ctx, db, names)
	if err != nil {
		return err
	}
	doc := policyListDoc{Policies: []policyEntry{}, Floors: []floorEntry{}}
	for _, t := range tables {
		if t.err != nil {
			return t.err
		}
		if t.table.ManagedID == nil {
			continue
		}
		rules, err := retention.LoadRules(ctx, db.Pool(), *t.table.ManagedID)
		if err != nil {
			return err
		}
		doc.Floors = floorEntries(rules.Floors)
		for _, p := range rules.Policies {
			doc.Policies = append(doc.Policies, policyOf(t.name, p))
		}
	}
	return app.EmitList("retention.policy.list", doc, doc.Policies, doc.print)
}

func floorEntries(floors []retention.Floor) []floorEntry {
	out := []floorEntry{}
	for _, f := range floors {
		out = append(out, floorEntry{Classification: f.Classification, Keep: retention.SpanText(f.Keep)})
	}
	return out
}

func policyOf(table string, p retention.Policy) policyEntry {
	e := policyEntry{
		Table: table, Name: p.Name, Classification: orNull(p.Classification), Organization: orNull(p.Organization), RetentionPolicy: orNull(p.RowPolicy),
		Keep: retention.SpanText(p.Keep), ArchiveRequired: p.ArchiveRequired, Action: string(p.Action), MinKeep: p.MinKeep, MaxDrop: p.MaxDrop,
	}
	if p.ArchiveAfter != nil {
		after := retention.SpanText(*p.ArchiveAfter)
		e.ArchiveAfter = &after
	}
	return e
}

func (d policyListDoc) print(t *output.Table) {
	if len(d.Policies) == 0 {
		t.Line("No policy is stored, so nothing is pruned. auditdb retention policy set sets one.")
	}
	t.Header("table", "policy", "for", "keep", "archive", "action")
	for _, p := range d.Policies {
		match := "the table"
		for i, v := range []*string{p.Classification, p.Organization, p.RetentionPolicy} {
			if v != nil {
				match = map[bool]string{true: "", false: match + ", "}[match == "the table"] + []string{"class ", "org ", "row policy "}[i] + *v
			}
		}
		archive, action := "", "delete rows"
		if match == "the table" {
			archive, action = map[bool]string{true: "required", false: "none"}[p.ArchiveRequired], p.Action
		}
		t.Row(p.Table, p.Name, match, p.Keep, archive, action)
	}
	for _, f := range d.Floors {
		t.Line("Floor for %s: %s.", f.Classification, f.Keep)
	}
}

type policySetOptions struct {
	name, classification, organization, rowPolicy string
	keep, archiveAfter, archive, action           string
	minKeep, maxDrop                              int
	dryRun                                        bool
}

func newPolicySetCmd(app *App) *cobra.Command {
	var o policySetOptions
	cmd := &cobra.Command{
		Use:   "set [TABLE]",
		Short: "Set one retention policy",
		Long: "Sets the policy of that --name, new or anew. Without a match it is the rule of the whole table. A rule that keeps for less than its\n" +
			"floor is refused (exit 2).",
		Example: "  auditdb retention policy set --keep 2555d\n  auditdb retention policy set --name short --classification PUBLIC --keep 90d",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := o.policy(cmd)
			if err != nil {
				return err
			}
			return runPolicySet(cmd.Context(), app, argument(args), p, o.dryRun)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.name, "name", retention.DefaultPolicy, "the policy's `NAME`")
	f.StringVar(&o.classification, "classification", "", "only rows of this `CLASS` (data_classification)")
	f.StringVar(&o.organization, "organization", "", "only rows of this organization `ID`")
	f.StringVar(&o.rowPolicy, "retention-policy", "", "only rows whose retention_policy is this `NAME`")
	f.StringVar(&o.keep, "keep", fmt.Sprintf("%dd", retention.DefaultKeepDays), "keep for this `SPAN`")
	f.StringVar(&o.archiveAfter, "archive-after", "", "archive from this `SPAN` on (default: when it is pruned)")
	f.StringVar(&o.archive, "archive", "required", "required or none: whether a partition needs a verified archive before it goes")
	f.StringVar(&o.action, "action", "drop", "drop or detach")
	f.IntVar(&o.minKeep, "min-keep", partitions.DefaultMinKeep, "keep the newest `N` partitions in any case")
	f.IntVar(&o.maxDrop, "max-drop", partitions.DefaultMaxDrop, "prune at most `N` partitions a run, the oldest")
	f.BoolVar(&o.dryRun, "dry-run", false, "print what would change and change nothing")
	return cmd
}

func (o policySetOptions) policy(cmd *cobra.Command) (p retention.Policy, err error) {
	path := cmd.CommandPath()
	if o.archive != "required" && o.archive != "none" {
		return p, usage(path, "", "--archive is required or none, not %q", o.archive)
	}
	p = retention.Policy{
		Name: o.name, Classification: o.classification, Organization: o.organization, RowPolicy: o.rowPolicy, Action: partitions.Action(o.action),
		MinKeep: o.minKeep, MaxDrop: o.maxDrop, MaxClockSkew: partitions.MaxClockSkew,
	}
	if !p.Whole() && cmd.Flags().Changed("archive") {
		return p, usage(path, "", "--archive goes with the rule of a whole table")
	}
	p.ArchiveRequired = p.Whole() && o.archive == "required"
	if p.Keep, err = keepSpan(o.keep); err != nil {
		return p, fault.New(fault.Usage, fault.HintOf(err), "--keep: %w", err)
	}
	if o.archiveAfter != "" {
		after, err := keepSpan(o.archiveAfter)
		if err != nil {
			return p, fault.New(fault.Usage, fault.HintOf(err), "--archive-after: %w", err)
		}
		p.ArchiveAfter = &after
	}
	return p, nil
}

func runPolicySet(ctx context.Context, app *App, table string, p retention.Policy, dryRun bool) error {
	return changePolicies(ctx, app, "retention.policy.set", policyMode{dryRun: dryRun}, func(ctx context.Context, db *postgres.DB) (retention.Wanted, error) {
		t, err := managedTable(ctx, db, table)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, q partitions.Querier) (map[int16][]retention.Policy, []retention.Floor, error) {
			rules, err := retention.LoadRules(ctx, q, *t.ManagedID)
			if err == nil {
				err = p.Check(rules.Floors)
			}
			if err != nil {
				return nil, nil, err
			}
			want := slices.DeleteFunc(rules.Policies, func(h retention.Policy) bool { return h.Name == p.Name })
			return map[int16][]retention.Policy{*t.ManagedID: append(want, p)}, nil, nil
		}, nil
	})
}

func newPolicyRemoveCmd(app *App) *cobra.Command {
	var name string
	var dryRun bool
	cmd := &cobra.Command{
		Use:     "remove [TABLE]",
		Short:   "Remove one retention policy",
		Long:    "Removes the policy of that --name. Without the rule of a whole table, rows that no other rule is for are kept for ever.",
		Example: "  auditdb retention policy remove --name short --yes",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if name == "" {
				return usage(cmd.CommandPath(), "auditdb retention policy list", "--name is missing")
			}
			return runPolicyRemove(cmd.Context(), app, argument(args), name, dryRun)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "the policy's `NAME`")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would change and change nothing")
	return cmd
}

func runPolicyRemove(ctx context.Context, app *App, table, name string, dryRun bool) error {
	return changePolicies(ctx, app, "retention.policy.remove", policyMode{dryRun: dryRun}, func(ctx context.Context, db *postgres.DB) (retention.Wanted, error) {
		t, err := managedTable(ctx, db, table)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, q partitions.Querier) (map[int16][]retention.Policy, []retention.Floor, error) {
			rules, err := retention.LoadRules(ctx, q, *t.ManagedID)
			if err != nil {
				return nil, nil, err
			}
			want := slices.DeleteFunc(slices.Clone(rules.Policies), func(h retention.Policy) bool { return h.Name == name })
			if len(want) == len(rules.Policies) {
				return nil, nil, fault.New(fault.Usage, "auditdb retention policy list", "table %s has no policy %q", t, name)
			}
			return map[int16][]retention.Policy{*t.ManagedID: want}, nil, nil
		}, nil
	})
}

func newPolicyApplyCmd(app *App) *cobra.Command {
	var file string
	var m policyMode
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Make the stored policies those of a file",
		Long: "Policies of the file's tables that it does not name are removed; so are floors, where it names floors. With --check nothing is\n" +
			"changed, and exit 4 says that they differ.",
		Example: "  auditdb retention policy apply -f retention.yaml --dry-run\n  auditdb retention policy apply -f retention.yaml --check",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usage(cmd.CommandPath(), "", "-f is missing")
			}
			return runPolicyApply(cmd.Context(), app, file, m)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "file", "f", "", "the policy `FILE` (-: standard input)")
	f.BoolVar(&m.check, "check", false, "only compare; exit 4 when anything differs")
	f.BoolVar(&m.dryRun, "dry-run", false, "print what would change and change nothing")
	return cmd
}

// maxPolicyFile bounds a policy file.
const maxPolicyFile = 1 << 20

func runPolicyApply(ctx context.Context, app *App, path string, m policyMode) error {
	in := app.In
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return fault.New(fault.Config, "check -f", "read the policy file: %w", err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxPolicyFile+1))
	if err != nil || len(text) > maxPolicyFile {
		return fault.New(fault.Config, "", "read the policy file: it cannot be read, or has more than %d bytes", maxPolicyFile)
	}
	file, err := retention.ReadFile(bytes.NewReader(text), keepSpan)
	if err != nil {
		return err
	}
	return changePolicies(ctx, app, "retention.policy.apply", m, func(ctx context.Context, db *postgres.DB) (retention.Wanted, error) {
		want := map[int16][]retention.Policy{}
		for _, t := range file.Tables {
			table, err := managedTable(ctx, db, t.Table)
			if err != nil {
				return nil, fmt.Errorf("policy file: %w", err)
			}
			want[*table.ManagedID] = append(want[*table.ManagedID], t.Policies...)
		}
		return func(ctx context.Context, q partitions.Querier) (map[int16][]retention.Policy, []retention.Floor, error) {
			return want, file.Floors, file.CheckStored(ctx, q, want)
		}, nil
	})
}

type policyMode struct{ check, dryRun bool }

// changePolicies shows what differs, asks where rules are removed or shortened, and changes it.
func changePolicies(ctx context.Context, app *App, command string, m policyMode, find func(context.Context, *postgres.DB) (retention.Wanted, error)) error {
	if m.check {
		return checkPolicies(ctx, app, command, find)
	}
	db, store, err := retentionStore(ctx, app, command)
	if err != nil {
		return err
	}
	wanted, err := find(ctx, db)
	if err != nil {
		return err
	}
	changes, err := retention.Differences(ctx, db.Pool(), wanted)
	if err != nil {
		return err
	}
	doc := changesDoc(command, changes)
	doc.DryRun = m.dryRun
	if !m.dryRun && len(changes) > 0 {
		if n := len(doc.Plan.Destructive()); n > 0 {
			if err := app.Confirm(ctx, fmt.Sprintf("change or remove %s", countOf(n, "retention rule"))); err != nil {
				return err
			}
		}
		if _, err := app.StartJob(ctx, db, command, nil); err != nil {
			return err
		}
		if changes, err = store.ApplyRules(ctx, wanted); err != nil {
			return err
		}
		doc = changesDoc(command, changes)
	}
	return app.Emit(command, doc, doc.print)
}

func checkPolicies(ctx context.Context, app *App, command string, find func(context.Context, *postgres.DB) (retention.Wanted, error)) error {
	db, err := retentionDB(ctx, app, command)
	if err != nil {
		return err
	}
	wanted, err := find(ctx, db)
	if err != nil {
		return err
	}
	changes, err := retention.Differences(ctx, db.Pool(), wanted)
	if err != nil {
		return err
	}
	doc := changesDoc(command, changes)
	doc.DryRun = true
	if err := app.Emit(command, doc, doc.print); err != nil || doc.OK {
		return err
	}
	return fault.New(fault.Integrity, "apply the file without --check", "%s differ from the policy file", countOf(len(changes), "retention rule"))
}

func changesDoc(command string, changes []retention.Change) policyChangeDoc {
	doc := policyChangeDoc{Changes: []policyChange{}, OK: len(changes) == 0, Plan: plan.Plan{Action: command}}
	for _, c := range changes {
		doc.Changes = append(doc.Changes, policyChange{Kind: c.Kind(), Name: c.Name, Was: orNull(c.Was), Becomes: orNull(c.Becomes())})
		reason := c.Becomes()
		if c.Removes() {
			reason = "it is not wanted any more; it was " + c.Was
		}
		doc.Plan.Steps = append(doc.Plan.Steps, plan.Step{
			Name: c.Kind() + " " + c.Name, SQL: "MERGE INTO auditdb." + c.Kind() + " …;\nINSERT INTO auditdb.log …", Reason: reason, Destructive: c.Was != "",
		})
	}
	return doc
}

func (d policyChangeDoc) print(t *output.Table) {
	if d.OK {
		t.Line("Nothing differs.")
		return
	}
	if d.DryRun {
		t.Line("Nothing was changed.")
	}
	t.Header("rule", "was", "becomes")
	for _, c := range d.Changes {
		t.Row(c.Kind+" "+c.Name, orNothing(c.Was), orNothing(c.Becomes))
	}
}
