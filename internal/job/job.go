// Package job records every run that changes something in auditdb.job_run: who, where, when, how it ended. A run that is unfinished and
// whose heartbeat is old was killed.
package job

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

const (
	heartbeatEvery = 10 * time.Second
	killedAfter    = time.Minute // six heartbeats missing
	answerLimit    = 5 * time.Second
)

// Info names a run.
type Info struct {
	Name    string        // the command's path with dots, e.g. "partition.create"
	TableID *int16        // auditdb.managed_table; nil: no table or several
	Version string        // of the program
	Beat    time.Duration // between heartbeats; 0: 10 s
}

// Run is one recorded run. A Run that could not be recorded works alike and records nothing.
type Run struct {
	db     *postgres.DB
	id     string
	finish func(ctx context.Context, exitCode int, summary []byte)
}

// Start records that a run has begun and keeps its heartbeat going until Finish. Without the table, or the right to write to it, the
// run goes unrecorded, which only a debug line says; any other error is returned.
func Start(ctx context.Context, db *postgres.DB, info Info) (*Run, error) {
	r := &Run{db: db, finish: func(context.Context, int, []byte) {}}
	osUser, host := whoami()
	err := db.Pool().QueryRow(ctx, startSQL, info.Name, info.TableID, osUser, host, os.Getpid(), info.Version).Scan(&r.id)
	if err != nil {
		if !cannotRecord(err) {
			return nil, fmt.Errorf("record the run of %s: %w", info.Name, err)
		}
		db.Log().LogAttrs(ctx, slog.LevelDebug, "run not recorded", slog.String("job", info.Name), slog.String("sqlstate", postgres.SQLState(err)))
		return r, nil
	}
	if info.Beat <= 0 {
		info.Beat = heartbeatEvery
	}
	r.beat(ctx, info.Beat)
	return r, nil
}

// cannotRecord: no schema yet, no right, or a standby.
func cannotRecord(err error) bool {
	switch postgres.SQLState(err) {
	case postgres.UndefinedTable, postgres.InvalidSchemaName, postgres.ReadOnlySQLTransaction:
		return true
	}
	return postgres.Class(err) == fault.Permission
}

// whoami gives NULL for what the system does not tell.
func whoami() (osUser, host *string) {
	if u, err := user.Current(); err == nil {
		osUser = &u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = &h
	}
	return osUser, host
}

// Recorded says whether the run has a row.
func (r *Run) Recorded() bool { return r.id != "" }

// beat renews heartbeat_at until finish is called, whatever becomes of the caller's context.
func (r *Run) beat(ctx context.Context, every time.Duration) {
	ctx = context.WithoutCancel(ctx)
	beating, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-beating.Done():
				return
			case <-tick.C:
				r.exec(beating, "heartbeat", heartbeatSQL, r.id)
			}
		}
	}()
	var once sync.Once
	r.finish = func(ctx context.Context, exitCode int, summary []byte) {
		once.Do(func() {
			stop()
			<-ended
			var text *string
			if summary != nil {
				s := string(summary)
				text = &s
			}
			r.exec(context.WithoutCancel(ctx), "finish", finishSQL, r.id, exitCode, text)
		})
	}
}

// exec writes to the run's row. That it fails must not change how the run ends.
func (r *Run) exec(ctx context.Context, what, sql string, args ...any) {
	limited, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	if _, err := r.db.Pool().Exec(limited, sql, args...); err != nil && ctx.Err() == nil {
		r.db.Log().LogAttrs(ctx, slog.LevelDebug, "run not updated", slog.String("what", what), slog.String("sqlstate", postgres.SQLState(err)),
			slog.String("class", string(postgres.Class(err))))
	}
}

// Finish records how the run ended, also when ctx was cancelled. summary becomes JSON, nil NULL; it must hold no secrets and no event
// payloads. The first call counts.
func (r *Run) Finish(ctx context.Context, exitCode int, summary any) {
	var text []byte
	if summary != nil {
		var err error
		if text, err = json.Marshal(summary); err != nil {
			r.db.Log().LogAttrs(ctx, slog.LevelDebug, "run's summary is no JSON", slog.String("cause", err.Error()))
			text = nil
		}
	}
	r.finish(ctx, exitCode, text)
}

// Past is a run that was recorded earlier.
type Past struct {
	Job       string
	StartedAt time.Time
	Heartbeat time.Time // the last sign of life
	OSUser    string
	Host      string
	PID       int
}

// Killed lists the newest runs (at most limit) that ended without saying so: unfinished, and no heartbeat for a minute.
func Killed(ctx context.Context, db *postgres.DB, limit int) ([]Past, error) {
	rows, err := db.Pool().Query(ctx, killedSQL, killedAfter.Seconds(), limit)
	if err != nil {
		return nil, fmt.Errorf("list killed runs: %w", err)
	}
	past, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Past])
	if err != nil {
		return nil, fmt.Errorf("list killed runs: %w", err)
	}
	return past, nil
}
