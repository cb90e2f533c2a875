// Package doctor looks whether the connected role has the rights that each command needs, and whether the server's settings suit.
package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"auditdb/internal/job"
	"auditdb/internal/postgres"
)

// Status is the result of one check.
type Status string

// The results. Missing and Problem keep a command from working.
const (
	OK      Status = "ok"
	Warning Status = "warning"
	Missing Status = "missing" // a right, or the schema
	Problem Status = "problem" // a setting
	Skipped Status = "skipped"
)

// Bad says whether a command cannot work with this.
func (s Status) Bad() bool { return s == Missing || s == Problem }

// Check is one thing that was looked at.
type Check struct {
	Command string   `json:"command"` // "all" for the server and the connection
	Name    string   `json:"name"`
	Status  Status   `json:"status"`
	Detail  string   `json:"detail"`
	Hint    *string  `json:"hint"`
	Grants  []string `json:"grants"` // exactly what is missing; the hint may name a role that has all of it
}

// New makes a check; an empty hint becomes null.
func New(command, name string, status Status, hint, detail string, args ...any) Check {
	c := Check{Command: command, Name: name, Status: status, Detail: fmt.Sprintf(detail, args...), Grants: []string{}}
	if hint != "" {
		c.Hint = &hint
	}
	return c
}

// Options are what cannot be asked of the server.
type Options struct {
	Commands []string         // only these; none: all
	Now      func() time.Time // the client's clock
	Pending  int              // migrations that the database lacks
	Ahead    bool             // or has more of than this program

	LockTimeout, Wait time.Duration // one attempt at looking at a table, and all of them together
}

// Report is what Examine found.
type Report struct {
	Checks []Check
	User   string // whose rights were looked at
	LogKey string // the key that the integrity log is written with, "" before its first record: from then on writing needs it
	Origin string // the log's own name in its newest checkpoint
}

// Known lists the commands whose rights are known.
func Known() []string { return commands() }

// patient is everything known about a database.
type patient struct {
	db      *postgres.DB
	options Options
	info    postgres.ServerInfo
	schema  schemaState
	tables  []table
	user    string
	since16 bool
	report  *Report
}

// Examine runs all checks. It changes nothing.
func Examine(ctx context.Context, db *postgres.DB, o Options) (Report, error) {
	info, err := db.Info(ctx)
	if err != nil {
		return Report{}, err
	}
	report := Report{Checks: []Check{}}
	p := &patient{db: db, options: o, info: info, report: &report}
	if p.schema, err = loadSchema(ctx, db.Pool()); err != nil {
		return Report{}, err
	}
	// Looking at partitions takes a lock that somebody's ALTER TABLE can keep us from.
	err = db.DDL(ctx, postgres.DDLOptions{LockTimeout: o.LockTimeout, Wait: o.Wait, What: "look at the tables"}, func(tx tx) (err error) {
		p.tables, err = loadTables(ctx, tx, p.schema)
		return err
	})
	if err != nil {
		return Report{}, err
	}
	for _, check := range []func(context.Context) error{p.settings, p.clock, p.searchPath, p.locks, p.rights, p.logKey, p.killed} {
		if err := check(ctx); err != nil {
			return Report{}, err
		}
	}
	return report, nil
}

func (p *patient) add(command, name string, status Status, hint, detail string, args ...any) {
	if command == "all" || p.wants(command) {
		p.report.Checks = append(p.report.Checks, New(command, name, status, hint, detail, args...))
	}
}

// addGrants adds a missing right with the statements that give it. hint "": the statements are the hint.
func (p *patient) addGrants(command, name, hint string, grants []string, detail string, args ...any) {
	if hint == "" {
		hint = strings.Join(grants, " ")
	}
	before := len(p.report.Checks)
	p.add(command, name, Missing, hint, detail, args...)
	for i := before; i < len(p.report.Checks); i++ {
		p.report.Checks[i].Grants = grants
	}
}

// wants takes a group ("partition") for all of its commands.
func (p *patient) wants(command string) bool {
	return len(p.options.Commands) == 0 || slices.ContainsFunc(p.options.Commands, func(c string) bool { return c == command || strings.HasPrefix(command, c+" ") })
}

