package postgres

import (
	"regexp"
	"strings"
)

// RedactURL replaces every password in a connection URL or keyword string by ***. Where an unencoded character makes it unclear
// what the password is, all that could be one goes.
func RedactURL(s string) string {
	scheme, rest, isURL := strings.Cut(s, "://")
	if !isURL || strings.ContainsAny(scheme, " =@") {
		return redactKeywords(s)
	}
	head, query, hasQuery := strings.Cut(rest, "?")
	if hasQuery && strings.Contains(query, "@") && strings.Contains(head, ":") && !strings.Contains(head, "@") {
		return scheme + "://***" // the "?" may be a part of the password
	}
	if i := strings.LastIndexByte(head, '@'); i >= 0 {
		user, _, hasPassword := strings.Cut(head[:i], ":")
		if hasPassword {
			user += ":***"
		}
		head = user + head[i:]
	}
	if !hasQuery {
		return scheme + "://" + head
	}
	pairs := strings.Split(query, "&")
	for i, pair := range pairs {
		if key, _, ok := strings.Cut(pair, "="); ok && isSecretKey(key) {
			pairs[i] = key + "=***"
		}
	}
	return scheme + "://" + head + "?" + strings.Join(pairs, "&")
}

// isSecretKey takes percent-encoded spellings for secrets too. passfile only names a file.
func isSecretKey(key string) bool {
	key = strings.ToLower(strings.TrimSpace(key))
	if key == "passfile" {
		return false
	}
	return strings.Contains(key, "pass") || strings.Contains(key, "secret") || strings.Contains(key, "%")
}

// redactKeywords masks from a secret keyword's "=" to the closing quote or the next keyword.
func redactKeywords(s string) string {
	var out strings.Builder
	keyword := regexp.MustCompile(`(?:^|\s)(\w+)\s*=\s*`)
	for {
		at := keyword.FindStringSubmatchIndex(s)
		if at == nil {
			return out.String() + maskUserinfo(s)
		}
		out.WriteString(maskUserinfo(s[:at[0]]))
		out.WriteString(s[at[0]:at[1]])
		key := s[at[2]:at[3]]
		s = s[at[1]:]
		end := keywordValueEnd(s, keyword)
		if isSecretKey(key) {
			out.WriteString("***")
		} else {
			out.WriteString(maskUserinfo(s[:end]))
		}
		s = s[end:]
	}
}

func keywordValueEnd(s string, keyword *regexp.Regexp) int {
	if strings.HasPrefix(s, "'") {
		for i := 1; i < len(s); i++ {
			switch s[i] {
			case '\\':
				i++
			case '\'':
				return i + 1
			}
		}
		return len(s)
	}
	if next := keyword.FindStringIndex(s); next != nil && next[0] > 0 {
		return next[0]
	}
	return len(s)
}

// maskUserinfo masks ":…@" in text that is no URL but may be a mistyped one.
func maskUserinfo(s string) string {
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return s
	}
	colon := strings.IndexByte(s[:at], ':')
	if colon < 0 {
		return s
	}
	return s[:colon] + ":***" + s[at:]
}
