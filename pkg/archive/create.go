package archive

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/audit"
	"auditdb/pkg/integrity"
	"auditdb/pkg/partitions"
)

// Archiver copies partitions to a store.
type Archiver struct {
	DB     *postgres.DB
	Log    *integrity.Log
	Store  *Store
	Verify integrity.VerifyOptions // its keys; the partition is set by Create
	Now    func() time.Time
}

// Made is an archive that was read back and recorded.
type Made struct {
	URL      string
	Rows     int64
	Bytes    int64
	ReadBack time.Duration // of the time that it took
}

// Create copies a partition: its rows are read in one snapshot, compared with the log and written in the order of their ids; the object is read
// back from the store whole, and its digest, rows and root are compared; the signed manifest is put beside it; then the archive is recorded, in the
// log as well. An error of class integrity says that a row or the log is not right, refused that rows are not sealed yet, unavailable that the
// store did not do what it was asked. Nothing is recorded then, and the next call begins anew or finds the object.
func (a *Archiver) Create(ctx context.Context, t partitions.Table, p partitions.Partition) (*Made, error) {
	if t.ManagedID == nil || !t.Integrity || p.Default || p.Kind != 'r' {
		return nil, fault.New(fault.Usage, "", "partition %s cannot be archived: it has to be a plain partition of a managed table with integrity on", p)
	}
	made, err := a.create(ctx, t, p)
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", p, err)
	}
	return made, nil
}

func (a *Archiver) create(ctx context.Context, t partitions.Table, p partitions.Partition) (*Made, error) {
	if err := a.sameFolder(ctx); err != nil {
		return nil, err
	}
	out, err := a.Store.stage(ctx)
	if err != nil {
		return nil, err
	}
	defer out.discard()
	s := &sink{hash: sha256.New(), out: out}
	defer s.giveUp()
	o := a.Verify
	o.Tables, o.Partition = []int16{*t.ManagedID}, p.Name
	report, err := integrity.StreamPartition(ctx, a.DB, o, s)
	if err != nil {
		return nil, err
	}
	if err := s.finish(); err != nil {
		return nil, storeError(err, "write to", a.Store.String())
	}
	m, err := a.manifest(ctx, t, p, s)
	if err != nil {
		return nil, err
	}
	if report.Checkpoint != nil {
		m.Checkpoint = report.Checkpoint.Note
	}
	folder := folderOf(p.Schema, t.Name, p.Bounds)
	key := folder + "/" + m.Object
	read, err := a.place(ctx, out, m, key)
	if err != nil {
		return nil, err
	}
	if err := a.sign(ctx, m, folder); err != nil {
		return nil, err
	}
	return &Made{URL: a.Store.url(key), Rows: m.Rows, Bytes: m.Bytes, ReadBack: read}, a.record(ctx, t, p, m, a.Store.url(key), s.root)
}

// sameFolder refuses a folder that is empty although archives were made in it: another disk may be mounted there, or none.
func (a *Archiver) sameFolder(ctx context.Context) error {
	f, ok := a.Store.unguarded().(folder)
	if !ok {
		return nil
	}
	blank, err := f.blank()
	if err != nil || !blank {
		return err
	}
	var recorded int64
	if err := a.DB.Pool().QueryRow(ctx, recordedSQL, a.Store.base+"/").Scan(&recorded); err != nil {
		return fmt.Errorf("look for archives that were made before: %w", err)
	}
	if recorded > 0 {
		return fault.New(fault.Unavailable, "see whether its disk is mounted; where the archives were moved, set archive.url to the new place",
			"%s is empty, although %d archives were made in it", a.Store, recorded)
	}
	return nil
}

// texts are bounds as PostgreSQL reads them.
func texts(b partitions.Bounds) (from, to string) {
	from, to = "-infinity", "infinity"
	if !b.FromMin {
		from = b.From.UTC().Format(time.RFC3339Nano)
	}
	if !b.ToMax {
		to = b.To.UTC().Format(time.RFC3339Nano)
	}
	return from, to
}

