package partitions

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/pkg/plan"
)

// AdoptMode says how a table comes under management.
type AdoptMode string

// The modes.
const (
	AdoptRegister AdoptMode = "register" // it is partitioned already
	AdoptInPlace  AdoptMode = "in-place" // it is converted, and keeps its columns
	AdoptCopy     AdoptMode = "copy"     // its rows are copied into a new table of the shape of public.audit_log
)

const (
	adoptPurpose = "adopt"
	adoptPrefix  = "auditdb_adopt_"
	auditKey     = "timestamp"
)

// AdoptOptions say how to take a table over.
type AdoptOptions struct {
	Mode      AdoptMode // "": register, or copy where the table has a predecessor's shape
	Convert   ConvertOptions
	Integrity *bool // whether its rows are sealed and verified; nil: as it is registered, else yes

	// Copy only. DDL gives the statements that make a table of the shape of public.audit_log under a name, and Owner is whom it belongs to; ""
	// is the old table's owner. Settled says that auditdb's schema is complete: until then the table cannot be registered.
	DDL     func(schema, name string) ([]string, error)
	Owner   string
	Settled bool
	Until   time.Time                 // the copy stops then, to go on another time; zero: never
	OnRows  func(rows, ofAbout int64) // told after each batch; nil: nobody is
}

// AdoptDraft is what an adoption would do.
type AdoptDraft struct {
	Table   Table // as it is going to be; of a plain table that is copied OID is the old one's
	Mode    AdoptMode
	Plan    plan.Plan
	Convert *ConvertDraft // in-place
	Old     string        // copy: the name that the old table gets, unquoted; "": the swap lies behind
	Rows    int64         // copy: about how many there are
	Row     Registration  // what auditdb.managed_table is to say
	options AdoptOptions
	copying *copyDraft
}

// copyDraft is what is needed to copy a predecessor's table.
type copyDraft struct {
	shape   shape
	source  CopySource
	target  CopyTarget
	make    []string
	columns []CopyColumn
	swap    []string
}

// adoptOp is what the executor needs of a step.
type adoptOp int

const (
	opAdoptMake adoptOp = iota
	opAdoptCopy
	opAdoptSwap
	opAdoptRegister
	opAdoptSettle
	opAdoptAbort
)

// adoptMeta is kept with a copy that goes on, so that a later run makes the same table.
type adoptMeta struct {
	Interval Interval `json:"interval"`
	Zone     string   `json:"zone"`
	Ahead    int      `json:"ahead"`
}

// auditColumns are the columns of public.audit_log in order, each with its type and what it gets where the old table does not have it.
func auditColumns() [][3]string {
	return [][3]string{
		{"id", "bigint", ""},
		{auditKey, "timestamptz", ""},
		{"recorded_at", "timestamptz", ""},
		{"salt", "uuid", "NULL"},
		{"processing_latency", "integer", "NULL"},
		{"action", "text", ""},
		{"status", "text", ""},
		{"principal_id", "text", "NULL"},
		{"organization_id", "text", "NULL"},
		{"target_resource_type", "text", "NULL"},
		{"target_resource_id", "text", "NULL"},
		{"outcome_description", "text", "NULL"},
		{"correlation_id", "text", "NULL"},
		{"event_uid", "text", "NULL"},
		{"data_classification", "text", "'INTERNAL'"},
		{"retention_policy", "text", "'standard'"},
		{"event_version", "text", "'1.0'"},
		{"hash", "text", "NULL"},
		{"hash_algorithm", "text", "NULL"},
		{"ttl", "text", "NULL"},
		{"archived_at", "timestamptz", "NULL"},
		{"details", "jsonb", "NULL"},
	}
}

