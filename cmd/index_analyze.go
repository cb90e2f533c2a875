package cmd

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/config"
	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/internal/postgres"
	"auditdb/pkg/indexes"
)

// indexAnalyzeDoc is auditdb.index.analyze.v1.
type indexAnalyzeDoc struct {
	Recommendations []indexes.Recommendation `json:"recommendations"`
	Workload        indexWorkload            `json:"workload"`
	Hypothetical    bool                     `json:"hypothetical"` // HypoPG was there to check plans with
	Mode            indexes.Mode             `json:"mode"`
	CostBefore      float64                  `json:"cost_before"` // of all queries, over their calls
	CostAfter       float64                  `json:"cost_after"`
	WriteBytes      float64                  `json:"write_bytes"` // of WAL that the new indexes add to a row inserted into a table, at most
	Notes           []string                 `json:"notes"`
	ElapsedSeconds  float64                  `json:"elapsed_seconds"`
}

type indexWorkload struct {
	Source  string            `json:"source"` // pg_stat_statements, file or logs
	Queries int               `json:"queries"`
	LeftOut []indexes.LeftOut `json:"left_out"`
	Calls   float64           `json:"calls"`
	Since   *time.Time        `json:"since"`
}

// indexAnalyzeOptions are the flags of index analyze.
type indexAnalyzeOptions struct {
	queries, mode  string
	logs           []string
	maxIndexes     int
	maxSize        string
	maxWrite       float64
	minImprovement float64
	tables         []string
}

