package cmd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/integrity"
	"auditdb/pkg/integrity/anchors"
)

// anchorLimit bounds what a command waits for its anchors when its work is done.
const anchorLimit = 60 * time.Second

// anchorAppended brings the log's newest checkpoint to the anchors after a command that appended to it. It has committed its work by
// then: what fails is a warning, and the next command brings a checkpoint that covers this one.
func (a *App) anchorAppended(ctx context.Context) {
	a.mu.Lock()
	db, touched := a.db, false
	for _, l := range a.logs {
		touched = touched || l.Touched()
	}
	a.logs = nil
	a.mu.Unlock()
	if db == nil || !touched || len(a.Config.Integrity.Anchors) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), anchorLimit)
	defer cancel()
	cp, err := integrity.Newest(ctx, db.Pool(), nil) // as it was committed
	if err != nil {
		a.Warn("no anchor has the newest checkpoint: %v", oneLine(err.Error()))
		return
	}
	a.push(ctx, db, cp, a.guardAnchor)
}

// guardAnchor keeps commands whose work is done from waiting for an anchor that has failed again and again: the next one brings a newer checkpoint.
func (a *App) guardAnchor(ctx context.Context, address string, call func(context.Context) error) error {
	return a.guard(anchorBreaker(address), true, true).Do(ctx, call)
}

// anchorEvery is how often a run that goes on appending brings its newest checkpoint to the anchors: what is only in the database until then can
// be taken back by who owns it.
const anchorEvery = time.Minute

// keepAnchored brings the log's newest checkpoint to the anchors from time to time, until stop is called.
func (a *App) keepAnchored(ctx context.Context, db *postgres.DB, every time.Duration) (stop func()) {
	if len(a.Config.Integrity.Anchors) == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		var size int64
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			cp, err := integrity.Newest(ctx, db.Pool(), nil)
			if err != nil || cp.Size == size { // an error: the run itself meets it too, or there is no checkpoint yet
				continue
			}
			size = cp.Size
			a.push(ctx, db, cp, a.guardAnchor)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// push brings a checkpoint to all anchors and warns of those that it did not reach. guard nil: all are asked, whatever they did before.
func (a *App) push(ctx context.Context, db *postgres.DB, cp integrity.Checkpoint, guard func(context.Context, string, func(context.Context) error) error) []anchors.Result {
	log := anchors.Log{Guard: guard, RootAt: func(ctx context.Context, size int64) (string, error) { return integrity.RootAt(ctx, db, size) }}
	var err error
	if log.Lost, err = integrity.AcceptedLoss(ctx, db.Pool()); err != nil {
		log.Lost = func(int64) bool { return false }
	}
	results := anchors.Push(ctx, a.Config.Integrity.Anchors, cp, log)
	for i := range results {
		r := &results[i]
		if r.OK || ctx.Err() != nil { // broken off: the end of the run brings a newer one
			continue
		}
		r.Error = oneLine(r.Error)
		lag := "it is not known how far it lags behind"
		if r.Lag != nil {
			lag = fmt.Sprintf("it lags %d records behind", *r.Lag)
		}
		a.Warn("anchor %s does not have the checkpoint of %d records, %s: %s", r.Anchor, cp.Size, lag, r.Error)
	}
	return results
}

// maxAnchored is how many checkpoints of an anchor are compared with the log.
const maxAnchored = 20

// readAnchors reads the newest checkpoints of the configured anchors. An anchor that cannot be read ends the command: what it would have
// told is not known. Those that never give anything back are named.
func readAnchors(ctx context.Context, app *App) (list []integrity.External, unread, empty []string, err error) {
	for _, address := range app.Config.Integrity.Anchors {
		name := postgres.RedactURL(address)
		notes, err := newestOf(ctx, address)
		if errors.Is(err, anchors.ErrWriteOnly) {
			unread = append(unread, name)
			continue
		}
		if err != nil && fault.ClassOf(err) == "" {
			err = fault.New(fault.Unavailable, "check integrity.anchors, or leave the anchor out", "read anchor %s: %w", name, err)
		}
		if err != nil {
			return nil, nil, nil, err
		}
		if len(notes) == 0 {
			unread, empty = append(unread, name+" (empty)"), append(empty, name)
		}
		for _, note := range notes {
			list = append(list, integrity.External{Source: name, Note: note})
		}
	}
	return list, unread, empty, nil
}

func newestOf(ctx context.Context, address string) ([]string, error) {
	a, err := anchors.Open(ctx, address)
	if err != nil {
		return nil, err
	}
	notes, err := a.Newest(ctx, maxAnchored)
	return notes, errors.Join(err, a.Close())
}