func (p *patient) settings(ctx context.Context) error {
	var fsync bool
	if err := p.db.Pool().QueryRow(ctx, settingsSQL).Scan(&fsync, &p.user, &p.since16); err != nil {
		return fmt.Errorf("read the server's settings: %w", err)
	}
	p.report.User = p.user
	if p.info.VersionNum < 140000 {
		p.add("all", "server version", Problem, "upgrade to PostgreSQL 14 or newer", "PostgreSQL %s", p.info.Version)
	} else {
		p.add("all", "server version", OK, "", "PostgreSQL %s", p.info.Version)
	}
	if p.info.InRecovery {
		p.add("all", "primary", Warning, "name the primary, or all hosts in one URL", "a hot standby: partition list and verify-integrity work, changes are refused")
	} else {
		p.add("all", "primary", OK, "", "the server takes changes")
	}
	switch p.db.Pooling() {
	case postgres.PoolingTransaction:
		p.add("all", "connection", Problem, "connect to the server itself or to a session-mode pool", "a transaction-pooled connection, where session locks do not hold: every command that changes something is refused")
	case postgres.PoolingSession:
		p.add("all", "connection", OK, "", "a session-pooled connection")
	case postgres.PoolingNone:
		p.add("all", "connection", OK, "", "direct, as %s to database %s", p.info.User, p.info.Database)
	}
	if !fsync {
		p.add("all", "fsync", Warning, "ALTER SYSTEM SET fsync = on;", "off: a crash of the machine can lose committed events")
	}
	return nil
}

const (
	clockProblem = 5 * time.Second
	clockTries   = 3
)

// clock compares the clocks by the quickest of a few round trips.
func (p *patient) clock(ctx context.Context) error {
	var skew, best time.Duration
	for range clockTries {
		sent := p.options.Now()
		var micros int64
		if err := p.db.Pool().QueryRow(ctx, clockSQL).Scan(&micros); err != nil {
			return fmt.Errorf("read the server's clock: %w", err)
		}
		took := p.options.Now().Sub(sent)
		if best == 0 || took < best {
			best, skew = took, time.UnixMicro(micros).Sub(sent.Add(took/2))
		}
	}
	detail := fmt.Sprintf("%.3f s between this machine's clock and the server's", skew.Abs().Seconds())
	switch {
	case skew.Abs() > clockProblem:
		p.add("all", "clock", Problem, "set both clocks by NTP: partitions are not pruned while they differ", "%s", detail)
	case skew.Abs() > time.Second:
		p.add("all", "clock", Warning, "set both clocks by NTP", "%s", detail)
	default:
		p.add("all", "clock", OK, "", "%s", detail)
	}
	return nil
}

func (p *patient) searchPath(ctx context.Context) error {
	var found string
	err := p.db.Tx(ctx, func(tx tx) error {
		var ignored string
		if err := tx.QueryRow(ctx, setPathSQL, p.db.UserSearchPath()).Scan(&ignored); err != nil {
			return err
		}
		return tx.QueryRow(ctx, resolveSQL).Scan(&found)
	})
	if err != nil {
		return fmt.Errorf("look up audit_log by the search path: %w", err)
	}
	switch found {
	case "", "public.audit_log":
		p.add("all", "search path", OK, "", "%s", p.db.UserSearchPath())
	default:
		p.add("all", "search path", Warning, "write TABLE with its schema", "%s: audit_log means %s", p.db.UserSearchPath(), found)
	}
	return nil
}

// locks estimates whether one statement over all partitions fits into the shared lock table.
func (p *patient) locks(context.Context) error {
	room, relations := p.info.MaxLocksPerTransaction*p.info.MaxConnections, 0
	for _, t := range p.tables {
		relations = max(relations, t.relations)
	}
	if relations > room/2 {
		p.add("all", "max_locks_per_transaction", Warning, fmt.Sprintf("ALTER SYSTEM SET max_locks_per_transaction = %d; and restart", 4*relations/max(p.info.MaxConnections, 1)+64),
			"%d: room for about %d locks, and a statement over all partitions takes %d", p.info.MaxLocksPerTransaction, room, relations)
		return nil
	}
	p.add("all", "max_locks_per_transaction", OK, "", "%d", p.info.MaxLocksPerTransaction)
	return nil
}

func (p *patient) logKey(ctx context.Context) error {
	have, err := loadRights(ctx, p.db.Pool(), []right{{"auditdb", "log", "SELECT", ""}, {"auditdb", "checkpoint", "SELECT", ""}})
	if err != nil || !p.schema.usage || !have[0].has || !have[1].has {
		return err
	}
	if err := p.db.Pool().QueryRow(ctx, logKeySQL).Scan(&p.report.LogKey, &p.report.Origin); err != nil {
		return fmt.Errorf("look at the integrity log: %w", err)
	}
	return nil
}

const killedShown = 5

func (p *patient) killed(ctx context.Context) error {
	have, err := loadRights(ctx, p.db.Pool(), []right{{"auditdb", "job_run", "SELECT", ""}})
	if err != nil || !p.schema.usage || !have[0].has {
		return err
	}
	runs, err := job.Killed(ctx, p.db, killedShown)
	if err != nil {
		return err
	}
	for _, r := range runs {
		p.add("all", "killed run", Warning, "run the command again: it finishes what was begun", "%s of %s ended without saying so (pid %d on %s, last seen %s)", r.Job,
			r.StartedAt.UTC().Format(time.RFC3339), r.PID, r.Host, r.Heartbeat.UTC().Format(time.RFC3339))
	}
	return nil
}