// folderOf is where the objects of a partition are, as Hive names them.
func folderOf(schema, table string, b partitions.Bounds) string {
	dt := "min"
	if !b.FromMin {
		dt = b.From.UTC().Format(time.DateOnly)
	}
	return "schema=" + escape(schema) + "/table=" + escape(table) + "/dt=" + dt
}

// place puts the object under its name and reads it back from there. One that is there already counts when it is what this one is; else it is
// replaced.
func (a *Archiver) place(ctx context.Context, out staged, m *Manifest, key string) (read time.Duration, err error) {
	err = out.commit(ctx, key, false)
	began := a.Now()
	if errors.Is(err, fs.ErrExist) {
		if err = a.Store.readBack(ctx, m, key); err == nil {
			return a.Now().Sub(began), nil
		}
		err = out.commit(ctx, key, true)
	}
	if err != nil {
		return 0, storeError(err, "write", a.Store.url(key))
	}
	began = a.Now()
	if err := a.Store.readBack(ctx, m, key); err != nil {
		if fault.ClassOf(err) == fault.Integrity { // of the store: the rows were right when they were written
			err = fault.New(fault.Unavailable, "look at the store", "%w", err)
		}
		return 0, fmt.Errorf("read it back from the store: %w", err)
	}
	return a.Now().Sub(began), nil
}

// sign puts the manifest beside the object and reads that back too.
func (a *Archiver) sign(ctx context.Context, m *Manifest, folder string) error {
	text, err := m.encode(a.Log.Keys())
	if err != nil {
		return err
	}
	key := folder + "/" + manifestName(m.Root)
	if err := a.Store.put(ctx, key, text); err != nil {
		return err
	}
	back, err := a.Store.read(ctx, key, int64(len(text))+1)
	if err != nil {
		return err
	}
	if !bytes.Equal(back, text) {
		return fault.New(fault.Unavailable, "look at the store", "manifest %s: what the store gives back is not what was written", a.Store.url(key))
	}
	return nil
}

func manifestName(root string) string { return "_manifest-" + root[:16] + ".json" }

func (a *Archiver) manifest(ctx context.Context, t partitions.Table, p partitions.Partition, s *sink) (*Manifest, error) {
	m := &Manifest{
		Format: manifestFormat, Origin: a.Log.Keys().Origin(), TableID: *t.ManagedID, Schema: p.Schema, Table: t.Name, Partition: p.Name, KeyColumn: s.info.KeyColumn,
		LeafFormat: 1, Columns: s.cols, Rows: s.rows, Erased: s.erased, MinID: s.first, MaxID: s.last, Root: hex.EncodeToString(s.root[:]), LogSize: s.info.LogSize,
		Batches: []BatchRef{}, Bytes: s.bytes, SHA256: hex.EncodeToString(s.hash.Sum(nil)), DDL: []string{}, MadeAt: a.Now().UTC().Format(time.RFC3339),
	}
	m.Object = escape(p.Name) + "-" + m.Root[:16] + ".parquet"
	bound := func(at time.Time, open bool) *string {
		if open {
			return nil
		}
		text := at.UTC().Format(time.RFC3339Nano)
		return &text
	}
	m.From, m.To = bound(p.From, p.FromMin), bound(p.To, p.ToMax)
	for _, set := range s.info.Sets {
		m.Batches = append(m.Batches, BatchRef{Record: set.Record, Rows: set.Rows, Root: hex.EncodeToString(set.Root[:])})
	}
	from, to := texts(p.Bounds)
	err := a.DB.Pool().QueryRow(ctx, generationSQL, *t.ManagedID, from, to).Scan(&m.Generation, &m.Supersedes)
	if err != nil {
		return nil, fmt.Errorf("look for earlier archives: %w", err)
	}
	return m, m.check()
}

