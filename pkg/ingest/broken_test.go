package ingest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
	"auditdb/pkg/ingest"
	"auditdb/pkg/partitions"
)

// proxy stands between client and server on a socket of its own and breaks connections.
type proxy struct {
	server string // the server's socket
	lost   func(message byte, body []byte) fate
	wait   sync.WaitGroup
	ln     net.Listener
	ctx    context.Context //nolint:containedctx // of the test
}

// fate is what becomes of a message from the client, and of its connection.
type fate int

const (
	pass    fate = iota
	drop         // the server never gets it
	unheard      // the server gets it, the client no answer
)

// newProxy returns the address of address's database behind a proxy.
func newProxy(tb testing.TB, address string, lost func(byte, []byte) fate) string {
	tb.Helper()
	u, err := url.Parse(address)
	if err != nil {
		tb.Fatal(err)
	}
	q := u.Query()
	port := q.Get("port")
	if port == "" {
		port = "5432"
	}
	p := &proxy{ctx: tb.Context(), server: filepath.Join(q.Get("host"), ".s.PGSQL."+port), lost: lost}
	dir := tb.TempDir()
	var lc net.ListenConfig
	if p.ln, err = lc.Listen(tb.Context(), "unix", filepath.Join(dir, ".s.PGSQL."+port)); err != nil {
		tb.Fatal(err)
	}
	p.wait.Go(p.accept)
	tb.Cleanup(func() {
		_ = p.ln.Close()
		p.wait.Wait()
	})
	q.Set("host", dir)
	u.RawQuery = q.Encode()
	return u.String()
}

func (p *proxy) accept() {
	for {
		client, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.wait.Go(func() { p.serve(client) })
	}
}

func (p *proxy) serve(client net.Conn) {
	defer func() { _ = client.Close() }()
	var d net.Dialer
	server, err := d.DialContext(p.ctx, "unix", p.server)
	if err != nil {
		return
	}
	p.wait.Go(func() {
		_, _ = io.Copy(client, server)
		_ = client.Close()
	})
	_ = p.forward(client, server)
	_ = server.Close()
}

// forward passes the client's messages on, whole ones.
func (p *proxy) forward(client net.Conn, server io.Writer) error {
	head := make([]byte, 5)
	first := true
	for {
		h := head
		if first {
			h = head[1:] // the startup message has no type
			head[0] = 0
		}
		if _, err := io.ReadFull(client, h); err != nil {
			return err
		}
		body := make([]byte, int(binary.BigEndian.Uint32(head[1:]))-4)
		if _, err := io.ReadFull(client, body); err != nil {
			return err
		}
		f := pass
		if !first {
			f = p.lost(head[0], body)
		}
		first = false
		if f == drop {
			return nil
		}
		if f == unheard {
			_ = client.Close()
		}
		if _, err := server.Write(append(bytes.Clone(h), body...)); err != nil || f == unheard {
			return err
		}
	}
}

// TestLostCommits loses the answer of every third COMMIT, and the COMMIT itself of every fifth: events without a uid are there once.
func TestLostCommits(t *testing.T) {
	t.Parallel()
	address := pgtest.DB(t)
	straight := openBed(t, address)
	straight.months("2024-01", 1)
	var commits atomic.Int64
	b := openBed(t, newProxy(t, address, func(message byte, body []byte) fate {
		if message != 'Q' || !bytes.HasPrefix(body, []byte("commit")) {
			return pass
		}
		switch n := commits.Add(1); {
		case n%3 == 0:
			return unheard
		case n%5 == 0:
			return drop
		}
		return pass
	}))
	for _, jobs := range []int{1, 3} { //nolint:paralleltest // they count commits together
		t.Run(fmt.Sprintf("%d jobs", jobs), func(t *testing.T) {
			b.opts.BatchRows, b.opts.Jobs = 10, jobs
			before := straight.rows()
			var in bytes.Buffer
			for i := range 300 {
				fmt.Fprintf(&in, `{"timestamp":"2024-01-05T06:%02d:%02dZ","action":"a","status":"s%d"}`+"\n", i/60, i%60, jobs)
			}
			rep := b.run(write(t, "log", in.String()))
			if rep.Inserted != 300 || straight.rows()-before != 300 {
				t.Errorf("report %+v, %d rows", rep, straight.rows()-before)
			}
		})
	}
	if commits.Load() < 60 {
		t.Errorf("%d commits seen", commits.Load())
	}
	straight.checkLeaves()
}

