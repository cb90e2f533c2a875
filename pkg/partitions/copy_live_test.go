package partitions

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

// traffic reads and writes public.ev while fn runs. Old rows (note LIKE 'row %') must be there exactly once in every answer, in all and by
// month; what a writer has committed must be there for a reader that begins afterwards.
func (b *base) traffic(fn func()) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	var wg sync.WaitGroup
	var written atomic.Int64
	fail := func(err error) {
		if err != nil && ctx.Err() == nil {
			b.t.Error(err)
		}
	}
	const sums = `SELECT count(*) FILTER (WHERE note LIKE 'row %'), count(*) FILTER (WHERE note LIKE 'row %' AND at >= '2026-09-01+00' AND at < '2026-10-01+00'), count(DISTINCT id), count(*),
		count(*) FILTER (WHERE note = 'late') FROM public.ev`
	old, september := value[int64](b, `SELECT count(*) FROM public.ev WHERE note LIKE 'row %'`), value[int64](b, `SELECT count(*) FROM public.ev WHERE note LIKE 'row %' AND at >= '2026-09-01+00' AND at < '2026-10-01+00'`)
	for _, begin := range []string{"BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1"} {
		conn := b.conn()
		wg.Go(func() {
			for ctx.Err() == nil {
				least := written.Load()
				if _, err := conn.PgConn().Exec(ctx, begin).ReadAll(); err != nil {
					fail(err)
					return
				}
				for range 3 {
					var n, m, ids, all, late int64
					if err := conn.QueryRow(ctx, sums).Scan(&n, &m, &ids, &all, &late); err != nil {
						fail(fmt.Errorf("reader: %w", err))
						return
					}
					if n != old || m != september || ids != all || late < least {
						fail(fmt.Errorf("%s: %d rows of %d, %d of %d in September, %d of %d ids, %d late of at least %d", begin, n, old, m, september, ids, all, late, least))
						return
					}
				}
				_, err := conn.PgConn().Exec(ctx, "COMMIT; SELECT pg_sleep(0.03)").ReadAll() // locks must be to be had sometimes
				fail(err)
			}
		})
	}
	for i := range 2 {
		conn := b.conn()
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				_, err := conn.Exec(ctx, `INSERT INTO public.ev (at, note) VALUES (timestamptz '2026-08-01+00' + interval '1 minute' * $1, 'late')`, (n*7919+i)%130000)
				if err == nil {
					written.Add(1)
				}
				fail(err)
			}
		})
	}
	fn()
	cancel()
	wg.Wait()
	if value[int64](b, `SELECT count(*) FROM public.ev WHERE note = 'late'`) < written.Load() {
		b.t.Errorf("rows are lost: %d of %d", value[int64](b, `SELECT count(*) FROM public.ev WHERE note = 'late'`), written.Load())
	}
	b.noLeftovers()
}

func TestReadersDuringDrain(t *testing.T) {
	t.Parallel()
	b := fresh(t, drainTable, fill("2026-08-01+00", "2026-11-01+00", 9_000))
	table := b.table("public.ev")
	b.traffic(func() {
		made, _, err := b.drain(table, DrainOptions{MaxFuture: 48 * time.Hour})
		if err != nil {
			t.Error(err)
		}
		if len(made) < 3 {
			t.Errorf("made %d partitions", len(made))
		}
	})
}

const splitTable = `CREATE TABLE public.ev (id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz NOT NULL, note text, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
CREATE INDEX ev_note_idx ON public.ev (note);
CREATE TABLE public.ev_2026 PARTITION OF public.ev FOR VALUES FROM ('2026-07-15+00') TO ('2026-12-20+00')`

func (b *base) split(t Table, name string, o SplitOptions) ([]Created, *SplitDraft, error) {
	var made []Created
	var d *SplitDraft
	err := b.w.Locked(b.t.Context(), t, func(ctx context.Context) error {
		_, p, err := ResolvePartition(ctx, b.db, name)
		if err != nil {
			return err
		}
		if d, err = b.w.DraftSplit(ctx, t, p, o); err != nil {
			return err
		}
		made, err = b.w.ApplySplit(ctx, d, nil)
		return err
	})
	return made, d, err
}

func TestReadersDuringSplit(t *testing.T) {
	t.Parallel()
	b := fresh(t, splitTable, "CREATE TABLE public.ev_default PARTITION OF public.ev DEFAULT", fill("2026-08-01+00", "2026-11-01+00", 6_000), fill("2027-08-01+00", "2027-11-01+00", 300))
	table := b.table("public.ev")
	b.traffic(func() {
		made, _, err := b.split(table, "public.ev_2026", SplitOptions{Interval: Monthly})
		if err != nil {
			t.Error(err)
		}
		if len(made) != 6 {
			t.Errorf("made %d partitions", len(made))
		}
	})
	var ranges []string
	for _, p := range b.catalog(table).All() {
		ranges = append(ranges, p.Name+" "+p.Text())
	}
	if got := strings.Join(ranges, "\n"); !strings.Contains(got, "[2026-07-15 00:00:00, 2026-08-01 00:00:00)\nev_2026_08 [2026-08-01 00:00:00, 2026-09-01 00:00:00)") || !strings.HasSuffix(got, "[2026-12-01 00:00:00, 2026-12-20 00:00:00)") {
		t.Errorf("partitions:\n%s", got)
	}
}

