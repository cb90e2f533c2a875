package cmd

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/internal/redis"
	"auditdb/migrations"
	"auditdb/pkg/health"
	"auditdb/pkg/integrity"
	"auditdb/pkg/integrity/anchors"
	"auditdb/pkg/metrics"
)

// healthDoc is auditdb.health.v1.
type healthDoc struct {
	health.Report

	whole bool // the findings of checks that are ok are shown too, however many there are
}

// healthListDoc is auditdb.health.list.v1.
type healthListDoc struct {
	Checks []healthListEntry `json:"checks"`
}

type healthListEntry struct {
	Name     string   `json:"name"`
	Group    string   `json:"group"`
	Unit     string   `json:"unit"`
	Warning  *float64 `json:"warning"`
	Critical *float64 `json:"critical"`
	Default  bool     `json:"default"` // without --deep
}

// healthOptions are the flags of health.
type healthOptions struct {
	only, skip   []string
	failOn       string
	deep, record bool
	alert        bool
	prometheus   string
	watch        *time.Duration
}

// healthGC is by how many percent the heap grows before it is collected.
const healthGC = 30

// healthName is the command whose exit codes are those of monitoring plugins.
const healthName = "health"

// What --fail-on takes.
const (
	failOnWarning  = "warning"
	failOnCritical = "critical"
)

func healthDocuments() map[string]any {
	return map[string]any{"health": healthDoc{}, "health.list": healthListDoc{}}
}

func newHealthCmd(app *App) *cobra.Command {
	var o healthOptions
	cmd := &cobra.Command{
		Use:   healthName,
		Short: "Look whether server, partitions, evidence and Redis are well; exit 0, 1, 2 or 3 as monitors expect",
		Long: "Exit codes are those of monitoring plugins: 0 ok, 1 warning, 2 critical (also: the server is down, hangs, or --timeout is over), 3 unknown\n" +
			"or wrong usage. It only reads, on at most three connections, each check within 5 s, on primaries and standbys. A role with pg_monitor\n" +
			"sees the server, one with auditdb_reader also what auditdb keeps. Limits are set in the configuration: health.checks.NAME.warning.\n" +
			"Without --deep the checks that would wake someone. --record keeps samples in auditdb.health_sample, which forecasts and rates need.",
		Example: "  auditdb health\n  auditdb health --deep --record\n  auditdb health --only partitions,integrity --fail-on critical\n" +
			"  auditdb health --watch=5s\n  auditdb health list",
		RunE: func(cmd *cobra.Command, _ []string) error { return runHealth(cmd.Context(), app, o) },
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.only, "only", nil, "only these checks: `NAME`s or groups")
	f.StringSliceVar(&o.skip, "skip", nil, "not these checks: `NAME`s or groups")
	f.StringVar(&o.failOn, "fail-on", failOnWarning, "from which status on the exit code is not 0: warning or critical")
	f.BoolVar(&o.deep, "deep", false, "also the checks that nobody has to get up for")
	f.BoolVar(&o.record, "record", false, "keep samples for forecasts and rates; needs the right to write auditdb.health_sample")
	f.BoolVar(&o.alert, "alert", false, "tell Alertmanager and the webhook of the configuration what is new")
	f.StringVar(&o.prometheus, "prometheus", "", "also write the figures to this `FILE` for node_exporter's textfile collector")
	o.watch = watchFlag(f)
	_ = cmd.RegisterFlagCompletionFunc("fail-on", cobra.FixedCompletions([]string{failOnWarning, failOnCritical}, cobra.ShellCompDirectiveNoFileComp)) // the flag exists
	cmd.AddCommand(listOutput(&cobra.Command{
		Use:     "list",
		Short:   "List the checks with their limits",
		Long:    "The names, groups, units and limits of all checks, and which of them run without --deep. It looks at nothing.",
		Example: "  auditdb health list\n  auditdb health list -o csv",
		RunE:    func(*cobra.Command, []string) error { return listHealth(app) },
	}))
	return listOutput(cmd)
}

func runHealth(ctx context.Context, app *App, o healthOptions) error {
	if o.failOn != failOnWarning && o.failOn != failOnCritical {
		return usage("auditdb health", "choose warning or critical", "--fail-on: %q is no status", o.failOn)
	}
	options, err := healthOf(app, o)
	if err != nil {
		return err
	}
	var alerts *alerter
	if o.alert {
		if alerts, err = newAlerter(app, *o.watch); err != nil {
			return err
		}
	}
	defer debug.SetGCPercent(debug.SetGCPercent(healthGC)) // also with the catalog of thousands of partitions it stays small
	var status health.Status
	var untold error
	err = app.watch(ctx, "health", *o.watch, func(ctx context.Context) error {
		report, err := health.Run(ctx, options)
		if err != nil {
			return err
		}
		status = report.Status
		if o.prometheus != "" {
			s := metrics.Snapshot{Version: buildVersion().Version, Report: &report}
			if report.Reached() {
				s.Reached = app.Now()
			}
			if err := s.WriteFile(o.prometheus); err != nil {
				return fmt.Errorf("--prometheus %s: %w", o.prometheus, err)
			}
		}
		if alerts != nil {
			if untold = alerts.tell(ctx, report); untold != nil {
				app.Warn("%s", oneLine(untold.Error()))
			}
		}
		doc := healthDoc{Report: report, whole: o.deep || len(o.only) > 0}
		return app.EmitList("health", doc, report.Checks, doc.print)
	})
	if err != nil {
		return err
	}
	if err := verdictOf(status, o.failOn); err != nil {
		return err
	}
	return untold
}

