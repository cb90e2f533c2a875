package redact_test

import (
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"auditdb/internal/redact"
)

func TestAddress(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                                     "",
		"postgres://u:pw@h:5432/d":             "postgres://u:***@h:5432/d",
		"postgres://u@h/d":                     "postgres://u@h/d",
		"postgres://h:5432/d":                  "postgres://h:5432/d",
		"redis://:p@h:6379":                    "redis://:***@h:6379",
		"postgres://u:p:w@h,h2:1/d?sslmode=x":  "postgres://u:***@h,h2:1/d?sslmode=x",
		"postgres://h/d?user=u&password=pw":    "postgres://h/d?user=u&password=***",
		"postgres://h/d?password=p&w&a=b":      "postgres://h/d?password=***&a=b",
		"postgres://h/d?sslpassword=pw&a=b":    "postgres://h/d?sslpassword=***&a=b",
		"postgres://h/d?pass%77ord=pw":         "postgres://h/d?pass%77ord=***",
		"postgres://h:1/d?password=p@w&a=b":    "postgres://h:***&a=b",
		"s3://b/p?aws_secret_access_key=a/b":   "s3://b/p?aws_secret_access_key=***",
		"https://h/x?sig=abc&a=b":              "https://h/x?sig=***&a=b",
		"https://h/x?apikey=abc":               "https://h/x?apikey=***",
		"https://h/x?API_KEY=abc&auth=d":       "https://h/x?API_KEY=***&auth=***",
		"https://h/x?X-Api-Key=abc":            "https://h/x?X-Api-Key=***",
		"https://h/x?access_key=abc":           "https://h/x?access_key=***",
		"https://h/x?AccessKeyId=abc&key=d":    "https://h/x?AccessKeyId=***&key=***",
		"postgres://h/d?require_auth=md5":      "postgres://h/d?require_auth=md5",
		"postgres://h/d?sslkey=file":           "postgres://h/d?sslkey=file",
		"postgres://u:p/w@h/d":                 "postgres://u:***@h/d",
		"postgres://u:p?w@h/d":                 "postgres://u:***@h/d",
		"postgres://u:p@w@h/d":                 "postgres://u:***@h/d",
		"host=h password=pw dbname=d":          "host=h password=*** dbname=d",
		"host=h password='p w' dbname=d":       "host=h password=*** dbname=d",
		`password = 'p\' x=y' host=h`:          "password = *** host=h",
		"host=h password='never closed host=x": "host=h password=***",
		"host=h password='it's so' dbname=d":   "host=h password=***",
		"host=h password='it' s' dbname=d":     "host=h password=***",
		"password=p w host=h":                  "password=*** host=h",
		"passfile=/x user=u":                   "passfile=/x user=u",
		"u:pw@h/d":                             "u:***@h/d",
		"host=localhost":                       "host=localhost",
	} {
		if got := redact.Address(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func TestHasPassword(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]bool{
		"postgres://u:p@h/db": true, "postgres://u@h/db": false, "postgres://h:5432/db": false, "host=h user=u": false, "host=h password=''": false,
		"host=h password=x": true, "postgres://h/db?password=x": true, "": false, "postgres://u:p%%@h/db": true, "postgres://u:u@h/db": true,
		"postgres://u:@h/db": false,
	} {
		if got := redact.HasPassword(in); got != want {
			t.Errorf("HasPassword(%q) = %v", in, got)
		}
	}
}

func TestRedactor(t *testing.T) {
	t.Parallel()
	r := redact.NewRedactor("swordfish", `qu"ote@d`)
	for in, want := range map[string]string{
		"postgres://u:p@h/db":                              "postgres://u:***@h/db",
		"postgres://u:p@s@h/db and more":                   "postgres://u:***@h/db and more",
		"redis://:p@h:6379":                                "redis://:***@h:6379",
		"postgres://h:5432/db":                             "postgres://h:5432/db",
		"host=h password=abc user=u":                       "host=h password=*** user=u",
		"host=h password = 'a b' user=u":                   "host=h password = *** user=u",
		"host=h password='a b user=u":                      "host=h password=***",
		"postgres://h/db?password=abc&sslmode=require":     "postgres://h/db?password=***&sslmode=require",
		"a swordfish here":                                 "a *** here",
		`{"a":"qu\"ote@d"}`:                                `{"a":"***"}`,
		`{"a":"postgres://u:p@h/db","b":"x@y"}`:            `{"a":"postgres://u:***@h/db","b":"x@y"}`,
		"s3://b/p?aws_secret_access_key=abc/def&region=eu": "s3://b/p?aws_secret_access_key=***&region=eu",
		"get https://h/x?a=b&sig=abc 403":                  "get https://h/x?a=b&sig=*** 403",
		"https://h/x?X-Api-Key=abc&auth=d e":               "https://h/x?X-Api-Key=***&auth=*** e",
		"the key=value of x, auth=none":                    "the key=value of x, auth=none",
		"nothing to hide: 12:30 a@b":                       "nothing to hide: 12:30 a@b",
	} {
		if got := r.Redact(in); got != want {
			t.Errorf("%s → %s, want %s", in, got, want)
		}
	}
}

// addresses holds a password in every way in which one can be written, also by somebody who forgets to encode, escape or close it.
func addresses(password string) []string {
	escaped := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(password)
	bare := strings.Map(func(c rune) rune {
		if c <= ' ' || c == '\'' || c == '\\' {
			return 'x'
		}
		return c
	}, password)
	list := []string{
		(&url.URL{Scheme: "postgres", User: url.UserPassword("u", password), Host: "h:1", Path: "/d"}).String(),
		"postgres://u:" + password + "@h/d",
		"postgresql://h/d?" + url.Values{"password": {password}, "x": {"y"}}.Encode(),
		"host=h password='" + escaped + "' user=u",
		"host=h password='" + escaped + " dbname=d",
		"host=h user=u password=" + bare,
	}
	if !strings.Contains(password, "=") { // what looks like the next keyword ends a value
		list = append(list, "host=h password='"+password+"' dbname=d", "host=h password='"+password+" dbname=d", "host=h password="+strings.TrimLeft(password, "'")+" dbname=d")
	}
	return list
}

// check fails when any part of a password, which the marks around it stand for, is shown.
func check(t interface{ Errorf(string, ...any) }, inner string) {
	const first, last = "QZXQZX", "XZQXZQ"
	for _, address := range addresses(first + inner + last) {
		if got := redact.Address(address); strings.Contains(got, first) || strings.Contains(got, last) {
			t.Errorf("%q became %q", address, got)
		}
		text := redact.NewRedactor(redact.Passwords(address)...).Redact("connect to " + address)
		if strings.Contains(text, first) && strings.Contains(text, last) {
			t.Errorf("in text %q became %q", address, text)
		}
	}
}

func TestNoPasswordSurvives(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		if rapid.Bool().Draw(r, "nasty") {
			check(r, rapid.StringMatching(`[ '"\\@:/?#&%=\n]{0,5}[a-z ]{0,5}[ '"\\@:/?#&%=\n]{0,5}`).Draw(r, "password"))
			return
		}
		check(r, rapid.String().Draw(r, "password"))
	})
}

func FuzzAddress(f *testing.F) {
	for _, seed := range []string{"", "' x", `\`, "p@w", "?w", "&a=b", "it's so", "%zz", "://", "\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, password string) {
		check(t, password)
		_ = redact.Address(redact.Address(password))
	})
}
