package indexes

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
)

// later is when the statistics of a database that was made today mean something.
func later() time.Time { return time.Now().Add(40 * 24 * time.Hour) }

func (b *base) hygiene(now time.Time, replicas ...*postgres.DB) (lines, notes []string) {
	b.Helper()
	found, notes, err := Hygiene(b.Context(), b.db, HygieneOptions{Now: now, Replicas: replicas})
	if err != nil {
		b.Fatal(err)
	}
	for _, r := range found {
		if r.DDL != r.Statement() || r.check() != nil {
			b.Errorf("%s: %v", r.DDL, r.check())
		}
		lines = append(lines, fmt.Sprintf("%s %s: %s", r.Action, strings.TrimSuffix(r.Table+" "+r.Definition.Name, " "), r.Reason))
	}
	return lines, notes
}

func TestHygiene(t *testing.T) {
	t.Parallel()
	b := fresh(t,
		`CREATE TABLE parent (id int PRIMARY KEY)`, `INSERT INTO parent SELECT generate_series(1, 10)`,
		`CREATE TABLE t (id int PRIMARY KEY, a int, b int, c text, p int REFERENCES parent, q int REFERENCES parent)`,
		`INSERT INTO t SELECT n, n % 10, n % 3, 'x' || n, n % 9 + 1, n % 9 + 1 FROM generate_series(1, 3000) n`,
		`CREATE INDEX a_used ON t (a)`, `CREATE INDEX a_again ON t (a)`, `CREATE INDEX ab ON t (b, a)`, `CREATE INDEX b_only ON t (b DESC)`,
		`CREATE INDEX never ON t (c)`, `CREATE UNIQUE INDEX never_unique ON t (c, id)`, `CREATE INDEX fk ON t (q)`, `CREATE INDEX partial ON t (b) WHERE a > 3`,
		`CREATE TABLE pt (id int, at date) PARTITION BY RANGE (at)`, `CREATE TABLE pt_1 PARTITION OF pt FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')`,
		`INSERT INTO pt SELECT n, '2026-01-01'::date + n % 300 FROM generate_series(1, 3000) n`,
		`CREATE INDEX pt_unused ON pt (id)`, `CREATE INDEX pt_used ON pt (at)`, `CREATE INDEX half ON ONLY pt (at, id)`,
		`CREATE INDEX broken ON t (a, c)`, `UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass`,
		`ANALYZE t, parent`, `SET enable_seqscan = off; SELECT * FROM t WHERE a = 1; SELECT * FROM t WHERE b = 1 AND a = 2; SELECT * FROM pt WHERE at = '2026-03-03'`,
		`DELETE FROM parent WHERE id = 10`)
	for value[int64](b, "SELECT n_tup_del FROM pg_stat_user_tables WHERE relname = 'parent'") == 0 && t.Context().Err() == nil {
		continue // a session's counts come when it has ended
	}
	got, notes := b.hygiene(later())
	want := []string{
		`reindex public.t broken: it is invalid`, `create public.pt half: it is invalid`, `drop public.t a_`,
		`drop public.t b_only: redundant: public.ab begins`, `drop public.t never: redundant: public.never_unique`, `drop public.pt pt_unused: unused: no scan in 40 days`,
		`drop public.t partial: unused`, `create public.t: foreign key t_p_fkey has no index: each of the 1 rows of public.parent`, `analyze public.pt: the planner knows nothing`,
	}
	for _, w := range want {
		if !slices.ContainsFunc(got, func(line string) bool { return strings.HasPrefix(line, w) }) {
			t.Errorf("missing: %s", w)
		}
	}
	if len(got) != len(want) || len(notes) != 0 {
		t.Errorf("%s\nnotes %q", strings.Join(got, "\n"), notes)
	}
	young, notes := b.hygiene(time.Now())
	if strings.Contains(strings.Join(young, "\n"), "unused:") || !strings.Contains(strings.Join(notes, "\n"), "takes 30 days") {
		t.Errorf("%q %q", young, notes)
	}
}

// What hygiene asks for can be applied, and then there is nothing more to ask for.
func TestHygieneApplied(t *testing.T) {
	t.Parallel()
	b := parted(t, `CREATE INDEX one ON `+partedTable+` (id)`, `CREATE INDEX two ON `+partedTable+` (id)`, `CREATE INDEX three ON `+partedTable+` (id DESC, who)`,
		`CREATE INDEX half ON ONLY `+partedTable+` (who)`)
	found, _, err := Hygiene(t.Context(), b.db, HygieneOptions{Now: later()})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range found {
		if _, err := b.apply(b.applier(), r); err != nil {
			t.Errorf("%s: %v", r.DDL, err)
		}
	}
	left, _ := b.hygiene(time.Now())
	if len(left) != 0 {
		t.Errorf("%q", left)
	}
	if got := value[int](b, `SELECT count(*) FROM pg_index WHERE NOT indisvalid`); got != 0 {
		t.Errorf("%d invalid", got)
	}
}

func TestHygieneBloat(t *testing.T) {
	t.Parallel()
	b := fresh(t, `CREATE TABLE t (id bigint, pad text)`, `CREATE INDEX t_id ON t (id)`, `INSERT INTO t SELECT n, 'x' FROM generate_series(1, 1200000) n`, `ANALYZE t`)
	if got, _ := b.hygiene(time.Now()); len(got) != 0 {
		t.Errorf("%q", got)
	}
	b.exec(`DELETE FROM t WHERE id % 10 > 1`, `VACUUM ANALYZE t`)
	got, _ := b.hygiene(time.Now())
	if len(got) != 1 || !strings.HasPrefix(got[0], "reindex public.t t_id: about ") {
		t.Errorf("%q", got)
	}
	evidence := evidenceEstimate
	if b.available("pgstattuple") {
		b.exec(`CREATE EXTENSION pgstattuple`)
		evidence = evidenceMeasured
	}
	found, _, err := Hygiene(t.Context(), b.db, HygieneOptions{Now: time.Now()})
	if err != nil || len(found) != 1 || found[0].Evidence != evidence {
		t.Fatalf("%+v, %v", found, err)
	}
	b.applied(found[0])
	if got, _ := b.hygiene(time.Now()); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

// An index that is only used on a replica is used.
func TestHygieneReplica(t *testing.T) {
	t.Parallel()
	primary := pgtest.Server(t)
	b := &base{T: t, url: primary.URL("postgres")}
	b.exec(`CREATE TABLE t (a int, b int)`, `INSERT INTO t SELECT n, n FROM generate_series(1, 3000) n`, `CREATE INDEX there ON t (a)`, `CREATE INDEX nowhere ON t (b)`, `ANALYZE t`)
	standby, caughtUp := pgtest.Standby(t, primary)
	caughtUp()
	b.db = b.open(b.url) // making the standby has restarted the primary
	replica := &base{T: t, url: standby.URL("postgres")}
	replica.db = replica.open(replica.url)
	replica.exec(`SET enable_seqscan = off; SELECT * FROM t WHERE a = 7`)
	got, notes := b.hygiene(later(), replica.db)
	if len(got) != 1 || !strings.HasPrefix(got[0], "drop public.t nowhere: unused: no scan in 40 days, on 2 servers") || len(notes) != 0 {
		t.Errorf("%q %q", got, notes)
	}
	if _, notes := b.hygiene(later()); len(notes) != 1 || !strings.Contains(notes[0], "1 standbys are connected, and 0 were asked") {
		t.Errorf("%q", notes)
	}
	if _, err := replica.apply(replica.applier(), create(on(column("b")))); err == nil || !strings.Contains(err.Error(), "standby") {
		t.Error(err)
	}
}
