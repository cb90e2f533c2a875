package cmd

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/breaker"
	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
	"auditdb/internal/redis"
	"auditdb/pkg/alert"
	"auditdb/pkg/archive"
	"auditdb/pkg/integrity"
)

// hangsUp is a web server that ends every connection without an answer, and counts them.
func hangsUp(t *testing.T) (url string, calls *atomic.Int64) {
	t.Helper()
	calls = &atomic.Int64{}
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = conn.Close()
	}))
	t.Cleanup(site.Close)
	return site.URL, calls
}

// An anchor that fails again and again is let alone, by other processes too, and health knows of it; a command that is for anchors asks it all the same.
func TestAnchorBreaker(t *testing.T) {
	t.Parallel()
	url, calls := hangsUp(t)
	address := pgtest.Redis(t)
	push := func(times int, always bool) (errors []string) {
		code, _, stderr := run(t, func(app *App, cmd *cobra.Command) error {
			app.Config.Integrity.Anchors = []string{url}
			db, err := app.Postgres(cmd.Context(), "ingest")
			if err == nil {
				_, err = app.Redis(cmd.Context())
			}
			if err != nil {
				return err
			}
			guard := app.guardAnchor
			if always {
				guard = nil
			}
			for range times {
				errors = append(errors, app.push(cmd.Context(), db, integrity.Checkpoint{Size: 1}, guard)[0].Error)
			}
			return nil
		}, "--database-url", pgtest.DB(t), "--redis-url", address)
		if code != 0 {
			t.Fatalf("exit %d: %s", code, stderr)
		}
		return errors
	}
	for i, text := range append(push(3, false), push(4, false)...) {
		if open := strings.Contains(text, "has failed too often: not asked again before"); open != (i >= 5) {
			t.Errorf("%d: %s", i+1, text)
		}
	}
	asked := calls.Load()
	if text := push(1, false)[0]; !strings.Contains(text, "not asked again before") || calls.Load() != asked {
		t.Errorf("another process: %s", text)
	}
	if push(1, true); calls.Load() == asked {
		t.Error("a command that is for anchors did not ask it")
	}
	client, err := redis.Open(t.Context(), address, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	app := newApp(nil, nil, nil, time.Now)
	app.Config.Integrity.Anchors = []string{url}
	known, err := askedRedis{client, app.breakerNames()}.Breakers(t.Context())
	if err != nil || len(known) != 1 || !known["anchor:"+url].After(time.Now()) {
		t.Errorf("%v, %v", known, err)
	}
}

// A receiver of alerts that fails again and again is let alone; one that refuses what it gets works.
func TestAlertBreaker(t *testing.T) {
	t.Parallel()
	url, calls := hangsUp(t)
	app := newApp(nil, nil, nil, time.Now)
	app.Config.Breaker.Failures, app.Config.Breaker.Reset = 1, time.Minute
	app.Config.Alerts.WebhookURL, app.Config.Alerts.State = url+"/T0KEN", t.TempDir()+"/alerts.json"
	a, err := newAlerter(app, 0)
	if err != nil {
		t.Fatal(err)
	}
	notice := alert.Notice{New: []alert.Alert{{Check: "x", Severity: alert.Critical}}, Firing: []alert.Alert{{Check: "x", Severity: alert.Critical}}}
	var open *breaker.OpenError
	if err := alert.SendAll(t.Context(), a.targets, notice); err == nil || errors.As(err, &open) {
		t.Fatal(err)
	}
	asked := calls.Load()
	err = alert.SendAll(t.Context(), a.targets, notice)
	if !errors.As(err, &open) || fault.ClassOf(err) != fault.Unavailable || calls.Load() != asked || strings.Contains(err.Error(), "T0KEN") {
		t.Errorf("%v", err)
	}
}

// What only refuses does not open a breaker; an archive store or receiver of alerts that others found broken is asked all the same, and its success ends what
// all have counted.
func TestEachRunAsks(t *testing.T) { // not parallel: the object store's credentials are in the environment
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	var status, requests atomic.Int64
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		w.WriteHeader(int(status.Load()))
	}))
	t.Cleanup(site.Close)
	redisURL := pgtest.Redis(t)
	client, err := redis.Open(t.Context(), redisURL, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	bucket := "s3://bucket/archives?region=x&endpoint=" + url.QueryEscape(site.URL)
	firing := []alert.Alert{{Check: "x", Severity: alert.Critical}}
	for name, call := range map[string]func(*App) error{
		"alert:webhook " + strings.TrimPrefix(site.URL, "http://"): func(app *App) error {
			a, err := newAlerter(app, 0)
			if err != nil {
				return err
			}
			return alert.SendAll(t.Context(), a.targets, alert.Notice{New: firing, Firing: firing})
		},
		"archive:s3://bucket/archives": func(app *App) error {
			a, err := app.archiver(t.Context(), nil, nil, integrity.VerifyOptions{})
			if err != nil {
				return err
			}
			_, _, err = a.Store.Manifest(t.Context(), archive.Entry{URL: "s3://bucket/archives/schema=x/y", Root: strings.Repeat("0", 64)}, nil)
			return errors.Join(err, a.Store.Close())
		},
	} {
		asked := func(code int) (open bool) {
			status.Store(int64(code))
			before := requests.Load()
			status, _, said := run(t, func(app *App, cmd *cobra.Command) error {
				app.Config.Breaker.Failures, app.Config.Breaker.Reset = 1, time.Minute
				app.Config.Alerts.WebhookURL, app.Config.Alerts.State = site.URL, t.TempDir()+"/alerts.json"
				app.Config.Archive.URL = bucket
				if _, err := app.Redis(cmd.Context()); err != nil {
					return err
				}
				_ = call(app)
				return nil
			}, "--redis-url", redisURL)
			if status != 0 || requests.Load() == before {
				t.Errorf("%s: it was not asked: %s", name, said)
			}
			until, _, err := redis.Breakers{Client: client}.Look(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			return !until.IsZero()
		}
		for _, step := range []struct {
			code int
			open bool
		}{{http.StatusForbidden, false}, {http.StatusServiceUnavailable, true}, {http.StatusServiceUnavailable, true}, {http.StatusNoContent, false}} {
			if open := asked(step.code); open != step.open {
				t.Errorf("%s after %d: open %v", name, step.code, open)
			}
		}
	}
}
