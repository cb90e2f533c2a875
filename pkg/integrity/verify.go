package integrity

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

// VerifyOptions say what to verify and with what.
type VerifyOptions struct {
	Keys           *Keys      // nil: MACs are not checked
	Public         *PublicKey // nil: the one of Keys; without both signatures are not checked either
	Tables         []int16    // auditdb.managed_table ids; empty: every table with integrity on, and every one that the log knows
	From, To       time.Time  // only partitions with rows in [From, To); zero: open
	Partition      string     // only this partition, by name with or without its schema
	Anchors        []External // checkpoints kept outside the database
	Jobs           int        // partitions at once; 0: 1
	Rate           int64      // bytes a second read by all jobs together; 0: no limit
	Wait           time.Duration
	MaxDuration    time.Duration  // stop then with what is done; 0: none
	MaxUnsealedAge *time.Duration // unsealed rows older than this are an error, with 0 all of them; nil: never
	Unread         []string       // anchors that could not tell anything, for the assurance
	Empty          []string       // those of them that could, and hold nothing
	KeepsLastSeen  bool           // the checkpoint of the last run is kept somewhere, even if there is none yet
	Sample         *float64       // read only what is new since it was found right, and this percentage of the rest; nil: everything
	MaxFindings    int            // findings in the report; 0: 1000
	Now            func() time.Time
	Progress       func(rows int64) // called from several goroutines with rows done since the last call; may be nil
}

// errTimeUp is the cause of a context that ends because of MaxDuration.
var errTimeUp = errors.New("maximal duration reached")

const (
	setMemory = 32 << 20 // bytes that open leaf sets of all jobs may take
	maxRounds = 6
)

// verifier is one run of Verify.
type verifier struct {
	db   *postgres.DB
	opts VerifyOptions

	mu       sync.Mutex // the walk and the sums
	walk     *logWalk
	found    *collector // about tables and their partitions
	logFound *collector // about the log itself
	sum      map[string]*unsealed
	rows     int64
	sets     int64
	verdicts verdicts
	since    *since         // nil: everything is read
	lists    map[int64]bool // redact records whose list was compared with them: whether it is theirs

	checked int // tables

	rateMu   sync.Mutex
	rateNext time.Time
}

// unsealed sums up rows of other writers in one table.
type unsealed struct {
	rows   int64
	oldest int64
}

// Verify compares the database with its integrity log. Findings are part of the report; an error means that it could not look at
// everything: the report, unless it is nil, then has what was checked before.
func Verify(ctx context.Context, db *postgres.DB, opts VerifyOptions) (*Report, error) {
	start := opts.Now()
	if opts.Public == nil && opts.Keys != nil {
		opts.Public = opts.Keys.Public()
	}
	opts.Jobs = max(opts.Jobs, 1)
	logFound := newCollector(opts.MaxFindings)
	v := &verifier{
		db: db, opts: opts, found: newCollector(opts.MaxFindings), logFound: logFound, walk: newLogWalk(opts.Keys, opts.Public, logFound),
		sum: map[string]*unsealed{}, verdicts: verdicts{}, lists: map[int64]bool{},
	}
	for _, x := range opts.Anchors {
		if err := v.walk.addAnchor(x); err != nil {
			return nil, err
		}
	}
	incomplete, err := v.run(ctx)
	v.reportUnsealed()
	r := v.report(opts.Now().Sub(start), incomplete || err != nil)
	if err != nil {
		r.OK, r.Broken = false, true
	}
	return r, err
}

// run verifies in rounds: what changed its shape while it was being read is planned again.
func (v *verifier) run(ctx context.Context) (incomplete bool, err error) {
	work := ctx
	if v.opts.MaxDuration > 0 {
		var cancel context.CancelFunc
		work, cancel = context.WithTimeoutCause(ctx, v.opts.MaxDuration, errTimeUp)
		defer cancel()
	}
	f := filter{from: math.MinInt64, to: math.MaxInt64, partition: v.opts.Partition}
	if !v.opts.From.IsZero() {
		f.from = v.opts.From.UnixMicro()
	}
	if !v.opts.To.IsZero() {
		f.to = v.opts.To.UnixMicro()
	}
	for round := 0; ; round++ {
		units, err := v.plan(work, f)
		if err == nil && round == 0 && f.partition != "" && len(units) == 0 && v.found.errors()+v.logFound.errors() == 0 {
			return false, fault.New(fault.Usage, "auditdb partition list", "partition %q not found", f.partition)
		}
		var stale map[int16][]rangeKey
		if err == nil {
			stale, err = v.verifyUnits(work, units)
		}
		if err != nil && errors.Is(context.Cause(work), errTimeUp) && ctx.Err() == nil {
			incomplete = true
			break
		}
		if err != nil {
			return false, err
		}
		if len(stale) == 0 {
			break
		}
		if round == maxRounds {
			return false, fault.New(fault.Unavailable, "run it again when partitions are not being changed", "verify: partitions kept changing")
		}
		f.only = stale
	}
	return incomplete, v.finishLog(ctx)
}

