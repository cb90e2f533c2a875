package indexes

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"auditdb/internal/fault"
	"auditdb/pkg/plan"
)

// parted makes a partitioned table of three levels, with rows in every partition.
func parted(t *testing.T, more ...string) *base {
	t.Helper()
	return fresh(t, append([]string{
		`CREATE SCHEMA "A b"`,
		`CREATE TABLE "A b"."T ü" (id bigint NOT NULL, at date NOT NULL, who text, j jsonb) PARTITION BY RANGE (at)`,
		`CREATE TABLE "A b".y25 PARTITION OF "A b"."T ü" FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')`,
		`CREATE TABLE "A b"."y26 ""q""" PARTITION OF "A b"."T ü" FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY LIST (who)`,
		`CREATE TABLE "A b"."` + strings.Repeat("a", 63) + `" PARTITION OF "A b"."y26 ""q""" FOR VALUES IN ('a')`,
		`CREATE TABLE "A b".y26b PARTITION OF "A b"."y26 ""q""" FOR VALUES IN ('b')`,
		`INSERT INTO "A b"."T ü" SELECT n, '2025-01-01'::date + n % 700, CASE WHEN n % 2 = 0 THEN 'a' ELSE 'b' END, '{}' FROM generate_series(1, 3000) n`,
	}, more...)...)
}

const partedTable = `"A b"."T ü"`

func onParted(keys ...Key) Definition {
	return Definition{Schema: "A b", Table: "T ü", Method: BTree, Keys: keys}
}

func (b *base) applier() *Applier {
	return NewApplier(Options{DB: b.db, Wait: 5 * time.Second})
}

// apply carries a recommendation out as the command does.
func (b *base) apply(a *Applier, r Recommendation) (steps []string, err error) {
	b.Helper()
	err = a.Locked(b.Context(), r, func(ctx context.Context) error {
		d, err := a.Draft(ctx, r)
		if err != nil {
			return err
		}
		return a.Apply(ctx, d, func(done plan.Result) {
			if done.Err == nil {
				steps = append(steps, done.Step.SQL)
			}
		})
	})
	return steps, err
}

func (b *base) applied(r Recommendation) []string {
	b.Helper()
	steps, err := b.apply(b.applier(), r)
	if err != nil {
		b.Fatalf("%v, after %q", err, steps)
	}
	return steps
}

func create(d Definition) Recommendation { return Recommend(ActionCreate, d, "test", evidenceCatalog) }

// complete checks that the table has the index on all levels, valid and attached, and no invalid index at all.
func (b *base) complete(table string, d Definition, leaves int) {
	b.Helper()
	got := 0
	for _, i := range b.load(table) {
		if !i.Valid {
			b.Errorf("invalid: %s", i.DDL())
		}
		if i.Equal(d) && (i.Level == 0 || i.Parent != 0) && !i.Partitioned {
			got++
		}
	}
	if got != leaves {
		b.Errorf("%d of %d partitions have %s", got, leaves, d.DDL())
	}
}

func TestApplyCreate(t *testing.T) {
	t.Parallel()
	for name, d := range map[string]Definition{
		"column":     onParted(column("who"), Key{Column: "at", Descending: true}),
		"expression": {Schema: "A b", Table: "T ü", Method: BTree, Keys: []Key{{Expression: `lower(who)`}}, Predicate: `(id > 3)`},
		"gin":        {Schema: "A b", Table: "T ü", Method: "gin", Keys: []Key{{Column: "j", OpClass: "jsonb_path_ops"}}},
		"unique":     {Schema: "A b", Table: "T ü", Method: BTree, Keys: []Key{column("id"), column("at"), column("who")}, Unique: true},
		"named":      {Schema: "A b", Table: "T ü", Name: strings.Repeat("ü", 31), Method: BTree, Keys: []Key{column("id")}, Include: []string{"who"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := parted(t)
			steps := b.applied(create(d))
			found := b.load(partedTable)
			root := found[0]
			if !root.Valid || root.Name != d.IndexName() || len(found) != 5 {
				t.Errorf("%d, %s\n%s", len(found), root.DDL(), strings.Join(steps, "\n"))
			}
			b.complete(partedTable, root.Definition, 3)
			if again := b.applied(create(d)); len(again) != 0 {
				t.Errorf("a second run did %q", again)
			}
			if analyzed := strings.Contains(strings.Join(steps, "\n"), "ANALYZE"); analyzed != (name == "expression") {
				t.Errorf("analyzed %t", analyzed)
			}
			r := Recommend(ActionDrop, root.Definition, "test", evidenceUsage)
			if name == "unique" {
				if _, err := b.apply(b.applier(), r); fault.ClassOf(err) != fault.Refused {
					t.Error(err)
				}
				return
			}
			b.applied(r)
			if left := b.load(partedTable); len(left) != 0 {
				t.Errorf("%+v", left)
			}
		})
	}
}

