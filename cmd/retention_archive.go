package cmd

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/internal/postgres"
	"auditdb/pkg/archive"
	"auditdb/pkg/integrity"
	"auditdb/pkg/partitions"
)

// retentionArchiveListDoc is auditdb.retention.archive.list.v1.
type retentionArchiveListDoc struct {
	Archives []archive.Entry `json:"archives"`
}

// retentionArchiveCreateDoc is auditdb.retention.archive.create.v1.
type retentionArchiveCreateDoc struct {
	Table           string  `json:"table"`
	Partition       string  `json:"partition"`
	URL             string  `json:"url"`
	Rows            int64   `json:"rows"`
	Bytes           int64   `json:"bytes"`
	ReadBackSeconds float64 `json:"read_back_seconds"`
	ElapsedSeconds  float64 `json:"elapsed_seconds"`
}

// retentionArchiveVerifyDoc is auditdb.retention.archive.verify.v1.
type retentionArchiveVerifyDoc struct {
	Archives       []archiveVerdict `json:"archives"`
	OK             bool             `json:"ok"`
	ElapsedSeconds float64          `json:"elapsed_seconds"`
}

type archiveVerdict struct {
	Table     string  `json:"table"`
	Partition string  `json:"partition"`
	URL       string  `json:"url"`
	Rows      int64   `json:"rows"`
	OK        bool    `json:"ok"`
	Error     *string `json:"error"`

	wrong bool // it is not what it was, as opposed to not to be read
}

func newRetentionArchiveCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "archive",
		Short: "Archives of partitions: make one, list them, read them back, search them",
		Long: "An archive is a Parquet object with a signed manifest beside it, in a folder or an S3-compatible store (archive.url). It counts once it was\n" +
			"read back whole and every row's leaf led to the root. retention run makes what it needs by itself.",
		Example: "  auditdb retention archive list\n  auditdb retention archive verify --sample 3\n  auditdb retention archive search --principal alice",
	}
	cmd.AddCommand(newRetentionArchiveCreateCmd(app), newRetentionArchiveListCmd(app), newRetentionArchiveVerifyCmd(app), newRetentionArchiveSearchCmd(app))
	return cmd
}

// archiver opens the configured store.
func (a *App) archiver(ctx context.Context, db *postgres.DB, log *integrity.Log, verify integrity.VerifyOptions) (*archive.Archiver, error) {
	store, err := archive.Open(ctx, a.Config.Archive.URL)
	if err != nil {
		return nil, err
	}
	store.Guard(a.guard(archiveBreaker(a.Config.Archive.URL), false, false).Do)
	if log != nil {
		log = log.Waiting(a.Config.Wait)
	}
	return &archive.Archiver{DB: db, Log: log, Store: store, Verify: verify, Now: a.Now}, nil
}

// openArchiver is archiver for work on one archive after another.
func (a *App) openArchiver(ctx context.Context, db *postgres.DB, log *integrity.Log) (*archive.Archiver, error) {
	verify, err := unlimitedVerify(ctx, a, 1)
	if err != nil {
		return nil, err
	}
	return a.archiver(ctx, db, log, verify)
}

func newRetentionArchiveCreateCmd(app *App) *cobra.Command {
	var table string
	cmd := &cobra.Command{
		Use:     "create PARTITION",
		Short:   "Copy one partition to the archive store and read it back",
		Long:    "Reads the partition in one snapshot, compares every row with the log, writes the object, reads it back and records it. It removes nothing.",
		Example: "  auditdb retention archive create audit_log_2024_01\n  auditdb retention archive create events_2024_01 --table audit.events",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRetentionArchiveCreate(cmd.Context(), app, table, args[0])
		},
	}
	cmd.Flags().StringVar(&table, "table", partitions.DefaultTable, "the `TABLE` that it is a partition of")
	return cmd
}

