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

// Converted is what a convert has done.
type Converted struct {
	Table   Table      // the partitioned table; nothing where the run aborted or did not come to the swap
	History *Partition // nil: there is none
	Created []Created
	Locked  time.Duration // how long nobody could use the table
}

// ApplyConvert carries a draft out, under the table's lock. It returns what was done also when an error comes back.
func (w *Worker) ApplyConvert(ctx context.Context, d *ConvertDraft, onDone func(plan.Result)) (Converted, error) {
	x := &converting{w: w, d: d}
	if d.Converted {
		x.done.Table, x.done.History = d.Table, nil
		if d.History.Name != "" {
			x.done.History = &d.History
		}
		var err error
		x.done.Created, err = w.ApplyCreate(ctx, d.create, onDone)
		return x.done, err
	}
	steps := d.Plan
	steps.Steps = slices.DeleteFunc(slices.Clone(steps.Steps), func(s plan.Step) bool { return s.Op == opPartitions })
	if _, err := plan.Apply(ctx, x, steps, onDone); err != nil || d.options.Abort {
		return x.done, err
	}
	err := w.Locked(ctx, x.done.Table, func(ctx context.Context) error {
		create, err := w.DraftCreate(ctx, x.done.Table, CreateOptions{Ahead: d.options.Ahead})
		if err == nil {
			x.done.Created, err = w.ApplyCreate(ctx, create, onDone)
		}
		return err
	})
	return x.done, wrap(err, "%s is partitioned now, but some partitions are missing", d.Table)
}

// converting executes a draft's steps.
type converting struct {
	w    *Worker
	d    *ConvertDraft
	done Converted
}

// Execute does one step.
func (x *converting) Execute(ctx context.Context, group []plan.Step) error {
	step := group[0]
	what := "convert " + x.d.Table.String()
	var err error
	switch step.Op {
	case opDropIndex, opIndex:
		err = x.outside(ctx, what, step.SQL)
	case opCheck:
		err = x.ddl(ctx, what, func(tx pgx.Tx) error { return run(ctx, tx, step.SQL) })
	case opValidate:
		err = x.ddl(ctx, what, func(tx pgx.Tx) error { return run(ctx, tx, step.SQL) })
		if postgres.SQLState(err) == postgres.CheckViolation {
			err = fault.New(fault.Refused, "auditdb partition convert --abort takes the check away again", "%s: rows do not fit into the history partition any more", what)
		}
	case opSwap:
		err = x.swap(ctx, what, step.SQL)
	default:
		err = fault.New(fault.Internal, "", "step %s is not one of partition convert", step.Name)
	}
	if err != nil {
		return x.w.explain(x.d.Table, what, err)
	}
	return nil
}

func run(ctx context.Context, tx pgx.Tx, sql string) error {
	_, err := tx.Conn().PgConn().Exec(ctx, sql).ReadAll()
	return err
}

func (x *converting) ddl(ctx context.Context, what string, fn func(pgx.Tx) error) error {
	return x.w.o.DB.DDL(ctx, postgres.DDLOptions{LockTimeout: x.w.o.LockTimeout, Wait: x.w.o.Wait, Role: x.d.Table.Owner, What: what}, fn)
}

// outside runs a statement that cannot be in a transaction. It waits for transactions that began before it, no longer than Options.Wait; one
// that gives up leaves an invalid index, which the next run drops.
func (x *converting) outside(ctx context.Context, what, sql string) error {
	conn, err := x.w.o.DB.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = conn.Close(end) // the server ends the session either way
	}()
	wait := max(x.w.o.Wait, x.w.o.LockTimeout, time.Millisecond)
	_, err = conn.Exec(ctx, fmt.Sprintf("SET lock_timeout = %d; SET ROLE %s", wait.Milliseconds(), pgx.Identifier{x.d.Table.Owner}.Sanitize()), pgx.QueryExecModeSimpleProtocol)
	if err == nil {
		_, err = conn.Exec(ctx, sql)
	}
	if !postgres.IsLockNotAvailable(err) {
		return err
	}
	by := "a session that has ended or could not be seen"
	if old, unseen := x.inTheWay(ctx); unseen == nil && len(old) > 0 {
		by = strings.Join(old[:min(len(old), 3)], "; ")
	}
	return fault.New(fault.Locked, "end or wait for that transaction, or allow more time with --wait", "%s: blocked by %s", what, by)
}

// inTheWay describes the transactions that use the table or have an old snapshot.
func (x *converting) inTheWay(ctx context.Context) ([]string, error) {
	all, err := x.w.o.DB.Blockers(ctx, []uint32{x.d.Table.OID})
	if err != nil {
		return nil, err
	}
	more, err := oldSnapshots(ctx, x.w.o.DB.Pool())
	var out []string
	seen := map[int]bool{}
	for _, b := range append(all, more...) {
		if !seen[b.PID] && b.Age >= oldEnough {
			out = append(out, b.String())
		}
		seen[b.PID] = true
	}
	return out, err
}

