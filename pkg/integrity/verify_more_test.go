package integrity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
)

func TestVerifyWithLessThanAllKeys(t *testing.T) {
	t.Parallel()
	f, _ := filled(t)
	none := func(o *VerifyOptions) { o.Keys = nil }
	public := func(o *VerifyOptions) { o.Keys, o.Public = nil, f.log.keys.Public() }
	if r := f.clean(none); r.Unproven == "" || !strings.Contains(r.Assurance, "mac: NOT CHECKED (no secret key)") || !strings.Contains(r.Assurance, "signature: NOT CHECKED") {
		t.Error(r.Unproven, r.Assurance)
	}
	if r := f.clean(public); r.Unproven != "" || !strings.Contains(r.Assurance, "signature: test.example/log") {
		t.Error(r.Unproven, r.Assurance)
	}
	other, err := Generate("test.example/log")
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*VerifyOptions){
		"secret": func(o *VerifyOptions) { o.Keys = other },
		"public": func(o *VerifyOptions) { o.Keys, o.Public = nil, other.Public() },
	} {
		r := f.verify(change)
		if r.OK || r.Errors > 0 || r.Unproven == "" || !slices.Equal(r.types(), []string{"wrong_key/warning"}) {
			t.Errorf("%s: %s %s", name, r.Unproven, r.text())
		}
	}
	f.exec("UPDATE public.audit_log SET ttl = 'x' WHERE id = 3")
	for _, change := range []func(*VerifyOptions){none, public} {
		if r := f.verify(change); r.OK || *r.Findings[0].RowID != 3 {
			t.Error(r.text())
		}
	}
	f.exec("UPDATE public.audit_log SET ttl = NULL WHERE id = 3; UPDATE auditdb.log SET record = replace(record, 'rows 60', 'rows 59')")
	for _, change := range []func(*VerifyOptions){none, public} {
		if r := f.verify(change); r.OK || !slices.Contains(r.types(), "log_root_mismatch/error") {
			t.Error(r.text())
		}
	}
}

func TestAnchors(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.batch(0, 10)
	old := f.clean().Checkpoint
	f.batch(1, 10)
	newest := f.clean().Checkpoint
	with := func(notes ...string) func(*VerifyOptions) {
		return func(o *VerifyOptions) {
			for i, n := range notes {
				o.Anchors = append(o.Anchors, External{Source: fmt.Sprint("anchor", i), Note: n})
			}
		}
	}
	r := f.clean(with(old.Note, newest.Note))
	if want := fmt.Sprintf("anchor: anchor0 covers %d of %d records", old.Size, newest.Size); !strings.Contains(r.Assurance, want) || strings.Contains(r.Assurance, "NO EXTERNAL ANCHOR") {
		t.Error(r.Assurance)
	}
	if r := f.verify(with(strings.Replace(old.Note, "\n7\n", "\n6\n", 1))); r.OK || !slices.Equal(r.types(), []string{"anchor_invalid/error"}) {
		t.Error(r.text())
	}
	if _, err := Verify(t.Context(), f.db, VerifyOptions{Keys: f.log.keys, Now: time.Now, Anchors: []External{{Source: "x", Note: "nothing"}}}); fault.ClassOf(err) != fault.Unavailable {
		t.Error(err)
	}
	// Everything of the last batch deleted without a trace: only the anchor tells.
	f.exec(fmt.Sprintf(`DELETE FROM public.audit_log_2024_02; DELETE FROM auditdb.leaf WHERE seq >= %[1]d; DELETE FROM auditdb.log_partition WHERE seq >= %[1]d;
DELETE FROM auditdb.log WHERE seq >= %[1]d; DELETE FROM auditdb.checkpoint WHERE size > %[1]d;
DELETE FROM auditdb.log_hash WHERE idx >= 2 * %[1]d - bit_count(%[1]d::bigint::bit(64))`, old.Size))
	f.clean(with(old.Note))
	if r := f.verify(with(newest.Note)); r.OK || !slices.Equal(r.types(), []string{"log_truncated/error"}) {
		t.Error(r.text())
	}
	// Written anew with the key: the anchor shows the fork.
	f.batch(2, 10)
	f.clean(with(old.Note))
	if r := f.verify(with(newest.Note)); r.OK || !slices.Equal(r.types(), []string{"log_forked/error"}) {
		t.Error(r.text())
	}
}

