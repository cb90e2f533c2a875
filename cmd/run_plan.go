package cmd

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"auditdb/internal/fault"
	"auditdb/pkg/partitions"
	"auditdb/pkg/plan"
)

// change is what a command is going to do to one object, such as a table. D is the draft that the domain makes of it.
type change[D any] struct {
	name   string
	draft  func(ctx context.Context) (D, error)                            // reads; changes nothing
	plan   func(D) plan.Plan                                               // what the draft would do
	locked func(ctx context.Context, fn func(context.Context) error) error // runs fn under the object's lock
	apply  func(ctx context.Context, d D) error                            // carries the draft out

	seen   bool // result is a draft
	partly bool // something was done, or in a dry run would be, whatever err says
	result D    // the draft that was shown, or the later one that was carried out
	err    error
}

// planOptions say how runPlans goes about it.
type planOptions struct {
	action  string // names the plan
	dryRun  bool
	digest  string                      // the plan that was confirmed somewhere else; "": none
	confirm func() (what string)        // what to ask before destructive steps; nil: there are none
	show    func(plan.Plan)             // shows the plan before it is confirmed; nil: not
	started func(context.Context) error // called once, before the first change; nil: nothing
}

// runPlans takes every change from plan to done: plan, show, confirm; then for each, lock, plan again, compare, apply. One change that
// fails does not stop the others; its error stays with it. The error returned is one that concerns all. The plan is the one that was carried
// out, or would be.
func runPlans[D any](ctx context.Context, app *App, changes []*change[D], o planOptions) (plan.Plan, error) {
	if o.confirm != nil || o.dryRun {
		for _, c := range changes {
			if c.err == nil {
				c.result, c.err = c.draft(ctx)
				c.seen = c.err == nil
			}
		}
	}
	shown := wholePlan(o.action, changes)
	if o.digest != "" && o.digest != shown.Digest() {
		return shown, fault.New(fault.Refused, "look at the new plan with --dry-run", "%s: the plan is %s now, not %s as confirmed", o.action, shown.Digest(), o.digest)
	}
	if o.dryRun {
		return shown, nil
	}
	if o.confirm != nil {
		if len(shown.Steps) == 0 {
			return shown, nil
		}
		if len(shown.Destructive()) > 0 {
			if _, ok := app.stderr.terminal(); ok && o.show != nil && !app.Config.Yes {
				o.show(shown)
			}
			if err := app.Confirm(ctx, o.confirm()); err != nil {
				return shown, err
			}
		}
	}
	if o.started != nil {
		if err := o.started(ctx); err != nil {
			return shown, err
		}
	}
	for _, c := range changes {
		if c.err == nil {
			c.err = c.run(ctx, o.confirm != nil)
		}
	}
	return wholePlan(o.action, changes), nil
}

// run carries one change out. compare says that its first draft was confirmed.
func (c *change[D]) run(ctx context.Context, compare bool) error {
	if compare && len(c.plan(c.result).Steps) == 0 {
		return nil
	}
	return c.locked(ctx, func(ctx context.Context) error {
		d, err := c.draft(ctx)
		if err != nil {
			return err
		}
		if compare {
			if differences := plan.Difference(c.plan(c.result), c.plan(d)); len(differences) > 0 {
				return fault.New(fault.Refused, "look at the new plan with --dry-run", "%s has changed since the plan was confirmed: %s", c.name, strings.Join(differences, "; "))
			}
		}
		c.result, c.seen = d, true
		return c.apply(ctx, d)
	})
}

// wholePlan is the plans of all changes in one.
func wholePlan[D any](action string, changes []*change[D]) plan.Plan {
	whole := plan.Plan{Action: action}
	for _, c := range changes {
		if c.seen {
			p := c.plan(c.result)
			whole.AsOf = p.AsOf
			whole.Steps = append(whole.Steps, p.Steps...)
			whole.Skipped = append(whole.Skipped, p.Skipped...)
		}
	}
	return whole
}

// changeRun is what became of a run over several tables.
type changeRun struct {
	worker  *partitions.Worker
	plan    plan.Plan
	failed  []failedEntry
	elapsed float64 // seconds
	silent  bool    // nothing was done, and the error says why: there is nothing to show
}

