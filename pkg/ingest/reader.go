package ingest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

// reading is one source being read.
type reading struct {
	run    *run
	src    *source
	win    *window
	split  splitter
	first  []byte // the source's first bytes
	record int64  // number of the next record, from 1

	watch *errorWatch // nil: no record says anything about another
	held  *chunk      // with a watch: the last chunk, until what follows it was seen

	told int64 // of the stored bytes, as progress

	tail    *tail     // nil: the source has an end
	pending chunk     // of a tail: what is to be sent with its next chunk
	since   time.Time // when the first of these was read
	scratch []byte    // of a tail: a record on its way to pending
}

// readSource reads one source to its end and sends what is not committed yet as chunks. An error of class data ends the source only.
func (r *run) readSource(ctx context.Context, s *source) error {
	if s.gone != "" {
		r.leaveOut(s, &foreignError{s.gone})
		return nil
	}
	if err := s.acquire(ctx, r); err != nil {
		return err
	}
	defer r.release(ctx, s)
	if err := r.loadState(ctx, s); err != nil {
		return err
	}
	same, err := s.unchanged(ctx)
	if err != nil {
		return err
	}
	if same {
		s.count(Counts{Skipped: s.state.done()})
		r.passed(int(s.state.size))
		return nil
	}
	stored, closeStored, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer closeStored()
	return r.readInput(ctx, s, stored, nil)
}

// loadState reads what the database knows of a source, which must have been read with this run's mapping.
func (r *run) loadState(ctx context.Context, s *source) error {
	err := postgres.Retry(ctx, r.retry(), func(ctx context.Context) (err error) {
		s.state, err = loadSource(ctx, r.db.Pool(), r.tableID, s.Name)
		return err
	})
	if err != nil {
		return err
	}
	s.cover(s.state.done())
	if s.state.id != 0 && !bytes.Equal(s.state.mappingSum, r.mappingSum) {
		return fault.New(fault.Refused, "use the same mapping options as before, or give the source another name with --source",
			"%s was read with mapping %s and other options than now", s.Name, s.state.mapping)
	}
	return nil
}

// readInput reads a source's stored bytes; t is the tail that they come from, or nil.
func (r *run) readInput(ctx context.Context, s *source, stored io.Reader, t *tail) error {
	in, err := openInput(stored)
	if err != nil {
		return r.sourceError(s, err)
	}
	defer in.close()
	rd := &reading{run: r, src: s, win: newWindow(in), record: 1}
	if t != nil && !t.compressed {
		rd.tail, t.rd = t, rd
		rd.win.more = func() bool { return in.buffer.Buffered() > 0 || t.more() }
	}
	if err := rd.all(ctx); err != nil {
		var foreign *foreignError
		if errors.As(err, &foreign) {
			r.leaveOut(s, foreign)
			return nil
		}
		return r.sourceError(s, err)
	}
	if s.sum, s.size, err = in.sum(); err != nil {
		return s.about("read", err)
	}
	r.passed(rd.progress())
	s.mu.Lock()
	s.whole = true
	s.mu.Unlock()
	return nil
}

// sourceError keeps an error that concerns this source's content alone, and returns any other.
func (r *run) sourceError(s *source, err error) error {
	err = s.about("read", err)
	if fault.ClassOf(err) != fault.Data {
		return err
	}
	s.mu.Lock()
	s.failed = true
	s.mu.Unlock()
	r.keep(err)
	return nil
}

// passed tells of progress without records to insert.
func (r *run) passed(stored int) {
	r.telling.Lock()
	defer r.telling.Unlock()
	if r.opts.OnProgress != nil && stored > 0 {
		r.opts.OnProgress(0, stored)
	}
}

// foreignError says why a file in a folder does not look like one of events.
type foreignError struct{ reason string }

// Error is the reason.
func (e *foreignError) Error() string { return e.reason }

// leaveOut takes a file that was found in a folder, and is none of ours, out of the run.
func (r *run) leaveOut(s *source, why *foreignError) {
	s.mu.Lock()
	s.leftOut = true
	s.mu.Unlock()
	r.mu.Lock()
	r.report.LeftOut = append(r.report.LeftOut, LeftOut{Name: s.Name, Reason: why.reason})
	r.mu.Unlock()
}

// all reads the source from its beginning to its end.
func (rd *reading) all(ctx context.Context) error {
	err := rd.everything(ctx)
	if rd.tail != nil && fault.ClassOf(err) != fault.Refused {
		if flushErr := rd.flush(); flushErr != nil {
			return flushErr
		}
	}
	if c := rd.held; c != nil {
		rd.held = nil
		if err != nil && fault.ClassOf(err) != fault.Data {
			rd.run.chunks <- c
			return err
		}
		if sendErr := rd.run.send(ctx, c); sendErr != nil {
			return sendErr
		}
	}
	return err
}

