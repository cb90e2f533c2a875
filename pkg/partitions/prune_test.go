package partitions

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"auditdb/internal/fault"
)

// old is a registered table with three partitions of 2024, ten rows each, and those around now.
func old(t *testing.T, statements ...string) *base {
	t.Helper()
	b := migrated(t).realClock()
	tab := b.table("audit_log")
	b.create(tab, exactly(t, "2024-01-01", "2024-04-01"))
	b.create(tab, exactly(t, time.Now().UTC().Format(time.DateOnly), time.Now().UTC().AddDate(0, 2, 0).Format(time.DateOnly)))
	b.ledger.events = nil
	b.exec(append([]string{`INSERT INTO audit_log (timestamp, action, status) SELECT '2024-01-01Z'::timestamptz + i * interval '3 days', 'a', 'b' FROM generate_series(0, 29) i`}, statements...)...)
	return b
}

func names[T any](parts []T, name func(T) string) (out []string) {
	for _, p := range parts {
		out = append(out, name(p))
	}
	return out
}

func goneNames(done []Pruned) []string { return names(done, func(p Pruned) string { return p.Name }) }

func reasonOf(d *PruneDraft, name string) Reason {
	for _, k := range d.Kept {
		if k.Name == name {
			return k.Reason
		}
	}
	return ""
}

func (b *base) exists(name string) bool {
	b.t.Helper()
	return value[bool](b, "SELECT to_regclass($1) IS NOT NULL", name)
}

func TestPrune(t *testing.T) {
	t.Parallel()
	b := old(t)
	tab := b.table("audit_log")
	done, d := b.prune(tab, PruneOptions{})
	if len(done) != 0 || d.Cutoff != nil || reasonOf(d, "audit_log_2024_01") != KeptNoPolicy {
		t.Fatalf("without a policy: %v %+v", done, d.Kept)
	}
	done, d = b.prune(tab, before(t, "2024-03-15"))
	if got := goneNames(done); !slices.Equal(got, []string{"audit_log_2024_01", "audit_log_2024_02"}) || done[0].Rows != 11 || done[1].Rows != 9 || done[0].SizeBytes < 8192 || done[0].SizeEstimated {
		t.Errorf("%+v", done)
	}
	if b.exists("public.audit_log_2024_01") || reasonOf(d, "audit_log_2024_03") != KeptNotExpired {
		t.Errorf("%+v", d.Kept)
	}
	want := []EventKind{EventDetached, EventPruned, EventDetached, EventPruned}
	if got := b.ledger.kinds(); !slices.Equal(got, want) || b.ledger.events[1].Rows != 11 || b.ledger.events[1].Evidence != int64(11) || b.ledger.events[1].Name != "audit_log_2024_01" {
		t.Errorf("recorded %v", got)
	}
	if done, _ := b.prune(tab, before(t, "2024-03-15")); len(done) != 0 {
		t.Errorf("a second run: %v", done)
	}
}

