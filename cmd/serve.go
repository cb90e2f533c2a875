package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/internal/redis"
	"auditdb/pkg/cache"
	"auditdb/pkg/health"
	"auditdb/pkg/metrics"
)

// serveOptions are the flags of serve.
type serveOptions struct {
	listen   string
	interval *time.Duration
	health   healthOptions
}

func newServeCmd(app *App) *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve what health finds to Prometheus and Kubernetes: /metrics, /healthz, /readyz",
		Long: "For a process beside the database. /metrics has every check's status, figure and limits, and figures of this process. /healthz answers as long\n" +
			"as the process lives, /readyz with 503 while the database cannot be reached. Health is looked at once every --interval at most, however many\n" +
			"ask. It ends at SIGTERM, after what is under way has been answered.",
		Example: "  auditdb serve\n  auditdb serve --listen 127.0.0.1:9187 --interval 30s --deep",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runServe(cmd.Context(), app, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.listen, "listen", ":9187", "`ADDRESS` to listen on")
	o.interval = durationFlag(f, "interval", 15*time.Second, "look again after this time at the earliest")
	f.StringSliceVar(&o.health.only, "only", nil, "only these checks: `NAME`s or groups")
	f.StringSliceVar(&o.health.skip, "skip", nil, "not these checks: `NAME`s or groups")
	f.BoolVar(&o.health.deep, "deep", false, "also the checks that nobody has to get up for")
	return cmd
}

const (
	serveLimit    = 10 * time.Second // of reading a request
	shutdownLimit = 15 * time.Second
	redisLimit    = 2 * time.Second // of asking Redis for what processes share: a scrape has to be answered without it
)

func runServe(ctx context.Context, app *App, o serveOptions) error {
	if *o.interval <= 0 {
		return usage("auditdb serve", "", "--interval has to be positive")
	}
	s, err := newSidecar(ctx, app, o)
	if err != nil {
		return err
	}
	defer s.close(ctx)
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", o.listen)
	if err != nil {
		return fault.New(fault.Usage, "choose another address with --listen", "serve: %w", err)
	}
	server := &http.Server{Handler: s.routes(context.WithoutCancel(ctx)), ReadHeaderTimeout: serveLimit, BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) }}
	app.Log.LogAttrs(ctx, slog.LevelInfo, "serving", slog.String("address", listener.Addr().String()))
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownLimit)
	defer cancel()
	if err := server.Shutdown(limit); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// sidecar looks at health when it is asked, at most once in an interval.
type sidecar struct {
	app      *App
	interval time.Duration
	options  health.Options

	mu      sync.Mutex // held while it looks: others wait for the same answer
	db      *postgres.DB
	redis   *redis.Client
	cache   *cache.Cache
	report  *health.Report
	broken  map[string]bool // circuit breakers; nil: no Redis is configured, or it does not answer
	cached  *cache.Stats    // nil: no Redis is configured, or it does not answer
	at      time.Time
	reached time.Time // the database
}

func newSidecar(ctx context.Context, app *App, o serveOptions) (*sidecar, error) {
	options, err := healthOf(app, o.health)
	if err != nil {
		return nil, err
	}
	if !app.Config.NamesDatabase() {
		return nil, errNoDatabase()
	}
	s := &sidecar{app: app, interval: *o.interval, options: options}
	s.options.KeepOpen, s.options.Open = true, s.open
	// What is wrong with the options shows before anybody listens.
	none := s.options
	none.Open = func(context.Context) (*postgres.DB, error) { return nil, errors.New("not yet") }
	none.Redis = nil
	_, err = health.Run(ctx, none)
	return s, err
}

// open gives the same pool each time; it is called by look alone.
func (s *sidecar) open(ctx context.Context) (*postgres.DB, error) {
	if s.db != nil {
		return s.db, nil
	}
	db, err := s.app.openForHealth(ctx)
	if err == nil {
		s.db = db
	}
	return db, err
}

func (s *sidecar) close(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cache.Close(ctx)
	if s.redis != nil {
		_ = s.redis.Close() // nothing was kept in it
	}
	if s.db != nil {
		s.db.Close()
	}
}

// share reads what the processes that share the Redis keep there. Its client is opened once it answers, even where it did not at first.
func (s *sidecar) share(ctx context.Context) (err error) {
	s.cached, s.broken = nil, nil
	c := s.app.Config
	if c.Redis.URL == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, redisLimit)
	defer cancel()
	if s.redis == nil {
		if s.redis, err = redis.Open(ctx, c.Redis.URL, s.app.Log); err != nil {
			s.redis = nil
			return nil // the check redis says it
		}
	}
	if s.cached, err = s.countCached(ctx); err != nil {
		return err
	}
	known, err := askedRedis{s.redis, s.app.breakerNames()}.Breakers(ctx)
	if err != nil {
		return nil // the check redis says it
	}
	s.broken = map[string]bool{}
	for name, until := range known {
		s.broken[name] = until.After(s.app.Now())
	}
	return nil
}

// countCached gives what all processes that share the Redis have counted.
func (s *sidecar) countCached(ctx context.Context) (*cache.Stats, error) {
	if !s.app.Config.Cache.Enabled {
		return nil, nil //nolint:nilnil // nothing is shared
	}
	if s.cache == nil {
		var err error
		if s.cache, err = s.app.newCache(ctx, s.redis); err != nil {
			return nil, err
		}
	}
	stats := s.cache.Stats(ctx)
	if stats.L2.Status == cache.StatusNotReachable {
		return nil, nil //nolint:nilnil // the counters of this process alone would say nothing
	}
	return &stats, nil
}

// look gives what health has found within the last interval.
func (s *sidecar) look(ctx context.Context) (metrics.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.report == nil || s.app.Now().Sub(s.at) >= s.interval {
		report, err := health.Run(ctx, s.options)
		if err != nil {
			return metrics.Snapshot{}, err
		}
		if err := s.share(ctx); err != nil {
			return metrics.Snapshot{}, err
		}
		s.report, s.at = &report, s.app.Now()
		if report.Reached() {
			s.reached = s.at
		} else if s.db != nil { // its connections may hang with their server
			s.db.Abort()
			s.db.Close()
			s.db = nil
		}
	}
	snapshot := metrics.Snapshot{Version: buildVersion().Version, Report: s.report, Reached: s.reached, Cache: s.cached, Breakers: s.broken}
	if s.db != nil {
		stat := s.db.Stat()
		snapshot.Pool = &stat
	}
	return snapshot, nil
}

func (s *sidecar) routes(ctx context.Context) http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, code int, text string) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(code)
		_, _ = fmt.Fprintln(w, text) // whoever asked may have gone
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		snapshot, err := s.look(ctx)
		if err != nil {
			answer(w, http.StatusInternalServerError, "health cannot be looked at")
			return
		}
		if !snapshot.Report.Reached() {
			answer(w, http.StatusServiceUnavailable, "the database cannot be reached")
			return
		}
		answer(w, http.StatusOK, "ok")
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		snapshot, err := s.look(ctx)
		if err != nil {
			answer(w, http.StatusInternalServerError, "health cannot be looked at")
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		if err := snapshot.Write(w); err != nil {
			s.app.Log.LogAttrs(ctx, slog.LevelWarn, "metrics were not sent", slog.String("error", err.Error()))
		}
	})
	return mux
}