func (rd *reading) everything(ctx context.Context) error {
	if err := rd.begin(); err != nil {
		return err
	}
	for _, done := range rd.src.state.ranges {
		if err := rd.fresh(ctx, done.first-1); err != nil {
			return rd.early(err)
		}
		if err := rd.skip(ctx, done); err != nil {
			return rd.early(err)
		}
	}
	err := rd.fresh(ctx, 1<<62)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// early is an end of the source before all that is committed of it was seen.
func (rd *reading) early(err error) error {
	if errors.Is(err, io.EOF) {
		return errChanged(rd.src.Name, fmt.Sprintf("it has only %d records now", rd.record-1))
	}
	return err
}

// begin finds out the format, reads a CSV header and compares the beginning with what is known.
func (rd *reading) begin() error {
	rd.first = bytes.Clone(rd.win.ahead(maxHead))
	rd.first = rd.first[:min(len(rd.first), maxHead)]
	known := &rd.src.state
	if known.id != 0 && (known.head.bytes > len(rd.first) || !bytes.Equal(newHead(rd.first[:known.head.bytes]).sum, known.head.sum)) {
		return errChanged(rd.src.Name, "it begins differently")
	}
	format := rd.run.opts.Format
	if known.id != 0 && format == "" {
		format = known.format
	}
	var err error
	guessed := format == ""
	if format == "" && rd.run.opts.Mapping.Name == MappingPgAudit {
		format = FormatCSV
	}
	if rd.split, format, err = newSplitter(rd.win, format); err != nil {
		return err
	}
	if reason := rd.foreign(format); guessed && rd.src.found && reason != "" {
		return &foreignError{reason}
	}
	if known.id != 0 && known.format != format {
		return errChanged(rd.src.Name, "it was read as "+known.format)
	}
	known.format = format
	if rd.run.opts.Mapping.Name == MappingPgAudit {
		rd.watch = newErrorWatch()
	}
	rd.src.head = newHead(nil)
	rd.src.mapper, err = rd.mapper(format)
	return err
}

// foreign says why the content of a file in a folder is none that the mapping reads, "" where it may be.
func (rd *reading) foreign(format string) string {
	m := &rd.run.opts.Mapping
	switch {
	case m.Name == MappingPgAudit && !isCSVLog(rd.first):
		return "its content is no csvlog of PostgreSQL"
	case format != FormatCSV || m.Name == MappingPgAudit:
		return ""
	case m.prog != nil && m.readsCSV() && m.prog.readsHeader(rd.win.ahead(detectWithin)):
		return ""
	case m.Name != MappingNative || !isHeader(rd.win.ahead(detectWithin)):
		return "its content is neither JSON nor CSV with a header that names a column"
	}
	return ""
}

func (rd *reading) mapper(format string) (mapper, error) {
	m := &rd.run.opts.Mapping
	if format != FormatCSV || m.Name == MappingPgAudit {
		return m.newMapper(), nil
	}
	if !m.readsCSV() {
		return nil, fault.New(fault.Data, "--mapping native reads CSV", "it looks like CSV, which mapping %s does not read", m.Name)
	}
	header, rec, err := rd.split.next(nil)
	switch {
	case errors.Is(err, io.EOF):
		return m.newMapper(), nil // an empty file
	case err != nil:
		return nil, err
	case rec.oversize != nil:
		return nil, fault.New(fault.Data, "", "CSV header: %s", rec.oversize.reason())
	}
	rd.src.header = header
	if m.prog != nil {
		return newCSVObjects(header, mapped{m.prog, m.Local})
	}
	return newNativeCSV(header, m.Local, m.UnknownToDetails)
}

// skip reads the records of a committed range and compares their digest.
func (rd *reading) skip(ctx context.Context, done doneRange) error {
	h := sha256.New()
	writeHeader(h, rd.src.header)
	c := chunk{src: rd.src}
	for rd.record <= done.last {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		c.clear()
		if err := c.read(rd.split); err != nil {
			return err
		}
		h.Write(c.raw)
		rd.watch.observe(nil, 0, c.record(0))
		rd.record++
	}
	if !bytes.Equal(h.Sum(nil), done.sum) {
		return errChanged(rd.src.Name, fmt.Sprintf("records %d to %d are not those that are committed", done.first, done.last))
	}
	if !rd.src.again {
		rd.src.count(Counts{Skipped: done.last - done.first + 1})
	}
	return nil
}

// fresh sends the records up to number last as chunks. io.EOF means that the source ended, perhaps after some.
func (rd *reading) fresh(ctx context.Context, last int64) error {
	if rd.tail != nil {
		return rd.freshTail(last)
	}
	for rd.record <= last {
		c, err := rd.run.chunk(ctx)
		if err != nil {
			return err
		}
		c.reset(rd.src, rd.record)
		end := rd.fill(c, last)
		if end != nil && !errors.Is(end, io.EOF) && fault.ClassOf(end) != fault.Data {
			return end
		}
		rd.note()
		c.stored = rd.progress()
		if len(c.records) == 0 {
			rd.run.chunks <- c
			return end
		}
		if err := rd.pass(ctx, c); err != nil {
			return err
		}
		if end != nil {
			return end
		}
	}
	return nil
}

// progress returns how much of the source was read since it was asked last.
func (rd *reading) progress() int {
	n := rd.win.in.stored.n - rd.told
	rd.told += n
	return int(n)
}

// pass sends a chunk; with a watch the one before it.
func (rd *reading) pass(ctx context.Context, c *chunk) error {
	if rd.watch != nil {
		if c, rd.held = rd.held, c; c == nil {
			return nil
		}
		rd.watch.forget(c)
	}
	return rd.run.send(ctx, c)
}

// fill reads records until the chunk is full.
func (rd *reading) fill(c *chunk, last int64) error {
	for rd.record <= last && len(c.records) < rd.run.opts.BatchRows && len(c.raw) < c.limit {
		if err := c.read(rd.split); err != nil {
			return err
		}
		last := len(c.records) - 1
		rd.watch.observe(c, last, c.record(last))
		if rd.record == 1 {
			rd.src.head = newHead(rd.first[:min(int64(len(rd.first)), rd.win.offset)])
		}
		rd.record++
	}
	return nil
}

// note keeps what a new source's row will hold, before its first chunk goes out. What the database knows has a digest already.
func (rd *reading) note() {
	s := &rd.src.state
	if s.mappingSum == nil {
		s.head, s.mapping, s.mappingSum = rd.src.head, rd.run.opts.Mapping.Name, rd.run.mappingSum
	}
}