// What a copy refuses and survives while it goes on.
func TestCopyMeanwhile(t *testing.T) {
	t.Parallel()
	b := fresh(t, splitTable, fill("2026-08-01+00", "2026-11-01+00", 20_000))
	table := b.table("public.ev")
	_, p, err := ResolvePartition(t.Context(), b.db, "public.ev_2026")
	if err != nil {
		t.Fatal(err)
	}
	steps := 0
	o := SplitOptions{Interval: Monthly, OnRows: func(int64, int64) {
		steps++
		if steps != 1 {
			return
		}
		for _, sql := range []string{`UPDATE public.ev SET note = 'x' WHERE id = 1`, `DELETE FROM public.ev WHERE id = 1`, `TRUNCATE public.ev_2026`, `TRUNCATE public.ev`} {
			_, err := b.conn().Exec(t.Context(), sql)
			if postgres.SQLState(err) != postgres.ObjectInUse || !strings.Contains(err.Error(), "is refused while its rows are copied (auditdb partition split)") {
				t.Errorf("%s: %v", sql, err)
			}
		}
		b.exec(`INSERT INTO public.ev (at, note) SELECT '2026-10-10+00', 'new ' || g FROM generate_series(1, 3000) g`, `VACUUM FULL public.ev_2026`, fill("2026-09-01+00", "2026-09-02+00", 5))
		if _, _, err := b.tryPrune(table, PruneOptions{OlderThan: &serverDay, Partition: "ev_2026"}); fault.ClassOf(err) != fault.Locked && fault.ClassOf(err) != fault.Refused {
			t.Errorf("prune: %v", err)
		}
	}}
	made, _, err := b.split(table, p.Ident(), o)
	if err != nil {
		t.Fatal(err)
	}
	var rows int64
	for _, m := range made {
		rows += m.Moved
	}
	if rows != 23_005 || value[int64](b, "SELECT count(*) FROM public.ev") != rows || value[int64](b, "SELECT count(*) FROM public.ev_2026_10") < 9000 {
		t.Errorf("%d rows moved, %d there", rows, value[int64](b, "SELECT count(*) FROM public.ev"))
	}
	b.exec(`UPDATE public.ev SET note = 'x' WHERE id = 1`, `DELETE FROM public.ev WHERE id = 1`)
	b.noLeftovers()
}

// An interrupted copy is found again, refuses other work, can be taken back, and is ended by the next run.
func TestCopyInterrupted(t *testing.T) {
	t.Parallel()
	b := fresh(t, drainTable, fill("2026-08-01+00", "2026-11-01+00", 20_000))
	table := b.table("public.ev")
	stop := func() {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		d, err := b.w.DraftDrain(ctx, table, DrainOptions{OnRows: func(int64, int64) { cancel() }})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = b.w.ApplyCreate(ctx, d, nil); err == nil {
			t.Fatal("it was not interrupted")
		}
	}
	stop()
	copies, err := Copies(t.Context(), b.db.Pool(), table)
	if err != nil || len(copies) != 1 || copies[0].Purpose != "drain" || copies[0].Rows < 1 || copies[0].Source.Name != "ev_default" {
		t.Fatalf("copies %+v, %v", copies, err)
	}
	_, _, err = b.tryCreate(table, CreateOptions{Ahead: 1})
	wantClass(t, err, fault.Refused)
	if found, err := b.w.AbortCopies(t.Context(), table, "drain"); !found || err != nil {
		t.Fatal(found, err)
	}
	b.noLeftovers()
	b.exec(`UPDATE public.ev SET note = 'row 0' WHERE id = 1`)
	stop()
	b.exec(fill("2026-10-01+00", "2026-10-02+00", 5), `INSERT INTO public.ev (at, note) VALUES ('2026-06-06', 'another month')`)
	if _, _, err := b.drain(table, DrainOptions{}); err != nil {
		t.Fatal(err)
	}
	b.noLeftovers()
	if n := value[int64](b, "SELECT count(*) FROM ONLY public.ev_default"); n != 0 {
		t.Errorf("%d rows are left in the default partition", n)
	}
	if n := value[int64](b, "SELECT count(*) FROM public.ev"); n != 20_006 {
		t.Errorf("%d rows", n)
	}
}

// A transaction that could not see the copied rows keeps the swap from happening; the next run goes on.
func TestCopyOldSnapshot(t *testing.T) {
	t.Parallel()
	b := fresh(t, splitTable, fill("2026-08-01+00", "2026-11-01+00", 3000), "CREATE TABLE public.other ()")
	table := b.table("public.ev")
	old := b.conn()
	for _, sql := range []string{"BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT FROM public.other"} {
		if _, err := old.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	b.o.Wait = 300 * time.Millisecond
	b.w = NewWorker(b.o)
	_, _, err := b.split(table, "ev_2026", SplitOptions{Interval: Monthly})
	wantClass(t, err, fault.Locked)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", old.PgConn().PID())) {
		t.Errorf("it does not name the session: %v", err)
	}
	var n int64
	if err := old.QueryRow(t.Context(), "SELECT count(*) FROM public.ev").Scan(&n); err != nil || n != 3000 {
		t.Errorf("%d rows, %v", n, err)
	}
	if _, err := old.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	b.o.Wait = 20 * time.Second
	b.w = NewWorker(b.o)
	if _, _, err := b.split(table, "ev_2026", SplitOptions{Interval: Monthly}); err != nil {
		t.Fatal(err)
	}
	b.noLeftovers()
}
