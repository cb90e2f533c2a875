package partitions

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
)

const (
	// maxFan is the most partitions that one copy makes: all are put into their place in one transaction, in which each takes several locks.
	maxFan = 500

	restCheck = "auditdb_attach_rest" // lets ATTACH … DEFAULT skip its scan; dropped afterwards
	// apartCheck keeps ranges out of the default partition that it has no rows of, so that ATTACH need not look for any.
	apartCheck = "auditdb_attach_apart"
)

// fan is a copy of one partition into several: its ranges get partitions of their own and, where it is the default partition, the rest goes
// to a new default partition.
type fan struct {
	purpose  string
	table    Table
	source   Partition
	parts    []Partition // that take its place
	facts    facts       // of the new partitions
	own      facts       // of the source, for the new default partition
	foreign  []string    // the table's own foreign keys: CONSTRAINT … FOREIGN KEY …
	others   *Partition  // the default partition, when another is cut
	covered  []Bounds    // ranges that have partitions, the new ones among them, when source is the default partition
	security []string    // row security that the source has itself

	leftovers []Partition // empty tables of interrupted runs that have names of parts
	stale     *CopyState  // an interrupted copy that is taken back first
	until     time.Time
	onRows    func(rows, ofAbout int64)
}

// fanMeta is what a resumed copy has to know again.
type fanMeta struct {
	Parts []fanPart `json:"parts"`
}

type fanPart struct {
	Name string `json:"name"`
	From int64  `json:"from"` // µs
	To   int64  `json:"to"`
}

func (f *fan) meta() (json.RawMessage, error) {
	var m fanMeta
	for _, p := range f.parts {
		m.Parts = append(m.Parts, fanPart{p.Name, p.lower(), p.upper()})
	}
	return json.Marshal(m)
}

// parts reads the partitions that an interrupted copy was to make; ok is false when they do not fit c any more.
func (s CopyState) parts(t Table, c *Catalog) (parts []Partition, ok bool) {
	var m fanMeta
	if json.Unmarshal(s.Meta, &m) != nil || len(m.Parts) == 0 {
		return nil, false
	}
	for _, p := range m.Parts {
		part := Partition{Schema: t.Schema, Name: p.Name, Bounds: fromMicros(p.From, p.To), State: Attached, Kind: 'r', Owner: t.Owner}
		parts = append(parts, part)
		for _, other := range c.Overlaps(part.Bounds) {
			if other.OID != s.Source.OID {
				return nil, false
			}
		}
	}
	return parts, true
}

func (f *fan) copySource() CopySource {
	return CopySource{OID: f.source.OID, Schema: f.source.Schema, Name: f.source.Name, Owner: f.source.Owner}
}

// shadow is the partitioned table that sends rows to the new partitions as long as these are not attached.
func (f *fan) shadow() CopyTarget {
	return CopyTarget{Schema: f.table.Schema, Name: namesOfCopy("", f.source.OID).base + "_new", Owner: f.table.Owner}
}

// rest is the new default partition until it has its name.
func (f *fan) rest() Partition {
	return Partition{Schema: f.source.Schema, Name: namesOfCopy("", f.source.OID).base + "_rest", Owner: f.source.Owner, Kind: 'r', Default: true}
}

// makeSQL makes the new tables, empty, below the shadow.
func (f *fan) makeSQL() []string {
	parent, shadow := f.table.Ident(), f.shadow().Ident()
	var sql []string
	for _, p := range f.leftovers {
		sql = append(sql, "DROP TABLE "+p.Ident())
	}
	sql = append(sql, fmt.Sprintf("CREATE TABLE %s (LIKE %s INCLUDING GENERATED) PARTITION BY RANGE (%s)", shadow, parent, pgx.Identifier{f.table.Key.Column}.Sanitize()))
	add := func(child, create, place string) {
		sql = append(sql, create)
		for _, k := range f.foreign {
			sql = append(sql, fmt.Sprintf("ALTER TABLE %s ADD %s", child, k))
		}
		for _, s := range f.security {
			sql = append(sql, fmt.Sprintf("ALTER TABLE %s %s", child, s))
		}
		sql = append(sql, fmt.Sprintf("ALTER TABLE %s ATTACH PARTITION %s %s", shadow, child, place))
	}
	for _, p := range f.parts {
		add(p.Ident(), f.facts.newTableSQL(p.Ident(), parent, fmt.Sprintf("CONSTRAINT %s CHECK (%s)", rangeCheck, f.table.Key.within(p.Bounds))), f.table.Key.ForValues(p.Bounds))
	}
	if f.source.Default {
		rest := f.rest().Ident()
		if f.source.Owner != f.table.Owner { // only the connected user may have rights on both
			sql = append(sql, resetRoleSQL)
		}
		add(rest, f.own.newTableSQL(rest, f.source.Ident(), fmt.Sprintf("CONSTRAINT %s CHECK (%s)", restCheck, f.table.Key.outside(f.covered))), "DEFAULT")
	}
	return sql
}

