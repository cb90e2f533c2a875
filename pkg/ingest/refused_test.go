package ingest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/ingest"
	"auditdb/pkg/integrity"
)

// The wrong key is refused before anything is tried, in a dry run as well.
func TestWrongKey(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	b.run(write(t, "log", events(0, 10)))
	other, err := integrity.Generate("ingest.test")
	if err != nil {
		t.Fatal(err)
	}
	b.opts.Log = integrity.NewLog(other)
	for _, dry := range []bool{true, false} {
		b.opts.DryRun = dry
		rep, err := b.try(write(t, "other", events(10, 10)))
		if fault.ClassOf(err) != fault.Config || !strings.Contains(err.Error(), "wrong_key") || rep.Begun {
			t.Errorf("dry run %t: error %v, report %+v", dry, err, rep)
		}
	}
}

// A table that is locked is waited for; then the error names the session that has it.
func TestLockedTable(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	b.run(write(t, "log", events(0, 10)))
	tx, err := b.db.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	holder := fmt.Sprintf("blocked by pid %d (", tx.Conn().PgConn().PID())
	b.opts.Wait = 300 * time.Millisecond
	for _, mode := range []string{"SHARE", "ACCESS EXCLUSIVE"} {
		if _, err := tx.Exec(t.Context(), "LOCK TABLE public.audit_log IN "+mode+" MODE"); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, err = b.try(write(t, "other", events(10, 10)))
		if fault.ClassOf(err) != fault.Locked || !strings.Contains(err.Error(), holder) || time.Since(start) < b.opts.Wait {
			t.Errorf("%s: after %s: %v", mode, time.Since(start), err)
		}
	}
	b.opts.DryRun = true
	if _, err := b.try(write(t, "other", events(10, 10))); fault.ClassOf(err) != fault.Locked || !strings.Contains(err.Error(), holder) {
		t.Errorf("dry run: %v", err)
	}
	b.opts.DryRun, b.opts.Wait = false, time.Minute
	sources, err := ingest.Expand([]string{write(t, "third", events(20, 10))}, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := ingest.Run(t.Context(), b.opts, sources)
		done <- err
	}()
	for b.count(`SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'public.audit_log_2024_01'::regclass`) == 0 && t.Context().Err() == nil {
		continue
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || b.rows() != 20 {
		t.Errorf("%v, %d rows", err, b.rows())
	}
}

// In a folder other files are left out; a file that was named is one that could not be read. Neither stops the others.
func TestForeignFiles(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	dir := t.TempDir()
	put := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("LICENSE", "Permission is hereby granted, free of charge\nto any person, and so on\n")
	put("image", "\x89PNG\r\n\x1a\n\x00\x00")
	put("a.ndjson", events(0, 3))
	put("z.csv", "timestamp,action,status\n2024-01-02T00:00:00Z,a,s\n")
	rep := b.run(dir)
	if rep.Inserted != 4 || len(rep.Sources) != 2 || len(rep.LeftOut) != 2 || rep.LeftOut[0].Name != filepath.Join(dir, "LICENSE") {
		t.Fatalf("%+v", rep)
	}
	put("s.csv", "timestamp;action;status\n2024-01-02T00:00:00Z;a;s\n")
	put("t.ndjson", events(3, 1))
	rep, err := b.try(dir)
	if fault.ClassOf(err) != fault.Data || !strings.Contains(err.Error(), "separated by semicolons") || rep.Inserted != 1 {
		t.Errorf("semicolons: %v, %+v", err, rep)
	}
	put("u.ndjson", events(4, 1))
	rep, err = b.try(filepath.Join(dir, "LICENSE"), filepath.Join(dir, "u.ndjson"))
	if fault.ClassOf(err) != fault.Data || rep.Inserted != 1 || len(rep.LeftOut) != 0 {
		t.Errorf("named: %v, %+v", err, rep)
	}
}

// The integrity log's own lock is waited for as long as --wait says, but at least a second; then the error names who has it.
func TestLockedLog(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.months("2024-01", 1)
	b.run(write(t, "log", events(0, 10)))
	tx, err := b.db.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT pg_advisory_xact_lock($1)", postgres.LockKey("log")); err != nil {
		t.Fatal(err)
	}
	b.opts.Wait = 300 * time.Millisecond
	holder := fmt.Sprintf("the integrity log is held by pid %d (", tx.Conn().PgConn().PID())
	for name, content := range map[string]string{"rows": events(10, 10), "duplicates only": events(0, 10)} {
		start := time.Now()
		_, err = b.try(write(t, "other", content))
		if took := time.Since(start); fault.ClassOf(err) != fault.Locked || !strings.Contains(err.Error(), holder) || took < time.Second || took > 30*time.Second {
			t.Errorf("%s: after %s: %v", name, took, err)
		}
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rep := b.run(write(t, "other", events(10, 10))); rep.Inserted != 10 {
		t.Errorf("report %+v", rep)
	}
}
