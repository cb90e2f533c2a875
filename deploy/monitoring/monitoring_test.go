//go:build monitoring

// Package monitoring tests what is in this folder against the real Prometheus: its rules, its scrape configuration and every panel of the dashboard.
package monitoring

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"auditdb/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// start runs a program until the test ends.
func start(t *testing.T, dir, name string, env []string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	var said bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, append(os.Environ(), env...), &said, &said
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", name, said.String())
		}
	})
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func get(ctx context.Context, address string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", r.Status, text)
	}
	return string(text), err
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); {
		if time.Now().After(deadline) {
			t.Fatalf("it never came to %s", what)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// Every panel's expression gives a series, the rules are loaded and without errors, and promtool finds nothing to complain about.
func TestMonitoring(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "auditdb")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../..").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), "promtool", "check", "rules", "alerts.yml").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	env := []string{"AUDITDB_DATABASE_URL=" + pgtest.DB(t)}
	made := exec.CommandContext(t.Context(), program, "partition", "create", "--ahead", "4")
	made.Env = append(os.Environ(), env...)
	if out, err := made.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	sidecar, prometheus := freeAddress(t), freeAddress(t)
	start(t, dir, program, env, "serve", "--listen", sidecar, "--interval", "1s")
	var metrics string
	eventually(t, "metrics", func() bool {
		var err error
		metrics, err = get(t.Context(), "http://"+sidecar+"/metrics")
		return err == nil
	})
	check := exec.CommandContext(t.Context(), "promtool", "check", "metrics")
	check.Stdin = strings.NewReader(metrics)
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	config, err := os.ReadFile("prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := filepath.Abs("alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("127.0.0.1:9187", sidecar, "scrape_interval: 30s", "scrape_interval: 1s", "[alerts.yml]", "["+rules+"]").Replace(string(config))
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, dir, "prometheus", nil, "--config.file", filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", prometheus)
	series := func(expr string) int {
		text, err := get(t.Context(), "http://"+prometheus+"/api/v1/query?query="+neturl.QueryEscape(expr))
		var answer struct {
			Data struct{ Result []any }
		}
		if err != nil || json.Unmarshal([]byte(text), &answer) != nil {
			return 0
		}
		return len(answer.Data.Result)
	}
	eventually(t, "a scrape", func() bool { return series("rate(auditdb_pool_wait_seconds_total[5m])") > 0 })
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	board, err := os.ReadFile("dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(board, &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			if n := series(target.Expr); n == 0 {
				t.Errorf("%s: %s gives no series", p.Title, target.Expr)
			}
		}
	}
	if len(dashboard.Panels) < 10 {
		t.Errorf("%d panels", len(dashboard.Panels))
	}
	loaded, err := get(t.Context(), "http://"+prometheus+"/api/v1/rules")
	if err != nil || strings.Count(loaded, `"type":"alerting"`) != 4 {
		t.Errorf("%v: %s", err, loaded)
	}
}

// The real Alertmanager takes what fires, and what is well again is over there as well.
func TestMonitoringAlertmanager(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "auditdb")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../..").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	config := filepath.Join(dir, "am.yml")
	if err := os.WriteFile(config, []byte("route: { receiver: none }\nreceivers: [ { name: none } ]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	start(t, dir, "prometheus-alertmanager", nil, "--config.file", config, "--storage.path", filepath.Join(dir, "am"), "--web.listen-address", address, "--cluster.listen-address=")
	site := "http://" + address
	eventually(t, "an Alertmanager", func() bool { _, err := get(t.Context(), site+"/-/ready"); return err == nil })
	url := pgtest.DB(t)
	run := func(want int, args ...string) {
		t.Helper()
		c := exec.CommandContext(t.Context(), program, args...)
		c.Env = append(os.Environ(), "AUDITDB_DATABASE_URL="+url, "AUDITDB_ALERTS_ALERTMANAGER="+site, "AUDITDB_ALERTS_STATE="+filepath.Join(dir, "state.json"))
		out, _ := c.CombinedOutput()
		if code := c.ProcessState.ExitCode(); code != want {
			t.Fatalf("%v: exit %d: %s", args, code, out)
		}
	}
	active := func() string {
		text, err := get(t.Context(), site+"/api/v2/alerts?active=true")
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	run(0, "alert", "test")
	run(2, "health", "--only", "partition_coverage", "--alert")
	if text := active(); !strings.Contains(text, `"check":"partition_coverage"`) || !strings.Contains(text, `"severity":"critical"`) || strings.Contains(text, `"check":"test"`) {
		t.Error(text)
	}
	run(0, "partition", "create", "--ahead", "4")
	run(0, "health", "--only", "partition_coverage", "--alert")
	eventually(t, "an end of the alert", func() bool { return !strings.Contains(active(), "partition_coverage") })
}