func runRetentionArchiveCreate(ctx context.Context, app *App, table, name string) error {
	began := app.Now()
	db, err := retentionDB(ctx, app, "retention.archive.create")
	if err != nil {
		return err
	}
	log, err := requireLog(ctx, app, "retention archive create")
	if err != nil {
		return err
	}
	archiver, err := app.openArchiver(ctx, db, log)
	if err != nil {
		return err
	}
	t, err := partitions.Resolve(ctx, db, table)
	if err != nil {
		return err
	}
	p, err := findPartition(ctx, db, t, name)
	if err != nil {
		return err
	}
	if err := startPartitionJob(ctx, app, db, "retention.archive.create", []resolved{{name: t.String(), table: t}}); err != nil {
		return err
	}
	made, err := archiver.Create(ctx, t, p)
	if err != nil {
		return err
	}
	doc := retentionArchiveCreateDoc{Table: t.String(), Partition: p.Name, URL: made.URL, Rows: made.Rows, Bytes: made.Bytes, ReadBackSeconds: made.ReadBack.Seconds(), ElapsedSeconds: app.Now().Sub(began).Seconds()}
	return app.Emit("retention.archive.create", doc, func(out *output.Table) {
		out.Line("%s of %s archived and read back: %s, %s.", countOf(int(made.Rows), "row"), p, output.Cell(output.Size(made.Bytes)), made.URL)
	})
}

func findPartition(ctx context.Context, db *postgres.DB, t partitions.Table, name string) (partitions.Partition, error) {
	tree, err := partitions.LoadTree(ctx, db.Pool(), t)
	if err != nil {
		return partitions.Partition{}, err
	}
	for _, p := range tree.All() {
		if p.Name == name || p.String() == name {
			return p, nil
		}
	}
	return partitions.Partition{}, fault.New(fault.Usage, "auditdb partition list "+t.String(), "%s has no partition %q", t, name)
}

func newRetentionArchiveListCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list [TABLE]",
		Short:   "List the archives",
		Long:    "What was recorded when they were made; whether the store still has them is for verify to say.",
		Example: "  auditdb retention archive list\n  auditdb retention archive list public.audit_log -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			db, err := retentionDB(cmd.Context(), app, "retention.archive.list")
			if err != nil {
				return err
			}
			list, err := archivesOf(cmd.Context(), db, args)
			if err != nil {
				return err
			}
			doc := retentionArchiveListDoc{list}
			return app.EmitList("retention.archive.list", doc, doc.Archives, doc.print)
		},
	}
	return listOutput(cmd)
}

func archivesOf(ctx context.Context, db *postgres.DB, args []string) ([]archive.Entry, error) {
	id, err := managedID(ctx, db, args)
	if err != nil {
		return nil, err
	}
	list, err := archive.List(ctx, db.Pool(), id)
	return append([]archive.Entry{}, list...), err
}

// managedID is that of the table that is named; nil: none is.
func managedID(ctx context.Context, db *postgres.DB, args []string) (*int16, error) {
	if len(args) == 0 {
		return nil, nil //nolint:nilnil // all tables
	}
	t, err := partitions.ResolveToRead(ctx, db, args[0])
	if err != nil {
		return nil, err
	}
	if t.ManagedID == nil {
		return nil, fault.New(fault.Usage, "auditdb partition adopt --register registers it", "table %s is not managed by auditdb", t)
	}
	return t.ManagedID, nil
}

func (d retentionArchiveListDoc) print(t *output.Table) {
	if len(d.Archives) == 0 {
		t.Line("There are no archives.")
	}
	t.Header("partition", "from", "rows", "size", "read back", "partition is there", "generation")
	for _, e := range d.Archives {
		t.Row(e.Partition, e.From, e.Rows, output.Size(e.Bytes), e.VerifiedAt, e.Attached, e.Generation)
	}
}

func newRetentionArchiveVerifyCmd(app *App) *cobra.Command {
	var sample int
	cmd := &cobra.Command{
		Use:   "verify [TABLE]",
		Short: "Read archives back from the store and compare every row with its root",
		Long: "Reads each archive whole, with constant memory: its size, digest, the signature of its manifest, the number of rows, and the Merkle root over\n" +
			"the leaves of all rows. Exit 4 for an archive that is not what it was, 3 for one that cannot be read. --sample reads some of them, others each time.",
		Example: "  auditdb retention archive verify\n  auditdb retention archive verify --sample 5 -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRetentionArchiveVerify(cmd.Context(), app, args, sample)
		},
	}
	cmd.Flags().IntVar(&sample, "sample", 0, "only so `MANY` archives, others from day to day (0: all)")
	return listOutput(cmd)
}

