package indexes

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

const resolveSQL = `SELECT c.oid, c.relkind::text FROM pg_class c WHERE c.oid = to_regclass($1)`

// Resolve finds a table by the name that a user wrote, under the role's own search path. Errors of the name have class usage.
func Resolve(ctx context.Context, db *postgres.DB, name string) (oid uint32, err error) {
	var kind string
	err = db.TxWith(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT set_config('search_path', $1, true)", db.UserSearchPath()); err != nil {
			return err
		}
		return tx.QueryRow(ctx, resolveSQL, name).Scan(&oid, &kind)
	})
	state := postgres.SQLState(err)
	switch {
	case err == pgx.ErrNoRows: //nolint:errorlint // QueryRow gives it as it is
		return 0, fault.New(fault.Usage, "write schema.table if its schema is not on the search path", "table %s: it does not exist", name)
	case strings.HasPrefix(state, "42") && state != postgres.InsufficientPrivilege, strings.HasPrefix(state, "0A"), strings.HasPrefix(state, "22"):
		return 0, fault.New(fault.Usage, `write [schema.]table, with double quotes where SQL needs them, e.g. public."Audit Log"`, "table %s: it is not a name of a table in this database: %w", name, err)
	case err != nil:
		return 0, fmt.Errorf("table %s: %w", name, err)
	case !strings.Contains("rpm", kind):
		return 0, fault.New(fault.Usage, "name a table or a materialized view", "table %s: it has no indexes of its own", name)
	}
	return oid, nil
}
