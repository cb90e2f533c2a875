package migrations

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"auditdb/internal/postgres"
	"auditdb/pkg/plan"
)

const (
	versionTable = "auditdb.goose_db_version"
	adminRole    = "auditdb_admin"

	factsSQL = `
SELECT pg_catalog.current_setting('server_version_num')::int, pg_catalog.pg_is_in_recovery(), current_user::text, pg_catalog.current_database()::text,
  ARRAY(SELECT w FROM pg_catalog.unnest($1::text[]) w WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = w)),
  CASE WHEN pg_catalog.to_regrole('auditdb_admin') IS NULL THEN false
       WHEN pg_catalog.current_setting('server_version_num')::int >= 160000 THEN pg_catalog.pg_has_role(current_user, pg_catalog.to_regrole('auditdb_admin')::oid, 'SET')
       ELSE pg_catalog.pg_has_role(current_user, pg_catalog.to_regrole('auditdb_admin')::oid, 'MEMBER') END,
  EXISTS (SELECT FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles r ON r.oid = m.roleid JOIN pg_catalog.pg_roles v ON v.oid = m.member
          WHERE r.rolname = 'auditdb_reader' AND v.rolname = 'auditdb_verifier'),
  CASE WHEN pg_catalog.to_regrole('auditdb_admin') IS NULL THEN false
       ELSE pg_catalog.has_schema_privilege(pg_catalog.to_regrole('auditdb_admin')::oid, 'public', 'CREATE')
        AND pg_catalog.has_schema_privilege(pg_catalog.to_regrole('auditdb_admin')::oid, 'public', 'USAGE') END,
  ARRAY(SELECT w FROM pg_catalog.unnest($1::text[]) w JOIN pg_catalog.pg_roles r ON r.rolname = w
        WHERE w <> 'auditdb_admin' AND NOT pg_catalog.has_schema_privilege(r.oid, 'public', 'USAGE')),
  EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'auditdb'),
  CASE WHEN pg_catalog.to_regrole('auditdb_admin') IS NULL OR NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'auditdb') THEN false
       ELSE pg_catalog.has_schema_privilege(pg_catalog.to_regrole('auditdb_admin')::oid, 'auditdb', 'CREATE')
        AND pg_catalog.has_schema_privilege(pg_catalog.to_regrole('auditdb_admin')::oid, 'auditdb', 'USAGE') END,
  EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'auditdb' AND c.relname = 'goose_db_version'),
  ARRAY(SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'public' AND c.relname IN ('audit_log', 'audit_log_pkey', 'audit_log_id_brin', 'audit_log_principal_idx', 'audit_log_event_uid_key')
           OR n.nspname = 'auditdb' AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relname NOT LIKE 'goose\_db\_version%' ORDER BY n.nspname DESC, c.relname),
  coalesce((SELECT c.relkind = 'p' AND pg_catalog.pg_get_userbyid(c.relowner) = 'auditdb_admin' AND pg_catalog.pg_get_partkeydef(c.oid) = 'RANGE ("timestamp")'
      AND ARRAY(SELECT a.attname || ' ' || pg_catalog.format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END || CASE WHEN a.attidentity = 'a' THEN ' always' ELSE '' END
            FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) = $2::text[]
      AND ARRAY(SELECT k.conname::text FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype IN ('p', 'c') ORDER BY 1) = ARRAY['audit_log_finite', 'audit_log_keys_short', 'audit_log_pkey']
      AND ARRAY(SELECT i.relname::text FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = c.oid ORDER BY 1)
        = ARRAY['audit_log_event_uid_key', 'audit_log_id_brin', 'audit_log_pkey', 'audit_log_principal_idx']
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public' AND c.relname = 'audit_log'), false)`

	appliedSQL = `
SELECT version_id, tstamp AT TIME ZONE 'UTC' FROM (
  SELECT DISTINCT ON (version_id) version_id, is_applied, tstamp FROM auditdb.goose_db_version WHERE version_id > 0 ORDER BY version_id, id DESC) v
WHERE is_applied ORDER BY version_id`
	versionTableSQL = `SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'auditdb' AND c.relname = 'goose_db_version')`
	hasRowsSQL      = `SELECT EXISTS (SELECT FROM %s)`
)

// roleNames are the cluster-wide roles that the schema grants to.
func roleNames() []string {
	return []string{adminRole, "auditdb_ingest", "auditdb_writer", "auditdb_reader", "auditdb_verifier"}
}

// auditLogColumns describes the columns of public.audit_log, in order.
func auditLogColumns() []string {
	return []string{
		"id bigint not null always", "timestamp timestamp with time zone not null", "recorded_at timestamp with time zone not null", "salt uuid", "processing_latency integer", "action text not null", "status text not null",
		"principal_id text", "organization_id text", "target_resource_type text", "target_resource_id text", "outcome_description text", "correlation_id text", "event_uid text", "data_classification text",
		"retention_policy text", "event_version text", "hash text", "hash_algorithm text", "ttl text", "archived_at timestamp with time zone", "details jsonb",
	}
}