func newIndexAnalyzeCmd(app *App) *cobra.Command {
	var o indexAnalyzeOptions
	cmd := &cobra.Command{
		Use:   "analyze [TABLE]...",
		Short: "Find the indexes that a workload is served best by",
		Long: "The workload is what pg_stat_statements has counted, or a file of SQL, or the server's csv or JSON logs. Its statements are planned and never\n" +
			"run. Indexes are chosen for all of them together, what queries gain against what writes pay; HypoPG, where it is installed, checks the choice.\n" +
			"The JSON is what index apply --from takes. Without TABLE: every table that the workload touches.",
		Example: "  auditdb index analyze\n  auditdb index analyze --queries workload.sql --mode read -o json > advice.json\n" +
			"  auditdb index analyze public.audit_log --logs postgresql.csv --max-indexes 5 --max-size 2GB",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.tables = args
			return runIndexAnalyze(cmd.Context(), app, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.queries, "queries", "", "`FILE` of SQL, each statement ended by a semicolon, '-- calls: N' on the line before it; - is standard input")
	f.StringSliceVar(&o.logs, "logs", nil, "`FILE`s of the server's log as csv or JSON, with statements or auto_explain's plans")
	f.StringVar(&o.mode, "mode", string(indexes.ModeBalanced), "what is weighed: balanced (reads against writes) or read")
	f.IntVar(&o.maxIndexes, "max-indexes", 0, "at most so many new indexes (default 25, read: 30)")
	f.StringVar(&o.maxSize, "max-size", "", "at most this `SIZE` of all new indexes together, e.g. 2GB (default: that of the tables, of small ones twice that)")
	f.Float64Var(&o.maxWrite, "max-write", 0, "at most so many `BYTES` of WAL more for a row inserted into a table (default 720, read: no limit)")
	f.Float64Var(&o.minImprovement, "min-improvement", 0.1, "an index has to make some query cheaper by this `PART` of its cost")
	return listOutput(cmd)
}

func runIndexAnalyze(ctx context.Context, app *App, o indexAnalyzeOptions) error {
	started := app.Now()
	budget, err := o.budget()
	if err != nil {
		return err
	}
	w, err := o.queryFile(app)
	if err != nil {
		return err
	}
	db, err := app.Postgres(ctx, "index.analyze")
	if err != nil {
		return err
	}
	if w == nil {
		if w, err = o.measured(ctx, db); err != nil {
			return err
		}
	}
	doc, err := analyzeIndexes(ctx, app, db, o.tables, w, budget)
	if err != nil {
		return err
	}
	doc.ElapsedSeconds = app.Now().Sub(started).Seconds()
	return app.EmitList("index.analyze", doc, doc.Recommendations, doc.print)
}

// analyzeIndexes looks for the indexes that a workload needs, and for what hygiene finds wrong with those of its tables.
func analyzeIndexes(ctx context.Context, app *App, db *postgres.DB, names []string, w *indexes.Workload, b indexes.Budget) (indexAnalyzeDoc, error) {
	hygiene, err := indexHygiene(ctx, app, db, names)
	if err != nil {
		return indexAnalyzeDoc{}, err
	}
	defer closeReplicas(hygiene.Replicas)
	a, err := indexes.Analyze(ctx, db, indexes.AnalyzeOptions{Workload: w, Tables: hygiene.Tables, Budget: b})
	if err != nil {
		return indexAnalyzeDoc{}, err
	}
	doc := indexAnalyzeDoc{
		Recommendations: append([]indexes.Recommendation{}, a.Recommendations...),
		Workload:        indexWorkload{Source: w.Source, Queries: a.Queries, LeftOut: append([]indexes.LeftOut{}, a.LeftOut...), Calls: a.Calls, Since: w.Since},
		Hypothetical:    a.Hypothetical, Mode: b.Mode, CostBefore: a.CostBefore, CostAfter: a.CostAfter, WriteBytes: a.WriteBytes,
		Notes: append([]string{}, a.Notes...),
	}
	if len(hygiene.Tables) == 0 {
		hygiene.Tables = a.Tables
	}
	if len(hygiene.Tables) > 0 {
		more, notes, err := indexes.Hygiene(ctx, db, hygiene)
		if err != nil {
			return doc, err
		}
		doc.Recommendations = indexes.Together(a.Recommendations, more)
		doc.Notes = append(doc.Notes, notes...)
	}
	return doc, nil
}

// budget checks the flags.
func (o indexAnalyzeOptions) budget() (b indexes.Budget, err error) {
	const command = "auditdb index analyze"
	b = indexes.Budget{Mode: indexes.Mode(o.mode), MaxIndexes: o.maxIndexes, MaxWrite: o.maxWrite, MinImprovement: o.minImprovement}
	switch {
	case b.Mode != indexes.ModeBalanced && b.Mode != indexes.ModeRead:
		return b, usage(command, "choose balanced or read", "--mode: %q is no mode", o.mode)
	case o.maxIndexes < 0 || o.maxWrite < 0:
		return b, usage(command, "", "--max-indexes and --max-write cannot be negative")
	case !(o.minImprovement > 0 && o.minImprovement < 1):
		return b, usage(command, "0.1 is a tenth of a query's cost", "--min-improvement: %v is not between 0 and 1", o.minImprovement)
	case o.queries != "" && len(o.logs) > 0:
		return b, usage(command, "", "--queries and --logs cannot be used together")
	case o.maxSize != "":
		if b.MaxSize, err = config.ParseSize(o.maxSize); err != nil || b.MaxSize <= 0 {
			return b, usage(command, "write a size such as 500MB or 2GB", "--max-size: %q is no size", o.maxSize)
		}
	}
	return b, nil
}

// queryFile reads --queries; nil: it was not given.
func (o indexAnalyzeOptions) queryFile(app *App) (*indexes.Workload, error) {
	if o.queries == "" {
		return nil, nil //nolint:nilnil // not given
	}
	in := app.In
	if o.queries != "-" {
		f, err := os.Open(o.queries)
		if err != nil {
			return nil, fault.New(fault.Usage, "name a file of SQL", "--queries: %w", err)
		}
		defer func() { _ = f.Close() }() // it was only read
		in = f
	}
	w, err := indexes.ReadQueries(in)
	if err != nil {
		return nil, fault.New(fault.Usage, "", "--queries %s: %w", o.queries, err)
	}
	if len(w.Queries) == 0 && len(w.LeftOut) == 0 {
		return nil, fault.New(fault.Usage, "end each statement with a semicolon", "--queries %s: there is no workload: it holds no statement", o.queries)
	}
	return w, nil
}

// measured reads the logs, or what the server has counted.
func (o indexAnalyzeOptions) measured(ctx context.Context, db *postgres.DB) (*indexes.Workload, error) {
	if len(o.logs) == 0 {
		return indexes.CountedWorkload(ctx, db)
	}
	database, err := indexes.CurrentDatabase(ctx, db)
	if err != nil {
		return nil, err
	}
	var files []io.Reader
	for _, name := range o.logs {
		f, err := os.Open(name)
		if err != nil {
			return nil, fault.New(fault.Usage, "name csv or JSON logs of the server", "--logs: %w", err)
		}
		defer func() { _ = f.Close() }() // it was only read
		files = append(files, f)
	}
	w, err := indexes.ReadLogs(database, files...)
	if err != nil {
		return nil, fault.New(fault.Usage, "set log_destination to csvlog or jsonlog (PostgreSQL 15)", "--logs: %w", err)
	}
	if len(w.Queries) == 0 && len(w.LeftOut) == 0 {
		return nil, fault.New(fault.Usage, "set log_min_duration_statement, or load auto_explain", "--logs: there is no workload: they hold no statement of database %s", database)
	}
	return w, nil
}

func (d indexAnalyzeDoc) print(t *output.Table) {
	if len(d.Recommendations) == 0 {
		t.Line("Nothing would help this workload enough.")
	}
	for _, r := range d.Recommendations {
		t.Line("-- %s: %s", r.Action, r.Reason)
		if r.Action == indexes.ActionCreate && r.WritePenalty != nil {
			t.Line("-- %s, %.0f bytes of WAL for each inserted row; by %s, confidence %s", output.Cell(sizeCell(r.SizeBytes)), *r.WritePenalty, r.Evidence, r.Confidence)
		}
		t.Line("%s;", r.DDL)
	}
	t.Line("")
	saved := 0.0
	if d.CostBefore > 0 {
		saved = 100 * (d.CostBefore - d.CostAfter) / d.CostBefore
	}
	t.Line("%s with %.0f calls (%s) would cost %.1f %% less.", countOf(d.Workload.Queries, "statement"), d.Workload.Calls, d.Workload.Source, saved)
	d.Workload.printLeftOut(t)
	for _, note := range d.Notes {
		t.Line("Note: %s.", note)
	}
}

// printLeftOut says what was left out: one line for all statements of one reason, which -o json lists one by one.
func (w indexWorkload) printLeftOut(t *output.Table) {
	calls, statements := map[string]float64{}, map[string]int{}
	for _, l := range w.LeftOut {
		calls[l.Reason] += l.Calls
		statements[l.Reason]++
	}
	for _, l := range w.LeftOut {
		switch n := statements[l.Reason]; {
		case n == 1:
			t.Line("Left out, %.0f calls: %s: %s", l.Calls, l.Reason, l.Query)
		case n > 1:
			t.Line("%.0f calls of %d statements left out: %s", calls[l.Reason], n, l.Reason)
		}
		statements[l.Reason] = 0
	}
}
