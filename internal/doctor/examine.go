package doctor

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
)

type tx = pgx.Tx

// grantsShown is how many missing rights are named one by one; for more, membership in a role is the hint.
const grantsShown = 3

// rights checks every command against what the connected role may do.
func (p *patient) rights(ctx context.Context) error {
	all := ownNeeds()
	var wanted []right
	for _, command := range commands() {
		for _, n := range all[command].needs {
			wanted = append(wanted, n.rights()...)
		}
	}
	list, err := loadRights(ctx, p.db.Pool(), wanted)
	if err != nil {
		return err
	}
	have := make(map[right]granted, len(list))
	for i, r := range wanted {
		have[r] = list[i]
	}
	for _, command := range commands() {
		before := len(p.report.Checks)
		switch command {
		case "migrate up":
			p.migrateUp()
			p.asSchemaOwner(command)
		case "migrate down":
			p.asSchemaOwner(command)
		case "partition list":
			p.onTables(command, "")
		default:
			p.inSchema(command, all[command].role, all[command].needs, have)
			p.onTables(command, all[command].role)
		}
		if len(p.report.Checks) == before {
			p.add(command, "rights", OK, "", "nothing is missing")
		}
	}
	return nil
}

func (p *patient) migrateUp() {
	switch {
	case p.options.Ahead:
		p.add("migrate up", "schema", Warning, "use the auditdb that made it, or a newer one", "the database is ahead of this program")
	case p.options.Pending > 0:
		p.add("migrate up", "schema", Missing, "auditdb migrate up", "%d migrations are pending", p.options.Pending)
	}
}

// asSchemaOwner: migrations run as the owner of schema auditdb.
func (p *patient) asSchemaOwner(command string) {
	switch {
	case !p.schema.exists || p.schema.actsAsOwner:
	case p.schema.ownerSuper:
		p.add(command, "schema auditdb", Missing, "run auditdb "+command+" as "+p.schema.owner, "migrations run as its owner %s, a superuser, whose role is not to be granted", p.schema.owner)
	default:
		p.addGrants(command, "schema auditdb", "", []string{grantRole(p.schema.owner, p.user, p.since16)}, "migrations run as its owner %s, whose role %s may not take", p.schema.owner, p.user)
	}
}

// inSchema checks a command's rights in schema auditdb.
func (p *patient) inSchema(command, role string, needs []need, have map[right]granted) {
	if !p.schema.exists {
		switch command {
		case "partition create", "partition prune", "migrate status": // work without it
		default:
			p.add(command, "schema auditdb", Missing, "auditdb migrate up", "the schema is not there")
		}
		return
	}
	var grants, missing []string
	if !p.schema.usage {
		grants, missing = append(grants, grantOn("SCHEMA auditdb", []string{"USAGE"}, p.user)), append(missing, "USAGE on the schema")
	}
	for _, n := range needs {
		if !p.there(n, have) {
			continue // pending migrations are reported
		}
		if privileges := n.missing(have); len(privileges) > 0 {
			object := "auditdb." + n.object
			grants, missing = append(grants, grantOn(object, privileges, p.user)), append(missing, strings.Join(privileges, ", ")+" on "+n.object)
		}
	}
	switch {
	case len(grants) > grantsShown:
		p.addGrants(command, "schema auditdb", grantRole(role, p.user, p.since16 && role == "auditdb_admin"), grants, "%d rights are missing, which %s has", len(grants), role)
	case len(grants) > 0:
		p.addGrants(command, "schema auditdb", "", grants, "missing: %s", strings.Join(missing, "; "))
	}
}

func (p *patient) there(n need, have map[right]granted) bool {
	for _, r := range n.rights() {
		return have[r].exists
	}
	return false
}

// onTables checks a command's rights on the managed tables. role comes with them.
func (p *patient) onTables(command, role string) {
	for _, t := range p.tables {
		name := t.String()
		if !t.usage {
			schema := "SCHEMA " + pgx.Identifier{t.schema}.Sanitize()
			p.addGrants(command, name, "", []string{grantOn(schema, []string{"USAGE"}, p.user)}, "no USAGE on its schema")
		}
		switch command {
		case "partition create", "partition prune":
			p.asOwner(command, t)
		case "ingest":
			if !t.selects { // duplicates are looked up
				hint := ""
				if t.roleSelects {
					hint = grantRole(role, p.user, false)
				}
				p.addGrants(command, name, hint, []string{grantOn(t.sql(), []string{"SELECT"}, p.user)}, "no SELECT")
			}
			p.onLeaves(command, role, t, "INSERT", t.noInsert)
		case "verify-integrity":
			p.onLeaves(command, role, t, "SELECT", t.noSelect)
		case "integrity seal":
			p.onLeaves(command, role, t, "SELECT", t.noSealSelect)
		}
	}
}

func (p *patient) asOwner(command string, t table) {
	if !t.partitioned {
		p.add(command, t.String(), Problem, "name a partitioned table", "not partitioned")
		return
	}
	switch {
	case t.actsAsOwner:
	case t.ownerSuper:
		p.addGrants(command, t.String(), "", p.handOver(t), "partitions are made and dropped as the table's owner %s, a superuser, whose role is not to be granted", t.owner)
	default:
		p.addGrants(command, t.String(), "", []string{grantRole(t.owner, p.user, p.since16)}, "partitions are made and dropped as the table's owner %s, whose role %s may not take", t.owner, p.user)
	}
	if !t.ownerCreates && command == "partition create" {
		schema := "SCHEMA " + pgx.Identifier{t.schema}.Sanitize()
		p.addGrants(command, t.String(), "", []string{grantOn(schema, []string{"CREATE"}, t.owner)}, "its owner %s may not create partitions in schema %s", t.owner, t.schema)
	}
}

// handOver gives a superuser's table, with its partitions, to auditdb_admin, and that role to the user: whoever is granted a superuser is one.
func (p *patient) handOver(t table) []string {
	sql := []string{changeOwner(t, adminRole)}
	if !t.adminCreates {
		sql = append(sql, grantOn("SCHEMA "+pgx.Identifier{t.schema}.Sanitize(), []string{"CREATE"}, adminRole))
	}
	if !p.schema.isAdmin {
		sql = append(sql, grantRole(adminRole, p.user, p.since16))
	}
	return sql
}

// onLeaves: ingest copies straight into partitions and verify reads them one by one. The hint grants the role as far as that is enough,
// and names all others in one statement.
func (p *patient) onLeaves(command, role string, t table, privilege string, without lacking) {
	if len(without.user) == 0 {
		return
	}
	grants := make([]string, len(without.user))
	for i, leaf := range without.user {
		grants[i] = grantOn(leaf, []string{privilege}, p.user)
	}
	var hint []string
	if len(without.role) < len(without.user) {
		hint = append(hint, grantRole(role, p.user, false))
	}
	if len(without.role) > 0 {
		hint = append(hint, grantOn(strings.Join(without.role, ", "), []string{privilege}, p.user))
	}
	p.addGrants(command, t.String(), strings.Join(hint, " "), grants, "no %s on %d of its partitions", privilege, len(without.user))
}
