package cmd

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"auditdb/internal/pgtest"
	"auditdb/pkg/alert"
)

// health --alert tells a webhook once what is wrong, and once that it is well again; what did not arrive is told by the next run.
func TestHealthAlert(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got []alert.Document
	broken := true
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		if broken {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		var d alert.Document
		if err := json.Unmarshal(body, &d); err != nil {
			t.Error(err)
		}
		got = append(got, d)
	}))
	t.Cleanup(site.Close)
	p := processes(t, pgtest.DB(t))
	p.env = append(p.env, "AUDITDB_ALERTS_WEBHOOK_URL="+site.URL+"/T0KEN", "AUDITDB_ALERTS_STATE="+filepath.Join(t.TempDir(), "alerts.json"))
	check := func(want int, contains string) {
		t.Helper()
		if code, text := p.run(t.Context(), "health", "--only", "partition_coverage", "--alert"); code != want || !strings.Contains(text, contains) || strings.Contains(text, "T0KEN") {
			t.Errorf("exit %d: %s", code, text)
		}
	}
	check(2, "alerts were not delivered")
	mu.Lock()
	broken = false
	mu.Unlock()
	check(2, "")
	check(2, "")
	p.must("partition", "create", "--ahead", "4")
	check(0, "")
	check(0, "")
	mu.Lock()
	defer mu.Unlock()
	if len(got) != 2 || len(got[0].New) != 1 || got[0].New[0].Check != "partition_coverage" || got[0].Status != "critical" || len(got[1].Resolved) != 1 || got[1].Status != "ok" {
		t.Errorf("%+v", got)
	}
}
