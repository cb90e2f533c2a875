package ingest

import (
	"context"
	"errors"
	"sync"
)

// turn keeps the batches of a single job in order, so that rejects are written in the order of their records. A batch copies after the one
// before has copied, and goes on after the first attempt of that has ended. No batch can wait in the server for one that comes after it, then:
// the other way round the two would wait for each other forever. A nil turn waits for nothing.
type turn struct {
	copied, ended         chan struct{}
	closeCopied, closeEnd sync.Once
	limit                 *limitError // the batch has passed the limit of rejects: those after it are not committed
}

func newTurn() *turn { return &turn{copied: make(chan struct{}), ended: make(chan struct{})} }

func (t *turn) passCopied() {
	if t != nil {
		t.closeCopied.Do(func() { close(t.copied) })
	}
}

// end is told of every attempt; the first one counts.
func (t *turn) end(err error) {
	if t == nil {
		return
	}
	t.passCopied()
	t.closeEnd.Do(func() {
		errors.As(err, &t.limit)
		close(t.ended)
	})
}

func (t *turn) awaitCopied(ctx context.Context) error {
	if t == nil {
		return nil
	}
	return await(ctx, t.copied)
}

func (t *turn) awaitEnd(ctx context.Context) error {
	if t == nil {
		return nil
	}
	if err := await(ctx, t.ended); err != nil {
		return err
	}
	if t.limit != nil {
		return t.limit
	}
	return nil
}

func await(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
