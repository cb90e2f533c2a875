package cmd

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/internal/postgres"
	"auditdb/pkg/integrity"
	"auditdb/pkg/partitions"
	"auditdb/pkg/plan"
	"auditdb/pkg/retention"
)

// retentionRunDoc is auditdb.retention.run.v1 and auditdb.retention.plan.v1.
type retentionRunDoc struct {
	OK             bool                `json:"ok"`
	Tables         []retentionRunTable `json:"tables"`
	Failed         []failedEntry       `json:"failed"`
	Incomplete     bool                `json:"incomplete"`
	DryRun         bool                `json:"dry_run"`
	ElapsedSeconds float64             `json:"elapsed_seconds"`
	Plan           plan.Plan           `json:"plan"`

	quiet bool // only what failed is shown beside the summaries
}

type retentionRunTable struct {
	Table string           `json:"table"`
	Steps []retention.Step `json:"steps"`
}

type retentionRunOptions struct {
	dryRun, allowRemoveAll bool
	maxDuration            *time.Duration
}

func newRetentionPlanCmd(app *App) *cobra.Command {
	var o retentionRunOptions
	cmd := &cobra.Command{
		Use:   "plan [TABLE]",
		Short: "Say what retention run would do, and why each partition goes or stays",
		Long: "Reads policies, holds and a census of the partitions that are old enough, and changes nothing. Each partition comes with the rule that\n" +
			"decided. What was not verified yet is verified by the run.",
		Example: "  auditdb retention plan\n  auditdb retention plan public.audit_log -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.dryRun = true
			return runRetention(cmd.Context(), app, "retention.plan", args, o)
		},
	}
	cmd.Flags().BoolVar(&o.allowRemoveAll, "allow-remove-all", false, "as with retention run")
	return cmd
}

