package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"pgregory.net/rapid"

	"auditdb/internal/fault"
)

// flags makes the part of the global flags that these tests set.
func flags(t *testing.T, args ...string) *pflag.FlagSet {
	t.Helper()
	f := pflag.NewFlagSet("test", pflag.ContinueOnError)
	f.String("config", "", "")
	f.String("database-url", "", "")
	f.String("wait", "60s", "")
	f.Bool("quiet", false, "")
	f.Bool("yes", false, "")
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	return f
}

// clean takes the settings of whoever runs the tests out of the environment.
func clean(t *testing.T) {
	t.Helper()
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, EnvPrefix) || strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "DATABASE_URL") || strings.HasPrefix(name, "REDIS_URL") {
			t.Setenv(name, "")
		}
	}
	t.Setenv("NO_COLOR", "")
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Chdir(t.TempDir())
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func find(t *testing.T, c *Config, key string) Setting {
	t.Helper()
	for _, s := range c.Settings() {
		if s.Key == key {
			return s
		}
	}
	t.Fatalf("no setting %s", key)
	return Setting{}
}

func TestDefaults(t *testing.T) {
	t.Setenv("AUDITDB_CONFIG", "")
	clean(t)
	c, err := NewLoader(nil).Load()
	if err != nil {
		t.Fatal(err)
	}
	if c.Wait != time.Minute || c.LockTimeout != 100*time.Millisecond || c.Timeout != 0 || c.Output != "table" || c.Database.MaxConns != 8 ||
		c.Cache.MaxSize != 200_000_000 || c.Cache.TTL != 5*time.Minute || !c.Cache.Enabled || c.Redis.LockTTL != 30*time.Second || c.Log.Level != "info" {
		t.Errorf("defaults: %+v", c)
	}
	if c.NamesDatabase() || c.File != "" {
		t.Errorf("a database or a file out of nothing: %+v", c)
	}
	for _, s := range c.Settings() {
		if s.Source != "default" || s.Origin != "" {
			t.Errorf("%s: source %s %s", s.Key, s.Source, s.Origin)
		}
	}
}

func TestPrecedence(t *testing.T) {
	t.Setenv("AUDITDB_CONFIG", "")
	clean(t)
	path := write(t, "c.yaml", "database:\n  url: postgres://file/db\nwait: 1s\nlock_timeout: 1s\n")
	check := func(args []string, key, text, source, origin string) {
		t.Helper()
		c, err := NewLoader(flags(t, append(args, "--config", path)...)).Load()
		if err != nil {
			t.Fatal(err)
		}
		if s := find(t, c, key); s.Text != text || s.Source != source || s.Origin != origin {
			t.Errorf("%s = %s from %s %s, want %s from %s %s", key, s.Text, s.Source, s.Origin, text, source, origin)
		}
	}
	check(nil, "database.url", "postgres://file/db", "file", path+":2")
	check(nil, "lock_timeout", "1s", "file", path+":4")
	t.Setenv("DATABASE_URL", "postgres://plain/db")
	check(nil, "database.url", "postgres://plain/db", "environment", "DATABASE_URL")
	t.Setenv("AUDITDB_DATABASE_URL", "postgres://u:secret-word@own/db")
	check(nil, "database.url", "postgres://u:***@own/db", "environment", "AUDITDB_DATABASE_URL")
	check([]string{"--database-url", "postgres://flag/db"}, "database.url", "postgres://flag/db", "flag", "--database-url")
	t.Setenv("AUDITDB_WAIT", "2s")
	check(nil, "wait", "2s", "environment", "AUDITDB_WAIT")
	check([]string{"--wait", "0"}, "wait", "0s", "flag", "--wait")
	t.Setenv("AUDITDB_QUIET", "yes")
	check(nil, "quiet", "true", "environment", "AUDITDB_QUIET")
	check([]string{"--quiet=false"}, "quiet", "false", "flag", "--quiet")
}

