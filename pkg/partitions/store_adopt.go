package partitions

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/pkg/plan"
)

const (
	columnsSQL = `SELECT a.attname::text, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped`
	partKeySQL = `
SELECT a.attname::text, format_type(a.atttypid, NULL) FROM pg_partitioned_table p JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
WHERE p.partrelid = $1 AND p.partnatts = 1 AND p.partstrat = 'r' AND a.attnum > 0`
	aboutRowsSQL = `SELECT greatest(c.reltuples, pg_stat_get_live_tuples(c.oid), 0)::bigint FROM pg_class c WHERE c.oid = $1`
	// What the partitions of a table lack of guards against TRUNCATE and, with integrity on ($2), of rights for auditdb's roles; as statements.
	settleSQL = `
WITH leaf AS (SELECT c.oid, c.relacl, format('%I.%I', n.nspname, c.relname) AS ident FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE h.inhparent = $1 AND c.relkind = 'r'),
  guard AS (SELECT t.tgname FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE t.tgrelid = $1 AND t.tgtype & 32 <> 0 AND NOT t.tgisinternal AND p.proname = 'guard' AND n.nspname = 'auditdb'),
  wanted AS (SELECT l.oid, l.relacl, l.ident, 'INSERT' AS privilege, 'auditdb_ingest' AS role FROM leaf l UNION ALL SELECT l.oid, l.relacl, l.ident, 'SELECT', 'auditdb_verifier' FROM leaf l
    UNION ALL SELECT c.oid, c.relacl, format('%I.%I', n.nspname, c.relname), 'SELECT', 'auditdb_reader' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1)
SELECT format('CREATE TRIGGER %I BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION auditdb.guard()', g.tgname, l.ident) FROM leaf l, guard g
WHERE NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = l.oid AND t.tgname = g.tgname)
UNION ALL
SELECT format('GRANT %s ON TABLE %s TO %s', w.privilege, w.ident, w.role) FROM wanted w JOIN pg_roles r ON r.rolname = w.role
WHERE $2 AND NOT EXISTS (SELECT FROM aclexplode(w.relacl) x WHERE x.grantee = r.oid AND x.privilege_type = w.privilege) ORDER BY 1`
)

// DraftAdopt reads the table and plans how to take it over, from wherever an interrupted run has left it. It changes nothing.
func (w *Worker) DraftAdopt(ctx context.Context, t Table, o AdoptOptions) (*AdoptDraft, error) {
	now, partitioned, err := ResolveAny(ctx, w.o.DB, t.Ident())
	if err != nil {
		return nil, err
	}
	d := &AdoptDraft{Table: now, Mode: o.Mode, options: o, Row: Registration{Integrity: true}, Plan: plan.Plan{Action: "partition.adopt " + now.String(), AsOf: w.o.Now()}}
	if o.Integrity != nil {
		d.Row.Integrity = *o.Integrity
	}
	if err := w.settleMode(ctx, d, partitioned); err != nil {
		return nil, err
	}
	switch {
	case d.Mode == AdoptInPlace:
		return d, w.draftInPlace(ctx, d)
	case d.Mode == AdoptCopy && !partitioned:
		return d, w.draftCopy(ctx, d)
	case o.Convert.Abort:
		return nil, fault.New(fault.Refused, "", "adopt %s: there is nothing to take back: it is partitioned already", now)
	}
	return d, w.draftRegister(ctx, d)
}