// record notes the archive in the database and in the log, in one transaction.
func (a *Archiver) record(ctx context.Context, t partitions.Table, p partitions.Partition, m *Manifest, url string, root [audit.HashSize]byte) error {
	digest, err := hex.DecodeString(m.SHA256)
	if err != nil {
		return err
	}
	from, to := texts(p.Bounds)
	entry := integrity.Entry{
		Table: &integrity.Table{ID: *t.ManagedID, OID: t.OID, Schema: t.Schema, Name: t.Name, KeyColumn: t.Key.Column},
		Body: &integrity.Archive{
			Table: *t.ManagedID, Partition: integrity.PartitionRef{Name: p.Name, Range: integrity.Range{From: p.From, To: p.To, FromMin: p.FromMin, ToMax: p.ToMax}},
			Generation: m.Generation, URL: url, Rows: m.Rows, Bytes: m.Bytes, Digest: [32]byte(digest), Root: root, LogSize: m.LogSize,
		},
	}
	err = a.DB.Tx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, recordSQL, *t.ManagedID, p.Name, from, to, m.Generation, url, m.Rows, m.Bytes, digest, root[:], m.LogSize, a.Now())
		if err != nil {
			return fmt.Errorf("record it: %w", err)
		}
		if _, err := a.Log.Append(ctx, tx, a.Now(), []integrity.Entry{entry}, nil); err != nil {
			return fmt.Errorf("record it in the log: %w", err)
		}
		return nil
	})
	return integrity.Held(ctx, a.DB, err)
}

// sink makes an object of streamed rows.
type sink struct {
	out    io.Writer
	hash   hash.Hash
	bytes  int64
	info   integrity.StreamInfo
	cols   []Column
	writer *writer

	tree         audit.Tree
	root         [audit.HashSize]byte
	rows, erased int64
	first, last  int64
}

// Write counts and hashes what the object is made of.
func (s *sink) Write(p []byte) (int, error) {
	n, err := s.out.Write(p)
	s.hash.Write(p[:n])
	s.bytes += int64(n)
	return n, err
}

// Begin implements integrity.StreamSink.
func (s *sink) Begin(_ context.Context, _ pgx.Tx, info integrity.StreamInfo) (err error) {
	s.info, s.cols = info, columnsOf(info.Format, info.Extra)
	s.writer, err = newWriter(s, s.cols)
	return err
}

// Row implements integrity.StreamSink.
func (s *sink) Row(r *integrity.StreamRow) error {
	if s.rows == 0 {
		s.first = r.ID
	}
	s.last = r.ID
	s.rows++
	if r.Commit != nil {
		s.erased++
	}
	s.tree.Add(r.Leaf)
	return s.writer.row(r.Fields, r.Commit, r.Salt)
}

func (s *sink) finish() error {
	if s.writer == nil {
		return fault.New(fault.Internal, "", "no row was streamed")
	}
	w := s.writer
	s.writer = nil
	if err := w.close(true); err != nil {
		return err
	}
	s.root = s.tree.Root()
	return nil
}

// giveUp ends the writer's goroutine after an error.
func (s *sink) giveUp() {
	if s.writer != nil {
		_ = s.writer.close(false) // the object is given up
	}
}

// Entry is a recorded archive.
type Entry struct {
	Table      string     `json:"table"`
	Partition  string     `json:"partition"`
	From       *time.Time `json:"from"` // null: no lower end
	To         *time.Time `json:"to"`
	Generation int64      `json:"generation"`
	URL        string     `json:"url"`
	Rows       int64      `json:"rows"`
	Bytes      int64      `json:"bytes"`
	SHA256     string     `json:"sha256"`
	Root       string     `json:"root"`
	MadeAt     time.Time  `json:"made_at"`
	VerifiedAt *time.Time `json:"verified_at"`
	Attached   bool       `json:"attached"` // the partition is there as well

	id int64
}