// outside is the condition that the key lies in none of the ranges: that of a default partition. Neighbours are joined, since the server
// proves the one from the other.
func (k Key) outside(ranges []Bounds) string {
	ranges = slices.Clone(ranges)
	slices.SortFunc(ranges, compareBounds)
	terms := []string{pgx.Identifier{k.Column}.Sanitize() + " IS NULL"}
	for _, gap := range subtract(Bounds{FromMin: true, ToMax: true}, ranges) {
		terms = append(terms, "("+k.within(gap)+")")
	}
	return strings.Join(terms, " OR ")
}

// swapSQL puts the new tables into the source's place. Statements of the default partition's own things come from what fan reads then.
func (f *fan) swapSQL() []string {
	parent, shadow := f.table.Ident(), f.shadow().Ident()
	sql := []string{fmt.Sprintf("ALTER TABLE %s DETACH PARTITION %s", parent, f.source.Ident())}
	for _, p := range f.parts {
		sql = append(sql, fmt.Sprintf("ALTER TABLE %s DETACH PARTITION %s", shadow, p.Ident()), fmt.Sprintf("ALTER TABLE %s ATTACH PARTITION %s %s", parent, p.Ident(), f.table.Key.ForValues(p.Bounds)))
		sql = append(sql, f.facts.finishSQL(p, rangeCheck)...)
	}
	if f.source.Default {
		rest := f.rest()
		sql = append(sql, fmt.Sprintf("ALTER TABLE %s DETACH PARTITION %s", shadow, rest.Ident()))
		if rest.Owner != f.table.Owner {
			sql = append(sql, fmt.Sprintf("ALTER TABLE %s OWNER TO %s", rest.Ident(), pgx.Identifier{rest.Owner}.Sanitize()))
		}
		sql = append(sql, fmt.Sprintf("ALTER TABLE %s ATTACH PARTITION %s DEFAULT", parent, rest.Ident()))
		sql = append(sql, f.own.finishSQL(rest, restCheck)...)
	}
	sql = append(sql, "DROP TABLE "+f.source.Ident(), "DROP TABLE "+shadow)
	if f.source.Default {
		sql = append(sql, fmt.Sprintf("ALTER TABLE %s RENAME TO %s", f.rest().Ident(), pgx.Identifier{f.source.Name}.Sanitize()))
	}
	if f.others != nil {
		if f.others.Owner != f.table.Owner {
			sql = append(sql, resetRoleSQL)
		}
		sql = append(sql, f.others.togetherSQL())
	}
	return sql
}

// apartSQL makes a check of the default partition that it has no row of the ranges, and validates it without keeping anybody out.
func (f *fan) apartSQL() (add, validate string) {
	return f.others.apartSQL(f.table.Key, []Bounds{f.source.Bounds})
}

func (p Partition) apartSQL(k Key, ranges []Bounds) (add, validate string) {
	return fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT IF EXISTS %s, ADD CONSTRAINT %s CHECK (%s) NOT VALID", p.Ident(), apartCheck, apartCheck, k.outside(ranges)),
		fmt.Sprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s", p.Ident(), apartCheck)
}

func (p Partition) togetherSQL() string {
	return fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT IF EXISTS %s", p.Ident(), apartCheck)
}

// planSQL shows what will be done.
func (f *fan) planSQL() string {
	columns := f.columnList()
	sql := append(f.makeSQL(), fmt.Sprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM ONLY %s", f.shadow().Ident(), columns, columns, f.source.Ident()))
	if f.others != nil {
		add, validate := f.apartSQL()
		sql = append(sql, add, validate)
	}
	return strings.Join(append(sql, f.swapSQL()...), ";\n")
}

func (f *fan) columnList() string {
	names := make([]string, len(f.facts.columns))
	for i, c := range f.facts.columns {
		names[i] = pgx.Identifier{c}.Sanitize()
	}
	return strings.Join(names, ", ")
}

// runFan copies and swaps; it goes on with what an interrupted run has left. It returns the new partitions with the rows that they have got.
func (w *Worker) runFan(ctx context.Context, f *fan) ([]Created, error) {
	if f.stale != nil {
		if err := w.AbortCopy(ctx, f.table, *f.stale); err != nil {
			return nil, err
		}
	}
	meta, err := f.meta()
	if err != nil {
		return nil, err
	}
	spec := CopySpec{Purpose: f.purpose, Table: f.table, Source: f.copySource(), Target: f.shadow(), Meta: meta, Until: f.until, OnRows: f.onRows}
	for _, c := range f.facts.columns {
		spec.Columns = append(spec.Columns, CopyColumn{Target: c})
	}
	spec.Make = func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Conn().PgConn().Exec(ctx, strings.Join(f.makeSQL(), ";\n")).ReadAll()
		return err
	}
	c, err := w.StartCopy(ctx, spec)
	if err != nil {
		return nil, err
	}
	if err := c.Run(ctx); err != nil {
		return nil, err
	}
	if err := w.keepApart(ctx, f, c); err != nil {
		return nil, err
	}
	var made []Created
	err = c.Swap(ctx, func(ctx context.Context, tx pgx.Tx) (events []Event, err error) {
		made, events, err = f.swap(ctx, tx, c.moved)
		return events, err
	})
	return made, err
}