func TestFilters(t *testing.T) {
	t.Parallel()
	f, first := filled(t)
	f.exec(fmt.Sprintf("UPDATE public.audit_log SET ttl = 'x' WHERE id = %d", first))
	february := func(o *VerifyOptions) {
		o.From, o.To = time.Date(2024, 2, 5, 0, 0, 0, 0, time.UTC), time.Date(2024, 2, 6, 0, 0, 0, 0, time.UTC)
	}
	if r := f.clean(february); r.RowsChecked != 60 || !strings.Contains(r.Assurance, "only what was asked for") {
		t.Error(r.RowsChecked, r.Assurance)
	}
	if r := f.clean(func(o *VerifyOptions) { o.Partition = "public.audit_log_2024_03" }); r.RowsChecked != 50 {
		t.Error(r.RowsChecked)
	}
	if r := f.verify(func(o *VerifyOptions) { o.Partition = "audit_log_2024_01" }); r.OK || r.RowsChecked != 120 {
		t.Error(r.RowsChecked)
	}
	if _, err := Verify(t.Context(), f.db, VerifyOptions{Partition: "nothing", Now: time.Now}); fault.ClassOf(err) != fault.Usage {
		t.Error(err)
	}
}

func TestFindingsAreCapped(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for range 3 {
		f.batch(0, 20)
	}
	f.exec("DELETE FROM auditdb.leaf; UPDATE public.audit_log SET id = DEFAULT WHERE id % 20 = 0")
	f.exec("TRUNCATE auditdb.log, auditdb.log_hash, auditdb.checkpoint, auditdb.leaf, auditdb.log_partition CASCADE")
	r := f.verify(func(o *VerifyOptions) { o.MaxFindings = 5 })
	if len(r.Findings) != 5 || r.FindingsTotal != 58 || r.Errors != 57 {
		t.Error(len(r.Findings), r.FindingsTotal, r.Errors)
	}
}

