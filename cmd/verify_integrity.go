package cmd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/internal/postgres"
	"auditdb/pkg/integrity"
	"auditdb/pkg/retention"
)

// verifyDocuments lists the document of verify-integrity.
func verifyDocuments() map[string]any {
	return map[string]any{
		"verify-integrity": verifyDoc{}, "verify-integrity.prove": proveDoc{}, "verify-integrity.check-proof": checkProofDoc{},
	}
}

// verifyDoc is auditdb.verify-integrity.v1.
type verifyDoc struct {
	integrity.Report
	Archives []archiveVerdict `json:"archives,omitempty"` // only of --archives
}

type verifyOptions struct {
	from, to, partition string
	checkpoints         []string
	jobs                int
	rate                *int64
	maxDuration         *time.Duration
	seal                bool
	maxUnsealedAge      string
	since               bool
	sample              float64
	archives            bool
}

func newVerifyIntegrityCmd(app *App) *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify-integrity [TABLE]",
		Short: "Check rows, partitions and the integrity log against each other",
		Long: "Reads every row and compares it with what was logged when it was written. Changed, missing and unexpected rows are named.\n" +
			"Exit 4: something is wrong. Exit 3: it could not look, or has no key to tell whether the log is genuine. Warnings and rows that are\n" +
			"not sealed yet end with 0. The last line says what was checked, and what is not excluded. Each partition's verdict is kept in\n" +
			"auditdb.verdict: partition prune keeps what is not right, and --since-checkpoint reads only what the log has touched since its partition\n" +
			"was found right, and a sample of the rest, those that were read longest ago. A run that was cut off is gone on with that way.",
		Example: "  auditdb verify-integrity\n  auditdb verify-integrity --from 2024-01 --to 2024-04 --jobs 4\n" +
			"  auditdb verify-integrity --checkpoint receipt.txt -o json\n  auditdb verify-integrity --since-checkpoint --sample 10",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.jobs < 1 {
				return usage(cmd.CommandPath(), "", "--jobs must be at least 1, not %d", o.jobs)
			}
			if cmd.Flags().Changed("sample") && !o.since {
				return usage(cmd.CommandPath(), "", "--sample goes with --since-checkpoint")
			}
			if !(o.sample >= 0 && o.sample <= 100) {
				return usage(cmd.CommandPath(), "", "--sample is a percentage, 0 to 100")
			}
			return runVerify(cmd.Context(), app, argument(args), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "only partitions with rows at or after this `TIME`")
	f.StringVar(&o.to, "to", "", "only partitions with rows before this `TIME`")
	f.StringVar(&o.partition, "partition", "", "only the partition of this `NAME`")
	f.StringArrayVar(&o.checkpoints, "checkpoint", nil, "signed checkpoint kept outside the database, a `FILE|URL`: the log must extend it (repeatable)")
	f.BoolVar(&o.archives, "archives", false, "also read the archives of pruned partitions back from the store")
	f.IntVarP(&o.jobs, "jobs", "j", 2, "partitions to read at once")
	o.rate = sizeFlag(f, "rate", 0, "read at most this `SIZE` a second, e.g. 50MB (0: no limit)")
	o.maxDuration = durationFlag(f, "max-duration", 0, "stop after this time with what is done, exit 0 (0: never)")
	f.BoolVar(&o.seal, "seal", false, "first take in rows that other applications wrote")
	f.StringVar(&o.maxUnsealedAge, "max-unsealed-age", "", "unsealed rows older than this `SPAN` are an error (0h: any)")
	f.BoolVar(&o.since, "since-checkpoint", false, "read only partitions that the log has touched since they were found right, and --sample of the rest")
	f.Float64Var(&o.sample, "sample", 5, "with --since-checkpoint: read this `PERCENTAGE` of the rest too, at least one")
	cmd.AddCommand(newProveCmd(app), newCheckProofCmd(app))
	return cmd
}

