package partitions

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/plan"
)

const (
	convertStateSQL = `
SELECT EXISTS (SELECT FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = $1 AND i.relname = $2),
  EXISTS (SELECT FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = $1 AND i.relname = $2 AND x.indisvalid AND x.indisready AND x.indisunique
    AND ARRAY(SELECT quote_ident(a.attname) FROM generate_series(0, x.indnkeyatts - 1) g JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[g] ORDER BY g) = $3),
  coalesce(obj_description(k.oid, 'pg_constraint'), ''), k.oid IS NOT NULL, coalesce(k.convalidated, false), coalesce(k.conkey, '{}') = ARRAY[$4::int2]
FROM (SELECT) one LEFT JOIN pg_constraint k ON k.conrelid = $1 AND k.contype = 'c' AND k.conname = 'auditdb_convert_range'`
	leftIndexesSQL = `
SELECT n.nspname::text, i.relname::text FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_namespace n ON n.oid = i.relnamespace
WHERE x.indrelid = $1 AND starts_with(i.relname, 'auditdb_convert_') AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.oid)`
	leftCheckSQL = `SELECT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = $1 AND k.contype = 'c' AND k.conname = 'auditdb_convert_range')`
	registerSQL  = `
INSERT INTO auditdb.managed_table (schema_name, table_name, time_column, key_kind, partition_interval, time_zone, ahead, integrity, block_ids) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (schema_name, table_name) DO UPDATE SET time_column = excluded.time_column, key_kind = excluded.key_kind, partition_interval = excluded.partition_interval,
  time_zone = excluded.time_zone, ahead = excluded.ahead, integrity = excluded.integrity, block_ids = excluded.block_ids`
	dependenciesSQL = `SELECT count(*) FROM pg_depend d WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1`
	namedSQL        = `SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2`
	columnTypeSQL   = `SELECT format_type(a.atttypid, NULL) FROM pg_attribute a WHERE a.attrelid = $1 AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped`
)

// ResolveAny finds a table called name, partitioned or not, for the commands that make the one of the other. Only OID, Schema, Name and
// Owner are filled in; partitioned says which it is. An error has class usage.
func ResolveAny(ctx context.Context, db *postgres.DB, name string) (t Table, partitioned bool, err error) {
	p, err := resolveAny(ctx, db, name)
	if err != nil {
		return Table{}, false, err
	}
	if p.IsPartition || p.Kind != "r" && p.Kind != "p" {
		return Table{}, false, fault.New(fault.Usage, "name a table", "table %s: it is %s", name, describeKind(p.Kind, p.IsPartition))
	}
	return Table{OID: p.OID, Schema: p.Schema, Name: p.Name, Owner: p.Owner, Location: time.UTC}, p.Kind == "p", nil
}

// DraftConvert reads the table and plans how to partition it, from wherever an interrupted run has left it. It changes nothing.
func (w *Worker) DraftConvert(ctx context.Context, t Table, o ConvertOptions) (*ConvertDraft, error) {
	now, converted, err := ResolveAny(ctx, w.o.DB, t.Ident())
	if err == nil && converted {
		now, err = Resolve(ctx, w.o.DB, t.Ident())
	}
	if err != nil {
		return nil, err
	}
	if o.TakeAhead <= 0 {
		o.TakeAhead = DefaultConvertAhead
	}
	d := &ConvertDraft{Table: now, options: o, Converted: converted, Plan: plan.Plan{Action: "partition.convert " + now.String(), AsOf: w.o.Now()}}
	switch {
	case o.Abort && converted:
		return nil, fault.New(fault.Refused, "auditdb partition undo takes a partitioned table apart", "abort the conversion of %s: it is partitioned already", now)
	case o.Abort:
		return d, w.draftAbort(ctx, d)
	case converted && now.Key.Column != o.Key.Column:
		return nil, fault.New(fault.Usage, "", "convert %s: it is partitioned already, by column %s", now, now.Key.Column)
	case converted:
		return d, w.draftRest(ctx, d)
	}
	if err := d.settle(ctx, w.o.DB.Pool()); err != nil {
		return nil, err
	}
	return d, w.draftSwap(ctx, d)
}

