package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"auditdb/internal/breaker"
	"auditdb/internal/fault"
)

// RouterOptions say where replicas are and how they are used. Zero values are the defaults.
type RouterOptions struct {
	URLs        []string
	Application string
	MaxConns    int32
	MaxLag      time.Duration // of replicas while the primary cannot be asked; 10 s
	Wait        time.Duration // for a replica to replay what the primary has; 250 ms
	Breaker     breaker.Settings
	Now         func() time.Time
	Log         *slog.Logger
}

const (
	replicaConnect = 2 * time.Second
	replayPoll     = 10 * time.Millisecond
)

// Router gives reads to replicas that have everything that was committed on the primary before the read began, else to the primary. What
// plans a change must not go through it.
type Router struct {
	primary  *DB
	o        RouterOptions
	replicas []*replica

	mu   sync.Mutex
	info *ServerInfo // of the primary, once it is known
}

// replica is one server that is configured as a replica.
type replica struct {
	name     string // without secrets
	url      string
	breaker  *breaker.Breaker
	inFlight atomic.Int64

	mu   sync.Mutex
	db   *DB
	info ServerInfo
}

// ReplicaState is what was last seen of a replica.
type ReplicaState struct {
	Name       string
	Usable     bool          // it may be read
	Reason     string        // why not
	LagBytes   *int64        // behind the primary; nil: not known
	Lag        time.Duration // at most; 0: it has everything
	Breaker    breaker.State
	Paused     bool
	Connection string // of its WAL receiver: streaming, or ""
}

// NewRouter connects to nothing yet.
func NewRouter(primary *DB, o RouterOptions) *Router {
	if o.MaxLag <= 0 {
		o.MaxLag = 10 * time.Second
	}
	if o.Wait <= 0 {
		o.Wait = 250 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Breaker.Now = o.Now
	o.Breaker.Counts = gone
	r := &Router{primary: primary, o: o}
	for _, url := range o.URLs {
		r.replicas = append(r.replicas, &replica{name: replicaName(url), url: url, breaker: breaker.New(BreakerName(url), o.Breaker)})
	}
	return r
}

func replicaName(url string) string { return cmp.Or(Instance(url), RedactURL(url)) }

// BreakerName is by what name processes know the circuit breaker before a replica.
func BreakerName(url string) string { return "replica:" + replicaName(url) }

// gone says whether an error means that a server cannot be used now, as opposed to a query that is wrong.
func gone(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	var unfit *unfitError
	return errors.As(err, &unfit) && unfit.broken || Class(err) == fault.Unavailable
}

// unfitError says why a replica is not read now. broken: it would not help to ask again soon.
type unfitError struct {
	reason string
	broken bool
}

// Error gives the reason.
func (e *unfitError) Error() string { return e.reason }

// Close ends the connections to replicas.
func (r *Router) Close() {
	for _, rep := range r.replicas {
		rep.mu.Lock()
		if rep.db != nil {
			rep.db.Close()
			rep.db = nil
		}
		rep.mu.Unlock()
	}
}

// Read calls fn with a server that has all that was committed before the call: the least busy replica, the next one when that fails or cancels the
// query, at last the primary. fn may therefore be called more than once, and must begin anew each time; name is "" on the primary. While the
// primary cannot be asked, replicas that are at most MaxLag behind serve.
func (r *Router) Read(ctx context.Context, fn func(ctx context.Context, db *DB, name string) error) error {
	if len(r.replicas) == 0 {
		return fn(ctx, r.primary, "")
	}
	position, asked := r.position(ctx)
	var last error
	for _, rep := range r.byLoad() {
		err := rep.breaker.Do(ctx, func(ctx context.Context) error {
			rep.inFlight.Add(1)
			defer rep.inFlight.Add(-1)
			db, err := r.ready(ctx, rep, position, asked == nil)
			if err != nil {
				return err
			}
			return fn(ctx, db, rep.name)
		})
		var unfit *unfitError
		var open *breaker.OpenError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return err
		case errors.As(err, &unfit), errors.As(err, &open), gone(err), SQLState(err) == SerializationFailure, SQLState(err) == AdminShutdown, SQLState(err) == ReadOnlySQLTransaction:
			r.o.Log.LogAttrs(ctx, slog.LevelDebug, "not read from a replica", slog.String("replica", rep.name), slog.String("reason", oneLine(err.Error())))
			last = err
		default:
			return err // of the query: another server would say the same
		}
	}
	if asked != nil {
		return errors.Join(asked, last)
	}
	return fn(ctx, r.primary, "")
}

// ready gives a replica that may be read now. primary says whether position is known.
func (r *Router) ready(ctx context.Context, rep *replica, position walPosition, primary bool) (*DB, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*replicaConnect+r.o.Wait)
	defer cancel()
	db, err := rep.open(ctx, r.o)
	if err != nil {
		return nil, err
	}
	if primary {
		if reason := r.related(ctx, rep); reason != "" {
			return nil, &unfitError{reason, true}
		}
	}
	return db, r.fit(ctx, rep, db, position, primary)
}

