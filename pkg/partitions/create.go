package partitions

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/pkg/plan"
)

const (
	batchSize = 50 // partitions made in one transaction

	// DirectMoveRows is how many rows of one range are moved out of a default partition in one transaction that keeps others out of it.
	// Where there are more, its rows are copied beside it.
	DirectMoveRows = 2000

	rangeCheck = "auditdb_attach_range" // lets ATTACH skip its scan; dropped afterwards
	emptyCheck = "auditdb_adopt_empty"
)

// CreateOptions say which partitions to make. All times are key values.
type CreateOptions struct {
	From, To      time.Time // exactly this range, widened to whole intervals; zero: around now
	Ranges        []Bounds  // instead: the intervals that these touch
	Ahead, Behind int       // around now
	AllowPruned   bool      // also ranges that were pruned
	DirectRows    int64     // most rows of one range to move out of the default partition in one transaction; 0: DirectMoveRows
	MoveRowLimit  int64     // most rows that may leave the default partition for one range; 0: any number

	Until   time.Time                 // stop copying rows out of the default partition after this, with ErrIncomplete; zero: never
	OnRows  func(rows, ofAbout int64) // told how that goes on; nil: nobody is
	purpose string                    // of the copy; "": create
	stale   *CopyState                // an interrupted copy that does not fit any more
}

func (o CreateOptions) copyPurpose() string {
	if o.purpose == "" {
		return copyForCreate
	}
	return o.purpose
}

// Draft is what a create would do to one table, and what it read to find out.
type Draft struct {
	Table    Table
	Catalog  *Catalog
	Plan     plan.Plan
	Existing []Partition // those that hold values of the ranges asked for
	Refused  []Unmade    // ranges that cannot be made now, while others can
	Pruned   []Unmade    // ranges that are not made again

	Publications []Publication // of the table or some of its partitions; not read where no partition is made
	creates      []createOp
	options      CreateOptions
	resumes      bool // it ends an interrupted copy, and there may be more to do afterwards
}

// Moves is the number of rows that leave the default partition.
func (d *Draft) Moves() (rows int64) {
	for _, op := range d.creates {
		rows += op.rows
	}
	return rows
}

// Creates lists the partitions that the plan makes.
func (d *Draft) Creates() []Partition {
	out := make([]Partition, len(d.creates))
	for i, op := range d.creates {
		out[i] = op.part
	}
	return out
}

// Unmade is a range that no partition is made for, and why, while others may be.
type Unmade struct {
	Bounds
	Err error
}

// createOp is what the executor needs of a step.
type createOp struct {
	part  Partition
	rows  int64  // that have to leave the default partition
	drain string // statements to run instead when rows have come in since the plan was made; "": rows may not be moved
}

// situation is what planning a create needs to know besides the ranges.
type situation struct {
	facts
	taken     map[string]namesake
	byDefault *Partition
	rows      []int64 // of the default partition, in each missing range
	direct    int64   // most rows to move in one transaction
	limit     int64   // most rows to move; 0: any number
	fan       *fan    // copies the rows of the default partition where there are more than direct; nil: there are not
	copying   error   // why nothing can be made while rows are copied beside the table; nil: no copy goes on
}

// candidates lists the names that new partitions could get.
func candidates(t Table, missing []Bounds) []string {
	names := make([]string, 0, 2*len(missing))
	for _, b := range missing {
		names = append(names, t.PartitionName(b), t.altName(b))
	}
	return names
}

// planCreate turns missing ranges into steps. It is pure.
func planCreate(t Table, missing []Bounds, s situation, now time.Time) (plan.Plan, []createOp, []Unmade) {
	p := plan.Plan{Action: "partition.create " + t.String(), AsOf: now, KeepGoing: true}
	p.Skipped = s.notTakenOver(t, len(missing) > 0)
	var ops, fanned []createOp
	var refused []Unmade
	used := map[string]bool{}
	refuse := func(b Bounds, err error) {
		p.Skipped = append(p.Skipped, plan.Skip{Name: t.String() + " " + b.Text(), Reason: err.Error()})
		refused = append(refused, Unmade{b, err})
	}
	for i, b := range missing {
		op := createOp{part: Partition{Schema: t.Schema, Bounds: b, State: Attached, Kind: 'r', Owner: t.Owner}}
		adopt := false
		if s.copying != nil {
			refuse(b, s.copying)
			continue
		}
		var err error
		if op.part.Name, adopt, err = s.pickName(t, b, used); err != nil {
			refuse(b, err)
			continue
		}
		if s.byDefault != nil {
			op.rows = s.rows[i]
			if err := s.refuseMove(b, op.rows); err != nil {
				refuse(b, err)
				continue
			}
		}
		used[op.part.Name] = true
		if s.fan != nil && s.fans(op.rows) {
			if s.fan.parts = append(s.fan.parts, op.part); adopt {
				s.fan.leftovers = append(s.fan.leftovers, op.part)
			}
			fanned = append(fanned, op)
			continue
		}
		step := plan.Step{Name: op.part.String(), SQL: s.createSQL(t, op, adopt, op.rows > 0), Reason: s.createReason(op, adopt)}
		if s.byDefault != nil && len(s.moveTriggers) == 0 && len(s.incoming) == 0 {
			op.drain = s.createSQL(t, op, adopt, true)
		}
		step.Op = op
		if s.byDefault == nil && len(s.incoming) == 0 && !s.foreignKeys {
			step.Group = "batch " + strconv.Itoa(len(ops)/batchSize)
		}
		p.Steps, ops = append(p.Steps, step), append(ops, op)
	}
	if len(fanned) > 0 {
		p.Steps, ops = append(p.Steps, s.fan.step(fanned)), append(ops, fanned...)
	}
	return p, ops, refused
}