func TestPruneGuards(t *testing.T) {
	t.Parallel()
	one, two := 1, 2
	for name, c := range map[string]struct {
		setup   string
		options PruneOptions
		goes    string
		reasons map[string]Reason
	}{
		"policy":      {`INSERT INTO auditdb.policy (table_id, name, keep, archive_required) VALUES (1, 'base', '1 year', false)`, PruneOptions{}, "audit_log_2024_01 audit_log_2024_02 audit_log_2024_03", nil},
		"archive":     {`INSERT INTO auditdb.policy (table_id, name, keep) VALUES (1, 'base', '1 year')`, PruneOptions{}, "", map[string]Reason{"audit_log_2024_01": KeptNotArchived}},
		"longer rule": {`INSERT INTO auditdb.policy (table_id, name, keep, archive_required, data_classification) VALUES (1, 'base', '1 year', false, NULL), (1, 'phi', '10 years', true, 'PHI')`, PruneOptions{}, "", map[string]Reason{"audit_log_2024_01": KeptNotExpired}},
		"floor": {
			`INSERT INTO auditdb.policy (table_id, name, keep, archive_required) VALUES (1, 'base', '1 year', false); INSERT INTO auditdb.floor VALUES ('default', '50 years')`,
			PruneOptions{},
			"",
			map[string]Reason{"audit_log_2024_01": KeptNotExpired},
		},
		"archived": {
			`INSERT INTO auditdb.policy (table_id, name, keep) VALUES (1, 'base', '1 year');
			 INSERT INTO auditdb.archive (table_id, part_name, part_from, part_to, url, format, rows, bytes, sha256, root, log_size, verified_at)
			 VALUES (1, 'x', '2024-02-01Z', '2024-03-01Z', 'u', 'f', 1, 1, '', '', 1, now()), (1, 'y', '2024-01-01Z', '2024-02-01Z', 'v', 'f', 1, 1, '', '', 1, NULL)`,
			PruneOptions{},
			"audit_log_2024_02",
			map[string]Reason{"audit_log_2024_01": KeptNotArchived},
		},
		"erased since it was archived": {
			`INSERT INTO auditdb.policy (table_id, name, keep) VALUES (1, 'base', '1 year');
			 INSERT INTO auditdb.archive (table_id, part_name, part_from, part_to, url, format, rows, bytes, sha256, root, log_size, verified_at)
			 VALUES (1, 'x', '2024-02-01Z', '2024-03-01Z', 'u', 'f', 1, 1, '', '', 5, now()), (1, 'y', '2024-01-01Z', '2024-02-01Z', 'v', 'f', 1, 1, '', '', 5, now());
			 SET LOCAL session_replication_role = replica;
			 INSERT INTO auditdb.leaf (seq, table_id, part_from, part_to, min_id, max_id, n, ids, leaves) VALUES (1, 1, '2024-01-01Z', '2024-02-01Z', 1, 1, 1, '', sha256('')),
			   (2, 1, '2024-02-01Z', '2024-03-01Z', 11, 20, 1, '', sha256(''));
			 INSERT INTO auditdb.redaction (table_id, id, seq, pers_commit) VALUES (1, 1, 4, sha256('')), (1, 15, 5, sha256(''))`,
			PruneOptions{},
			"audit_log_2024_01",
			map[string]Reason{"audit_log_2024_02": KeptNotArchived},
		},
		"hold":          {`INSERT INTO auditdb.hold (span, principal_id, reason) VALUES ('[2024-01-31T23:00Z,2024-02-01Z]', 'x', 'lawsuit')`, before(t, "2025-01-01"), "audit_log_2024_03", map[string]Reason{"audit_log_2024_01": KeptHold, "audit_log_2024_02": KeptHold}},
		"released hold": {`INSERT INTO auditdb.hold (reason, released_at, released_by) VALUES ('lawsuit', now(), 'me')`, PruneOptions{OlderThan: before(t, "2024-02-01").OlderThan}, "audit_log_2024_01", nil},
		"max drop":      {``, PruneOptions{OlderThan: before(t, "2025-01-01").OlderThan, MaxDrop: &one}, "audit_log_2024_01", map[string]Reason{"audit_log_2024_02": KeptMaxDrop}},
		"min keep": {
			``, PruneOptions{OlderThan: before(t, "2025-01-01").OlderThan, MinKeep: &two}, "audit_log_2024_01 audit_log_2024_02", map[string]Reason{"audit_log_2024_03": KeptMinKeep},
		},
		"the future": {``, before(t, "2097-01-01"), "audit_log_2024_01 audit_log_2024_02 audit_log_2024_03", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := old(t, c.setup)
			done, d := b.prune(b.table("audit_log"), c.options)
			if got := strings.Join(goneNames(done), " "); got != c.goes {
				t.Errorf("pruned %q, want %q", got, c.goes)
			}
			for name, want := range c.reasons {
				if got := reasonOf(d, name); got != want {
					t.Errorf("%s kept because of %q, want %q", name, got, want)
				}
			}
			if left := b.catalog(d.Table).Len(); left != 3+3-len(done) {
				t.Errorf("%d partitions left", left)
			}
		})
	}
}

func TestPruneNamed(t *testing.T) {
	t.Parallel()
	b := old(t, `INSERT INTO auditdb.hold (span, reason) VALUES ('[2024-01-01Z,2024-01-02Z)', 'lawsuit')`)
	tab := b.table("audit_log")
	for name, class := range map[string]fault.Class{"audit_log_2024_01": fault.Refused, "nothing": fault.Usage, "audit_log": fault.Usage} {
		o := before(t, "2025-01-01")
		o.Partition = name
		_, _, err := b.tryPrune(tab, o)
		wantClass(t, err, class)
	}
	_, _, err := b.tryPrune(tab, PruneOptions{Partition: "audit_log_2024_02"})
	wantClass(t, err, fault.Refused)
	o := before(t, "2025-01-01")
	o.Partition = "public.audit_log_2024_02"
	if done, _ := b.prune(tab, o); !slices.Equal(goneNames(done), []string{"audit_log_2024_02"}) {
		t.Errorf("%v", done)
	}
}

