// Package config reads auditdb's settings: flag before environment before configuration file before default.
package config

import "time"

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
	LockTimeout time.Duration // bounds one attempt at a table lock
	Wait        time.Duration // bounds waiting for other runs and retries of table locks together; 0: do not wait
	WaitForDB   time.Duration // waits this long for a server that is starting
	NoColor     bool
	Quiet       bool
	Yes         bool
}

// Database says where PostgreSQL is.
type Database struct {
	URL           string // libpq URL or keyword string
	Replicas      []string
	MaxReplicaLag time.Duration
	MaxConns      int32
}

// Redis says where Redis is; without a URL it is not used.
type Redis struct {
	URL      string
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
	Enabled bool
	MaxSize int64 // bytes
	TTL     time.Duration
	PHI     bool // cache rows classified as health data too
}

// Breaker sets the circuit breaker before the database.
type Breaker struct {
	Failures int
	Timeout  time.Duration // of one call
	Reset    time.Duration // how long it stays open at first
}

// Health holds the settings of single checks by name.
type Health struct{ Checks map[string]Check }

// Check is one health check's setting; nil means the check's own default.
type Check struct {
	Enabled  *bool
	Warning  any
	Critical any
}

// Alerts says where health alerts go.
type Alerts struct {
	Alertmanager  string
	WebhookURL    string
	WebhookSecret string
}

// Log sets what goes to standard error.
type Log struct {
	Level  string // debug, info, warn or error
	Format string // text or json
}