func runRetentionArchiveVerify(ctx context.Context, app *App, args []string, sample int) error {
	if sample < 0 {
		return usage("auditdb retention archive verify", "", "--sample cannot be negative")
	}
	began := app.Now()
	db, err := retentionDB(ctx, app, "retention.archive.verify")
	if err != nil {
		return err
	}
	log, err := newLog(app)
	if err != nil {
		return err
	}
	archiver, err := app.openArchiver(ctx, db, log)
	if err != nil {
		return err
	}
	table, err := managedID(ctx, db, args)
	if err != nil {
		return err
	}
	checked, found, err := checkArchives(ctx, archiver, table, sample)
	if err != nil {
		return err
	}
	doc := retentionArchiveVerifyDoc{Archives: checked, OK: found == nil, ElapsedSeconds: app.Now().Sub(began).Seconds()}
	if err := app.EmitList("retention.archive.verify", doc, doc.Archives, doc.print); err != nil {
		return err
	}
	return found
}

// checkArchives compares what is recorded of archives with the log and reads them back, all or a sample. found says that some are not what they
// were; failed that it was broken off.
func checkArchives(ctx context.Context, archiver *archive.Archiver, table *int16, sample int) (checked []archiveVerdict, found, failed error) {
	list, err := archive.List(ctx, archiver.DB.Pool(), table)
	if err != nil {
		return nil, nil, err
	}
	logged, err := integrity.Archived(ctx, archiver.DB.Pool(), archiver.Verify.Keys, table)
	if err != nil {
		return nil, nil, err
	}
	checked = []archiveVerdict{}
	var classes []fault.Class
	add := func(v archiveVerdict, err error) {
		if v.OK = err == nil; err != nil {
			text := oneLine(err.Error())
			v.Error, v.wrong = &text, classOf(err) == fault.Integrity
			classes = append(classes, classOf(err))
		}
		checked = append(checked, v)
	}
	for _, url := range unlisted(logged, list) {
		a := logged[url]
		add(archiveVerdict{Partition: a.Partition.Name, URL: url, Rows: a.Rows}, fault.New(fault.Integrity, "", "archive %s: the log says that it was made, auditdb.archive does not have it", url))
	}
	for _, e := range sampled(list, sample, archiver.Now()) {
		err := e.Compare(logged[e.URL])
		if err == nil {
			err = archiver.Check(ctx, e)
		}
		if ctx.Err() != nil {
			return checked, nil, err
		}
		add(archiveVerdict{Table: e.Table, Partition: e.Partition, URL: e.URL, Rows: e.Rows}, err)
	}
	if len(classes) > 0 {
		found = fault.New(worst(classes), "restore the object from a copy; while the partition is there, auditdb retention archive create makes it again", "%d of %s are not what they were, or cannot be read", len(classes), countOf(len(checked), "archive"))
	}
	return checked, found, nil
}

// unlisted are the addresses of archives that the log knows and the list does not have.
func unlisted(logged map[string]*integrity.Archive, list []archive.Entry) []string {
	rest := maps.Clone(logged)
	for _, e := range list {
		delete(rest, e.URL)
	}
	return slices.Sorted(maps.Keys(rest))
}

// sampled is a window of the list, which moves on by itself every day; 0: the whole list.
func sampled(list []archive.Entry, sample int, now time.Time) []archive.Entry {
	if sample <= 0 || sample >= len(list) {
		return list
	}
	at := int(now.Unix()/86400) * sample % len(list)
	return slices.Concat(list[at:], list[:at])[:sample]
}

func (d retentionArchiveVerifyDoc) print(t *output.Table) {
	printArchiveVerdicts(t, d.Archives)
	t.Line("%s read in %s.", countOf(len(d.Archives), "archive"), output.Cell(secondsCell(&d.ElapsedSeconds)))
}

func printArchiveVerdicts(t *output.Table, list []archiveVerdict) {
	if len(list) == 0 {
		t.Line("There are no archives.")
	}
	t.Header("archive", "rows", "result")
	for _, v := range list {
		result := any(output.Good("right"))
		if v.Error != nil {
			result = output.Bad(*v.Error)
		}
		t.Row(v.Partition, v.Rows, result)
	}
}
