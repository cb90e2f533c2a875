package partitions

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
)

func (b *base) check(t Table, o CheckOptions) []Problem {
	b.t.Helper()
	found, err := b.w.Examine(b.t.Context(), t, o)
	if err != nil {
		b.t.Fatal(err)
	}
	return found
}

// wantProblems compares what was found, as "kind partition", with what is wanted; texts of each detail and hint follow.
func wantProblems(t *testing.T, found []Problem, want ...string) {
	t.Helper()
	var got []string
	for _, p := range found {
		got = append(got, strings.TrimSpace(string(p.Kind)+" "+p.Partition))
		if p.Detail == "" || p.Hint == "" {
			t.Errorf("%+v says too little", p)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("found %q, want %q: %+v", got, want, found)
	}
}

func TestCheckFindsNothing(t *testing.T) {
	t.Parallel()
	b := migrated(t, hostile)
	tab := b.table("public.audit_log")
	wantProblems(t, b.check(tab, CheckOptions{}), "runway")
	b.create(tab, CreateOptions{Ahead: 1})
	wantProblems(t, b.check(tab, CheckOptions{}))
	plain := fresh(t, `CREATE TABLE e (k date) PARTITION BY RANGE (k); CREATE TABLE f (k text) PARTITION BY LIST (k); CREATE TABLE f_1 PARTITION OF f FOR VALUES IN ('a'); CREATE TABLE f_2 PARTITION OF f DEFAULT; INSERT INTO f VALUES ('z')`)
	e := plain.table("e")
	plain.create(e, CreateOptions{Ahead: 2})
	wantProblems(t, plain.check(e, CheckOptions{}))
	f, err := ResolveToRead(t.Context(), plain.db, "f")
	if err != nil {
		t.Fatal(err)
	}
	wantProblems(t, plain.check(f, CheckOptions{}))
}

func TestCheckRunway(t *testing.T) {
	t.Parallel()
	b := fresh(t, `CREATE TABLE e (k timestamptz) PARTITION BY RANGE (k)`)
	tab := b.table("e")
	tab.Interval = Daily
	b.create(tab, CreateOptions{})
	found := b.check(tab, CheckOptions{})
	wantProblems(t, found, "runway")
	if d := found[0].Detail; !strings.Contains(d, "from 2026-11-24 00:00:00 on; partitions should reach to 2026-11-25 00:00:00") {
		t.Error(d)
	}
	b.create(tab, CreateOptions{Ahead: 1})
	wantProblems(t, b.check(tab, CheckOptions{}))
	wantProblems(t, b.check(tab, CheckOptions{Until: serverDay.AddDate(0, 0, 7)}), "runway")
	b.exec(`CREATE TABLE e_end PARTITION OF e FOR VALUES FROM ('2026-11-25Z') TO (MAXVALUE)`)
	wantProblems(t, b.check(tab, CheckOptions{Until: serverDay.AddDate(100, 0, 0)}))
}

// A gap is what partition create would fill: not what was pruned or detached, nor what is beyond retention.
func TestCheckGap(t *testing.T) {
	t.Parallel()
	b := migrated(t)
	tab := b.table("audit_log")
	b.create(tab, exactly(t, "2026-01-01", "2026-09-01"))
	b.create(tab, CreateOptions{Ahead: 1})
	wantProblems(t, b.check(tab, CheckOptions{}))
	b.exec(`DROP TABLE audit_log_2026_03, audit_log_2026_05, audit_log_2026_06`)
	found := b.check(tab, CheckOptions{})
	wantProblems(t, found, "gap", "gap")
	if h := found[1].Hint; h != "auditdb partition create public.audit_log --from 2026-05-01 --to 2026-07-01" {
		t.Error(h)
	}
	b.exec(`INSERT INTO auditdb.policy (table_id, name, keep) VALUES (1, 'keep', '6 months')`) // the cutoff is 23 May
	wantProblems(t, b.check(tab, CheckOptions{}), "gap")
	clock := *b
	clock.realClock()
	clock.exec(`DELETE FROM auditdb.policy`)
	clock.prune(tab, PruneOptions{Partition: "audit_log_2026_07", OlderThan: before(t, "2026-08-15").OlderThan, Action: Detach})
	wantProblems(t, b.check(tab, CheckOptions{}), "gap", "gap")
}

func TestCheckOverlap(t *testing.T) {
	t.Parallel()
	b := fresh(t, `CREATE TABLE e (k timestamptz) PARTITION BY RANGE (k)`)
	tab := b.table("e")
	b.create(tab, CreateOptions{Ahead: 1, Behind: 3})
	clock := *b
	clock.realClock()
	done, _ := clock.prune(tab, PruneOptions{OlderThan: before(t, "2026-10-01").OlderThan, Action: Detach})
	if len(done) != 2 {
		t.Fatal(done)
	}
	wantProblems(t, b.check(tab, CheckOptions{}))
	o := exactly(t, "2026-09-01", "2026-10-01")
	o.AllowPruned = true
	made := b.create(tab, o)
	found := b.check(tab, CheckOptions{})
	if len(made) != 1 || len(found) == 0 || found[0].Kind != ProblemOverlap || !strings.Contains(found[0].Detail, "[2026-09-01 00:00:00, 2026-10-01 00:00:00)") {
		t.Errorf("%+v %+v", made, found)
	}
	// Two attached ones, as only a damaged catalog has them.
	b.exec(`UPDATE pg_class SET relpartbound = (SELECT relpartbound FROM pg_class WHERE relname = 'e_2026_11') WHERE relname = 'e_2026_12'`)
	found = b.check(tab, CheckOptions{})
	if !slices.ContainsFunc(found, func(p Problem) bool {
		return p.Kind == ProblemOverlap && strings.Contains(p.Detail, "public.e_2026_11 and public.e_2026_12")
	}) {
		t.Errorf("%+v", found)
	}
}

func TestCheckDefaultRows(t *testing.T) {
	t.Parallel()
	b := fresh(t, `CREATE TABLE e (k timestamptz) PARTITION BY RANGE (k); CREATE TABLE e_rest PARTITION OF e DEFAULT`)
	tab := b.table("e")
	b.create(tab, CreateOptions{Ahead: 1})
	wantProblems(t, b.check(tab, CheckOptions{}))
	b.exec(`INSERT INTO e VALUES ('2020-01-01Z'), (NULL)`)
	found := b.check(tab, CheckOptions{})
	wantProblems(t, found, "default_rows public.e_rest")
	if !strings.Contains(found[0].Detail, "has 2 rows") || found[0].Hint != "auditdb partition drain public.e" {
		t.Errorf("%+v", found)
	}
	// Somebody has it locked: that is said, not waited for without end.
	conn := b.conn()
	for _, sql := range []string{"BEGIN", "LOCK TABLE e_rest IN ACCESS EXCLUSIVE MODE"} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	o := b.o
	o.Wait = 0
	_, err := NewWorker(o).Examine(t.Context(), tab, CheckOptions{})
	wantClass(t, err, fault.Locked)
}

func TestCheckDetachPending(t *testing.T) {
	t.Parallel()
	b := fresh(t, `CREATE TABLE e (k timestamptz) PARTITION BY RANGE (k)`)
	tab := b.table("e")
	b.create(tab, CreateOptions{Ahead: 1, Behind: 1})
	b.leavePending("e", "e_2026_10")
	wantProblems(t, b.check(tab, CheckOptions{}), "detach_pending public.e_2026_10")
}

// leavePending begins DETACH CONCURRENTLY while a reader is in its way, and lets it be cut short.
func (b *base) leavePending(table, partition string) {
	b.t.Helper()
	reader, detacher := b.conn(), b.conn()
	for _, sql := range []string{"BEGIN", "SELECT * FROM " + table} {
		if _, err := reader.Exec(b.t.Context(), sql); err != nil {
			b.t.Fatal(err)
		}
	}
	_, err := detacher.PgConn().Exec(b.t.Context(), "SET lock_timeout = 200; ").ReadAll()
	if err == nil {
		_, err = detacher.Exec(b.t.Context(), fmt.Sprintf("ALTER TABLE %s DETACH PARTITION %s CONCURRENTLY", table, partition), pgx.QueryExecModeSimpleProtocol)
	}
	if err == nil {
		b.t.Fatal("the reader was not in the way")
	}
	if _, err := reader.Exec(b.t.Context(), "ROLLBACK"); err != nil {
		b.t.Fatal(err)
	}
}

func TestCheckOrphans(t *testing.T) {
	t.Parallel()
	b := fresh(t, `CREATE TABLE e (k timestamptz, "a b" text) PARTITION BY RANGE (k); CREATE TABLE e_archive (LIKE e) PARTITION BY RANGE (k)`)
	tab := b.table("e")
	long := strings.Repeat("l", 60)
	b.exec(fmt.Sprintf(`CREATE TABLE %s (k timestamptz) PARTITION BY RANGE (k)`, long))
	b.create(tab, CreateOptions{Ahead: 1, Behind: 2})
	b.exec(
		`CREATE TABLE e_2027_05 (LIKE e, CONSTRAINT auditdb_attach_range CHECK (k >= '2027-05-01Z'))`,
		`CREATE TABLE e_archive_2027_05 (LIKE e, CONSTRAINT auditdb_attach_range CHECK (k >= '2027-05-01Z'))`,
		`CREATE TABLE e_mine_2027 (LIKE e, CONSTRAINT auditdb_attach_range CHECK (k >= '2027-05-01Z'))`,
		fmt.Sprintf(`COMMENT ON TABLE e_2026_09 IS %s; ALTER TABLE e DETACH PARTITION e_2026_09`, quoteText(tab.mark(Partition{Bounds: Bounds{From: at(t, "2026-09-01"), To: at(t, "2026-10-01")}}, Drop, ""))),
		fmt.Sprintf(`COMMENT ON TABLE e_2026_10 IS %s`, quoteText(tab.mark(Partition{Bounds: Bounds{From: at(t, "2026-10-01"), To: at(t, "2026-11-01")}}, Drop, ""))))
	wantProblems(t, b.check(tab, CheckOptions{}), "orphan public.e_2026_09", "orphan public.e_2026_10", "orphan public.e_2027_05")
	archive := b.table("e_archive")
	b.create(archive, CreateOptions{Ahead: 1})
	wantProblems(t, b.check(archive, CheckOptions{}), "orphan public.e_archive_2027_05")
	wide := b.table(long)
	b.create(wide, CreateOptions{Ahead: 1})
	name := wide.PartitionName(Bounds{From: at(t, "2027-05-01"), To: at(t, "2027-06-01")})
	b.exec(fmt.Sprintf(`CREATE TABLE %s (LIKE %s, CONSTRAINT auditdb_attach_range CHECK (k >= '2027-05-01Z'))`, name, long))
	wantProblems(t, b.check(wide, CheckOptions{}), "orphan public."+name)
	// While a run is at work, what it has under way is no orphan.
	if err := b.w.Locked(t.Context(), tab, func(ctx context.Context) error {
		found, err := b.w.Examine(ctx, tab, CheckOptions{})
		wantProblems(t, found)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestCheckFindsCopies(t *testing.T) {
	t.Parallel()
	b := fresh(t, `CREATE TABLE e (k timestamptz) PARTITION BY RANGE (k); CREATE TABLE e_rest PARTITION OF e DEFAULT`)
	tab := b.table("e")
	b.create(tab, CreateOptions{Ahead: 1})
	b.exec(`CREATE TABLE target (LIKE e)`)
	spec := CopySpec{
		Purpose: "drain", Table: tab, Target: CopyTarget{Schema: "public", Name: "target", Owner: tab.Owner}, Columns: []CopyColumn{{Target: "k"}},
		Source: CopySource{OID: b.catalog(tab).Default().OID, Schema: "public", Name: "e_rest", Owner: tab.Owner},
	}
	if err := b.w.Locked(t.Context(), tab, func(ctx context.Context) error {
		_, err := b.w.StartCopy(ctx, spec)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	found := b.check(tab, CheckOptions{})
	wantProblems(t, found, "orphan public.e_rest")
	if !strings.Contains(found[0].Hint, "partition drain again") {
		t.Errorf("%+v", found)
	}
}

func TestCheckDrift(t *testing.T) {
	t.Parallel()
	b := fresh(t,
		`DO $$ BEGIN CREATE ROLE drift_owner; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$`,
		`DO $$ BEGIN CREATE ROLE drift_reader; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$`,
		`CREATE TABLE other (id int PRIMARY KEY)`,
		`CREATE TABLE "e v" (k timestamptz NOT NULL, "a b" text, n int REFERENCES other, PRIMARY KEY (k, "a b"), CHECK (n > 0)) PARTITION BY RANGE (k); CREATE INDEX ON "e v" (lower("a b"))`)
	tab := b.table(`"e v"`)
	b.create(tab, CreateOptions{Ahead: 2, Behind: 3})
	wantProblems(t, b.check(tab, CheckOptions{}))
	b.exec(
		`ALTER TABLE "e v_2026_08" OWNER TO drift_owner`,
		`CREATE INDEX late ON ONLY "e v" (n)`, // the table's: no partition has it
		`CREATE UNIQUE INDEX ON "e v_2026_09" (k, n); CREATE UNIQUE INDEX ON "e v_2026_10" (k, n); CREATE UNIQUE INDEX ON "e v_2026_11" (k, n); CREATE UNIQUE INDEX ON "e v_2026_12" (k, n)`,
		`ALTER TABLE "e v_2026_09" SET (fillfactor = 70)`,
		`GRANT SELECT ON "e v_2026_09", "e v_2026_10", "e v_2026_11", "e v_2026_12" TO drift_reader`)
	found := b.check(tab, CheckOptions{})
	texts := map[string]string{}
	for _, p := range found {
		if p.Kind != ProblemDrift {
			t.Errorf("%+v", p)
		}
		texts[p.Partition+": "+p.Detail] = p.Hint
	}
	for text, hint := range map[string]string{
		`public."e v_2026_08": it belongs to drift_owner, its table to postgres`:   `OWNER TO "postgres"`,
		`public."e v_2026_08": it has no index UNIQUE USING btree (k, n)`:          `CREATE UNIQUE INDEX CONCURRENTLY ON "public"."e v_2026_08" USING btree (k, n)`,
		`public."e v_2027_01": it has no index UNIQUE USING btree (k, n)`:          `CONCURRENTLY`,
		`public."e v_2026_11": it has no index USING btree (n)`:                    `CREATE INDEX CONCURRENTLY ON "public"."e v_2026_11" USING btree (n)`,
		`public."e v_2026_09": its siblings have no option fillfactor=70`:          `ALTER TABLE "public"."e v_2026_09" RESET (fillfactor)`,
		`public."e v_2027_01": its siblings have the grant SELECT TO drift_reader`: `GRANT SELECT ON TABLE "public"."e v_2027_01" TO drift_reader`,
		`public."e v_2026_08": its siblings have the grant SELECT TO drift_reader`: `GRANT`,
	} {
		if got, ok := texts[text]; !ok || !strings.Contains(got, hint) {
			t.Errorf("%q: hint %q of %v, want %q", text, got, ok, hint)
		}
	}
	if len(found) != 1+2+6+1+2 {
		t.Errorf("%d problems: %+v", len(found), found)
	}
	// The hints can be run as they are.
	for _, p := range found {
		conn := b.conn()
		if _, err := conn.Exec(t.Context(), p.Hint); err != nil {
			t.Errorf("%s: %v", p.Hint, err)
		}
	}
	wantProblems(t, b.check(tab, CheckOptions{}))
	b.exec(`ALTER TABLE "e v" DROP CONSTRAINT "e v_n_fkey"`,
		`ALTER TABLE "e v_2026_09" ADD CHECK (n < 100); ALTER TABLE "e v_2026_10" ADD CHECK (n < 100); ALTER TABLE "e v_2026_11" ADD CHECK (n < 100); ALTER TABLE "e v_2026_12" ADD CHECK (n < 100)`,
		`ALTER TABLE "e v_2026_08" ADD CHECK (n < 100)`)
	wantProblems(t, b.check(tab, CheckOptions{}), `drift public."e v_2027_01"`)
}

func TestCheckGuards(t *testing.T) {
	t.Parallel()
	b := migrated(t)
	tab := b.table("audit_log")
	b.create(tab, CreateOptions{Ahead: 2, Behind: 1})
	wantProblems(t, b.check(tab, CheckOptions{}))
	b.exec(`DROP TRIGGER audit_log_guard_truncate ON audit_log_2026_11; ALTER TABLE audit_log_2026_12 DISABLE TRIGGER audit_log_guard_truncate; ALTER TABLE audit_log_2027_01 DISABLE TRIGGER audit_log_guard`)
	found := b.check(tab, CheckOptions{})
	wantProblems(t, found, "missing_guard public.audit_log_2026_11", "missing_guard public.audit_log_2026_12", "missing_guard public.audit_log_2027_01")
	for _, p := range found {
		b.exec(p.Hint)
	}
	wantProblems(t, b.check(tab, CheckOptions{}))
	b.exec(`ALTER TABLE audit_log DISABLE TRIGGER ALL`)
	found = b.check(tab, CheckOptions{})
	wantProblems(t, found, "missing_guard", "missing_guard")
	for _, p := range found {
		b.exec(p.Hint)
	}
	b.exec(`DROP TRIGGER audit_log_guard ON audit_log; DROP TRIGGER audit_log_guard_truncate ON audit_log`)
	found = b.check(tab, CheckOptions{})
	wantProblems(t, found, "missing_guard", "missing_guard")
	for _, p := range found {
		b.exec(p.Hint)
	}
	if _, err := b.conn().Exec(t.Context(), `UPDATE audit_log SET status = 'x'; TRUNCATE audit_log`); err == nil {
		t.Error("the hints do not guard the table")
	}
	if Worst(0) != nil || fault.ClassOf(Worst(2)) != fault.Integrity {
		t.Error("class")
	}
}

// A partition of any depth is looked at beside its own siblings.
func TestCheckDepth(t *testing.T) {
	t.Parallel()
	b := fresh(t, `CREATE TABLE e (k timestamptz, org text) PARTITION BY RANGE (k)`,
		`CREATE TABLE e_a PARTITION OF e FOR VALUES FROM ('2026-11-01Z') TO ('2027-02-01Z') PARTITION BY LIST (org)`,
		`CREATE TABLE e_a_x PARTITION OF e_a FOR VALUES IN ('x'); CREATE TABLE e_a_y PARTITION OF e_a FOR VALUES IN ('y'); CREATE TABLE e_a_z PARTITION OF e_a FOR VALUES IN ('z') WITH (fillfactor = 50)`)
	tab := b.table("e")
	found := b.check(tab, CheckOptions{Until: serverDay.Add(time.Hour)})
	wantProblems(t, found, "drift public.e_a_z")
}
