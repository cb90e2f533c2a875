package migrations_test

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
	"auditdb/migrations"
)

// A table that was made by the first migration's own statements is taken for its own; one that differs is in the way.
func TestUpFindsItsOwnTable(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change string
		ok     bool
	}{"same": {"", true}, "other type": {"ALTER TABLE audit_log ALTER ttl TYPE varchar(7)", false}, "index gone": {"DROP INDEX audit_log_id_brin", false}, "other owner": {"ALTER TABLE audit_log OWNER TO CURRENT_USER", false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, err := postgres.Open(t.Context(), postgres.Options{URL: pgtest.Empty(t), MaxConns: 2})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(db.Close)
			if err := migrations.Prepare(t.Context(), db, time.Minute); err != nil {
				t.Fatal(err)
			}
			ddl, err := migrations.AuditLogDDL("public", "audit_log")
			if err != nil || len(ddl) < 4 {
				t.Fatal(ddl, err)
			}
			if err := db.Tx(t.Context(), func(tx pgx.Tx) error {
				_, err := tx.Conn().PgConn().Exec(t.Context(), "SET LOCAL search_path = public; SET LOCAL ROLE auditdb_admin; "+strings.Join(ddl, ";\n")+"; RESET ROLE; "+c.change).ReadAll()
				return err
			}); err != nil {
				t.Fatal(err)
			}
			_, err = migrations.Up(t.Context(), db, migrations.Options{Wait: time.Minute})
			if c.ok != (err == nil) || !c.ok && fault.ClassOf(err) != fault.Refused {
				t.Error(err)
			}
		})
	}
}

func TestAuditLogDDLRenames(t *testing.T) {
	t.Parallel()
	ddl, err := migrations.AuditLogDDL(`a "schema"`, "other")
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(ddl, "\n")
	for _, want := range []string{`CREATE TABLE "a ""schema"""."other" (`, `CONSTRAINT "other_pkey" PRIMARY KEY`, `CREATE UNIQUE INDEX "other_event_uid_key" ON "a ""schema"""."other" (`} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s in %s", want, all)
		}
	}
	if strings.Contains(all, "audit_log") {
		t.Error(all)
	}
}