func TestPruneDetaches(t *testing.T) {
	t.Parallel()
	b := old(t, `COMMENT ON TABLE audit_log_2024_01 IS 'mine'`)
	tab := b.table("audit_log")
	o := before(t, "2024-03-01")
	o.Action = Detach
	done, _ := b.prune(tab, o)
	if len(done) != 2 || done[0].Action != Detach || done[0].Rows != 11 {
		t.Errorf("%+v", done)
	}
	if n := value[int64](b, "SELECT count(*) FROM public.audit_log_2024_01"); n != 11 {
		t.Errorf("%d rows kept in the detached table", n)
	}
	if got := value[string](b, "SELECT obj_description('public.audit_log_2024_01'::regclass)"); !strings.HasSuffix(got, "\nmine") {
		t.Errorf("comment %q", got)
	}
	// A later prune that drops does not touch what was detached on purpose.
	b.prune(tab, before(t, "2024-04-01"))
	if !b.exists("public.audit_log_2024_01") || b.exists("public.audit_log_2024_03") {
		t.Error("dropped the wrong tables")
	}
	o.Partition = "audit_log_2024_01"
	_, _, err := b.tryPrune(tab, o)
	wantClass(t, err, fault.Refused)
}

func TestPruneWithADefault(t *testing.T) {
	t.Parallel()
	b := old(t, `CREATE TABLE audit_log_rest PARTITION OF audit_log DEFAULT`)
	done, d := b.prune(b.table("audit_log"), before(t, "2024-03-01"))
	if len(done) != 2 || reasonOf(d, "audit_log_rest") != KeptDefault || !b.exists("public.audit_log_rest") {
		t.Errorf("%+v %+v", done, d.Kept)
	}
	if want := []EventKind{EventDetached, EventPruned, EventDetached, EventPruned}; !slices.Equal(b.ledger.kinds(), want) {
		t.Errorf("recorded %v", b.ledger.kinds())
	}
}

// A run that was killed between DETACH and DROP, or inside DETACH, is finished by the next one.
func TestPruneConverges(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]string{
		"between DETACH and DROP": `ALTER TABLE audit_log DETACH PARTITION audit_log_2024_01`,
		"inside DETACH":           `SET lock_timeout = '200ms'; ALTER TABLE audit_log DETACH PARTITION audit_log_2024_01 CONCURRENTLY`,
		"before DETACH":           ``,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := old(t)
			tab := b.table("audit_log")
			p := b.catalog(tab).All()[0]
			p.comment = "what was there"
			b.exec(commentSQL(p, tab.mark(p, Drop, "")))
			reader := b.conn()
			tx, err := reader.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(leave, "CONCURRENTLY") {
				if _, err := tx.Exec(t.Context(), "SELECT FROM audit_log LIMIT 1"); err != nil {
					t.Fatal(err)
				}
				conn := b.conn()
				for _, sql := range strings.Split(leave, "; ") {
					_, err = conn.Exec(t.Context(), sql)
				}
				if err == nil {
					t.Fatal("the detach was not interrupted")
				}
			} else {
				b.exec(leave)
			}
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := map[string]State{"between DETACH and DROP": Detached, "inside DETACH": DetachPending, "before DETACH": Attached}[name]
			c := b.catalog(tab)
			all := append(slices.Clone(c.All()), c.Leftovers()...)
			i := slices.IndexFunc(all, func(q Partition) bool { return q.OID == p.OID })
			if i < 0 || all[i].State != want || all[i].mark != Drop || all[i].comment != "what was there" || !all[i].Equal(p.Bounds) {
				t.Fatalf("%+v", all)
			}
			done, _ := b.prune(tab, before(t, "2024-03-01"))
			if !slices.Equal(goneNames(done), []string{"audit_log_2024_01", "audit_log_2024_02"}) || b.exists("public.audit_log_2024_01") || done[0].Rows != 11 {
				t.Errorf("%+v", done)
			}
		})
	}
}

