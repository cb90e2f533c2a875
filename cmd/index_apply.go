package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/internal/postgres"
	"auditdb/pkg/indexes"
	"auditdb/pkg/plan"
)

// indexApplyDoc is auditdb.index.apply.v1.
type indexApplyDoc struct {
	Applied        []indexApplied `json:"applied"`
	Skipped        []indexSkipped `json:"skipped"`
	Failed         []indexFailed  `json:"failed"`
	Undo           []string       `json:"undo"` // statements for psql that take back what was done, or would be; the last first
	DryRun         bool           `json:"dry_run"`
	ElapsedSeconds float64        `json:"elapsed_seconds"`
	Plan           plan.Plan      `json:"plan"`
}

type indexApplied struct {
	Action         indexes.Action `json:"action"`
	DDL            string         `json:"ddl"`
	Table          string         `json:"table"`
	Index          string         `json:"index"`
	Steps          int            `json:"steps"`
	CostBefore     *float64       `json:"cost_before"` // the planner's, of the queries that it is for, over all their calls; null: none can be planned
	CostAfter      *float64       `json:"cost_after"`  // the same, now that it is there; null in a dry run
	ElapsedSeconds float64        `json:"elapsed_seconds"`
}

type indexSkipped struct {
	DDL    string `json:"ddl"`
	Index  string `json:"index"`
	Reason string `json:"reason"`
}

type indexFailed struct {
	DDL   string      `json:"ddl"`
	Index string      `json:"index"`
	Class fault.Class `json:"class"`
	Error string      `json:"error"`
	Hint  *string     `json:"hint"`
}

// indexApplyOptions are the flags of index apply.
type indexApplyOptions struct {
	from, undo, digest string
	only               []string
	dryRun             bool
}