// adoptColumns says how the columns of public.audit_log are filled from a table with the given columns (name to type), or in words why they
// cannot be. A reading of a clock is taken for one in zone.
func adoptColumns(have map[string]string, zone string) (columns []CopyColumn, reasons []string) {
	known := map[string]bool{}
	for _, c := range auditColumns() {
		name, typ, missing := c[0], c[1], c[2]
		known[name] = true
		from, there := have[name]
		ident := pgx.Identifier{name}.Sanitize()
		switch {
		case name == "salt": // an adopted row's salt lies in the log
			columns = append(columns, CopyColumn{Target: name, Expr: "NULL::uuid"})
			continue
		case !there && name == "recorded_at":
			from, ident = have[auditKey], pgx.Identifier{auditKey}.Sanitize()
		case !there && missing == "":
			reasons = append(reasons, "it has no column "+name)
			continue
		case !there:
			columns = append(columns, CopyColumn{Target: name, Expr: missing + "::" + typ})
			continue
		}
		expr, ok := castTo(ident, typ, from, zone)
		if !ok {
			reasons = append(reasons, fmt.Sprintf("column %s has type %s", name, from))
		}
		columns = append(columns, CopyColumn{Target: name, Expr: expr})
	}
	for name := range have {
		if !known[name] {
			reasons = append(reasons, "column "+name+" has no place in the new table")
		}
	}
	slices.Sort(reasons)
	return columns, reasons
}

// castTo is an expression of type typ for a column of type from, where no value can be lost by that.
func castTo(ident, typ, from, zone string) (expr string, ok bool) {
	var allowed []string
	switch typ {
	case "text":
		allowed = []string{"text", "character varying", "character", "uuid", "name"}
	case "bigint":
		allowed = []string{"bigint", "integer", "smallint"}
	case "integer":
		allowed = []string{"integer", "smallint"}
	case "jsonb":
		allowed = []string{"jsonb", "json"}
	case "uuid":
		allowed = []string{"uuid"}
	case "timestamptz":
		if from == "timestamp without time zone" {
			return ident + " AT TIME ZONE " + quoteText(zone), true
		}
		allowed = []string{"timestamp with time zone"}
	}
	base, _, _ := strings.Cut(from, "(")
	return ident + "::" + typ, slices.Contains(allowed, base)
}

// refuseAdopt lists in words what stands against copying. What does not belong to the rows stays with the old table, and is said.
func (c *copyDraft) refuse() (reasons []string) {
	s := c.shape
	reasons = append(reasons, s.others...)
	for _, v := range s.views {
		reasons = append(reasons, "view "+displayName(v.schema, v.name)+" reads it: drop it first and make it again on the new table")
	}
	for _, g := range s.triggers {
		reasons = append(reasons, "trigger "+g.name+" is on it: drop it first and make it again on the new table")
	}
	if len(s.policies) > 0 || s.rowSecurity {
		reasons = append(reasons, "it has row security: drop the policies first and make them again on the new table")
	}
	for _, k := range s.constraints {
		if k.kind == "f" {
			reasons = append(reasons, "foreign key "+k.name+" is on it: drop it first")
		}
	}
	for _, p := range s.publications {
		reasons = append(reasons, "publication "+p+" names it: take it out first, and add the new table afterwards")
	}
	if s.inherits || s.typed || s.extension || s.subscribed {
		reasons = append(reasons, "it takes part in inheritance, is of a type, belongs to an extension or is the target of a subscription")
	}
	return reasons
}

// planCopy makes the steps of an adoption by copy.
func (d *AdoptDraft) planCopy() {
	c := d.copying
	add := func(op adoptOp, name, sql, reason string, destructive bool) {
		d.Plan.Steps = append(d.Plan.Steps, plan.Step{Name: name, SQL: sql, Reason: reason, Op: op, Destructive: destructive})
	}
	target := displayName(c.target.Schema, c.target.Name)
	add(opAdoptMake, target, strings.Join(c.make, ";\n"), "the new table, with its partitions", false)
	names, exprs := make([]string, len(c.columns)), make([]string, len(c.columns))
	for i, col := range c.columns {
		names[i], exprs[i] = pgx.Identifier{col.Target}.Sanitize(), col.Expr
	}
	add(opAdoptCopy, c.source.String(), fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM ONLY %s", c.target.Ident(), sqlList(names), sqlList(exprs), c.source.Ident()),
		fmt.Sprintf("about %d rows, in batches; inserts go on, UPDATE and DELETE are refused until it is done; then both are compared", d.Rows), false)
	add(opAdoptSwap, d.Table.String(), strings.Join(c.swap, ";\n"), "one short transaction; the old table stays as "+displayName(d.Table.Schema, d.Old), false)
	kept := func(name, reason string) {
		d.Plan.Skipped = append(d.Plan.Skipped, plan.Skip{Name: name, Reason: reason})
	}
	for _, i := range c.shape.indexes {
		if i.kind != "p" {
			kept(i.name, "the index stays with the old table: the new one has its own")
		}
	}
	for _, k := range c.shape.constraints {
		if k.kind == "c" {
			kept(k.name, "the check stays with the old table: the new one has its own")
		}
	}
}

