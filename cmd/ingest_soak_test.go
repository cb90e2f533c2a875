//go:build soak

package cmd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/pgtest"
	"auditdb/internal/sample"
)

// sampleEvents makes a file of n events of January and February 2024, different ones for each seed.
func sampleEvents(t *testing.T, seed uint64, n int) string {
	t.Helper()
	var text bytes.Buffer
	o := sample.Options{Seed: seed, Events: n, From: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), To: time.Date(2024, 3, 1, 0, 0, 0, 0, time.UTC)}
	if err := sample.WriteNDJSON(&text, o); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), fmt.Sprintf("events-%d.ndjson", seed))
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// For a minute, eight ingesters, an application that inserts, a loop that seals and one that verifies work on one table: no finding, the log
// has no gap, every event is there once.
func TestSoakEverybodyAtOnce(t *testing.T) {
	p := processes(t, pgtest.DB(t))
	p.must("partition", "create", "--from", "2024-01", "--to", "2024-03")
	var files []string
	for i := range 8 {
		files = append(files, sampleEvents(t, uint64(i+1), 2000))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	var ingested, inserted, seals, verified atomic.Int64
	loop := func(do func(n int)) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := 0; ctx.Err() == nil; n++ {
				do(n)
			}
		}()
	}
	try := func(args ...string) {
		if code, text := p.run(t.Context(), args...); code != 0 {
			t.Errorf("auditdb %s: exit %d: %s", strings.Join(args, " "), code, text)
			cancel()
		}
	}
	for i, file := range files {
		loop(func(n int) { // event_uid makes each file new only once, so the same events come as others
			text, err := os.ReadFile(file)
			if err != nil {
				t.Error(err)
				return
			}
			again := filepath.Join(t.TempDir(), "again.ndjson")
			if err := os.WriteFile(again, bytes.ReplaceAll(text, []byte(`"event_uid":"`), fmt.Appendf(nil, `"event_uid":"%d-`, n)), 0o600); err != nil {
				t.Error(err)
				return
			}
			try("ingest", "--quiet", "--source", fmt.Sprintf("%d-%d", i, n), "--jobs", "2", again)
			ingested.Add(2000)
		})
	}
	conn, err := pgx.Connect(t.Context(), p.url)
	if err != nil {
		t.Fatal(err)
	}
	loop(func(n int) {
		_, err := conn.Exec(t.Context(), `INSERT INTO public.audit_log ("timestamp", action, status) SELECT '2024-01-10', 'foreign', 's' FROM generate_series(1, 1 + $1::int % 50)`, n)
		if err != nil {
			t.Error(err)
			cancel()
		}
		inserted.Add(int64(1 + n%50))
	})
	loop(func(int) { try("integrity", "seal", "--quiet"); seals.Add(1) })
	loop(func(int) { try("verify-integrity", "--quiet"); verified.Add(1) })
	wg.Wait()
	_ = conn.Close(t.Context())
	p.must("integrity", "seal")
	var report struct {
		OK            bool  `json:"ok"`
		RowsChecked   int64 `json:"rows_checked"`
		UnsealedRows  int64 `json:"unsealed_rows"`
		FindingsTotal int64 `json:"findings_total"`
	}
	out := p.must("verify-integrity", "-o", "json")
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	if want := ingested.Load() + inserted.Load(); !report.OK || report.FindingsTotal != 0 || report.UnsealedRows != 0 || report.RowsChecked != want {
		t.Errorf("%d rows wanted: %s", want, out)
	}
	if gap := p.scan("SELECT count(*) - 1 - max(seq) FROM auditdb.log"); gap != "0" {
		t.Errorf("the log has a gap: %s", gap)
	}
	t.Logf("%d events ingested, %d rows inserted, %d seals, %d verifications, %s records", ingested.Load(), inserted.Load(), seals.Load(), verified.Load(), p.scan("SELECT count(*) FROM auditdb.log"))
}

// The server is killed 25 times while events are taken in, at no particular moment of a run that has begun: it goes on by itself when the server is
// back, and every event is there once.
func TestSoakServerKilled(t *testing.T) {
	pg := pgtest.Server(t)
	conn, err := pgx.Connect(t.Context(), pg.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "CREATE DATABASE audit"); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close(t.Context())
	p := processes(t, pg.URL("audit"))
	p.must("migrate", "up")
	p.must("partition", "create", "--from", "2024-01", "--to", "2024-03")
	const events = 300_000
	file := sampleEvents(t, 1, events)
	kills, runs := 0, 0
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	for kills < 25 {
		cmd, _, stderr := p.command(t.Context(), "ingest", "--jobs", "2", "--batch-size", "500", "--wait", "60s", file)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		runs++
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		// A server that is away when a run begins is an error, as for any command.
		for p.scan("SELECT count(*) FROM auditdb.ingest_range") == "0" && cmd.ProcessState == nil {
			time.Sleep(time.Millisecond)
		}
		for running := true; running && kills < 25; {
			select {
			case err := <-done:
				if running = false; err != nil {
					t.Fatalf("%v: %s", err, stderr)
				}
			case <-time.After(time.Duration(random.IntN(500)) * time.Millisecond):
				if err := pg.Kill(t.Context()); err != nil {
					t.Fatal(err)
				}
				kills++
				if err := pg.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		if kills == 25 {
			if err := <-done; err != nil {
				t.Fatalf("%v: %s", err, stderr)
			}
			break
		}
		p.exec("SET session_replication_role = replica; TRUNCATE auditdb.ingest_source CASCADE") // all of it was taken in: once more, as duplicates
	}
	if got := p.scan("SELECT count(*) || ' ' || count(DISTINCT event_uid) FROM public.audit_log"); got != fmt.Sprintf("%d %d", events, events) {
		t.Errorf("rows and distinct events: %s", got)
	}
	p.must("verify-integrity")
	t.Logf("%d kills in %d runs", kills, runs)
}
