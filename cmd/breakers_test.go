package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
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
	"auditdb/pkg/integrity"
	"auditdb/pkg/integrity/anchors"
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

// What counts as a failure of a dependency.
func TestIsFailure(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		errors.New("connection reset by peer"):               true,
		&net.OpError{Op: "dial", Err: errors.New("refused")}: true,
		context.DeadlineExceeded:                             true,
		fault.New(fault.Unavailable, "", "no answer"):        true,
		fault.New(fault.Refused, "", "it keeps another log"): false,
		fault.New(fault.Config, "", "no such bucket"):        false,
		fault.New(fault.Permission, "", "denied"):            false,
		fmt.Errorf("object: %w", fs.ErrNotExist):             false,
		fmt.Errorf("object: %w", fs.ErrExist):                false,
		fmt.Errorf("folder: %w", fs.ErrPermission):           false,
		fmt.Errorf("anchor: %w", anchors.ErrWriteOnly):       false,
	} {
		if got := isFailure(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer site.Close()
	w, err := alert.NewWebhook(site.URL, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Send(t.Context(), alert.Notice{New: []alert.Alert{{Check: "x"}}}); err == nil || isFailure(err) {
		t.Errorf("%v", err)
	}
}
