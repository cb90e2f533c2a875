package integrity

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/audit"
)

// StreamRow is a row that was read and is being compared with its leaf. Its slices are valid only during the call.
type StreamRow struct {
	ID     int64
	Fields []byte // in the order of StreamInfo's columns: each field with its length before it, as in a COPY BINARY tuple
	Key    []byte // the binary value of the partition key
	Leaf   [audit.HashSize]byte
	Commit []byte // of an erased row: the commitment to its personal fields; else nil
	Salt   []byte // from the leaf store, where the row has none of its own; else nil
}

// StreamInfo says what is about to be streamed.
type StreamInfo struct {
	Format    audit.Format
	Extra     []audit.Column // columns that no leaf covers; they follow those of the format
	KeyColumn string
	LogSize   int64 // records of the log that the snapshot shows
	Sets      []StreamSet
}

// Columns are the streamed columns in their order: core, personal, salt where there is one, extra.
func (i StreamInfo) Columns() []audit.Column {
	cols := append(slices.Clone(i.Format.Core), i.Format.Personal...)
	if i.Format.Salt != "" {
		cols = append(cols, audit.Column{Name: i.Format.Salt, Type: "uuid"})
	}
	return append(cols, i.Extra...)
}

// StreamSet is a leaf set with rows in the partition.
type StreamSet struct {
	Record int64 // its batch or seal record
	Rows   int64 // as it was written; some may have expired or moved since
	Root   [audit.HashSize]byte
}

// StreamSink takes the rows of a partition in the order of their ids.
type StreamSink interface {
	// Begin is called once, in the transaction whose snapshot the rows come from.
	Begin(ctx context.Context, tx pgx.Tx, info StreamInfo) error
	// Row takes the next row.
	Row(r *StreamRow) error
}

// streaming is a sink with the table that it takes rows of.
type streaming struct {
	StreamInfo
	sink StreamSink
	name string // the partition
}

// StreamPartition reads a partition in one snapshot and hands its rows over while they are compared with the log, which is authenticated
// first. It ends with an error of class integrity when anything is wrong with the log, the leaf store or a row, refused when a row is in
// no leaf set yet, unavailable when the log could not be authenticated, and locked when the partition changed meanwhile; what the sink was
// given is then worth nothing. o must name one table and its partition.
func StreamPartition(ctx context.Context, db *postgres.DB, o VerifyOptions, sink StreamSink) (*Report, error) {
	start := o.Now()
	if o.Public == nil && o.Keys != nil {
		o.Public = o.Keys.Public()
	}
	o.Jobs = 1
	found := newCollector(o.MaxFindings)
	v := &verifier{
		db: db, opts: o, found: newCollector(o.MaxFindings), logFound: found, walk: newLogWalk(o.Keys, o.Public, found),
		sum: map[string]*unsealed{}, verdicts: verdicts{}, lists: map[int64]bool{},
	}
	units, err := v.plan(ctx, filter{from: math.MinInt64, to: math.MaxInt64, partition: o.Partition})
	if err != nil {
		return nil, err
	}
	if err := v.streamed(ctx, units, sink); err != nil {
		return nil, err
	}
	if err := v.finishLog(ctx); err != nil {
		return nil, err
	}
	r := v.report(o.Now().Sub(start), false)
	switch {
	case r.Errors > 0:
		return r, fault.New(fault.Integrity, "auditdb verify-integrity --partition "+o.Partition, "partition %s: %d findings, the first is %s: %s", o.Partition, r.Errors, r.Findings[0].Type, r.Findings[0].Detail)
	case r.Unproven != "":
		return r, fault.New(fault.Unavailable, "set integrity.key_file (AUDITDB_INTEGRITY_KEY_FILE) to the log's key", "partition %s: the log could not be authenticated: %s", o.Partition, r.Unproven)
	}
	return r, nil
}

func (v *verifier) streamed(ctx context.Context, units []*unit, sink StreamSink) error {
	s := &streaming{sink: sink, name: v.opts.Partition}
	i := slices.IndexFunc(units, func(u *unit) bool {
		return slices.ContainsFunc(u.rels, func(r unitRelation) bool { return s.wants(&r) })
	})
	if i < 0 {
		if v.found.errors()+v.logFound.errors() > 0 { // which the report shows
			return nil
		}
		return fault.New(fault.Usage, "auditdb partition list", "partition %q not found", v.opts.Partition)
	}
	w := &worker{v: v, stream: s}
	defer w.close(ctx)
	if err := w.connect(ctx); err != nil {
		return err
	}
	found := newCollector(v.opts.MaxFindings)
	res, err := w.attempt(ctx, units[i], true, found)
	switch {
	case err == errStale || postgres.SQLState(err) == postgres.UndefinedTable: //nolint:errorlint // it is never wrapped
		return fault.New(fault.Locked, "run it again", "partition %s changed while it was being read", v.opts.Partition)
	case err != nil:
		return err
	}
	v.add(units[i], res, found)
	if res.unsealed > 0 {
		return fault.New(fault.Refused, "auditdb integrity seal", "partition %s: %d rows are in no leaf set yet", v.opts.Partition, res.unsealed)
	}
	return nil
}

// wants tells whether a table is the one whose rows are streamed.
func (s *streaming) wants(r *unitRelation) bool {
	return s != nil && (s.name == r.name || s.name == tableName(r.rel.schema, r.name))
}

// begin prepares for the rows of a unit.
func (s *streaming) begin(ctx context.Context, tx pgx.Tx, u *unit, m *matcher, size int64) error {
	// Rows are sorted by id, unless they lie in that order: then they are read from the first page on.
	if _, err := tx.Exec(ctx, "SET LOCAL work_mem = '64MB'; SET LOCAL synchronize_seqscans = off; SET LOCAL jit = off"); err != nil {
		return fmt.Errorf("prepare a snapshot: %w", err)
	}
	i := slices.IndexFunc(u.rels, func(r unitRelation) bool { return s.wants(&r) })
	s.StreamInfo = StreamInfo{Format: u.table.format, KeyColumn: u.table.keyColumn, LogSize: size}
	for _, c := range u.rels[i].rel.columns {
		if !slices.ContainsFunc(s.Columns(), func(o audit.Column) bool { return o.Name == c.Name }) {
			s.Extra = append(s.Extra, audit.Column{Name: c.Name, Type: c.Type})
		}
	}
	for _, l := range m.sets {
		s.Sets = append(s.Sets, StreamSet{Record: l.seq, Rows: l.rec.Rows, Root: l.rec.Root})
	}
	if len(u.rels) > 1 { // the rows of other tables belong to the same sets: they stay open until all were read
		m.ordered, m.limit = false, math.MaxInt64
	}
	name := u.rels[i].name
	m.seen = func(r *copyRow, l *leafSet, at int, leaf [audit.HashSize]byte) error {
		if m.partition != name {
			return nil
		}
		out := StreamRow{ID: r.id, Fields: r.fields, Key: r.key, Leaf: leaf}
		if commit, ok := l.erased[at]; ok {
			out.Commit = commit[:]
		} else if r.salt == nil {
			out.Salt = l.salt(at)
		}
		return s.sink.Row(&out)
	}
	return s.sink.Begin(ctx, tx, s.StreamInfo)
}