func runVerify(ctx context.Context, app *App, table string, o verifyOptions) error {
	began := app.Now()
	opts, err := o.resolve(ctx, app)
	if err != nil {
		return err
	}
	var log *integrity.Log
	if o.seal {
		if log, err = requireLog(ctx, app, "seal before verifying"); err != nil {
			return err
		}
	}
	db, err := app.Postgres(ctx, "verify-integrity")
	if err != nil {
		return err
	}
	if err := requireSchema(ctx, db); err != nil {
		return err
	}
	id, err := verifyTable(ctx, db, table, &opts)
	if err != nil {
		return err
	}
	if _, err := app.StartJob(ctx, db, "verify-integrity", id); err != nil {
		return err
	}
	if o.seal {
		if err := sealFirst(ctx, app, db, log, table); err != nil {
			return err
		}
	}
	report, err := verifyWithProgress(ctx, app, db, opts)
	if ctx.Err() != nil {
		err = fmt.Errorf("verify-integrity: %w", context.Cause(ctx))
	}
	if report == nil || err != nil && ctx.Err() == nil && len(report.Checked) == 0 && len(report.Findings) == 0 {
		return err
	}
	keepVerdicts(ctx, app, db, report, began)
	if err == nil && ctx.Err() == nil {
		err = verifyRules(ctx, db, opts.Keys, report)
	}
	var doc verifyDoc
	var archived error
	if o.archives && ctx.Err() == nil {
		if doc.Archives, archived, err = verifyArchives(ctx, app, db, opts, id, err); ctx.Err() != nil {
			return err
		}
		addArchives(report, doc.Archives)
	}
	app.Summarize(verifySummary(report))
	doc.Report = *report
	emitErr := app.Emit("verify-integrity", doc, func(t *output.Table) {
		verifyTableOf(t, report, table)
		if o.archives {
			printArchiveVerdicts(t, doc.Archives)
		}
	})
	if emitErr != nil || ctx.Err() != nil {
		return errors.Join(err, emitErr)
	}
	err = errors.Join(err, archived)
	if err != nil {
		return errors.Join(err, foundErrors(report))
	}
	return errors.Join(verdict(report), rememberCheckpoint(ctx, app, report))
}

// verifyRules compares retention policies, floors and holds with what was logged of them.
func verifyRules(ctx context.Context, db *postgres.DB, keys *integrity.Keys, report *integrity.Report) error {
	err := retention.Audit(ctx, db.Pool(), keys)
	if errors.Is(err, retention.ErrRules) {
		report.Add(integrity.RuleMismatch, "", err.Error(), fault.HintOf(err))
		return nil
	}
	return err
}

// addArchives makes findings of archives that are not what they were. What could not be read is none.
func addArchives(report *integrity.Report, list []archiveVerdict) {
	for _, v := range list {
		if v.wrong {
			report.Add(integrity.ArchiveMismatch, v.Partition, *v.Error, "")
		}
		report.OK = report.OK && v.OK
	}
}

// verifyArchives reads the archives back; before is what the verification of the tables failed with.
func verifyArchives(ctx context.Context, app *App, db *postgres.DB, opts integrity.VerifyOptions, table *int16, before error) (list []archiveVerdict, found, failed error) {
	log, err := newLog(app)
	if err != nil {
		return nil, nil, errors.Join(before, err)
	}
	archiver, err := app.archiver(ctx, db, log, opts)
	if err != nil {
		return nil, nil, errors.Join(before, err)
	}
	list, found, err = checkArchives(ctx, archiver, table, 0)
	return list, found, errors.Join(before, err)
}

// verdictLimit bounds how long keeping verdicts may take.
const verdictLimit = 10 * time.Second

// keepVerdicts keeps what was found of each partition, also of those that an interrupted run had read. A standby and a role that may only read
// keep nothing, which is said.
func keepVerdicts(ctx context.Context, app *App, db *postgres.DB, r *integrity.Report, began time.Time) {
	if len(r.Checked) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), verdictLimit)
	defer cancel()
	if err := integrity.SaveVerdicts(ctx, db, r.Checked, began); err != nil {
		app.Warn("the verdicts are not kept, so partition prune and --since-checkpoint do not know them: %v", err)
	}
}

// verifySummary is what the record of a run keeps.
func verifySummary(r *integrity.Report) map[string]any {
	return map[string]any{
		"ok": r.OK, "rows_checked": r.RowsChecked, "findings_total": r.FindingsTotal, "errors": r.Errors,
		"partitions_checked": len(r.Checked), "partitions_not_read": r.NotRead,
		"batches_checked": r.BatchesChecked, "unsealed_rows": r.UnsealedRows, "incomplete": r.Incomplete, "assurance": r.Assurance,
	}
}

