package alert

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"auditdb/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func at(minutes int) time.Time {
	return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(minutes) * time.Minute)
}

func warn(check string) Alert {
	return Alert{Check: check, Group: "g", Severity: Warning, Summary: "s"}
}

func crit(check string) Alert {
	return Alert{Check: check, Group: "g", Severity: Critical, Summary: "s"}
}

// said puts what is new in one word each.
func said(n Notice) string {
	var words []string
	for _, a := range n.New {
		words = append(words, "+"+a.Check+":"+string(a.Severity))
	}
	for _, a := range n.Resolved {
		words = append(words, "-"+a.Check)
	}
	for _, f := range n.Flapping {
		words = append(words, "~"+f)
	}
	return strings.Join(words, " ")
}

// It is said once, again when it gets worse, once when it ends, and again after hours. What was not looked at does not end.
func TestNotice(t *testing.T) {
	t.Parallel()
	s := &State{}
	for i, step := range []struct {
		minute int
		firing []Alert
		looked []string
		want   string
	}{
		{0, nil, []string{"a", "b"}, ""},
		{1, []Alert{warn("a")}, []string{"a", "b"}, "+a:warning"},
		{2, []Alert{warn("a")}, []string{"a", "b"}, ""},
		{3, []Alert{crit("a"), warn("b")}, []string{"a", "b"}, "+a:critical +b:warning"},
		{4, []Alert{crit("a")}, []string{"a"}, ""},
		{5, nil, []string{"a", "b"}, "-a -b"},
		{6, nil, []string{"a", "b"}, ""},
		{100, []Alert{warn("a")}, []string{"a"}, "+a:warning"},
		{100 + 239, []Alert{warn("a")}, []string{"a"}, ""},
		{100 + 240, []Alert{warn("a")}, []string{"a"}, "+a:warning"},
	} {
		if got := said(s.Notice("here", step.firing, step.looked, at(step.minute), time.Minute)); got != step.want {
			t.Errorf("step %d: %q, not %q", i, got, step.want)
		}
	}
}

// What goes to and fro is said to do so once, and then only how it is after a calm.
func TestFlapping(t *testing.T) {
	t.Parallel()
	s := &State{}
	var all []string
	for minute := range 40 {
		var firing []Alert
		if minute%2 == 1 {
			firing = []Alert{warn("a")}
		}
		if w := said(s.Notice("here", firing, []string{"a"}, at(minute), time.Minute)); w != "" {
			all = append(all, w)
		}
	}
	if got := strings.Join(all, " "); strings.Count(got, "~a") != 1 || len(all) > 7 {
		t.Errorf("%q", got)
	}
	all = nil
	for minute := 40; minute < 70; minute++ {
		if w := said(s.Notice("here", []Alert{warn("a")}, []string{"a"}, at(minute), time.Minute)); w != "" {
			all = append(all, w)
		}
	}
	if got := strings.Join(all, " "); got != "+a:warning" {
		t.Errorf("afterwards %q", got)
	}
}