// facts are what has to be known of a database before the first migration.
type facts struct {
	versionNum    int
	inRecovery    bool
	user          string
	database      string
	missingRoles  []string
	canBeAdmin    bool // SET ROLE auditdb_admin is allowed
	verifierReads bool // auditdb_verifier is a member of auditdb_reader
	adminCreates  bool // auditdb_admin may create in schema public
	noUsage       []string
	schema        bool // schema auditdb exists
	adminInSchema bool
	versionTable  bool
	taken         []string // names that the first migrations want and something has
	own           bool     // public.audit_log is just as the first migration would make it
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func loadFacts(ctx context.Context, q querier) (facts, error) {
	var f facts
	err := q.QueryRow(ctx, factsSQL, roleNames(), auditLogColumns()).Scan(&f.versionNum, &f.inRecovery, &f.user, &f.database, &f.missingRoles, &f.canBeAdmin, &f.verifierReads,
		&f.adminCreates, &f.noUsage, &f.schema, &f.adminInSchema, &f.versionTable, &f.taken, &f.own)
	if err != nil {
		return facts{}, fmt.Errorf("look at the database before migrating: %w", err)
	}
	return f, nil
}

// applied maps the applied versions to when that was. No version table: none.
func applied(ctx context.Context, q querier) (map[int64]time.Time, error) {
	versions := map[int64]time.Time{}
	var exists bool
	if err := q.QueryRow(ctx, versionTableSQL).Scan(&exists); err != nil {
		return nil, fmt.Errorf("look for the schema's version: %w", err)
	}
	if !exists {
		return versions, nil
	}
	rows, err := q.Query(ctx, appliedSQL)
	if err != nil {
		return nil, fmt.Errorf("read the schema's version: %w", err)
	}
	var version int64
	var at time.Time
	if _, err := pgx.ForEachRow(rows, []any{&version, &at}, func() error {
		versions[version] = at.UTC()
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read the schema's version: %w", err)
	}
	return versions, nil
}

// prepareSteps are the statements that must run before the first migration: roles, memberships, schemas. They are cluster-wide in
// part, so another database's migration may do the same at the same time.
func prepareSteps(f facts) []plan.Step {
	var steps []plan.Step
	add := func(name, sql, reason string) {
		steps = append(steps, plan.Step{Name: name, SQL: sql, Reason: reason})
	}
	for _, role := range f.missingRoles {
		add(role, "CREATE ROLE "+role+" NOLOGIN", "the role is missing")
	}
	if !f.verifierReads {
		add("auditdb_verifier", "GRANT auditdb_reader TO auditdb_verifier", "who verifies also reads")
	}
	if !f.canBeAdmin {
		add(adminRole, grantAdminSQL(f), "auditdb_admin owns the schema, and "+f.user+" acts for it")
	}
	if !f.adminCreates {
		add("public", "GRANT CREATE, USAGE ON SCHEMA public TO "+adminRole, "partitions are made there")
	}
	for _, role := range f.noUsage {
		add("public", "GRANT USAGE ON SCHEMA public TO "+role, "the role cannot see schema public")
	}
	switch {
	case !f.schema:
		add("auditdb", "CREATE SCHEMA auditdb AUTHORIZATION "+adminRole, "the schema is missing")
	case !f.adminInSchema:
		add("auditdb", "GRANT CREATE, USAGE ON SCHEMA auditdb TO "+adminRole, "auditdb_admin owns what is in it")
	}
	return steps
}

func grantAdminSQL(f facts) string {
	sql := "GRANT " + adminRole + " TO " + pgx.Identifier{f.user}.Sanitize()
	if f.versionNum >= 160000 {
		sql += " WITH SET TRUE"
	}
	return sql
}

// tablesWithRows names those tables of a Down part that are not empty.
func tablesWithRows(ctx context.Context, q querier, conditions []string) ([]string, error) {
	var full []string
	for _, condition := range conditions {
		var rows bool
		if err := q.QueryRow(ctx, fmt.Sprintf(hasRowsSQL, condition)).Scan(&rows); err != nil {
			return nil, fmt.Errorf("look for rows in %s: %w", condition, err)
		}
		if rows {
			table, _, _ := strings.Cut(condition, " ")
			full = append(full, table)
		}
	}
	return full, nil
}

// sameTime says whether err is what a statement gets when another session does the same to the cluster's catalogs.
func sameTime(err error) bool {
	switch postgres.SQLState(err) {
	case postgres.DuplicateObject, postgres.UniqueViolation, postgres.DuplicateSchema, postgres.DeadlockDetected:
		return true
	case postgres.InternalError:
		var pg *pgconn.PgError // its message is in the server's language
		return errors.As(err, &pg) && (pg.Routine == "simple_heap_update" || pg.Routine == "simple_heap_delete")
	}
	return false
}
