package plan_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"auditdb/pkg/plan"
)

type fake struct {
	calls [][]string
	fail  string
}

var errFake = errors.New("it broke")

func (f *fake) Execute(_ context.Context, group []plan.Step) error {
	var names []string
	for _, s := range group {
		names = append(names, s.Name)
	}
	f.calls = append(f.calls, names)
	if slices.Contains(names, f.fail) {
		return errFake
	}
	return nil
}

func steps(specs ...string) []plan.Step {
	var out []plan.Step
	for _, s := range specs {
		name, group, _ := strings.Cut(s, ":")
		out = append(out, plan.Step{Name: name, Group: group, SQL: "DROP " + name, Destructive: true})
	}
	return out
}

func TestApply(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		steps  []plan.Step
		fail   string
		keep   bool
		calls  string
		done   int
		failed int
	}{
		"nothing":        {},
		"alone":          {steps: steps("a", "b"), calls: "a|b", done: 2},
		"groups":         {steps: steps("a:1", "b:1", "c:2", "d"), calls: "a,b|c|d", done: 4},
		"stops":          {steps: steps("a:1", "b:1", "c:2", "d"), fail: "b", calls: "a,b", failed: 4},
		"goes on":        {steps: steps("a", "b", "c"), fail: "b", keep: true, calls: "a|b|c", done: 2, failed: 1},
		"stops half way": {steps: steps("a", "b", "c"), fail: "b", calls: "a|b", done: 1, failed: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &fake{fail: c.fail}
			told := 0
			done, err := plan.Apply(t.Context(), f, plan.Plan{Steps: c.steps, KeepGoing: c.keep}, func(plan.Result) { told++ })
			var calls []string
			for _, call := range f.calls {
				calls = append(calls, strings.Join(call, ","))
			}
			if got := strings.Join(calls, "|"); got != c.calls {
				t.Errorf("calls %q, want %q", got, c.calls)
			}
			if len(done) != c.done || told != len(c.steps) {
				t.Errorf("done %d, told %d", len(done), told)
			}
			var partial *plan.PartialError
			if (c.failed > 0) != errors.As(err, &partial) {
				t.Fatalf("error %v", err)
			}
			if partial != nil && (len(partial.Failed) != c.failed || !errors.Is(err, errFake)) {
				t.Errorf("failed %d, %v", len(partial.Failed), err)
			}
		})
	}
}

type separating struct{ fake }

func (*separating) Separate(err error) bool { return errors.Is(err, errFake) }

// One step of a group that fails does not take the others with it.
func TestApplySeparates(t *testing.T) {
	t.Parallel()
	f := &separating{fake{fail: "b"}}
	done, err := plan.Apply(t.Context(), f, plan.Plan{Steps: steps("a:1", "b:1", "c:1", "d:2", "e:2"), KeepGoing: true}, nil)
	var partial *plan.PartialError
	if len(done) != 4 || !errors.As(err, &partial) || len(partial.Failed) != 1 || partial.Failed[0].Step.Name != "b" || len(f.calls) != 5 {
		t.Errorf("done %v, calls %v, %v", done, f.calls, err)
	}
	f = &separating{fake{fail: "b"}}
	if done, _ := plan.Apply(t.Context(), f, plan.Plan{Steps: steps("a:1", "b:1", "c:2")}, nil); len(done) != 0 || len(f.calls) != 1 {
		t.Errorf("a plan that is not to keep going: done %v, calls %v", done, f.calls)
	}
}

func TestApplyStopsWithTheContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	f := &fake{}
	done, err := plan.Apply(ctx, f, plan.Plan{Steps: steps("a", "b"), KeepGoing: true}, func(plan.Result) { cancel() })
	if len(done) != 1 || len(f.calls) != 1 || !errors.Is(err, context.Canceled) {
		t.Errorf("done %d, calls %v, %v", len(done), f.calls, err)
	}
}

func TestDifference(t *testing.T) {
	t.Parallel()
	confirmed := plan.Plan{Steps: steps("a", "b")}
	if d := plan.Difference(confirmed, plan.Plan{Steps: steps("b")}); len(d) != 0 {
		t.Errorf("less to do is no difference: %v", d)
	}
	if d := plan.Difference(confirmed, plan.Plan{Steps: steps("a", "b", "c")}); len(d) != 1 {
		t.Errorf("more: %v", d)
	}
	other := steps("a", "b")
	other[1].SQL = "DETACH b"
	if d := plan.Difference(confirmed, plan.Plan{Steps: other}); len(d) != 1 {
		t.Errorf("other SQL: %v", d)
	}
	harmless := steps("a", "z")
	harmless[1].Destructive = false
	if d := plan.Difference(confirmed, plan.Plan{Steps: harmless}); len(d) != 0 {
		t.Errorf("a step that loses nothing: %v", d)
	}
}

func TestPlanJSON(t *testing.T) {
	t.Parallel()
	raw, err := json.Marshal(plan.Plan{Action: "x"})
	if err != nil || !strings.Contains(string(raw), `"steps":[],"skipped":[]`) {
		t.Errorf("%s, %v", raw, err)
	}
	a, b := plan.Plan{Steps: steps("a")}, plan.Plan{Steps: steps("a:other")}
	if a.Digest() != b.Digest() || a.Digest() == (plan.Plan{}).Digest() {
		t.Error("digest")
	}
}
