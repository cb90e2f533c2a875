package postgres

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"auditdb/internal/fault"
)

const (
	urlHint     = "write postgres://user@host:5432/database"
	encodedHint = "percent-encode special characters in the password, or keep it in PGPASSWORD or a password file"
	quotedHint  = `write password='…' with \' for ' and \\ for \, or keep it in PGPASSWORD or a password file`
)

// CheckURL says without connecting whether an address can be read, with class config when not. Where it is empty, the driver's own
// variables and files are read.
func CheckURL(address string) error {
	_, err := parseConfig(Options{URL: address})
	return err
}

// Instance names the server and database of an address for people: host:port/database, without user and password; "" where it cannot be read.
func Instance(address string) string {
	config, err := pgconn.ParseConfig(address)
	if err != nil {
		return ""
	}
	return hostPort(config.Host, config.Port) + "/" + config.Database
}

// refuseUnencoded refuses a URL in which more than one @ stands unencoded outside the values of parameters: where the password ends is
// guessed, by each reader in its own way, and what is taken for the host or the database would be shown.
func refuseUnencoded(address string) error {
	_, rest, isURL := strings.Cut(address, "://")
	if !isURL || !strings.HasPrefix(address, "postgres") {
		return nil
	}
	place, query, _ := strings.Cut(rest, "?")
	at := strings.Count(place, "@")
	for pair := range strings.SplitSeq(query, "&") {
		key, _, _ := strings.Cut(pair, "=")
		at += strings.Count(key, "@")
	}
	if at < 2 {
		return nil
	}
	return fault.New(fault.Config, encodedHint, "read the database URL: it has more than one @, so that it is not clear where the password ends")
}

// badURL names the part of an address that the driver cannot read. It looks at the masked address alone, so that no error can show a
// password: when nothing is wrong with that, the password is.
func badURL(address string) error {
	shown := RedactURL(address)
	reason, hint := partialReason(shown)
	if reason == "" {
		_, err := pgxpool.ParseConfig(shown)
		reason, hint = driverReason(err), urlHint
		if err == nil {
			reason, hint = "its password is not written as a connection string wants it", encodedHint
			if !strings.Contains(shown, "://") {
				hint = quotedHint
			}
		}
	}
	return fault.New(fault.Config, hint, "read the database URL %s: %s", shown, reason)
}

// partialReason finds the mistakes that are made most, "" when it is none of them.
func partialReason(shown string) (reason, hint string) {
	scheme, rest, isURL := strings.Cut(shown, "://")
	switch {
	case isURL && scheme != "postgres" && scheme != "postgresql":
		return fmt.Sprintf("%s:// is not PostgreSQL's scheme", scheme), urlHint
	case !isURL && !strings.Contains(shown, "="):
		return "it is neither a URL nor a list of keyword=value", urlHint + ", or host=… dbname=… user=…"
	}
	for _, one := range limited() {
		if value, ok := parameter(shown, isURL, one.name); ok && !slices.Contains(one.values, value) {
			return fmt.Sprintf("%s is %q", one.name, value), one.name + " is one of " + strings.Join(one.values, ", ")
		}
	}
	ports := []string{}
	if isURL {
		hosts, _, _ := strings.Cut(rest, "?")
		hosts, _, _ = strings.Cut(hosts, "/")
		hosts = hosts[strings.LastIndexByte(hosts, '@')+1:]
		for host := range strings.SplitSeq(hosts, ",") {
			if strings.Contains(host, "[") && !strings.Contains(host, "]") {
				continue // the driver says what is wrong with that
			}
			if _, port, ok := strings.Cut(host[strings.LastIndexByte(host, ']')+1:], ":"); ok {
				ports = append(ports, port)
			}
		}
	}
	if value, ok := parameter(shown, isURL, "port"); ok {
		ports = append(ports, strings.Split(value, ",")...)
	}
	for _, port := range ports {
		if n, err := strconv.ParseUint(port, 10, 16); port != "" && (err != nil || n == 0) {
			return fmt.Sprintf("%q is no port", port), "a port is a number from 1 to 65535"
		}
	}
	return "", ""
}

// limited lists the parameters that take a few words only.
func limited() []struct {
	name   string
	values []string
} {
	return []struct {
		name   string
		values []string
	}{
		{"sslmode", []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}},
		{"target_session_attrs", []string{"any", "read-write", "read-only", "primary", "standby", "prefer-standby"}},
		{"channel_binding", []string{"disable", "prefer", "require"}},
	}
}

// parameter finds a parameter of a URL or a keyword.
func parameter(shown string, isURL bool, name string) (string, bool) {
	if isURL {
		_, query, _ := strings.Cut(shown, "?")
		values, err := url.ParseQuery(query)
		return values.Get(name), err == nil && values.Has(name)
	}
	found := regexp.MustCompile(`(?:^|\s)` + name + `\s*=\s*'?([^\s']*)`).FindStringSubmatch(shown)
	if found == nil {
		return "", false
	}
	return found[1], true
}

// driverReason is what the driver says about a masked address, without the address.
func driverReason(err error) string {
	var parse *url.Error
	if errors.As(err, &parse) {
		return oneLine(parse.Err.Error())
	}
	var config *pgconn.ParseConfigError
	if !errors.As(err, &config) {
		return "it is not a valid connection string"
	}
	text := config.Error()
	if i := strings.LastIndex(text, "`: "); i >= 0 {
		text = text[i+len("`: "):]
	}
	return oneLine(text)
}
