package health

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/partitions"
)

// probe is what the checks of a run share.
type probe struct {
	o          Options
	db         *postgres.DB
	q          partitions.Querier // of the check that is at work
	server     server
	samples    *samples
	redisState *redisProbe
	shared     *shared
	silent     *silence
	down       *finding // why the server counts as down
}

// silence is noted when the server took too long for something that is never long, and ends what else is asked of it.
type silence struct {
	once sync.Once
	fell atomic.Bool
	end  func() // nil: nothing is to be ended
}

func (s *silence) falls() {
	s.once.Do(func() {
		s.fell.Store(true)
		if s.end != nil {
			s.end()
		}
	})
}

// shared is read once for several checks.
type shared struct {
	tables func(context.Context, partitions.Querier) ([]managed, error)
	oids   func(context.Context, partitions.Querier) ([]uint32, error)
}

// server is what decides how questions are asked.
type server struct {
	version       int
	versionText   string
	user          string // quoted
	standby, stat bool   // stat: the role sees the sessions of others
	schema, own   bool   // auditdb's schema is there, and the role may use it
	latency       time.Duration
	skew, trip    time.Duration
	tls           bool
	local         bool
}

// managed is a table that auditdb looks after.
type managed struct {
	partitions.Table
	tree *partitions.Tree
	err  error
}

// askPostgres makes all the checks of the server, three at a time. Where none is wanted it looks nevertheless whether the server is there, unless none
// is configured.
func (p *probe) askPostgres(ctx context.Context, chosen []check, results []Result) {
	var wanted []int
	for i := range chosen {
		if chosen[i].on != onRedis {
			wanted = append(wanted, i)
		}
	}
	if len(wanted) == 0 && p.o.Open == nil {
		return
	}
	if err := p.connect(ctx); err != nil {
		if len(wanted) == 0 && fault.ClassOf(err) == fault.Config {
			return
		}
		p.down = &finding{status: Critical, message: unreached(err), hint: cmp.Or(postgres.Hint(err), lookAtServer)}
		for _, i := range wanted {
			results[i] = chosen[i].result(unaskedAs("the database cannot be reached"))
		}
		return
	}
	defer p.endWith(ctx)()
	defer p.close()
	next := make(chan int)
	var wait sync.WaitGroup
	for range MaxConns {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for i := range next {
				results[i] = p.askOne(ctx, &chosen[i])
			}
		}()
	}
	for _, i := range wanted {
		next <- i
	}
	close(next)
	wait.Wait()
	if p.silent.fell.Load() || ctx.Err() != nil {
		p.down = &finding{status: Critical, message: p.silence(ctx), hint: lookAtServer}
		return
	}
	if p.askAgain(ctx, chosen, wanted, results); p.down == nil && p.o.Record {
		p.record(ctx, chosen, results)
	}
}

// wentAway is what was in the way of a check whose connection was lost.
const wentAway = "the server went away"

// askAgain makes the checks again whose connections were lost. Somebody may have ended a session, which means nothing; a server that has gone is critical.
// Only the wanted results are its own: those of Redis are made at the same time.
func (p *probe) askAgain(ctx context.Context, chosen []check, wanted []int, results []Result) {
	unanswered := func(i int) bool { return results[i].Unasked == wentAway }
	if !slices.ContainsFunc(wanted, unanswered) {
		return
	}
	limit, cancel := context.WithTimeout(ctx, p.o.CheckTimeout)
	defer cancel()
	p.db.Pool().Reset() // other connections may be gone as well
	var at time.Time
	err := p.db.Pool().QueryRow(limit, clockSQL).Scan(&at)
	if err == nil {
		for _, i := range wanted {
			if unanswered(i) {
				results[i] = p.askOne(ctx, &chosen[i])
			}
		}
	}
	if slices.ContainsFunc(wanted, unanswered) {
		p.down = &finding{status: Critical, message: "the server went away while it was looked at", hint: lookAtServer}
		if err != nil {
			p.down.message += ": " + unreached(err)
		}
	}
}

// lost says that an error is that of a connection which has ended, or could not be made any more.
func lost(err error) bool {
	switch postgres.SQLState(err) {
	case "":
		return postgres.Class(err) == fault.Unavailable
	case postgres.AdminShutdown, postgres.CrashShutdown, postgres.CannotConnectNow:
		return true
	}
	return false
}

