package indexes

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

const copyTable = "auditdb_canonical"

// Canonical returns d as the catalog would have it: expressions and predicates as the server writes them, defaults left out. It also finds out
// whether such an index can be made at all. tx has to be rolled back: the index is made on an empty temporary copy of the table, which needs
// a primary and the right to make temporary tables.
func Canonical(ctx context.Context, tx pgx.Tx, d Definition) (Definition, error) {
	draft := d.On("pg_temp", copyTable)
	draft.Name = copyTable + "_idx"
	draft.Tablespace = "" // where it lies is no matter of what it is
	_, err := tx.Exec(ctx, "SAVEPOINT canonical")
	if err == nil {
		_, err = tx.Exec(ctx, "CREATE TEMPORARY TABLE "+copyTable+" (LIKE "+d.TableIdent()+")")
	}
	if err != nil {
		return d, fmt.Errorf("copy the shape of %s: %w", d.TableName(), err)
	}
	if err := execute(ctx, tx.Conn(), draft.DDL()); err != nil {
		return d, fmt.Errorf("index %s: %w", d.DisplayName(), err)
	}
	var oid uint32
	if err := tx.QueryRow(ctx, "SELECT to_regclass($1)::oid", "pg_temp."+copyTable).Scan(&oid); err != nil {
		return d, fmt.Errorf("index %s: %w", d.DisplayName(), err)
	}
	found, err := Load(ctx, tx, []uint32{oid})
	if err != nil {
		return d, err
	}
	if _, err := tx.Exec(ctx, "ROLLBACK TO SAVEPOINT canonical"); err != nil {
		return d, fmt.Errorf("index %s: %w", d.DisplayName(), err)
	}
	canonical := found[0].Definition
	canonical.Schema, canonical.Table, canonical.Name, canonical.Tablespace = d.Schema, d.Table, d.Name, d.Tablespace
	return canonical, nil
}