func TestEveryDocumentedKey(t *testing.T) {
	t.Setenv("AUDITDB_CONFIG", "")
	clean(t)
	path := write(t, "c.yaml", `
database: { url: "postgres://a/b", replicas: ["postgres://c,d/e", "host=x dbname=y"], max_replica_lag: 10s, pool: { max_conns: 4 } }
redis:    { url: "redis://r", required: true, lock_ttl: 5s }
integrity: { key_file: keys/k, public_key_file: /p, origin: o, anchors: [https://a, https://b], state: /s }
archive:  { url: "s3://bucket/prefix?region=r&secret_access_key=hidden-words" }
cache:    { enabled: false, max_size: 2GiB, ttl: 1d, phi: true }
breaker:  { failures: 3, timeout: 3s, reset: 6s }
health:   { checks: { sequences: { enabled: false, warning: 70, critical: 90% } } }
alerts:   { alertmanager: http://am, webhook: { url: "https://hooks/T0/secret-path", secret_file: "`+write(t, "s", "webhook-secret\n")+`" } }
log:      { level: debug, format: json }
`)
	c, err := NewLoader(flags(t, "--config", path)).Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Database.Replicas) != 2 || c.Database.Replicas[0] != "postgres://c,d/e" || c.Cache.TTL != 24*time.Hour || c.Cache.MaxSize != 2<<30 ||
		c.Integrity.KeyFile != filepath.Join(filepath.Dir(path), "keys/k") || c.Alerts.WebhookSecret != "webhook-secret" || !c.Redis.Required {
		t.Errorf("read as %+v", c)
	}
	if check := c.Health.Checks["sequences"]; check.Enabled == nil || *check.Enabled || check.Warning != "70" || check.Critical != "90%" {
		t.Errorf("health check read as %+v", check)
	}
	for _, s := range c.Settings() {
		if strings.Contains(s.Text, "secret-") || strings.Contains(s.Text, "hidden-words") || strings.Contains(s.Text, "webhook-s") {
			t.Errorf("%s shows its secret: %s", s.Key, s.Text)
		}
	}
}

func TestReplicasFromEnvironment(t *testing.T) {
	t.Setenv("AUDITDB_CONFIG", "")
	clean(t)
	t.Setenv("AUDITDB_DATABASE_REPLICAS", "postgres://u:password-1@a,b/db, postgres://c/db")
	c, err := NewLoader(nil).Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Database.Replicas) != 2 || c.Database.Replicas[1] != "postgres://c/db" {
		t.Errorf("replicas %q", c.Database.Replicas)
	}
	if got := c.Redactor().Redact("bad password-1 here"); strings.Contains(got, "password-1") {
		t.Error(got)
	}
}

