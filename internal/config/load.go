package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"auditdb/internal/fault"
	"auditdb/internal/redact"
)

// Loader finds and reads the configuration. The environment is the process's own.
type Loader struct {
	Flags     *pflag.FlagSet // the global flags, parsed; nil: none
	LookupEnv func(string) (string, bool)
	Lenient   bool // a broken file is left out: for commands that need no settings
}

// NewLoader makes a Loader for the process's environment.
func NewLoader(flags *pflag.FlagSet) *Loader { return &Loader{Flags: flags, LookupEnv: os.LookupEnv} }

// level says how strong a source is.
type level int

const (
	fromDefault level = iota
	fromFile
	fromAlias
	fromEnv
	fromFlag
)

func (l level) String() string {
	return [...]string{"default", "file", "environment", "environment", "flag"}[l]
}

// Load reads everything. Errors have class config and name the key and where it was set.
func (l *Loader) Load() (*Config, error) {
	f, err := l.read()
	if err != nil && !l.Lenient {
		return nil, err
	}
	if f == nil {
		f = &file{values: map[string]any{}, lines: map[string]int{}}
	}
	r := &reader{Loader: l, file: f, viper: viper.New(), config: &Config{File: f.path}}
	if err := r.bind(); err != nil {
		return nil, err
	}
	for _, k := range keys() {
		if err := r.load(k); err != nil && !l.Lenient {
			return nil, err
		}
	}
	r.health()
	r.config.Yes = l.boolFlag("yes")
	r.config.NoColor = r.config.NoColor || l.noColor()
	r.libpq()
	return r.config, nil
}

func (l *Loader) read() (*file, error) {
	flagged := ""
	if l.Flags != nil {
		if f := l.Flags.Lookup("config"); f != nil {
			flagged = f.Value.String()
		}
	}
	path, by, err := l.find(flagged)
	if err != nil || path == "" {
		return nil, err
	}
	return readFile(path, by)
}

func (l *Loader) boolFlag(name string) bool {
	if l.Flags == nil {
		return false
	}
	on, err := l.Flags.GetBool(name)
	return err == nil && on
}

// noColor follows https://no-color.org: any value but the empty one turns colour off.
func (l *Loader) noColor() bool {
	v, ok := l.LookupEnv("NO_COLOR")
	return ok && v != ""
}

// reader reads one configuration.
type reader struct {
	*Loader
	file   *file
	viper  *viper.Viper
	config *Config
}

// bind gives viper the four sources of every key; from then on viper decides which wins.
func (r *reader) bind() error {
	tree := map[string]any{}
	for name, value := range r.file.values {
		put(tree, strings.Split(name, "."), value)
	}
	if err := r.viper.MergeConfigMap(tree); err != nil {
		return fault.New(fault.Config, "", "read %s: %w", r.file.path, err)
	}
	for _, k := range keys() {
		r.viper.SetDefault(k.name, k.def)
		names := append([]string{k.name}, k.envs()...)
		if k.secret {
			if err := r.viper.BindEnv(append([]string{k.file().name}, k.file().envs()...)...); err != nil {
				return fmt.Errorf("bind %s: %w", k.name, err)
			}
		}
		if err := r.viper.BindEnv(names...); err != nil {
			return fmt.Errorf("bind %s: %w", k.name, err)
		}
		if flag := r.flag(k); flag != nil {
			if err := r.viper.BindPFlag(k.name, flag); err != nil {
				return fmt.Errorf("bind --%s: %w", k.flag, err)
			}
		}
	}
	return nil
}

func put(tree map[string]any, path []string, value any) {
	if len(path) == 1 {
		tree[path[0]] = value
		return
	}
	sub, ok := tree[path[0]].(map[string]any)
	if !ok {
		sub = map[string]any{}
		tree[path[0]] = sub
	}
	put(sub, path[1:], value)
}

func (r *reader) flag(k *key) *pflag.Flag {
	if r.Flags == nil || k.flag == "" {
		return nil
	}
	return r.Flags.Lookup(k.flag)
}

// source tells where viper takes k's value from.
func (r *reader) source(k *key) (level, string) {
	if f := r.flag(k); f != nil && f.Changed {
		return fromFlag, "--" + f.Name
	}
	for i, name := range k.envs() {
		if v, ok := r.LookupEnv(name); ok && v != "" {
			return fromEnv - level(i), name
		}
	}
	if _, ok := r.file.values[k.name]; ok {
		return fromFile, fmt.Sprintf("%s:%d", r.file.path, r.file.lines[k.name])
	}
	return fromDefault, ""
}