// verifyTable limits the run to the table that the user named.
func verifyTable(ctx context.Context, db *postgres.DB, name string, opts *integrity.VerifyOptions) (*int16, error) {
	if name == "" {
		return nil, nil
	}
	all, err := integrity.ManagedTables(ctx, db.Pool())
	if err != nil {
		return nil, err
	}
	m, err := integrity.MatchTable(ctx, db, all, name)
	if err != nil {
		return nil, err
	}
	opts.Tables = []int16{m.Table.ID}
	return &m.Table.ID, nil
}

func sealFirst(ctx context.Context, app *App, db *postgres.DB, log *integrity.Log, table string) error {
	tables, err := managedTables(ctx, db, table)
	if err != nil {
		return err
	}
	settle := 2 * time.Second
	var doc sealDoc
	err = sealTables(ctx, app, db, log, tables, sealOptions{settle: &settle}, &doc)
	for _, s := range doc.Plan.Skipped {
		app.Warn("not sealed: %s: %s", s.Name, s.Reason)
	}
	return err
}

func verifyWithProgress(ctx context.Context, app *App, db *postgres.DB, opts integrity.VerifyOptions) (*integrity.Report, error) {
	progress := app.Progress("verify", 0, output.Rows)
	defer progress.Done()
	opts.Progress = progress.Add
	return integrity.Verify(ctx, db, opts)
}

// unlimitedVerify is for work that reads partitions whole.
func unlimitedVerify(ctx context.Context, app *App, jobs int) (integrity.VerifyOptions, error) {
	var rate int64
	var maxDuration time.Duration
	return verifyOptions{jobs: jobs, rate: &rate, maxDuration: &maxDuration}.resolve(ctx, app)
}

// resolve reads keys, times and checkpoints before anything is tried.
func (o verifyOptions) resolve(ctx context.Context, app *App) (opts integrity.VerifyOptions, err error) {
	now := app.Now()
	opts = integrity.VerifyOptions{
		Partition: o.partition, Jobs: o.jobs, Rate: *o.rate, Wait: app.Config.Wait, MaxDuration: *o.maxDuration, Now: app.Now,
	}
	if opts.Keys, err = loadKeys(app); err != nil {
		return opts, err
	}
	if file := app.Config.Integrity.PublicKeyFile; file != "" && opts.Keys == nil {
		if opts.Public, err = integrity.LoadPublic(file); err != nil {
			return opts, err
		}
	}
	if o.from != "" {
		if opts.From, err = ParseTime(o.from, now, time.UTC); err != nil {
			return opts, fmt.Errorf("--from: %w", err)
		}
	}
	if o.to != "" {
		if opts.To, err = ParseTime(o.to, now, time.UTC); err != nil {
			return opts, fmt.Errorf("--to: %w", err)
		}
	}
	if o.from != "" && o.to != "" && !opts.From.Before(opts.To) {
		return opts, fault.New(fault.Usage, "--to is not included", "verify-integrity: --from %s is not before --to %s", o.from, o.to)
	}
	if o.maxUnsealedAge != "" {
		span, err := ParseSpan(o.maxUnsealedAge)
		if err != nil {
			return opts, fmt.Errorf("--max-unsealed-age: %w", err)
		}
		age := now.Sub(span.Before(now))
		opts.MaxUnsealedAge = &age
	}
	if o.since {
		opts.Sample = &o.sample
	}
	opts.KeepsLastSeen = app.Config.Integrity.State != ""
	if opts.Anchors, err = readCheckpoints(ctx, app, o.checkpoints); err != nil {
		return opts, err
	}
	var anchored []integrity.External
	anchored, opts.Unread, opts.Empty, err = readAnchors(ctx, app)
	opts.Anchors = append(opts.Anchors, anchored...)
	return opts, err
}