// The state lasts from run to run; a damaged file is nothing said yet.
func TestKeep(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "deep", "alerts.json")
	s, err := ReadState(file)
	if err != nil {
		t.Fatal(err)
	}
	s.Notice("here", []Alert{warn("a")}, []string{"a"}, at(0), time.Minute)
	if err := s.Keep(file); err != nil {
		t.Fatal(err)
	}
	again, err := ReadState(file)
	if err != nil || said(again.Notice("here", []Alert{warn("a")}, []string{"a"}, at(1), time.Minute)) != "" {
		t.Errorf("it is said twice: %v", err)
	}
	if got := said(again.Notice("here", nil, []string{"a"}, at(2), time.Minute)); got != "-a" {
		t.Errorf("%q", got)
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"checks":{"a":{"firing":true,"told":"2026-03-01T12:00:00Z"}}}`))
	f.Add([]byte(`{"checks":{"a":null}}`))
	f.Fuzz(func(_ *testing.T, text []byte) {
		var s State
		if json.Unmarshal(text, &s) != nil {
			return
		}
		for _, said := range s.Checks {
			if said == nil {
				return // ReadState leaves them out
			}
		}
		s.Notice("here", []Alert{warn("a")}, []string{"a", "b"}, at(0), time.Minute)
	})
}

// receiver answers with what the test wants, one after the other, then 200.
type receiver struct {
	*httptest.Server
	mu      sync.Mutex
	answers []int
	bodies  [][]byte
	headers []http.Header
}

func newReceiver(t *testing.T, answers ...int) *receiver {
	t.Helper()
	r := &receiver{answers: answers}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.bodies, r.headers = append(r.bodies, body), append(r.headers, req.Header)
		if len(r.answers) > 0 {
			code := r.answers[0]
			r.answers = r.answers[1:]
			w.WriteHeader(code)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func notice() Notice {
	s := &State{}
	s.Notice("h:1/d", []Alert{warn("b")}, []string{"b"}, at(0), time.Minute)
	return s.Notice("h:1/d", []Alert{crit("a")}, []string{"a", "b"}, at(1), time.Minute)
}

// A webhook that fails is tried again, one that refuses is not; bodies are signed; Slack finds its text.
func TestWebhook(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, 500, 429)
	w, err := NewWebhook(r.URL+"/T0KEN", "k", "")
	if err != nil {
		t.Fatal(err)
	}
	w.client, w.wait = r.Client(), time.Millisecond
	if err := w.Send(t.Context(), notice()); err != nil {
		t.Fatal(err)
	}
	if len(r.bodies) != 3 {
		t.Errorf("%d requests", len(r.bodies))
	}
	var d Document
	if err := json.Unmarshal(r.bodies[2], &d); err != nil || d.Status != "critical" || len(d.New) != 1 || len(d.Resolved) != 1 || !strings.Contains(d.Text, "CRITICAL a: s") || !strings.Contains(d.Text, "OK again: b") {
		t.Errorf("%v: %s", err, r.bodies[2])
	}
	if h := r.headers[2]; h.Get("X-Auditdb-Signature") != Signature("k", h.Get("X-Auditdb-Timestamp"), r.bodies[2]) {
		t.Error("the signature is wrong")
	}
	if err := w.Send(t.Context(), Notice{At: at(2)}); err != nil || len(r.bodies) != 3 {
		t.Error("it sends what is not new")
	}
	no := newReceiver(t, 404)
	if w, err = NewWebhook(no.URL+"/T0KEN", "", `{"text": {{json .Text}}}`); err != nil {
		t.Fatal(err)
	}
	w.client, w.wait = no.Client(), time.Millisecond
	if err := w.Send(t.Context(), notice()); err == nil || !strings.Contains(err.Error(), "404") || len(no.bodies) != 1 {
		t.Errorf("refused: %v, %d requests", err, len(no.bodies))
	}
	if text := string(no.bodies[0]); !strings.HasPrefix(text, `{"text": "auditdb on h:1/d\nCRITICAL`) {
		t.Error(text)
	}
	no.Close()
	if err := SendAll(t.Context(), []Target{w}, notice()); fault.ClassOf(unjoin(err)) != fault.Unavailable || strings.Contains(err.Error(), "T0KEN") {
		t.Errorf("gone: %v", err)
	}
}

func unjoin(err error) error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		return j.Unwrap()[0]
	}
	return err
}

// A receiver that does not answer costs no more than the caller's time.
func TestHanging(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-gate }))
	defer server.Close()
	defer close(gate)
	w, err := NewWebhook(server.URL, "", "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := w.Send(ctx, notice()); err == nil || time.Since(began) > 3*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	w.client.CloseIdleConnections()
}

func TestBadTargets(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "ftp://x", "localhost:1", "http://", "://"} {
		if _, err := NewWebhook(address, "", ""); fault.ClassOf(err) != fault.Config {
			t.Errorf("%q: %v", address, err)
		}
		if _, err := NewAlertmanager(address); fault.ClassOf(err) != fault.Config {
			t.Errorf("%q: %v", address, err)
		}
	}
	if _, err := NewWebhook("http://x", "", "{{"); fault.ClassOf(err) != fault.Config {
		t.Error(err)
	}
	w, err := NewWebhook("http://x", "", "text {{.Text}}")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Send(t.Context(), notice()); fault.ClassOf(err) != fault.Config {
		t.Error(err)
	}
}

// Alertmanager gets what fires with labels that stay, and an end for what is well again.
func TestAlertmanager(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	a, err := NewAlertmanager(r.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	a.client = r.Client()
	if err := a.Send(t.Context(), notice()); err != nil {
		t.Fatal(err)
	}
	var list []posted
	if err := json.Unmarshal(r.bodies[0], &list); err != nil || len(list) != 2 {
		t.Fatalf("%v: %s", err, r.bodies[0])
	}
	if l := list[0]; fmt.Sprint(l.Labels) != "map[alertname:auditdb_a check:a group:g instance:h:1/d service:auditdb severity:critical]" || !l.EndsAt.Equal(at(4)) || !l.StartsAt.Equal(at(1)) {
		t.Errorf("%+v", l)
	}
	if l := list[1]; l.Labels["check"] != "b" || !l.EndsAt.Equal(at(1)) {
		t.Errorf("%+v", l)
	}
}