// settle fills in what the table is going to be.
func (d *ConvertDraft) settle(ctx context.Context, q Querier) error {
	o, t := d.options, &d.Table
	if t.Interval = o.Interval; t.Interval == "" {
		t.Interval = Monthly
	}
	if t.Location = o.Location; t.Location == nil {
		t.Location = time.UTC
	}
	t.Ahead, t.Key, t.registered = o.Ahead, o.Key, true
	var typ string
	err := q.QueryRow(ctx, columnTypeSQL, t.OID, t.Key.Column).Scan(&typ)
	if errors.Is(err, pgx.ErrNoRows) {
		return fault.New(fault.Usage, "name it with --key COLUMN", "table %s: it has no column %s", *t, t.Key.Column)
	}
	if err != nil {
		return fmt.Errorf("read the columns of %s: %w", *t, err)
	}
	if t.Key.Kind, err = convertKind(t.Key, typ); err != nil {
		return fmt.Errorf("table %s: %w", *t, err)
	}
	if t.Key.Kind == KeyDate && t.Interval == Hourly {
		return fault.New(fault.Usage, "take --interval daily or longer", "table %s: dates have no hours", *t)
	}
	return nil
}

// convertKind says what kind of key a column of a type is; that of a number has to be said.
func convertKind(k Key, typ string) (KeyKind, error) {
	var kind KeyKind
	switch typ {
	case "timestamp with time zone":
		kind = KeyTimestamptz
	case "timestamp without time zone":
		kind = KeyTimestamp
	case "date":
		kind = KeyDate
	case "uuid":
		kind = KeyUUIDv7
	case "bigint":
		if k.Kind == "" {
			return "", fault.New(fault.Usage, "--key-kind epoch_s, epoch_ms, epoch_us or epoch_ns", "column %s is a number: of what unit has to be said", k.Column)
		}
		kind = k.Kind
	}
	if kind == "" || (k.Kind != "" && (k.Kind != kind || k.Kind.SQLType() != kind.SQLType())) || (typ == "bigint" && kind.unit() == 0) {
		return "", fault.New(fault.Usage, "the key is a column of type timestamptz, timestamp, date, uuid (version 7) or bigint (an epoch)", "unsupported key: column %s has type %s", k.Column, typ)
	}
	return kind, nil
}

// draftSwap plans everything that is left to do with a plain table.
func (w *Worker) draftSwap(ctx context.Context, d *ConvertDraft) error {
	q := w.o.DB.Pool()
	s, err := readShape(ctx, q, d.Table)
	if err != nil {
		return err
	}
	names := namesFor(s)
	if err := w.refuseConvert(ctx, s, names, d.options); err != nil {
		return err
	}
	state, err := readConvertState(ctx, q, s)
	if err != nil {
		return err
	}
	r, err := readKeyRange(ctx, q, d.Table, s.key.notNull || state.validated)
	if err != nil {
		return err
	}
	if err := r.refuse(d.Table); err != nil {
		return err
	}
	now := d.Table.KeyTime(w.o.Now())
	b, err := d.options.history(d.Table, r, state.check, now)
	if err != nil {
		return err
	}
	d.History = Partition{OID: d.Table.OID, Schema: d.Table.Schema, Name: names.history, Bounds: b, State: Attached, Kind: 'r', Owner: d.Table.Owner}
	if err := d.planPartitions(ctx, q, now); err != nil {
		return err
	}
	d.planConvert(s, state, names)
	return nil
}

// refuseConvert says what stands against converting, before anything is changed.
func (w *Worker) refuseConvert(ctx context.Context, s shape, names convertNames, o ConvertOptions) error {
	if err := s.permission(); err != nil {
		return err
	}
	if reasons := s.refuse(convertCheck, o.DropUnique); len(reasons) > 0 {
		return fault.New(fault.Refused, "nothing was changed", "convert %s: %s", s.t, strings.Join(reasons, "; "))
	}
	taken, err := texts(ctx, w.o.DB.Pool(), inSchemaSQL, s.t.Schema, names.wanted())
	if err != nil {
		return fmt.Errorf("look for names in schema %s: %w", s.t.Schema, err)
	}
	if len(taken) > 0 {
		slices.Sort(taken)
		return fault.New(fault.Data, "rename the other object", "convert %s: the name %s belongs to another object", s.t, displayName(s.t.Schema, taken[0]))
	}
	return nil
}