// keepApart makes sure that the other default partition need not be searched while everybody waits. As long as the source is attached no row
// of its range can come there.
func (w *Worker) keepApart(ctx context.Context, f *fan, c *Copy) error {
	if f.others == nil {
		return nil
	}
	add, validate := f.apartSQL()
	return w.constrain(ctx, f.table, *f.others, c.what("keep the default partition apart from"), add, validate)
}

// constrain changes checks of a partition, each statement in a transaction of its own.
func (w *Worker) constrain(ctx context.Context, t Table, p Partition, what string, statements ...string) error {
	o := postgres.DDLOptions{LockTimeout: w.o.LockTimeout, Wait: w.o.Wait, Role: p.Owner, What: what}
	for _, sql := range statements {
		if err := w.o.DB.DDL(postgres.WithPatience(ctx, w.o.Wait), o, func(tx pgx.Tx) error { _, err := tx.Exec(ctx, sql); return err }); err != nil {
			return w.explain(t, what, err)
		}
	}
	return nil
}

// swap is the exchange: the source is locked, and nobody can look.
func (f *fan) swap(ctx context.Context, tx pgx.Tx, counts map[uint32]int64) ([]Created, []Event, error) {
	made, moved, err := f.count(ctx, tx, counts)
	if err != nil {
		return nil, nil, err
	}
	kept, err := f.keep(ctx, tx)
	if err != nil {
		return nil, nil, err
	}
	if _, err := tx.Conn().PgConn().Exec(ctx, strings.Join(f.swapSQL(), ";\n")).ReadAll(); err != nil {
		return nil, nil, err
	}
	if err := f.give(ctx, tx, kept); err != nil {
		return nil, nil, err
	}
	if err := checkMade(ctx, tx, f.table, made); err != nil {
		return nil, nil, err
	}
	var events []Event
	for _, m := range made {
		events = append(events, Event{Kind: EventAttached, Name: m.Name, Bounds: m.Bounds})
	}
	events = append(events, moved...)
	if !f.source.Default {
		events = append(events, Event{Kind: EventPruned, Name: f.source.Name, Bounds: f.source.Bounds})
	}
	return made, events, nil
}

// count says how many rows each new partition has got.
func (f *fan) count(ctx context.Context, tx pgx.Tx, counts map[uint32]int64) (made []Created, moved []Event, err error) {
	for _, p := range f.parts {
		m := Created{Partition: p}
		if err := tx.QueryRow(ctx, relationOIDSQL, p.Schema, p.Name).Scan(&m.OID); err != nil {
			return nil, nil, err
		}
		m.Moved = counts[m.OID]
		m.RowsEstimate = m.Moved
		made = append(made, m)
		if m.Moved > 0 {
			moved = append(moved, Event{Kind: EventMoved, Name: f.source.Name, Bounds: f.source.Bounds, Default: f.source.Default, Rows: m.Moved, To: p.Name, ToBounds: p.Bounds})
		}
	}
	return made, moved, nil
}

// refuseFan says why the partition cannot be copied: what it has that would be gone with it, for instance.
func (w *Worker) refuseFan(ctx context.Context, f *fan) error {
	db := w.o.DB.Pool()
	what := fmt.Sprintf("partition %s of %s", f.purpose, f.source)
	switch reason, ok := f.source.Writable(); {
	case !ok:
		return fault.New(fault.Refused, "", "%s: %s", what, reason)
	case len(f.facts.incoming) > 0:
		return fault.New(fault.Refused, "", "%s: foreign key %s refers to %s, and a partition with rows that others refer to cannot be replaced", what, f.facts.incoming[0], f.table)
	case len(f.parts) > maxFan:
		return fault.New(fault.Refused, "take a longer --interval first, and cut what it makes afterwards", "%s: %d partitions would be made at once, more than %d", what, len(f.parts), maxFan)
	}
	depend, err := dependents(ctx, db, []Partition{f.source})
	if err != nil {
		return err
	}
	if d, ok := depend[f.source.OID]; ok {
		return fault.New(fault.Refused, "", "%s: %s depends on it", what, d)
	}
	lost, err := texts(ctx, db, lostSQL, f.source.OID, f.source.Default)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if len(lost) > 0 {
		return fault.New(fault.Refused, "take it off the partition first, and put it back on the new ones", "%s: it has %s of its own, which would be lost", what, strings.Join(lost, ", "))
	}
	return nil
}
