package config

import "strings"

// EnvPrefix starts the name of every environment variable of our own.
const EnvPrefix = "AUDITDB_"

// A key declares one setting. The destination's type decides how its text is read.
type key struct {
	name    string
	def     string
	dst     func(*Config) any // pointer to the field
	alias   string            // a further environment variable, below our own
	flag    string            // the global flag that sets it
	secret  bool              // redacted, and readable from a file: NAME_FILE, name_file
	hidden  bool              // even the redacted form shows nothing
	path    bool              // a file's name: relative to the configuration file that names it
	enum    []string
	atLeast int64 // smallest number, or nanoseconds
}

// fileSuffix makes the key that names the file of a secret.
const fileSuffix = "_file"

func (k *key) env() string { return EnvPrefix + strings.ToUpper(strings.ReplaceAll(k.name, ".", "_")) }

// envs lists the variables that set k, strongest first.
func (k *key) envs() []string {
	if k.alias == "" {
		return []string{k.env()}
	}
	return []string{k.env(), k.alias}
}

// file returns the key that names a file holding k's value.
func (k *key) file() *key {
	f := &key{name: k.name + fileSuffix, path: true}
	if k.alias != "" {
		f.alias = k.alias + strings.ToUpper(fileSuffix)
	}
	return f
}

// keys declares every setting, in the order in which they are shown.
func keys() []*key {
	return []*key{
		{name: "database.url", dst: func(c *Config) any { return &c.Database.URL }, alias: "DATABASE_URL", flag: "database-url", secret: true},
		{name: "database.replicas", dst: func(c *Config) any { return &c.Database.Replicas }, secret: true},
		{name: "database.max_replica_lag", def: "10s", dst: func(c *Config) any { return &c.Database.MaxReplicaLag }},
		{name: "database.pool.max_conns", def: "8", dst: func(c *Config) any { return &c.Database.MaxConns }, atLeast: 1},
		{name: "redis.url", dst: func(c *Config) any { return &c.Redis.URL }, alias: "REDIS_URL", flag: "redis-url", secret: true},
		{name: "redis.required", def: "false", dst: func(c *Config) any { return &c.Redis.Required }},
		{name: "redis.lock_ttl", def: "30s", dst: func(c *Config) any { return &c.Redis.LockTTL }, atLeast: 1e9},
		{name: "integrity.key_file", dst: func(c *Config) any { return &c.Integrity.KeyFile }, path: true},
		{name: "integrity.public_key_file", dst: func(c *Config) any { return &c.Integrity.PublicKeyFile }, path: true},
		{name: "integrity.origin", dst: func(c *Config) any { return &c.Integrity.Origin }},
		{name: "integrity.anchors", dst: func(c *Config) any { return &c.Integrity.Anchors }, secret: true},
		{name: "integrity.state", dst: func(c *Config) any { return &c.Integrity.State }, secret: true},
		{name: "archive.url", dst: func(c *Config) any { return &c.Archive.URL }, secret: true},
		{name: "cache.enabled", def: "true", dst: func(c *Config) any { return &c.Cache.Enabled }},
		{name: "cache.max_size", def: "200MB", dst: func(c *Config) any { return &c.Cache.MaxSize }},
		{name: "cache.shared_max_size", def: "256MB", dst: func(c *Config) any { return &c.Cache.SharedMaxSize }},
		{name: "cache.secret", dst: func(c *Config) any { return &c.Cache.Secret }, secret: true, hidden: true},
		{name: "cache.ttl", def: "300s", dst: func(c *Config) any { return &c.Cache.TTL }},
		{name: "cache.phi", def: "false", dst: func(c *Config) any { return &c.Cache.PHI }},
		{name: "breaker.failures", def: "5", dst: func(c *Config) any { return &c.Breaker.Failures }, atLeast: 1},
		{name: "breaker.timeout", def: "30s", dst: func(c *Config) any { return &c.Breaker.Timeout }},
		{name: "breaker.reset", def: "60s", dst: func(c *Config) any { return &c.Breaker.Reset }},
		{name: "alerts.alertmanager", dst: func(c *Config) any { return &c.Alerts.Alertmanager }, secret: true},
		{name: "alerts.webhook.url", dst: func(c *Config) any { return &c.Alerts.WebhookURL }, secret: true, hidden: true},
		{name: "alerts.webhook.secret", dst: func(c *Config) any { return &c.Alerts.WebhookSecret }, secret: true, hidden: true},
		{name: "alerts.webhook.template", dst: func(c *Config) any { return &c.Alerts.WebhookTemplate }},
		{name: "alerts.state", dst: func(c *Config) any { return &c.Alerts.State }},
		{name: "log.level", def: "info", dst: func(c *Config) any { return &c.Log.Level }, flag: "log-level", enum: []string{"debug", "info", "warn", "error"}},
		{name: "log.format", def: "text", dst: func(c *Config) any { return &c.Log.Format }, flag: "log-format", enum: []string{"text", "json"}},
		{name: "output", def: "table", dst: func(c *Config) any { return &c.Output }, flag: "output", enum: []string{"table", "json", "yaml", "csv", "ndjson"}},
		{name: "timeout", def: "0", dst: func(c *Config) any { return &c.Timeout }, flag: "timeout"},
		{name: "lock_timeout", def: "100ms", dst: func(c *Config) any { return &c.LockTimeout }, flag: "lock-timeout"},
		{name: "wait", def: "60s", dst: func(c *Config) any { return &c.Wait }, flag: "wait"},
		{name: "wait_for_db", def: "0", dst: func(c *Config) any { return &c.WaitForDB }, flag: "wait-for-db"},
		{name: "no_color", def: "false", dst: func(c *Config) any { return &c.NoColor }, flag: "no-color"},
		{name: "quiet", def: "false", dst: func(c *Config) any { return &c.Quiet }, flag: "quiet"},
	}
}

// EnvNames lists the environment variables with our prefix that mean something.
func EnvNames() []string {
	names := []string{EnvPrefix + "CONFIG", EnvPrefix + "PG_BIN"}
	for _, k := range keys() {
		names = append(names, k.env())
		if k.secret {
			names = append(names, k.file().env())
		}
	}
	return names
}
