package cmd

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"auditdb/internal/output"
	"auditdb/pkg/ingest"
	"auditdb/pkg/integrity"
	"auditdb/pkg/plan"
	"auditdb/pkg/retention"
)

// drawn is what a table for people looks like at the default width.
func drawn(t *testing.T, table func(*output.Table)) string {
	t.Helper()
	var b bytes.Buffer
	if err := (&output.Printer{Out: &b, Format: output.TableFormat}).Emit("x", nil, table); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 100 {
			t.Errorf("a line of %d columns: %s", n, line)
		}
	}
	return b.String()
}

func TestManySourcesAreSummed(t *testing.T) {
	t.Parallel()
	d := &ingestDoc{}
	folder := "/var/log/" + strings.Repeat("deep/", 14)
	for i := range 12 {
		s := ingest.SourceReport{Name: fmt.Sprintf("%sfile-%02d.ndjson", folder, i)}
		s.Read = 1000
		if i == 7 {
			s.Rejected = 2
		}
		d.Sources = append(d.Sources, s)
	}
	got := drawn(t, func(out *output.Table) { d.printSources(out) })
	if strings.Contains(got, "file-06") || !strings.Contains(got, "\nfile-07.ndjson ") || !strings.Contains(got, "12 sources") {
		t.Error(got)
	}
}

func TestCommonFolder(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		want  string
		paths []string
	}{
		{"", []string{"/a/b"}}, {"/a/", []string{"/a/b", "/a/c"}}, {"/a/", []string{"/a/b/c", "/a/bc/d"}}, {"", []string{"/a", "/b"}}, {"", []string{"app-1", "/a/b"}},
	} {
		if got := commonFolder(test.paths); got != test.want {
			t.Errorf("%v: %q, want %q", test.paths, got, test.want)
		}
	}
}

func TestStepsThatAreAlikeAreCounted(t *testing.T) {
	t.Parallel()
	var p plan.Plan
	for i := range 37 {
		p.Steps = append(p.Steps, plan.Step{Name: fmt.Sprintf("p%d", i), Reason: "makes it", SQL: fmt.Sprintf(`CREATE TABLE "p%d" FOR VALUES FROM ('2025-%d')`, i, i)})
	}
	p.Steps = append(p.Steps, plan.Step{Name: "other", Reason: "else", SQL: "DROP TABLE x"})
	got := drawn(t, func(out *output.Table) { printSteps(out.Line, p) })
	if strings.Count(got, "CREATE TABLE") != 1 || !strings.Contains(got, "… and 36 alike (-o json has all)") || !strings.Contains(got, "DROP TABLE x;") {
		t.Error(got)
	}
}

func TestRetentionTables(t *testing.T) {
	t.Parallel()
	name, rows := "audit_log_2024_01", int64(1)
	url := "s3://bucket/" + strings.Repeat("prefix/", 10) + "audit_log_2024_01-0123456789abcdef.parquet"
	d := retentionRunDoc{Tables: []retentionRunTable{{Table: "public.audit_log", Steps: []retention.Step{
		{Step: retention.StepArchive, Partition: &name, Rows: &rows, State: retention.StateDone, Detail: "read back from " + url},
		{Step: retention.StepVerify, Partition: &name, State: retention.StateDone, Detail: "rows are right; " + strings.Repeat("not excluded ", 20)},
		{Step: retention.StepExpire, Partition: &name, Rows: &rows, State: retention.StateDone},
	}}}}
	got := drawn(t, d.print)
	if !strings.Contains(got, "…/audit_log_2024_01-0123456789abcdef.parquet") || strings.Contains(got, "not excluded") || !strings.Contains(got, "expired 1 row;") {
		t.Error(got)
	}
	d.quiet = true
	if got := drawn(t, d.print); strings.Count(got, "\n") != 1 {
		t.Errorf("more than a summary: %s", got)
	}
	d.Tables[0].Steps[1].State, d.Tables[0].Steps[1].Detail = retention.StateFinding, "row_changed"
	if got := drawn(t, d.print); !strings.Contains(got, "row_changed") || strings.Contains(got, "parquet") {
		t.Errorf("not the finding alone: %s", got)
	}
	d = retentionRunDoc{DryRun: true, Tables: []retentionRunTable{{Table: "t"}}}
	for range 5 {
		d.Tables[0].Steps = append(d.Tables[0].Steps, retention.Step{Step: retention.StepCreate, Partition: &name, State: retention.StatePlanned, Detail: "ahead"})
	}
	if got := drawn(t, d.print); strings.Count(got, "ahead") != 1 || !strings.Contains(got, "… and 4 alike ") {
		t.Error(got)
	}
}

func TestVerifyOfNothingSealed(t *testing.T) {
	t.Parallel()
	r := &integrity.Report{RowsChecked: 300000, UnsealedRows: 300000}
	if got := drawn(t, func(out *output.Table) { verifyTableOf(out, r, "public.audit_log") }); strings.Contains(got, "OK:") ||
		!strings.Contains(got, "Nothing is sealed yet: of 300,000 rows none is in a leaf set.\nNext: auditdb integrity seal public.audit_log\n") {
		t.Error(got)
	}
	r.BatchesChecked, r.UnsealedRows = 1, 0
	if got := drawn(t, func(out *output.Table) { verifyTableOf(out, r, "") }); !strings.Contains(got, "OK: 300,000 rows in 1 leaf set checked") {
		t.Error(got)
	}
}

func TestCountOf(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]string{
		"1 leaf set": countOf(1, "leaf set"), "300,000 rows": countOf(int64(300000), "row"), "2 queries": countOf(2, "query"), "2 keys": countOf(2, "key"), "0 indexes": countOf(0, "index"),
		"1 row was": wereOf(1, "row"), "2 rows were": wereOf(2, "row"),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