// TestBrokenCopies breaks the connection in the middle of every seventh COPY, and that which holds the source's lock now and then.
func TestBrokenCopies(t *testing.T) {
	t.Parallel()
	address := pgtest.DB(t)
	straight := openBed(t, address)
	straight.months("2024-01", 1)
	var copies, pings atomic.Int64
	b := openBed(t, newProxy(t, address, func(message byte, body []byte) fate {
		switch {
		case message == 'd' && copies.Add(1)%7 == 0:
			return drop
		case message == 'Q' && bytes.Contains(body, []byte("lock_timeout")) && pings.Add(1)%40 == 0:
			return drop
		}
		return pass
	}))
	b.opts.BatchRows, b.opts.Jobs = 10, 2
	rep := b.run(write(t, "log", events(0, 400)))
	if rep.Inserted != 400 || straight.rows() != 400 {
		t.Errorf("report %+v, %d rows", rep, straight.rows())
	}
	straight.checkLeaves()
}

// TestServerRestarts restarts the server in the middle of a run, and kills it once.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	pg := pgtest.Server(t)
	pgtest.Migrate(t, pg.URL("postgres"))
	b := openBed(t, pg.URL("postgres"))
	b.months("2024-01", 1)
	b.opts.BatchRows, b.opts.Jobs, b.opts.Wait = 50, 2, time.Minute
	batches := make(chan struct{}, 10000)
	b.opts.OnProgress = func(int, int) { batches <- struct{}{} }
	done := make(chan error, 1)
	path := write(t, "log", events(0, 20000))
	go func() {
		sources, err := ingest.Expand([]string{path}, "", nil)
		if err == nil {
			_, err = ingest.Run(t.Context(), b.opts, sources)
		}
		done <- err
	}()
	for range 20 {
		<-batches
	}
	if err := pg.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 40 {
		select {
		case <-batches:
		case err := <-done:
			t.Fatalf("ended early: %v", err)
		}
	}
	if err := pg.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := pg.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := b.rows(); n != 20000 {
		t.Errorf("%d rows", n)
	}
	b.checkLeaves()
}

// TestPartitionsChangeInMidRun detaches, drops and swaps partitions while rows go into them: no row ends up outside its range.
func TestPartitionsChangeInMidRun(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	b.opts.BatchRows, b.opts.MaxBad = 10, -1
	n := 0
	b.opts.OnProgress = func(int, int) {
		switch n++; n {
		case 2: // the name now belongs to a table that is no partition
			b.exec(`ALTER TABLE public.audit_log DETACH PARTITION public.audit_log_2024_01`)
		case 4: // back, under other bounds
			b.exec(`DELETE FROM public.audit_log_2024_01 WHERE "timestamp" < '2024-01-01 00:00:20Z'`)
			b.exec(`ALTER TABLE public.audit_log ATTACH PARTITION public.audit_log_2024_01 FOR VALUES FROM ('2024-01-01 00:00:20Z') TO ('2024-02-01Z')`)
		case 6:
			b.exec(`ALTER TABLE public.audit_log_2024_01 RENAME TO elsewhere`)
			b.exec(`CREATE TABLE public.audit_log_2024_01 (LIKE public.audit_log)`)
		}
	}
	rep := b.run(write(t, "log", events(0, 100)))
	if rep.Inserted+rep.Rejected != 100 || rep.Rejected < 10 {
		t.Errorf("report %+v", rep)
	}
	if n := b.count(`SELECT count(*) FROM public.audit_log_2024_01`); n != 0 {
		t.Errorf("%d rows in a table that is no partition", n)
	}
	if n := b.count(`SELECT count(*) FROM public.elsewhere WHERE "timestamp" NOT BETWEEN '2024-01-01 00:00:20Z' AND '2024-02-01Z'`); n != 0 {
		t.Errorf("%d rows outside the bounds", n)
	}
}