func TestBadFiles(t *testing.T) {
	t.Setenv("AUDITDB_CONFIG", "")
	clean(t)
	tests := map[string]struct{ text, message, hint string }{
		"unknown key":    {"database:\n  ulr: x\n", `:2: unknown key "database.ulr"`, `did you mean "database.url"?`},
		"unknown part":   {"datebase:\n  url: x\n", `:1: unknown key "datebase"`, `did you mean "database"?`},
		"wrong level":    {"max_conns: 3\n", `:1: unknown key "max_conns"`, `did you mean "database.pool.max_conns"?`},
		"far off":        {"zzzzzzzzzzzz: 3\n", `unknown key "zzzzzzzzzzzz"`, "auditdb config show lists every key"},
		"twice":          {"wait: 1s\nwait: 2s\n", `:2: key "wait" stands there twice`, ""},
		"two problems":   {"a: 1\nwait: [1]\nb: 2\n", `:3: unknown key "b"`, ""},
		"no duration":    {"wait: soon\n", `:1: wait "soon" is no duration`, ""},
		"plain number":   {"wait: 60\n", `"60" is no duration`, ""},
		"negative":       {"wait: -5s\n", "too small", ""},
		"no number":      {"database: { pool: { max_conns: eight } }\n", `"eight" is no whole number`, ""},
		"zero pool":      {"database: { pool: { max_conns: 0 } }\n", "too small", ""},
		"no size":        {"cache: { max_size: big }\n", `"big" is no size`, ""},
		"no bool":        {"cache: { enabled: maybe }\n", `"maybe" is neither true nor false`, ""},
		"not a choice":   {"log: { level: loud }\n", `"loud" is not one of debug, info, warn, error`, ""},
		"list for value": {"wait: [1s, 2s]\n", "is a list, but one value is wanted", ""},
		"map for value":  {"wait: { a: b }\n", "a value is wanted, not further keys", ""},
		"value for map":  {"database: postgres://x\n", "database holds further keys", ""},
		"list of maps":   {"database: { replicas: [{a: b}] }\n", "each item has to be one value", ""},
		"a list":         {"- a\n", "the file holds further keys", ""},
		"no yaml":        {"a: [\n", "did not find", ""},
		"tab":            {"database:\n\turl: x\n", "line 2", ""},
		"two documents":  {"wait: 1s\n---\nwait: 2s\n", "more than one YAML document", ""},
		"check setting":  {"health: { checks: { x: { limit: 3 } } }\n", `unknown key "health.checks.x.limit"`, "a health check has the keys"},
		"no secret file": {"database: { url_file: /nowhere/at/all }\n", "database.url_file", ""},
		"both forms":     {"database: { url: a, url_file: /b }\n", "are both set", "set one of the two"},
	}
	for name, test := range tests {
		_, err := NewLoader(flags(t, "--config", write(t, "c.yaml", test.text))).Load()
		if err == nil || !strings.Contains(err.Error(), test.message) {
			t.Errorf("%s: error %v, want %q", name, err, test.message)
			continue
		}
		if fault.ClassOf(err) != fault.Config || !strings.Contains(fault.HintOf(err), test.hint) {
			t.Errorf("%s: class %s, hint %q, want %q", name, fault.ClassOf(err), fault.HintOf(err), test.hint)
		}
	}
}

