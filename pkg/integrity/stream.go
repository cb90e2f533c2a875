package integrity

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	slabSize  = 256 << 10
	slabCount = 4
)

// slabWriter hands a stream over to another goroutine in recycled buffers. Pieces are never cut, so a message of the server, which
// COPY fills with one row, stays in one buffer.
type slabWriter struct {
	cur  []byte
	full chan []byte
	free chan []byte
	stop <-chan struct{} // closed when nobody reads any more
}

var errReaderGone = errors.New("the stream's reader has stopped")

func (w *slabWriter) Write(p []byte) (int, error) {
	if len(w.cur) > 0 && len(w.cur)+len(p) > slabSize {
		if err := w.flush(); err != nil {
			return 0, err
		}
	}
	w.cur = append(w.cur, p...)
	return len(p), nil
}

func (w *slabWriter) flush() error {
	select {
	case w.full <- w.cur:
	case <-w.stop:
		return errReaderGone
	}
	select {
	case w.cur = <-w.free:
		if cap(w.cur) > 4*slabSize { // a huge row's buffer is not kept
			w.cur = make([]byte, 0, slabSize)
		}
		w.cur = w.cur[:0]
	case <-w.stop:
		return errReaderGone
	}
	return nil
}

// pipe runs copyOut, which writes a stream, and feeds the stream to read on a second goroutine.
func pipe(copyOut func(io.Writer) error, read func([]byte) error) error {
	stop := make(chan struct{})
	w := &slabWriter{cur: make([]byte, 0, slabSize), full: make(chan []byte, slabCount), free: make(chan []byte, slabCount), stop: stop}
	for range slabCount - 1 {
		w.free <- make([]byte, 0, slabSize)
	}
	var readErr error
	var wg sync.WaitGroup
	wg.Go(func() {
		for b := range w.full {
			if readErr = read(b); readErr != nil {
				close(stop)
				return
			}
			w.free <- b[:0]
		}
	})
	err := copyOut(w)
	if err == nil && len(w.cur) > 0 {
		err = w.flush()
	}
	close(w.full)
	wg.Wait()
	if readErr != nil {
		return readErr
	}
	return err
}

// copyTo streams a COPY statement's answer through read. When read fails the connection is closed.
func copyTo(ctx context.Context, conn *pgconn.PgConn, sql string, read func([]byte) error) error {
	return pipe(func(w io.Writer) error {
		_, err := conn.CopyTo(ctx, w, sql)
		return err
	}, read)
}
