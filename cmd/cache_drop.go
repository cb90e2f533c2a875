package cmd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/pkg/cache"
	"auditdb/pkg/plan"
)

// cacheDropDoc is auditdb.cache.clear.v1 and auditdb.cache.invalidate.v1.
type cacheDropDoc struct {
	Tables    []string      `json:"tables"`    // whose results were dropped; empty: of all databases
	Namespace *string       `json:"namespace"` // null: all
	Removed   cache.Removed `json:"removed"`   // in a dry run what would be
	L2Status  cache.Status  `json:"l2_status"`
	Left      *string       `json:"left_until"` // Redis did not answer or could not: when what it has has expired; else null
	DryRun    bool          `json:"dry_run"`
	Plan      plan.Plan     `json:"plan"`
}

// cacheDropOptions are the flags of clear and invalidate.
type cacheDropOptions struct {
	command   string
	table     string
	namespace string
	queries   bool
	dryRun    bool
}

func newCacheClearCmd(app *App) *cobra.Command {
	o := cacheDropOptions{command: "cache.clear"}
	cmd := &cobra.Command{
		Use:   "clear",
		Short: "Drop everything that is cached",
		Long: "Drops the cached results of all databases that share the Redis, under the cache's own prefix and nothing else. Processes that run drop theirs\n" +
			"within ten seconds. Counters stay: cache stats --reset sets them back.",
		Example: "  auditdb cache clear --dry-run\n  auditdb cache clear --namespace counts",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runCacheDrop(cmd.Context(), app, o) },
	}
	o.flags(cmd)
	return cmd
}

func newCacheInvalidateCmd(app *App) *cobra.Command {
	o := cacheDropOptions{command: "cache.invalidate"}
	cmd := &cobra.Command{
		Use:   "invalidate [TABLE]",
		Short: "Drop what is cached of a table",
		Long: "Drops the cached results of TABLE, or of every registered table of the database. Right answers never need it; it frees memory, and takes\n" +
			"rows out of Redis that should not be there any more. Processes that run drop theirs within ten seconds.",
		Example: "  auditdb cache invalidate public.audit_log\n  auditdb cache invalidate --namespace rows --dry-run",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.table = strings.Join(args, "")
			return runCacheDrop(cmd.Context(), app, o)
		},
	}
	o.flags(cmd)
	return cmd
}

func (o *cacheDropOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.namespace, "namespace", "", "only this `PART` of the cache, as cache stats names them: rows, counts")
	f.BoolVar(&o.queries, "queries", false, "forget as well which queries were asked, which cache warm goes by")
	f.BoolVar(&o.dryRun, "dry-run", false, "count what would be dropped and drop nothing")
}

func runCacheDrop(ctx context.Context, app *App, o cacheDropOptions) error {
	doc := cacheDropDoc{Tables: []string{}, Namespace: orNull(o.namespace), DryRun: o.dryRun}
	doc.Plan = plan.Plan{Action: strings.ReplaceAll(o.command, ".", " "), AsOf: app.Now()}
	scopes, err := o.scopes(ctx, app, &doc)
	if err != nil {
		return err
	}
	c, status, err := app.openCache(ctx)
	if err != nil {
		return err
	}
	doc.L2Status = status
	var failed error
	for _, scope := range scopes {
		removed, err := c.Drop(ctx, cache.Selection{Namespace: o.namespace, Scope: scope, Asked: o.queries, DryRun: o.dryRun})
		doc.Removed.Add(removed)
		if failed == nil {
			failed = err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	switch {
	case failed != nil:
		doc.L2Status = cache.StatusOf(failed)
	case doc.L2Status == cache.StatusNotReachable:
		failed = errors.New("it does not answer")
	}
	if failed != nil && !o.dryRun {
		left := app.Now().Add(cache.LongestTTL(app.Config.Cache.TTL)).UTC().Format(output.TimeLayout)
		doc.Left = &left
	}
	if err := app.Emit(o.command, doc, doc.print); err != nil || failed == nil {
		return err
	}
	return dropFault(o, doc.L2Status, failed)
}

// dropFault says that values may be left: what was to be done was not.
func dropFault(o cacheDropOptions, status cache.Status, err error) error {
	what, hint := "Redis did not drop everything", "start Redis and run it again, or wait until what it has has expired"
	if o.dryRun {
		what = "Redis did not say everything"
	}
	if status == cache.StatusFailed {
		hint = "see which key under the cache's prefix is not auditdb's, or what Redis lacks, and run it again"
	}
	return fault.New(fault.Unavailable, hint, "%s: %s: %w", strings.ReplaceAll(o.command, ".", " "), what, err)
}

// scopes are what to drop, and steps of the plan.
func (o cacheDropOptions) scopes(ctx context.Context, app *App, doc *cacheDropDoc) ([]string, error) {
	if o.command == "cache.clear" {
		doc.Plan.Steps = []plan.Step{{Name: o.part("the cache"), Reason: "all that is cached", NoTx: true}}
		return []string{""}, nil
	}
	db, err := app.Postgres(ctx, o.command)
	if err != nil {
		return nil, err
	}
	tables, err := cacheTables(ctx, db, o.table)
	if err != nil {
		return nil, err
	}
	server, err := app.serverInfo(ctx, o.command)
	if err != nil {
		return nil, err
	}
	scopes := make([]string, 0, len(tables))
	for _, t := range tables {
		scopes = append(scopes, cacheScopeOf(server, t))
		doc.Tables = append(doc.Tables, t.String())
		doc.Plan.Steps = append(doc.Plan.Steps, plan.Step{Name: o.part(t.String()), Reason: "cached results of the table", NoTx: true})
	}
	return scopes, nil
}

func (o cacheDropOptions) part(of string) string {
	if o.namespace == "" {
		return of
	}
	return fmt.Sprintf("%s of %s", o.namespace, of)
}

func (d cacheDropDoc) print(t *output.Table) {
	did := map[bool]string{true: "Dry run: would drop", false: "Dropped"}[d.DryRun]
	what := "everything"
	if len(d.Tables) > 0 {
		what = strings.Join(d.Tables, ", ")
	}
	t.Line("%s %s of %s from Redis (%s).", did, countOf(int(d.Removed.Shared), "value"), what, output.Cell(output.Size(d.Removed.Bytes)))
	if d.Removed.Asked > 0 {
		t.Line("%s %s that were remembered.", map[bool]string{true: "Would forget", false: "Forgot"}[d.DryRun], queries(int(d.Removed.Asked)))
	}
	switch {
	case d.L2Status == cache.StatusOff:
		t.Line("Redis is not configured: only processes that run have cached values, and these end with them.")
	case d.Left != nil:
		t.Line("Redis: %s. What it has expires by %s.", d.L2Status, *d.Left)
	case d.L2Status == cache.StatusNotReachable || d.L2Status == cache.StatusFailed:
		t.Line("Redis: %s.", d.L2Status)
	}
}

func queries(n int) string {
	if n == 1 {
		return "1 query"
	}
	return fmt.Sprintf("%d queries", n)
}