// connect opens the database and finds out what it is.
func (p *probe) connect(ctx context.Context) (err error) {
	if p.o.Open == nil {
		return errors.New("no database is configured")
	}
	limit, cancel := context.WithTimeout(ctx, 2*p.o.CheckTimeout)
	defer cancel()
	if p.db, err = p.o.Open(limit); err != nil {
		return err
	}
	stop := p.endWith(limit)
	err = p.know(limit)
	if err != nil {
		p.giveUp()
		p.close()
	}
	stop()
	if err != nil {
		return err
	}
	p.shared = &shared{tables: once(p.loadTables), oids: once(loadOIDs)}
	return nil
}

const lookAtServer = "look at the server itself: its load, its disks, its log, and the network"

// unreached words why something cannot be reached.
func unreached(err error) string {
	return strings.ReplaceAll(oneLine(err.Error()), context.DeadlineExceeded.Error(), "no answer in time")
}

// graceful is how long a server that works has to take note of a cancelled statement.
const graceful = 300 * time.Millisecond

// endWith gives a server that does not answer up soon after the context has ended, until the returned function is called: the driver would wait for it.
// A database that others use as well is left to the driver.
func (p *probe) endWith(ctx context.Context) (stop func()) {
	if p.o.KeepOpen {
		return func() {}
	}
	over := make(chan struct{})
	p.silent.end = p.db.Abort
	cancel := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(graceful)
		defer timer.Stop()
		select {
		case <-over:
		case <-timer.C:
			p.db.Abort()
		}
	})
	return func() {
		cancel()
		close(over)
	}
}

// giveUp does not wait for a server that hangs.
func (p *probe) giveUp() {
	if !p.o.KeepOpen {
		p.db.Abort()
	}
}

func (p *probe) close() {
	if !p.o.KeepOpen {
		p.db.Close()
	}
}

// know measures how quickly the server answers, and asks what it is.
func (p *probe) know(ctx context.Context) error {
	s := &p.server
	conn, err := p.db.Pool().Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	var trips [3]time.Duration
	for i := range trips {
		before := p.o.Now()
		var at time.Time
		if err := conn.QueryRow(ctx, clockSQL).Scan(&at); err != nil {
			return err
		}
		after := p.o.Now()
		trips[i] = after.Sub(before)
		if skew := at.Sub(before.Add(trips[i] / 2)); i == 0 || trips[i] < s.trip {
			s.skew, s.trip = skew, trips[i]
		}
	}
	s.latency = max(min(trips[0], trips[1]), min(max(trips[0], trips[1]), trips[2]))
	return conn.QueryRow(ctx, serverSQL).Scan(&s.version, &s.versionText, &s.user, &s.standby, &s.stat, &s.schema, &s.own, &s.tls, &s.local)
}

// askOne makes one check within its time.
func (p *probe) askOne(ctx context.Context, c *check) Result {
	if c.on == onPrimary && p.server.standby {
		return c.result(skip("the server is a standby"))
	}
	if p.silent.fell.Load() || ctx.Err() != nil {
		return c.result(unasked())
	}
	limit, cancel := context.WithTimeout(ctx, p.o.CheckTimeout+checkMargin)
	defer cancel()
	gone := time.AfterFunc(p.o.CheckTimeout+checkMargin+graceful, p.silent.falls) // not even the server's own limit was kept
	f, err := p.look(limit, c)
	if gone.Stop(); err == nil {
		return c.result(f)
	}
	var pg *pgconn.PgError
	switch answered := errors.As(err, &pg); {
	case !answered && p.silent.fell.Load():
		return c.result(unasked())
	case !answered && limit.Err() != nil:
		p.silent.falls()
		return c.result(finding{status: Unknown, message: fmt.Sprintf("no answer within %s", p.o.CheckTimeout)})
	}
	if lost(err) {
		return c.result(unaskedAs(wentAway))
	}
	if postgres.SQLState(err) == postgres.QueryCanceled {
		return c.result(finding{status: Unknown, message: fmt.Sprintf("it took longer than %s", p.o.CheckTimeout), hint: "auditdb monitor top shows what the server is busy with"})
	}
	return c.failed(err, p.server.user)
}