// settleMode says which way is taken where the user has not said it, and refuses one that does not lead anywhere.
func (w *Worker) settleMode(ctx context.Context, d *AdoptDraft, partitioned bool) error {
	have, err := columnTypes(ctx, w.o.DB.Pool(), d.Table)
	if err != nil {
		return err
	}
	_, reasons := adoptColumns(have, "UTC")
	own := ownShape(have)
	d.Row.BlockIDs = own || d.Mode == AdoptCopy || d.Mode == "" && !partitioned && len(reasons) == 0
	const ways = "--mode in-place turns a table as it is into a partitioned one"
	switch {
	case d.Mode == "" && partitioned && own && !d.options.Settled: // a run that copied was interrupted after the swap
		d.Mode = AdoptCopy
	case d.Mode == "" && partitioned:
		d.Mode = AdoptRegister
	case d.Mode == "" && len(reasons) == 0:
		d.Mode = AdoptCopy
	case d.Mode == "":
		return fault.New(fault.Usage, ways, "adopt %s: it is a plain table, and not one that can be copied into the shape of public.audit_log: %s", d.Table, reasons[0])
	case d.Mode == AdoptRegister && !partitioned:
		return fault.New(fault.Usage, ways, "adopt %s: only a partitioned table can be registered as it is", d.Table)
	case d.Mode == AdoptCopy && len(reasons) > 0 && !partitioned:
		return fault.New(fault.Refused, ways, "adopt %s: it cannot be copied into the shape of public.audit_log: %s", d.Table, sqlList(reasons))
	case d.Mode == AdoptCopy && partitioned && !own:
		return fault.New(fault.Usage, "--register takes it as it is", "adopt %s: it is partitioned already", d.Table)
	}
	there, err := hasOwnTable(ctx, w.o.DB.Pool(), "managed_table")
	if err == nil && !there && (d.Mode != AdoptCopy || d.options.Settled) {
		err = fault.New(fault.Config, "auditdb migrate up", "adopt %s: auditdb's schema is missing", d.Table)
	}
	if err == nil && d.Row.Integrity && d.Mode != AdoptCopy {
		err = sealable(d.Table, have)
	}
	return err
}

// ownShape says that the columns are those of public.audit_log.
func ownShape(have map[string]string) bool {
	for _, c := range auditColumns() {
		if typ := have[c[0]]; typ != c[1] && (c[1] != "timestamptz" || typ != "timestamp with time zone") {
			return false
		}
	}
	return true
}

func columnTypes(ctx context.Context, q Querier, t Table) (map[string]string, error) {
	rows, err := q.Query(ctx, columnsSQL, t.OID)
	if err != nil {
		return nil, fmt.Errorf("read the columns of %s: %w", t, err)
	}
	have := map[string]string{}
	var name, typ string
	_, err = pgx.ForEachRow(rows, []any{&name, &typ}, func() error { have[name] = typ; return nil })
	return have, wrap(err, "read the columns of %s", t)
}

// sealable refuses integrity where rows could not be sealed.
func sealable(t Table, have map[string]string) error {
	if _, ok := castTo("id", "bigint", have["id"], ""); ok {
		return nil
	}
	return fault.New(fault.Config, "--integrity off", "adopt %s: without a column id that is a whole number its rows cannot be sealed", t)
}

// sealableKey is sealable for the partition key.
func sealableKey(t Table, integrity bool) error {
	if !integrity || slices.Contains([]KeyKind{KeyTimestamptz, KeyTimestamp, KeyDate}, t.Key.Kind) {
		return nil
	}
	return fault.New(fault.Config, "--integrity off", "adopt %s: partitions by a key of kind %s cannot be sealed", t, t.Key.Kind)
}

func (w *Worker) draftInPlace(ctx context.Context, d *AdoptDraft) (err error) {
	o := d.options.Convert
	o.Register = &d.Row
	if d.Convert, err = w.DraftConvert(ctx, d.Table, o); err != nil {
		return err
	}
	d.Table, d.Plan.Steps, d.Plan.Skipped = d.Convert.Table, slices.Clone(d.Convert.Plan.Steps), d.Convert.Plan.Skipped
	if o.Abort {
		return nil
	}
	if err := sealableKey(d.Table, d.Row.Integrity); err != nil {
		return err
	}
	if err := w.checkNew(ctx, d); err != nil {
		return err
	}
	if d.Convert.Converted {
		return w.planRegister(ctx, d)
	}
	d.Plan.Steps = append(d.Plan.Steps, plan.Step{Name: d.Table.String(), SQL: registration(d.Table, *o.Register), Reason: "managed from now on; in the transaction of the swap", Op: opAdoptRegister})
	if d.Row.Integrity {
		d.Plan.Steps = append(d.Plan.Steps, plan.Step{Name: d.Table.String(), SQL: guardInPlaceSQL(d.Table), Reason: "keeps rows from being changed by accident; in the same transaction", Op: opAdoptRegister})
	}
	return nil
}

