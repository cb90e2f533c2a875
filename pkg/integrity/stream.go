package integrity

import (
	"context"
	"io"

	"github.com/jackc/pgx/v5/pgconn"
)

// feeder is a writer that hands what is written to a function.
type feeder func([]byte) error

func (f feeder) Write(p []byte) (int, error) {
	if err := f(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// copyTo streams a COPY statement's answer through read, message by message. When read fails the connection is closed.
//
// The rows are hashed on the goroutine that reads them: the server, in a process of its own, takes about twice as long to render
// them, the socket's buffer evens out the pauses, and handing buffers over to another goroutine cost a fifth more CPU.
func copyTo(ctx context.Context, conn *pgconn.PgConn, sql string, read func([]byte) error) error {
	_, err := conn.CopyTo(ctx, io.Writer(feeder(read)), sql)
	return err
}