// swapSQL puts the new table into the place of the old one.
func (c *copyDraft) swapSQL(t Table, old string) []string {
	var sql []string
	add := func(format string, args ...any) { sql = append(sql, fmt.Sprintf(format, args...)) }
	in := func(name string) string { return pgx.Identifier{t.Schema, name}.Sanitize() }
	add("ALTER TABLE %s RENAME TO %s", t.Ident(), pgx.Identifier{old}.Sanitize())
	for _, i := range c.shape.indexes {
		add("ALTER INDEX %s RENAME TO %s", in(i.name), pgx.Identifier{joinName(t.Schema, i.name, "old")}.Sanitize())
	}
	last := "0"
	for _, q := range c.shape.sequences {
		name := joinName(t.Schema, q.name, "old")
		if q.sameSchema {
			add("ALTER SEQUENCE %s RENAME TO %s", pgx.Identifier{q.schema, q.name}.Sanitize(), pgx.Identifier{name}.Sanitize())
		} else {
			name = q.name
		}
		if q.column == "id" {
			last = fmt.Sprintf("(SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM %s)", pgx.Identifier{q.schema, name}.Sanitize())
		}
	}
	add("ALTER TABLE %s RENAME TO %s", c.target.Ident(), pgx.Identifier{t.Name}.Sanitize())
	names := quoteText(`DECLARE r record; BEGIN
  FOR r IN SELECT i.oid::pg_catalog.regclass AS was, i.relname FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
    WHERE x.indrelid = ` + quoteText(t.Ident()) + `::pg_catalog.regclass AND pg_catalog.starts_with(i.relname, ` + quoteText(c.target.Name) + `) LOOP
    EXECUTE pg_catalog.format('ALTER INDEX %s RENAME TO %I', r.was, ` + quoteText(t.Name) + ` || pg_catalog.substr(r.relname, ` + fmt.Sprint(len(c.target.Name)+1) + `));
  END LOOP;
  FOR r IN SELECT k.conname, k.conrelid::pg_catalog.regclass AS of FROM pg_catalog.pg_constraint k
    WHERE k.conrelid = ` + quoteText(t.Ident()) + `::pg_catalog.regclass AND k.contype = 'c' AND pg_catalog.starts_with(k.conname, ` + quoteText(c.target.Name) + `) LOOP
    EXECUTE pg_catalog.format('ALTER TABLE %s RENAME CONSTRAINT %I TO %I', r.of, r.conname, ` + quoteText(t.Name) + ` || pg_catalog.substr(r.conname, ` + fmt.Sprint(len(c.target.Name)+1) + `));
  END LOOP;
END`)
	sql = append(sql, "DO "+names)
	seat := quoteText(fmt.Sprintf(`DECLARE fresh pg_catalog.regclass := pg_catalog.pg_get_serial_sequence(%s, 'id')::pg_catalog.regclass; last bigint; BEGIN
  SELECT greatest(%s, coalesce(max(id), 0)) INTO last FROM %s;
  IF last > 0 THEN PERFORM pg_catalog.setval(fresh, last); END IF;
  EXECUTE pg_catalog.format('ALTER SEQUENCE %%s RENAME TO %%I', fresh, %s);
END`, quoteText(t.Ident()), last, t.Ident(), quoteText(joinName(t.Schema, t.Name, "id_seq"))))
	sql = append(sql, "DO "+seat)
	return append(sql, c.shape.grants...)
}

// refuseRows says which rows the new table would not take.
func refuseRows(t Table, counts map[string]int64) error {
	var texts []string
	for what, n := range counts {
		if n > 0 {
			texts = append(texts, fmt.Sprintf("%d rows %s", n, what))
		}
	}
	if len(texts) == 0 {
		return nil
	}
	slices.Sort(texts)
	return fault.New(fault.Refused, "correct those rows first", "adopt %s: %s", t, strings.Join(texts, "; "))
}

func (o AdoptOptions) meta(t Table) json.RawMessage {
	raw, err := json.Marshal(adoptMeta{Interval: t.Interval, Zone: t.Location.String(), Ahead: t.Ahead})
	if err != nil {
		return nil // strings and a number
	}
	return raw
}
