package cmd

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/internal/postgres"
	"auditdb/pkg/archive"
	"auditdb/pkg/partitions"
	"auditdb/pkg/query"
)

// queryDocuments lists the document of query.
func queryDocuments() map[string]any { return map[string]any{"query": queryDoc{}} }

// queryDoc is auditdb.query.v1.
type queryDoc struct {
	Table          string              `json:"table"`
	Rows           []query.Row         `json:"rows"`
	Next           *string             `json:"next"`   // the cursor of the next page; null at the end
	Count          *int64              `json:"count"`  // only of --count
	Groups         []query.Group       `json:"groups"` // only of --group-by
	GroupsTotal    *int                `json:"groups_total"`
	Source         query.Source        `json:"source"`
	Sources        query.Sources       `json:"sources"`
	Explain        []query.Explained   `json:"explain"`  // only of --explain
	Archives       []query.ArchiveRead `json:"archives"` // in the range, where they were asked for
	ElapsedSeconds float64             `json:"elapsed_seconds"`

	name      string
	explained bool
	by        string
	scope     string // of what was cached
}

// queryOptions are the flags of query.
type queryOptions struct {
	table            string
	from, to         string
	details          []string
	columns          map[string]*string // by flag
	limit            int
	after            string
	count            bool
	groupBy          string
	explain          bool
	noCache, fresh   bool
	archives         query.Archives
	statementTimeout *time.Duration
}

// queryFilter is a flag that filters by a column.
type queryFilter struct{ flag, column, help string }

func queryFilters() []queryFilter {
	return []queryFilter{
		{"organization", "organization_id", "only rows of this organization `ID`"},
		{"principal", "principal_id", "only rows of this principal `ID`"},
		{"action", "action", "only rows with this `ACTION`"},
		{"status", "status", "only rows with this `STATUS`"},
		{"resource-type", "target_resource_type", "only rows about this `TYPE` of resource"},
		{"resource-id", "target_resource_id", "only rows about the resource with this `ID`"},
		{"correlation-id", "correlation_id", "only rows with this correlation `ID`"},
		{"classification", "data_classification", "only rows of this data `CLASSIFICATION`"},
	}
}

const (
	defaultQueryLimit       = 100
	defaultStatementTimeout = 30 * time.Second
)

func newQueryCmd(app *App) *cobra.Command {
	return queryCmd(app, runQuery)
}

// queryCmd is the command, or what reads a command line like its own for another.
func queryCmd(app *App, run func(context.Context, *App, queryOptions) error) *cobra.Command {
	o := queryOptions{columns: map[string]*string{}}
	cmd := &cobra.Command{
		Use:   "query [TABLE]",
		Short: "Find events, newest first",
		Long: "All filters have to hold; each compares for equality. --details goes along keys and places in arrays, and compares the text of what is there.\n" +
			"Pages have up to " + "10,000 rows and the cursor of the next one; -o ndjson and -o csv stream any number (--limit 0: all) in constant memory, from\n" +
			"one snapshot. Without TABLE: public.audit_log, or the only registered table.",
		Example: "  auditdb query --principal alice --from 7d\n  auditdb query --action user.login --status failure --group-by principal_id\n" +
			"  auditdb query --details request.ip=10.0.0.7 --limit 20 -o json\n  auditdb query --principal alice --archives\n  auditdb query --from 2026-01 --to 2026-02 --limit 0 -o ndjson",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.given(app, cmd, args)
			return run(cmd.Context(), app, o)
		},
	}
	o.flags(cmd)
	f := cmd.Flags()
	f.BoolVar(&o.noCache, "no-cache", false, "neither ask the cache nor store the answer")
	f.BoolVar(&o.fresh, "fresh", false, "read everything from the primary, and store it in the cache")
	withArchives := f.Bool("archives", false, "rows of archived partitions that the table does not have any more as well, in their place; nothing is cached")
	cmd.PreRun = func(*cobra.Command, []string) {
		if *withArchives {
			o.archives = query.WithArchives
		}
	}
	return listOutput(cmd)
}

