package ingest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"auditdb/internal/fault"
)

// tail reads one file of a root as it grows.
type tail struct {
	f          *follower
	gen        *generation
	path       string
	live       bool
	compressed bool
	info       os.FileInfo
	file       *os.File
	head       []byte // the content's first bytes, as they were when the tail began
	idle       atomic.Int64
	evicted    atomic.Bool

	offset int64           // of the file, read so far
	rd     *reading        // nil: of a compressed file
	fatal  bool            // its error ends the run
	wait   context.Context //nolint:containedctx // a reader has no other way to see it
	pipe   context.Context //nolint:containedctx // likewise
}

// Reasons for a tail to end before the end of its file.
var (
	errTruncated = errors.New("the file was truncated or written anew")
	errEvicted   = errors.New("other files wait")
)

func newTail(f *follower, g *generation, c candidate, head []byte, compressed bool) (*tail, error) {
	file, err := os.Open(c.path)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil || !os.SameFile(info, c.info) {
		_ = file.Close() // read only
		return nil, errors.Join(err, errTruncated)
	}
	return &tail{f: f, gen: g, path: c.path, live: c.live, compressed: compressed, info: info, file: file, head: head}, nil
}

// begins tells whether a content with this beginning is that of the tail's file.
func (t *tail) begins(head []byte) bool {
	n := min(len(head), len(t.head))
	return n > 0 && bytes.Equal(head[:n], t.head[:n])
}

// run reads until the context ends or the file does, and waits until what it sent is committed, so that the next tail of this generation
// finds it in the database.
func (t *tail) run(wait, pipe context.Context) error {
	t.wait, t.pipe = wait, pipe
	defer func() { _ = t.file.Close() }() // read only
	s := t.gen.src
	done := make(chan struct{})
	s.mu.Lock()
	s.again = s.Path != ""
	s.Path, s.mapper, s.header, s.state, s.whole, s.failed, s.refs = t.path, nil, nil, sourceState{}, false, false, 0
	s.covered = 0
	s.onRelease = sync.OnceFunc(func() { close(done) })
	s.mu.Unlock()
	err := t.read()
	select {
	case <-done:
	case <-pipe.Done():
	}
	t.note(s, err)
	t.f.ended(t)
	switch {
	case errors.Is(err, errTruncated), errors.Is(err, errEvicted), wait.Err() != nil && errors.Is(err, context.Cause(wait)):
		return nil
	case fault.ClassOf(err) == fault.Refused && !t.fatal:
		t.f.run.db.Log().WarnContext(pipe, "source is no longer followed", slog.String("source", s.Name), slog.String("cause", err.Error()))
		t.f.run.keep(err)
		return nil
	}
	return err
}

// note keeps what the next scan goes by.
func (t *tail) note(s *source, err error) {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.head.bytes > 0 {
		t.gen.head = s.state.head
	}
	t.gen.size, t.gen.ignored = 0, false
	switch {
	case s.leftOut, fault.ClassOf(err) == fault.Refused, s.failed && !t.compressed:
		t.gen.ignored = true
	case s.failed: // until it is another file
		t.gen.size = t.info.Size()
	case err == nil, errors.Is(err, errEvicted):
		t.gen.size = t.offset
	}
	if t.gen.head.bytes == 0 {
		t.gen.head = newHead(t.head)
	}
}

func (t *tail) read() error {
	r, s := t.f.run, t.gen.src
	if err := s.acquire(t.wait, r); err != nil {
		t.fatal = true
		s.onRelease()
		return err
	}
	defer r.release(t.pipe, s)
	if err := r.loadState(t.wait, s); err != nil {
		t.fatal = true
		return err
	}
	return r.readInput(t.wait, s, t, t)
}

// Read waits for more where the file ends, and flushes what was read when that takes too long. It ends with the file once that has
// another name, or none.
func (t *tail) Read(p []byte) (int, error) {
	var idle time.Duration
	for {
		if t.wait.Err() != nil {
			return 0, context.Cause(t.wait)
		}
		n, err := t.file.Read(p)
		if n > 0 {
			t.idle.Store(0)
			if !t.isSame(int64(n)) {
				return 0, errTruncated
			}
			t.offset += int64(n)
			t.longerHead()
			return n, nil
		}
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return 0, err
		case t.compressed:
			return 0, io.EOF
		case !t.isSame(0):
			return 0, errTruncated
		case idle > t.f.o.Grace && !t.hasItsName():
			return 0, io.EOF
		case t.evicted.Load():
			return 0, errEvicted
		}
		if err := t.rd.flushOld(); err != nil {
			return 0, err
		}
		if !waited(t.wait, pollFiles/2) {
			return 0, context.Cause(t.wait)
		}
		idle += pollFiles / 2
		t.idle.Store(int64(idle))
	}
}

// longerHead keeps as much of the content's beginning as identifies it.
func (t *tail) longerHead() {
	if t.compressed || len(t.head) >= maxHead || t.offset <= int64(len(t.head)) {
		return
	}
	head := make([]byte, min(t.offset, maxHead))
	if _, err := t.file.ReadAt(head, 0); err != nil || !bytes.Equal(head[:len(t.head)], t.head) {
		return // the next read sees why
	}
	t.f.mu.Lock()
	t.head = head
	t.f.mu.Unlock()
}

// isSame tells whether the n bytes read last are of the content that the tail began with: the file has not been cut since, nor written
// anew. Where it was cut between two looks and has grown to its old size again, its beginning differs.
func (t *tail) isSame(n int64) bool {
	info, err := t.file.Stat()
	if err != nil || info.Size() < t.offset+n {
		return false
	}
	if t.compressed {
		return true
	}
	now := make([]byte, len(t.head))
	k, err := t.file.ReadAt(now, 0)
	return (err == nil || errors.Is(err, io.EOF)) && bytes.Equal(now[:k], t.head[:min(k, len(t.head))]) && k == len(t.head)
}

// hasItsName tells whether the path still leads to the file, as the one that is followed.
func (t *tail) hasItsName() bool {
	info, err := os.Stat(t.path)
	return t.live && err == nil && os.SameFile(info, t.info)
}

// more tells whether the file has bytes that were not read.
func (t *tail) more() bool {
	info, err := t.file.Stat()
	return err == nil && info.Size() > t.offset
}