func newIndexApplyCmd(app *App) *cobra.Command {
	var o indexApplyOptions
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Make, rebuild and drop indexes while the tables are in use",
		Long: "Carries out the recommendations of index analyze or index hygiene; without --from it analyzes by itself first. Statements are made from their definitions, never from the file's text. An index of\n" +
			"a partitioned table comes to every partition one by one (CREATE INDEX CONCURRENTLY) and is attached; partitions that appear meanwhile get\n" +
			"theirs too. A run that was interrupted is finished by the next one, and no invalid index stays. Nobody waits longer than an instant.\n" +
			"Before it begins it prints the statements that undo it. Drops ask, or need --yes.",
		Example: "  auditdb index apply --dry-run\n  auditdb index analyze -o json > advice.json && auditdb index apply --from advice.json\n" +
			"  auditdb index apply --from advice.json --only public.audit_log\n  auditdb index apply --from advice.json --only drop --yes --undo undo.sql",
		RunE: func(cmd *cobra.Command, _ []string) error { return runIndexApply(cmd.Context(), app, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "`FILE` with recommendations, as index analyze -o json prints them; - is standard input")
	f.StringSliceVar(&o.only, "only", nil, "only these: `NAME` of an index, of a table, or an action (create, reindex, drop, analyze)")
	f.StringVar(&o.undo, "undo", "", "write the statements that undo it to this `FILE` before it begins, instead of standard error")
	f.StringVar(&o.digest, "plan-digest", "", "refuse (exit 6) unless the plan has this `DIGEST` of a dry run")
	f.BoolVar(&o.dryRun, "dry-run", false, "print the plan with its locks, and change nothing")
	return cmd
}

// applying is one recommendation's way.
type applying struct {
	change[*indexes.Draft]
	recommendation indexes.Recommendation
	steps          int // done
	elapsed        time.Duration
	before, after  *float64 // planner cost
}

func runIndexApply(ctx context.Context, app *App, o indexApplyOptions) error {
	started := app.Now()
	var wanted []indexes.Recommendation
	var err error
	if o.from != "" {
		if wanted, err = readAdvice(app, o); err != nil {
			return err
		}
	}
	db, err := app.Postgres(ctx, "index.apply")
	if err != nil {
		return err
	}
	if o.from == "" {
		if wanted, err = ownAdvice(ctx, app, db, o); err != nil {
			return err
		}
	}
	all := make([]*applying, len(wanted))
	changes := make([]*change[*indexes.Draft], len(wanted))
	for i, r := range wanted {
		all[i] = newApplying(app, db, r, all)
		changes[i] = &all[i].change
	}
	p, err := runPlans(ctx, app, changes, planOptions{
		action: "index apply", dryRun: o.dryRun, digest: o.digest,
		confirm: func() string { return dropQuestion(all) },
		show:    func(p plan.Plan) { showPlan(app, p) },
		started: func(ctx context.Context) error { return startIndexApply(ctx, app, db, o, all) },
	})
	if err != nil {
		return err
	}
	doc := newIndexApplyDoc(all, o.dryRun)
	doc.Plan, doc.ElapsedSeconds = p, app.Now().Sub(started).Seconds()
	app.Summarize(map[string]any{"applied": len(doc.Applied), "skipped": len(doc.Skipped), "failed": len(doc.Failed), "dry_run": o.dryRun})
	_, failed := failures(changes)
	if worthShowing(changes) || len(changes) == 0 {
		if err := app.Emit("index.apply", doc, doc.print); err != nil {
			return err
		}
	}
	return failed
}

// ownAdvice analyzes what the server has counted, as index analyze without flags does.
func ownAdvice(ctx context.Context, app *App, db *postgres.DB, o indexApplyOptions) ([]indexes.Recommendation, error) {
	w, err := indexes.CountedWorkload(ctx, db)
	if err != nil {
		return nil, err
	}
	doc, err := analyzeIndexes(ctx, app, db, nil, w, indexes.Budget{Mode: indexes.ModeBalanced})
	if err != nil {
		return nil, err
	}
	return chooseAdvice(doc.Recommendations, o.only)
}

// readAdvice gives the recommendations that are to be carried out, in order: what makes queries faster first, drops last.
func readAdvice(app *App, o indexApplyOptions) ([]indexes.Recommendation, error) {
	in := app.In
	if o.from != "-" {
		file, err := os.Open(o.from)
		if err != nil {
			return nil, fault.New(fault.Usage, "name a file that index analyze -o json has written", "--from: %w", err)
		}
		defer func() { _ = file.Close() }() // it was only read
		in = file
	}
	found, err := indexes.ReadRecommendations(in)
	if err != nil {
		return nil, fault.New(fault.Usage, fault.HintOf(err), "--from %s: %w", o.from, err)
	}
	return chooseAdvice(found, o.only)
}

// chooseAdvice applies --only, whose every word has to mean something.
func chooseAdvice(found []indexes.Recommendation, only []string) ([]indexes.Recommendation, error) {
	matches := func(r indexes.Recommendation, word string) bool {
		return slices.Contains([]string{string(r.Action), r.Index, r.Table, r.Definition.IndexName(), r.Definition.Table}, word)
	}
	for _, word := range only {
		if !slices.ContainsFunc(found, func(r indexes.Recommendation) bool { return matches(r, word) }) {
			return nil, usage("auditdb index apply", "name an index, a table or an action of the analysis", "--only: nothing in the analysis is %q", word)
		}
	}
	var chosen []indexes.Recommendation
	for _, action := range []indexes.Action{indexes.ActionCreate, indexes.ActionAnalyze, indexes.ActionReindex, indexes.ActionDrop} {
		for _, r := range found {
			if r.Action == action && (len(only) == 0 || slices.ContainsFunc(only, func(word string) bool { return matches(r, word) })) {
				chosen = append(chosen, r)
			}
		}
	}
	return chosen, nil
}

func newApplying(app *App, db *postgres.DB, r indexes.Recommendation, all []*applying) *applying {
	a := &applying{recommendation: r}
	name := r.Index
	if r.Action == indexes.ActionAnalyze {
		name = r.Table
	}
	a.change = change[*indexes.Draft]{name: name, plan: func(d *indexes.Draft) plan.Plan { return d.Plan }}
	var progress output.Progress
	var told int64
	worker := indexes.NewApplier(indexes.Options{
		DB: db, LockTimeout: app.Config.LockTimeout, Wait: app.Config.Wait, Log: app.Log,
		Told: func(b indexes.Building) {
			if progress != nil && b.Done > told && strings.HasPrefix(b.Phase, "building index") {
				progress.Add(b.Done - told)
				told = b.Done
			}
		},
	})
	a.draft = func(ctx context.Context) (*indexes.Draft, error) { return worker.Draft(ctx, r) }
	a.locked = func(ctx context.Context, fn func(context.Context) error) error {
		if r.Action == indexes.ActionDrop {
			for _, other := range all {
				if other != nil && other.err != nil && other.recommendation.Action == indexes.ActionCreate && other.recommendation.Table == r.Table {
					return fault.New(fault.Refused, "see to that index first, then run it again", "drop index %s: an index of the same table could not be made, which may take its place", r.Index)
				}
			}
		}
		return worker.Locked(ctx, r, fn)
	}
	a.apply = func(ctx context.Context, d *indexes.Draft) error {
		begun := app.Now()
		progress = app.Progress(fmt.Sprintf("%s index %s", r.Action, name), d.TableBytes, output.Bytes)
		defer progress.Done()
		a.before = worker.Cost(ctx, r.Queries)
		err := worker.Apply(ctx, d, func(done plan.Result) {
			told = 0
			if done.Err == nil {
				a.steps++
			}
		})
		a.partly, a.elapsed = a.steps > 0, app.Now().Sub(begun)
		if err == nil {
			a.after = worker.Cost(ctx, r.Queries)
		}
		return err
	}
	return a
}

// startIndexApply records the run, and leaves the way back before anything is changed.
func startIndexApply(ctx context.Context, app *App, db *postgres.DB, o indexApplyOptions, all []*applying) error {
	worker := indexes.NewApplier(indexes.Options{DB: db})
	var need int64
	for _, a := range all {
		if a.seen {
			need += a.result.BuildBytes
		}
	}
	if err := worker.Room(ctx, need); err != nil {
		return fmt.Errorf("index apply: %w", err)
	}
	statements := undoStatements(all)
	if o.undo != "" {
		if err := writeUndo(o.undo, statements); err != nil {
			return fault.New(fault.Usage, "name a file that can be written", "--undo: %w", err)
		}
	} else if len(statements) > 0 && !app.Config.Quiet {
		_, _ = io.WriteString(app.Err, "-- These statements undo what begins now:\n"+strings.Join(statements, ";\n")+";\n") // nowhere is left to complain
	}
	warnings, err := worker.Warnings(ctx)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		app.Warn("%s", w)
	}
	_, err = app.StartJob(ctx, db, "index.apply", nil)
	return err
}

