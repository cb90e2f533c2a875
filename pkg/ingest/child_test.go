package ingest_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
	"auditdb/pkg/ingest"
	"auditdb/pkg/integrity"
)

// What the parent tells the child besides childEnv, which is the database's address.
const (
	childFile    = "AUDITDB_TEST_INGEST_FILE"
	childKey     = "AUDITDB_TEST_INGEST_KEY"
	childRejects = "AUDITDB_TEST_INGEST_REJECTS"
	childJobs    = "AUDITDB_TEST_INGEST_JOBS"
	childFollow  = "AUDITDB_TEST_INGEST_FOLLOW" // "1": the file grows
)

// child is one ingest in a process of its own.
func child() int {
	if err := childRun(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func childRun() error {
	ctx := context.Background()
	db, err := postgres.Open(ctx, postgres.Options{URL: os.Getenv(childEnv), Application: "ingest-child", LockTimeout: 100 * time.Millisecond})
	if err != nil {
		return err
	}
	defer db.Close()
	keys, err := integrity.LoadKeys(os.Getenv(childKey))
	if err != nil {
		return err
	}
	opts, err := optionsFor(ctx, db, keys)
	if err != nil {
		return err
	}
	opts.BatchRows = 40
	if opts.Jobs, err = strconv.Atoi(os.Getenv(childJobs)); err != nil {
		return err
	}
	if opts.Rejects, err = ingest.OpenRejects(os.Getenv(childRejects)); err != nil {
		return err
	}
	opts.MaxBad = -1
	if os.Getenv(childFollow) != "" {
		opts.Follow = &ingest.Follow{Roots: []string{os.Getenv(childFile)}, Flush: 10 * time.Millisecond, Grace: time.Second}
		_, err = ingest.Run(ctx, opts, nil)
		return err
	}
	sources, err := ingest.Expand([]string{os.Getenv(childFile)}, "", nil)
	if err != nil {
		return err
	}
	_, err = ingest.Run(ctx, opts, sources)
	return err
}

// killsEnv names how often TestKilledAtRandom kills; ten times by default.
const killsEnv = "AUDITDB_TEST_KILLS"

// TestKilledAtRandom kills an ingest again and again, then lets one run to the end: every event is there once, every reject in the file once.
func TestKilledAtRandom(t *testing.T) {
	t.Parallel()
	for _, jobs := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d jobs", jobs), func(t *testing.T) {
			t.Parallel()
			url := pgtest.DB(t)
			b := openBed(t, url)
			b.months("2024-01", 1)
			content := events(0, 9000) + "broken\n" + events(9000, 9000) + "{}\n" + events(18000, 2000)
			file := write(t, "log", content)
			dir := t.TempDir()
			key, rejects := filepath.Join(dir, "key"), filepath.Join(dir, "rejects")
			if err := b.keys.Save(key); err != nil {
				t.Fatal(err)
			}
			env := append(os.Environ(), childEnv+"="+url, childFile+"="+file, childKey+"="+key, childRejects+"="+rejects, childJobs+"="+strconv.Itoa(jobs))
			kills, committed := 10, int64(0)
			if n, err := strconv.Atoi(os.Getenv(killsEnv)); err == nil {
				kills = n
			}
			for i := range kills {
				cmd := exec.CommandContext(t.Context(), os.Args[0])
				cmd.Env = env
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				// Killed once it has committed something new, at no particular point of what it does then.
				more := committed + int64(100+i*137%1000)
				for deadline := time.Now().Add(20 * time.Second); committed < more && time.Now().Before(deadline); {
					committed = b.count(`SELECT coalesce(sum(inserted), 0) FROM auditdb.ingest_range`)
				}
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				_ = cmd.Wait()
				committed = b.count(`SELECT coalesce(sum(inserted), 0) FROM auditdb.ingest_range`)
			}
			t.Logf("%d of 20000 rows after the last kill", committed)
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = env
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("last run: %v\n%s", err, out)
			}
			if n := b.count(`SELECT count(*) FROM public.audit_log`); n != 20000 {
				t.Errorf("%d rows", n)
			}
			if n := b.count(`SELECT count(DISTINCT event_uid) FROM public.audit_log`); n != 20000 {
				t.Errorf("%d events", n)
			}
			if n := len(readRejects(t, rejects)); n != 2 {
				t.Errorf("%d rejects", n)
			}
			b.checkLeaves()
		})
	}
}
