package indexes

import (
	"strings"
	"unicode/utf8"
)

// tokenKind is a kind of token of SQL.
type tokenKind int

const (
	tokenNone tokenKind = iota
	tokenWord           // an identifier, quoted or not, or a keyword
	tokenString
	tokenNumber
	tokenParam // $1
	tokenOperator
	tokenPunctuation
	tokenComment
)

// token is a piece of SQL text, at bytes start to end of it.
type token struct {
	kind       tokenKind
	text       string
	start, end int
}

// name is the identifier that a word means.
func (t token) name() string {
	if strings.HasPrefix(t.text, `"`) {
		return strings.ReplaceAll(strings.Trim(t.text, `"`), `""`, `"`)
	}
	return t.text
}

// value is what a string literal means, as far as it has no escapes but doubled quotes.
func (t token) value() string {
	from := strings.IndexByte(t.text, '\'')
	if from < 0 || len(t.text) < from+2 {
		return t.text
	}
	return strings.ReplaceAll(t.text[from+1:len(t.text)-1], "''", "'")
}

// tokenize cuts SQL into tokens, without its comments.
func tokenize(s string) []token {
	var all []token
	for i := 0; ; {
		t := nextToken(s, i)
		if t.kind == tokenNone {
			return all
		}
		if i = t.end; t.kind != tokenComment {
			all = append(all, t)
		}
	}
}

const blanks = " \t\r\n\f\v"

// nextToken is the token that begins at or after byte i; tokenNone at the end. What is not closed goes to the end of s.
func nextToken(s string, i int) token {
	for i < len(s) && strings.IndexByte(blanks, s[i]) >= 0 {
		i++
	}
	if i >= len(s) {
		return token{}
	}
	kind, n := scanToken(s[i:])
	if n < 0 || i+n > len(s) {
		n = len(s) - i
	}
	return token{kind: kind, text: s[i : i+n], start: i, end: i + n}
}

const operatorBytes = "+-*/<>=~!@#%^&|`?"

// scanToken is the kind and the length of the token that s begins with; -1: it has no end.
func scanToken(s string) (tokenKind, int) {
	c := s[0]
	switch {
	case strings.HasPrefix(s, "--"):
		return tokenComment, strings.IndexByte(s, '\n')
	case strings.HasPrefix(s, "/*"):
		return tokenComment, comment(s)
	case c == '\'':
		return tokenString, quoted(s, c, false)
	case c == '"':
		return tokenWord, quoted(s, c, false)
	case len(s) > 1 && s[1] == '\'' && strings.IndexByte("eEbBxXnN", c) >= 0:
		n := quoted(s[1:], '\'', c|0x20 == 'e')
		if n > 0 {
			n++
		}
		return tokenString, n
	case c == '$':
		return dollarToken(s)
	case c >= '0' && c <= '9', c == '.' && len(s) > 1 && s[1] >= '0' && s[1] <= '9':
		return tokenNumber, numberLength(s)
	case wordByte(c):
		n := 1
		for n < len(s) && wordByte(s[n]) {
			n++
		}
		return tokenWord, n
	case strings.IndexByte(operatorBytes, c) >= 0:
		n := 1
		for n < len(s) && strings.IndexByte(operatorBytes, s[n]) >= 0 && !strings.HasPrefix(s[n:], "--") && !strings.HasPrefix(s[n:], "/*") {
			n++
		}
		return tokenOperator, n
	case strings.HasPrefix(s, "::"):
		return tokenPunctuation, 2
	}
	_, n := utf8.DecodeRuneInString(s)
	return tokenPunctuation, n
}

// dollarToken reads $1 or a string in dollar quotes.
func dollarToken(s string) (tokenKind, int) {
	n := 1
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	tag := dollarQuote().FindString(s)
	switch {
	case n > 1:
		return tokenParam, n
	case tag == "":
		return tokenPunctuation, 1
	}
	if end := strings.Index(s[len(tag):], tag); end >= 0 {
		return tokenString, end + 2*len(tag)
	}
	return tokenString, -1
}

func numberLength(s string) int {
	n := 0
	for n < len(s) {
		c := s[n]
		exponent := (c == '+' || c == '-') && n > 0 && s[n-1]|0x20 == 'e' && !strings.HasPrefix(s, "0x")
		if !wordByte(c) && c != '.' && !exponent {
			break
		}
		n++
	}
	return n
}
