package breaker

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

type cloudError struct {
	service string
	err     error
}

func (e *cloudError) Error() string   { return e.service + ": " + e.err.Error() }
func (e *cloudError) Service() string { return e.service }
func (e *cloudError) Unwrap() error   { return e.err }

// What has gone opens a breaker; what is refused or set wrongly does not.
func TestGone(t *testing.T) {
	t.Parallel()
	get := func(address string) error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			t.Fatal("it answered")
		}
		return err
	}
	serve := func(handler http.HandlerFunc) *httptest.Server {
		s := httptest.NewServer(handler)
		t.Cleanup(s.Close)
		return s
	}
	reset := serve(func(w http.ResponseWriter, _ *http.Request) { dropConnection(t, w) })
	closed := serve(nil)
	closed.Close()
	unknown := httptest.NewTLSServer(nil)
	t.Cleanup(unknown.Close)
	_, denied := os.ReadFile(filepath.Join(t.TempDir(), "none"))
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for _, c := range []struct {
		name string
		err  error
		want bool
	}{
		{"reset", get(reset.URL), true},
		{"closed", get(closed.URL), true},
		{"late", context.DeadlineExceeded, true},
		{"503", &StatusError{503, "503"}, true},
		{"429", fmt.Errorf("x: %w", &StatusError{429, "429"}), true},
		{"disk", &fs.PathError{Op: "read", Err: syscall.EIO}, true},
		{"cloud", &cloudError{"S3", refused}, true},
		{"unknown certificate", get(unknown.URL), false},
		{"certificate", x509.UnknownAuthorityError{}, false},
		{"403", &StatusError{403, "403"}, false},
		{"404", &StatusError{404, "404"}, false},
		{"not there", denied, false},
		{"permission", &fs.PathError{Op: "open", Err: syscall.EACCES}, false},
		{"full", &fs.PathError{Op: "write", Err: syscall.ENOSPC}, false},
		{"no such name", &url.Error{Op: "Get", Err: &net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}}, false},
		{"other", errors.New("x"), false},
		{"credentials", &cloudError{"S3", fmt.Errorf("get credentials: %w", &cloudError{"ec2imds", refused})}, false},
	} {
		if got := Gone(c.err); got != c.want {
			t.Errorf("%s: %v: %v", c.name, got, c.err)
		}
	}
}

// dropConnection resets the connection of a request.
func dropConnection(t *testing.T, w http.ResponseWriter) {
	t.Helper()
	h, ok := w.(http.Hijacker)
	if !ok {
		t.Error("no hijacker")
		return
	}
	conn, _, err := h.Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
