package cmd

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// liar is a store behind a proxy that does not do what it says.
type liar struct {
	store http.Handler
	lie   func(w http.ResponseWriter, r *http.Request, store http.Handler)

	mu     sync.Mutex
	honest bool
}

// ServeHTTP lies until it is told to be honest.
func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	honest := l.honest
	l.mu.Unlock()
	if honest {
		l.store.ServeHTTP(w, r)
		return
	}
	l.lie(w, r, l.store)
}

func (l *liar) repents() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.honest = true
}

func isObject(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, ".parquet") }

// lies are what stores have been seen to do; each is of a time of its own.
func lies() map[string]func(w http.ResponseWriter, r *http.Request, store http.Handler) {
	answer := func(w http.ResponseWriter, from *httptest.ResponseRecorder, body []byte) {
		for k, v := range from.Header() {
			w.Header()[k] = v
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		w.WriteHeader(from.Code)
		_, _ = w.Write(body) // the client may have gone
	}
	cut := func(suffix string) func(http.ResponseWriter, *http.Request, http.Handler) {
		return func(w http.ResponseWriter, r *http.Request, store http.Handler) {
			if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, suffix) {
				store.ServeHTTP(w, r)
				return
			}
			got := httptest.NewRecorder()
			store.ServeHTTP(got, r)
			answer(w, got, got.Body.Bytes()[:got.Body.Len()/2])
		}
	}
	lost := func(suffix string) func(http.ResponseWriter, *http.Request, http.Handler) {
		return func(w http.ResponseWriter, r *http.Request, store http.Handler) {
			if r.Method != http.MethodPut || !strings.HasSuffix(r.URL.Path, suffix) {
				store.ServeHTTP(w, r)
				return
			}
			_, _ = io.Copy(io.Discard, r.Body) // as if it were kept
			w.Header().Set("ETag", `"0123456789abcdef0123456789abcdef"`)
		}
	}
	return map[string]func(http.ResponseWriter, *http.Request, http.Handler){
		"gives half of an object":   cut(".parquet"),
		"gives half of a manifest":  cut(".json"),
		"does not store an object":  lost(".parquet"),
		"does not store a manifest": lost(".json"),
		"gives an old object": func(w http.ResponseWriter, r *http.Request, store http.Handler) {
			got := httptest.NewRecorder()
			store.ServeHTTP(got, r)
			body := got.Body.Bytes()
			if r.Method == http.MethodGet && isObject(r) { // of the same size, with another byte
				body = bytes.Clone(body)
				body[len(body)/2] ^= 1
			}
			if r.Method == http.MethodHead {
				store.ServeHTTP(w, r)
				return
			}
			answer(w, got, body)
		},
		"says that what it lacks is there": func(w http.ResponseWriter, r *http.Request, store http.Handler) {
			if r.Method == http.MethodHead && isObject(r) {
				w.Header().Set("Content-Length", "7000")
				w.Header().Set("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
				w.Header().Set("ETag", `"0123456789abcdef0123456789abcdef"`)
				return
			}
			store.ServeHTTP(w, r)
		},
	}
}

// With a store that lies no row goes: the run says so with exit code 3, and the partitions stay whole in the table. Once the store is honest, a run
// archives and prunes them, whatever the lies have left there.
func TestRetentionWithALyingStore(t *testing.T) {
	t.Parallel()
	s := newStepped(t)
	for name, lie := range lies() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := s.trial(t)
			x.survives(lie)
		})
	}
}

// survives makes sure that no row goes while the store lies, also when it meets what the lies have left, and that the work is done once it is honest.
func (x trial) survives(lie func(http.ResponseWriter, *http.Request, http.Handler)) {
	x.t.Helper()
	l := &liar{store: x.store, lie: lie}
	x.store = l
	p := x.open()
	for range 2 { // the second finds what the first has left
		if code, text := p.run(x.t.Context(), "retention", "run", "--yes", "--wait", "60s"); code != 3 {
			x.t.Errorf("exit %d: %s", code, text)
		}
	}
	if n := x.scan("SELECT count(*) FROM audit_log WHERE timestamp < '2022-03-01Z'"); n != "120" {
		x.t.Errorf("%s rows of 120 are in the table", n)
	}
	if n := x.scan("SELECT count(*) FROM auditdb.archive"); n != "0" {
		x.t.Errorf("%s archives are recorded", n)
	}
	l.repents()
	x.converges(p, "60")
}

// A store that does not know conditions and answers a listing of the past makes no difference: names come from the content.
func TestRetentionWithoutConditions(t *testing.T) {
	t.Parallel()
	x := newStepped(t).trial(t)
	conditions := 0
	x.store = &liar{store: x.store, lie: func(w http.ResponseWriter, r *http.Request, store http.Handler) {
		if r.Header.Get("If-None-Match") != "" {
			conditions++
			r.Header.Del("If-None-Match")
		}
		if r.URL.Query().Has("list-type") {
			http.Error(w, "a listing was asked for", http.StatusTeapot)
			return
		}
		store.ServeHTTP(w, r)
	}}
	x.converges(x.open(), "60")
	if conditions == 0 {
		t.Error("no condition was ever sent")
	}
}
