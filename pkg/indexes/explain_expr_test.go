package indexes

import (
	"strings"
	"testing"
)

// shape writes an expression as what was understood of it.
func (e *expr) shape() string {
	var args []string
	for _, a := range e.args {
		args = append(args, a.shape())
	}
	list := "(" + strings.Join(args, ", ") + ")"
	switch e.kind {
	case exprColumn:
		return e.alias + "." + e.name
	case exprConst:
		return "'" + e.value + "'"
	case exprParam:
		return "param " + e.name
	case exprOther:
		return "other" + list
	case exprAnd:
		return "and" + list
	case exprOr:
		return "or" + list
	case exprNot:
		return "not" + list
	case exprRow:
		return "row" + list
	}
	return e.name + list
}

func TestParseExpr(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`((a.x = 1) AND (a."Y z" > 'it''s'::text))`:                                      `and(=(a.x, '1'), >(a.Y z, 'it's'))`,
		`((a.code)::text = 'x'::text)`:                                                   `=(text(a.code), 'x')`,
		`(ROW(a.ts, a.id) < ROW('2024-01-01 00:00:00+00'::timestamp with time zone, 5))`: `<(row(a.ts, a.id), row('2024-01-01 00:00:00+00', '5'))`,
		`(a.b = ANY ('{1,2}'::integer[]))`:                                               `=(a.b, '{1,2}')`,
		`(a.b IS NOT NULL)`:                                                              `NOT NULL(a.b)`,
		`a.vip`:                                                                          `a.vip`,
		`((NOT a.vip) OR (lower((a.e)::text) ~~ 'x%'::text))`:                            `or(not(a.vip), ~~(lower(text(a.e)), 'x%'))`,
		`((a.details -> 'tags'::text) ? 'pii'::text)`:                                    `?(->(a.details, 'tags'), 'pii')`,
		`(((a.details ->> 'n'::text))::integer > 5)`:                                     `>(integer(->>(a.details, 'n')), '5')`,
		`(a.n = (SubPlan 1))`:                                                            `=(a.n, param SubPlan 1)`,
		`(a.n > (InitPlan 1).col1)`:                                                      `>(a.n, param InitPlan 1)`,
		`(a.n > $0)`:                                                                     `>(a.n, param $0)`,
		`(hashed SubPlan 1)`:                                                             `param hashed SubPlan 1`,
		`(a.x < (- b.y))`:                                                                `<(a.x, -(b.y))`,
		`(date_trunc('day'::text, (a.ts AT TIME ZONE 'UTC'::text)) = '2024-01-01 00:00:00'::timestamp without time zone)`: `=(date_trunc('day', other(a.ts)), '2024-01-01 00:00:00')`,
		`(CASE WHEN (a.x = 1) THEN a.y ELSE 0 END = 1)`:                                                                   `other(a.x, a.y)`,
		`(a.x OPERATOR(public.=) 5)`:  `=(a.x, '5')`,
		`(a.n = ANY (ARRAY[$1, $2]))`: `=(a.n, other(param $1, param $2))`,
	} {
		if got := parseExpr(text).shape(); got != want {
			t.Errorf("%s\nis read as %s\nwant       %s", text, got, want)
		}
	}
}

func TestUnqualify(t *testing.T) {
	t.Parallel()
	is := func(alias string) bool { return alias == "a" || alias == "A b" }
	for text, want := range map[string]string{
		`(a.x = 'a.x'::text)`:       `(x = 'a.x'::text)`,
		`("A b"."x y" = b.x)`:       `("x y" = b.x)`,
		`(a.f(a.x) > 1)`:            `(a.f(x) > 1)`,
		`(a.x = 'k'::a.mood)`:       `(x = 'k'::a.mood)`,
		`(lower(a.x) = lower(c.a))`: `(lower(x) = lower(c.a))`,
	} {
		if got := unqualify(text, is); got != want {
			t.Errorf("%s becomes %s, want %s", text, got, want)
		}
	}
}

func FuzzParseExpr(f *testing.F) {
	f.Add(`((a.x = 1) AND (a."Y z" > 'it''s'::text))`)
	f.Add(strings.Repeat("(", 5000) + "x")
	f.Add("ROW(((")
	f.Add("a.b::c(")
	f.Fuzz(func(_ *testing.T, text string) {
		e := parseExpr(text)
		for _, c := range e.conjuncts() {
			_, _ = c.columns(), c.params()
		}
		_ = e.shape()
	})
}
