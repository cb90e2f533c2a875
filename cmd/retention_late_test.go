package cmd

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/pgtest"
)

// stepped is a database with two expired months of 60 rows each, the last of which is in no leaf set yet, that is cloned for each run.
type stepped struct {
	process
	template string
}

const (
	monthsSQL = `SELECT m FROM (VALUES ('2022-01-01Z'::timestamptz), ('2022-02-01Z')) v (m)`
	rowsSQL   = `INSERT INTO audit_log (timestamp, action, status, details) SELECT m + i * interval '1 minute', 'read', 'ok', jsonb_build_object('i', i)
		FROM (` + monthsSQL + `) m, generate_series(%d, %d) i`
)

func newStepped(t *testing.T) *stepped {
	t.Helper()
	p := processes(t, pgtest.DB(t), "AWS_ACCESS_KEY_ID=k", "AWS_SECRET_ACCESS_KEY=s")
	p.must("partition", "create")
	p.must("partition", "create", "--from", "2022-01", "--to", "2022-03")
	p.exec(strings.NewReplacer("%d, %d", "1, 59").Replace(rowsSQL))
	p.must("integrity", "seal")
	p.exec(strings.NewReplacer("%d, %d", "60, 60").Replace(rowsSQL))
	p.must("retention", "policy", "set", "--keep", "1y", "--yes")
	config, err := pgx.ParseConfig(p.url)
	if err != nil {
		t.Fatal(err)
	}
	return &stepped{p, config.Database}
}

// clone gives a copy of the database.
func (s *stepped) clone(t *testing.T) string {
	t.Helper()
	url := pgtest.Empty(t)
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	admin := s.process
	admin.t, admin.url = t, strings.Replace(s.url, "/"+s.template+"?", "/postgres?", 1)
	admin.exec("DROP DATABASE " + config.Database)
	admin.exec("CREATE DATABASE " + config.Database + " TEMPLATE " + s.template)
	return url
}

// trial is a run on a copy of the database that is killed, and what comes after.
type trial struct {
	process
	store http.Handler
}

// run gives the exit code, -1 where the gate has shut, or more is closed, and the run was killed.
func (x trial) run(at func(string) bool, more ...chan struct{}) (code int, text string) {
	x.t.Helper()
	g, address, bucket, end := newGate(x.t, x.url, x.store, at)
	p := x.process
	p.url, p.env = address, append(slices.Clone(p.env), "AUDITDB_ARCHIVE_URL="+bucket)
	ctx, kill := context.WithCancel(x.t.Context())
	defer kill()
	for _, end := range append(more, g.shut) {
		go func() {
			select {
			case <-end:
				kill()
			case <-ctx.Done():
			}
		}()
	}
	code, text = p.run(ctx, "retention", "run", "--yes", "--wait", "60s")
	kill()
	end()
	return code, text
}

// open gives the process the store, without anything in between.
func (x trial) open() process {
	site := httptest.NewServer(x.store)
	x.t.Cleanup(site.Close)
	p := x.process
	p.env = append(slices.Clone(p.env), "AUDITDB_ARCHIVE_URL=s3://audit/prefix?region=us-east-1&endpoint="+site.URL)
	return p
}

// safe makes sure that every row is in the table, in what was detached of it, or in an archive that reads back.
func (x trial) safe(p process, rows string) {
	x.t.Helper()
	p.must("retention", "archive", "verify")
	for _, month := range []string{"2022_01", "2022_02"} {
		table := "audit_log_" + month
		if x.scan("SELECT to_regclass('public."+table+"') IS NOT NULL") == "t" {
			if n := x.scan("SELECT count(*) FROM " + table); n != rows {
				x.t.Errorf("%s has %s rows of %s", table, n, rows)
			}
		} else if n := x.scan("SELECT coalesce(max(rows), 0) FROM auditdb.archive WHERE part_name = '" + table + "' AND verified_at IS NOT NULL"); n != rows {
			x.t.Errorf("%s is gone, and its archive has %s rows of %s", table, n, rows)
		}
	}
}

// converges makes sure that the next run finishes the work, and that nothing is left to do or wrong afterwards.
func (x trial) converges(p process, rows string) {
	x.t.Helper()
	p.must("retention", "run", "--yes", "--wait", "60s")
	x.safe(p, rows)
	if n := x.scan("SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'audit\\_log\\_2022%'"); n != "0" {
		x.t.Errorf("%s expired tables are left", n)
	}
	p.must("verify-integrity", "--archives")
	if text := p.must("retention", "run", "--yes", "-o", "json"); strings.Contains(text, `"step": "archive"`) || strings.Contains(text, `"state": "finding"`) || strings.Contains(text, `"pruned"`) {
		x.t.Errorf("another run does something: %s", text)
	}
}

