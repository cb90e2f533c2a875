package indexes

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/postgres"
)

func TestCanonical(t *testing.T) {
	t.Parallel()
	b := fresh(t, `CREATE TABLE t (a text, v varchar, at timestamptz NOT NULL) PARTITION BY RANGE (at)`)
	undo := errors.New("undo")
	for _, c := range []struct{ one, other Definition }{
		{on(Key{Expression: "lower(v)"}), on(Key{Expression: "((lower((v)::text)))"})},
		{on(Key{Column: "a", OpClass: "text_ops"}), on(Key{Column: "a"})},
		{Definition{Keys: []Key{{Column: "a"}}, Predicate: "v = 'x'"}, Definition{Keys: []Key{{Column: "a"}}, Predicate: "((v)::text = 'x'::text)"}},
	} {
		err := b.db.DDL(t.Context(), postgres.DDLOptions{}, func(tx pgx.Tx) error {
			var got [2]Definition
			for n, d := range []Definition{c.one, c.other} {
				d.Schema, d.Table, d.Method = "public", "t", BTree
				var err error
				if got[n], err = Canonical(t.Context(), tx, d); err != nil {
					return err
				}
			}
			if !got[0].Equal(got[1]) || got[0].IndexName() == "" || got[0].Table != "t" {
				t.Errorf("%+v\n%+v", got[0], got[1])
			}
			return undo
		})
		if !errors.Is(err, undo) {
			t.Error(err)
		}
	}
	err := b.db.DDL(t.Context(), postgres.DDLOptions{}, func(tx pgx.Tx) error {
		_, err := Canonical(t.Context(), tx, on(column("nowhere")))
		return err
	})
	if postgres.SQLState(err) != "42703" {
		t.Error(err)
	}
}
