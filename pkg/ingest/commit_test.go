package ingest

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"auditdb/internal/postgres"
)

// What a refused COPY means follows from codes and names: messages come in the server's language.
func TestCopyErrorInAnyLanguage(t *testing.T) {
	t.Parallel()
	l := &leaf{ident: "audit_log_2024_01"}
	for _, c := range []struct {
		name string
		pg   pgconn.PgError
		want error
	}{
		{"bounds", pgconn.PgError{Code: postgres.CheckViolation, SchemaName: "public", TableName: "p", Message: "neue Zeile verletzt die Partitions-Constraint"}, errStale},
		{"a CHECK", pgconn.PgError{Code: postgres.CheckViolation, SchemaName: "public", TableName: "p", ConstraintName: "c", Message: "partition constraint"}, nil},
		{"a trigger", pgconn.PgError{Code: postgres.CheckViolation, Message: "partition constraint"}, nil},
		{"no table", pgconn.PgError{Code: postgres.UndefinedTable}, errStale},
		{"the same event", pgconn.PgError{Code: postgres.UniqueViolation}, errDuplicates},
	} {
		err := copyError(l, &c.pg)
		for _, known := range []error{errStale, errDuplicates} {
			if errors.Is(err, known) != errors.Is(c.want, known) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
}
