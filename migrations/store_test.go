package migrations

import (
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"auditdb/internal/postgres"
)

func TestSameTime(t *testing.T) {
	t.Parallel()
	concurrently := &pgconn.PgError{Code: postgres.InternalError, Message: "Tupel gleichzeitig aktualisiert", Routine: "simple_heap_update"}
	for _, c := range []struct {
		err  error
		want bool
	}{
		{concurrently, true}, // as the driver returns it, with nothing around it
		{fmt.Errorf("grant: %w", concurrently), true},
		{&pgconn.PgError{Code: postgres.InternalError, Message: "cache lookup failed", Routine: "get_role"}, false},
		{&pgconn.PgError{Code: postgres.DuplicateObject}, true},
		{&pgconn.PgError{Code: postgres.InsufficientPrivilege}, false},
		{errors.New("concurrently"), false},
	} {
		if got := sameTime(c.err); got != c.want {
			t.Errorf("%v: %t, want %t", c.err, got, c.want)
		}
	}
}
