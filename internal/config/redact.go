package config

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// mask stands where a secret was.
const mask = "***"

// shortestLiteral is the length from which a password is masked wherever it appears. Shorter ones are words of every text;
// they are masked in addresses and settings only.
const shortestLiteral = 6

// Redactor masks secrets in text meant for people. It is safe for concurrent use.
type Redactor struct {
	literals []string
	patterns []pattern
}

type pattern struct {
	re   *regexp.Regexp
	with string
}

// NewRedactor makes a mask for passwords in addresses and settings, and for the given words wherever they stand.
func NewRedactor(words ...string) *Redactor {
	r := &Redactor{patterns: patterns()}
	for _, word := range words {
		if len(word) < shortestLiteral {
			continue
		}
		r.literals = append(r.literals, word)
		if escaped := url.QueryEscape(word); escaped != word {
			r.literals = append(r.literals, escaped)
		}
	}
	// Longest first: a secret that contains another goes as a whole.
	slices.SortFunc(r.literals, func(a, b string) int { return len(b) - len(a) })
	return r
}

func patterns() []pattern {
	return []pattern{
		// scheme://user:password@ up to the last @ of the word, since passwords are not always escaped.
		{regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://[^:/?#@\s"]*):[^\s"]*@`), "${1}:" + mask + "@"},
		{regexp.MustCompile(`(?i)([a-z_-]*(?:password|passwd|secret|token|access_key))(\s*=\s*)('(?:\\.|[^'\\])*'|[^\s&"]+)`), "${1}${2}" + mask},
	}
}

// passwords finds the secrets within an address or a keyword string. A password that is also the name of the user, the
// database or the host is left out: messages have to show those.
func passwords(s string) []string {
	u, err := url.Parse(s)
	if err == nil && u.Scheme != "" {
		return slices.DeleteFunc(urlPasswords(u), func(p string) bool {
			return p == "" || p == u.User.Username() || p == strings.Trim(u.Path, "/") || p == u.Hostname()
		})
	}
	if _, after, ok := strings.Cut(s, "://"); ok { // an address that does not parse: the password is between : and the last @
		user, _, _ := cutLast(after, "@")
		_, p, found := strings.Cut(user, ":")
		if !found {
			return nil
		}
		return []string{p}
	}
	found := []string{}
	for _, m := range regexp.MustCompile(`(?i)password\s*=\s*('(?:\\.|[^'\\])*'|\S+)`).FindAllStringSubmatch(s, -1) {
		bare := strings.Trim(m[1], "'")
		found = append(found, bare)
		if plain := strings.NewReplacer(`\'`, `'`, `\\`, `\`).Replace(bare); plain != bare {
			found = append(found, plain)
		}
	}
	return found
}

func urlPasswords(u *url.URL) []string {
	found := []string{}
	if p, ok := u.User.Password(); ok {
		found = append(found, p)
	}
	for name, values := range u.Query() {
		if secretName(name) {
			found = append(found, values...)
		}
	}
	return found
}

func secretName(name string) bool {
	name = strings.ToLower(name)
	for _, word := range []string{"password", "secret", "token", "access_key"} {
		if strings.HasSuffix(name, word) {
			return true
		}
	}
	return false
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return "", s, false
}

// Redact masks what is secret in s.
func (r *Redactor) Redact(s string) string {
	for _, word := range r.literals {
		s = strings.ReplaceAll(s, word, mask)
	}
	for _, p := range r.patterns {
		s = p.re.ReplaceAllString(s, p.with)
	}
	return s
}

// RedactURL masks the password of an address or a keyword string: postgres://user:***@host/db.
func RedactURL(s string) string {
	return NewRedactor().Redact(s)
}

// HasPassword tells whether an address or keyword string holds a password.
func HasPassword(s string) bool {
	if u, err := url.Parse(s); err == nil && u.Scheme != "" {
		return slices.ContainsFunc(urlPasswords(u), func(p string) bool { return p != "" })
	}
	return len(passwords(s)) > 0
}
