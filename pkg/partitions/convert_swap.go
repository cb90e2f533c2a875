package partitions

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// swapping collects the statements that put a partitioned table into the place of a plain one, which becomes its first partition.
type swapping struct {
	s                  shape
	d                  *ConvertDraft
	n                  convertNames
	t, shadow, history string // quoted
	sql                []string
}

func (x *swapping) add(format string, args ...any) {
	x.sql = append(x.sql, fmt.Sprintf(format, args...))
}

// comment repeats a comment, if there is one.
func (x *swapping) comment(on, text string) {
	if text != "" {
		x.add("COMMENT ON %s IS %s", on, quoteText(text))
	}
}

// beside makes the new table and all that needs neither the table's lock nor its name.
func (x *swapping) beside() {
	s := x.s
	x.sql = append(x.sql, x.owner()...)
	x.add("LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE", x.t)
	key := pgx.Identifier{s.t.Key.Column}.Sanitize()
	space := ""
	if s.tablespace != "" {
		space = " TABLESPACE " + pgx.Identifier{s.tablespace}.Sanitize()
	}
	x.add("CREATE TABLE %s (LIKE %s INCLUDING ALL EXCLUDING INDEXES EXCLUDING STATISTICS) PARTITION BY RANGE (%s)%s", x.shadow, x.t, key, space)
	x.add("ALTER TABLE %s DROP CONSTRAINT %s, ALTER COLUMN %s SET NOT NULL", x.shadow, convertCheck, key)
	x.dress()
}

// dress gives the new table what LIKE does not copy and what does not depend on its name.
func (x *swapping) dress() {
	s := x.s
	for _, k := range s.constraints {
		name := pgx.Identifier{k.name}.Sanitize()
		if k.kind == "f" {
			x.add("ALTER TABLE %s ADD CONSTRAINT %s %s", x.shadow, name, k.def)
			x.comment(fmt.Sprintf("CONSTRAINT %s ON %s", name, x.shadow), k.comment)
		}
	}
	if len(s.settings) > 0 {
		x.add("ALTER TABLE %s %s", x.shadow, sqlList(s.settings))
	}
	if s.rowSecurity {
		x.add("ALTER TABLE %s ENABLE ROW LEVEL SECURITY", x.shadow)
	}
	if s.forceSecurity {
		x.add("ALTER TABLE %s FORCE ROW LEVEL SECURITY", x.shadow)
	}
	x.comment("TABLE "+x.shadow, s.comment)
}

// owner becomes the table's owner.
func (x *swapping) owner() []string {
	if x.s.user == x.s.t.Owner {
		return []string{"RESET ROLE"}
	}
	return []string{become(x.s.t.Owner)}
}

// lock takes the locks in the order in which readers take them: views, then the table. A view's own owner may change it to itself, which
// does nothing but lock that view alone.
func (x *swapping) lock() {
	for _, v := range x.s.views {
		x.sql = append(x.sql, x.as(v.owner))
		x.add("ALTER VIEW %s OWNER TO %s", v.ident(), pgx.Identifier{v.owner}.Sanitize())
	}
	if len(x.s.views) > 0 {
		x.sql = append(x.sql, x.owner()...)
	}
	x.add("%s", exclusiveSQL(x.d.Table))
}

// aside gives the old table, its indexes and statistics objects other names.
func (x *swapping) aside() {
	x.add("ALTER TABLE %s RENAME TO %s", x.t, pgx.Identifier{x.n.history}.Sanitize())
	for _, i := range x.s.indexes {
		if x.moves(i) && !x.replaced(i) {
			x.add("ALTER INDEX %s RENAME TO %s", pgx.Identifier{x.s.t.Schema, i.name}.Sanitize(), pgx.Identifier{x.n.objects[i.name]}.Sanitize())
		}
	}
	for _, st := range x.s.statistics {
		x.add("ALTER STATISTICS %s RENAME TO %s", pgx.Identifier{st.schema, st.name}.Sanitize(), pgx.Identifier{x.n.objects[st.name]}.Sanitize())
	}
}

// dropRowTriggers makes room for those that ATTACH clones.
func (x *swapping) dropRowTriggers() {
	for _, g := range x.s.triggers {
		if g.row {
			x.add("DROP TRIGGER %s ON %s", pgx.Identifier{g.name}.Sanitize(), x.history)
		}
	}
}

// replaced says that i is the primary key that another takes the place of.
func (x *swapping) replaced(i shapeIndex) bool { return i.kind == "p" && !i.hasKey }

// exclusiveSQL is where others begin to wait.
func exclusiveSQL(t Table) string {
	return "LOCK TABLE ONLY " + t.Ident() + " IN ACCESS EXCLUSIVE MODE"
}

// moves says that the new table gets an index like i, under its name.
func (x *swapping) moves(i shapeIndex) bool {
	return i.valid && i.kind != "x" && (i.kind == "p" || !i.unique || i.hasKey)
}

func (x *swapping) as(role string) string {
	if role == x.s.user || x.s.superuser {
		return "RESET ROLE"
	}
	return become(role)
}

// replacePrimary makes the prepared index the history's primary key.
func (x *swapping) replacePrimary(state convertState) {
	key := pgx.Identifier{x.s.t.Key.Column}.Sanitize()
	pk := x.s.primary()
	if pk == nil || pk.hasKey {
		x.add("ALTER TABLE %s ALTER COLUMN %s SET NOT NULL", x.history, key)
		return
	}
	name := pgx.Identifier{x.n.objects[pk.name]}.Sanitize()
	x.add("ALTER TABLE %s ALTER COLUMN %s SET NOT NULL, DROP CONSTRAINT %s", x.history, key, pgx.Identifier{pk.name}.Sanitize())
	x.add("ALTER TABLE %s ADD CONSTRAINT %s PRIMARY KEY USING INDEX %s%s", x.history, name, pgx.Identifier{state.index}.Sanitize(), deferrable(*pk))
	if pk.replica {
		x.add("ALTER TABLE %s REPLICA IDENTITY USING INDEX %s", x.history, name)
	}
}

