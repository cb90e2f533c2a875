package integrity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/pgtest"
	"auditdb/pkg/audit"
)

// copyStream is a COPY BINARY stream of n rows of about 380 bytes, whose ids are a block's, and its leaves.
func copyStream(tb testing.TB, n int) (stream, leaves []byte, rowSize int) {
	tb.Helper()
	f := audit.AuditLog()
	stream = audit.CopyHeader()
	for i := range n {
		stream = audit.AppendTuple(stream, len(f.Columns()))
		for _, c := range f.Columns() {
			switch c.Name {
			case "id":
				stream = audit.AppendInt64(stream, int64(1)<<40+int64(i))
			case "timestamp", "recorded_at":
				stream = audit.AppendTimestamp(stream, int64(i)*1000)
			case "salt":
				stream = audit.AppendUUID(stream, [16]byte{byte(i), byte(i >> 8)})
			case "details":
				stream = audit.AppendField(stream, fmt.Appendf(nil, "\x01{\"ip\": \"10.0.0.%d\", \"session\": \"%032d\", \"changes\": [{\"field\": \"name\", \"to\": \"x\"}]}", i%256, i))
			case "action", "status", "principal_id", "organization_id", "target_resource_id", "target_resource_type", "correlation_id", "event_uid":
				stream = audit.AppendText(stream, fmt.Sprintf("%s-%012d", c.Name[:4], i))
			default:
				stream = audit.AppendNull(stream)
			}
		}
	}
	rowSize = (len(stream) - 19) / n
	stream = append(stream, audit.CopyTrailer()...)
	l, err := newLayout(f, "timestamp")
	if err != nil {
		tb.Fatal(err)
	}
	b := setBuilder{hash: audit.NewHasher(f)}
	r := tupleReader{layout: l, fn: b.add}
	if err := r.feed(stream); err != nil {
		tb.Fatal(err)
	}
	return stream, b.leaves, rowSize
}

// BenchmarkVerifyRows compares rows with their leaf set: cut tuples, hash, look up, compare, root. MB/s count the COPY stream.
func BenchmarkVerifyRows(b *testing.B) {
	const n = 20000
	stream, leaves, size := copyStream(b, n)
	f := audit.AuditLog()
	l, err := newLayout(f, "timestamp")
	if err != nil {
		b.Fatal(err)
	}
	ids := audit.IDRange(1<<40, n)
	rec, err := leafRoot(ids, leaves, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(stream)))
	b.ReportAllocs()
	for b.Loop() {
		found := newCollector(0)
		m := newMatcher([]*leafSet{{seq: 1, rec: rec}}, f, found, "t")
		m.fetch = func([]int64) ([]storedLeaves, error) {
			return []storedLeaves{{seq: 1, ids: ids.Encode(), leaves: leaves}}, nil
		}
		r := tupleReader{layout: l, fn: m.row}
		if err := r.feed(stream); err != nil {
			b.Fatal(err)
		}
		if err := m.finish(); err != nil || found.total() != 0 || m.checked != 1 {
			b.Fatal(err, found.list())
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(size), "B/row")
}

// A stream in pieces of any size gives the same rows as in one piece.
func TestPieces(t *testing.T) {
	t.Parallel()
	stream, _, _ := copyStream(t, 40)
	l, err := newLayout(audit.AuditLog(), "timestamp")
	if err != nil {
		t.Fatal(err)
	}
	whole := ""
	for _, size := range []int{len(stream), 1, 2, 3, 7, 100, 1000} {
		got := ""
		r := tupleReader{layout: l, fn: func(row *copyRow) error {
			got += fmt.Sprintf("%d %x %x %x %x\n", row.id, row.core, row.personal, row.salt, row.key)
			return nil
		}}
		var err error
		for rest := stream; len(rest) > 0 && err == nil; {
			n := min(size, len(rest))
			err, rest = r.feed(rest[:n]), rest[n:]
		}
		if err != nil || r.close() != nil {
			t.Fatal(size, err)
		}
		if whole == "" {
			whole = got
		}
		if got != whole || strings.Count(got, "\n") != 40 {
			t.Error("pieces of", size, "bytes give other rows")
		}
	}
}

// A reader that fails ends the copy, with its own error.
func TestCopyEndsWithItsReader(t *testing.T) {
	t.Parallel()
	conn, err := pgx.Connect(t.Context(), pgtest.DB(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	err = copyTo(t.Context(), conn.PgConn(), "COPY (SELECT generate_series(1, 1000000)) TO STDOUT (FORMAT binary)", func([]byte) error { return io.ErrShortBuffer })
	if !errors.Is(err, io.ErrShortBuffer) || !conn.IsClosed() {
		t.Error(err, conn.IsClosed())
	}
}

// BenchmarkAppend appends one small batch a transaction, from eight connections, each with a log of its own as separate processes have.
func BenchmarkAppend(b *testing.B) {
	f := newFixture(b)
	f.batch(0, 1)
	var block atomic.Int64
	block.Store(1 << 30)
	b.SetParallelism(max(1, 8/runtime.GOMAXPROCS(0)))
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		l := NewLog(f.log.keys)
		for pb.Next() {
			err := f.db.Tx(b.Context(), func(tx pgx.Tx) error {
				_, err := f.append(l, tx, block.Add(1), nil)
				return err
			})
			if err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
}
