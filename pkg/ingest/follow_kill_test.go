package ingest_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"auditdb/internal/pgtest"
)

// rotatingWriter writes events to a log and rotates it, by either way, as programs and logrotate do.
type rotatingWriter struct {
	t        testing.TB
	path     string
	truncate bool
	known    bool // something of it was committed: what is rotated from now on is looked for
	written  int
	rotated  int
	random   *rand.Rand
}

// write appends some events in pieces that do not end with lines, and rotates now and then: older files get higher numbers.
func (w *rotatingWriter) write() {
	n := 1 + w.random.IntN(40)
	text := bare(w.written, n)
	w.written += n
	cut := w.random.IntN(len(text))
	appendTo(w.t, w.path, text[:cut])
	appendTo(w.t, w.path, text[cut:])
	if w.random.IntN(25) > 0 || !w.known {
		return
	}
	for i := w.rotated; i > 0; i-- {
		rename(w.t, fmt.Sprintf("%s.%d", w.path, i), fmt.Sprintf("%s.%d", w.path, i+1))
	}
	w.rotated++
	if w.truncate {
		copyTruncate(w.t, w.path, w.path+".1")
	} else {
		rename(w.t, w.path, w.path+".1")
	}
}

// killFollower kills a run that follows a rotating log (or its folder) so many times at no particular moment, and compares at the end.
func killFollower(t *testing.T, kills int, truncate, folder bool) {
	t.Helper()
	url := pgtest.DB(t)
	b := openBed(t, url)
	b.months("2024-01", 1)
	dir := t.TempDir()
	seed := uint64(time.Now().UnixNano())
	w := &rotatingWriter{t: t, path: filepath.Join(dir, "app.log"), truncate: truncate, random: rand.New(rand.NewPCG(seed, 1))}
	key := filepath.Join(t.TempDir(), "key")
	if err := b.keys.Save(key); err != nil {
		t.Fatal(err)
	}
	root := w.path
	if folder {
		root = dir
	}
	env := append(os.Environ(), childEnv+"="+url, childFile+"="+root, childKey+"="+key, childRejects+"="+filepath.Join(t.TempDir(), "rejects"), childJobs+"=2", childFollow+"=1")
	start := func() *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = env
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range kills {
		cmd := start()
		before := b.rows()
		more := int64(1 + w.random.IntN(400))
		for deadline := time.Now().Add(20 * time.Second); b.rows() < before+more && time.Now().Before(deadline); {
			w.known = w.known || b.rows() > 0
			w.write()
			<-tick.C
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		for range w.random.IntN(20) { // nobody looks
			w.write()
		}
	}
	cmd := start()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for b.rows() < int64(w.written) && ctx.Err() == nil {
		<-tick.C
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	b.once(int64(w.written))
	t.Logf("%d events, %d rotations, %d kills (seed %d)", w.written, w.rotated, kills, seed)
}

func TestFollowKilled(t *testing.T) {
	t.Parallel()
	for _, truncate := range []bool{false, true} {
		t.Run(fmt.Sprintf("truncate %t", truncate), func(t *testing.T) {
			t.Parallel()
			killFollower(t, 3, truncate, truncate)
		})
	}
}
