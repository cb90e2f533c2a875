package cmd

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/pgtest"
)

// Two runs at once through a pooler, while applications write and one reads for long: the writers go on, the reader sees what it saw, what it
// holds up waits for it, and each row ends in the table or in an archive, once.
func TestRetentionAmongOthers(t *testing.T) {
	t.Parallel()
	s := newStepped(t)
	x := s.trial(t)
	p := x.open()
	config, err := pgx.ParseConfig(p.url)
	if err != nil {
		t.Fatal(err)
	}
	pooled := p
	pooled.url = pgtest.PgBouncer(t, pgtest.Shared(t), "session")(config.Database)

	written, end := writing(t, p.url, 2)
	reader, err := pgx.Connect(t.Context(), p.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close(context.WithoutCancel(t.Context())) }()
	if _, err := reader.Exec(t.Context(), "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM audit_log"); err != nil {
		t.Fatal(err)
	}
	if code, text := pooled.run(t.Context(), "retention", "run", "--yes", "--wait", "1s"); code != 5 {
		t.Errorf("with the reader: exit %d: %s", code, text)
	}
	if n := x.scan("SELECT count(*) FROM auditdb.archive WHERE verified_at IS NOT NULL"); n != "2" {
		t.Errorf("%s partitions were archived", n)
	}
	x.safe(p, "60")

	codes := make(chan int, 2)
	for range 2 {
		go func() {
			code, text := pooled.run(t.Context(), "retention", "run", "--yes", "--wait", "60s")
			if code != 0 {
				t.Errorf("exit %d: %s", code, text)
			}
			codes <- code
		}()
	}
	x.eventually("SELECT count(*) > 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'auditdb%'")
	reaches(t, written, written.Load()+100) // the writers do not queue behind it
	var rows int
	if err := reader.QueryRow(t.Context(), "SELECT count(*) FROM audit_log WHERE timestamp < '2023-01-01Z'").Scan(&rows); err != nil || rows != 120 {
		t.Errorf("the reader sees %d rows, %v", rows, err)
	}
	if _, err := reader.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	<-codes
	<-codes
	total := end()
	p.must("integrity", "seal")
	x.converges(p, "60")
	if n := x.scan("SELECT count(*) FROM audit_log WHERE action = 'write'"); n != total {
		t.Errorf("%s rows of the writers are left of %s", n, total)
	}
}

// writing inserts rows of today from several sessions at once, and counts them, until end is called.
func writing(t *testing.T, url string, sessions int) (written *atomic.Int64, end func() (total string)) {
	t.Helper()
	written = &atomic.Int64{}
	var over atomic.Bool
	var wg sync.WaitGroup
	for range sessions {
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
			for !over.Load() {
				if _, err := conn.Exec(t.Context(), "INSERT INTO audit_log (timestamp, action, status) VALUES (now(), 'write', 'ok')"); err != nil {
					t.Errorf("a writer: %v", err)
					return
				}
				written.Add(1)
			}
		})
	}
	return written, func() string {
		over.Store(true)
		wg.Wait()
		return strconv.FormatInt(written.Load(), 10)
	}
}

// reaches waits until so many rows have been written.
func reaches(t *testing.T, written *atomic.Int64, goal int64) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(time.Minute); written.Load() < goal; <-tick.C {
		if time.Now().After(limit) {
			t.Fatal("the writers do not go on")
		}
	}
}