// checkNew asks the ledger whether it would take a table with integrity on that is not registered yet.
func (w *Worker) checkNew(ctx context.Context, d *AdoptDraft) error {
	t := d.Table
	if t.ManagedID == nil {
		t.ManagedID, t.Integrity = new(int16), d.Row.Integrity
	}
	return w.Check(ctx, t)
}

// draftRegister plans to register a partitioned table as it is.
func (w *Worker) draftRegister(ctx context.Context, d *AdoptDraft) error {
	t, err := Resolve(ctx, w.o.DB, d.Table.Ident())
	o := d.options.Convert
	if err != nil {
		if o.Key.Kind == "" { // the unit of a number may be what is missing
			return err
		}
		t = d.Table
		var typ string
		if scan := w.o.DB.Pool().QueryRow(ctx, partKeySQL, t.OID).Scan(&t.Key.Column, &typ); scan != nil || typ != o.Key.Kind.SQLType() {
			return err
		}
		t.Interval, t.Ahead = Monthly, 3
	}
	if o.Key.Kind != "" {
		t.Key.Kind = o.Key.Kind
	}
	if t.registered {
		d.Row.BlockIDs = t.BlockIDs
		if d.options.Integrity == nil {
			d.Row.Integrity = t.Integrity
		}
	}
	switch {
	case o.Key.Column != "" && o.Key.Column != t.Key.Column:
		return fault.New(fault.Usage, "", "adopt %s: it is partitioned by column %s", t, t.Key.Column)
	case o.Location != nil:
		t.Location = o.Location
	}
	if o.Interval != "" {
		t.Interval = o.Interval
	}
	if o.Ahead >= 0 {
		t.Ahead = o.Ahead
	}
	d.Table = t
	if err := sealableKey(t, d.Row.Integrity); err != nil {
		return err
	}
	if err := w.checkNew(ctx, d); err != nil {
		return err
	}
	return w.planRegister(ctx, d)
}

// planRegister adds what is missing of a partitioned table's registration.
func (w *Worker) planRegister(ctx context.Context, d *AdoptDraft) error {
	if !d.options.Settled {
		d.Plan.Steps = append(d.Plan.Steps, plan.Step{Name: "auditdb", SQL: "auditdb migrate up", Reason: "auditdb's schema around the new table", Op: opAdoptSettle})
		return nil
	}
	r := d.Row
	same, err := registeredAs(ctx, w.o.DB.Pool(), d.Table, r)
	if err != nil {
		return err
	}
	if !same {
		d.Plan.Steps = append(d.Plan.Steps, plan.Step{Name: d.Table.String(), SQL: registration(d.Table, r), Reason: "managed from now on", Op: opAdoptRegister})
	}
	missing, err := texts(ctx, w.o.DB.Pool(), settleSQL, d.Table.OID, r.Integrity)
	if err != nil {
		return fmt.Errorf("look at the partitions of %s: %w", d.Table, err)
	}
	for _, sql := range missing {
		d.Plan.Steps = append(d.Plan.Steps, plan.Step{Name: d.Table.String(), SQL: sql, Reason: "as partition create does", Op: opAdoptSettle, Group: "settle"})
	}
	return nil
}

