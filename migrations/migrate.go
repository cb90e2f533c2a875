package migrations

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pressly/goose/v3"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/plan"
)

const (
	lockName     = "migrate"
	minVersion   = 140000
	prepareTries = 10
)

// Options bound a migration.
type Options struct {
	To   int64         // stop at this version; Up: 0 is the newest; Down: 0 takes everything away
	Wait time.Duration // for another migration of the same database

	// Confirmed is what was agreed to: Down refuses to take back more than that. Nil: anything.
	Confirmed *plan.Plan
}

// Migration is one version of the schema.
type Migration struct {
	Version   int64      `json:"version"`
	Name      *string    `json:"name"`       // null: applied by a newer program
	AppliedAt *time.Time `json:"applied_at"` // null: pending
}

// Report says which versions a database has.
type Report struct {
	Current    int64       `json:"current"` // newest applied version; 0: none
	Target     int64       `json:"target"`  // newest version that this program has
	Pending    int         `json:"pending"`
	Ahead      bool        `json:"ahead"` // the database has versions that this program does not know
	Migrations []Migration `json:"migrations"`
}

// Result is what Up or Down did.
type Result struct {
	From    int64
	To      int64
	Applied []Migration // in the order they ran
	Plan    plan.Plan
}

// Status compares the database's versions with this program's. It changes nothing, and works without the schema.
func Status(ctx context.Context, db *postgres.DB) (Report, error) {
	list, err := sources()
	if err != nil {
		return Report{}, err
	}
	have, err := applied(ctx, db.Pool())
	if err != nil {
		return Report{}, err
	}
	report := Report{Migrations: []Migration{}}
	for _, s := range list {
		m := Migration{Version: s.version, Name: &s.name}
		if at, ok := have[s.version]; ok {
			m.AppliedAt = &at
			report.Current = s.version
			delete(have, s.version)
		} else {
			report.Pending++
		}
		report.Target = s.version
		report.Migrations = append(report.Migrations, m)
	}
	for _, version := range slices.Sorted(maps.Keys(have)) {
		at := have[version]
		report.Migrations = append(report.Migrations, Migration{Version: version, AppliedAt: &at})
		report.Current = max(report.Current, version)
		report.Ahead = true
	}
	return report, nil
}

// PlanUp says what Up would do now, and refuses what Up would refuse.
func PlanUp(ctx context.Context, db *postgres.DB, to int64) (plan.Plan, error) {
	p := plan.Plan{Action: "migrate.up"}
	list, err := sources()
	if err != nil {
		return p, err
	}
	if err := known(list, to); err != nil {
		return p, err
	}
	f, err := loadFacts(ctx, db.Pool())
	if err != nil {
		return p, err
	}
	have := map[int64]time.Time{}
	if f.versionTable {
		if have, err = applied(ctx, db.Pool()); err != nil {
			return p, err
		}
	}
	if err := refuseUp(f, have); err != nil {
		return p, err
	}
	for _, s := range list {
		if _, ok := have[s.version]; ok {
			p.Skipped = append(p.Skipped, plan.Skip{Name: s.name, Reason: "applied"})
			continue
		}
		if to != 0 && s.version > to {
			p.Skipped = append(p.Skipped, plan.Skip{Name: s.name, Reason: "after --to"})
			continue
		}
		p.Steps = append(p.Steps, plan.Step{Name: s.name, SQL: s.up, Reason: "pending"})
	}
	if len(p.Steps) > 0 || len(have) == 0 {
		p.Steps = append(prepareSteps(f), p.Steps...)
	}
	return p, nil
}

func known(list []source, to int64) error {
	if to == 0 || slices.ContainsFunc(list, func(s source) bool { return s.version == to }) {
		return nil
	}
	return fault.New(fault.Usage, "auditdb migrate status lists the versions", "migrate to version %d: there is no such version", to)
}