// position is where the primary's log is now, with its timeline and system identifier.
func (r *Router) position(ctx context.Context) (p walPosition, err error) {
	ctx, cancel := context.WithTimeout(ctx, replicaConnect)
	defer cancel()
	err = r.primary.pool.QueryRow(ctx, positionSQL).Scan(&p.lsn, &p.standby)
	if err == nil && p.standby { // what is configured as the primary is a standby itself
		p = walPosition{}
		err = errStandby
	}
	return p, err
}

type walPosition struct {
	lsn     string
	standby bool
}

// byLoad are the replicas, those with the fewest reads under way first.
func (r *Router) byLoad() []*replica {
	list := slices.Clone(r.replicas)
	slices.SortStableFunc(list, func(a, b *replica) int { return cmp.Compare(a.inFlight.Load(), b.inFlight.Load()) })
	return list
}

func (rep *replica) open(ctx context.Context, o RouterOptions) (*DB, error) {
	rep.mu.Lock()
	defer rep.mu.Unlock()
	if rep.db != nil {
		return rep.db, nil
	}
	db, err := Open(ctx, Options{URL: rep.url, Application: o.Application, MaxConns: o.MaxConns, ReadOnly: true, ConnectTimeout: replicaConnect, Log: o.Log})
	if err != nil {
		return nil, err
	}
	if rep.info, err = db.Info(ctx); err != nil {
		db.Close()
		return nil, err
	}
	rep.db = db
	return db, nil
}

// related says why a replica is none of this primary; "": it is, or that is not known yet.
func (r *Router) related(ctx context.Context, rep *replica) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.info == nil {
		info, err := r.primary.Info(ctx)
		if err != nil {
			return ""
		}
		r.info = &info
	}
	switch {
	case r.info.SystemID != 0 && rep.info.SystemID != 0 && r.info.SystemID != rep.info.SystemID:
		return "it belongs to another cluster than the primary"
	case r.info.DatabaseOID != rep.info.DatabaseOID:
		return "it is connected to another database than the primary"
	}
	return ""
}

// fit waits shortly until the replica has what the primary had, and says why it cannot be read otherwise.
func (r *Router) fit(ctx context.Context, rep *replica, db *DB, p walPosition, primary bool) error {
	wait, cancel := context.WithTimeout(ctx, r.o.Wait)
	defer cancel()
	for {
		s, err := rep.look(ctx, db, p.lsn)
		if err != nil {
			return err
		}
		switch {
		case !s.Usable:
			return &unfitError{s.Reason, true}
		case primary && s.LagBytes != nil && *s.LagBytes <= 0:
			return nil
		case !primary && s.Lag <= r.o.MaxLag:
			return nil
		case !primary:
			return &unfitError{fmt.Sprintf("it is %s behind, and the primary cannot be asked", s.Lag), false}
		case s.LagBytes == nil:
			return &unfitError{"it does not say how far it has replayed", false}
		case s.Paused || wait.Err() != nil:
			return &unfitError{fmt.Sprintf("it is %d bytes behind", *s.LagBytes), false}
		}
		timer := time.NewTimer(replayPoll)
		select {
		case <-wait.Done():
			timer.Stop()
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		case <-timer.C:
		}
	}
}

// look asks a replica how far it is; position is the primary's, "" where that is not known.
func (rep *replica) look(ctx context.Context, db *DB, position string) (ReplicaState, error) {
	s := ReplicaState{Name: rep.name}
	var standby bool
	var lag float64
	err := db.pool.QueryRow(ctx, replicaSQL, orNil(position)).Scan(&standby, &s.LagBytes, &lag, &s.Paused, &s.Connection)
	if err != nil {
		return s, err
	}
	s.Lag = time.Duration(lag * float64(time.Second))
	if s.LagBytes != nil && *s.LagBytes <= 0 {
		s.Lag = 0
	}
	if s.Usable = standby; !standby {
		s.Reason = "it is no standby: it was promoted, or is another primary"
	}
	return s, nil
}

func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// States looks at all replicas, for people.
func (r *Router) States(ctx context.Context) []ReplicaState {
	position, _ := r.position(ctx) // without it lags in bytes are not known
	list := make([]ReplicaState, len(r.replicas))
	var wait sync.WaitGroup
	for i, rep := range r.replicas {
		wait.Go(func() {
			list[i] = rep.state(ctx, r.o, position.lsn)
		})
	}
	wait.Wait()
	return list
}

func (rep *replica) state(ctx context.Context, o RouterOptions, position string) ReplicaState {
	limit, cancel := context.WithTimeout(ctx, 2*replicaConnect)
	defer cancel()
	db, err := rep.open(limit, o)
	var s ReplicaState
	if err == nil {
		s, err = rep.look(limit, db, position)
	}
	if err != nil {
		s = ReplicaState{Name: rep.name, Reason: oneLine(err.Error())}
	}
	s.Breaker, _ = rep.breaker.State()
	return s
}
