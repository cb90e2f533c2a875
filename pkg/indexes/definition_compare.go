package indexes

import (
	"slices"
	"strings"
)

// Equal says whether two indexes hold the same entries in the same order, whatever their tables, names and storage parameters are.
// Expressions and predicates are compared as written: both sides should come from the catalog, or from Canonical.
func (d Definition) Equal(o Definition) bool {
	return d.Method == o.Method && d.Unique == o.Unique && d.NullsNotDistinct == o.NullsNotDistinct && d.samePredicate(o) &&
		slices.EqualFunc(d.Keys, o.Keys, Key.equal) && sameSet(d.Include, o.Include)
}

// PrefixOf says whether the keys of d are the first ones of o, over the same rows: in the same directions, or, which a scan backwards
// serves, all of them reversed. Only B-trees have prefixes; of other methods an index is the prefix of one with the same keys.
func (d Definition) PrefixOf(o Definition) bool {
	if d.Method != o.Method || len(d.Keys) > len(o.Keys) || !d.samePredicate(o) || (d.Method != BTree && len(d.Keys) != len(o.Keys)) {
		return false
	}
	leading := o.Keys[:len(d.Keys)]
	return slices.EqualFunc(d.Keys, leading, Key.equal) || d.Method == BTree && slices.EqualFunc(d.Keys, leading, Key.reversed)
}

// Covers says whether d serves all that o does, so that o need not be there beside it. An index that enforces something is only covered by one
// that enforces the same.
func (d Definition) Covers(o Definition) bool {
	if o.Unique && (!d.Unique || len(d.Keys) != len(o.Keys) || d.NullsNotDistinct != o.NullsNotDistinct) || !o.PrefixOf(d) {
		return false
	}
	return !slices.ContainsFunc(o.Include, func(column string) bool {
		return !slices.Contains(d.Include, column) && !slices.ContainsFunc(d.Keys, func(k Key) bool { return k.Column == column })
	})
}

func (d Definition) samePredicate(o Definition) bool {
	return trimParens(d.Predicate) == trimParens(o.Predicate)
}

func (k Key) equal(o Key) bool { return k.canonical() == o.canonical() }

// reversed says whether a scan backwards of o reads in the order of k.
func (k Key) reversed(o Key) bool {
	k, o = k.canonical(), o.canonical()
	if k.Descending == o.Descending || k.nulls() != "" != (o.nulls() != "") {
		return false
	}
	k.Descending, k.Nulls, o.Nulls = o.Descending, "", ""
	return k == o
}

func (k Key) canonical() Key {
	k.Nulls, k.Expression = k.nulls(), trimParens(k.Expression)
	return k
}

func sameSet(a, b []string) bool {
	return len(a) == len(b) && slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// trimParens takes off parentheses around the whole of an expression.
func trimParens(s string) string {
	s = strings.TrimSpace(s)
	for len(s) > 1 && s[0] == '(' && closing(s) == len(s)-1 {
		s = strings.TrimSpace(s[1 : len(s)-1])
	}
	return s
}

// closing is where the parenthesis that s begins with is closed; -1: nowhere. Quoted parts do not count. A string with backslashes, which
// may escape quotes, is not understood.
func closing(s string) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i
			}
		case '\'', '"':
			end := strings.IndexByte(s[i+1:], c)
			if end < 0 || strings.Contains(s[i:i+1+end], `\`) {
				return -1
			}
			i += 1 + end
		}
	}
	return -1
}
