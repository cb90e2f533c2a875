package plan

import (
	"context"
	"fmt"
	"slices"
)

// Executor carries out steps. It is given one group at a time, in the plan's order, and does all of it or returns an error; unless a step
// is NoTx, a group is one transaction.
type Executor interface {
	Execute(ctx context.Context, group []Step) error
}

// Separator is an executor that can say of an error whether it comes from one of a group's steps alone, so that the others, tried one by
// one, may succeed.
type Separator interface {
	Separate(err error) bool
}

// Result is what became of one step. Err is nil when it was done.
type Result struct {
	Step Step
	Err  error
}

// PartialError says that not all of a plan could be done. It unwraps to the first error.
type PartialError struct {
	Done   []Result
	Failed []Result // those that were tried, and those that were not tried because of them
	Err    error
}

// Error names the first failure and how far the plan had come.
func (e *PartialError) Error() string {
	if len(e.Done) == 0 {
		return e.Err.Error()
	}
	return fmt.Sprintf("%s (%d of %d steps done)", e.Err, len(e.Done), len(e.Done)+len(e.Failed))
}

// Unwrap returns the first error.
func (e *PartialError) Unwrap() error { return e.Err }

// Apply gives the plan's groups to ex, one after the other, and tells onDone, which may be nil, of every step. It stops at the first group
// that fails, unless the plan is to keep going; when ctx ends it always stops before the next group. A plan that keeps going tries the steps
// of a group that a Separator separates one by one. The error is a *PartialError.
func Apply(ctx context.Context, ex Executor, p Plan, onDone func(Result)) ([]Result, error) {
	var done, failed []Result
	var first error
	execute := func(group []Step) (err error) {
		if err = first; first == nil || (p.KeepGoing && ctx.Err() == nil) {
			if err = context.Cause(ctx); err == nil {
				err = ex.Execute(ctx, group)
			}
		}
		return err
	}
	finish := func(group []Step, err error) {
		if err != nil && first == nil {
			first = err
		}
		for _, s := range group {
			r := Result{Step: s, Err: err}
			if err == nil {
				done = append(done, r)
			} else {
				failed = append(failed, r)
			}
			if onDone != nil {
				onDone(r)
			}
		}
	}
	for group := range groups(p.Steps) {
		err := execute(group)
		if sep, ok := ex.(Separator); err == nil || len(group) == 1 || !p.KeepGoing || ctx.Err() != nil || !ok || !sep.Separate(err) {
			finish(group, err)
			continue
		}
		for i := range group {
			finish(group[i:i+1], execute(group[i:i+1]))
		}
	}
	if first != nil {
		return done, &PartialError{Done: done, Failed: failed, Err: first}
	}
	return done, nil
}

// groups yields neighbours of the same group together.
func groups(steps []Step) func(yield func([]Step) bool) {
	return func(yield func([]Step) bool) {
		for len(steps) > 0 {
			n := 1
			for n < len(steps) && steps[0].Group != "" && steps[n].Group == steps[0].Group {
				n++
			}
			if !yield(steps[:n]) {
				return
			}
			steps = steps[n:]
		}
	}
}

// Destructive returns the steps that lose data.
func (p Plan) Destructive() []Step {
	return slices.DeleteFunc(slices.Clone(p.Steps), func(s Step) bool { return !s.Destructive })
}

// Difference lists in words how the destructive steps of a newer plan differ from those that were confirmed: what would be done in addition,
// and differently. A step that is no longer needed is no difference.
func Difference(confirmed, now Plan) []string {
	known := map[string]string{}
	for _, s := range confirmed.Destructive() {
		known[s.Name] += s.SQL + ";\n"
	}
	fresh := map[string]string{}
	var names, differences []string
	for _, s := range now.Destructive() {
		if _, seen := fresh[s.Name]; !seen {
			names = append(names, s.Name)
		}
		fresh[s.Name] += s.SQL + ";\n"
	}
	for _, name := range names {
		switch before, ok := known[name]; {
		case !ok:
			differences = append(differences, name+" was not in the confirmed plan")
		case before != fresh[name]:
			differences = append(differences, name+" would be done in another way than confirmed")
		}
	}
	return differences
}
