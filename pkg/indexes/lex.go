package indexes

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// bare is SQL without what may hold anything: strings, quoted names and comments are blanks in it.
type bare struct {
	text     string
	comments bool
	dollars  bool // strings in dollar quotes
}

var (
	dollarQuote = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^\$(?:[A-Za-z_\x80-\x{10ffff}][A-Za-z0-9_\x80-\x{10ffff}]*)?\$`)
	})
	parameter = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\$([0-9]+)`) })
	firstWord = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[(\s]*([A-Za-z]+)`) })
	anyName   = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^(?:"(?:[^"]|"")+"|[A-Za-z_][A-Za-z0-9_$]*)(?:\.(?:"(?:[^"]|"")+"|[A-Za-z_][A-Za-z0-9_$]*))?$`)
	})
)

// lex blanks out strings, quoted names and comments by the lexical rules of PostgreSQL (documentation, chapter 4.1) with
// standard_conforming_strings on. What is not closed is an error.
func lex(sql string) (b bare, err error) {
	var out strings.Builder
	word := false // the last character belongs to a name or a number
	for i := 0; i < len(sql); {
		var n int
		switch c := sql[i]; {
		case c == 0:
			return b, errors.New("it holds a zero byte")
		case c == '\'':
			escapes := i > 0 && (sql[i-1] == 'e' || sql[i-1] == 'E') && (i == 1 || !wordByte(sql[i-2]))
			n = quoted(sql[i:], '\'', escapes)
		case c == '"':
			n = quoted(sql[i:], '"', false)
		case strings.HasPrefix(sql[i:], "--"):
			b.comments = true
			if n = strings.IndexByte(sql[i:], '\n'); n < 0 {
				n = len(sql) - i
			}
		case strings.HasPrefix(sql[i:], "/*"):
			b.comments = true
			n = comment(sql[i:])
		case c == '$' && !word && dollarQuote().MatchString(sql[i:]):
			b.dollars = true
			tag := dollarQuote().FindString(sql[i:])
			if n = strings.Index(sql[i+len(tag):], tag); n >= 0 {
				n += 2 * len(tag)
			}
		default:
			out.WriteByte(c)
			word = wordByte(c)
			i++
			continue
		}
		if n < 0 {
			return b, fmt.Errorf("what begins with %q is not closed", sql[i:min(i+2, len(sql))])
		}
		out.WriteByte(' ')
		word = false
		i += n
	}
	b.text = out.String()
	return b, nil
}

func wordByte(c byte) bool {
	return c == '_' || c == '$' || c >= 0x80 || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// quoted is how long the string or name is that s begins with; -1: it has no end. A doubled quote stands for itself.
func quoted(s string, quote byte, escapes bool) int {
	for i := 1; i < len(s); i++ {
		switch {
		case escapes && s[i] == '\\':
			i++
		case s[i] == quote && i+1 < len(s) && s[i+1] == quote:
			i++
		case s[i] == quote:
			return i + 1
		}
	}
	return -1
}

// comment is how long the comment is that s begins with, which may hold others; -1: it has no end.
func comment(s string) int {
	depth := 0
	for i := 0; i+1 < len(s); i++ {
		switch s[i : i+2] {
		case "/*":
			depth++
			i++
		case "*/":
			depth--
			i++
		}
		if depth == 0 {
			return i + 1
		}
	}
	return -1
}

// closed refuses a part of a statement that could end the parentheses around it, or the statement.
func closed(sql string) error {
	b, err := lex(sql)
	if err != nil {
		return err
	}
	if b.comments || b.dollars || strings.Contains(b.text, ";") {
		return errors.New("it holds a comment, a semicolon or a string in dollar quotes")
	}
	depth := 0
	for _, c := range b.text {
		switch c {
		case '(':
			depth++
		case ')':
			depth--
		}
		if depth < 0 {
			break
		}
	}
	if depth != 0 {
		return errors.New("its parentheses do not match")
	}
	return nil
}

// isName says that a text is a name as SQL writes it, with or without its schema. args: what an operator class may have behind it.
func isName(sql string, args bool) bool {
	name, rest, found := strings.Cut(sql, " (")
	if !anyName().MatchString(name) {
		return false
	}
	return !found || args && strings.HasSuffix(rest, ")") && closed(strings.TrimSuffix(rest, ")")) == nil
}

// plannable says how many parameters a query has that EXPLAIN takes: one statement that reads or changes rows.
func plannable(query string) (parameters int, err error) {
	b, err := lex(query)
	if err != nil {
		return 0, err
	}
	text := strings.TrimRight(b.text, "; \t\r\n")
	if strings.Contains(text, ";") {
		return 0, errors.New("it is several statements")
	}
	word := firstWord().FindStringSubmatch(text)
	if word == nil {
		return 0, errors.New("it is no statement that can be planned")
	}
	switch strings.ToUpper(word[1]) {
	case "SELECT", "WITH", "VALUES", "TABLE", "INSERT", "UPDATE", "DELETE", "MERGE":
	default:
		return 0, fmt.Errorf("%s cannot be planned", strings.ToUpper(word[1]))
	}
	for _, m := range parameter().FindAllStringSubmatch(text, -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil || n > 65535 {
			return 0, errors.New("it has too many parameters")
		}
		parameters = max(parameters, n)
	}
	return parameters, nil
}