// checkMargin is how much longer than the server itself its answer may take.
const checkMargin = 500 * time.Millisecond

// unasked is the finding of a check that had no chance.
func unasked() finding { return unaskedAs("the server does not answer in time") }

func unaskedAs(why string) finding {
	return finding{status: Skipped, message: "not looked at: " + why, unasked: why}
}

func (p *probe) look(ctx context.Context, c *check) (f finding, err error) {
	if c.on == onPool {
		mine := *p
		mine.q = p.db.Pool()
		return c.look(ctx, &mine, c)
	}
	err = p.db.TxWith(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		mine := *p
		mine.q = tx
		f, err = c.look(ctx, &mine, c)
		return err
	})
	return f, err
}

// silence words why the server is called silent.
func (p *probe) silence(ctx context.Context) string {
	if ctx.Err() != nil {
		return "the server did not answer everything before the time was over"
	}
	return fmt.Sprintf("the server accepts connections, but a question was not answered within %s", p.o.CheckTimeout)
}

// seesSessions is nil where the role sees what other sessions do.
func (p *probe) seesSessions() error {
	if p.server.stat {
		return nil
	}
	return &deniedError{what: "the sessions of other roles", grant: "GRANT pg_monitor TO " + p.server.user}
}

// ownSchema gives a finding that skips the check where auditdb's schema is missing, or closed to the role.
func (p *probe) ownSchema() (finding, bool) {
	switch {
	case !p.server.schema:
		return skip("auditdb's schema is not in this database: auditdb migrate up makes it"), false
	case !p.server.own:
		f := skip("this role may not read auditdb's schema")
		f.hint = "GRANT auditdb_reader TO " + p.server.user
		return f, false
	}
	return finding{}, true
}

// loadTables resolves the managed tables and reads their partitions.
func (p *probe) loadTables(ctx context.Context, q partitions.Querier) ([]managed, error) {
	if !p.server.schema || !p.server.own {
		return nil, nil
	}
	names, err := partitions.Registered(ctx, q)
	if err != nil {
		return nil, err
	}
	var list []managed
	for _, name := range names {
		t, err := partitions.ResolveToRead(ctx, p.db, name)
		m := managed{Table: t, err: err}
		if err == nil {
			m.tree, m.err = partitions.LoadTree(ctx, q, t)
		}
		if m.err != nil {
			m.err = fmt.Errorf("%s: %w", name, m.err)
		}
		list = append(list, m)
	}
	return list, nil
}

// once keeps what was loaded, by the connection of the check that is the first to ask: all others may be in use by checks that wait for it. An error is not
// kept, for it may be that of a check whose time was over.
func once[T any](load func(context.Context, partitions.Querier) (T, error)) func(context.Context, partitions.Querier) (T, error) {
	var mu sync.Mutex
	var kept T
	done := false
	return func(ctx context.Context, q partitions.Querier) (T, error) {
		mu.Lock()
		defer mu.Unlock()
		if done {
			return kept, nil
		}
		value, err := load(ctx, q)
		if err == nil {
			kept, done = value, true
		}
		return value, err
	}
}

func pointer(v float64) *float64 { return &v }

// seconds rounds for messages.
func seconds(v float64) string { return span(time.Duration(v * float64(time.Second))) }

// span is a time with its two largest units.
func span(d time.Duration) string {
	d = d.Round(time.Millisecond)
	switch {
	case d < 0:
		return "-" + span(-d)
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd %dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh %dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm %ds", d/time.Minute, d%time.Minute/time.Second)
	case d >= time.Second:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.String()
}

// size writes bytes for people.
func size(bytes float64) string {
	for _, u := range []struct {
		name string
		of   float64
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if math.Abs(bytes) >= u.of {
			return fmt.Sprintf("%.1f %s", bytes/u.of, u.name)
		}
	}
	return fmt.Sprintf("%.0f B", bytes)
}

// plural is "1 row" or "3 rows".
func plural[N int | int32 | int64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if noun[len(noun)-1] == 'x' {
		return fmt.Sprintf("%d %ses", n, noun)
	}
	if noun[len(noun)-1] == 'y' {
		return fmt.Sprintf("%d %sies", n, noun[:len(noun)-1])
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
