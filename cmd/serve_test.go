package cmd

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/embedded"
	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
	"auditdb/internal/redis"
)

// The cache's counters are those of Redis: absent while it does not answer, there once it does.
func TestServeCache(t *testing.T) {
	t.Parallel()
	server := pgtest.RedisServer(t)
	var app *App
	if code, _, said := run(t, func(a *App, _ *cobra.Command) error { app = a; return nil }, "--database-url", pgtest.DB(t), "--redis-url", server.URL()); code != 0 {
		t.Fatal(said)
	}
	if err := server.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	interval := time.Nanosecond
	s, err := newSidecar(t.Context(), app, serveOptions{interval: &interval, health: healthOptions{only: []string{"connection"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.close(t.Context()) })
	const figure = `auditdb_cache_requests_total{level="l2",result="hit"} 0`
	shown := func() bool {
		snapshot, err := s.look(t.Context())
		var text strings.Builder
		if err == nil {
			err = snapshot.Write(&text)
		}
		if err != nil || !strings.Contains(text.String(), "auditdb_health_status 0") {
			t.Fatalf("%v: %s", err, text.String())
		}
		return strings.Contains(text.String(), figure)
	}
	for _, up := range []bool{false, true, false, true} {
		if up {
			err = server.Start(t.Context())
		} else if s.redis != nil {
			err = server.Kill(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		if shown() != up {
			t.Errorf("Redis answers: %v; the opposite is shown", up)
		}
	}
}

// A replica that the processes which share a Redis let alone is a metric, and a finding of health.
func TestServeBreakers(t *testing.T) {
	const replica = "postgres://replica.example/audit"
	url := pgtest.Redis(t)
	client, err := redis.Open(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	t.Setenv("AUDITDB_DATABASE_REPLICAS", replica)
	var app *App
	if code, _, said := run(t, func(a *App, _ *cobra.Command) error { app = a; return nil }, "--database-url", pgtest.DB(t), "--redis-url", url); code != 0 {
		t.Fatal(said)
	}
	interval := time.Nanosecond
	s, err := newSidecar(t.Context(), app, serveOptions{interval: &interval, health: healthOptions{only: []string{"breaker"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.close(t.Context()) })
	shared := redis.Breakers{Client: client}
	name := postgres.BreakerName(replica)
	for _, want := range []struct {
		change func() error
		open   string
		level  string
	}{
		{func() error { return nil }, "0", "0"},
		{func() error { return shared.SetOpen(t.Context(), name, time.Now().Add(time.Minute)) }, "1", "2"},
		{func() error { return shared.SetClosed(t.Context(), name) }, "0", "0"},
	} {
		if err := want.change(); err != nil {
			t.Fatal(err)
		}
		snapshot, err := s.look(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		if err := snapshot.Write(&text); err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{
			`auditdb_breaker_open{dependency="` + name + `"} ` + want.open,
			`auditdb_health_check_status{check="breaker",group="replication"} ` + want.level,
		} {
			if !strings.Contains(text.String(), line) {
				t.Errorf("%s is not in %s", line, text.String())
			}
		}
	}
}

// Many ask at once, and health is looked at once in an interval; a server that goes away makes the sidecar not ready, and ready again.
func TestServe(t *testing.T) {
	t.Parallel()
	pg := pgtest.Server(t, func(*embedded.Options) {})
	now := time.Now()
	var clock sync.Mutex
	var app *App
	if code, _, said := run(t, func(a *App, _ *cobra.Command) error { app = a; return nil }, "--database-url", pg.URL("postgres")); code != 0 {
		t.Fatal(said)
	}
	app.Now = func() time.Time {
		clock.Lock()
		defer clock.Unlock()
		return now
	}
	interval := time.Minute
	s, err := newSidecar(t.Context(), app, serveOptions{interval: &interval, health: healthOptions{only: []string{"connection"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.close(t.Context()) })
	site := httptest.NewServer(s.routes(t.Context()))
	t.Cleanup(site.Close)
	get := func(path string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, site.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		defer func() { _ = r.Body.Close() }()
		text, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		return r.StatusCode, string(text)
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if code, text := get("/metrics"); code != http.StatusOK || !strings.Contains(text, `auditdb_health_check_status{check="connection",group="connectivity"} 0`) {
				t.Errorf("%d: %s", code, text)
			}
		})
	}
	wg.Wait()
	if n := s.db.Pool().Stat().AcquireCount(); n > 6 {
		t.Errorf("%d connections were taken for 50 scrapes", n)
	}
	if err := pg.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code, _ := get("/readyz"); code != http.StatusOK {
		t.Errorf("within the interval: %d", code)
	}
	pass := func() {
		clock.Lock()
		defer clock.Unlock()
		now = now.Add(2 * time.Minute)
	}
	pass()
	if code, text := get("/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("%d: %s", code, text)
	}
	if code, _ := get("/healthz"); code != http.StatusOK {
		t.Errorf("healthz: %d", code)
	}
	if code, text := get("/metrics"); code != http.StatusOK || !strings.Contains(text, `auditdb_health_status 2`) {
		t.Errorf("%d: %s", code, text)
	}
	if err := pg.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	pass()
	if code, text := get("/readyz"); code != http.StatusOK {
		t.Errorf("afterwards: %d: %s", code, text)
	}
}