func TestCreatePartitions(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.opts.MaxBad, b.opts.Jobs, b.opts.BatchRows = -1, 2, 100
	b.opts.MaxAhead = 0
	b.opts.DryRun = true
	o := partitions.Options{DB: b.db, Now: time.Now, LockTimeout: 100 * time.Millisecond, Wait: 20 * time.Second}
	worker := partitions.NewWorker(o)
	b.opts.Creator = &partitions.Creator{Worker: worker, DryRun: true}
	in := events(0, 1000) + event("2024-01-05", "2023-05-05") + "\n" + event("2024-01-05", "9024-01-05") + "\n"
	path := write(t, "log", in)
	rep := b.run(path)
	if rep.Inserted != 1001 || rep.Rejected != 1 || len(rep.Created) != 2 || b.rows() != 0 || rep.Batches == 0 {
		t.Errorf("dry run: %+v", rep)
	}
	if n := b.count(`SELECT count(*) FROM auditdb.ingest_source`); n != 0 {
		t.Error("the dry run left a trace")
	}
	b.opts.DryRun = false
	b.opts.Creator = &partitions.Creator{Worker: worker}
	rep = b.run(path)
	if rep.Inserted != 1001 || rep.Rejected != 1 || len(rep.Created) != 2 || b.rows() != 1001 {
		t.Errorf("report %+v", rep)
	}
	if n := b.count(`SELECT count(*) FROM pg_inherits WHERE inhparent = 'public.audit_log'::regclass`); n != 2 {
		t.Errorf("%d partitions", n)
	}
	b.checkLeaves()
}

func TestDryRunShowsEvents(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	b.run(write(t, "log", events(0, 20)))
	b.opts.DryRun = true
	var shown []map[string]any
	b.opts.OnEvent = func(columns map[string]any) { shown = append(shown, columns) }
	rep := b.run(write(t, "log", events(10, 30)))
	if rep.Inserted != 20 || rep.Duplicate != 10 || b.rows() != 20 {
		t.Errorf("report %+v", rep)
	}
	if len(shown) != 5 || shown[0]["timestamp"] != "2024-01-01T00:00:20.000000Z" || shown[0]["principal_id"] != "p7" || shown[0]["hash"] != nil {
		t.Errorf("shown %v", shown)
	}
	if _, ok := shown[0]["salt"]; ok {
		t.Error("a salt is shown")
	}
}

func TestUnmanagedTable(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.opts.Table.ManagedID = nil
	if _, err := b.try(write(t, "log", "")); fault.ClassOf(err) != fault.Usage {
		t.Errorf("error %v", err)
	}
}

// barren makes nothing.
type barren struct{}

func (barren) Ensure(context.Context, partitions.Table, []partitions.Bounds) (*partitions.Catalog, []partitions.Partition, error) {
	return nil, nil, nil
}

func (barren) WhyNot(time.Time) string { return "it was pruned" }

func TestRejectsSayWhyNoPartitionWasMade(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.opts.MaxBad, b.opts.Creator = -1, barren{}
	var reasons []string
	b.opts.OnReject = func(r ingest.Reject) { reasons = append(reasons, r.Reason) }
	rep := b.run(write(t, "log", event("2024-01-05", "2019-01-05")+"\n"))
	if rep.Rejected != 1 || len(reasons) != 1 || reasons[0] != "no partition for its timestamp 2019-01-05T06:07:08Z: it was pruned" {
		t.Errorf("%d rejected: %q", rep.Rejected, reasons)
	}
}
