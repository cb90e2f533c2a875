package indexes

import (
	"strings"
	"testing"
)

func TestClosed(t *testing.T) {
	t.Parallel()
	for _, good := range []string{
		"lower(who)", "", "(details ->> 'a;b(') = 'it''s'", `"we""ird (" > 3`, `status = ANY (ARRAY['a'::text, 'b'::text])`, `note ~ E'\'(;'`, "a = $1", "a$b = 1",
	} {
		if err := closed(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"a) , (b", "a; DROP TABLE t", "a -- b", "a /* b */", "'open", `"open`, "a)", "(a", "$$x$$", "$t$ ) $t$", "a\x00", `E'\'`, "'\\' ) ; --'", "x'))",
	} {
		if closed(bad) == nil {
			t.Errorf("%s is called closed", bad)
		}
	}
	for name, ok := range map[string]bool{
		`text_pattern_ops`: true, `"We ird"."o""ps"`: true, `gist_trgm_ops (siglen='100')`: true, `x y`: false, `x) (y`: false, `x (a) (b`: false, `x;`: false, ``: false, `"open`: false,
	} {
		if isName(name, true) != ok {
			t.Errorf("%s: %t", name, !ok)
		}
	}
	if isName("C (x)", false) {
		t.Error("a collation has no arguments")
	}
}

func TestPlannable(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]int{
		"SELECT 1": 0, "select * from t where a = $2 and b = $1;": 2, "WITH x AS (SELECT $1) SELECT '$7', \"$8\", $t$ $9 $t$ FROM x -- $6": 1, "((SELECT 1) UNION SELECT 2)": 0,
		"/* a /* b */ */ UPDATE t SET a = $3": 3, "CREATE TABLE t ()": -1, "SELECT 1; SELECT 2": -1, "": -1, "SELECT 'open": -1, "EXPLAIN SELECT 1": -1, "SELECT $99999999999": -1, "SELECT ';'": 0,
	} {
		got, err := plannable(query)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("%s: %d, %v", query, got, err)
		}
	}
}

// What is called closed cannot end the parentheses around it.
func FuzzClosed(f *testing.F) {
	for _, s := range []string{"a", "E'\\'", "'a'')", "$a$b$a$", "/*/**/*/", `"a""b"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if closed(s) != nil {
			return
		}
		around, err := lex("(" + s + ") x")
		if err != nil || !strings.HasSuffix(around.text, ") x") || strings.Count(around.text, "(") != strings.Count(around.text, ")") {
			t.Errorf("%q: %+v, %v", s, around, err)
		}
	})
}