// The mark of an interrupted prune is taken off a partition that has to stay after all; a leftover under a hold stays.
func TestPruneTakesItsMarkBack(t *testing.T) {
	t.Parallel()
	b := old(t, `INSERT INTO auditdb.hold (span, reason) VALUES ('[2024-01-01Z,2024-03-01Z)', 'lawsuit')`)
	tab := b.table("audit_log")
	for _, p := range b.catalog(tab).All()[:2] {
		b.exec(commentSQL(p, tab.mark(p, Drop, "")))
	}
	b.exec("ALTER TABLE audit_log DETACH PARTITION audit_log_2024_02")
	done, d := b.prune(tab, before(t, "2024-03-01"))
	if len(done) != 0 || reasonOf(d, "audit_log_2024_01") != KeptHold || reasonOf(d, "audit_log_2024_02") != KeptHold || !b.exists("public.audit_log_2024_02") {
		t.Errorf("%+v %+v", done, d.Kept)
	}
	if b.catalog(tab).All()[0].mark != "" {
		t.Error("the mark was left")
	}
}

// Somebody else's pending detach is ended first, and its table left alone.
func TestPruneFinalizes(t *testing.T) {
	t.Parallel()
	b := old(t)
	reader := b.conn()
	tx, err := reader.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT FROM audit_log LIMIT 1"); err != nil {
		t.Fatal(err)
	}
	conn := b.conn()
	if _, err := conn.Exec(t.Context(), "SET lock_timeout = '200ms'"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "ALTER TABLE audit_log DETACH PARTITION audit_log_2024_03 CONCURRENTLY"); err == nil {
		t.Fatal("the detach was not interrupted")
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	done, d := b.prune(b.table("audit_log"), before(t, "2024-02-01"))
	if !slices.Equal(goneNames(done), []string{"audit_log_2024_01"}) || !b.exists("public.audit_log_2024_03") {
		t.Errorf("%+v", done)
	}
	if n := value[int64](b, "SELECT count(*) FROM pg_inherits WHERE inhparent = $1 AND inhdetachpending", d.Table.OID); n != 0 {
		t.Error("still pending")
	}
}