func refuseUp(f facts, have map[int64]time.Time) error {
	switch {
	case f.versionNum < minVersion:
		return fault.New(fault.Config, "upgrade the server", "migrate: PostgreSQL 14 or newer is needed, the server has %d", f.versionNum/10000)
	case f.inRecovery:
		return fault.New(fault.Unavailable, "name the primary", "migrate: the server is a hot standby, which cannot be changed")
	case len(have) == 0 && f.own && !slices.ContainsFunc(f.taken, func(name string) bool { return !strings.HasPrefix(name, "public.") }):
		return nil // partition adopt has made it
	case len(have) == 0 && len(f.taken) > 0:
		return fault.New(fault.Refused, "auditdb partition adopt public.audit_log takes the rows of an older table over; or rename what is in the way first, indexes included (ALTER TABLE … RENAME TO …, ALTER INDEX … RENAME TO …); no row is touched by that",
			"migrate: %s exists already and was not made by auditdb", strings.Join(f.taken, ", "))
	}
	return nil
}

// Prepare makes the roles and schemas that the first migration needs, and nothing else.
func Prepare(ctx context.Context, db *postgres.DB, wait time.Duration) error {
	_, err := locked(ctx, db, wait, func(ctx context.Context) (Result, error) { return Result{}, prepare(ctx, db) })
	return err
}

// Up applies the pending versions, oldest first, under a session lock: of two runs at once the second one waits, then finds nothing to do.
func Up(ctx context.Context, db *postgres.DB, o Options) (Result, error) {
	return locked(ctx, db, o.Wait, func(ctx context.Context) (Result, error) {
		p, err := PlanUp(ctx, db, o.To)
		if err != nil {
			return Result{}, err
		}
		result := Result{Plan: p}
		if len(p.Steps) == 0 {
			return result, nil
		}
		if err := prepare(ctx, db); err != nil {
			return result, err
		}
		to := o.To
		if to == 0 {
			to = goose.MaxVersion
		}
		return result, run(ctx, db, &result, func(ctx context.Context, p *goose.Provider) ([]*goose.MigrationResult, error) {
			return p.UpTo(ctx, to)
		})
	})
}

// locked runs fn under the migration lock and fills in the versions before and after.
func locked(ctx context.Context, db *postgres.DB, wait time.Duration, fn func(context.Context) (Result, error)) (Result, error) {
	lock, err := db.Lock(ctx, lockName, wait)
	if err != nil {
		return Result{}, err
	}
	defer lock.Release()
	guarded, cancel := lock.Guard(ctx)
	defer cancel()
	before, err := Status(guarded, db)
	if err != nil {
		return Result{}, err
	}
	result, err := fn(guarded)
	result.From, result.To = before.Current, before.Current
	for _, m := range result.Applied {
		if result.To = m.Version; m.Version <= before.Current { // taken back
			result.To = Previous(Report{Current: m.Version, Migrations: before.Migrations})
		}
	}
	if cause := context.Cause(guarded); err != nil && errors.Is(cause, postgres.ErrLockLost) {
		err = fault.New(fault.Unavailable, "run it again", "migrate: %w", cause)
	}
	return result, err
}

// prepare makes roles and schemas. What another database's migration does at the same moment counts as done.
func prepare(ctx context.Context, db *postgres.DB) error {
	var last error
	for range prepareTries {
		f, err := loadFacts(ctx, db.Pool())
		if err != nil {
			return err
		}
		steps := prepareSteps(f)
		if len(steps) == 0 {
			return nil
		}
		last = nil
		for _, step := range steps {
			db.Log().LogAttrs(ctx, slog.LevelDebug, "prepare", slog.String("sql", step.SQL))
			_, err := db.Pool().Exec(ctx, step.SQL)
			switch {
			case err == nil:
			case sameTime(err):
				last = err
			case postgres.Class(err) == fault.Permission:
				return denied(steps, err)
			default:
				return fmt.Errorf("%s: %w", step.SQL, err)
			}
		}
	}
	f, err := loadFacts(ctx, db.Pool())
	if err != nil {
		return err
	}
	if steps := prepareSteps(f); len(steps) > 0 {
		return denied(steps, last) // a GRANT without the grant option only warns
	}
	return nil
}

// denied tells what somebody with more rights has to run.
func denied(steps []plan.Step, cause error) error {
	sql := make([]string, len(steps))
	for i, s := range steps {
		sql[i] = s.SQL + ";"
	}
	if cause == nil {
		cause = errors.New("not allowed")
	}
	return fault.New(fault.Permission, "let a superuser run in this database: "+strings.Join(sql, " "), "prepare roles and schemas: %s: %w", steps[0].SQL, cause)
}

