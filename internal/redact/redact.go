// Package redact keeps passwords, tokens and keys out of everything that is shown: addresses, keyword strings, and text that holds them.
package redact

import (
	"cmp"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// mask stands where a secret was.
const mask = "***"

// span is a part of a text, from its first byte to the one after its last.
type span struct{ from, to int }

// Address masks every secret of a URL (postgres://user:***@host/db) or of a string of keywords (host=h password=***). Where an
// unencoded character makes it unclear where a secret ends, all that could belong to it goes.
func Address(s string) string {
	var out strings.Builder
	at := 0
	for _, secret := range secrets(s) {
		out.WriteString(s[at:secret.from] + mask)
		at = secret.to
	}
	return out.String() + s[at:]
}

// HasPassword tells whether a URL or a string of keywords holds a secret that is not empty.
func HasPassword(s string) bool {
	return slices.ContainsFunc(secrets(s), func(secret span) bool { return strings.Trim(s[secret.from:secret.to], "'") != "" })
}

// Passwords lists the secrets of an address in every form in which a message could show them: as written, decoded and unquoted. One
// that is also the name of the user, the database or the host is left out: messages have to show those.
func Passwords(s string) []string {
	names := []string{""}
	if u, err := url.Parse(s); err == nil && u.Scheme != "" {
		names = append(names, u.User.Username(), strings.Trim(u.Path, "/"), u.Hostname())
	}
	found := []string{}
	for _, secret := range secrets(s) {
		text := s[secret.from:secret.to]
		bare := strings.TrimSuffix(strings.TrimPrefix(text, "'"), "'")
		forms := []string{text, bare, strings.NewReplacer(`\'`, `'`, `\\`, `\`).Replace(bare)}
		for _, decode := range []func(string) (string, error){url.PathUnescape, url.QueryUnescape} {
			if plain, err := decode(text); err == nil {
				forms = append(forms, plain)
			}
		}
		for _, form := range forms {
			if !slices.Contains(names, form) && !slices.Contains(found, form) {
				found = append(found, form)
			}
		}
	}
	return found
}

// secrets finds what of an address must not be shown, in order and without overlaps.
func secrets(s string) []span {
	scheme, rest, isURL := strings.Cut(s, "://")
	if isURL && !strings.ContainsAny(scheme, " =@") {
		return merged(ofURL(rest, len(s)-len(rest)))
	}
	return merged(ofKeywords(s))
}

// ofURL takes everything from the first colon to the last @ for the password, since passwords are not always encoded, and the values
// of secret parameters. start is where rest begins in the whole.
func ofURL(rest string, start int) []span {
	found := userinfo(rest, start)
	_, query, _ := strings.Cut(rest, "?")
	at, inSecret := start+len(rest)-len(query), false
	for pair := range strings.SplitSeq(query, "&") {
		key, value, hasValue := strings.Cut(pair, "=")
		switch {
		case hasValue:
			if inSecret = isSecret(key); inSecret {
				found = append(found, span{at + len(pair) - len(value), at + len(pair)})
			}
		case inSecret: // an unencoded & within it
			found = append(found, span{at - len("&"), at + len(pair)})
		}
		at += len(pair) + len("&")
	}
	return found
}

// userinfo is what stands between the first colon and the last @ of a text.
func userinfo(text string, start int) []span {
	end := strings.LastIndexByte(text, '@')
	if end < 0 {
		return nil
	}
	colon := strings.IndexByte(text[:end], ':')
	if colon < 0 {
		return nil
	}
	return []span{{start + colon + 1, start + end}}
}

// isSecret tells by its name whether a parameter or keyword is one. Percent-encoded spellings are, and passfile only names a file.
func isSecret(key string) bool {
	key = strings.ToLower(strings.TrimSpace(key))
	if key == "passfile" {
		return false
	}
	if key == "sig" || key == "auth" || key == "key" {
		return true
	}
	return slices.ContainsFunc([]string{"pass", "secret", "token", "access_key", "accesskey", "access-key", "api_key", "apikey", "api-key", "authorization", "credential", "signature", "%"}, func(word string) bool { return strings.Contains(key, word) })
}

// keyword finds the next keyword with its sign, quoted finds a closed quote and what follows without a space, after a value.
var (
	keyword = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?:^|\s)([\w%]+)\s*=\s*`) })
	quoted  = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^'(?s:\\.|[^'\\])*'`) })
	ended   = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(?:\s*$|\s+[\w%]+\s*=)`) })
)

// ofKeywords masks from a secret keyword's sign to its closing quote or the next keyword. After a value that is followed by anything
// else, a quote that was not escaped hides the rest.
func ofKeywords(s string) []span {
	var found []span
	at := 0
	for at < len(s) {
		next := keyword().FindStringSubmatchIndex(s[at:])
		if next == nil {
			break
		}
		found = append(found, userinfo(s[at:at+next[0]], at)...)
		key, value := s[at+next[2]:at+next[3]], at+next[1]
		end := value + valueEnd(s[value:])
		switch {
		case !isSecret(key):
			found = append(found, userinfo(s[value:end], value)...)
		case !ended().MatchString(s[end:]):
			return append(found, span{value, len(s)})
		default:
			found = append(found, span{value, end})
		}
		at = end
	}
	return append(found, userinfo(s[at:], at)...)
}

func valueEnd(s string) int {
	if strings.HasPrefix(s, "'") {
		if closed := quoted().FindStringIndex(s); closed != nil {
			return closed[1]
		}
		return len(s)
	}
	if next := keyword().FindStringIndex(s); next != nil && next[0] > 0 {
		return next[0]
	}
	return len(s)
}

// merged puts spans in order and joins those that overlap.
func merged(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Or(a.from-b.from, a.to-b.to) })
	out := spans[:0]
	for _, s := range spans {
		if n := len(out); n > 0 && s.from <= out[n-1].to {
			out[n-1].to = max(out[n-1].to, s.to)
			continue
		}
		out = append(out, s)
	}
	return out
}
