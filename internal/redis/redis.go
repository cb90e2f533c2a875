// Package redis opens Redis (one server, a cluster or sentinels) and takes locks there. A Redis lock only saves hosts from waiting for
// each other in vain: it has no fencing, and correctness never rests on it.
package redis

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/extra/redisotel/v9"
	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"auditdb/internal/fault"
	"auditdb/internal/redact"
	"auditdb/internal/tracing"
)

const (
	dialTimeout   = 2 * time.Second
	answerTimeout = 2 * time.Second
	urlHint       = "write redis://[user:password@]host:6379/0, rediss://… for TLS, unix:///path, several hosts with commas for a cluster, and ?master_name=NAME for sentinels"
)

// Client is an open connection pool to Redis.
type Client struct {
	goredis.UniversalClient
	addr string
	log  *slog.Logger
}

// GoneError says that Redis did not answer: work that does not need it goes on.
type GoneError struct {
	Addr string // host and port, never a password
	Err  error
}

// Error names the address and the cause.
func (e *GoneError) Error() string {
	return "Redis at " + e.Addr + " does not answer: " + e.Err.Error()
}

// Unwrap lets errors.Is and errors.As see the cause.
func (e *GoneError) Unwrap() error { return e.Err }

// IsGone says whether err means that Redis did not answer, as opposed to a wrong password or a lock that is held.
func IsGone(err error) bool {
	var gone *GoneError
	return errors.As(err, &gone)
}

// Open connects and pings. A URL that cannot be read has class config, a server that does not answer is a GoneError and one that
// answers with an error is no GoneError; both have class unavailable.
func Open(ctx context.Context, address string, log *slog.Logger) (*Client, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	silence()
	inner, addr, err := newClient(address)
	if err != nil {
		return nil, err
	}
	if tracing.On() {
		if err := redisotel.InstrumentTracing(inner, redisotel.WithDBStatement(false), redisotel.WithDialFilter(true), redisotel.WithCallerEnabled(false)); err != nil {
			return nil, fmt.Errorf("trace Redis: %w", err)
		}
	}
	c := &Client{UniversalClient: inner, addr: addr, log: log}
	if err := inner.Ping(ctx).Err(); err != nil {
		_ = inner.Close() // nothing was sent
		return nil, fmt.Errorf("connect to Redis: %w", c.wrap(ctx, err))
	}
	return c, nil
}

// Addr names the server without secrets.
func (c *Client) Addr() string { return c.addr }

// CheckURL says without connecting whether an address can be read, with class config when not.
func CheckURL(address string) error {
	silence()
	client, _, err := newClient(address)
	if err != nil {
		return err
	}
	_ = client.Close() // nothing was sent
	return nil
}

// badURL says what is wrong with the masked address, so that no error can show a password: when nothing is, the password is.
func badURL(address string) error {
	shown := redact.Address(address)
	_, err := goredis.ParseURL(shown)
	var parse *url.Error
	switch {
	case !strings.Contains(address, "://"): // it may be the password itself
		return fault.New(fault.Config, urlHint, "read the Redis URL: it is no URL")
	case err == nil:
		return fault.New(fault.Config, "percent-encode special characters in the password", "read the Redis URL %s: its password is not written as a URL wants it", shown)
	case errors.As(err, &parse):
		err = parse.Err
	}
	return fault.New(fault.Config, urlHint, "read the Redis URL %s: %s", shown, strings.TrimPrefix(err.Error(), "redis: "))
}

// newClient reads the address. Parse errors can show parts of a password, so they are not passed on.
func newClient(address string) (goredis.UniversalClient, string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, "", badURL(address)
	}
	query := u.Query()
	master := query.Get("master_name")
	sentinelUser, sentinelPassword := query.Get("sentinel_username"), query.Get("sentinel_password")
	for _, own := range []string{"master_name", "sentinel_username", "sentinel_password"} {
		query.Del(own)
	}
	u.RawQuery = query.Encode()
	addrs := hosts(u.Host)
	if u.Scheme != "unix" {
		u.Host = addrs[0]
	}
	o, err := goredis.ParseURL(u.String())
	if err != nil {
		return nil, "", badURL(address)
	}
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout = dialTimeout, answerTimeout, answerTimeout
	o.MaxRetries, o.DialerRetries, o.ContextTimeoutEnabled = 1, 1, true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	if master == "" && len(addrs) == 1 {
		return goredis.NewClient(o), o.Addr, nil
	}
	return goredis.NewUniversalClient(&goredis.UniversalOptions{
		Addrs: addrs, MasterName: master, SentinelUsername: sentinelUser, SentinelPassword: sentinelPassword,
		Username: o.Username, Password: o.Password, DB: o.DB, TLSConfig: o.TLSConfig, ClientName: o.ClientName, Protocol: o.Protocol, PoolSize: o.PoolSize,
		DialTimeout: dialTimeout, ReadTimeout: answerTimeout, WriteTimeout: answerTimeout, MaxRetries: 1, DialerRetries: 1, ContextTimeoutEnabled: true,
		MaintNotificationsConfig: o.MaintNotificationsConfig,
	}), strings.Join(addrs, ","), nil
}

// hosts splits a comma list and gives every host a port.
func hosts(list string) []string {
	addrs := strings.Split(list, ",")
	for i, a := range addrs {
		if _, _, err := net.SplitHostPort(a); err != nil && a != "" {
			addrs[i] = net.JoinHostPort(strings.Trim(a, "[]"), "6379")
		}
	}
	return addrs
}

// wrap tells a server that is gone from one that answered with an error.
func (c *Client) wrap(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var netErr net.Error
	switch {
	case errors.As(err, &netErr), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, context.DeadlineExceeded),
		strings.HasPrefix(err.Error(), "LOADING "), strings.HasPrefix(err.Error(), "CLUSTERDOWN "), strings.HasPrefix(err.Error(), "redis: all sentinels"):
		return &fault.Error{Class: fault.Unavailable, Hint: "check redis.url, or leave it out: Redis is optional", Err: &GoneError{Addr: c.addr, Err: err}}
	}
	return fault.New(fault.Unavailable, "check user, password and rights in redis.url", "Redis at %s: %w", c.addr, err)
}

// silence keeps the driver, which logs connection errors to standard error by itself, quiet: its errors are all returned as well.
var silence = sync.OnceFunc(func() { goredis.SetLogger(quiet{}) })

type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}