// fans says that so many rows of a range are copied, not moved: there are many, or moving them would fire triggers.
func (s situation) fans(rows int64) bool {
	return rows > s.direct || (rows > 0 && len(s.moveTriggers) > 0)
}

// notTakenOver says what the siblings have and new partitions will not.
func (s situation) notTakenOver(t Table, some bool) (skipped []plan.Skip) {
	if s.missingGrants {
		skipped = append(skipped, plan.Skip{Name: t.String(), Reason: "grants of the other partitions are not taken over: a grant on a partition bypasses the table's row security"})
	}
	if s.strangeIndex {
		skipped = append(skipped, plan.Skip{Name: t.String(), Reason: "the replica identity of the newest partition is not taken over: it is an index that the table has not"})
	}
	for _, p := range s.publications {
		if name := (pgx.Identifier{p.Name}).Sanitize(); some && !p.Member() {
			skipped = append(skipped, plan.Skip{Name: "publication " + name, Reason: "it has other partitions of " + t.String() + ", but not the new ones: ALTER PUBLICATION " + name + " ADD TABLE puts them there"})
		}
	}
	return skipped
}

// pickName returns the first name that is free, or belongs to a leftover that can be adopted.
func (s situation) pickName(t Table, b Bounds, used map[string]bool) (name string, adopt bool, err error) {
	first := t.PartitionName(b)
	for _, name := range []string{first, t.altName(b)} {
		other, taken := s.taken[name]
		if !used[name] && (!taken || other.Adopt) {
			return name, taken, nil
		}
	}
	return "", false, fault.New(fault.Data, "rename the other object", "partition for %s: the name %s belongs to another object", b.Text(), displayName(t.Schema, first))
}

// copyForCreate is the purpose of a copy that create itself makes, and goes on with.
const copyForCreate = "create"

// refusal is the error of work that would change what a copy goes by.
func (s CopyState) refusal() error {
	return fault.New(fault.Refused, "auditdb partition "+s.Purpose+" goes on with it, and with --abort takes it back", "%s is being copied by partition %s, which runs or was interrupted", s.Source, s.Purpose)
}

// refuseMove says why rows of the default partition cannot be moved for b.
func (s situation) refuseMove(b Bounds, rows int64) error {
	def := *s.byDefault
	what := fmt.Sprintf("partition for %s: %d rows of it are in the default partition %s", b.Text(), rows, def)
	switch {
	case def.Kind != 'r':
		reason, _ := def.Writable()
		return fault.New(fault.Refused, "", "partition for %s: the default partition %s cannot give up rows: %s", b.Text(), def, reason)
	case rows == 0:
		return nil
	case len(s.incoming) > 0:
		return fault.New(fault.Refused, "", "%s, which foreign key %s refers to", what, s.incoming[0])
	case s.limit > 0 && rows > s.limit:
		return fault.New(fault.Refused, "allow more with --max-move-rows", "%s, more than the %d that may be moved", what, s.limit)
	}
	return nil
}

func (s situation) createReason(op createOp, adopt bool) string {
	what := "new partition"
	if adopt {
		what = "empty table left by a run that was interrupted"
	}
	locks := "locks: ACCESS SHARE, then SHARE UPDATE EXCLUSIVE on the table (readers and writers go on)"
	if s.byDefault != nil {
		locks = "locks: SHARE UPDATE EXCLUSIVE on the table, ACCESS EXCLUSIVE on the default partition, for a moment"
		if op.rows > 0 {
			what += fmt.Sprintf(", takes %d rows from the default partition", op.rows)
			locks = "locks: ACCESS EXCLUSIVE on the table and the default partition while rows move"
		}
	}
	return what + "; " + locks
}

