package indexes

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func column(name string) Key { return Key{Column: name} }

func on(keys ...Key) Definition {
	return Definition{Schema: "public", Table: "t", Method: BTree, Keys: keys}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	a, b := column("a"), column("b")
	aDown, bDown := Key{Column: "a", Descending: true}, Key{Column: "b", Descending: true}
	unique := on(a)
	unique.Unique = true
	partial := on(a)
	partial.Predicate = "(x > 1)"
	including := on(a, b)
	including.Include = []string{"c"}
	wants := on(a)
	wants.Include = []string{"b"}
	gin, ginBoth := on(a), on(a, b)
	gin.Method, ginBoth.Method = "gin", "gin"
	for name, c := range map[string]struct {
		one, other     Definition
		equal, covered bool // other covers one
	}{
		"same":                  {on(a), on(a), true, true},
		"prefix":                {on(a), on(a, b), false, true},
		"longer":                {on(a, b), on(a), false, false},
		"not the first":         {on(b), on(a, b), false, false},
		"reversed":              {on(aDown), on(a, b), false, true},
		"both reversed":         {on(aDown, bDown), on(a, b), false, true},
		"mixed":                 {on(aDown, b), on(a, b), false, false},
		"nulls as they are":     {on(Key{Column: "a", Nulls: NullsLast}), on(a), true, true},
		"nulls first":           {on(Key{Column: "a", Nulls: NullsFirst}), on(a), false, false},
		"reversed, nulls first": {on(Key{Column: "a", Descending: true, Nulls: NullsLast}), on(Key{Column: "a", Nulls: NullsFirst}), false, true},
		"unique by plain":       {unique, on(a), false, false},
		"plain by unique":       {on(a), unique, false, true},
		"partial":               {on(a), partial, false, false},
		"partial by whole":      {partial, on(a), false, false},
		"include in key":        {wants, on(a, b), false, true},
		"include missing":       {including, on(a, b), false, false},
		"gin prefix":            {gin, ginBoth, false, false},
		"other collation":       {on(Key{Column: "a", Collation: `"C"`}), on(a), false, false},
	} {
		if got := c.one.Equal(c.other); got != c.equal {
			t.Errorf("%s: equal %t", name, got)
		}
		if got := c.other.Covers(c.one); got != c.covered {
			t.Errorf("%s: covered %t", name, got)
		}
	}
}

// A name always fits, is the same for the same index and another for another.
func TestIndexName(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(1, 63, 63)
		d := on(column(text.Draw(t, "column")), column(text.Draw(t, "column")))
		d.Table = text.Draw(t, "table")
		name := d.IndexName()
		if len(name) > maxName || strings.ToValidUTF8(name, "") != name {
			t.Fatalf("%d bytes: %q", len(name), name)
		}
		other := d
		other.Predicate = "x"
		if name != d.IndexName() || name == other.IndexName() {
			t.Fatal("names")
		}
	})
}

func TestDefinitionJSON(t *testing.T) {
	t.Parallel()
	d := on(Key{Expression: `lower("A")`, OpClass: "text_pattern_ops", Descending: true, Nulls: NullsLast})
	d.Options = map[string]string{"fillfactor": "70"}
	d.Predicate, d.Unique = "n IS NULL", true
	raw, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var back Definition
	if err := json.Unmarshal(raw, &back); err != nil || back.DDL() != d.DDL() {
		t.Errorf("%s: %v", raw, err)
	}
	const want = `CREATE UNIQUE INDEX "t_expr_idx_8544ffc7" ON "public"."t" USING "btree" ((lower("A")) text_pattern_ops DESC NULLS LAST) WITH ("fillfactor" = '70') WHERE (n IS NULL)`
	if d.DDL() != want {
		t.Error(d.DDL())
	}
}

func TestTrimParens(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"(a)": "a", "((a))": "a", "(a) + (b)": "(a) + (b)", `(a = ')')`: `a = ')'`, `("(" = 1)`: `"(" = 1`, "(": "(", "": "", "()": "", `(E'\')')`: `(E'\')')`,
	} {
		if got := trimParens(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
