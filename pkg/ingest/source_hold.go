package ingest

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/postgres"
)

// acquire takes the source's lock, again when the connection that held it has died.
func (s *source) acquire(ctx context.Context, r *run) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.guard != nil {
		s.refs = max(s.refs, 1)
		return s.guard.acquire(ctx, r)
	}
	if s.lock != nil {
		select {
		case <-s.lock.Lost():
			s.lock.Release()
			s.lock = nil
		default:
			return nil
		}
	}
	if s.refs == 0 {
		s.refs = 1 // the reader's
	}
	if r.opts.DryRun {
		return nil
	}
	return postgres.Retry(ctx, r.retry(), func(ctx context.Context) (err error) {
		s.lock, err = r.db.Lock(ctx, s.lockName, r.opts.Wait)
		return err
	})
}

func (s *source) hold() {
	s.mu.Lock()
	s.refs++
	s.mu.Unlock()
}

func (s *source) unlock() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock != nil {
		s.lock.Release()
		s.lock = nil
	}
}

func (s *source) count(n Counts) {
	s.mu.Lock()
	s.report.add(n)
	s.mu.Unlock()
}

// cover notes that so many more records are committed.
func (s *source) cover(n int64) {
	s.mu.Lock()
	s.covered += n
	s.mu.Unlock()
}

// known notes the id of the source's row once that is committed.
func (s *source) known(id int64) {
	s.mu.Lock()
	s.state.id = id
	s.mu.Unlock()
}

// release gives up one hold on a source; the last one notes a source that is in the table as a whole, and unlocks it.
func (r *run) release(ctx context.Context, s *source) {
	s.mu.Lock()
	s.refs--
	last, whole, id, told := s.refs == 0, s.whole && !s.failed, s.state.id, s.onRelease
	s.mu.Unlock()
	if !last {
		return
	}
	if told != nil {
		defer told()
	}
	if whole && id != 0 && !r.opts.DryRun {
		// Nothing is lost when this fails: the next run reads the source again and finds its ranges committed.
		there := true
		err := r.db.Tx(ctx, func(tx pgx.Tx) (err error) {
			there, err = finishSource(ctx, tx, id, s.sum, s.size, s.covered)
			return err
		})
		if !there {
			r.keep(errLost(s.Name))
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			r.db.Log().WarnContext(ctx, "source not marked as finished")
		}
	}
	s.unlock()
}