// flags adds what commands that look for rows have in common.
func (o *queryOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "only rows at or after this `TIME`")
	f.StringVar(&o.to, "to", "", "only rows before this `TIME`")
	for _, c := range queryFilters() {
		o.columns[c.flag] = f.String(c.flag, "", c.help)
	}
	f.StringArrayVar(&o.details, "details", nil, "only rows whose details have the value: `PATH=VALUE`, PATH dotted; may be given several times")
	f.IntVar(&o.limit, "limit", defaultQueryLimit, "most `ROWS`, or groups of --group-by (0: all, with -o ndjson or csv)")
	f.StringVar(&o.after, "after", "", "go on after this `CURSOR`, the next of the page before")
	f.BoolVar(&o.count, "count", false, "only count the rows")
	f.StringVar(&o.groupBy, "group-by", "", "count the rows by the values of this `COLUMN`, the most frequent first")
	f.BoolVar(&o.explain, "explain", false, "tell which partitions were asked, by which index, and where the rows came from")
	o.statementTimeout = durationFlag(f, "statement-timeout", defaultStatementTimeout, "limit of each statement on the server (0: none, which streams have by default)")
	cmd.MarkFlagsMutuallyExclusive("count", "group-by")
}

// given takes what was not on the command line out of the filters.
func (o *queryOptions) given(app *App, cmd *cobra.Command, args []string) {
	o.table = strings.Join(args, "")
	for flag := range o.columns {
		if !cmd.Flags().Changed(flag) {
			delete(o.columns, flag)
		}
	}
	if !cmd.Flags().Changed("statement-timeout") && o.streams(app) {
		*o.statementTimeout = 0 // it lasts as long as who reads it likes
	}
}

// streams says whether rows go out as they come.
func (o queryOptions) streams(app *App) bool {
	return !o.count && o.groupBy == "" && (app.Printer.Format == output.NDJSONFormat || app.Printer.Format == output.CSVFormat)
}

func runQuery(ctx context.Context, app *App, o queryOptions) error {
	return runSearch(ctx, app, o, "query")
}

// runSearch answers the command of that name.
func runSearch(ctx context.Context, app *App, o queryOptions, name string) error {
	began := app.Now()
	if o.limit < 0 || o.limit == 0 && !o.streams(app) {
		return usage(commandPath(name), "-o ndjson and -o csv stream all rows with --limit 0", "--limit must be at least 1")
	}
	if o.streams(app) && o.explain {
		return usage(commandPath(name), "use -o json, -o yaml or -o table", "--explain does not go with a stream of rows")
	}
	req, err := o.request()
	if err != nil {
		return err
	}
	db, err := app.Postgres(ctx, name)
	if err != nil {
		return err
	}
	if req.Table, req.Partitions, err = queryTable(ctx, db, o.table); err != nil {
		return err
	}
	if err := o.window(app, &req); err != nil {
		return err
	}
	cached, err := o.queryCache(ctx, app)
	if err != nil {
		return err
	}
	options := query.Options{DB: db, Now: app.Now, StatementTimeout: *o.statementTimeout, Wait: app.Config.Wait, Cache: cached, Log: app.Log}
	router, err := app.replicas(ctx, db, name, *o.statementTimeout)
	if err != nil {
		return err
	}
	if router != nil && !o.fresh {
		options.Replicas = router
	}
	if options.Archives, err = o.archiver(ctx, app, db); err != nil {
		return err
	}
	engine := query.New(options)
	if o.streams(app) {
		return streamRows(ctx, app, engine, req)
	}
	doc := queryDoc{name: name, Table: req.Table.String(), Rows: []query.Row{}, explained: o.explain, by: o.groupBy}
	if err := o.answer(ctx, engine, req, &doc); err != nil {
		return err
	}
	if o.after == "" && !o.fresh && o.archives == query.NoArchives {
		cached.Cache.Asked(doc.scope, o.commandLine(req.Table))
	}
	doc.ElapsedSeconds = app.Now().Sub(began).Seconds()
	return doc.emit(app)
}