// An old transaction on the table is waited for before anything is begun; when waiting ends, it is named and nothing is pending.
func TestPruneWaitsForReaders(t *testing.T) {
	t.Parallel()
	b := old(t)
	tab := b.table("audit_log")
	reader := b.conn()
	tx, err := reader.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT pg_sleep(0.6) FROM audit_log LIMIT 1"); err != nil {
		t.Fatal(err)
	}
	b.o.Wait = 400 * time.Millisecond
	b.w = NewWorker(b.o)
	done, _, err := b.tryPrune(tab, before(t, "2024-02-01"))
	wantClass(t, err, fault.Locked)
	if len(done) != 0 || strings.Count(err.Error(), "pid") != 1 || b.catalog(tab).All()[0].State != Attached || b.catalog(tab).All()[0].mark != "" {
		t.Errorf("%+v, %v", done, err)
	}
	b.o.Wait = 30 * time.Second
	b.w = NewWorker(b.o)
	var wg sync.WaitGroup
	wg.Go(func() {
		<-time.After(500 * time.Millisecond)
		if err := tx.Rollback(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	done, _, err = b.tryPrune(tab, before(t, "2024-02-01"))
	wg.Wait()
	if err != nil || len(done) != 1 {
		t.Errorf("%+v, %v", done, err)
	}
}

func TestPruneRefusesWhatOthersNeed(t *testing.T) {
	t.Parallel()
	b := old(t, `CREATE VIEW first_month AS SELECT action FROM audit_log_2024_01`)
	tab := b.table("audit_log")
	done, d := b.prune(tab, before(t, "2024-03-01"))
	if !slices.Equal(goneNames(done), []string{"audit_log_2024_02"}) || len(d.Plan.Skipped) != 1 || !strings.Contains(d.Plan.Skipped[0].Reason, "view public.first_month") {
		t.Errorf("%+v %+v", done, d.Plan.Skipped)
	}
	b.exec(`CREATE TABLE remarks (t timestamptz, i bigint, FOREIGN KEY (t, i) REFERENCES audit_log)`)
	_, _, err := b.tryPrune(tab, before(t, "2025-01-01"))
	wantClass(t, err, fault.Refused)
	if !strings.Contains(err.Error(), "remarks") || !b.exists("public.audit_log_2024_03") {
		t.Error(err)
	}
}

func TestPruneLeavesOtherKindsAlone(t *testing.T) {
	t.Parallel()
	b := fresh(t,
		`CREATE TABLE events (k timestamp) PARTITION BY RANGE (k)`,
		`CREATE TABLE a PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2024-02-01') PARTITION BY RANGE (k)`,
		`CREATE TABLE b PARTITION OF events FOR VALUES FROM ('2024-02-01') TO ('2024-03-01')`,
		`CREATE TABLE c PARTITION OF events FOR VALUES FROM ('2024-03-01') TO ('2024-04-01')`).realClock()
	done, d := b.prune(b.table("events"), before(t, "2024-03-01"))
	if !slices.Equal(goneNames(done), []string{"b"}) || len(d.Plan.Skipped) != 1 {
		t.Errorf("%+v %+v", done, d.Plan.Skipped)
	}
}

func TestPruneChecksTheClock(t *testing.T) {
	t.Parallel()
	b := old(t)
	for _, by := range []time.Duration{-time.Minute, time.Minute} {
		b.o.Now = func() time.Time { return time.Now().Add(by) }
		b.w = NewWorker(b.o)
		_, _, err := b.tryPrune(b.table("audit_log"), before(t, "2025-01-01"))
		wantClass(t, err, fault.Refused)
		if err == nil || !strings.Contains(err.Error(), "1m0s apart") {
			t.Error(err)
		}
	}
}

// What has changed between plan and work is not touched.
func TestPruneLooksAgain(t *testing.T) {
	t.Parallel()
	b := old(t)
	tab := b.table("audit_log")
	d, err := b.w.DraftPrune(t.Context(), tab, before(t, "2024-03-01"))
	if err != nil {
		t.Fatal(err)
	}
	b.exec(`ALTER TABLE audit_log_2024_01 RENAME TO kept; CREATE TABLE audit_log_2024_01 AS SELECT 1 AS precious`)
	done, err := b.w.ApplyPrune(t.Context(), d, nil)
	wantClass(t, err, fault.Refused)
	if !slices.Equal(goneNames(done), []string{"audit_log_2024_02"}) || !b.exists("public.audit_log_2024_01") || !b.exists("public.kept") {
		t.Errorf("%+v, %v", done, err)
	}
}

func TestPruneIsUndoneWithItsRecord(t *testing.T) {
	t.Parallel()
	b := old(t)
	b.ledger.fail = errors.New("the log is closed")
	tab := b.table("audit_log")
	done, _, err := b.tryPrune(tab, before(t, "2024-03-01"))
	if err == nil || len(done) != 0 || b.catalog(tab).Len() != 6 || b.catalog(tab).All()[0].mark != "" {
		t.Errorf("%+v, %v", done, err)
	}
}

func TestReview(t *testing.T) {
	t.Parallel()
	b := old(t, `INSERT INTO auditdb.policy (table_id, name, keep) VALUES (1, 'base', '1 year')`, `INSERT INTO auditdb.hold (span, reason) VALUES ('[2024-01-01Z,2024-01-02Z)', 'lawsuit')`)
	tab := b.table("audit_log")
	c := b.catalog(tab)
	r, err := b.w.Review(t.Context(), tab, c)
	if err != nil || r.Cutoff == nil {
		t.Fatal(err)
	}
	first, second, last := c.All()[0], c.All()[1], c.All()[5]
	if !*r.Held(first) || *r.Held(second) || *r.KeptBecause(first) != KeptHold || *r.KeptBecause(second) != KeptNotArchived || r.KeptBecause(last) != nil || *r.Archived(first) {
		t.Error("wrong review")
	}
	plain := fresh(t, `CREATE TABLE events (k timestamp) PARTITION BY RANGE (k)`, `CREATE TABLE a PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')`)
	tab = plain.table("events")
	c = plain.catalog(tab)
	if r, err = plain.w.Review(t.Context(), tab, c); err != nil || r.Held(c.All()[0]) != nil || r.KeptBecause(c.All()[0]) != nil {
		t.Errorf("%+v %v", r, err)
	}
}