func deferrable(i shapeIndex) string {
	switch {
	case i.deferred:
		return " DEFERRABLE INITIALLY DEFERRED"
	case i.deferrable:
		return " DEFERRABLE"
	}
	return ""
}

// moveSequences takes the names of identity sequences, which also keeps others from taking values until the new ones have theirs.
func (x *swapping) moveSequences() {
	for i, q := range x.s.sequences {
		if q.kind == "i" {
			x.add("ALTER SEQUENCE %s RENAME TO %s", pgx.Identifier{q.schema, q.name}.Sanitize(), pgx.Identifier{x.oldSequence(i)}.Sanitize())
		}
	}
}

func (x *swapping) oldSequence(i int) string { return fmt.Sprintf("%s_seq_%d", x.n.shadow, i) }

// seatSequences lets the values of sequences go on in the new table.
func (x *swapping) seatSequences() {
	for i, q := range x.s.sequences {
		column := pgx.Identifier{q.column}.Sanitize()
		if q.kind != "i" {
			x.add("ALTER SEQUENCE %s OWNED BY %s.%s", pgx.Identifier{q.schema, q.name}.Sanitize(), x.t, column)
			continue
		}
		rename := ""
		if q.sameSchema {
			rename = fmt.Sprintf("EXECUTE pg_catalog.format('ALTER SEQUENCE %%s RENAME TO %%I', fresh, %s);", quoteText(q.name))
		}
		x.sql = append(x.sql, "DO "+quoteText(fmt.Sprintf(`DECLARE fresh pg_catalog.regclass := pg_catalog.pg_get_serial_sequence(%s, %s)::pg_catalog.regclass; BEGIN
  PERFORM pg_catalog.setval(fresh, last_value, is_called) FROM %s;
  %s
END`, quoteText(x.t), quoteText(q.column), pgx.Identifier{q.schema, x.oldSequence(i)}.Sanitize(), rename)))
		x.add("ALTER TABLE %s ALTER COLUMN %s DROP IDENTITY", x.history, column)
		if q.sameSchema {
			x.sql = append(x.sql, q.grants...)
		}
	}
}

// makeIndexes gives the new table the indexes of the old one, under their names. ATTACH finds the history's own.
func (x *swapping) makeIndexes() {
	for _, i := range x.s.indexes {
		if !x.moves(i) {
			continue
		}
		name := pgx.Identifier{i.name}.Sanitize()
		switch {
		case i.kind == "p" && !i.hasKey:
			include := ""
			if len(i.include) > 0 {
				include = " INCLUDE (" + sqlList(i.include) + ")"
			}
			x.add("ALTER TABLE %s ADD CONSTRAINT %s PRIMARY KEY (%s)%s%s", x.t, name, sqlList(x.s.primaryColumns()), include, deferrable(i))
		case i.kind != "":
			x.add("ALTER TABLE %s ADD CONSTRAINT %s %s", x.t, name, i.constraint)
		default:
			x.add("%s", i.def)
		}
		x.comment("INDEX "+pgx.Identifier{x.s.t.Schema, i.name}.Sanitize(), i.comment)
		if i.kind != "" {
			x.comment(fmt.Sprintf("CONSTRAINT %s ON %s", name, x.t), i.constraintComment)
		}
	}
}

// makeStatistics gives the new table statistics objects and the replica identity.
func (x *swapping) makeStatistics() {
	for _, st := range x.s.statistics {
		x.add("%s", st.def)
		if st.target >= 0 {
			x.add("ALTER STATISTICS %s SET STATISTICS %d", pgx.Identifier{st.schema, st.name}.Sanitize(), st.target)
		}
	}
	switch x.s.replica {
	case "f":
		x.add("ALTER TABLE %s REPLICA IDENTITY FULL", x.t)
	case "n":
		x.add("ALTER TABLE %s REPLICA IDENTITY NOTHING", x.t)
	case "i":
		if k := slices.IndexFunc(x.s.indexes, func(i shapeIndex) bool { return i.replica }); k >= 0 {
			x.add("ALTER TABLE %s REPLICA IDENTITY USING INDEX %s", x.t, pgx.Identifier{x.s.indexes[k].name}.Sanitize())
		}
	}
}

// makeRules gives the new table triggers, policies and grants.
func (x *swapping) makeRules() {
	for _, g := range x.s.triggers {
		name := pgx.Identifier{g.name}.Sanitize()
		x.add("%s", g.def)
		if how := map[string]string{"D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}[g.enabled]; how != "" {
			x.add("ALTER TABLE %s %s TRIGGER %s", x.t, how, name)
		}
		x.comment(fmt.Sprintf("TRIGGER %s ON %s", name, x.t), g.comment)
	}
	x.sql = append(x.sql, x.s.policies...)
	x.sql = append(x.sql, x.s.grants...)
}

// makeViews lets the views read the new table.
func (x *swapping) makeViews() {
	for _, v := range x.s.views {
		with := ""
		if len(v.options) > 0 {
			with = " WITH (" + sqlList(storageOptions("", v.options)) + ")"
		}
		x.sql = append(x.sql, x.as(v.owner))
		x.add("CREATE OR REPLACE VIEW %s%s AS %s", v.ident(), with, strings.TrimSuffix(strings.TrimSpace(v.def), ";"))
	}
}
