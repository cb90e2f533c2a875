package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

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