// verdict is the error that gives the exit code of a report.
func verdict(r *integrity.Report) error {
	switch {
	case r.Errors > 0:
		return foundErrors(r)
	case r.WrongKey:
		return fault.New(fault.Unavailable, "set integrity.key_file (AUDITDB_INTEGRITY_KEY_FILE), or integrity.public_key_file, to the key that the log was begun with",
			"verify-integrity: hashes are right, but the log could not be authenticated: %s", r.Unproven)
	case r.Unproven != "":
		return fault.New(fault.Unavailable, "set integrity.key_file (AUDITDB_INTEGRITY_KEY_FILE) to the log's key, or integrity.public_key_file to its verifier key",
			"verify-integrity: hashes are right, but the log could not be authenticated: %s", r.Unproven)
	case len(r.Emptied) > 0:
		return fault.New(fault.Unavailable, "where it is new: auditdb integrity checkpoint brings the newest one there; else find out who has emptied it",
			"verify-integrity: hashes are right, but anchor %s holds no checkpoint, so a rollback is not excluded", r.Emptied[0])
	}
	return nil
}

// foundErrors is the error of a report with findings of severity error, nil without.
func foundErrors(r *integrity.Report) error {
	if r.Errors == 0 {
		return nil
	}
	return fault.New(fault.Integrity, "keep the database as it is and look at the findings", "verify-integrity: %s of severity error", countOf(int(r.Errors), "finding"))
}

// verifyTableOf draws findings first and the assurance last. table is the one that was named; "": all.
func verifyTableOf(t *output.Table, r *integrity.Report, table string) {
	if len(r.Findings) > 0 {
		findingsTable(t, r.Findings)
		if r.FindingsTotal > int64(len(r.Findings)) {
			t.Line("%s in all.", countOf(r.FindingsTotal, "finding"))
		}
		t.Line("")
	}
	state := "OK"
	switch {
	case r.Errors > 0:
		state = "NOT OK"
	case r.Broken:
		state = "STOPPED EARLY, nothing wrong so far"
	case r.Unproven != "":
		state = "NOT PROVEN (" + r.Unproven + ")"
	case r.Incomplete:
		state = "OK so far, incomplete"
	}
	if state == "OK" && nothingSealed(r) {
		t.Line("Nothing is sealed yet: of %s none is in a leaf set.", countOf(r.UnsealedRows, "row"))
		t.Line("Next: %s", strings.TrimSpace("auditdb integrity seal "+table))
	} else {
		t.Line("%s: %s in %s checked, %s unsealed, %.1f s, %s rows/s", state, countOf(r.RowsChecked, "row"), countOf(r.BatchesChecked, "leaf set"),
			output.Cell(r.UnsealedRows), r.ElapsedSeconds, output.Cell(int64(r.RowsPerSecond)))
	}
	if r.Checkpoint != nil {
		t.Line("Checkpoint: %s, %s, root %s", r.Checkpoint.Origin, countOf(r.Checkpoint.Size, "record"), r.Checkpoint.Root)
	}
	t.Line("Checked: %s", strings.ReplaceAll(r.Assurance, "; ", "\n         "))
}

// nothingSealed says that there are rows, and the log knows of none of them.
func nothingSealed(r *integrity.Report) bool {
	return r.BatchesChecked == 0 && r.UnsealedRows > 0 && r.UnsealedRows == r.RowsChecked && r.NotRead == 0
}

// findingsTable leaves the table's name out where there is only one.
func findingsTable(t *output.Table, findings []integrity.Finding) {
	several := false
	for _, f := range findings {
		several = several || f.Table != nil && findings[0].Table != nil && *f.Table != *findings[0].Table
	}
	t.Header("severity", "finding", "partition", "record", "row", "detail")
	for _, f := range findings {
		where := orNothing(f.Partition)
		if several && f.Table != nil {
			where = strings.TrimSuffix(*f.Table+" "+stringOf(f.Partition), " ")
		}
		t.Row(severityCell(f.Severity), string(f.Type), where, plainNumber(f.Batch), plainNumber(f.RowID), f.Detail)
	}
}

func stringOf(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// plainNumber is a number that is a name: not grouped by thousands.
func plainNumber(n *int64) any {
	if n == nil {
		return nil
	}
	return fmt.Sprintf("%d", *n)
}

func severityCell(s integrity.Severity) any {
	switch s {
	case integrity.SeverityError:
		return output.Bad(s)
	case integrity.SeverityWarning:
		return output.Warn(s)
	}
	return string(s)
}
