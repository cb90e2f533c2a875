// Package health looks whether a database of audit logs, its server and its Redis are well. It only reads, on at most three connections, and every
// look is limited in time, so that it can be called each minute on a busy server.
package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

// Status is the result of one check, or of all of them.
type Status string

// The results. Unknown: something that should be readable was not. Skipped: it does not apply, or is not there to be looked at.
const (
	OK       Status = "ok"
	Warning  Status = "warning"
	Critical Status = "critical"
	Unknown  Status = "unknown"
	Skipped  Status = "skipped"
)

// rank orders results: critical > warning > unknown > ok > skipped.
func (s Status) rank() int {
	return slices.Index([]Status{Skipped, OK, Unknown, Warning, Critical}, s)
}

// Result is what one check found. Value and its limits are in Unit; nil where there is none.
type Result struct {
	Name     string   `json:"name"`
	Group    string   `json:"group"`
	Status   Status   `json:"status"`
	Value    *float64 `json:"value"`
	Unit     string   `json:"unit"`
	Warning  *float64 `json:"warning"`
	Critical *float64 `json:"critical"`
	Message  string   `json:"message"`
	Hint     string   `json:"hint"`

	// Unasked is what was in the way of a check that was not made, such as a server that is down; "": nothing.
	Unasked string `json:"-"`
}

// Report is all results, the worst first.
type Report struct {
	Status         Status   `json:"status"`
	Checks         []Result `json:"checks"`
	ElapsedSeconds float64  `json:"elapsed_seconds"`
}

// say puts the finding that the server is down, or hangs, into the place of the check, and adds it where that was not asked for: whatever was, a server
// that is down is critical.
func (r *Report) say(down finding) {
	at := slices.IndexFunc(r.Checks, func(c Result) bool { return c.Name == Connection })
	if at < 0 {
		all := checks()
		c := all[slices.IndexFunc(all, func(c check) bool { return c.name == Connection })]
		r.Checks, at = slices.Insert(r.Checks, 0, c.result(down)), 0
	}
	c := &r.Checks[at]
	c.Status, c.Value, c.Message, c.Hint = down.status, nil, down.message, down.hint
}

// Reached says whether the database answered.
func (r Report) Reached() bool {
	return !slices.ContainsFunc(r.Checks, func(c Result) bool { return c.Name == Connection && c.Status == Critical })
}

// Limits are the settings of one check. Nil: its own default.
type Limits struct {
	Enabled           *bool
	Warning, Critical *float64
}

// Anchored is what an anchor says of the log: how far it lags behind, in records, or why it could not be asked.
type Anchored struct {
	Anchor   string
	Lag      *int64
	Mismatch bool // it holds a checkpoint that the log does not extend
	Err      error
}

// Options say what to look at. What is nil is not configured.
type Options struct {
	KeepOpen     bool                                        // Open gives the same database each time, which is not closed
	Open         func(context.Context) (*postgres.DB, error) // at most MaxConns connections
	Redis        func(context.Context) (Redis, error)
	Anchors      func(context.Context, *postgres.DB) ([]Anchored, error)
	Migrations   func(context.Context, *postgres.DB) (pending int, ahead bool, err error)
	Replicas     int // that should be attached to this primary
	Now          func() time.Time
	Limits       map[string]Limits
	Only, Skip   []string // names of checks and groups
	Deep         bool
	Record       bool          // keep samples in auditdb.health_sample
	CheckTimeout time.Duration // of one look; 0: 5 s
	Log          *slog.Logger
}

// MaxConns is how many connections a run uses at most.
const MaxConns = 3

const checkTimeout = 5 * time.Second

