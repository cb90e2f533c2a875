package postgres_test

import (
	"strings"
	"testing"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

// The part that cannot be read is named, with what to write instead; a password never is.
func TestBadURL(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]struct{ message, hint string }{
		"nonsense":                                   {"it is neither a URL nor a list of keyword=value", "postgres://user@host"},
		"mysql://u:QZX@h/d":                          {"mysql://u:***@h/d: mysql:// is not PostgreSQL's scheme", "postgres://user@host"},
		"postgres://u:QZX@h/d?sslmode=bogus":         {`sslmode is "bogus"`, "verify-full"},
		"host=h password=QZX sslmode='bogus'":        {`sslmode is "bogus"`, "verify-full"},
		"postgres://u:QZX@h:57x7/d":                  {`"57x7" is no port`, "from 1 to 65535"},
		"postgres://u:QZX@[::1]:99999/d":             {`"99999" is no port`, "from 1 to 65535"},
		"postgres://u:QZX@a:1,b:x/d":                 {`"x" is no port`, "from 1 to 65535"},
		"host=h port=x password=QZX":                 {`"x" is no port`, "from 1 to 65535"},
		"postgres://u:QZX/QZX@h/d":                   {"postgres://u:***@h/d: its password is not written", "percent-encode"},
		"postgres://u:QZX%%@h/d":                     {"its password is not written", "percent-encode"},
		"postgres://u:top@QZX@h:5/a":                 {"read the database URL: it has more than one @", "percent-encode"},
		"postgres://u:top@QZX/QZX@h/d":               {"it has more than one @", "percent-encode"},
		"postgresql://u:top@QZX?QZX@h/d":             {"it has more than one @", "percent-encode"},
		"postgres://u@h/d?password=QZX&QZX@QZX":      {"it has more than one @", "percent-encode"},
		"host=h password='QZX dbname=d":              {"its password is not written", "write password='…'"},
		"postgres://u:QZX@[::1/d":                    {"looking for matching \"]\"", "postgres://user@host"},
		"postgres://u:QZX@h/d?connect_timeout=x":     {"invalid connect_timeout", "postgres://user@host"},
		"postgres://h/d?target_session_attrs=master": {`target_session_attrs is "master"`, "primary"},
	} {
		err := postgres.CheckURL(address)
		if err == nil {
			t.Errorf("%s: no error", address)
			continue
		}
		if fault.ClassOf(err) != fault.Config || !strings.Contains(err.Error(), want.message) || !strings.Contains(fault.HintOf(err), want.hint) {
			t.Errorf("%s: %s: %v; hint %q", address, fault.ClassOf(err), err, fault.HintOf(err))
		}
		if strings.Contains(err.Error(), "QZX") {
			t.Errorf("the password is shown: %v", err)
		}
	}
	for _, address := range []string{"", "postgres://u:p@h:1,[::1]:2/d?sslmode=require", "postgres://u:p%40w@h/d?application_name=a@b", "postgres://h/d?user=u@h&password=p@w", "host=h port=5432 dbname='d'"} {
		if err := postgres.CheckURL(address); err != nil {
			t.Errorf("%q: %v", address, err)
		}
	}
}

// With and without TLS the same address is tried: its error is shown once.
func TestConnectErrorIsSaidOnce(t *testing.T) {
	t.Parallel()
	_, err := postgres.Open(t.Context(), postgres.Options{URL: "postgres://joe@127.0.0.1:1/audit?sslmode=prefer"})
	if err == nil || strings.Count(err.Error(), "refused") != 1 || strings.Count(err.Error(), "127.0.0.1:1") != 2 {
		t.Errorf("%v", err)
	}
}
