package cmd

import (
	"context"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/pkg/archive"
	"auditdb/pkg/partitions"
	"auditdb/pkg/retention"
)

// retentionRestoreDoc is auditdb.retention.restore.v1.
type retentionRestoreDoc struct {
	Partition      string  `json:"partition"`
	Table          string  `json:"table"` // where the rows are now
	URL            string  `json:"url"`
	Rows           int64   `json:"rows"`
	Erased         int64   `json:"erased"` // of them, whose personal data was erased since
	Attached       bool    `json:"attached"`
	Hold           *int64  `json:"hold"` // that keeps it from being pruned again
	ElapsedSeconds float64 `json:"elapsed_seconds"`
}

// retentionRestoreOptions are the flags of retention restore.
type retentionRestoreOptions struct {
	table, as, keepUntil string
	detached             bool
}

func newRetentionRestoreCmd(app *App) *cobra.Command {
	var o retentionRestoreOptions
	cmd := &cobra.Command{
		Use:   "restore PARTITION",
		Short: "Put the rows of an archive back, exactly as they were",
		Long: "Reads the newest archive of the partition, checks it as a whole, and makes it a partition again, in one transaction. Rows that were erased\n" +
			"since come without their personal data. A hold keeps it from being pruned again until it is released; its review date is --keep-until.\n" +
			"With --detached it is a table of its own, which verify-integrity knows; with --as a new table, which it does not.",
		Example: "  auditdb retention restore audit_log_2022_01\n  auditdb retention restore audit_log_2022_01 --as case_118",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRetentionRestore(cmd.Context(), app, o, args[0])
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.table, "table", partitions.DefaultTable, "the `TABLE` that it was a partition of")
	f.BoolVar(&o.detached, "detached", false, "as a table of its own")
	f.StringVar(&o.as, "as", "", "as a new table of this `NAME`")
	f.StringVar(&o.keepUntil, "keep-until", "30d", "when the hold is to be reviewed: a `TIME`, or a span from now on (0: no hold)")
	cmd.MarkFlagsMutuallyExclusive("detached", "as")
	return cmd
}

// review is when the hold is to be looked at; nil: there is to be no hold.
func (o retentionRestoreOptions) review(now time.Time) (*time.Time, error) {
	if o.keepUntil == "0" {
		return nil, nil //nolint:nilnil // no hold
	}
	if span, err := keepSpan(o.keepUntil); err == nil {
		at := span.After(now, time.UTC)
		return &at, nil
	}
	at, err := ParseTime(o.keepUntil, now, time.UTC)
	if err != nil {
		return nil, usage("auditdb retention restore", "a span from now on such as 30d, a time such as 2027-01-31, or 0", "--keep-until: %w", err)
	}
	if !at.After(now) {
		return nil, usage("auditdb retention restore", "", "--keep-until: %s has passed", o.keepUntil)
	}
	return &at, nil
}

const releaseLimit = 10 * time.Second

// holdRestored keeps what is going to be restored from being pruned; a hold of a restore that was killed serves again. giveUp releases the
// hold where the restore fails.
func holdRestored(ctx context.Context, app *App, t partitions.Table, e archive.Entry, review time.Time) (id *int64, giveUp func(), err error) {
	db, store, err := retentionStore(ctx, app, "retention.restore")
	if err != nil {
		return nil, nil, err
	}
	holds, err := retention.LoadHolds(ctx, db.Pool(), false, t.ManagedID)
	if err != nil {
		return nil, nil, err
	}
	const restored = "restored from archive "
	reason := restored + path.Base(e.URL)
	for _, h := range holds {
		if (h.Reason == reason || h.Reason == restored+e.URL) && h.TableID != nil {
			return &h.ID, func() {}, nil
		}
	}
	added, err := store.AddHold(ctx, retention.Hold{TableID: t.ManagedID, From: e.From, To: e.To, ReviewAt: &review, Reason: reason})
	if err != nil {
		return nil, nil, err
	}
	return &added, func() {
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseLimit)
		defer cancel()
		if _, err := store.ReleaseHold(limit, added, "the restore failed"); err != nil {
			app.Warn("hold %d, of a restore that failed, stays: %v; auditdb retention hold release %d --reason TEXT", added, err, added)
		}
	}, nil
}

func runRetentionRestore(ctx context.Context, app *App, o retentionRestoreOptions, name string) error {
	began := app.Now()
	review, err := o.review(began)
	if err != nil {
		return err
	}
	db, tables, worker, err := partitionWork(ctx, app, "retention.restore", []string{o.table})
	if err != nil {
		return err
	}
	log, err := requireLog(ctx, app, "retention restore")
	if err != nil {
		return err
	}
	archiver, err := app.openArchiver(ctx, db, log)
	if err != nil {
		return err
	}
	t := tables[0].table
	list, err := archivesOf(ctx, db, []string{o.table})
	if err != nil {
		return err
	}
	e, ok := archive.Newest(list, strings.TrimPrefix(name, t.Schema+"."))
	if !ok {
		return fault.New(fault.Usage, "auditdb retention archive list", "%s has no archive of %q", t, name)
	}
	if err := startPartitionJob(ctx, app, db, "retention.restore", tables); err != nil {
		return err
	}
	r := &archive.Restorer{Archiver: archiver, Worker: worker, LockTimeout: app.Config.LockTimeout, Wait: app.Config.Wait}
	doc := retentionRestoreDoc{Partition: e.Partition, URL: e.URL, Attached: !o.detached && o.as == ""}
	giveUp := func() {}
	if doc.Attached && review != nil { // before the rows are there: a run that prunes may come at any time
		if doc.Hold, giveUp, err = holdRestored(ctx, app, t, e, *review); err != nil {
			return err
		}
	}
	out, err := r.Restore(ctx, t, e, archive.RestoreOptions{Detached: o.detached, As: o.as})
	if err != nil {
		giveUp()
		return err
	}
	doc.Table, doc.Rows, doc.Erased, doc.ElapsedSeconds = out.Table, out.Rows, out.Erased, app.Now().Sub(began).Seconds()
	return app.Emit("retention.restore", doc, func(w *output.Table) {
		w.Line("%s of %s are back in %s.", countOf(int(doc.Rows), "row"), doc.Partition, doc.Table)
		if doc.Hold != nil {
			w.Line("Hold %d keeps them from being pruned again: auditdb retention hold release %d --reason TEXT", *doc.Hold, *doc.Hold)
		}
	})
}
