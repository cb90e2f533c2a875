// Package metrics gives figures of this program and of what health has found in the form of Prometheus. docs/metrics.md names them all.
package metrics

import (
	"fmt"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"auditdb/internal/postgres"
	"auditdb/pkg/cache"
	"auditdb/pkg/health"
)

// Snapshot is everything that is shown at one moment. Nil parts are left out.
type Snapshot struct {
	Version string
	Report  *health.Report
	Reached time.Time          // when health last reached the database; zero: never
	Pool    *postgres.PoolStat // of the connections that health uses
	Cache   *cache.Stats
	// Breakers says which dependencies the processes that share a Redis have found broken, by name.
	Breakers map[string]bool
}

// Levels of a status, as monitoring plugins number them; what was skipped is not shown.
func level(s health.Status) (float64, bool) {
	switch s {
	case health.OK:
		return 0, true
	case health.Warning:
		return 1, true
	case health.Critical:
		return 2, true
	case health.Unknown:
		return 3, true
	case health.Skipped:
	}
	return 0, false
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("auditdb_"+name, help, labels, nil)
}

var (
	buildInfo   = desc("build_info", "The version of auditdb; always 1.", "version")
	status      = desc("health_status", "What health has found: 0 ok, 1 warning, 2 critical, 3 unknown.")
	checkStatus = desc("health_check_status", "What a check has found: 0 ok, 1 warning, 2 critical, 3 unknown. Skipped ones are absent.", "check", "group")
	checkValue  = desc("health_check_value", "The figure that a check judges, in its unit.", "check", "group", "unit")
	checkLimit  = desc("health_check_limit", "From which value on a check warns, or is critical.", "check", "level")
	took        = desc("health_duration_seconds", "How long health took.")
	lastSuccess = desc("health_last_success_timestamp_seconds", "When health last reached the database, as Unix time.")

	breakerOpen = desc("breaker_open", "Whether the processes that share a Redis let a dependency alone because it failed again and again: 1, or 0.", "dependency")

	poolConns    = desc("pool_connections", "Connections of the pool by state.", "state")
	poolMax      = desc("pool_max_connections", "Most connections of the pool.")
	poolAcquired = desc("pool_acquires_total", "How often a connection was taken from the pool.")
	poolWaited   = desc("pool_waits_total", "How often one had to wait for a connection.")
	poolGivenUp  = desc("pool_canceled_acquires_total", "How often one gave up waiting for a connection.")
	poolWaitTime = desc("pool_wait_seconds_total", "How long all waited for connections together.")
	poolLongest  = desc("pool_longest_wait_seconds", "How long any waited for a connection at most.")
	poolWaiting  = desc("pool_waiting", "Callers that are waiting for a connection now.")

	cacheRequests = desc("cache_requests_total", "Requests to the cache of answers by level and result.", "level", "result")
	cacheBytes    = desc("cache_size_bytes", "Size of the values that are kept.", "level")
	cacheEntries  = desc("cache_entries", "Values that are kept.", "level")
)

// Describe sends nothing: which figures there are depends on the snapshot.
func (s Snapshot) Describe(chan<- *prometheus.Desc) {}

// Collect sends all figures.
func (s Snapshot) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	gauge(buildInfo, 1, s.Version)
	if r := s.Report; r != nil {
		s.collectReport(r, gauge)
	}
	if p := s.Pool; p != nil {
		gauge(poolConns, float64(p.IdleConns()), "idle")
		gauge(poolConns, float64(p.AcquiredConns()), "in use")
		gauge(poolConns, float64(p.ConstructingConns()), "connecting")
		gauge(poolMax, float64(p.MaxConns()))
		count(poolAcquired, float64(p.AcquireCount()))
		count(poolWaited, float64(p.EmptyAcquireCount()))
		count(poolGivenUp, float64(p.CanceledAcquireCount()))
		count(poolWaitTime, p.EmptyAcquireWaitTime().Seconds())
		gauge(poolLongest, p.LongestWait.Seconds())
		gauge(poolWaiting, float64(p.Waiting))
	}
	for name, open := range s.Breakers {
		gauge(breakerOpen, map[bool]float64{true: 1}[open], name)
	}
	if c := s.Cache; c != nil {
		collectCache(c, gauge, count)
	}
}

func (s Snapshot) collectReport(r *health.Report, gauge func(*prometheus.Desc, float64, ...string)) {
	if v, ok := level(r.Status); ok {
		gauge(status, v)
	}
	gauge(took, r.ElapsedSeconds)
	if !s.Reached.IsZero() {
		gauge(lastSuccess, float64(s.Reached.Unix()))
	}
	for _, c := range r.Checks {
		v, shown := level(c.Status)
		if !shown {
			continue
		}
		gauge(checkStatus, v, c.Name, c.Group)
		if c.Value != nil {
			gauge(checkValue, *c.Value, c.Name, c.Group, c.Unit)
		}
		if c.Warning != nil {
			gauge(checkLimit, *c.Warning, c.Name, "warning")
		}
		if c.Critical != nil {
			gauge(checkLimit, *c.Critical, c.Name, "critical")
		}
	}
}

func collectCache(c *cache.Stats, gauge, count func(*prometheus.Desc, float64, ...string)) {
	count(cacheRequests, float64(c.L1.Hits), "l1", "hit")
	count(cacheRequests, float64(c.L1.Misses), "l1", "miss")
	gauge(cacheBytes, float64(c.L1.SizeBytes), "l1")
	gauge(cacheEntries, float64(c.L1.Entries), "l1")
	count(cacheRequests, float64(c.L2.Hits), "l2", "hit")
	count(cacheRequests, float64(c.L2.Misses), "l2", "miss")
	if c.L2.SizeBytes != nil && c.L2.Keys != nil {
		gauge(cacheBytes, float64(*c.L2.SizeBytes), "l2")
		gauge(cacheEntries, float64(*c.L2.Keys), "l2")
	}
}

// registry holds one snapshot.
func (s Snapshot) registry() (*prometheus.Registry, error) {
	r := prometheus.NewRegistry()
	if err := r.Register(s); err != nil {
		return nil, fmt.Errorf("collect metrics: %w", err)
	}
	return r, nil
}

// Write writes the figures as text.
func (s Snapshot) Write(w io.Writer) error {
	r, err := s.registry()
	if err != nil {
		return err
	}
	families, err := r.Gather()
	if err != nil {
		return fmt.Errorf("collect metrics: %w", err)
	}
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(w, f); err != nil {
			return err
		}
	}
	return nil
}

// WriteFile replaces a file with the figures, for node_exporter's textfile collector: readers see the old file or the new one.
func (s Snapshot) WriteFile(file string) error {
	r, err := s.registry()
	if err != nil {
		return err
	}
	if err := prometheus.WriteToTextfile(file, r); err != nil {
		return fmt.Errorf("write metrics: %w", err)
	}
	return nil
}