// List gives the recorded archives, of one table or all.
func List(ctx context.Context, q partitions.Querier, table *int16) ([]Entry, error) {
	rows, err := q.Query(ctx, listSQL, table)
	if err != nil {
		return nil, fmt.Errorf("list the archives: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e Entry, err error) {
		var digest, root []byte
		err = row.Scan(&e.id, &e.Table, &e.Partition, &e.From, &e.To, &e.Generation, &e.URL, &e.Rows, &e.Bytes, &digest, &root, &e.MadeAt, &e.VerifiedAt, &e.Attached)
		e.SHA256, e.Root = hex.EncodeToString(digest), hex.EncodeToString(root)
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("list the archives: %w", err)
	}
	return list, nil
}

func boundsOf(r integrity.Range) partitions.Bounds {
	return partitions.Bounds{From: r.From, To: r.To, FromMin: r.FromMin, ToMax: r.ToMax}
}

// CheckPartition checks the newest archive of a partition as Check does. An error of class unavailable says that there is none, or that it could not
// be read.
func (a *Archiver) CheckPartition(ctx context.Context, t partitions.Table, p partitions.Partition) error {
	list, err := List(ctx, a.DB.Pool(), t.ManagedID)
	if err != nil {
		return err
	}
	logged, err := integrity.Archived(ctx, a.DB.Pool(), a.Verify.Keys, t.ManagedID)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(e Entry) bool { return !e.bounds().Equal(p.Bounds) })
	if len(list) == 0 {
		return fault.New(fault.Unavailable, "auditdb retention archive create "+p.Name, "partition %s has no archive", p)
	}
	newest := slices.MaxFunc(list, func(x, y Entry) int { return cmp.Compare(x.Generation, y.Generation) })
	if err := newest.Compare(logged[newest.URL]); err != nil {
		return err
	}
	return a.Check(ctx, newest)
}

// Compare says what is wrong with a recorded archive by what the log says of it; nil: the log has no such archive.
func (e Entry) Compare(logged *integrity.Archive) error {
	switch {
	case logged == nil:
		return broken(e.URL, "no record of the log says that it was made")
	case e.Rows != logged.Rows || e.Bytes != logged.Bytes || e.SHA256 != hex.EncodeToString(logged.Digest[:]) || e.Root != hex.EncodeToString(logged.Root[:]) ||
		e.Generation != logged.Generation || e.Partition != logged.Partition.Name || !e.bounds().Equal(boundsOf(logged.Partition.Range)):
		return broken(e.URL, "auditdb.archive says something else of it than the log")
	}
	return nil
}

// Manifest reads and checks the signed manifest of an entry, and that it is of this entry.
func (s *Store) Manifest(ctx context.Context, e Entry, keys []*integrity.PublicKey) (m *Manifest, key string, err error) {
	if key, err = s.key(e.URL); err != nil {
		return nil, "", err
	}
	folder := key[:strings.LastIndexByte(key, '/')]
	text, err := s.read(ctx, folder+"/"+manifestName(e.Root), maxManifest)
	if err != nil {
		return nil, "", err
	}
	if m, err = ParseManifest(text, keys); err != nil {
		return nil, "", broken(s.url(key), "its manifest: %v", err)
	}
	m.text = int64(len(text))
	if m.Root != e.Root || m.SHA256 != e.SHA256 || m.Rows != e.Rows || m.Bytes != e.Bytes || folder+"/"+m.Object != key {
		return nil, "", broken(s.url(key), "its manifest is of something else than what was recorded")
	}
	return m, key, nil
}

// Check reads an archive from the store whole and compares it with its manifest and with what was recorded. Without a key it says at the end
// that it cannot tell who made the archive, as an error of class unavailable.
func (a *Archiver) Check(ctx context.Context, e Entry) error {
	keys := a.publics()
	m, key, err := a.Store.Manifest(ctx, e, keys)
	if err != nil {
		return err
	}
	if err := a.Store.Scan(ctx, m, key, nil); err != nil {
		return err
	}
	if len(keys) == 0 {
		return fault.New(fault.Unavailable, "set integrity.public_key_file or integrity.key_file", "%s: its rows match its manifest, whose signature there is no key to check with", a.Store.url(key))
	}
	return nil
}