// refuse says what rows stand against partitioning.
func (r keyRange) refuse(t Table) error {
	what := ""
	switch {
	case r.nulls:
		what = "has no value in some rows"
	case r.infinite:
		what = "is infinite in some rows"
	case r.alien:
		what = "holds uuids that are not of version 7 and tell no time"
	}
	if what == "" {
		return nil
	}
	return fault.New(fault.Refused, "correct those rows first", "convert %s: column %s %s", t, t.Key.Column, what)
}

func readConvertState(ctx context.Context, q Querier, s shape) (state convertState, err error) {
	state.index = convertPrefix + hash8(s.t.Schema, s.t.Name) + "_key"
	var mark string
	var columns []string
	var sameKey bool
	if pk := s.primary(); pk != nil {
		columns = s.primaryColumns()
	}
	if err = q.QueryRow(ctx, convertStateSQL, s.t.OID, state.index, columns, s.key.number).Scan(&state.indexThere, &state.indexValid, &mark, &state.checkThere, &state.validated, &sameKey); err != nil {
		return state, fmt.Errorf("look for what an interrupted run has left on %s: %w", s.t, err)
	}
	if bounds, ok := strings.CutPrefix(mark, convertMark); ok && sameKey {
		if b, isDefault, err := ParseBounds(bounds, s.t.Key.Kind); err == nil && !isDefault {
			state.check = &b
		}
	}
	return state, nil
}

// planPartitions says which partitions come after the history.
func (d *ConvertDraft) planPartitions(ctx context.Context, q Querier, now time.Time) error {
	t := d.Table
	missing, err := Missing(NewCatalog([]Partition{d.History}), Spec{Interval: t.Interval, Zone: t.keyZone(), Ahead: t.Ahead}, now)
	if err != nil {
		return fmt.Errorf("table %s: %w", t, err)
	}
	taken, err := readNames(ctx, q, t, candidates(t, missing))
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, b := range missing {
		name, _, err := situation{taken: taken}.pickName(t, b, used)
		if err != nil {
			return err
		}
		used[name] = true
		d.creates = append(d.creates, Partition{Schema: t.Schema, Name: name, Bounds: b, State: Attached, Kind: 'r', Owner: t.Owner})
	}
	return nil
}

// draftRest plans what an interrupted run has left to do after the swap: partitions that are missing.
func (w *Worker) draftRest(ctx context.Context, d *ConvertDraft) (err error) {
	if d.options.Location != nil {
		d.Table.Location = d.options.Location
	}
	if d.options.Interval != "" {
		d.Table.Interval = d.options.Interval
	}
	if d.create, err = w.DraftCreate(ctx, d.Table, CreateOptions{Ahead: d.options.Ahead}); err != nil {
		return err
	}
	d.creates, d.Plan.Steps, d.Plan.Skipped = d.create.Creates(), d.create.Plan.Steps, d.create.Plan.Skipped
	for _, p := range d.create.Catalog.All() {
		if p.Name == joinName(d.Table.Schema, d.Table.Name, "history") {
			d.History = p
		}
	}
	return nil
}

// draftAbort plans how to take back what comes before the swap.
func (w *Worker) draftAbort(ctx context.Context, d *ConvertDraft) error {
	q := w.o.DB.Pool()
	var check bool
	if err := q.QueryRow(ctx, leftCheckSQL, d.Table.OID).Scan(&check); err != nil {
		return fmt.Errorf("look for what an interrupted run has left on %s: %w", d.Table, err)
	}
	if check {
		d.Plan.Steps = append(d.Plan.Steps, plan.Step{Name: d.Table.String(), SQL: fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT IF EXISTS %s", d.Table.Ident(), convertCheck), Reason: "left by an interrupted run", Op: opCheck})
	}
	type index struct{ schema, name string }
	indexes, err := collect(ctx, q, func(r pgx.CollectableRow, i *index) error { return r.Scan(&i.schema, &i.name) }, leftIndexesSQL, d.Table.OID)
	for _, i := range indexes {
		d.Plan.Steps = append(d.Plan.Steps, plan.Step{Name: d.Table.String(), SQL: "DROP INDEX CONCURRENTLY IF EXISTS " + pgx.Identifier{i.schema, i.name}.Sanitize(), Reason: "left by an interrupted run", NoTx: true, Op: opDropIndex})
	}
	return wrap(err, "look for what an interrupted run has left on %s", d.Table)
}