func TestMaxDuration(t *testing.T) {
	t.Parallel()
	f, _ := filled(t)
	r := f.verify(func(o *VerifyOptions) { o.MaxDuration = time.Nanosecond })
	if !r.Incomplete || !r.OK || !strings.HasPrefix(r.Assurance, "INCOMPLETE") {
		t.Errorf("%+v", r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Verify(ctx, f.db, VerifyOptions{Keys: f.log.keys, Now: time.Now, MaxDuration: time.Hour}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestRate(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec("INSERT INTO public.audit_log (timestamp, action, status, details) SELECT '2024-01-02', 'a', 's', jsonb_build_object('x', repeat('x', 900)) FROM generate_series(1, 3000)")
	start := time.Now()
	r := f.verify(func(o *VerifyOptions) { o.Rate = 5 << 20 })
	if took := time.Since(start); took < 300*time.Millisecond || r.UnsealedRows != 3000 {
		t.Error("3 MB at 5 MB/s took", took)
	}
}

func TestNoKeyNoLog(t *testing.T) {
	t.Parallel()
	db := openDB(t, pgtest.Empty(t))
	if ok, err := Exists(t.Context(), db.Pool()); ok || err != nil {
		t.Error(ok, err)
	}
	f := newFixture(t)
	r := f.clean(func(o *VerifyOptions) { o.Keys = nil })
	if r.Unproven == "" || r.Checkpoint != nil {
		t.Errorf("%+v", r)
	}
}

// Writers, a sealer and partition work beside the verifier give no finding.
func TestVerifyWhileBusy(t *testing.T) {
	t.Parallel()
	f, _ := filled(t)
	stop := make(chan struct{})
	var group errgroup.Group
	var block atomic.Int64
	block.Store(1 << 30)
	for range 2 {
		group.Go(func() error {
			g, table := *f, *f.table
			g.log, g.table = NewLog(f.log.keys), &table
			for i := 0; ; i++ {
				select {
				case <-stop:
					return nil
				default:
				}
				g.block = block.Add(1)
				g.batch(i%3, 50)
				g.insert(i%3, 5)
			}
		})
	}
	group.Go(func() error {
		for {
			select {
			case <-stop:
				return nil
			default:
				f.seal()
			}
		}
	})
	group.Go(func() error {
		april := month(3)
		g, table := *f, *f.table
		g.log, g.table = NewLog(f.log.keys), &table
		for {
			select {
			case <-stop:
				return nil
			default:
			}
			g.lifecycle("CREATE TABLE public.audit_log_2024_04 PARTITION OF public.audit_log FOR VALUES FROM ('2024-04-01') TO ('2024-05-01')", &Partition{Table: 1, Event: EventCreated, Partition: april})
			g.block = block.Add(1)
			g.batch(3, 20)
			g.lifecycle("DROP TABLE public.audit_log_2024_04", &Prune{Table: 1, Partition: april, Rows: 20})
		}
	})
	for range 15 {
		r, err := Verify(t.Context(), f.db, VerifyOptions{Keys: f.log.keys, Jobs: 2, Now: time.Now, Wait: 10 * time.Second})
		if fault.ClassOf(err) == fault.Unavailable && strings.Contains(err.Error(), "kept changing") {
			continue
		}
		if err != nil {
			t.Error(err)
			break
		}
		if bad := slices.DeleteFunc(r.Findings, func(f Finding) bool { return f.Type == RowsUnsealed || f.Type == RowLate }); len(bad) > 0 {
			t.Error(r.text())
			break
		}
	}
	close(stop)
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	f.seal()
	r := f.verify()
	if !r.OK || r.UnsealedRows != 0 {
		t.Error(r.text())
	}
}

// The server going away is no result.
func TestServerGone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec("INSERT INTO public.audit_log (timestamp, action, status, details) SELECT '2024-01-02', 'a', 's', jsonb_build_object('x', repeat('x', 900)) FROM generate_series(1, 5000)")
	ended := atomic.Bool{}
	_, err := Verify(t.Context(), f.db, VerifyOptions{Keys: f.log.keys, Now: time.Now, Wait: time.Second, Rate: 1 << 20, Progress: func(int64) {
		if !ended.Swap(true) {
			f.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
		}
	}})
	if err == nil || postgres.Class(err) != fault.Unavailable {
		t.Error(err)
	}
}

// verdictsOf shows what a report says of partitions.
func verdictsOf(r *Report) string {
	var out []string
	for _, c := range r.Checked {
		out = append(out, fmt.Sprintf("%d %s %s %t", c.TableID, c.From, c.To, c.OK))
	}
	return strings.Join(out, "\n")
}

// A report says of each partition by its bounds whether it was right, errors first.
func TestCheckedPartitions(t *testing.T) {
	t.Parallel()
	f, first := filled(t)
	f.exec("CREATE TABLE public.audit_log_default PARTITION OF public.audit_log DEFAULT")
	good := "1 2024-01-01T00:00:00.000000Z 2024-02-01T00:00:00.000000Z true\n" +
		"1 2024-02-01T00:00:00.000000Z 2024-03-01T00:00:00.000000Z true\n1 2024-03-01T00:00:00.000000Z 2024-04-01T00:00:00.000000Z true"
	if got := verdictsOf(f.verify()); got != good {
		t.Errorf("clean:\n%s", got)
	}
	if got := verdictsOf(f.verify(func(o *VerifyOptions) { o.Partition = "audit_log_2024_02" })); got != strings.Split(good, "\n")[1] {
		t.Errorf("one partition:\n%s", got)
	}
	if got := verdictsOf(f.verify(func(o *VerifyOptions) { o.Keys = nil })); got != "" {
		t.Errorf("nothing is clean without a key:\n%s", got)
	}
	f.exec(fmt.Sprintf("UPDATE public.audit_log SET action = 'x' WHERE id = %d", first))
	lines := strings.Split(strings.Replace(good, "true", "false", 1), "\n")
	if got := verdictsOf(f.verify()); got != strings.Join(lines, "\n") {
		t.Errorf("a changed row:\n%s", got)
	}
	f.exec("UPDATE auditdb.log SET mac = sha256('x') WHERE seq = 2")
	if got := verdictsOf(f.verify()); got != lines[0] {
		t.Errorf("a broken log proves no partition right:\n%s", got)
	}
}

// What an interrupted run had checked by then is in its report, which is no success.
func TestInterruptedReport(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.batch(0, 50)
	f.exec("INSERT INTO public.audit_log (timestamp, action, status, details) SELECT '2024-02-02', 'a', 's', jsonb_build_object('x', repeat('x', 900)) FROM generate_series(1, 5000)")
	f.exec("ANALYZE public.audit_log") // largest first
	f.exec("UPDATE pg_class SET relpages = 100000 WHERE relname = 'audit_log_2024_01'")
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("enough")
	r, err := Verify(ctx, f.db, VerifyOptions{Keys: f.log.keys, Now: time.Now, Wait: time.Second, Rate: 1 << 20, Progress: func(n int64) {
		if n > 100 {
			cancel(stop)
		}
	}})
	if err == nil || !errors.Is(context.Cause(ctx), stop) || r == nil || r.OK || !r.Broken || !r.Incomplete || r.RowsChecked != 50 {
		t.Errorf("%v: %+v", err, r)
	}
	if got := verdictsOf(r); got != "1 2024-01-01T00:00:00.000000Z 2024-02-01T00:00:00.000000Z true" {
		t.Error(got)
	}
}

// A table lock is waited for; when it does not come, the error names who has it.
func TestTableLocksAreWaitedFor(t *testing.T) {
	t.Parallel()
	f, _ := filled(t)
	f.insert(2, 3)
	tx, err := f.db.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "LOCK TABLE public.audit_log IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	holder := fmt.Sprintf("blocked by pid %d (", tx.Conn().PgConn().PID())
	tried := []error{}
	_, err = Verify(t.Context(), f.db, VerifyOptions{Keys: f.log.keys, Now: time.Now, Wait: 50 * time.Millisecond})
	tried = append(tried, err)
	table := *f.table
	_, err = f.log.Seal(t.Context(), f.db, &table, SealOptions{Now: time.Now, Wait: 50 * time.Millisecond})
	for _, err := range append(tried, err) {
		if fault.ClassOf(err) != fault.Locked || !strings.Contains(err.Error(), holder) || strings.Count(err.Error(), "pid") != 1 {
			t.Errorf("%v does not name %s", err, holder)
		}
	}
	done := make(chan *Report, 1)
	go func() {
		r, _ := Verify(t.Context(), f.db, VerifyOptions{Keys: f.log.keys, Now: time.Now, Wait: time.Minute})
		done <- r
	}()
	for f.int("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'public.audit_log_2024_01'::regclass") == 0 && t.Context().Err() == nil {
		continue
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r == nil || !r.OK {
		t.Errorf("%+v", r)
	}
}

// Rows behind row security cannot be seen by an ordinary role: that is one finding, the rest of the partition's range is still read, and
// no row is called missing.
func TestRowSecurityHidesOnlyItsOwn(t *testing.T) {
	t.Parallel()
	const split = `ALTER TABLE public.audit_log DETACH PARTITION public.audit_log_2024_01;
CREATE TABLE public.january_a PARTITION OF public.audit_log FOR VALUES FROM ('2024-01-01') TO ('2024-01-01 00:30');
CREATE TABLE public.january_b PARTITION OF public.audit_log FOR VALUES FROM ('2024-01-01 00:30') TO ('2024-02-01');
INSERT INTO public.audit_log OVERRIDING SYSTEM VALUE SELECT * FROM public.audit_log_2024_01; DROP TABLE public.audit_log_2024_01;
GRANT SELECT ON public.january_a, public.january_b, public.audit_log_2024_02, public.audit_log_2024_03 TO auditdb_verifier; `
	for name, sql := range map[string]string{
		"one partition":     "GRANT SELECT ON ALL TABLES IN SCHEMA public TO auditdb_verifier; ALTER TABLE public.audit_log_2024_01 ENABLE ROW LEVEL SECURITY",
		"one of two":        split + "ALTER TABLE public.january_a ENABLE ROW LEVEL SECURITY",
		"the second of two": split + "ALTER TABLE public.january_b ENABLE ROW LEVEL SECURITY",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, _ := filled(t)
			f.exec(sql)
			f.db = openDB(t, f.db.Pool().Config().ConnString()+"&options=-c%20role%3Dauditdb_verifier")
			r := f.verify()
			if r.OK || r.RowsChecked == 0 || r.RowsChecked >= 230 || !slices.Contains(r.types(), "hostile_relation/error") || slices.Contains(r.types(), "row_missing/error") {
				t.Errorf("%d rows:\n%s", r.RowsChecked, r.text())
			}
			if n := strings.Count(r.text(), "has row security"); n != 1 {
				t.Errorf("named %d times:\n%s", n, r.text())
			}
		})
	}
}
