package cmd

import (
	"errors"
	"strings"
	"testing"

	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/pkg/partitions"
	"auditdb/pkg/plan"
)

// A command that did a part of its work ends with 1, or 5 where a lock was in the way, and a document that says which; one that did nothing
// ends as its error says.
func TestFailures(t *testing.T) {
	t.Parallel()
	locked, stopped := fault.New(fault.Locked, "wait", "blocked"), fault.New(fault.Interrupted, "", "stopped")
	refused := fault.New(fault.Refused, "", "no")
	type table struct {
		err    error
		partly bool
	}
	for name, c := range map[string]struct {
		tables []table
		class  fault.Class
		shown  bool
	}{
		"done":             {[]table{{}}, "", true},
		"nothing":          {[]table{{err: locked}}, fault.Locked, false},
		"a part":           {[]table{{err: refused, partly: true}}, fault.Data, true},
		"a part, locked":   {[]table{{err: locked, partly: true}}, fault.Locked, true},
		"stopped":          {[]table{{err: stopped, partly: true}}, fault.Interrupted, true},
		"one of two":       {[]table{{err: refused}, {}}, fault.Data, true},
		"one locked":       {[]table{{err: locked}, {}}, fault.Locked, true},
		"worse than that":  {[]table{{err: locked}, {err: refused}, {}}, fault.Data, true},
		"two":              {[]table{{err: locked}, {err: errors.Join(locked)}}, fault.Locked, false},
		"a part of two":    {[]table{{err: locked}, {err: locked, partly: true}}, fault.Locked, true},
		"stopped at first": {[]table{{err: stopped}, {err: stopped}}, fault.Interrupted, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var changes []*change[int]
			for _, one := range c.tables {
				changes = append(changes, &change[int]{name: "t", err: one.err, partly: one.partly})
			}
			entries, err := failures(changes)
			if got := classOf(err); got != c.class || (err == nil) != (len(entries) == 0) {
				t.Errorf("class %q, want %q: %v", got, c.class, err)
			}
			if got := worthShowing(changes); got != c.shown {
				t.Errorf("shown: %v", got)
			}
			if err != nil && errors.Is(err, locked) && fault.HintOf(err) != "wait" {
				t.Errorf("hint %q", fault.HintOf(err))
			}
		})
	}
}

// What a daily run says does not grow with the number of partitions.
func TestManyTakeOneLine(t *testing.T) {
	t.Parallel()
	draw := func(fn func(*output.Table)) string {
		var out strings.Builder
		p := output.Printer{Out: &out, Format: output.TableFormat}
		if err := p.Emit("x", struct{}{}, fn); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	var p plan.Plan
	var d partitionPruneDoc
	table := partitionPruneTable{Table: "t"}
	for i := range 40 {
		name := "p" + string(rune('a'+i%26))
		p.Skipped = append(p.Skipped, plan.Skip{Name: name, Reason: "it was pruned"})
		reason := partitions.KeptHold
		if i >= 20 {
			reason = partitions.KeptNotExpired
		}
		table.Kept = append(table.Kept, keptEntry{Name: name, Reason: reason})
	}
	p.Skipped = append(p.Skipped, plan.Skip{Name: "other", Reason: "else"})
	d.Tables = append(d.Tables, table)
	if got := draw(func(t *output.Table) { printSkipped(t, p) }); strings.Count(got, "\n") != 2 || !strings.Contains(got, "Left alone: other: else.") {
		t.Errorf("skipped:\n%s", got)
	}
	if got := draw(d.print); !strings.Contains(got, "kept 40 (20 hold, 20 not expired)") || !strings.Contains(got, "pa to pt (20)") || strings.Count(got, "\n") > 5 {
		t.Errorf("kept:\n%s", got)
	}
}