// snapshot runs fn, once more when a standby's replay gets in its way.
func (v *verifier) snapshot(ctx context.Context, fn func(pgx.Tx) error) error {
	for try := 0; ; try++ {
		err := v.once(ctx, fn)
		if err == nil || !isConflict(err) || try == conflictRetries {
			return err
		}
	}
}

// once runs fn in a snapshot of its own.
func (v *verifier) once(ctx context.Context, fn func(pgx.Tx) error) error {
	return v.db.TxWith(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL row_security = off; SET LOCAL statement_timeout = 0"); err != nil {
			return fmt.Errorf("prepare a snapshot: %w", err)
		}
		return fn(tx)
	})
}

// plan walks the log and compares it with the catalog, in one snapshot.
func (v *verifier) plan(ctx context.Context, f filter) ([]*unit, error) {
	var units []*unit
	var found *collector // found and judged are of the attempt that comes to its end
	var judged verdicts
	err := v.snapshot(ctx, func(tx pgx.Tx) error {
		found, judged = newCollector(v.opts.MaxFindings), verdicts{}
		if _, err := v.walk.extend(ctx, tx); err != nil {
			return err
		}
		if err := v.identify(ctx, tx); err != nil {
			return err
		}
		if v.opts.Sample != nil && v.since == nil {
			past, err := readVerdicts(ctx, tx)
			if err != nil {
				return err
			}
			v.since = &since{percent: *v.opts.Sample, past: past}
		}
		tables, err := v.tables(ctx, tx)
		if err != nil {
			return err
		}
		if len(tables) < len(v.opts.Tables) {
			return fault.New(fault.Config, "auditdb partition list shows the managed tables", "verify: the table has integrity off, and the log does not know it")
		}
		v.checked = len(tables)
		p := planner{tx: tx, walk: v.walk, found: found, verdicts: judged, filter: f}
		for _, m := range tables {
			if f.only != nil && f.only[m.id] == nil {
				continue
			}
			if f.only == nil { // what has come since is looked at when a row needs it
				if err := v.redactions(ctx, tx, m, found); err != nil {
					return err
				}
			}
			if err := p.table(ctx, m); err != nil {
				return err
			}
		}
		units = p.units
		return nil
	})
	if err != nil {
		return nil, err
	}
	v.found.merge(found)
	for k, found := range judged {
		v.verdicts.add(k.table, k.rng, found)
	}
	if v.since != nil && f.only == nil {
		units = v.since.choose(v.walk.state, units)
	}
	sortUnits(units)
	return units, nil
}

// identify notes which server is being read, so that causes can be named. A role that may not ask does without.
func (v *verifier) identify(ctx context.Context, tx pgx.Tx) error {
	if v.walk.server.system != 0 {
		return nil
	}
	point, err := tx.Begin(ctx)
	if err != nil {
		return fmt.Errorf("read the server's identity: %w", err)
	}
	server, err := readIdentity(ctx, point)
	if err == nil {
		v.walk.server = server
	} else if postgres.SQLState(err) != postgres.InsufficientPrivilege {
		return err
	}
	return point.Rollback(ctx)
}

// tables lists what to verify: managed tables with integrity on, and those of the log whatever managed_table says of them.
func (v *verifier) tables(ctx context.Context, tx pgx.Tx) ([]managed, error) {
	list, err := readManaged(ctx, tx)
	if err != nil {
		return nil, err
	}
	wanted := func(id int16) bool {
		for _, t := range v.opts.Tables {
			if t == id {
				return true
			}
		}
		return len(v.opts.Tables) == 0
	}
	var out []managed
	listed := map[int16]bool{}
	for _, m := range list {
		listed[m.id] = true
		if wanted(m.id) && (m.integrity || v.walk.state.tables[m.id] != nil) {
			out = append(out, m)
		}
	}
	for id, t := range v.walk.state.tables {
		if !listed[id] && t.name != "" && wanted(id) {
			out = append(out, managed{id: id, schema: t.schema, name: t.name, integrity: true})
		}
	}
	return out, nil
}