// swap is the transaction that makes the table a partition of a new one. What it was planned from is read again under a lock that keeps
// everybody else from changing the table.
func (x *converting) swap(ctx context.Context, what, sql string) error {
	t := x.d.Table
	before, after, ok := strings.Cut(sql, exclusiveSQL(t)+";\n")
	if !ok {
		return fault.New(fault.Internal, "", "%s: the plan takes no lock", what)
	}
	var made Table
	var locked time.Time
	err := x.w.o.DB.DDL(ctx, postgres.DDLOptions{LockTimeout: x.w.o.LockTimeout, Wait: x.w.o.Wait, What: what}, func(tx pgx.Tx) error {
		if err := run(ctx, tx, become(t.Owner)+"; LOCK TABLE ONLY "+t.Ident()+" IN SHARE UPDATE EXCLUSIVE MODE; RESET ROLE"); err != nil {
			return err
		}
		dependencies, err := x.same(ctx, tx, what, sql)
		if err != nil {
			return err
		}
		if err := run(ctx, tx, before+exclusiveSQL(t)); err != nil {
			return err
		}
		locked = x.w.o.Now()
		if err := x.nothingNew(ctx, tx, what, dependencies); err != nil {
			return err
		}
		if err := run(ctx, tx, after+";\nRESET ROLE"); err != nil {
			return err
		}
		made, err = x.settle(ctx, tx)
		return err
	})
	if err != nil {
		return err
	}
	x.done.Locked = x.w.o.Now().Sub(locked)
	x.done.Table, x.done.History = made, &x.d.History
	return nil
}

// same makes sure that the swap would still be planned as it was, and counts what depends on the table.
func (x *converting) same(ctx context.Context, tx pgx.Tx, what, sql string) (dependencies int64, err error) {
	s, err := readShape(ctx, tx, x.d.Table)
	if err != nil {
		return 0, err
	}
	reasons := s.refuse(convertCheck, x.d.options.DropUnique)
	state, err := readConvertState(ctx, tx, s)
	if err != nil {
		return 0, err
	}
	ready := state.check != nil && state.check.Equal(x.d.History.Bounds) && state.validated && (s.primary() == nil || s.primary().hasKey || state.indexValid)
	if len(reasons) > 0 || !ready || swapSQL(s, x.d, state, namesFor(s)) != sql {
		return 0, fault.New(fault.Refused, "run it again", "%s: the table has been changed since the plan was made", what)
	}
	return s.dependencies, nil
}

// nothingNew makes sure, when nobody can add anything any more, that all that depends on the table is known.
func (x *converting) nothingNew(ctx context.Context, tx pgx.Tx, what string, dependencies int64) error {
	var now int64
	if err := tx.QueryRow(ctx, dependenciesSQL, x.d.Table.OID).Scan(&now); err != nil {
		return err
	}
	if now != dependencies {
		return fault.New(fault.Refused, "run it again", "%s: something new has come to depend on the table", what)
	}
	return nil
}

// settle looks at what the swap has made, registers it where that is wanted, and tells the ledger.
func (x *converting) settle(ctx context.Context, tx pgx.Tx) (Table, error) {
	d := x.d
	if d.options.Register != nil {
		if err := register(ctx, tx, d.Table, *d.options.Register); err != nil {
			return Table{}, err
		}
	}
	var oid uint32
	if err := tx.QueryRow(ctx, namedSQL, d.Table.Schema, d.Table.Name).Scan(&oid); err != nil {
		return Table{}, err
	}
	t, err := readTable(ctx, tx, oid)
	if err != nil {
		return Table{}, err
	}
	if !t.registered {
		t.Interval, t.Location, t.Ahead, t.Key.Kind = d.Table.Interval, d.Table.Location, d.Table.Ahead, d.Table.Key.Kind
	}
	c, err := Load(ctx, tx, t)
	if err != nil {
		return Table{}, err
	}
	if c.Len() != 1 || c.All()[0].OID != d.Table.OID || !c.All()[0].Equal(d.History.Bounds) {
		return Table{}, fault.New(fault.Internal, "", "%s is not what was made", t)
	}
	return t, x.w.record(ctx, tx, t, []Event{{Kind: EventAttached, Name: d.History.Name, Bounds: d.History.Bounds}}, 0)
}

// register writes the table's row of auditdb.managed_table.
func register(ctx context.Context, tx pgx.Tx, t Table, r Registration) error {
	_, err := tx.Exec(ctx, registerSQL, registrationArgs(t, r)...)
	return wrap(err, "register %s", t)
}
