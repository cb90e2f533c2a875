package partitions

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
)

// shape is what a plain table consists of and what depends on it, as far as turning it into a partitioned one has to know.
type shape struct {
	t             Table // Key.Kind is not known to the shape
	persistence   string
	rowSecurity   bool
	forceSecurity bool
	replica       string // pg_class.relreplident
	comment       string
	tablespace    string
	user          string // who is connected
	superuser     bool
	canBeOwner    bool // … and may become the table's owner
	ownerCreates  bool
	ownerUses     bool
	key           struct {
		number                   int16 // 0: there is no such column
		notNull                  bool
		ident                    string // quoted where it needs to be
		typ, generated, identity string
	}
	typed, inherits, extension, subscribed, labelled bool
	dependencies                                     int64 // entries of pg_depend

	indexes        []shapeIndex
	constraints    []shapeConstraint
	triggers       []shapeTrigger
	sequences      []shapeSequence
	statistics     []shapeStatistics
	views          []shapeView
	policies       []string // statements for the table's name, as grants and columnComments are
	grants         []string
	grantees       []string
	columnComments []string
	settings       []string // actions of ALTER TABLE
	publications   []string // that name the table
	publishing     []string // that include it with others
	others         []string // what depends on the table and cannot be taken over, in words
}

type shapeIndex struct {
	name, def                  string
	tail                       string // of def, after the table's name
	kind, constraint           string // contype and definition of its constraint; "": it has none
	deferrable, deferred       bool
	unique, valid, replica     bool
	hasKey                     bool // the key is one of its columns
	columns, include           []string
	comment, constraintComment string
}

type shapeConstraint struct {
	name, kind, def  string
	valid, noInherit bool
	comment          string
}

type shapeTrigger struct {
	name, def       string
	row, transition bool
	enabled         string
	comment         string
}

// shapeSequence is the sequence of an identity (kind i) or serial (a) column.
type shapeSequence struct {
	column, kind, schema, name string
	sameSchema                 bool
	grants                     []string
}

type shapeStatistics struct {
	schema, name, def string
	target            int
}

type shapeView struct {
	schema, name, owner, def string
	options                  []string
	creates                  bool // its owner may make views in its schema
	canBeOwner               bool
}

func (v shapeView) ident() string { return pgx.Identifier{v.schema, v.name}.Sanitize() }

func (s shape) primary() *shapeIndex {
	if len(s.indexes) > 0 && s.indexes[0].kind == "p" {
		return &s.indexes[0]
	}
	return nil
}

// refuse lists in words why the table cannot be converted as it is. own is the name of the check that converting adds.
func (s shape) refuse(own string, dropUnique []string) (reasons []string) {
	add := func(is bool, format string, args ...any) {
		if is {
			reasons = append(reasons, fmt.Sprintf(format, args...))
		}
	}
	add(s.persistence == "u", "it is unlogged, which a partitioned table cannot be: ALTER TABLE … SET LOGGED first")
	add(s.persistence == "t", "it is temporary")
	add(s.typed, "it is a table OF a type")
	add(s.inherits, "it takes part in inheritance")
	add(s.extension, "it belongs to an extension")
	add(s.subscribed, "it is the target of a subscription")
	add(s.labelled, "it has security labels")
	add(s.key.generated != "", "column %s is generated, and cannot be a partition key", s.t.Key.Column)
	for _, i := range s.indexes {
		add(i.kind == "x", "exclusion constraint %s cannot be kept over several partitions", i.name)
		drop := slices.Contains(dropUnique, i.name)
		add(i.kind != "p" && i.kind != "x" && i.unique && i.valid && !i.hasKey && !drop,
			"unique index %s does not have column %s, and can hold only within each partition (--drop-unique %s gives it up but for the history)", i.name, s.t.Key.Column, i.name)
		add(i.replica && i.unique && !i.hasKey && i.kind != "p", "index %s is the replica identity: choose another one first", i.name)
	}
	for _, k := range s.constraints {
		what := map[string]string{"c": "check", "n": "not-null constraint", "f": "foreign key"}[k.kind]
		add(!k.valid && k.name != own, "%s %s is not validated: ALTER TABLE … VALIDATE CONSTRAINT %[2]s first", what, k.name)
		add(k.noInherit && k.kind != "f", "%s %s is NO INHERIT", what, k.name)
	}
	for _, g := range s.triggers {
		add(g.row && g.transition, "row trigger %s has transition tables, which a partitioned table does not support", g.name)
	}
	for _, p := range s.publications {
		ident := pgx.Identifier{p}.Sanitize()
		add(true, "publication %s names it, and its subscribers have to follow: ALTER PUBLICATION %[1]s DROP TABLE %[2]s first, and after it ALTER PUBLICATION %[1]s ADD TABLE %[2]s and SET (publish_via_partition_root = true)",
			ident, s.t.Ident())
	}
	return append(reasons, s.others...)
}

// permission says which rights are missing; nil: none.
func (s shape) permission() error {
	user, owner := pgx.Identifier{s.user}.Sanitize(), pgx.Identifier{s.t.Owner}.Sanitize()
	schema := pgx.Identifier{s.t.Schema}.Sanitize()
	switch {
	case !s.canBeOwner:
		return fault.New(fault.Permission, fmt.Sprintf("GRANT %s TO %s", owner, user), "convert %s: it belongs to %s, and %s may not act as that role", s.t, owner, user)
	case !s.ownerCreates || !s.ownerUses:
		return fault.New(fault.Permission, fmt.Sprintf("GRANT USAGE, CREATE ON SCHEMA %s TO %s", schema, owner), "convert %s: its owner %s may not create tables in schema %s", s.t, owner, schema)
	}
	for _, v := range s.views {
		role := pgx.Identifier{v.owner}.Sanitize()
		switch {
		case s.superuser:
		case !v.creates:
			return fault.New(fault.Permission, fmt.Sprintf("GRANT CREATE ON SCHEMA %s TO %s", pgx.Identifier{v.schema}.Sanitize(), role),
				"convert %s: owner %s of view %s may not create views in its schema", s.t, role, displayName(v.schema, v.name))
		case !v.canBeOwner:
			return fault.New(fault.Permission, fmt.Sprintf("GRANT %s TO %s", role, user), "convert %s: view %s belongs to %s, and %s may not act as that role", s.t, displayName(v.schema, v.name), role, user)
		}
	}
	return nil
}

// become is a statement that makes role the one that acts; from is who is connected.
func become(role string) string { return "SET LOCAL ROLE " + pgx.Identifier{role}.Sanitize() }

func sqlList(items []string) string { return strings.Join(items, ", ") }