// changePartitions is the way of every command that changes partitions: it opens what is needed, makes a change of every table with begin,
// runs the plans, and has show make the document. show must not emit it when the run is silent.
func changePartitions[D any](ctx context.Context, app *App, command string, names []string, o planOptions,
	begin func(*partitions.Worker, resolved) (*change[D], error), show func(changeRun) error,
) error {
	started := app.Now()
	db, tables, worker, err := partitionWork(ctx, app, command, names)
	if err != nil {
		return err
	}
	changes := make([]*change[D], len(tables))
	for i, t := range tables {
		if changes[i], err = begin(worker, t); err != nil {
			return err
		}
	}
	o.action = strings.ReplaceAll(command, ".", " ")
	o.started = func(ctx context.Context) error { return startPartitionJob(ctx, app, db, command, tables) }
	r := changeRun{worker: worker}
	if r.plan, err = runPlans(ctx, app, changes, o); err != nil {
		return err
	}
	var failed error
	r.failed, failed = failures(changes)
	r.elapsed, r.silent = app.Now().Sub(started).Seconds(), !worthShowing(changes)
	if err := show(r); err != nil {
		return err
	}
	return failed
}

// failedEntry is a part of a run that failed while others went on.
type failedEntry struct {
	Table string      `json:"table"`
	Class fault.Class `json:"class"`
	Error string      `json:"error"`
	Hint  *string     `json:"hint"`
}

// worthShowing says that a document has something to say: where everything failed, and nothing was done, the error alone does.
func worthShowing[D any](changes []*change[D]) bool {
	return slices.ContainsFunc(changes, func(c *change[D]) bool { return c.err == nil || c.partly })
}

// failures lists the changes that failed, and the error to end the command with: that of the only one, the worst of all classes, or, where
// a part of the work was done, one of class data (exit 1). Where nothing but a lock was in the way, it is class locked in any case (exit 5):
// the same command, later, does the rest.
func failures[D any](changes []*change[D]) ([]failedEntry, error) {
	entries := []failedEntry{}
	var errs []error
	partly := false
	for _, c := range changes {
		partly = partly || c.partly || c.err == nil
		if c.err != nil {
			entries = append(entries, failedEntry{Table: c.name, Class: classOf(c.err), Error: oneLine(c.err.Error()), Hint: orNull(fault.HintOf(c.err))})
			errs = append(errs, c.err)
		}
	}
	switch {
	case len(errs) == 0:
		return entries, nil
	case len(changes) == 1 && !partly:
		return entries, errs[0]
	}
	classes := make([]fault.Class, 0, len(errs))
	texts := make([]string, 0, len(errs))
	for _, err := range errs {
		classes = append(classes, classOf(err))
		texts = append(texts, err.Error())
	}
	class := worst(classes)
	if partly && !slices.Contains([]fault.Class{fault.Interrupted, fault.Timeout, fault.Locked}, class) {
		class = fault.Data // a part of the work was done
	}
	if len(changes) == 1 {
		return entries, fault.New(class, fault.HintOf(errs[0]), "%w", errs[0])
	}
	return entries, fault.New(class, fault.HintOf(errs[0]), "%d of %d tables failed: %s", len(errs), len(changes), strings.Join(texts, "; "))
}

// manyAlike is from how many steps on those that say the same of other objects are counted, not shown.
const manyAlike = 5

// printSteps shows the statements of a plan; of many that are alike the first.
func printSteps(line func(format string, args ...any), p plan.Plan) {
	alike := map[string]int{}
	for _, s := range p.Steps {
		alike[stepKind(s)]++
	}
	seen := map[string]bool{}
	for _, s := range p.Steps {
		kind := stepKind(s)
		n := alike[kind]
		if n >= manyAlike && seen[kind] {
			continue
		}
		seen[kind] = true
		printStep(line, s)
		if n >= manyAlike {
			line("-- … and %d alike (-o json has all)", n-1)
		}
		line("")
	}
}

func printStep(line func(format string, args ...any), s plan.Step) {
	note := ""
	if s.NoTx {
		note = " (not in a transaction)"
	}
	line("-- %s: %s%s", s.Name, s.Reason, note)
	line("%s;", s.SQL)
}

// stepKind is what steps that do the same to different objects have in common: their statements without names, numbers and literals.
func stepKind(s plan.Step) string {
	return fmt.Sprint(s.NoTx, " ", stepNames().ReplaceAllString(s.SQL, "?"))
}

// stepNames matches what differs between the statements of a plan: literals, quoted names, and names with digits.
var stepNames = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`'(?:[^']|'')*'|"(?:[^"]|"")*"|\b[\w.]*\d[\w.]*\b`)
})