// Run makes all the checks that are wanted. A dependency that is down is a finding; the error is of class usage, for names that are unknown.
func Run(ctx context.Context, o Options) (Report, error) {
	started := o.Now()
	if o.CheckTimeout <= 0 {
		o.CheckTimeout = checkTimeout
	}
	chosen, err := o.choose()
	if err != nil {
		return Report{}, err
	}
	p := &probe{o: o, samples: newSamples(o.Record), silent: &silence{}}
	results := make([]Result, len(chosen))
	var wait sync.WaitGroup
	wait.Add(2)
	go func() {
		defer wait.Done()
		p.askRedis(ctx, chosen, results)
	}()
	go func() {
		defer wait.Done()
		p.askPostgres(ctx, chosen, results)
	}()
	wait.Wait()
	r := Report{Status: OK, Checks: results}
	if p.down != nil {
		r.say(*p.down)
	}
	slices.SortStableFunc(r.Checks, func(a, b Result) int { return b.Status.rank() - a.Status.rank() })
	if len(r.Checks) > 0 {
		r.Status = r.Checks[0].Status
	}
	if r.Status == Skipped {
		r.Status = OK
	}
	r.ElapsedSeconds = o.Now().Sub(started).Seconds()
	return r, nil
}

// choose gives the checks that are wanted, in their own order.
func (o Options) choose() ([]check, error) {
	all := checks()
	for _, name := range slices.Concat(o.Only, o.Skip) {
		if !slices.ContainsFunc(all, func(c check) bool { return c.is(name) }) {
			return nil, unknownName(name, all)
		}
	}
	for name, l := range o.Limits {
		at := slices.IndexFunc(all, func(c check) bool { return c.name == name })
		if at < 0 {
			return nil, fault.New(fault.Config, "auditdb health list shows the names", "health.checks: there is no check %q", name)
		}
		if w, c := l.Warning, l.Critical; w != nil && c != nil && (all[at].below && *w < *c || !all[at].below && *w > *c) {
			return nil, fault.New(fault.Config, "change the two", "health.checks.%s: the warning limit, %g, is worse than the critical one, %g", name, *w, *c)
		}
	}
	named := func(c check, names []string) bool { return slices.ContainsFunc(names, c.is) }
	var chosen []check
	for _, c := range all {
		limits := o.Limits[c.name]
		switch {
		case named(c, o.Skip):
		case len(o.Only) > 0 && !named(c, o.Only):
		case len(o.Only) == 0 && c.deep && !o.Deep && (limits.Enabled == nil || !*limits.Enabled):
		case limits.Enabled != nil && !*limits.Enabled:
		default:
			chosen = append(chosen, c.with(limits))
		}
	}
	return chosen, nil
}

func unknownName(name string, all []check) error {
	var groups []string
	for _, c := range all {
		if !slices.Contains(groups, c.group) {
			groups = append(groups, c.group)
		}
	}
	return fault.New(fault.Usage, "auditdb health list shows the names; the groups are "+strings.Join(groups, ", "), "there is no check or group %q", name)
}

// check is one thing to look at.
type check struct {
	name, group, unit string
	warning, critical *float64
	below             bool // small values are the bad ones
	deep              bool // only with --deep, by name, or enabled in the configuration
	on                source
	look              func(context.Context, *probe, *check) (finding, error)
}

// source is what a check looks at.
type source int

const (
	onServer  source = iota // in a read-only transaction
	onPool                  // by itself, on at most one connection at a time
	onPrimary               // as onServer, and not on a standby
	onRedis
)

// is says whether a name means the check or its group.
func (c check) is(name string) bool { return c.name == name || c.group == name }

func (c check) with(l Limits) check {
	if l.Warning != nil {
		c.warning = l.Warning
	}
	if l.Critical != nil {
		c.critical = l.Critical
	}
	return c
}

// finding is what a look has found. Without a status the value is judged by the limits.
type finding struct {
	status        Status
	value         *float64
	message, hint string
	unasked       string // what was in the way of looking
	judged        bool   // the status stands, whatever the limits make of the value
}

// skip is the finding of a check that does not apply.
func skip(format string, args ...any) finding {
	return finding{status: Skipped, message: fmt.Sprintf(format, args...)}
}