// Whatever is there already is taken, repaired or left alone.
func TestApplyFindsThings(t *testing.T) {
	t.Parallel()
	d := onParted(column("id"))
	leaf := d.On("A b", "y25")
	// invalidate is what an interrupted build leaves.
	invalidate := func(index string) string {
		return fmt.Sprintf(`UPDATE pg_index SET indisvalid = false WHERE indexrelid = '%s'::regclass`, index)
	}
	for name, c := range map[string]struct {
		before  []string
		keeps   string // an index that has to be there afterwards, with its state
		valid   bool
		expect  string // in the steps
		without string
	}{
		"our leftover":       {[]string{leaf.DDL(), invalidate(leaf.Ident())}, leaf.Ident(), true, "DROP INDEX CONCURRENTLY " + leaf.Ident(), ""},
		"a stranger's":       {[]string{`CREATE INDEX mine ON "A b".y25 (id)`, invalidate(`"A b".mine`)}, `"A b"."mine"`, false, leaf.create(concurrently), "DROP"},
		"a valid one":        {[]string{`CREATE INDEX mine ON "A b".y25 (id)`}, `"A b".mine`, true, `ATTACH PARTITION "A b"."mine"`, leaf.create(concurrently)},
		"the other way":      {[]string{`CREATE INDEX mine ON "A b".y25 (id DESC)`}, `"A b".mine`, true, leaf.create(concurrently), "DROP"},
		"name taken":         {[]string{strings.Replace(leaf.DDL(), `"id"`, `"who"`, 1)}, leaf.Ident(), true, leaf.ownName(1), "DROP"},
		"reindex leftover":   {[]string{leaf.DDL(), strings.Replace(leaf.DDL(), leaf.IndexName(), leaf.IndexName()+"_ccnew", 1), invalidate(`"A b"."` + leaf.IndexName() + `_ccnew"`)}, leaf.Ident(), true, "DROP INDEX CONCURRENTLY", leaf.create(concurrently)},
		"attached, invalid":  {[]string{d.create(only), leaf.DDL(), attachSQL(d.Ident(), leaf.Ident()), invalidate(leaf.Ident())}, leaf.Ident(), true, "REINDEX INDEX CONCURRENTLY " + leaf.Ident(), leaf.create(concurrently)},
		"attached, reversed": {[]string{d.create(only), `CREATE INDEX mine ON "A b".y25 (id DESC)`, attachSQL(d.Ident(), `"A b".mine`)}, `"A b".mine`, true, d.ownName(1), "DROP"},
		"parent invalid":     {[]string{d.DDL(), invalidate(d.Ident())}, d.Ident(), true, "ATTACH", "CREATE"},
		"another name":       {[]string{`CREATE INDEX other ON ONLY ` + partedTable + ` (id)`}, `"A b".other`, true, `ALTER INDEX "A b"."other" ATTACH`, d.create(only)},
		"covered":            {[]string{`CREATE INDEX wide ON ` + partedTable + ` (id, who)`}, `"A b".wide`, true, "", "INDEX"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := parted(t, c.before...)
			steps := strings.Join(b.applied(create(d)), "\n")
			if !strings.Contains(steps, c.expect) || c.without != "" && strings.Contains(steps, c.without) {
				t.Errorf("steps:\n%s", steps)
			}
			if got := value[bool](b, "SELECT indisvalid FROM pg_index WHERE indexrelid = $1::regclass", c.keeps); got != c.valid {
				t.Errorf("%s: valid %t", c.keeps, got)
			}
			for _, i := range b.load(partedTable) {
				if !i.Valid && i.Ident() != c.keeps && name != "attached, reversed" {
					t.Errorf("invalid: %s", i.DDL())
				}
			}
			if name == "covered" {
				return
			}
			served := 0
			for _, i := range b.load(partedTable) {
				if i.Valid && i.Level == 0 && i.Equal(d) {
					served++
				}
			}
			if served != 1 {
				t.Errorf("%d valid indexes of the table", served)
			}
		})
	}
}
