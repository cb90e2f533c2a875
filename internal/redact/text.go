package redact

import (
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// shortestLiteral is the length from which a password is masked wherever it appears. Shorter ones are words of every text;
// they are masked in addresses and settings only.
const shortestLiteral = 6

// Redactor masks secrets in text meant for people. It is safe for concurrent use.
type Redactor struct {
	literals []string
}

type pattern struct {
	re   *regexp.Regexp
	with string
}

// NewRedactor makes a mask for passwords in addresses and settings, and for the given words wherever they stand.
func NewRedactor(words ...string) *Redactor {
	r := &Redactor{}
	for _, word := range words {
		if len(word) < shortestLiteral {
			continue
		}
		for _, form := range []string{word, url.QueryEscape(word), inJSON(word)} {
			if !slices.Contains(r.literals, form) {
				r.literals = append(r.literals, form)
			}
		}
	}
	// Longest first: a secret that contains another goes as a whole.
	slices.SortFunc(r.literals, func(a, b string) int { return len(b) - len(a) })
	return r
}

func inJSON(word string) string {
	text, err := json.Marshal(word)
	if err != nil {
		return word
	}
	return strings.Trim(string(text), `"`)
}

var patterns = sync.OnceValue(func() []pattern {
	return []pattern{
		// scheme://user:password@ up to the last @ of the word, since passwords are not always escaped.
		{regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://[^:/?#@\s"]*):[^\s"]*@`), "${1}:" + mask + "@"},
		// keyword=value: in quotes, behind a quote that is never closed up to the end of the line, or a word.
		{regexp.MustCompile(`(?i)([a-z_-]*(?:password|passwd|secret|token|access_key))(\s*=\s*)('(?:\\.|[^'\\])*'[^\s"']*|'[^"\n]*|[^\s&"]+)`), "${1}${2}" + mask},
		// parameters of a URL that are secret by shorter names.
		{regexp.MustCompile(`(?i)([?&](?:sig|auth|key|authorization|[a-z0-9_-]*(?:api[_-]?key|access-?key(?:id)?|credential|signature))=)[^\s&"]+`), "${1}" + mask},
	}
})

// Redact masks what is secret in s.
func (r *Redactor) Redact(s string) string {
	for _, word := range r.literals {
		s = strings.ReplaceAll(s, word, mask)
	}
	for _, p := range patterns() {
		s = p.re.ReplaceAllString(s, p.with)
	}
	return s
}
