//go:build s3

package cmd

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// gateway is a real S3 server, versitygw, over a folder with the bucket audit.
type gateway struct {
	t           *testing.T
	dir, socket string
	server      *exec.Cmd
	proxy       http.Handler
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "auditdb-s3-") //nolint:usetesting // a socket's name is short
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{t: t, dir: dir, socket: filepath.Join(dir, "socket")}
	t.Cleanup(func() {
		g.kill()
		_ = os.RemoveAll(dir)
	})
	if err := os.MkdirAll(filepath.Join(dir, "store", "audit"), 0o700); err != nil {
		t.Fatal(err)
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", g.socket)
	}
	g.proxy = &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "gateway" }, // Host, which is signed, stays
		Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true},
	}
	g.start()
	return g
}

// start returns once the server answers.
func (g *gateway) start() {
	g.t.Helper()
	_ = os.Remove(g.socket) // a killed server leaves it
	//nolint:noctx // it is killed by the test, or when that ends
	g.server = exec.Command(os.Getenv("AUDITDB_TEST_VERSITYGW"), "--port", g.socket, "--access", "k", "--secret", "s", "posix", filepath.Join(g.dir, "store"))
	if err := g.server.Start(); err != nil {
		g.t.Fatal(err)
	}
	for limit := time.Now().Add(time.Minute); ; {
		if conn, err := new(net.Dialer).DialContext(g.t.Context(), "unix", g.socket); err == nil {
			_ = conn.Close()
			return
		} else if time.Now().After(limit) {
			g.t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (g *gateway) kill() {
	_ = g.server.Process.Kill() // it may be dead already
	_ = g.server.Wait()
}

// A server that is killed in the middle of an upload, and started again, has every row of the next run.
func TestS3KilledInUpload(t *testing.T) {
	t.Parallel()
	x, g := newStepped(t).trial(t), newGateway(t)
	var killed atomic.Bool
	l := &liar{store: g.proxy, lie: func(w http.ResponseWriter, r *http.Request, store http.Handler) {
		if r.Method == http.MethodPut && isObject(r) && killed.CompareAndSwap(false, true) {
			body, _ := io.ReadAll(r.Body)
			half := bytes.NewReader(body[:len(body)/2])
			r.Body = io.NopCloser(io.MultiReader(half, readerFunc(func() { g.kill() })))
		}
		store.ServeHTTP(w, r)
	}}
	x.store = l
	p := x.open()
	if code, text := p.run(t.Context(), "retention", "run", "--yes", "--wait", "60s"); code != 3 || !killed.Load() {
		t.Errorf("exit %d: %s", code, text)
	}
	if n := x.scan("SELECT count(*) FROM audit_log WHERE timestamp < '2022-03-01Z'"); n != "120" {
		t.Errorf("%s rows of 120 are in the table", n)
	}
	g.start()
	l.repents()
	x.converges(p, "60")
}

// What is archived there is found without a restore, and restored it is what it was.
func TestS3Restores(t *testing.T) {
	t.Parallel()
	x := newStepped(t).trial(t)
	x.store = newGateway(t).proxy
	p := x.open()
	const digest = "SELECT md5(string_agg(r::text || r.details::text, '|' ORDER BY id)) FROM %s r WHERE timestamp < '2022-02-01Z'"
	before := x.scan(fmt.Sprintf(digest, "audit_log"))
	x.converges(p, "60")
	if found := p.must("retention", "archive", "search", "--action", "read", "-o", "json"); !strings.Contains(found, `"i": 60`) && !strings.Contains(found, `"i":60`) {
		t.Errorf("not found: %s", found)
	}
	p.must("retention", "restore", "audit_log_2022_01", "--as", "back")
	if after := x.scan(fmt.Sprintf(digest, "back")); after != before {
		t.Error("restored rows are not what they were")
	}
	p.must("retention", "restore", "audit_log_2022_02")
	p.must("verify-integrity", "--archives")
}

// readerFunc runs a function once it is read, and breaks off.
type readerFunc func()

// Read implements io.Reader.
func (f readerFunc) Read([]byte) (int, error) {
	f()
	return 0, io.ErrUnexpectedEOF
}

// Behind a proxy that lies the real server loses no row either.
func TestS3BehindALyingProxy(t *testing.T) {
	t.Parallel()
	s := newStepped(t)
	for name, lie := range lies() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := s.trial(t)
			x.store = newGateway(t).proxy
			x.survives(lie)
		})
	}
}

// Wrong credentials and a bucket that is not there end the run with exit code 3, and no secret is told.
func TestS3Refuses(t *testing.T) {
	t.Parallel()
	s := newStepped(t)
	for name, change := range map[string]func(p *process){
		"wrong secret": func(p *process) { p.env = append(p.env, "AWS_SECRET_ACCESS_KEY=wrong-and-secret") },
		"missing bucket": func(p *process) {
			p.env[len(p.env)-1] = strings.Replace(p.env[len(p.env)-1], "//audit/", "//absent/", 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := s.trial(t)
			x.store = newGateway(t).proxy
			p := x.open()
			p.env = slices.Clone(p.env)
			change(&p)
			code, text := p.run(t.Context(), "retention", "run", "--yes", "--wait", "60s")
			if code != 3 || strings.Contains(text, "wrong-and-secret") {
				t.Errorf("exit %d: %s", code, text)
			}
		})
	}
}