// answer asks for what the flags want.
func (o queryOptions) answer(ctx context.Context, engine *query.Engine, req query.Request, doc *queryDoc) error {
	var a query.Answer
	var err error
	switch {
	case o.count:
		doc.Count = new(int64)
		a, *doc.Count, err = engine.Count(ctx, req)
	case o.groupBy != "":
		doc.GroupsTotal = new(int)
		a, doc.Groups, *doc.GroupsTotal, err = engine.Groups(ctx, req, o.groupBy)
	default:
		var page *query.Page
		if page, err = engine.Page(ctx, req); err == nil {
			a, doc.Rows = page.Answer, page.Rows
			if page.Next != "" {
				doc.Next = &page.Next
			}
		}
	}
	doc.Sources, doc.Source, doc.Explain, doc.Archives, doc.scope = a.Sources, a.Sources.Costliest(), a.Explain, a.Archives, a.CacheScope
	return err
}

// archiver reads archives where they were asked for.
func (o queryOptions) archiver(ctx context.Context, app *App, db *postgres.DB) (*archive.Archiver, error) {
	if o.archives == query.NoArchives {
		return nil, nil //nolint:nilnil // they were not
	}
	if err := requireSchema(ctx, db); err != nil {
		return nil, err
	}
	log, err := newLog(app)
	if err != nil {
		return nil, err
	}
	return app.openArchiver(ctx, db, log)
}

func commandPath(name string) string { return "auditdb " + strings.ReplaceAll(name, ".", " ") }

// request is what the flags ask for, but for the table and the times, which are read in its zone.
func (o queryOptions) request() (query.Request, error) {
	req := query.Request{Limit: o.limit, After: o.after, Explain: o.explain, Archives: o.archives}
	for _, c := range queryFilters() {
		if v := o.columns[c.flag]; v != nil {
			req.Filters = append(req.Filters, query.Filter{Column: c.column, Value: *v, Option: "--" + c.flag})
		}
	}
	for _, d := range o.details {
		f, err := query.ParseDetails(d)
		if err != nil {
			return req, err
		}
		req.Details = append(req.Details, f)
	}
	return req, nil
}

// window reads the times.
func (o queryOptions) window(app *App, req *query.Request) error {
	req.Window.Written = o.from + "\n" + o.to
	for _, end := range []struct {
		flag, text string
		at         **time.Time
	}{{"from", o.from, &req.Window.From}, {"to", o.to, &req.Window.To}} {
		if end.text == "" {
			continue
		}
		at, err := ParseTime(end.text, app.Now(), req.Table.Location)
		if err != nil {
			return fault.New(fault.Usage, fault.HintOf(err), "--%s: %w", end.flag, err)
		}
		*end.at = &at
	}
	if w := req.Window; w.From != nil && w.To != nil && !w.From.Before(*w.To) {
		return usage("auditdb query", "", "--from %s is not before --to %s", o.from, o.to)
	}
	return nil
}

// queryTable finds the one table to query, and how many partitions it has, 0 if that is not known yet.
func queryTable(ctx context.Context, db *postgres.DB, name string) (t partitions.Table, n int, err error) {
	if name == "" {
		var ok bool
		if t, n, ok, err = partitions.ResolveDefault(ctx, db.Pool()); ok || err != nil {
			return t, n, err
		}
		names, err := partitions.Registered(ctx, db.Pool())
		if err != nil {
			return t, 0, err
		}
		switch {
		case len(names) == 1:
			name = names[0]
		case slices.Contains(names, partitions.DefaultTable):
			name = partitions.DefaultTable
		default:
			return t, 0, usage("auditdb query", "the registered tables are "+strings.Join(names, ", "), "name the table to query")
		}
	}
	t, err = partitions.Resolve(ctx, db, name)
	return t, 0, err
}