// verifyUnits runs the units on the workers and returns the ranges that must be planned again.
func (v *verifier) verifyUnits(ctx context.Context, units []*unit) (map[int16][]rangeKey, error) {
	queue := make(chan *unit, len(units))
	for _, u := range units {
		queue <- u
	}
	close(queue)
	stale := map[int16][]rangeKey{}
	group, ctx := errgroup.WithContext(ctx)
	for range min(v.opts.Jobs, len(units)) {
		group.Go(func() error {
			w := &worker{v: v}
			defer w.close(ctx)
			for u := range queue {
				res, found, err := w.run(ctx, u)
				if errors.Is(err, errStale) {
					v.mu.Lock()
					stale[u.table.id] = append(stale[u.table.id], u.allRanges()...)
					v.mu.Unlock()
					continue
				}
				if err != nil {
					return err
				}
				v.add(u, res, found)
			}
			return nil
		})
	}
	return stale, group.Wait()
}

// allRanges are the ranges that make the unit be planned again.
func (u *unit) allRanges() []rangeKey {
	out := append([]rangeKey{}, u.ranges...)
	for _, r := range u.rels {
		out = append(out, r.rng)
	}
	return out
}

func (v *verifier) add(u *unit, res unitResult, found *collector) {
	clean := found.errors() == 0
	v.found.merge(found)
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, r := range u.rels {
		v.verdicts.add(u.table.id, r.rng, verdict{clean, u.after})
	}
	v.rows += res.rows
	v.sets += res.sets
	if res.unsealed > 0 {
		s := v.sum[u.table.name]
		if s == nil {
			s = &unsealed{oldest: math.MaxInt64}
			v.sum[u.table.name] = s
		}
		s.rows += res.unsealed
		s.oldest = min(s.oldest, res.oldest)
	}
}

func (v *verifier) progress(rows int64) {
	if v.opts.Progress != nil && rows > 0 {
		v.opts.Progress(rows)
	}
}

func (v *verifier) budget() int64 { return setMemory / int64(v.opts.Jobs) }

// setsOf returns the leaf sets whose rows the unit's snapshot shows. The walk is extended to the snapshot first, since rows and their
// records were committed together.
func (v *verifier) setsOf(ctx context.Context, tx pgx.Tx, u *unit) (view, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	size, err := v.walk.extend(ctx, tx)
	if err != nil {
		return view{}, err
	}
	seqs := append([]int64{}, u.seqs...)
	state := v.walk.state.tables[u.table.id]
	if state == nil {
		return view{size: size, seqs: seqs}, nil
	}
	if !u.table.known {
		return view{}, errStale // the log has just begun with this table
	}
	mine := map[rangeKey]bool{}
	for _, k := range u.ranges {
		mine[k] = true
	}
	for k, p := range state.parts {
		if p.changed >= u.after && p.changed < size && u.touches(k) {
			return view{}, errStale
		}
		if !mine[k] {
			continue
		}
		for _, seq := range p.sets {
			if seq < size {
				seqs = append(seqs, seq)
			}
		}
	}
	slices.Sort(seqs)
	return view{size: size, seqs: seqs, expiries: state.expiries(seqs, size), erased: len(state.redacted) > 0}, nil
}

// view is what the log says to a unit's snapshot.
type view struct {
	size     int64             // of the log
	seqs     []int64           // leaf sets whose rows are there
	expiries map[int64][]int64 // for each the records of what has expired of it
	erased   bool              // rows of the table were erased
}

// touches tells whether a range concerns the unit.
func (u *unit) touches(k rangeKey) bool {
	for _, o := range u.allRanges() {
		if o == k || o.overlaps(k) {
			return true
		}
	}
	return false
}

// finishLog checks what was appended meanwhile.
func (v *verifier) finishLog(ctx context.Context) error {
	return v.snapshot(ctx, func(tx pgx.Tx) error {
		size, err := v.walk.extend(ctx, tx)
		if err != nil {
			return err
		}
		v.walk.finish(size)
		return nil
	})
}