// draftCopy plans to copy a predecessor's table.
func (w *Worker) draftCopy(ctx context.Context, d *AdoptDraft) error {
	q, o, t := w.o.DB.Pool(), d.options, &d.Table
	source := CopySource{OID: t.OID, Schema: t.Schema, Name: t.Name, Owner: t.Owner}
	begun, err := FindCopy(ctx, q, source)
	if err != nil {
		return err
	}
	if o.Convert.Abort {
		if begun != nil {
			d.Plan.Steps = append(d.Plan.Steps, plan.Step{Name: t.String(), SQL: "DROP TABLE " + begun.Target.Ident(), Reason: "left by an interrupted run, with what keeps it up to date", Op: opAdoptAbort})
		}
		return nil
	}
	t.Key, t.registered = Key{Column: auditKey, Kind: KeyTimestamptz}, true
	t.Interval, t.Location, t.Ahead = o.Convert.Interval, o.Convert.Location, o.Convert.Ahead
	if t.Location == nil {
		t.Location = time.UTC
	}
	if t.Interval == "" {
		t.Interval = Monthly
	}
	if begun != nil {
		var m adoptMeta
		if err := json.Unmarshal(begun.Meta, &m); err != nil {
			return fmt.Errorf("read what an interrupted run has left on %s: %w", *t, err)
		}
		t.Interval, t.Ahead = m.Interval, m.Ahead
		if err := t.SetZone(m.Zone); err != nil {
			return err
		}
	}
	c := &copyDraft{source: source, target: CopyTarget{Schema: t.Schema, Name: adoptPrefix + hash8(t.Schema, t.Name), Owner: o.Owner}}
	if c.target.Owner == "" {
		c.target.Owner = t.Owner
	}
	d.copying, d.Old = c, joinName(t.Schema, t.Name, "old")
	if c.shape, err = readShape(ctx, q, *t); err != nil {
		return err
	}
	if reasons := c.refuse(); len(reasons) > 0 && begun == nil {
		return fault.New(fault.Refused, "nothing was changed", "adopt %s: %s", *t, sqlList(reasons))
	}
	have, err := columnTypes(ctx, q, *t)
	if err != nil {
		return err
	}
	c.columns, _ = adoptColumns(have, t.Location.String())
	if err := q.QueryRow(ctx, aboutRowsSQL, t.OID).Scan(&d.Rows); err != nil {
		return fmt.Errorf("look at %s: %w", *t, err)
	}
	if err := w.draftTarget(ctx, d, have, begun != nil); err != nil {
		return err
	}
	c.swap = c.swapSQL(*t, d.Old)
	d.planCopy()
	if err := w.checkNew(ctx, d); err != nil {
		return err
	}
	d.Plan.Steps = append(d.Plan.Steps, plan.Step{Name: t.String(), SQL: registration(*t, d.Row), Reason: "managed from now on", Op: opAdoptRegister})
	return nil
}

// draftTarget plans the new table and its partitions.
func (w *Worker) draftTarget(ctx context.Context, d *AdoptDraft, have map[string]string, begun bool) (err error) {
	q, t, c := w.o.DB.Pool(), d.Table, d.copying
	if c.make, err = d.options.DDL(c.target.Schema, c.target.Name); err != nil {
		return err
	}
	if begun {
		return nil
	}
	source := t
	source.Key.Kind = KeyTimestamptz
	zone := ""
	if have[auditKey] == "timestamp without time zone" {
		source.Key.Kind, zone = KeyTimestamp, t.Location.String()
	}
	r, err := readAdoptRows(ctx, q, source, zone)
	if err != nil {
		return err
	}
	now := w.o.Now().UTC()
	low, high := now, now
	if !r.empty {
		low, high = time.UnixMicro(r.low).UTC(), time.UnixMicro(r.high).UTC()
	}
	b := Bounds{From: t.Interval.Floor(low, t.keyZone()), To: t.Interval.Shift(now, t.Ahead+1, t.keyZone())}
	if low.After(now) {
		b.From = t.Interval.Floor(now, t.keyZone())
	}
	if !high.Before(b.To) {
		return fault.New(fault.Refused, "correct those rows first, or make more partitions --ahead", "adopt %s: it has rows after %s, the end of the last partition", t, b.To.Format(textLayout))
	}
	ranges, err := Missing(NewCatalog(nil), Spec{Interval: t.Interval, Zone: t.keyZone(), From: b.From, To: b.To}, now)
	if err != nil {
		return fmt.Errorf("adopt %s: %w", t, err)
	}
	wanted := []string{c.target.Name, d.Old}
	for _, i := range c.shape.indexes {
		wanted = append(wanted, joinName(t.Schema, i.name, "old"))
	}
	for _, b := range ranges {
		wanted = append(wanted, t.PartitionName(b))
		c.make = append(c.make, fmt.Sprintf("CREATE TABLE %s PARTITION OF %s %s", pgx.Identifier{t.Schema, t.PartitionName(b)}.Sanitize(), c.target.Ident(), t.Key.ForValues(b)))
	}
	taken, err := texts(ctx, q, inSchemaSQL, t.Schema, wanted)
	if err == nil && len(taken) > 0 {
		err = fault.New(fault.Data, "rename the other object", "adopt %s: the name %s belongs to another object", t, displayName(t.Schema, slices.Min(taken)))
	}
	return err
}