// load reads one key, directly or from the file that holds the secret.
func (r *reader) load(k *key) error {
	from, origin := r.source(k)
	raw := r.viper.Get(k.name)
	if on, ok := raw.(bool); ok {
		raw = strconv.FormatBool(on)
	}
	if k.secret {
		fileFrom, fileOrigin := r.source(k.file())
		switch {
		case fileFrom == fromDefault || fileFrom < from:
		case fileFrom == from:
			return fault.New(fault.Config, "set one of the two", "read the configuration: %s and %s are both set", origin, fileOrigin)
		default:
			text, err := r.secretFile(k.file(), fileFrom)
			if err != nil {
				return fault.New(fault.Config, "", "read the configuration: %s (%s): %w", k.file().name, fileOrigin, err)
			}
			raw, from, origin = text, fileFrom, fileOrigin
			if _, isList := k.dst(r.config).(*[]string); isList {
				raw = strings.Fields(text)
			}
		}
	}
	if k.path && from == fromFile {
		raw = r.beside(raw)
	}
	value, text, err := k.decode(r.config, raw)
	if err != nil {
		return badValue(k, from, origin, err)
	}
	if k.secret {
		r.keepSecret(k, raw)
	}
	r.config.settings = append(r.config.settings, Setting{Key: k.name, Value: value, Source: from.String(), Origin: origin, Text: text})
	return nil
}

func badValue(k *key, from level, origin string, err error) error {
	class := fault.Config
	if from == fromFlag {
		class = fault.Usage
	}
	where := k.name
	if origin != "" {
		where = origin + ": " + k.name
	}
	return fault.New(class, "", "read the configuration: %s %w", where, err)
}

// keepSecret remembers what of a secret setting must never be shown.
func (r *reader) keepSecret(k *key, raw any) {
	list := toList(raw)
	if s, ok := raw.(string); ok {
		list = append(list, s)
	}
	for _, s := range list {
		if k.hidden {
			r.config.secrets = append(r.config.secrets, s)
		}
		r.config.secrets = append(r.config.secrets, redact.Passwords(s)...)
	}
}

// beside makes a relative file name from the configuration file relative to that file.
func (r *reader) beside(raw any) any {
	path, ok := raw.(string)
	if !ok || path == "" || filepath.IsAbs(path) {
		return raw
	}
	return filepath.Join(filepath.Dir(r.file.path), path)
}

// secretFile reads the file that k names. Surrounding white space is no part of a secret.
func (r *reader) secretFile(k *key, from level) (string, error) {
	name := r.viper.Get(k.name)
	if from == fromFile {
		name = r.beside(name)
	}
	path, ok := name.(string)
	if !ok {
		return "", fmt.Errorf("one file is wanted, not a list")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return secret, nil
}

// health copies the settings of single checks.
func (r *reader) health() {
	r.config.Health.Checks = r.file.checks
	names := make([]string, 0, len(r.file.checks))
	for name := range r.file.checks {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		c := r.file.checks[name]
		if c.Enabled != nil {
			r.addCheck(name, "enabled", *c.Enabled, fmt.Sprint(*c.Enabled))
		}
		if c.Warning != "" {
			r.addCheck(name, "warning", c.Warning, c.Warning)
		}
		if c.Critical != "" {
			r.addCheck(name, "critical", c.Critical, c.Critical)
		}
	}
}

func (r *reader) addCheck(check, name string, value any, text string) {
	full := healthChecks + "." + check + "." + name
	origin := fmt.Sprintf("%s:%d", r.file.path, r.file.lines[full])
	r.config.settings = append(r.config.settings, Setting{Key: full, Value: value, Source: fromFile.String(), Origin: origin, Text: text})
}

// libpq looks at the driver's own variables: they may name the database, and hold a password.
func (r *reader) libpq() {
	c := r.config
	c.namesDatabase = c.Database.URL != ""
	names := map[string]bool{"postgres": true}
	for _, name := range []string{"PGHOST", "PGSERVICE", "PGDATABASE", "PGUSER"} {
		v, ok := r.LookupEnv(name)
		if !ok || v == "" {
			continue
		}
		names[v] = true
		c.namesDatabase = c.namesDatabase || name != "PGUSER"
	}
	if p, ok := r.LookupEnv("PGPASSWORD"); ok && !names[p] {
		c.secrets = append(c.secrets, p)
	}
}
