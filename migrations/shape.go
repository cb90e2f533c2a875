package migrations

import (
	"strings"

	"github.com/jackc/pgx/v5"
)

// AuditLogDDL gives the statements that make a table just like public.audit_log under another name, with indexes and constraints called
// name_…, as the first migration would.
func AuditLogDDL(schema, name string) ([]string, error) {
	list, err := sources()
	if err != nil {
		return nil, err
	}
	table := pgx.Identifier{schema, name}.Sanitize()
	var out []string
	for statement := range strings.SplitSeq(list[0].up, ";\n") {
		for _, kind := range []string{"CREATE TABLE ", "CREATE INDEX ", "CREATE UNIQUE INDEX ", "COMMENT ON TABLE ", "COMMENT ON COLUMN "} {
			if strings.HasPrefix(statement, kind) {
				out = append(out, rename(statement, table, name))
			}
		}
	}
	return out, nil
}

// rename writes another table's name, and those of its indexes and constraints, into a statement of the first migration.
func rename(statement, table, name string) string {
	const own = "audit_log"
	statement = strings.Replace(statement, "IF NOT EXISTS ", "", 1)
	var b strings.Builder
	for {
		before, after, found := strings.Cut(statement, own)
		if !found {
			return b.String() + statement
		}
		if qualified, ok := strings.CutSuffix(before, "public."); ok {
			b.WriteString(qualified + table)
		} else {
			end := strings.IndexFunc(after, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') })
			b.WriteString(before + pgx.Identifier{name + after[:end]}.Sanitize())
			after = after[end:]
		}
		statement = after
	}
}
