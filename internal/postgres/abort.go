package postgres

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
)

var errAborted = errors.New("the connections were given up")

// wires are the network connections that are open, so that all of them can be closed at once: the driver's own way to close one waits for the server,
// up to 15 s for one that hangs.
type wires struct {
	mu   sync.Mutex
	cut  bool
	open map[*wire]struct{}
}

// wire is one network connection.
type wire struct {
	net.Conn
	of *wires
}

// Close forgets it.
func (w *wire) Close() error {
	w.of.mu.Lock()
	delete(w.of.open, w)
	w.of.mu.Unlock()
	return w.Conn.Close()
}

// dial keeps account of what is dialled, cancel requests included.
func (w *wires) dial(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		w.mu.Lock()
		cut := w.cut
		w.mu.Unlock()
		if cut {
			return nil, errAborted
		}
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.cut {
			_ = conn.Close() // nothing was sent
			return nil, errAborted
		}
		one := &wire{conn, w}
		if w.open == nil {
			w.open = map[*wire]struct{}{}
		}
		w.open[one] = struct{}{}
		return one, nil
	}
}

func (w *wires) abort() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = true
	for one := range w.open {
		_ = one.Conn.Close() // whoever uses it is told
	}
	clear(w.open)
}

// Abort closes all connections at once, without a word to the server, and opens no new ones: for a server that hangs, and only for reading, since what
// was under way may still be done. Close is to be called nevertheless.
func (db *DB) Abort() { db.wires.abort() }
