package health

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/pkg/monitor"
)

// sampleAge is how long samples are kept.
const sampleAge = 400 * 24 * time.Hour

// samples are figures that are compared with those of earlier runs: they are kept only when asked for.
type samples struct {
	mu   sync.Mutex
	keep bool
	new  []sample
}

type sample struct {
	check, object string
	value         float64
}

func newSamples(keep bool) *samples { return &samples{keep: keep} }

func (s *samples) add(check, object string, value float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keep {
		s.new = append(s.new, sample{check, object, value})
	}
}

// since gives how much a counter has grown since the last sample of it, and in how many seconds. Not ok: there is none, or it was reset.
// The sample of this run is noted.
func (p *probe) since(ctx context.Context, check, object string, now float64) (grown, seconds float64, ok bool, err error) {
	p.samples.add(check, object, now)
	if !p.server.schema || !p.server.own {
		return 0, 0, false, nil
	}
	var before float64
	err = p.q.QueryRow(ctx, sampleSQL, check, object, p.o.Now()).Scan(&before, &seconds)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, 0, false, nil
	}
	return now - before, seconds, err == nil && before <= now && seconds > 0, err
}

// noSample is the finding of a check that compares, where there is nothing to compare with.
func noSample() finding {
	f := skip("there is no earlier sample to compare with, or the counters were reset since")
	f.hint = "auditdb health --deep --record keeps samples; call it by a timer"
	return f
}

// record keeps the samples of this run. That it cannot is said in the log: health itself is as it is.
func (p *probe) record(ctx context.Context, chosen []check, results []Result) {
	for i, c := range chosen {
		if v := results[i].Value; v != nil && c.on != onRedis {
			p.samples.add("value:"+c.name, "", *v)
		}
	}
	if p.server.standby || !p.server.schema {
		p.o.Log.LogAttrs(ctx, slog.LevelWarn, "no samples are kept: the server is a standby, or has no schema of auditdb")
		return
	}
	at := p.o.Now()
	err := p.db.Tx(ctx, func(tx pgx.Tx) error {
		var batch pgx.Batch
		for _, s := range p.samples.new {
			batch.Queue(keepSQL, s.check, s.object, at, s.value)
		}
		batch.Queue(forgetSQL, at.Add(-sampleAge))
		return tx.SendBatch(ctx, &batch).Close()
	})
	if err != nil {
		p.o.Log.LogAttrs(ctx, slog.LevelWarn, "samples were not kept", slog.String("error", oneLine(err.Error())))
		return
	}
	err = p.db.Tx(ctx, func(tx pgx.Tx) error { return monitor.RecordStatements(ctx, tx, at) })
	if err != nil && fault.ClassOf(err) != fault.Config {
		p.o.Log.LogAttrs(ctx, slog.LevelWarn, "no sample of statements was kept", slog.String("error", oneLine(err.Error())))
	}
}