// undoHeader begins every file of --undo.
const undoHeader = "-- Takes back an index apply, where psql runs it.\n"

// writeUndo writes statements to a file. What an interrupted run has left there stays behind them: this one finishes it.
func writeUndo(file string, statements []string) error {
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if rest, ours := strings.CutPrefix(string(old), undoHeader); ours {
		for _, s := range strings.Split(rest, ";\n") {
			if s != "" && !slices.Contains(statements, s) {
				statements = append(statements, s)
			}
		}
	}
	script := undoHeader
	for _, s := range statements {
		script += s + ";\n"
	}
	return os.WriteFile(file, []byte(script), 0o600)
}

// undoStatements take back everything, the last first.
func undoStatements(all []*applying) []string {
	statements := []string{}
	for _, a := range slices.Backward(all) {
		if a.seen {
			statements = append(statements, a.result.Undo...)
		}
	}
	return statements
}

func dropQuestion(all []*applying) string {
	var names []string
	for _, a := range all {
		if a.seen && len(a.result.Plan.Destructive()) > 0 {
			names = append(names, a.name)
		}
	}
	const few = 5
	if len(names) > few {
		names = append(names[:few], fmt.Sprintf("and %d more", len(names)-few))
	}
	return "drop " + strings.Join(names, ", ")
}

func newIndexApplyDoc(all []*applying, dryRun bool) indexApplyDoc {
	doc := indexApplyDoc{Applied: []indexApplied{}, Skipped: []indexSkipped{}, Failed: []indexFailed{}, Undo: undoStatements(all), DryRun: dryRun}
	for _, a := range all {
		r := a.recommendation
		steps := a.steps
		if dryRun && a.seen {
			steps = len(a.result.Plan.Steps)
		}
		switch {
		case a.err != nil:
			doc.Failed = append(doc.Failed, indexFailed{DDL: r.DDL, Index: r.Index, Class: classOf(a.err), Error: oneLine(a.err.Error()), Hint: orNull(fault.HintOf(a.err))})
		case steps > 0:
			doc.Applied = append(doc.Applied, indexApplied{Action: r.Action, DDL: r.DDL, Table: r.Table, Index: r.Index, Steps: steps, CostBefore: a.before, CostAfter: a.after, ElapsedSeconds: a.elapsed.Seconds()})
		default:
			reason := "nothing is left to do"
			if a.seen && len(a.result.Plan.Skipped) > 0 {
				reason = a.result.Plan.Skipped[0].Reason
			}
			doc.Skipped = append(doc.Skipped, indexSkipped{DDL: r.DDL, Index: r.Index, Reason: reason})
		}
	}
	return doc
}

func (d indexApplyDoc) print(t *output.Table) {
	if d.DryRun {
		t.Line("Dry run: nothing was changed. Plan %s.", d.Plan.Digest())
	}
	t.Line("%s %s, skipped %d, failed %d.", map[bool]string{true: "Would apply", false: "Applied"}[d.DryRun], countOf(len(d.Applied), "change"), len(d.Skipped), len(d.Failed))
	t.Header("action", "index", "steps", "took", "cost before", "after")
	for _, a := range d.Applied {
		t.Row(string(a.Action), a.Index, a.Steps, time.Duration(a.ElapsedSeconds*float64(time.Second)), costCell(a.CostBefore), costCell(a.CostAfter))
	}
	t.Header("skipped", "why")
	for _, s := range d.Skipped {
		t.Row(s.Index, s.Reason)
	}
	t.Header("failed", "why")
	for _, f := range d.Failed {
		t.Row(f.Index, f.Error)
	}
	if d.DryRun {
		t.Line("")
		printSteps(t.Line, d.Plan)
	}
	if len(d.Undo) > 0 {
		t.Line("-- To undo:")
		for _, u := range d.Undo {
			t.Line("%s;", u)
		}
	}
}

// costCell is a planner cost without its decimals.
func costCell(cost *float64) any {
	if cost == nil {
		return nil
	}
	return int64(*cost)
}