// measured is a finding that the limits judge.
func measured(value float64, hint, format string, args ...any) finding {
	return finding{value: &value, hint: hint, message: fmt.Sprintf(format, args...)}
}

// as gives the finding a status of its own, if that is worse than what the limits say.
func (f finding) as(s Status) finding {
	f.status = s
	return f
}

// judge says what the limits make of a value.
func (c *check) judge(value float64) Status {
	beyond := func(limit *float64) bool {
		return limit != nil && (!c.below && value >= *limit || c.below && value <= *limit)
	}
	switch {
	case beyond(c.critical):
		return Critical
	case beyond(c.warning):
		return Warning
	}
	return OK
}

// result puts a finding into its form. Hints are for what is not well.
func (c *check) result(f finding) Result {
	r := Result{Name: c.name, Group: c.group, Status: f.status, Value: f.value, Unit: c.unit, Warning: c.warning, Critical: c.critical, Message: f.message, Hint: f.hint, Unasked: f.unasked}
	if f.value != nil && !f.judged && f.status != Skipped && f.status != Unknown {
		if judged := c.judge(*f.value); judged.rank() > f.status.rank() {
			r.Status = judged
		}
	}
	if r.Status == "" {
		r.Status = OK
	}
	if r.Status == OK {
		r.Hint = ""
	}
	return r
}

// failed is the result of a look that ended with an error. What is denied or not there to be seen is unknown, with what would mend it.
func (c *check) failed(err error, user string) Result {
	f := finding{status: Unknown, message: oneLine(err.Error()), hint: postgres.Hint(err)}
	var denied *deniedError
	switch {
	case errors.As(err, &denied):
		f.message, f.hint = denied.Error(), denied.grant
		if denied.optional {
			f.status = Skipped
		}
	case postgres.SQLState(err) == postgres.InsufficientPrivilege:
		f.hint = "GRANT pg_monitor TO " + user
	}
	return c.result(f)
}

// deniedError says that the role may not see something. optional: a role that only monitors is not expected to.
type deniedError struct {
	what, grant string
	optional    bool
}

// Error says what cannot be seen.
func (e *deniedError) Error() string { return "this role may not see " + e.what }

// ParseLimit reads a limit of the configuration: a number, or one with a unit: 90%, 10ms, 30s, 5m, 2h, 1d, 500MB, 2GiB. Times are seconds, sizes are bytes;
// unit is that of the check, and must fit.
func ParseLimit(text, unit string) (float64, error) {
	text = strings.TrimSpace(text)
	at := strings.LastIndexAny(text, "0123456789.") + 1
	n, err := strconv.ParseFloat(text[:at], 64)
	if err != nil || math.IsInf(n, 0) || math.IsNaN(n) || n < 0 {
		return 0, fmt.Errorf("%q is no number that is not negative, time or size", text)
	}
	suffix := strings.TrimSpace(text[at:])
	if suffix == "" {
		return n, nil
	}
	for _, kind := range limitUnits() {
		if factor, known := kind.factors[suffix]; known && slices.Contains(kind.of, unit) {
			if unit == inMillis {
				factor *= 1000
			}
			return n * factor, nil
		}
	}
	return 0, fmt.Errorf("%q is no limit of a figure in %s", text, unit)
}

type limitUnit struct {
	of      []string // units of checks
	factors map[string]float64
}

func limitUnits() []limitUnit {
	return []limitUnit{
		{[]string{inPercent}, map[string]float64{"%": 1}},
		{[]string{inMillis, inSeconds}, map[string]float64{"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}},
		{[]string{inDays}, map[string]float64{"d": 1}},
		{[]string{inBytes, bytesHour}, map[string]float64{
			"B": 1, "kB": 1 << 10, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
		}},
	}
}

// Known describes all checks in their order.
func Known() []Result {
	all := checks()
	list := make([]Result, len(all))
	for i := range all {
		list[i] = all[i].result(finding{status: Skipped})
		if all[i].deep {
			list[i].Message = "with --deep"
		}
	}
	return list
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