// createSQL makes the statements for one partition; they run in one transaction, as the table's owner. While rows move, the table is locked
// against readers: one that had looked up the partitions before and waited for the default partition would miss the rows that have left it.
func (s situation) createSQL(t Table, op createOp, adopt, move bool) string {
	child, parent := op.part.Ident(), t.Ident()
	check := fmt.Sprintf("CONSTRAINT %s CHECK (%s)", rangeCheck, t.Key.within(op.part.Bounds))
	sql, back := s.roles(t)
	if adopt {
		sql = append(sql,
			fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT IF EXISTS %s, DROP CONSTRAINT IF EXISTS %s", child, rangeCheck, emptyCheck),
			fmt.Sprintf("ALTER TABLE %s ADD CONSTRAINT %s CHECK (false)", child, emptyCheck),
			fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT %s, ADD %s", child, emptyCheck, check))
	} else {
		sql = append(sql, s.newTableSQL(child, parent, check))
	}
	if back != "" {
		sql = append(sql, back)
	}
	if s.byDefault != nil { // after the new table is made, so that nobody waits for that
		mode := "SHARE UPDATE EXCLUSIVE"
		if move {
			mode = "ACCESS EXCLUSIVE"
		}
		sql = append(sql, "LOCK TABLE ONLY "+parent+" IN "+mode+" MODE", "LOCK TABLE ONLY "+s.byDefault.Ident()+" IN ACCESS EXCLUSIVE MODE")
	}
	if move {
		sql = append(sql, s.moveSQL(t, op)...)
	}
	sql = append(sql, fmt.Sprintf("ALTER TABLE %s ATTACH PARTITION %s %s", parent, child, t.Key.ForValues(op.part.Bounds)))
	return strings.Join(append(sql, s.finishSQL(op.part, rangeCheck)...), ";\n")
}

// newTableSQL makes a table like another one, with a check.
func (f facts) newTableSQL(table, like, check string) string {
	create := fmt.Sprintf("CREATE TABLE %s (LIKE %s INCLUDING ALL EXCLUDING IDENTITY, %s)", table, like, check)
	return strings.Join(append([]string{create}, f.storage...), " ")
}

// FinishSQL are the statements that give a partition, which was made by others and attached, what partition create gives its own: settings of
// columns, replica identity, guard and grants.
func FinishSQL(ctx context.Context, q Querier, t Table, p Partition) ([]string, error) {
	c, err := Load(ctx, q, t)
	if err != nil {
		return nil, err
	}
	f, err := readFacts(ctx, q, t, newestPlain(c), nil)
	if err != nil {
		return nil, err
	}
	return f.finishSQL(p, ""), nil
}

// finishSQL is what a partition gets once it is attached, and the check that it loses; "": none.
func (f facts) finishSQL(p Partition, check string) (sql []string) {
	child, actions := p.Ident(), f.after
	if check != "" {
		actions = append([]string{"DROP CONSTRAINT " + check}, f.after...)
	}
	if len(actions) > 0 {
		sql = append(sql, fmt.Sprintf("ALTER TABLE %s %s", child, strings.Join(actions, ", ")))
	}
	if f.replicaIndex != 0 {
		sql = append(sql, replicaSQL(p, f.replicaIndex))
	}
	for _, g := range f.guards {
		sql = append(sql, fmt.Sprintf("CREATE TRIGGER %s BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION auditdb.guard()", pgx.Identifier{g}.Sanitize(), child))
	}
	for _, role := range f.revokes {
		to := "PUBLIC"
		if role != "" {
			to = pgx.Identifier{role}.Sanitize()
		}
		sql = append(sql, "REVOKE ALL ON TABLE "+child+" FROM "+to)
	}
	for _, g := range f.grants {
		sql = append(sql, "GRANT "+fmt.Sprintf(g, child))
	}
	return sql
}

// roles gives the statements that become the table's owner, and those that go back to the user who is connected once the new table is made:
// where the default partition belongs to somebody else, only the connected user may have rights on both.
func (s situation) roles(t Table) (become []string, back string) {
	if s.user == t.Owner {
		return nil, ""
	}
	become = []string{"SET LOCAL ROLE " + pgx.Identifier{t.Owner}.Sanitize()}
	if s.byDefault != nil && s.byDefault.Owner != t.Owner {
		return become, "RESET ROLE"
	}
	return become, ""
}

// moveSQL moves the range's rows out of the default partition, which is locked by then.
func (s situation) moveSQL(t Table, op createOp) []string {
	columns := make([]string, len(s.columns))
	for i, c := range s.columns {
		columns[i] = pgx.Identifier{c}.Sanitize()
	}
	list := strings.Join(columns, ", ")
	return []string{
		"SET LOCAL auditdb.purpose = 'move'",
		fmt.Sprintf("WITH moved AS (DELETE FROM ONLY %s WHERE %s RETURNING %s) INSERT INTO %s (%s) SELECT %s FROM moved",
			s.byDefault.Ident(), t.Key.within(op.part.Bounds), list, op.part.Ident(), list, list),
		"SET LOCAL auditdb.purpose = ''",
	}
}

// replicaSQL makes the partition's own index of a table's index the replica identity; its name is not known before ATTACH.
func replicaSQL(p Partition, index uint32) string {
	body := fmt.Sprintf(`DECLARE i name; BEGIN
  SELECT c.relname INTO STRICT i FROM pg_catalog.pg_inherits h JOIN pg_catalog.pg_index x ON x.indexrelid = h.inhrelid JOIN pg_catalog.pg_class c ON c.oid = h.inhrelid
    WHERE h.inhparent = %d AND x.indrelid = %s::pg_catalog.regclass;
  EXECUTE pg_catalog.format('ALTER TABLE %%s REPLICA IDENTITY USING INDEX %%I', %s, i);
END`, index, quoteText(p.Ident()), quoteText(p.Ident()))
	return "DO " + quoteText(body)
}