func newRetentionRunCmd(app *App) *cobra.Command {
	var o retentionRunOptions
	cmd := &cobra.Command{
		Use:   "run [TABLE]",
		Short: "Make partitions ahead, and remove what every rule lets go",
		Long: "For each table: make partitions ahead, seal, archive and read back (archive.url), verify what would lose rows, detach and drop partitions\n" +
			"that are past the rule of every row in them, and delete rows of shorter rules. A partition with an integrity finding stays (exit 4), and so does one that is held, or whose\n" +
			"policy wants an archive that is not there (exit 0). One table's failure does not stop the others. A run that was killed is finished by\n" +
			"the next one. For cron, with --yes.",
		Example: "  auditdb retention run --yes --quiet\n  auditdb retention run public.audit_log --dry-run\n  auditdb retention run --yes --max-duration 2h -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRetention(cmd.Context(), app, "retention.run", args, o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.dryRun, "dry-run", false, "print the plan and change nothing")
	f.BoolVar(&o.allowRemoveAll, "allow-remove-all", false, "even when no partition that has begun would be left")
	o.maxDuration = durationFlag(f, "max-duration", 0, "stop at the next safe point after this time, exit 0 (0: never)")
	return cmd
}

// retentionRun is one run over all tables.
type retentionRun struct {
	app    *App
	runner *retention.Runner
	tables []resolved
	drafts map[string]*retention.Draft
	errs   []error
	doc    retentionRunDoc
}

func runRetention(ctx context.Context, app *App, command string, names []string, o retentionRunOptions) error {
	started := app.Now()
	db, err := retentionDB(ctx, app, command)
	if err != nil {
		return err
	}
	_, tables, worker, err := partitionWork(ctx, app, command, names)
	if err != nil {
		return err
	}
	runner, err := newRetentionRunner(ctx, app, db, worker, o, started)
	if err != nil {
		return err
	}
	r := &retentionRun{
		app: app, runner: runner, tables: tables, drafts: map[string]*retention.Draft{}, errs: make([]error, len(tables)),
		doc: retentionRunDoc{Tables: []retentionRunTable{}, Failed: []failedEntry{}, DryRun: o.dryRun, quiet: app.Config.Quiet, Plan: plan.Plan{Action: strings.ReplaceAll(command, ".", " "), AsOf: started}},
	}
	destructive := r.draft(ctx)
	if !o.dryRun {
		if destructive != "" {
			if err := app.Confirm(ctx, destructive); err != nil {
				return err
			}
		}
		if err := startPartitionJob(ctx, app, db, command, tables); err != nil {
			return err
		}
	}
	r.carryOut(ctx, o.dryRun)
	r.doc.ElapsedSeconds = app.Now().Sub(started).Seconds()
	failed := r.failures()
	app.Summarize(map[string]any{"tables": len(r.doc.Tables), "pruned": r.doc.count(retention.StepPrune), "failed": len(r.doc.Failed), "incomplete": r.doc.Incomplete})
	if len(r.doc.Tables) == 0 {
		return failed
	}
	if err := app.Emit(command, r.doc, r.doc.print); err != nil {
		return err
	}
	return failed
}

func newRetentionRunner(ctx context.Context, app *App, db *postgres.DB, worker *partitions.Worker, o retentionRunOptions, started time.Time) (*retention.Runner, error) {
	log, err := newLog(app)
	if err != nil {
		return nil, err
	}
	verify, err := unlimitedVerify(ctx, app, 2)
	if err != nil {
		return nil, err
	}
	stop := func() bool { return false }
	if o.maxDuration != nil && *o.maxDuration > 0 {
		stop = func() bool { return app.Now().Sub(started) >= *o.maxDuration }
	}
	runner := &retention.Runner{
		DB: db, Worker: worker, Log: log, Verify: verify, Now: app.Now, Span: keepSpan, Stop: stop, AllowRemoveAll: o.allowRemoveAll, Wait: app.Config.Wait,
		Seal: integrity.SealOptions{Now: app.Now, Wait: app.Config.Wait, Settle: 2 * time.Second},
	}
	if app.Config.Archive.URL == "" || log == nil {
		runner.CheckArchive = func(context.Context, partitions.Table, partitions.Partition) error {
			return fault.New(fault.Config, "set archive.url and the key of the log", "no archive store is configured in which it could be looked for")
		}
		return runner, nil
	}
	archiver, err := app.archiver(ctx, db, log, verify)
	if err != nil {
		return nil, err
	}
	runner.Archive, runner.CheckArchive = archiver.Create, archiver.CheckPartition
	return runner, nil
}

// draft plans for all tables, and says what to ask; "" where nothing would be lost. A table that cannot be planned keeps its error, except
// that run still makes its partitions.
func (r *retentionRun) draft(ctx context.Context) (question string) {
	var parts []string
	for i, t := range r.tables {
		if r.errs[i] = t.err; t.err != nil {
			continue
		}
		d, err := r.runner.Plan(ctx, t.table)
		if err != nil {
			r.errs[i] = err
			continue
		}
		r.drafts[t.name] = d
		p := d.Plans()
		r.doc.Plan.Steps = append(r.doc.Plan.Steps, p.Steps...)
		r.doc.Plan.Skipped = append(r.doc.Plan.Skipped, p.Skipped...)
		parts = append(parts, takenAway(d, t.name)...)
	}
	return strings.Join(parts, "; ")
}

// takenAway says what a draft takes away; nothing where it takes nothing.
func takenAway(d *retention.Draft, table string) (parts []string) {
	removed, expired := d.Losses()
	if removed > 0 {
		parts = append(parts, fmt.Sprintf("prune %s of %s", countOf(removed, "partition"), table))
	}
	if expired > 0 {
		parts = append(parts, fmt.Sprintf("expire rows in %s of %s", countOf(expired, "partition"), table))
	}
	return parts
}

func (r *retentionRun) carryOut(ctx context.Context, dryRun bool) {
	for i, t := range r.tables {
		if t.err != nil || ctx.Err() != nil {
			continue
		}
		d := r.drafts[t.name]
		if dryRun {
			if d != nil {
				r.doc.Tables = append(r.doc.Tables, retentionRunTable{Table: t.name, Steps: append([]retention.Step{}, d.Steps()...)})
			}
			continue
		}
		var allowed []string
		if !r.app.Config.Yes { // somebody was asked about just these
			allowed = d.Names()
		}
		res, err := r.runner.Run(ctx, t.table, allowed)
		r.errs[i] = err
		r.doc.Incomplete = r.doc.Incomplete || res.Incomplete
		r.doc.Tables = append(r.doc.Tables, retentionRunTable{Table: t.name, Steps: append([]retention.Step{}, res.Steps...)})
		if slices.ContainsFunc(res.Steps, losesRows) {
			r.app.forgetCached(ctx, "retention.run", t.table)
		}
	}
}

// losesRows says whether a step has taken rows away.
func losesRows(s retention.Step) bool {
	return s.State == retention.StateDone && (s.Step == retention.StepPrune || s.Step == retention.StepExpire)
}

// failures ends the command with the worst of what the tables' errors say.
func (r *retentionRun) failures() error {
	var classes []fault.Class
	var first error
	var texts []string
	for i, err := range r.errs {
		if err == nil {
			continue
		}
		r.doc.Failed = append(r.doc.Failed, failedEntry{Table: r.tables[i].name, Class: classOf(err), Error: oneLine(err.Error()), Hint: orNull(fault.HintOf(err))})
		classes, texts = append(classes, classOf(err)), append(texts, oneLine(err.Error()))
		if first == nil {
			first = err
		}
	}
	r.doc.OK = first == nil
	switch len(classes) {
	case 0:
		return nil
	case 1:
		return first
	}
	return fault.New(worst(classes), fault.HintOf(first), "%d of %d tables failed: %s", len(classes), len(r.tables), strings.Join(texts, "; "))
}

func (d retentionRunDoc) count(step string) (n int) {
	for _, t := range d.Tables {
		for _, s := range t.Steps {
			if s.Step == step && (s.State == retention.StateDone || s.State == retention.StatePlanned) {
				n++
			}
		}
	}
	return n
}

func (d retentionRunDoc) print(t *output.Table) {
	if d.DryRun {
		t.Line("Dry run: nothing was changed. Plan %s.", d.Plan.Digest())
	}
	for _, table := range d.Tables {
		t.Line("%s", table.summary(d.DryRun))
		if d.quiet && !slices.ContainsFunc(table.Steps, isFinding) {
			continue
		}
		t.Header("step", "partition", "rows", "state", "rule", "why")
		creates, losing := table.planned(retention.StepCreate), table.losing()
		shown := 0
		for _, s := range table.Steps {
			if s.Step == retention.StepCreate && s.State == retention.StatePlanned && creates >= manyAlike {
				if shown++; shown == 2 {
					t.Row(s.Step, fmt.Sprintf("… and %d alike", creates-1), nil, s.State, s.Rule, "-o json has all")
				}
				if shown > 1 {
					continue
				}
			}
			if s.State == retention.StateKept && s.Reason == string(partitions.KeptFuture) {
				continue
			}
			if d.quiet && !isFinding(s) || s.Step == retention.StepArchive && s.State == retention.StatePlanned && losing[*s.Partition] {
				continue
			}
			t.Row(s.Step, orNothing(s.Partition), orNothing(s.Rows), s.State, s.Rule, stepDetail(s))
		}
	}
	if d.Incomplete {
		t.Line("Stopped by --max-duration; the next run goes on.")
	}
}

// planned counts the steps of a kind that a run would take.
func (r retentionRunTable) planned(step string) (n int) {
	for _, s := range r.Steps {
		if s.Step == step && s.State == retention.StatePlanned {
			n++
		}
	}
	return n
}

// losing are the partitions that go, or lose rows: the line that says so also says that they are archived before.
func (r retentionRunTable) losing() map[string]bool {
	names := map[string]bool{}
	for _, s := range r.Steps {
		if s.State == retention.StatePlanned && (s.Step == retention.StepPrune || s.Step == retention.StepExpire) {
			names[*s.Partition] = true
		}
	}
	return names
}

// stepDetail is why, without what documents alone have: whole addresses, and all that a verification does not exclude.
func stepDetail(s retention.Step) string {
	why := s.Why()
	if s.Step == retention.StepVerify && s.State == retention.StateDone {
		why, _, _ = strings.Cut(why, "; ")
	}
	return shortAddresses(why)
}

// shortAddresses leaves the names of objects of addresses that are long.
func shortAddresses(text string) string {
	const long = 32
	words := strings.Split(text, " ")
	for i, w := range words {
		if at := strings.LastIndexByte(w, '/'); len(w) > long && strings.Contains(w, "://") && at >= 0 {
			words[i] = "…" + w[at:]
		}
	}
	return strings.Join(words, " ")
}

// isFinding says that the integrity of what a step was for is not right.
func isFinding(s retention.Step) bool { return s.State == retention.StateFinding }

// summary is one line for cron's mail.
func (r retentionRunTable) summary(dryRun bool) string {
	counts := map[string]int{}
	var rows int64
	for _, s := range r.Steps {
		counts[s.Step+" "+s.State]++
		if s.Step == retention.StepExpire && s.Rows != nil {
			rows += *s.Rows
		}
	}
	state, verb := retention.StateDone, ""
	if dryRun {
		state, verb = retention.StatePlanned, "would have "
	}
	return fmt.Sprintf("%s: %screated %d, pruned %d, expired %s; kept %d, findings %d.", r.Table, verb, counts["create "+state], counts["prune "+state], countOf(rows, "row"),
		counts["prune "+retention.StateKept], counts["prune "+retention.StateFinding])
}
