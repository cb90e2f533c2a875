package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

// logKey is the FNV-1a hash of "auditdb:log".
const logKey = 7992009350506638954

func TestClass(t *testing.T) {
	t.Parallel()
	for state, want := range map[string]fault.Class{
		"08006": fault.Unavailable, "57P01": fault.Unavailable, "57P02": fault.Unavailable, "57P03": fault.Unavailable, "28P01": fault.Unavailable, "28000": fault.Unavailable,
		"3D000": fault.Unavailable, "25006": fault.Unavailable, "53300": fault.Unavailable, "53100": fault.Unavailable,
		"42501": fault.Permission, "55P03": fault.Locked, "40P01": fault.Locked, "55006": fault.Locked, "22P02": fault.Data, "23505": fault.Data, "23001": fault.Data,
		"42P01": fault.Internal, "XX000": fault.Internal, "57014": fault.Internal, "": fault.Internal,
	} {
		err := fmt.Errorf("do: %w", &pgconn.PgError{Code: state})
		if got := postgres.Class(err); got != want {
			t.Errorf("%s: %s, want %s", state, got, want)
		}
	}
	for _, c := range []struct {
		err  error
		want fault.Class
	}{
		{nil, ""},
		{errors.New("x"), fault.Internal},
		{context.Canceled, fault.Interrupted},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), fault.Timeout},
		{fault.New(fault.Refused, "", "x: %w", &pgconn.PgError{Code: "22P02"}), fault.Refused},
		{pgconn.ErrConnClosed, fault.Unavailable},
	} {
		if got := postgres.Class(c.err); got != c.want {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
	}
}

func TestRetry(t *testing.T) {
	t.Parallel()
	quick := postgres.RetryPolicy{First: time.Millisecond, Max: 2 * time.Millisecond, Within: 10 * time.Second}
	for state, again := range map[string]bool{
		"08006": true, "40001": true, "40P01": true, "53300": true, "55P03": true, "57P01": true, "57P02": true, "57P03": true,
		"23505": false, "42501": false, "28P01": false, "57014": false, "53100": false, "25006": false,
	} {
		calls := 0
		err := postgres.Retry(t.Context(), quick, func(context.Context) error {
			if calls++; calls < 3 {
				return fmt.Errorf("x: %w", &pgconn.PgError{Code: state})
			}
			return nil
		})
		if again != (err == nil) || again != (calls == 3) {
			t.Errorf("%s: %v after %d calls", state, err, calls)
		}
	}
	notes := 0
	short := postgres.RetryPolicy{First: time.Millisecond, Within: 50 * time.Millisecond, OnRetry: func(error, time.Duration) { notes++ }}
	err := postgres.Retry(t.Context(), short, func(context.Context) error { return &pgconn.PgError{Code: "40001"} })
	if postgres.SQLState(err) != "40001" || notes == 0 {
		t.Errorf("out of time: %v, %d notes", err, notes)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = postgres.Retry(ctx, quick, func(context.Context) error { cancel(); return &pgconn.PgError{Code: "40001"} })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestRedactURL(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                                     "",
		"postgres://u:pw@h:5432/d":             "postgres://u:***@h:5432/d",
		"postgres://u@h/d":                     "postgres://u@h/d",
		"postgres://u:p:w@h,h2:1/d?sslmode=x":  "postgres://u:***@h,h2:1/d?sslmode=x",
		"postgres://h/d?user=u&password=pw":    "postgres://h/d?user=u&password=***",
		"postgres://h/d?sslpassword=pw&a=b":    "postgres://h/d?sslpassword=***&a=b",
		"postgres://h/d?pass%77ord=pw":         "postgres://h/d?pass%77ord=***",
		"postgres://u:p/w@h/d":                 "postgres://u:***@h/d",
		"postgres://u:p?w@h/d":                 "postgres://***",
		"postgres://u:p@w@h/d":                 "postgres://u:***@h/d",
		"host=h password=pw dbname=d":          "host=h password=*** dbname=d",
		"host=h password='p w' dbname=d":       "host=h password=*** dbname=d",
		`password = 'p\' x=y' host=h`:          "password = *** host=h",
		"host=h password='never closed host=x": "host=h password=***",
		"password=p w host=h":                  "password=*** host=h",
		"passfile=/x user=u":                   "passfile=/x user=u",
		"u:pw@h/d":                             "u:***@h/d",
	} {
		if got := postgres.RedactURL(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func TestRedactURLNeverShowsPassword(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		password := "QZX" + rapid.String().Draw(r, "password")
		escape := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
		forms := []string{
			(&url.URL{Scheme: "postgres", User: url.UserPassword("u", password), Host: "h:1", Path: "/d"}).String(),
			"postgres://u:" + password + "@h/d",
			"postgresql://h/d?" + url.Values{"password": {password}, "x": {"y"}}.Encode(),
			"host=h password='" + escape.Replace(password) + "' user=u",
			"host=h user=u password=" + strings.Map(func(c rune) rune {
				if c <= ' ' || c == '\'' || c == '\\' {
					return 'x'
				}
				return c
			}, password),
		}
		for _, form := range forms {
			if got := postgres.RedactURL(form); strings.Contains(got, "QZX") {
				r.Fatalf("%q became %q", form, got)
			}
		}
	})
}

func FuzzRedactURL(f *testing.F) {
	f.Add("postgres://u:p@h/d?password=x")
	f.Add("host=h password='x y' user=z")
	f.Fuzz(func(t *testing.T, s string) {
		once := postgres.RedactURL(s)
		_ = postgres.RedactURL(once)
		if strings.Contains(postgres.RedactURL("password='"+strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace("QZX"+s)+"'"), "QZX") {
			t.Error("shown")
		}
	})
}
