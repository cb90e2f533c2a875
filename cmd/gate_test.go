package cmd

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// gate stands between a process and its servers, PostgreSQL and an S3-compatible store, and sees what the process asks of them. At one of these
// requests it shuts, before the server has it: whatever came before was done, and nothing comes after.
type gate struct {
	at   func(request string) (shut bool) // asked about each request, one at a time; it may do something meanwhile
	shut chan struct{}

	mu sync.Mutex

	conns sync.WaitGroup
	open  []net.Conn
}

// pass says whether a request may go on.
func (g *gate) pass(request string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.shut:
		return false
	default:
	}
	if g.at(request) {
		close(g.shut)
		return false
	}
	return true
}

// inTurn is for a gate that shuts at the last of these parts of requests, each of which comes after the one before.
func inTurn(parts ...string) func(string) bool {
	return func(request string) bool {
		if strings.Contains(request, parts[0]) {
			parts = parts[1:]
		}
		return len(parts) == 0
	}
}

// newGate gives the addresses of a database and of a store of its own behind a gate. end cuts the connections.
func newGate(t *testing.T, database string, store http.Handler, at func(string) bool) (g *gate, address, bucket string, end func()) {
	t.Helper()
	g = &gate{at: at, shut: make(chan struct{})}
	config, err := pgx.ParseConfig(database)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "auditdb-gate-") //nolint:usetesting // a socket's name is short
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432")) //nolint:noctx // it is closed below
	if err != nil {
		t.Fatal(err)
	}
	server := filepath.Join(config.Host, fmt.Sprintf(".s.PGSQL.%d", config.Port))
	g.conns.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			g.serve(client, server)
		}
	})
	ended := make(chan struct{})
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.pass(r.Method + " " + r.URL.Path) {
			store.ServeHTTP(w, r)
			return
		}
		select {
		case <-r.Context().Done():
		case <-ended:
		}
	}))
	end = sync.OnceFunc(func() {
		close(ended)
		_ = l.Close() // its socket goes with it
		g.mu.Lock()
		for _, c := range g.open {
			_ = c.Close() // whoever it is of has ended
		}
		g.mu.Unlock()
		g.conns.Wait()
		site.CloseClientConnections()
		site.Close()
		_ = os.RemoveAll(dir)
	})
	t.Cleanup(end)
	user := url.UserPassword(config.User, config.Password)
	address = fmt.Sprintf("postgres://%s@/%s?host=%s&port=5432&sslmode=disable", user, config.Database, dir)
	return g, address, "s3://audit/prefix?region=us-east-1&endpoint=" + site.URL, end
}

// newStore is a store in memory.
func newStore(t *testing.T) http.Handler {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("audit"); err != nil {
		t.Fatal(err)
	}
	return gofakes3.New(backend).Server()
}

// serve passes messages between a client and the server's socket.
func (g *gate) serve(client net.Conn, socket string) {
	server, err := net.Dial("unix", socket) //nolint:noctx // it is closed with the gate
	if err != nil {
		_ = client.Close() // it sees that there is no server
		return
	}
	g.mu.Lock()
	g.open = append(g.open, client, server)
	g.mu.Unlock()
	g.conns.Go(func() {
		_, _ = io.Copy(client, server) // ends with either connection
		_ = client.Close()             // likewise
	})
	g.conns.Go(func() {
		if g.forward(server, client) {
			_ = server.Close() // the session ends with its client
		}
	})
}

// forward passes what a client says on to the server, until the client has ended or the gate is shut.
func (g *gate) forward(server io.Writer, client io.Reader) (ended bool) {
	head := make([]byte, 5)
	for started := false; ; started = true {
		kind := head[:1]
		if !started { // the first message has no type
			kind = head[:0]
		}
		if _, err := io.ReadFull(client, head[:len(kind)+4]); err != nil {
			return true
		}
		message := make([]byte, len(kind)+int(binary.BigEndian.Uint32(head[len(kind):])))
		if _, err := io.ReadFull(client, message[copy(message, head[:len(kind)+4]):]); err != nil {
			return true
		}
		if started && (message[0] == 'Q' || message[0] == 'P' || message[0] == 'B') && !g.pass(string(message)) {
			return false
		}
		if _, err := server.Write(message); err != nil {
			return true
		}
	}
}
