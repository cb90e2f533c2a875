package ingest

import (
	"bytes"
	"errors"
	"hash/maphash"
	"io"
	"math"
	"testing"
	"time"

	"auditdb/internal/sample"
	"auditdb/pkg/audit"
)

// benchNow is after all sample events.
func benchNow() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

func sampleEvents(tb testing.TB, n int) []byte {
	tb.Helper()
	var buf bytes.Buffer
	err := sample.WriteNDJSON(&buf, sample.Options{Seed: 1, Events: n, From: benchNow().AddDate(0, -2, 0), To: benchNow()})
	if err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// BenchmarkPure is all that the client does to a row but the network: split, digest, parse, map, canonical JSON, encode, sort, hash.
func BenchmarkPure(b *testing.B) {
	const n = 50000
	data := sampleEvents(b, n)
	m := Mapping{Name: MappingNative}
	p := &preparer{fixed: &fixed{}, now: benchNow, seed: maphash.MakeSeed()}
	hasher := audit.NewHasher(audit.AuditLog())
	whole := &leaf{from: math.MinInt64, to: math.MaxInt64}
	find := func(int64) *leaf { return whole }
	src := &source{mapper: m.newMapper()}
	c := chunk{limit: maxBatchBytes}
	var bt batch
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		in, err := openInput(bytes.NewReader(data))
		if err != nil {
			b.Fatal(err)
		}
		sp, _, err := newSplitter(newWindow(in), "")
		if err != nil {
			b.Fatal(err)
		}
		rows := 0
		for end := error(nil); end == nil; {
			c.reset(src, int64(rows+1))
			for end == nil && len(c.records) < DefaultBatchRows && len(c.raw) < c.limit {
				end = c.read(sp)
			}
			if end != nil && !errors.Is(end, io.EOF) {
				b.Fatal(end)
			}
			if err := p.prepare(b.Context(), &bt, &c); err != nil {
				b.Fatal(err)
			}
			if len(bt.bad) > 0 {
				b.Fatal(bt.bad[0].reason)
			}
			if err := bt.seal(hasher, find, 0); err != nil {
				b.Fatal(err)
			}
			audit.RootOf(bt.leaves)
			rows += len(bt.order)
		}
		if rows != n {
			b.Fatalf("%d rows", rows)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}
