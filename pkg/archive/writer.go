package archive

import (
	"io"

	"auditdb/pkg/audit"
)

const (
	groupRows   = 50_000   // rows of a row group, at most
	groupBytes  = 32 << 20 // bytes of a row group before it is compressed, about
	batchRows   = 1024     // rows that are converted at a time
	batchBytes  = 1 << 20
	batchesHeld = 3
)

// batch is a number of rows as they were streamed.
type batch struct {
	arena []byte
	ends  []int // of each row in arena
}

func (b *batch) reset() { b.arena, b.ends = b.arena[:0], b.ends[:0] }

func (b *batch) full(more int) bool {
	return len(b.ends) == batchRows || len(b.ends) > 0 && len(b.arena)+more > batchBytes
}

// writer turns rows into Parquet on a goroutine of its own: rows are read and hashed meanwhile. Close must be called.
type writer struct {
	out       *encoder
	groupRows int64
	bytes     int64 // of the row group

	cur    *batch
	free   chan *batch
	todo   chan *batch
	failed chan struct{} // closed after err is set
	err    error
	done   chan struct{}
}

// newWriter begins an object.
func newWriter(w io.Writer, cols []Column) (*writer, error) {
	out, err := newEncoder(w, cols)
	if err != nil {
		return nil, err
	}
	x := &writer{
		out: out, groupRows: groupRows,
		free: make(chan *batch, batchesHeld), todo: make(chan *batch, batchesHeld), failed: make(chan struct{}), done: make(chan struct{}),
	}
	for range batchesHeld {
		x.free <- &batch{arena: make([]byte, 0, batchBytes)}
	}
	go x.run()
	return x, nil
}

// row takes one row: the fields of its columns with their lengths, and what is aside, nil for NULL.
func (x *writer) row(fields, commit, salt []byte) error {
	size := len(fields) + 8 + len(commit) + len(salt)
	if x.cur != nil && x.cur.full(size) {
		x.todo <- x.cur
		x.cur = nil
	}
	if x.cur == nil {
		select {
		case x.cur = <-x.free:
		case <-x.failed:
			return x.err
		}
	}
	b := x.cur
	b.arena = append(b.arena, fields...)
	b.arena = audit.AppendField(b.arena, commit)
	b.arena = audit.AppendField(b.arena, salt)
	b.ends = append(b.ends, len(b.arena))
	return nil
}

// close ends the object; without finish it is given up.
func (x *writer) close(finish bool) error {
	if x.cur != nil && finish {
		x.todo <- x.cur
	}
	close(x.todo)
	<-x.done
	if x.err != nil || !finish {
		return x.err
	}
	return x.out.close()
}

func (x *writer) run() {
	defer close(x.done)
	for b := range x.todo {
		if x.err == nil {
			if x.err = x.write(b); x.err != nil {
				close(x.failed)
			}
		}
		if cap(b.arena) > 4*batchBytes { // a row of unusual size
			b.arena = make([]byte, 0, batchBytes)
		}
		b.reset()
		x.free <- b
	}
}

func (x *writer) write(b *batch) error {
	start := 0
	for _, end := range b.ends {
		if x.out.rows == x.groupRows || x.bytes >= groupBytes {
			if err := x.out.flush(); err != nil {
				return err
			}
			x.bytes = 0
		}
		if err := x.out.row(b.arena[start:end]); err != nil {
			return err
		}
		x.bytes += int64(end - start)
		start = end
	}
	return nil
}