func (s *stepped) trial(t *testing.T) trial {
	t.Helper()
	x := trial{s.process, newStore(t)}
	x.t, x.url = t, s.clone(t)
	return x
}

// A row that comes after a partition was verified, before it is detached, is not lost: not when the run goes on, and not when it is killed with the
// partition detached and not looked at again.
func TestRetentionKeepsLateRows(t *testing.T) {
	t.Parallel()
	s := newStepped(t)
	for kill, want := range map[bool]int{false: 6, true: -1} {
		t.Run(fmt.Sprintf("killed %t", kill), func(t *testing.T) {
			t.Parallel()
			x := s.trial(t)
			detach, recheck := inTurn("DETACH PARTITION"), inTurn("DETACH PARTITION", "FILTER")
			came := false
			code, text := x.run(func(request string) bool {
				if !came && detach(request) {
					came = true
					x.exec(`INSERT INTO audit_log (timestamp, action, status) VALUES ('2022-01-15Z', 'late', 'ok')`)
				}
				return kill && recheck(request)
			})
			if code != want {
				t.Fatalf("exit %d: %s", code, text)
			}
			p := x.open()
			if code, text := p.run(t.Context(), "retention", "run", "--yes", "--wait", "60s"); code != 0 && code != 6 {
				t.Errorf("exit %d: %s", code, text)
			}
			p.must("retention", "run", "--yes", "--wait", "60s")
			if n := x.scan("SELECT rows FROM auditdb.archive WHERE part_name = 'audit_log_2022_01' ORDER BY generation DESC LIMIT 1"); n != "61" {
				t.Errorf("the archive has %s rows", n)
			}
			if n := x.scan("SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'audit\\_log\\_2022%'"); n != "0" {
				t.Errorf("%s expired tables are left", n)
			}
			p.must("retention", "archive", "verify")
			p.must("verify-integrity", "--archives")
		})
	}
}

// What was detached when no archive was asked for, by a run that was killed, is a partition again when one is, and is archived before it goes.
func TestRetentionArchivesWhatWasDetached(t *testing.T) {
	t.Parallel()
	s := newStepped(t)
	x := s.trial(t)
	x.must("retention", "policy", "set", "--keep", "1y", "--archive", "none", "--yes")
	if code, text := x.run(inTurn("DETACH PARTITION", "FILTER")); code != -1 {
		t.Fatalf("exit %d: %s", code, text)
	}
	x.must("retention", "policy", "set", "--keep", "1y", "--archive", "required", "--yes")
	x.converges(x.open(), "60")
}

// A detach that a reader holds up is killed with its session. The next run ends it when the reader has gone.
func TestRetentionKilledWhileDetaching(t *testing.T) {
	t.Parallel()
	s := newStepped(t)
	x := s.trial(t)
	reader, err := pgx.Connect(t.Context(), x.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close(context.WithoutCancel(t.Context())) }()
	pending := make(chan struct{})
	detach := inTurn("DETACH PARTITION")
	begun := false
	code, text := x.run(func(request string) bool {
		if !begun && detach(request) {
			begun = true
			if _, err := reader.Exec(t.Context(), "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM audit_log"); err != nil {
				t.Error(err)
			}
			go func() {
				defer close(pending)
				x.eventually("SELECT EXISTS (SELECT FROM pg_inherits WHERE inhdetachpending)")
			}()
		}
		return false
	}, pending)
	if code != -1 {
		t.Fatalf("exit %d: %s", code, text)
	}
	const detaching = " FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE 'ALTER TABLE%DETACH PARTITION%'"
	x.exec("SELECT pg_terminate_backend(pid)" + detaching)
	x.eventually("SELECT NOT EXISTS (SELECT" + detaching + ")")
	p := x.open()
	x.safe(p, "60")
	if code, text := p.run(t.Context(), "retention", "run", "--yes", "--wait", "1s"); code != 5 {
		t.Errorf("with the reader: exit %d: %s", code, text)
	}
	x.safe(p, "60")
	if _, err := reader.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	x.converges(p, "60")
}

// eventually waits until a condition in SQL is true.
func (x trial) eventually(condition string) {
	x.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(time.Minute); x.scan(condition) != "t"; <-tick.C {
		if time.Now().After(limit) {
			x.t.Errorf("%s: not within a minute", condition)
			return
		}
	}
}
