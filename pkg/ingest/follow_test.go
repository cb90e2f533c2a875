package ingest_test

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"auditdb/pkg/ingest"
)

// followed is a run that follows, in the background.
type followed struct {
	*bed
	stop func() (ingest.Report, error)
}

func (b *bed) follow(roots ...string) *followed {
	b.t.Helper()
	opts := b.opts
	opts.Follow = &ingest.Follow{Roots: roots, Flush: 20 * time.Millisecond, Grace: 500 * time.Millisecond}
	ctx, cancel := context.WithCancel(b.t.Context())
	type result struct {
		rep ingest.Report
		err error
	}
	done := make(chan result, 1)
	go func() {
		rep, err := ingest.Run(ctx, opts, nil)
		done <- result{rep, err}
	}()
	return &followed{b, func() (ingest.Report, error) {
		cancel()
		r := <-done
		return r.rep, r.err
	}}
}

// await waits until the table has n rows.
func (b *bed) await(n int64) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		have := b.rows()
		if have == n {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			b.t.Fatalf("%d rows, want %d", have, n)
		}
	}
}

func (f *followed) end(n int64) ingest.Report {
	f.t.Helper()
	rep, err := f.stop()
	if !errors.Is(err, context.Canceled) || rep.Inserted != n {
		f.t.Errorf("%d inserted, want %d; report %+v, error %v", rep.Inserted, n, rep, err)
	}
	return rep
}

// bare makes events without a uid, so that none is there once for being a duplicate.
func bare(first, n int) string {
	var s []byte
	start := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := first; i < first+n; i++ {
		s = fmt.Appendf(s, `{"timestamp":"%s","action":"n%d","status":"s"}`+"\n", start.Add(time.Duration(i)*time.Second).Format(time.RFC3339), i)
	}
	return string(s)
}

func appendTo(tb testing.TB, path, content string) {
	tb.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := io.WriteString(f, content); err != nil {
		tb.Fatal(err)
	}
	if err := f.Close(); err != nil {
		tb.Fatal(err)
	}
}

func rename(tb testing.TB, from, to string) {
	tb.Helper()
	if err := os.Rename(from, to); err != nil {
		tb.Fatal(err)
	}
}

func copyTruncate(tb testing.TB, path, to string) {
	tb.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	rewrite(tb, to, string(content))
	if err := os.Truncate(path, 0); err != nil {
		tb.Fatal(err)
	}
}

func (b *bed) once(n int64) {
	b.t.Helper()
	if have, distinct := b.rows(), b.count(`SELECT count(DISTINCT action) FROM public.audit_log`); have != n || distinct != n {
		b.t.Errorf("%d rows, %d events, want %d", have, distinct, n)
	}
	b.checkLeaves()
}

// TestFollow follows a file that is not there yet, grows by pieces of lines, is renamed, goes on being written to, and is cut.
func TestFollow(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	path := filepath.Join(t.TempDir(), "app.log")
	f := b.follow(path)
	appendTo(t, path, bare(0, 10))
	b.await(10)
	all := bare(10, 10)
	appendTo(t, path, all[:95])
	b.await(11)
	appendTo(t, path, all[95:])
	b.await(20)
	rename(t, path, path+".1")
	appendTo(t, path+".1", bare(20, 5)) // by a writer who has it open
	b.await(25)
	appendTo(t, path, bare(25, 5))
	b.await(30)
	appendTo(t, path, bare(30, 5))
	copyTruncate(t, path, path+".2")
	appendTo(t, path, bare(35, 5))
	b.await(40)
	appendTo(t, path, bare(40, 1))
	b.await(41)
	rep := f.end(41)
	if len(rep.Sources) != 3 || rep.Sources[2].Name != path+"#3" {
		t.Errorf("sources %+v", rep.Sources)
	}
	b.once(41)

	// While nobody looked it was rotated twice; what was rotated before the first time is not looked at.
	old := path + ".0"
	rewrite(t, old, bare(1000, 5))
	long := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	if err := os.Chtimes(old, long, long); err != nil {
		t.Fatal(err)
	}
	appendTo(t, path, bare(41, 4))
	rename(t, path, path+".3")
	rewrite(t, path+".4", bare(45, 5))
	rewrite(t, path, bare(50, 5))
	f = b.follow(path)
	b.await(55)
	f.end(14)
	b.once(55)
	f = b.follow(path)
	appendTo(t, path, bare(55, 1))
	b.await(56)
	f.end(1)
	b.once(56)
}

// TestFollowFolder follows a folder in which files appear, are rotated and compressed, beside some that are none of events.
func TestFollowFolder(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	rewrite(t, in("a.log"), bare(0, 10))
	rewrite(t, in("LICENSE"), "This is free\nsoftware\n")
	f := b.follow(dir)
	b.await(10)
	appendTo(t, in("b.log"), bare(10, 10))
	appendTo(t, in("a.log"), bare(20, 10))
	b.await(30)
	rename(t, in("a.log"), in("a.log.1"))
	appendTo(t, in("a.log"), bare(30, 10))
	b.await(40)
	copyTruncate(t, in("b.log"), in("b.log.1"))
	appendTo(t, in("b.log"), bare(40, 10))
	b.await(50)
	if err := os.Mkdir(in("sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	appendTo(t, in("sub/c.log"), bare(50, 10))
	b.await(60)
	rep := f.end(60)
	if len(rep.LeftOut) != 1 || filepath.Base(rep.LeftOut[0].Name) != "LICENSE" {
		t.Errorf("left out %+v", rep.LeftOut)
	}
	b.once(60)

	z, err := os.Create(in("a.log.2.gz"))
	if err != nil {
		t.Fatal(err)
	}
	w := gzip.NewWriter(z)
	if _, err := io.WriteString(w, bare(0, 10)+bare(20, 10)+bare(60, 5)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), z.Close(), os.Remove(in("a.log.1"))); err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-time.Minute)
	if err := os.Chtimes(in("a.log.2.gz"), long, long); err != nil {
		t.Fatal(err)
	}
	f = b.follow(dir)
	b.await(65)
	f.end(5)
	b.once(65)
}

// TestFollowMany follows more files than are read at once.
func TestFollowMany(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	dir := t.TempDir()
	const files = 80
	for i := range files {
		rewrite(t, filepath.Join(dir, fmt.Sprintf("%03d.log", i)), bare(10*i, 10))
	}
	f := b.follow(dir)
	b.await(10 * files)
	for i := range files {
		appendTo(t, filepath.Join(dir, fmt.Sprintf("%03d.log", i)), bare(10*files+i, 1))
	}
	b.await(11 * files)
	f.end(11 * files)
	b.once(11 * files)
}

// TestFollowIsAlone lets nobody else follow or load the same file.
func TestFollowIsAlone(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	path := write(t, "app.log", bare(0, 10))
	f := b.follow(path)
	b.await(10)
	b.opts.Wait = 50 * time.Millisecond
	if _, err := b.try(path); err == nil {
		t.Error("loaded beside a run that follows")
	}
	f.end(10)
}