func TestEmptyFiles(t *testing.T) {
	t.Setenv("AUDITDB_CONFIG", "")
	clean(t)
	for _, text := range []string{"", "# nothing\n", "---\n", "database:\n", "database: { url: }\nwait: ~\n"} {
		c, err := NewLoader(flags(t, "--config", write(t, "c.yaml", text))).Load()
		if err != nil || c.Wait != time.Minute || c.Database.URL != "" {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestSearchOrder(t *testing.T) {
	t.Setenv("AUDITDB_CONFIG", "")
	clean(t)
	home, xdg := t.TempDir(), t.TempDir()
	t.Setenv("HOME", home)
	put := func(path string) string {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("wait: 1s\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	read := func(want string, args ...string) {
		t.Helper()
		c, err := NewLoader(flags(t, args...)).Load()
		if err != nil {
			t.Fatal(err)
		}
		if c.File != want {
			t.Errorf("read %q, want %q", c.File, want)
		}
	}
	read(put(filepath.Join(home, ".config/auditdb/auditdb.yaml")))
	t.Setenv("XDG_CONFIG_HOME", xdg)
	read("")
	read(put(filepath.Join(xdg, "auditdb/auditdb.yaml")))
	here, err := filepath.Abs(FileName)
	if err != nil {
		t.Fatal(err)
	}
	read(put(here))
	env := put(filepath.Join(t.TempDir(), "env.yaml"))
	t.Setenv("AUDITDB_CONFIG", env)
	read(env)
	flag := put(filepath.Join(t.TempDir(), "flag.yaml"))
	read(flag, "--config", flag)
	if _, err := NewLoader(flags(t, "--config", "/nowhere.yaml")).Load(); fault.ClassOf(err) != fault.Config || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestWritableByOthers(t *testing.T) {
	t.Setenv("AUDITDB_CONFIG", "")
	clean(t)
	path := write(t, "c.yaml", "wait: 1s\n")
	for mode, refused := range map[os.FileMode]bool{0o600: false, 0o644: false, 0o640: false, 0o646: true, 0o666: true, 0o664: true, 0o602: true} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := NewLoader(flags(t, "--config", path)).Load()
		if (err != nil) != refused {
			t.Errorf("mode %o: %v", mode, err)
		}
		if refused && (fault.ClassOf(err) != fault.Config || !strings.Contains(fault.HintOf(err), "chmod go-w")) {
			t.Errorf("mode %o: %v, hint %q", mode, err, fault.HintOf(err))
		}
	}
}

func TestSecretFiles(t *testing.T) {
	t.Setenv("AUDITDB_CONFIG", "")
	clean(t)
	secret := write(t, "url", "  postgres://u:from-a-file@h/db\n")
	t.Setenv("AUDITDB_DATABASE_URL_FILE", secret)
	t.Setenv("DATABASE_URL", "postgres://weaker/db")
	c, err := NewLoader(nil).Load()
	if err != nil || c.Database.URL != "postgres://u:from-a-file@h/db" {
		t.Fatalf("%v, %v", c, err)
	}
	if s := find(t, c, "database.url"); s.Origin != "AUDITDB_DATABASE_URL_FILE" || s.Text != "postgres://u:***@h/db" {
		t.Errorf("%+v", s)
	}
	t.Setenv("AUDITDB_DATABASE_URL", "postgres://x/y")
	if _, err := NewLoader(nil).Load(); err == nil || !strings.Contains(err.Error(), "AUDITDB_DATABASE_URL and AUDITDB_DATABASE_URL_FILE are both set") {
		t.Errorf("both: %v", err)
	}
	c, err = NewLoader(flags(t, "--database-url", "postgres://flag/db")).Load()
	if err != nil || c.Database.URL != "postgres://flag/db" {
		t.Errorf("the flag is stronger: %v", err)
	}
	beside := write(t, "c.yaml", "redis: { url_file: r.txt }\n")
	if err := os.WriteFile(filepath.Join(filepath.Dir(beside), "r.txt"), []byte("redis://:word-word@r"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err = NewLoader(flags(t, "--config", beside, "--database-url", "")).Load()
	if err != nil || c.Redis.URL != "redis://:word-word@r" {
		t.Errorf("beside the configuration file: %v", err)
	}
}

func TestNamesDatabase(t *testing.T) {
	t.Setenv("PGHOST", "")
	for _, name := range []string{"DATABASE_URL", "AUDITDB_DATABASE_URL", "PGHOST", "PGSERVICE", "PGDATABASE"} {
		clean(t)
		t.Setenv(name, "x")
		if c, err := NewLoader(nil).Load(); err != nil || !c.NamesDatabase() {
			t.Errorf("%s names a database: %v", name, err)
		}
		t.Setenv(name, "")
	}
	clean(t)
	t.Setenv("PGUSER", "x")
	if c, err := NewLoader(nil).Load(); err != nil || c.NamesDatabase() {
		t.Errorf("PGUSER names none: %v", err)
	}
}

func TestParseDuration(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{
		"0": 0, "5s": 5 * time.Second, "1h30m": 90 * time.Minute, "7d": 168 * time.Hour, "1d12h": 36 * time.Hour, "1.5d": 36 * time.Hour, ".5d": 12 * time.Hour,
	} {
		if got, err := ParseDuration(in); err != nil || got != want {
			t.Errorf("%s: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "5", "d", "5 s", "5w", "200000d", "1d1", "5days"} {
		if got, err := ParseDuration(in); err == nil {
			t.Errorf("%q read as %v", in, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(290*365*24*time.Hour)).Draw(t, "d"))
		if back, err := ParseDuration(FormatDuration(d)); err != nil || back != d {
			t.Errorf("%v → %s → %v, %v", d, FormatDuration(d), back, err)
		}
	})
}

// FuzzParseFile: no text makes the reader of the configuration file panic.
func FuzzParseFile(f *testing.F) {
	for _, seed := range []string{"", "database: {url: x}", "a: &a [*a]", "health: {checks: {x: {warning: 1}}}", "? [a]: b", "<<: {a: b}", "database: &d\n  pool: *d\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := parseFile("c.yaml", text); err != nil && fault.ClassOf(err) != fault.Config {
			t.Errorf("class of %v", err)
		}
	})
}
