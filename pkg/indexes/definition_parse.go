package indexes

import (
	"errors"
	"fmt"
	"strings"
)

// catalogText is what the server writes of one index.
type catalogText struct {
	full    string // pg_get_indexdef(index)
	prefix  string // what full begins with, up to the parenthesis of the keys
	schema  string
	parts   []string // pg_get_indexdef(index, n, false) of the keys
	columns []string // their names; "": an expression
}

var errCatalogText = errors.New("pg_get_indexdef gave something unexpected")

// keys reads collation, operator class and order of every key from the full definition, where the server has left out what is the default:
// that of an expression's collation is not in the catalog. Each part stands in the full text as it is.
func (c catalogText) keys() ([]Key, error) {
	rest, ok := strings.CutPrefix(c.full, c.prefix)
	if !ok { // since PostgreSQL 15 a session's own temporary schema goes by its other name
		rest, ok = strings.CutPrefix(c.full, strings.Replace(c.prefix, " ON "+c.schema+".", " ON pg_temp.", 1))
	}
	if !ok {
		return nil, fmt.Errorf("%w: %s", errCatalogText, c.full)
	}
	keys := make([]Key, len(c.parts))
	for i, part := range c.parts {
		if rest, ok = strings.CutPrefix(rest, part); !ok {
			return nil, fmt.Errorf("%w: key %d of %s", errCatalogText, i+1, c.full)
		}
		if keys[i].Column = c.columns[i]; keys[i].Column == "" {
			keys[i].Expression = trimParens(part)
		}
		rest = keys[i].readOptions(rest)
		if rest, ok = strings.CutPrefix(rest, map[bool]string{true: ")", false: ", "}[i == len(c.parts)-1]); !ok {
			return nil, fmt.Errorf("%w: after key %d of %s", errCatalogText, i+1, c.full)
		}
	}
	return keys, nil
}

// readOptions takes what follows a key off s, and returns the rest.
func (k *Key) readOptions(s string) string {
	if after, ok := strings.CutPrefix(s, " COLLATE "); ok {
		k.Collation, s = cutQualified(after)
	}
	for _, known := range []string{" DESC", " NULLS"} { // an operator class of such a name is quoted
		if strings.HasPrefix(s, known) {
			return k.readOrder(s)
		}
	}
	if after, ok := strings.CutPrefix(s, " "); ok {
		k.OpClass, s = cutQualified(after)
		if strings.HasPrefix(s, " (") {
			if end := closing(s[1:]); end > 0 {
				k.OpClass, s = k.OpClass+s[:end+2], s[end+2:]
			}
		}
	}
	return k.readOrder(s)
}

func (k *Key) readOrder(s string) string {
	s, k.Descending = strings.CutPrefix(s, " DESC")
	if after, ok := strings.CutPrefix(s, " NULLS FIRST"); ok {
		k.Nulls, s = NullsFirst, after
	} else if after, ok := strings.CutPrefix(s, " NULLS LAST"); ok {
		k.Nulls, s = NullsLast, after
	}
	return s
}

// cutQualified takes a name of one or two identifiers off s.
func cutQualified(s string) (name, rest string) {
	i := identifierEnd(s, 0)
	if i < len(s) && s[i] == '.' {
		i = identifierEnd(s, i+1)
	}
	return s[:i], s[i:]
}

func identifierEnd(s string, i int) int {
	if i >= len(s) || s[i] != '"' {
		for i < len(s) && !strings.ContainsRune(" ,.()", rune(s[i])) {
			i++
		}
		return i
	}
	for i++; i < len(s); i++ {
		if s[i] == '"' {
			if i+1 < len(s) && s[i+1] == '"' {
				i++
				continue
			}
			return i + 1
		}
	}
	return i
}