// verdictOf is nil where all is well, else the exit code of monitoring plugins.
func verdictOf(s health.Status, failOn string) error {
	switch {
	case s == health.Critical:
		return pluginCode(2)
	case s == health.Warning && failOn == failOnWarning:
		return pluginCode(1)
	case s == health.Unknown && failOn == failOnWarning:
		return pluginCode(3)
	}
	return nil
}

// healthOf puts together what health looks at.
func healthOf(app *App, o healthOptions) (health.Options, error) {
	limits, err := healthLimits(app)
	if err != nil {
		return health.Options{}, err
	}
	c := app.Config
	options := health.Options{
		Open: app.openForHealth, Migrations: pendingMigrations, Replicas: len(c.Database.Replicas), Now: app.Now, Limits: limits,
		Only: o.only, Skip: o.skip, Deep: o.deep, Record: o.record, Log: app.Log,
	}
	if c.Redis.URL != "" {
		options.Redis = func(ctx context.Context) (health.Redis, error) {
			client, err := redis.Open(ctx, c.Redis.URL, app.Log)
			if err != nil {
				return nil, err
			}
			return askedRedis{client, app.breakerNames()}, nil
		}
	}
	if len(c.Integrity.Anchors) > 0 {
		options.Anchors = app.askAnchors
	}
	if c.Timeout > 0 {
		options.CheckTimeout = min(5*time.Second, c.Timeout/2)
	}
	return options, nil
}

// healthLimits reads the limits of the configuration.
func healthLimits(app *App) (map[string]health.Limits, error) {
	limits := map[string]health.Limits{}
	for _, known := range health.Known() {
		set, ok := app.Config.Health.Checks[known.Name]
		if !ok {
			continue
		}
		l := health.Limits{Enabled: set.Enabled}
		for _, one := range []struct {
			key, text string
			into      **float64
		}{{"warning", set.Warning, &l.Warning}, {"critical", set.Critical, &l.Critical}} {
			if one.text == "" {
				continue
			}
			v, err := health.ParseLimit(one.text, known.Unit)
			if err != nil {
				return nil, fault.New(fault.Config, "write a number, or one with a unit: 90%, 30s, 2h, 500MB", "health.checks.%s.%s: %w", known.Name, one.key, err)
			}
			*one.into = &v
		}
		limits[known.Name] = l
	}
	for name := range app.Config.Health.Checks {
		if _, ok := limits[name]; !ok {
			limits[name] = health.Limits{} // Run refuses it
		}
	}
	return limits, nil
}

// openForHealth opens the database for reading, whichever server of it answers.
func (a *App) openForHealth(ctx context.Context) (*postgres.DB, error) {
	if !a.Config.NamesDatabase() {
		return nil, errNoDatabase()
	}
	return postgres.Open(ctx, postgres.Options{
		URL: a.Config.Database.URL, Application: "health", MaxConns: health.MaxConns, StatementTimeout: 5 * time.Second, LockTimeout: time.Second,
		ConnectTimeout: 5 * time.Second, WaitForDB: a.Config.WaitForDB, ReadOnly: true, Log: a.Log,
	})
}

func pendingMigrations(ctx context.Context, db *postgres.DB) (int, bool, error) {
	r, err := migrations.Status(ctx, db)
	return r.Pending, r.Ahead, err
}

// askAnchors compares the newest checkpoint of each anchor with the log.
func (a *App) askAnchors(ctx context.Context, db *postgres.DB) ([]health.Anchored, error) {
	newest, err := integrity.Newest(ctx, db.Pool(), nil)
	if err != nil && !errors.Is(err, integrity.ErrEmptyLog) { // an empty one does not extend what an anchor holds
		return nil, err
	}
	var all []health.Anchored
	for _, address := range a.Config.Integrity.Anchors {
		one := health.Anchored{Anchor: postgres.RedactURL(address)}
		notes, err := newestOf(ctx, address)
		switch {
		case errors.Is(err, anchors.ErrWriteOnly):
			continue
		case err != nil:
			one.Err = err
		case len(notes) == 0:
			lag := newest.Size
			one.Lag = &lag
		default:
			one.Lag, one.Mismatch, one.Err = compareAnchor(ctx, db, notes[0], newest.Size)
		}
		all = append(all, one)
	}
	return all, nil
}

// compareAnchor says how far a checkpoint lags behind a log of a size, and whether that log extends it.
func compareAnchor(ctx context.Context, db *postgres.DB, note string, size int64) (lag *int64, mismatch bool, err error) {
	cp, root, err := integrity.ParseCheckpoint(note)
	if err != nil {
		return nil, false, err
	}
	if cp.Size > size {
		return nil, true, nil
	}
	have, err := integrity.RootAt(ctx, db, cp.Size)
	if err != nil {
		return nil, false, err
	}
	behind := size - cp.Size
	return &behind, have != root.String(), nil
}

// askedRedis is what health asks Redis.
type askedRedis struct {
	client   *redis.Client
	breakers []string
}

// Addr names the server.
func (r askedRedis) Addr() string { return r.client.Addr() }

// Ping waits for an answer.
func (r askedRedis) Ping(ctx context.Context) error { return r.client.Ping(ctx).Err() }

// Clock reads the server's clock.
func (r askedRedis) Clock(ctx context.Context) (time.Time, error) { return r.client.Time(ctx).Result() }

// Info reads INFO.
func (r askedRedis) Info(ctx context.Context) (string, error) { return r.client.Info(ctx).Result() }

// Breakers asks which dependencies others found broken.
func (r askedRedis) Breakers(ctx context.Context) (map[string]time.Time, error) {
	known := map[string]time.Time{}
	for _, name := range r.breakers {
		until, _, err := redis.Breakers{Client: r.client}.Look(ctx, name)
		if err != nil {
			return nil, err
		}
		known[name] = until
	}
	return known, nil
}

// Close ends the connections.
func (r askedRedis) Close() error { return r.client.Close() }
