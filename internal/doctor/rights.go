package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// need is what a command wants to do with an object of schema auditdb.
type need struct {
	object     string
	privileges []string // SELECT, or UPDATE (a, b) for columns
}

// ownNeeds lists what each command needs in schema auditdb, beside its rights on the table itself. The role that the schema grants all
// of it to stands first.
func ownNeeds() map[string]struct {
	role  string
	needs []need
} {
	appends := []need{
		{"log", []string{"SELECT", "INSERT"}},
		{"log_hash", []string{"SELECT", "INSERT"}},
		{"checkpoint", []string{"SELECT", "INSERT"}},
		{"leaf", []string{"SELECT", "INSERT"}},
		{"log_partition", []string{"SELECT", "INSERT"}},
		{"job_run", []string{"SELECT", "INSERT", "UPDATE (heartbeat_at, finished_at, exit_code, summary)"}},
	}
	reads := []need{
		{"managed_table", []string{"SELECT"}},
		{"goose_db_version", []string{"SELECT"}},
	}
	all := map[string]struct {
		role  string
		needs []need
	}{}
	add := func(command, role string, needs ...[]need) {
		all[command] = struct {
			role  string
			needs []need
		}{role, slices.Concat(needs...)}
	}
	add("migrate status", "auditdb_reader", reads[1:])
	add("partition create", "auditdb_admin", reads, appends)
	add("partition prune", "auditdb_admin", reads, appends, []need{{"policy", []string{"SELECT"}}, {"hold", []string{"SELECT"}}, {"verdict", []string{"SELECT"}}})
	add("ingest", "auditdb_ingest", reads, appends, []need{
		{"ingest_source", []string{"SELECT", "INSERT", "UPDATE (content_sha256, size_bytes, finished_at)"}},
		{"ingest_range", []string{"SELECT", "INSERT"}},
		{"block_id", []string{"USAGE"}},
	})
	add("verify-integrity", "auditdb_verifier", reads, []need{
		{"log", []string{"SELECT"}},
		{"log_hash", []string{"SELECT"}},
		{"checkpoint", []string{"SELECT"}},
		{"leaf", []string{"SELECT"}},
		{"log_partition", []string{"SELECT"}},
		{"redaction", []string{"SELECT"}},
		{"expired", []string{"SELECT"}},
		{"verdict", []string{"SELECT", "INSERT", "UPDATE"}},
	})
	add("integrity seal", "auditdb_ingest", reads, appends)
	add("query", "auditdb_reader", reads[:1], []need{{"log", []string{"SELECT"}}, {"log_partition", []string{"SELECT"}}, {"redaction", []string{"SELECT"}}})
	return all
}

// commands are the commands that doctor knows, in the order of its answer.
func commands() []string {
	return []string{"migrate status", "migrate up", "migrate down", "partition list", "partition create", "partition prune", "ingest", "verify-integrity", "integrity seal", "query"}
}

// rights spells a need out for the catalogs, one for each privilege and column.
func (n need) rights() []right {
	var list []right
	for _, p := range n.privileges {
		privilege, columns, some := strings.Cut(p, " (")
		if !some {
			list = append(list, right{"auditdb", n.object, p, ""})
			continue
		}
		for column := range strings.SplitSeq(strings.TrimSuffix(columns, ")"), ", ") {
			list = append(list, right{"auditdb", n.object, privilege, column})
		}
	}
	return list
}

// missing is a need's privileges that are not granted, as GRANT wants them.
func (n need) missing(have map[right]granted) []string {
	var list []string
	for _, p := range n.privileges {
		one := need{n.object, []string{p}}
		for _, r := range one.rights() {
			if !have[r].has {
				list = append(list, p)
				break
			}
		}
	}
	return list
}

func grantOn(object string, privileges []string, user string) string {
	kind := ""
	if object == "auditdb.block_id" {
		kind = "SEQUENCE "
	}
	return fmt.Sprintf("GRANT %s ON %s%s TO %s;", strings.Join(privileges, ", "), kind, object, pgx.Identifier{user}.Sanitize())
}

// adminRole owns what auditdb manages.
const adminRole = "auditdb_admin"

// changeOwner is one statement for a table and all its partitions: ALTER TABLE … OWNER changes the table alone.
func changeOwner(t table, owner string) string {
	literal := "'" + strings.ReplaceAll(t.sql(), "'", "''") + "'"
	return "DO $auditdb$ DECLARE t regclass; BEGIN FOR t IN SELECT relid FROM pg_partition_tree(" + literal + ") LOOP EXECUTE format('ALTER TABLE %s OWNER TO " +
		owner + "', t); END LOOP; END $auditdb$;"
}

func grantRole(role, user string, since16 bool) string {
	if !strings.HasPrefix(role, "auditdb_") {
		role = pgx.Identifier{role}.Sanitize()
	}
	sql := fmt.Sprintf("GRANT %s TO %s", role, pgx.Identifier{user}.Sanitize())
	if since16 {
		sql += " WITH SET TRUE"
	}
	return sql + ";"
}
