package cmd

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/internal/postgres"
	"auditdb/pkg/ingest"
	"auditdb/pkg/partitions"
	"auditdb/pkg/plan"
)

// ingestDocuments lists the documents of ingest.
func ingestDocuments() map[string]any { return map[string]any{"ingest": ingestDoc{}} }

// ingestDoc is auditdb.ingest.v1.
type ingestDoc struct {
	ingest.Report
	DryRun bool             `json:"dry_run"`
	Sample []map[string]any `json:"sample"` // dry run: the first events as they would be stored
	Plan   plan.Plan        `json:"plan"`   // partitions to make

	stopped bool // by an error, before everything was read
}

type ingestOptions struct {
	table, format, mapping, source, rejects string
	set                                     []string
	unknown, timeZone                       string
	create, readBack, dryRun                bool
	maxRejects                              int64
	limited                                 bool // --max-rejects was given
	batchSize, jobs                         int
	maxFuture                               *time.Duration
	follow                                  bool
	flush                                   *time.Duration
}

func newIngestCmd(app *App) *cobra.Command {
	var o ingestOptions
	cmd := &cobra.Command{
		Use:   "ingest {FILE|DIR|-}...",
		Short: "Load audit events from files, each event exactly once",
		Long: "Reads NDJSON, JSON arrays, {\"Records\": […]} and CSV with a header, gzip and zstd by their content, and copies the events straight\n" +
			"into the partitions. Each batch is recorded in the integrity log as it commits; the last signed checkpoint is the receipt.\n" +
			"The same source again, after a crash or grown since, adds what is missing; a source whose committed part has changed is refused\n" +
			"(exit 6). An event whose event_uid and timestamp are there already counts as duplicate. Bad records go to --rejects.\n" +
			"--mapping FILE takes events of any shape: docs/mapping.md. Files in a folder that are neither JSON nor CSV with a header of ours are named and left out.",
		Example: "  auditdb ingest events.ndjson.gz\n  auditdb ingest --mapping cloudtrail --create-partitions /var/log/cloudtrail\n" +
			"  auditdb ingest --source app-1 --rejects bad.ndjson - < events.ndjson\n" +
			"  auditdb ingest --mapping pgaudit --time-zone Europe/Paris /var/log/postgresql\n  auditdb ingest --mapping ./firewall.yaml --dry-run fw.log\n  auditdb ingest --follow --create-partitions /var/log/app/audit.log\n  auditdb ingest --dry-run events.csv -o json",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.limited = cmd.Flags().Changed("max-rejects")
			if err := o.check(cmd.CommandPath(), args); err != nil {
				return err
			}
			return runIngest(cmd.Context(), app, args, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.table, "table", "public.audit_log", "the `TABLE` to load into")
	f.StringVar(&o.format, "format", "", "ndjson, json or csv (default: by content)")
	f.StringVar(&o.mapping, "mapping", ingest.MappingNative, "native, cloudtrail, kubernetes, github, pgaudit, or a mapping `FILE` such as ./mine.yaml")
	f.StringArrayVar(&o.set, "set", nil, "give every event this `COLUMN=VALUE` (repeatable)")
	f.StringVar(&o.unknown, "unknown", "reject", "native keys that are no column: reject the record, or put them into details")
	f.StringVar(&o.timeZone, "time-zone", "", "`ZONE` of timestamps that name none, or by an abbreviation (default: reject them)")
	f.StringVar(&o.source, "source", "", "the source's `NAME` (default: its absolute path; needed for -)")
	f.BoolVar(&o.create, "create-partitions", false, "make the partitions that events need, at most 48 hours ahead")
	f.StringVar(&o.rejects, "rejects", "", "`FILE` to put bad records into; of one over 16 MiB the beginning, marked \"truncated\": true")
	f.Int64Var(&o.maxRejects, "max-rejects", 0, "stop after this many bad records (default: never with --rejects, else at the first)")
	f.IntVar(&o.batchSize, "batch-size", ingest.DefaultBatchRows, "records a transaction")
	f.IntVarP(&o.jobs, "jobs", "j", 1, "connections that copy at once")
	o.maxFuture = durationFlag(f, "max-future", 48*time.Hour, "reject events further ahead than this (0: never)")
	f.BoolVar(&o.follow, "follow", false, "go on with files as they grow and are rotated, until SIGTERM; new files in folders too")
	o.flush = durationFlag(f, "flush-interval", time.Second, "--follow: commit a record after this time at the latest")
	f.BoolVar(&o.readBack, "readback", false, "read every batch back before it commits (default: the first and one in 256)")
	f.BoolVar(&o.dryRun, "dry-run", false, "parse and map everything, show the first events, change nothing")
	return cmd
}

func (o *ingestOptions) check(command string, args []string) error {
	switch {
	case len(args) == 0:
		return usage(command, "name files or folders, or - for standard input", "there is nothing to read")
	case o.jobs < 1 || o.jobs > 64:
		return usage(command, "", "--jobs must be from 1 to 64, not %d", o.jobs)
	case o.batchSize < 1 || o.batchSize > 65536:
		return usage(command, "", "--batch-size must be from 1 to 65536, not %d", o.batchSize)
	case o.maxRejects < 0:
		return usage(command, "", "--max-rejects must not be negative")
	case o.unknown != "reject" && o.unknown != "details":
		return usage(command, "", "--unknown must be reject or details, not %q", o.unknown)
	case *o.flush <= 0:
		return usage(command, "", "--flush-interval must be longer than 0")
	case o.follow && (o.dryRun || o.source != ""):
		return usage(command, "sources that are followed are known by their paths", "--follow goes with neither --dry-run nor --source")
	case *o.maxFuture < 0:
		return usage(command, "", "--max-future must not be negative")
	}
	switch o.format {
	case "", ingest.FormatNDJSON, ingest.FormatJSON, ingest.FormatCSV:
		return nil
	}
	return usage(command, "", "--format must be ndjson, json or csv, not %q", o.format)
}

func (o *ingestOptions) mappingOf() (ingest.Mapping, error) {
	m, err := ingest.ParseMapping(o.mapping, o.set)
	if err != nil {
		return m, err
	}
	m.UnknownToDetails = o.unknown == "details"
	if o.timeZone == "" {
		return m, nil
	}
	if m.Local, err = time.LoadLocation(o.timeZone); err != nil || o.timeZone == "Local" {
		return m, fault.New(fault.Usage, "use a name of the time zone database, such as Europe/Paris", "--time-zone: unknown zone %q", o.timeZone)
	}
	return m, nil
}

func runIngest(ctx context.Context, app *App, args []string, o ingestOptions) (err error) {
	var sources []ingest.Source
	var follow *ingest.Follow
	if o.follow {
		var roots []string
		roots, err = ingest.FollowRoots(args)
		follow = &ingest.Follow{Roots: roots, Flush: *o.flush}
	} else {
		sources, err = ingest.Expand(args, o.source, app.In)
	}
	if err != nil {
		return err
	}
	opts := ingest.Options{
		Follow: follow,
		Now:    app.Now, Format: o.format, MaxAhead: *o.maxFuture, BatchRows: o.batchSize, Jobs: o.jobs, ReadBack: o.readBack,
		Wait: app.Config.Wait, DryRun: o.dryRun, MaxBad: o.maxRejects,
	}
	if opts.Mapping, err = o.mappingOf(); err != nil {
		return err
	}
	if opts.DB, err = app.Postgres(ctx, "ingest"); err != nil {
		return err
	}
	if err := prepareTarget(ctx, app, o, &opts); err != nil {
		return err
	}
	if o.rejects != "" && !o.dryRun {
		if opts.Rejects, err = ingest.OpenRejects(o.rejects, sources...); err != nil {
			return err
		}
		defer func() { _ = opts.Rejects.Close() }() // every line was synced
	}
	if o.rejects != "" && !o.limited {
		opts.MaxBad = -1
	}
	if !o.dryRun {
		if _, err := app.StartJob(ctx, opts.DB, "ingest", opts.Table.ManagedID); err != nil {
			return err
		}
	}
	return ingestAndReport(ctx, app, o, opts, sources)
}

// prepareTarget finds the table and opens what its rows need: the log, and what makes partitions.
func prepareTarget(ctx context.Context, app *App, o ingestOptions, opts *ingest.Options) error {
	ok, err := ingest.SchemaExists(ctx, opts.DB.Pool())
	if err != nil {
		return err
	}
	if !ok {
		return fault.New(fault.Config, "auditdb migrate up", "ingest: the database does not have auditdb's schema")
	}
	if opts.Table, err = partitions.Resolve(ctx, opts.DB, o.table); err != nil {
		return err
	}
	if opts.Log, err = newLog(app); err != nil {
		return err
	}
	if opts.Table.ManagedID != nil && !opts.Table.Integrity {
		app.Warn("integrity is off for %s: nothing is logged, there will be no receipt", opts.Table)
	}
	return nil
}

// gcPercent keeps the heap near what is in use: that is a few large buffers without pointers, which cost a collection nothing.
const gcPercent = 20

func ingestAndReport(ctx context.Context, app *App, o ingestOptions, opts ingest.Options, sources []ingest.Source) error {
	doc := ingestDoc{DryRun: o.dryRun, Sample: []map[string]any{}, Plan: plan.Plan{Action: "ingest", AsOf: app.Now()}}
	total := ingest.Size(sources)
	unit := output.Rows
	if total > 0 {
		unit = output.Bytes
	}
	progress := app.Progress("ingest", total, unit)
	shown := rejectLog{app: app, file: o.rejects}
	opts.OnProgress = func(records, bytes int) {
		if total == 0 {
			bytes = records
		}
		progress.Add(int64(bytes))
	}
	opts.OnReject = shown.add
	opts.OnEvent = func(columns map[string]any) { doc.Sample = append(doc.Sample, columns) }
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	if o.create {
		worker, err := partitionWorker(app, opts.DB)
		if err != nil {
			return err
		}
		opts.Creator = &partitions.Creator{Worker: worker, DryRun: o.dryRun, OnDraft: func(d *partitions.Draft) {
			doc.Plan.Steps = append(doc.Plan.Steps, d.Plan.Steps...)
			doc.Plan.Skipped = append(doc.Plan.Skipped, d.Plan.Skipped...)
		}}
	}
	stopAnchoring := func() {}
	if opts.Log != nil && !o.dryRun {
		stopAnchoring = app.keepAnchored(ctx, opts.DB, anchorEvery)
	}
	var err error
	doc.Report, err = ingest.Run(ctx, opts, sources)
	stopAnchoring()
	progress.Done()
	shown.end()
	app.Summarize(map[string]any{
		"sources": len(sources), "read": doc.Read, "skipped": doc.Skipped, "inserted": doc.Inserted, "duplicate": doc.Duplicate, "rejected": doc.Rejected,
		"batches": doc.Batches, "bytes": doc.Bytes,
	})
	if err != nil && !doc.Begun {
		return err
	}
	doc.stopped = err != nil
	if ctx.Err() != nil && (errors.Is(err, context.Cause(ctx)) || errors.Is(err, context.Canceled) || postgres.SQLState(err) == postgres.QueryCanceled) {
		err = fmt.Errorf("ingest: %w", context.Cause(ctx)) // once, whatever was broken off by it
	}
	warnLeftOut(app, doc.LeftOut)
	if emitErr := app.Emit("ingest", doc, doc.table); emitErr != nil {
		return emitErr
	}
	return err
}

// warnLeftOut names the files of folders that were not read.
func warnLeftOut(app *App, files []ingest.LeftOut) {
	for i, f := range files {
		if i == maxShown {
			app.Warn("%s in folders were left out in all", countOf(len(files), "file"))
			return
		}
		app.Warn("%s left out: %s", f.Name, f.Reason)
	}
}

// maxShown is how many rejected records are shown one by one.
const maxShown = 20

// rejectLog warns of rejected records.
type rejectLog struct {
	app  *App
	file string
	n    int
}

func (l *rejectLog) add(j ingest.Reject) {
	if l.n++; l.n <= maxShown {
		l.app.Warn("%s: record %d (byte %d) rejected: %s", j.Source, j.Record, j.Offset, j.Reason)
	}
}

func (l *rejectLog) end() {
	switch {
	case l.n > maxShown && l.file != "":
		l.app.Warn("%s rejected: all of them are in %s", wereOf(l.n, "record"), l.file)
	case l.n > maxShown:
		l.app.Warn("%s rejected", wereOf(l.n, "record"))
	}
}

// From fewSources on only what needs a look is shown of each source, at most maxSources of them.
const (
	fewSources = 10
	maxSources = 50
)

// printSources shows one line for each source, or, where they are many, for each that has rejects. Names are relative to their common folder.
func (d *ingestDoc) printSources(t *output.Table) {
	n := len(d.Sources)
	names := make([]string, n)
	for i, s := range d.Sources {
		names[i] = s.Name
	}
	folder := commonFolder(names)
	if folder != "" {
		t.Line("Sources in %s:", folder)
	}
	t.Header("source", "read", "skipped", "inserted", "duplicate", "rejected")
	shown := 0
	for _, s := range d.Sources {
		if n > fewSources && (s.Rejected == 0 || shown == maxSources) {
			continue
		}
		shown++
		t.Row(output.CutPath(strings.TrimPrefix(s.Name, folder)), s.Read, s.Skipped, s.Inserted, s.Duplicate, s.Rejected)
	}
	if n > 1 {
		t.Row(countOf(n, "source"), d.Read, d.Skipped, d.Inserted, d.Duplicate, d.Rejected)
	}
}

// commonFolder is the folder that all of several files are in, with a slash at its end; "": there is none, or it is short.
func commonFolder(paths []string) string {
	if len(paths) < 2 {
		return ""
	}
	folder := paths[0][:strings.LastIndexByte(paths[0], '/')+1]
	for _, p := range paths[1:] {
		for folder != "" && !strings.HasPrefix(p, folder) {
			folder = folder[:strings.LastIndexByte(strings.TrimSuffix(folder, "/"), '/')+1]
		}
	}
	return strings.TrimSuffix(folder, "/") + map[bool]string{true: "/"}[len(folder) > 1]
}

func (d *ingestDoc) table(t *output.Table) {
	if d.DryRun {
		t.Line("Dry run: nothing was changed.")
		t.Line("")
	}
	d.printSources(t)
	what := rowsIn(d.Inserted, d.ElapsedSeconds, d.RowsPerSecond)
	switch {
	case d.DryRun:
		what = "Would insert " + what
	case d.stopped:
		what = "Stopped early, committed: " + what
	}
	t.Line("%s", what)
	for _, p := range d.Created {
		t.Line("%s %s: %s to %s", map[bool]string{true: "Would make partition", false: "Partition"}[d.DryRun], p.Name, output.Cell(p.From), output.Cell(p.To))
	}
	if d.Checkpoint != nil {
		t.Line("")
		t.Line("Receipt: the signed checkpoint that covers these rows. Keep it outside the database (verify-integrity --checkpoint).")
		t.Line("")
		t.Verbatim(d.Checkpoint.Note)
	}
}

// rowsIn is a line such as "200,000 rows in 2.3 s, 87,217 rows/s".
func rowsIn(n int64, elapsed, rate float64) string {
	took := fmt.Sprintf("%.1f s", elapsed)
	if elapsed >= 60 {
		took = output.HumanDuration(time.Duration(elapsed * float64(time.Second)))
	}
	return fmt.Sprintf("%s in %s, %s rows/s", countOf(n, "row"), took, output.Cell(int64(rate)))
}
