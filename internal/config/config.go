// Package config reads auditdb's settings: flag before environment before configuration file before default.
// Every key is declared once, in keys.go; the package knows for each value where it came from.
package config

import (
	"time"

	"auditdb/internal/redact"
)

// Config is the effective configuration of one run.
type Config struct {
	Database  Database
	Redis     Redis
	Integrity Integrity
	Archive   Archive
	Cache     Cache
	Breaker   Breaker
	Health    Health
	Alerts    Alerts
	Log       Log

	Output      string        // table, json, yaml, csv or ndjson
	Timeout     time.Duration // bounds the command; 0: none
	LockTimeout time.Duration // bounds one attempt at a table lock; 0: 100 ms where tables are changed, else none
	Wait        time.Duration // bounds waiting for other runs and retries of table locks together; 0: do not wait
	WaitForDB   time.Duration // waits this long for a server that is starting
	NoColor     bool
	Quiet       bool
	Yes         bool // only by flag: a confirmation belongs to one command line

	File     string    // the configuration file that was read, or ""
	settings []Setting // every key, in the order of keys.go
	secrets  []string  // texts that must never be shown

	namesDatabase bool
}

// NamesDatabase tells whether anything names a database: the flag, the environment, the file, or libpq's own variables.
func (c *Config) NamesDatabase() bool { return c.namesDatabase }

// Database says where PostgreSQL is.
type Database struct {
	URL           string // libpq URL or keyword string; secret
	Replicas      []string
	MaxReplicaLag time.Duration
	MaxConns      int32
}

// Redis says where Redis is; without a URL it is not used.
type Redis struct {
	URL      string // secret
	Required bool
	LockTTL  time.Duration
}

// Integrity names the keys of the integrity log and where its checkpoints are anchored.
type Integrity struct {
	KeyFile       string
	PublicKeyFile string
	Origin        string
	Anchors       []string
	State         string // path or URL of the remembered checkpoint
}

// Archive says where archived partitions go.
type Archive struct{ URL string }

// Cache sets the query cache.
type Cache struct {
	Enabled       bool
	MaxSize       int64  // bytes in a process
	SharedMaxSize int64  // bytes in Redis, of all processes
	Secret        string // authenticates what is in Redis; secret
	TTL           time.Duration
	PHI           bool // cache rows classified as health data too
}

// Breaker sets the circuit breaker before the database.
type Breaker struct {
	Failures int
	Timeout  time.Duration // of one call
	Reset    time.Duration // how long it stays open at first
}

// Health holds the settings of single checks by name.
type Health struct{ Checks map[string]Check }

// Check is one health check's setting. Limits are kept as written, "" where the check's own default stands.
type Check struct {
	Enabled  *bool
	Warning  string
	Critical string
}

// Alerts says where health alerts go.
type Alerts struct {
	Alertmanager    string
	WebhookURL      string // secret: services put tokens into its path
	WebhookSecret   string // secret
	WebhookTemplate string // of text/template; "": the document itself
	State           string // file that remembers what was said; "": one of the user's own
}

// Log sets what goes to standard error.
type Log struct {
	Level  string // debug, info, warn or error
	Format string // text or json
}

// Setting is one key with its effective value and where that came from.
type Setting struct {
	Key    string `json:"key"`
	Value  any    `json:"value"`  // secrets redacted; durations in seconds, sizes in bytes; null where nothing is set
	Source string `json:"source"` // default, file, environment or flag
	Origin string `json:"origin"` // path:line, the variable's or the flag's name; "" for a default

	Text string `json:"-"` // the value for a person, in the file's notation
}

// Settings lists every key with its value and source, secrets redacted.
func (c *Config) Settings() []Setting { return c.settings }

// Redactor gives the mask for everything that is written for people: no secret of this configuration passes it.
func (c *Config) Redactor() *redact.Redactor { return redact.NewRedactor(c.secrets...) }