// run hands over to goose, whose connections act as auditdb_admin.
func run(ctx context.Context, db *postgres.DB, result *Result, fn func(context.Context, *goose.Provider) ([]*goose.MigrationResult, error)) (err error) {
	handle := db.SQL(adminRole)
	defer func() {
		if closing := handle.Close(); err == nil && closing != nil {
			err = fmt.Errorf("close the migration's connections: %w", closing)
		}
	}()
	provider, err := goose.NewProvider(goose.DialectPostgres, handle, files, goose.WithTableName(versionTable), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	done, err := fn(ctx, provider)
	var partial *goose.PartialError
	if errors.As(err, &partial) {
		done = partial.Applied
	}
	for _, r := range done {
		name := strings.TrimSuffix(r.Source.Path, ".sql")
		result.Applied = append(result.Applied, Migration{Version: r.Source.Version, Name: &name})
		db.Log().LogAttrs(ctx, slog.LevelDebug, "migrated", slog.String("migration", name), slog.String("direction", r.Direction), slog.Duration("took", r.Duration))
	}
	return gooseFault(err, partial)
}

// gooseFault words goose's error without the whole statement in it.
func gooseFault(err error, partial *goose.PartialError) error {
	if err == nil {
		return nil
	}
	what := "migrate"
	if partial != nil && partial.Failed != nil {
		what = "migrate " + partial.Failed.Direction + " " + strings.TrimSuffix(partial.Failed.Source.Path, ".sql")
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return fmt.Errorf("%s: %w", what, err)
	}
	if pg.Code == postgres.RestrictViolation {
		return rowsFault(what, pg.Message)
	}
	return fmt.Errorf("%s: %w", what, pg)
}

func rowsFault(what, detail string) error {
	return fault.New(fault.Refused, "a downgrade must not lose rows: export and delete them first, or keep this version", "%s: %s", what, detail)
}

// PlanDown says what Down would do now, and refuses while a table that it would drop has rows.
func PlanDown(ctx context.Context, db *postgres.DB, to int64) (plan.Plan, error) {
	p := plan.Plan{Action: "migrate.down"}
	list, err := sources()
	if err != nil {
		return p, err
	}
	if err := known(list, to); err != nil {
		return p, err
	}
	have, err := applied(ctx, db.Pool())
	if err != nil {
		return p, err
	}
	for _, s := range slices.Backward(list) {
		if _, ok := have[s.version]; !ok {
			continue
		}
		if s.version <= to {
			p.Skipped = append(p.Skipped, plan.Skip{Name: s.name, Reason: "at or before --to"})
			continue
		}
		full, err := tablesWithRows(ctx, db.Pool(), s.guarded)
		if err != nil {
			return p, err
		}
		if len(full) > 0 {
			return p, rowsFault("migrate down "+s.name, strings.Join(full, ", ")+" has rows")
		}
		p.Steps = append(p.Steps, plan.Step{Name: s.name, SQL: s.down, Reason: "newer than the wanted version", Destructive: true})
	}
	return p, nil
}

// Down takes versions away, newest first, down to and without Options.To. Each version locks its tables and looks for rows again.
func Down(ctx context.Context, db *postgres.DB, o Options) (Result, error) {
	return locked(ctx, db, o.Wait, func(ctx context.Context) (Result, error) {
		p, err := PlanDown(ctx, db, o.To)
		result := Result{Plan: p}
		if err != nil || len(p.Steps) == 0 {
			return result, err
		}
		if o.Confirmed != nil {
			if differences := plan.Difference(*o.Confirmed, p); len(differences) > 0 {
				return result, fault.New(fault.Refused, "look at the new plan with --dry-run", "migrate down: the schema has changed since the plan was confirmed: %s", strings.Join(differences, "; "))
			}
		}
		return result, run(ctx, db, &result, func(ctx context.Context, p *goose.Provider) ([]*goose.MigrationResult, error) {
			return p.DownTo(ctx, o.To)
		})
	})
}

// Previous gives the version before the newest applied one, which is where Down goes by default.
func Previous(r Report) int64 {
	previous := int64(0)
	for _, m := range r.Migrations {
		if m.AppliedAt != nil && m.Version < r.Current {
			previous = m.Version
		}
	}
	return previous
}
