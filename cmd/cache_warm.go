package cmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/pkg/cache"
	"auditdb/pkg/partitions"
	"auditdb/pkg/query"
)

// cacheWarmDoc is auditdb.cache.warm.v1.
type cacheWarmDoc struct {
	Queries        []warmedQuery `json:"queries"`
	Warmed         int           `json:"warmed"`
	Failed         []warmedQuery `json:"failed"`
	L2Status       cache.Status  `json:"l2_status"`
	DryRun         bool          `json:"dry_run"`
	ElapsedSeconds float64       `json:"elapsed_seconds"`
}

// warmedQuery is one query, as it would be written after auditdb query.
type warmedQuery struct {
	Query          string        `json:"query"`
	Times          *int64        `json:"times"`  // it was asked; null for one of a file
	Source         *query.Source `json:"source"` // the costliest; null where it was not run
	Sources        query.Sources `json:"sources"`
	ElapsedSeconds float64       `json:"elapsed_seconds"`
	Error          *string       `json:"error"`

	options queryOptions
}

// cacheWarmOptions are the flags of warm.
type cacheWarmOptions struct {
	table  string
	file   string
	top    int
	dryRun bool
}

func newCacheWarmCmd(app *App) *cobra.Command {
	var o cacheWarmOptions
	cmd := &cobra.Command{
		Use:   "warm [TABLE]",
		Short: "Run the most frequent queries, or those of a file, so that their answers are cached",
		Long: "Runs the queries that were asked most often of TABLE, or of every registered table, within the last days; what is cached already is not read\n" +
			"again. With --queries those of a file: on each line what would stand after 'auditdb query', with quotes as in a shell; lines that start\n" +
			"with # are comments. Redis has to be configured: only there do answers outlive this command.",
		Example: "  auditdb cache warm --top 50\n  auditdb cache warm --queries dashboard.txt\n  auditdb cache warm public.audit_log --dry-run",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.table = strings.Join(args, "")
			if o.top < 1 {
				return usage(cmd.CommandPath(), "", "--top must be at least 1")
			}
			return runCacheWarm(cmd.Context(), app, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.file, "queries", "", "run the queries of this `FILE` (- for standard input)")
	f.IntVar(&o.top, "top", 20, "run the `N` most frequent queries")
	f.BoolVar(&o.dryRun, "dry-run", false, "show the queries and run none")
	return cmd
}

func runCacheWarm(ctx context.Context, app *App, o cacheWarmOptions) error {
	began := app.Now()
	doc := cacheWarmDoc{Queries: []warmedQuery{}, Failed: []warmedQuery{}, DryRun: o.dryRun}
	c, status, err := app.openCache(ctx)
	if err != nil {
		return err
	}
	var list []warmedQuery
	if doc.L2Status = status; o.file != "" { // also without Redis, a file that is wrong is wrong
		if list, err = app.readQueries(ctx, o); err != nil {
			return err
		}
	} else if status == cache.StatusOK {
		if list, err = frequentQueries(ctx, app, c, o); err != nil {
			return err
		}
	}
	for _, q := range list {
		if !o.dryRun && status == cache.StatusOK {
			q.run(ctx, app, c)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if q.Error != nil {
			doc.Failed = append(doc.Failed, q)
			continue
		}
		doc.Queries = append(doc.Queries, q)
		if q.Source != nil {
			doc.Warmed++
		}
	}
	doc.ElapsedSeconds = app.Now().Sub(began).Seconds()
	if err := app.Emit("cache.warm", doc, doc.print); err != nil {
		return err
	}
	if len(doc.Failed) > 0 {
		return fault.New(fault.Data, "the document's failed says why", "cache warm: %d of %s failed", len(doc.Failed), queries(len(list)))
	}
	return nil
}

// run asks the query. Its error stays with it.
func (q *warmedQuery) run(ctx context.Context, app *App, c *cache.Cache) {
	began := app.Now()
	err := func() error {
		db, err := app.Postgres(ctx, "cache.warm")
		if err != nil {
			return err
		}
		req, err := q.options.request()
		if err != nil {
			return err
		}
		if req.Table, req.Partitions, err = queryTable(ctx, db, q.options.table); err != nil {
			return err
		}
		if err := q.options.window(app, &req); err != nil {
			return err
		}
		engine := query.New(query.Options{
			DB: db, Now: app.Now, StatementTimeout: *q.options.statementTimeout, Log: app.Log,
			Cache: query.CacheOptions{Cache: c, TTL: app.Config.Cache.TTL, PHI: app.Config.Cache.PHI},
		})
		var doc queryDoc
		err = q.options.answer(ctx, engine, req, &doc)
		q.Source, q.Sources = &doc.Source, doc.Sources
		return err
	}()
	q.ElapsedSeconds = app.Now().Sub(began).Seconds()
	if err != nil {
		text := oneLine(err.Error())
		q.Source, q.Error = nil, &text
	}
}

// frequentQueries are those that were asked most often. One that this version cannot read is left out.
func frequentQueries(ctx context.Context, app *App, c *cache.Cache, o cacheWarmOptions) ([]warmedQuery, error) {
	db, err := app.Postgres(ctx, "cache.warm")
	if err != nil {
		return nil, err
	}
	tables, err := cacheTables(ctx, db, o.table)
	if err != nil {
		return nil, err
	}
	server, err := db.Info(ctx)
	if err != nil {
		return nil, err
	}
	var list []warmedQuery
	for _, t := range tables {
		questions, err := c.Frequent(ctx, cacheScopeOf(server, t), o.top)
		if err != nil {
			return nil, fault.New(fault.Unavailable, "name queries in a file with --queries", "cache warm: read the most frequent queries from Redis: %w", err)
		}
		for _, asked := range questions {
			q, err := app.readQuery(ctx, asked.Text)
			if err != nil {
				app.Warn("a query that was remembered cannot be read and is left out: %v", err)
				continue
			}
			q.Times = &asked.Times
			list = append(list, q)
		}
	}
	slices.SortStableFunc(list, func(a, b warmedQuery) int { return int(*b.Times - *a.Times) })
	return list[:min(len(list), o.top)], nil
}

// readQueries reads a file of queries, all of them before any is run.
func (a *App) readQueries(ctx context.Context, o cacheWarmOptions) (list []warmedQuery, err error) {
	in := a.In
	if o.file != "-" {
		f, err := os.Open(o.file)
		if err != nil {
			return nil, fault.New(fault.Usage, "", "--queries: %w", err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	lines := bufio.NewScanner(in)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		q, err := a.readQuery(ctx, text)
		if err != nil {
			return nil, fault.New(fault.Usage, "write what would stand after auditdb query", "--queries %s, line %d: %w", o.file, n, err)
		}
		if q.options.table == "" {
			q.options.table = o.table
		}
		list = append(list, q)
	}
	if err := lines.Err(); err != nil {
		return nil, fault.New(fault.Usage, "", "--queries %s: %w", o.file, err)
	}
	return list, nil
}

// readQuery reads one line as the command query would.
func (a *App) readQuery(ctx context.Context, text string) (warmedQuery, error) {
	q := warmedQuery{Query: text, Sources: query.Sources{}}
	words, err := splitWords(text)
	if err != nil {
		return q, err
	}
	cmd := queryCmd(a, func(_ context.Context, _ *App, o queryOptions) error { //nolint:contextcheck // it only reads the flags
		q.options = o
		return nil
	})
	cmd.SetContext(ctx)
	if err := cmd.ParseFlags(words); err != nil {
		return q, err
	}
	if err := errors.Join(cmd.ValidateArgs(cmd.Flags().Args()), cmd.ValidateFlagGroups()); err != nil {
		return q, err
	}
	if err := cmd.RunE(cmd, cmd.Flags().Args()); err != nil {
		return q, err
	}
	if q.options.limit < 1 {
		return q, errors.New("--limit must be at least 1")
	}
	if q.options.noCache || q.options.explain || q.options.after != "" {
		return q, errors.New("--no-cache, --explain and --after do not go with warming")
	}
	_, err = q.options.request()
	return q, err
}

// commandLine writes the options as readQuery reads them, the same for the same query. Spans back from now stay as they were written.
func (o queryOptions) commandLine(t partitions.Table) string {
	words := []string{t.String()}
	add := func(flag, value string) { words = append(words, "--"+flag+"="+value) }
	for _, f := range []struct{ flag, value string }{{"from", o.from}, {"to", o.to}, {"group-by", o.groupBy}} {
		if f.value != "" {
			add(f.flag, f.value)
		}
	}
	for _, c := range queryFilters() {
		if v := o.columns[c.flag]; v != nil {
			add(c.flag, *v)
		}
	}
	for _, d := range slices.Sorted(slices.Values(o.details)) {
		add("details", d)
	}
	if o.count {
		words = append(words, "--count")
	}
	if o.limit != defaultQueryLimit {
		add("limit", fmt.Sprint(o.limit))
	}
	for i, w := range words {
		words[i] = quoteWord(w)
	}
	return strings.Join(words, " ")
}

// quoteWord writes a word as splitWords, and a shell, reads it.
func quoteWord(w string) string {
	if w != "" && !strings.ContainsAny(w, " \t\n\r'\"\\#$`&|;<>()*?[]{}~!") {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

// splitWords takes a line apart as a shell does, without anything that a shell would replace.
func splitWords(line string) ([]string, error) {
	var words []string
	in := strings.NewReader(line)
	for {
		word, ok, err := nextWord(in)
		if err != nil || !ok {
			return words, err
		}
		words = append(words, word)
	}
}

func nextWord(in io.RuneScanner) (word string, ok bool, err error) {
	var b strings.Builder
	quote := rune(0)
	for {
		r, _, err := in.ReadRune()
		if err != nil {
			if quote != 0 {
				return "", false, fmt.Errorf("a quote %c is not closed", quote)
			}
			return b.String(), ok, nil
		}
		switch {
		case quote == 0 && (r == ' ' || r == '\t' || r == '\r' || r == '\n'):
			if ok {
				return b.String(), true, nil
			}
			continue
		case quote == 0 && (r == '\'' || r == '"'):
			quote = r
		case quote != 0 && r == quote:
			quote = 0
		case r == '\\' && quote != '\'':
			if r, _, err = in.ReadRune(); err != nil {
				return "", false, errors.New("a backslash at the end")
			}
			if quote == '"' && r != '"' && r != '\\' {
				b.WriteRune('\\')
			}
			b.WriteRune(r)
		default:
			b.WriteRune(r)
		}
		ok = true
	}
}

func (d cacheWarmDoc) print(t *output.Table) {
	switch {
	case d.L2Status != cache.StatusOK:
		t.Line("Redis: %s. Nothing was warmed, since answers are kept there only.", d.L2Status)
		return
	case len(d.Queries)+len(d.Failed) == 0:
		t.Line("No queries are remembered: name some in a file with --queries.")
		return
	case d.DryRun:
		t.Line("Dry run: %s would be run.", queries(len(d.Queries)))
	default:
		t.Line("Warmed %s in %s.", queries(d.Warmed), output.Cell(secondsCell(&d.ElapsedSeconds)))
	}
	t.Header("query", "asked", "source", "took")
	for _, q := range d.Queries {
		source := any(nil)
		if q.Source != nil {
			source = string(*q.Source)
		}
		t.Row(q.Query, orNothing(q.Times), source, secondsCell(&q.ElapsedSeconds))
	}
	for _, q := range d.Failed {
		t.Line("Failed: %s: %s", q.Query, *q.Error)
	}
}