// readAdoptRows looks through all rows of a predecessor's table: what the new one would not take is refused.
func readAdoptRows(ctx context.Context, q Querier, t Table, zone string) (keyRange, error) {
	ident := pgx.Identifier{t.Key.Column}.Sanitize()
	if zone != "" {
		ident += " AT TIME ZONE " + quoteText(zone)
	}
	finite := fmt.Sprintf("CASE WHEN isfinite(%s) THEN (extract(epoch FROM %[1]s) * 1000000)::bigint END", ident)
	sql := fmt.Sprintf(`
SELECT count(*) FILTER (WHERE "timestamp" IS NULL OR action IS NULL OR status IS NULL OR id IS NULL), count(*) FILTER (WHERE NOT isfinite("timestamp")),
  count(*) FILTER (WHERE id < 1), count(*) FILTER (WHERE octet_length(action) > 512 OR octet_length(status) > 64),
  coalesce(min(%[1]s), 0), coalesce(max(%[1]s), 0), count(%[1]s) = 0 FROM ONLY %[2]s`, finite, t.Ident())
	var nulls, infinite, low, long int64
	var r keyRange
	if err := q.QueryRow(ctx, sql).Scan(&nulls, &infinite, &low, &long, &r.low, &r.high, &r.empty); err != nil {
		return r, fmt.Errorf("look at the rows of %s: %w", t, err)
	}
	return r, refuseRows(t, map[string]int64{"lack id, timestamp, action or status": nulls, "have an infinite timestamp": infinite, "have an id below 1": low, "have an action of more than 512 or a status of more than 64 bytes": long})
}

const sameRegistrationSQL = `SELECT EXISTS (SELECT FROM auditdb.managed_table WHERE schema_name = $1 AND table_name = $2 AND time_column = $3 AND key_kind = $4 AND partition_interval = $5 AND time_zone = $6
  AND ahead = $7 AND integrity = $8 AND block_ids = $9)`

func registeredAs(ctx context.Context, q Querier, t Table, r Registration) (same bool, err error) {
	err = q.QueryRow(ctx, sameRegistrationSQL, registrationArgs(t, r)...).Scan(&same)
	return same, wrap(err, "read auditdb.managed_table")
}

func registrationArgs(t Table, r Registration) []any {
	return []any{t.Schema, t.Name, t.Key.Column, string(t.Key.Kind), string(t.Interval), t.Location.String(), t.Ahead, map[bool]string{true: "on", false: "off"}[r.Integrity], r.BlockIDs}
}

// registration is registerSQL as the plan shows it.
func registration(t Table, r Registration) string {
	return fmt.Sprintf("INSERT INTO auditdb.managed_table (schema_name, table_name, time_column, key_kind, partition_interval, time_zone, ahead, integrity, block_ids) VALUES (%s, %s, %s, '%s', '%s', %s, %d, '%s', %t)",
		quoteText(t.Schema), quoteText(t.Name), quoteText(t.Key.Column), t.Key.Kind, t.Interval, quoteText(t.Location.String()), t.Ahead, map[bool]string{true: "on", false: "off"}[r.Integrity], r.BlockIDs)
}
