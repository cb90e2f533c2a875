package indexes

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"auditdb/internal/postgres"
)

// AnalyzeOptions say what to analyze.
type AnalyzeOptions struct {
	Workload *Workload
	Tables   []uint32 // oids; none: all that the workload touches
	Budget   Budget
}

// Analysis is what a workload needs.
type Analysis struct {
	Recommendations []Recommendation
	Queries         int // that were analyzed
	Calls           float64
	LeftOut         []LeftOut
	Tables          []uint32 // that the workload touches
	Hypothetical    bool     // HypoPG was there
	CostBefore      float64  // of all queries over their calls
	CostAfter       float64
	WriteBytes      float64 // of WAL that the recommendations add to a row inserted into each table, at most
	Notes           []string
}

const (
	planTimeout   = 10 * time.Second // of one statement
	mostQueries   = 2000             // that are looked at, those with most calls
	mostForAQuery = 14               // indexes that go into the choice for one query alone
)

// analyst works on one analysis, in one transaction.
type analyst struct {
	o         AnalyzeOptions
	explainer *explainer
	shares    *shares
	generator *generator
	tables    []*table
	leaves    map[string]leafOf
	queries   []*queryModel
	hypo      *hypothetical // nil: HypoPG is not there
	leftOut   []LeftOut
	notes     []string
}

const withoutTable = "it reads no table of this database that could have an index"

// Analyze looks for the indexes that serve a workload best. It changes nothing and runs none of the workload's statements: they are planned, in
// a read-only transaction, each with a statement_timeout.
func Analyze(ctx context.Context, db *postgres.DB, o AnalyzeOptions) (*Analysis, error) {
	a := &analyst{o: o, leftOut: slices.Clone(o.Workload.LeftOut), leaves: map[string]leafOf{}}
	err := db.TxWith(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		if a.explainer, err = newExplainer(ctx, tx, db.UserSearchPath(), planTimeout); err != nil {
			return err
		}
		return a.analyze(ctx, tx)
	})
	if err != nil {
		return nil, fmt.Errorf("analyze the workload: %w", err)
	}
	return a.result(), nil
}

func (a *analyst) analyze(ctx context.Context, tx pgx.Tx) error {
	all := a.o.Workload.Queries
	if len(all) > mostQueries {
		a.notes = append(a.notes, fmt.Sprintf("only the %d queries with most calls were looked at", mostQueries))
		for _, q := range all[mostQueries:] {
			a.leave(q, "others have more calls")
		}
		all = all[:mostQueries]
	}
	bare, err := a.plans(ctx, all)
	if err != nil {
		return err
	}
	if err := a.know(ctx, tx, bare); err != nil {
		return err
	}
	for _, b := range bare {
		if err := a.model(ctx, b); err != nil {
			return err
		}
	}
	if a.hypo, err = findHypothetical(ctx, tx); err != nil {
		return err
	}
	return a.think(ctx)
}

// planned is a query with its plan without indexes.
type planned struct {
	Query
	plan  *planNode
	types []string // of parameters
}

// plans plans all queries without indexes.
func (a *analyst) plans(ctx context.Context, all []Query) ([]planned, error) {
	var found []planned
	for _, q := range all {
		p := planned{Query: q}
		parameters, err := plannable(q.Text)
		switch {
		case err != nil:
		case parameters > 0:
			p.Text = typedLiterals(q.Text)
			p.plan, p.types, err = a.explainer.generic(ctx, p.Text)
		default:
			p.plan, err = a.explainer.plan(ctx, q.Text, true)
		}
		if err != nil {
			if err := a.refused(ctx, q, err); err != nil {
				return nil, err
			}
			continue
		}
		found = append(found, p)
	}
	return found, nil
}

// refused leaves a query out that cannot be planned, unless nothing can.
func (a *analyst) refused(ctx context.Context, q Query, err error) error {
	if ctx.Err() != nil || a.explainer.broken() {
		return err
	}
	var pg *pgconn.PgError
	if a.o.Workload.observed() && isOfCatalog(q.Text) {
		a.leave(q, notOfUsers)
	} else if errors.As(err, &pg) {
		a.leave(q, "it cannot be planned: "+refusal(pg))
	} else {
		a.leave(q, fmt.Sprintf("it cannot be planned: %v", err))
	}
	return nil
}

func (a *analyst) leave(q Query, reason string) {
	a.leftOut = append(a.leftOut, LeftOut{Query: shapeOf(q.Text, shownQuery), Calls: q.Calls, Reason: reason})
}

// know reads what is known of all tables of the plans.
func (a *analyst) know(ctx context.Context, tx pgx.Tx, plans []planned) error {
	var schemas, names []string
	for _, p := range plans {
		s, n := p.plan.relations()
		schemas, names = append(schemas, s...), append(names, n...)
	}
	oids, err := findTables(ctx, tx, schemas, names)
	if err != nil {
		return err
	}
	if a.tables, err = readTables(ctx, tx, oids); err != nil {
		return err
	}
	for _, t := range a.tables {
		unknown := 0
		for _, l := range t.leaves {
			a.leaves[relationKey(l.schema, l.name)] = leafOf{t, l}
			if !l.analyzed {
				unknown++
			}
		}
		if unknown > 0 {
			a.notes = append(a.notes, fmt.Sprintf("%s: %d of %d tables were never analyzed, so that the planner guesses: run ANALYZE first", displayName(t.schema, t.name), unknown, len(t.leaves)))
		}
	}
	p := &pricing{block: a.explainer.cost.block, samples: map[string]ginSample{}}
	if a.generator, err = newGenerator(ctx, tx, p); err != nil {
		return err
	}
	a.shares = &shares{explainer: a.explainer, harmless: func(text string) bool { return a.generator.lasting(parseExpr(text)) }, known: map[string]map[uint32]float64{}}
	return nil
}

// model makes the model of a query, and thinks of indexes for it.
func (a *analyst) model(ctx context.Context, p planned) error {
	q := &queryModel{Query: p.Query, text: p.Text, measured: map[string]float64{}, costs: map[string]float64{}}
	bare := p.plan
	if len(p.types) > 0 {
		q.text = a.fill(p)
		var err error
		if bare, err = a.explainer.plan(ctx, q.text, true); err != nil {
			return a.refused(ctx, p.Query, err)
		}
	}
	now, err := a.explainer.plan(ctx, q.text, false)
	if err != nil {
		return a.refused(ctx, p.Query, err)
	}
	q.before = now.Total
	b := &logicBuilder{leaves: a.leaves, byName: map[string]*scan{}}
	q.logic = b.build(bare)
	if len(p.types) > 0 {
		a.markGuesses(b.scans, p.plan)
	}
	if q.scans = b.scans; len(q.scans) == 0 {
		reason := withoutTable
		if a.o.Workload.observed() { // of these there are many: drivers and tools look into the catalog
			reason = notOfUsers
		}
		a.leave(p.Query, reason)
		return nil
	}
	q.reckoner = &reckoner{costSettings: a.explainer.cost, memory: map[asked][]path{}}
	for _, s := range q.scans {
		if !slices.Contains(q.tables, s.table) {
			q.tables = append(q.tables, s.table)
		}
		for _, l := range s.leaves {
			q.reckoner.totalPages += l.pages
		}
		if err := a.shares.measure(ctx, s); err != nil {
			return err
		}
		if err := a.widths(ctx, s); err != nil {
			return err
		}
	}
	q.modelled = q.run(nil).total
	a.queries = append(a.queries, q)
	for _, s := range q.scans {
		if len(a.o.Tables) == 0 || slices.Contains(a.o.Tables, s.table.oid) {
			a.generator.scan(s)
		}
	}
	thought := a.generator.current
	a.generator.current = nil
	for _, m := range thought {
		if m.def.Method == methodGIN {
			if err := a.explainer.sample(ctx, a.generator.pricing, m); err != nil {
				return err
			}
			id := m.id
			*m = *a.generator.pricing.candidate(m.table, m.def, nil)
			m.id = id
		}
	}
	q.pick(thought)
	return nil
}

// pick keeps of all that was thought of for a query what may be of use: what its best plans would use, under several restrictions, and
// what alone helps most.
func (q *queryModel) pick(all []*indexModel) {
	q.ideal = q.before
	if len(all) == 0 {
		return
	}
	kinds := []func(m *indexModel) bool{
		func(*indexModel) bool { return true },
		func(m *indexModel) bool { return len(m.def.Include) == 0 },
		func(m *indexModel) bool { return m.def.Predicate == "" },
		func(m *indexModel) bool { return m.def.Predicate == "" && len(m.def.Include) == 0 },
		func(m *indexModel) bool {
			return m.def.Predicate == "" && len(m.def.Include) == 0 && len(m.def.Keys) <= 2
		},
		func(m *indexModel) bool {
			return m.def.Predicate == "" && len(m.def.Include) == 0 && len(m.def.Keys) == 1
		},
		func(m *indexModel) bool { return m.def.Method == methodBRIN || m.def.Method == methodGIN },
	}
	for _, kind := range kinds {
		some := slices.DeleteFunc(slices.Clone(all), func(m *indexModel) bool { return !kind(m) })
		for range 2 {
			p := q.run(some)
			used := onlyNew(p.uses)
			if len(used) == 0 || p.total > q.before*0.98 {
				break
			}
			q.ideal = math.Min(q.ideal, p.total*q.correction())
			q.keep(used)
			some = slices.DeleteFunc(some, func(m *indexModel) bool { return slices.Contains(used, m) })
		}
	}
	type alone struct {
		m    *indexModel
		cost float64
	}
	var singles []alone
	for _, m := range all {
		if cost := q.run([]*indexModel{m}).total; cost < q.before*0.95 {
			singles = append(singles, alone{m, cost})
		}
	}
	slices.SortStableFunc(singles, func(x, y alone) int { return descending(y.cost, x.cost) })
	for _, s := range singles[:min(len(singles), mostForAQuery)] {
		q.keep([]*indexModel{s.m})
	}
	slices.SortStableFunc(singles, func(x, y alone) int { return descending(x.m.wal, y.m.wal) * -1 })
	for _, s := range singles[:min(len(singles), mostForAQuery/2)] {
		q.keep([]*indexModel{s.m})
	}
}

func (q *queryModel) keep(set []*indexModel) {
	for _, m := range set {
		if !slices.Contains(q.candidates, m) {
			q.candidates = append(q.candidates, m)
		}
	}
	if len(set) > 1 && !slices.ContainsFunc(q.bundles, func(b []*indexModel) bool { return nameOf(b) == nameOf(set) }) {
		q.bundles = append(q.bundles, set)
	}
}

// share lets every query use the indexes that were thought of for others.
func (a *analyst) share() {
	var all []*indexModel
	for _, q := range a.queries {
		for _, m := range q.candidates {
			if !slices.Contains(all, m) {
				all = append(all, m)
			}
		}
	}
	all = append(all, a.merged(all)...)
	for _, q := range a.queries {
		for _, m := range all {
			if slices.Contains(q.tables, m.table) && !slices.Contains(q.candidates, m) && q.run([]*indexModel{m}).total < q.before*0.95 {
				q.candidates = append(q.candidates, m)
			}
		}
	}
}

// merged are indexes that serve two queries each: of keys of which one begins with the other's, with the included columns of both.
func (a *analyst) merged(all []*indexModel) []*indexModel {
	var found []*indexModel
	for _, x := range all {
		for _, y := range all {
			if x == y || x.table != y.table || x.def.Method != BTree || !bareOf(x.def).PrefixOf(y.def) {
				continue
			}
			d := y.def
			d.Include = slices.Clone(d.Include)
			for _, column := range x.def.Include {
				if !slices.Contains(d.Include, column) && !slices.ContainsFunc(d.Keys, func(k Key) bool { return k.Column == column }) {
					d.Include = append(d.Include, column)
				}
			}
			slices.Sort(d.Include)
			width := 0.0
			for _, c := range d.Include {
				width += x.table.keyWidth(columnKey + c)
			}
			id := relationKey(d.Schema, d.Table) + " " + d.shape()
			if _, known := a.generator.made[id]; known || len(d.Include) > mostIncluded || width > widestIncluded || !x.table.holds(d) {
				continue
			}
			m := a.generator.pricing.candidate(x.table, d, keptOf(y))
			m.id = len(a.generator.made) + 1
			a.generator.made[id] = m
			found = append(found, m)
		}
	}
	return found
}

// keptOf is the share of the rows that an index holds, by leaf; nil: all.
func keptOf(m *indexModel) map[uint32]float64 {
	if m.def.Predicate == "" {
		return nil
	}
	kept := map[uint32]float64{}
	for _, l := range m.table.leaves {
		kept[l.oid] = m.parts[l.oid].tuples / math.Max(l.tuples, 1)
	}
	return kept
}

func bareOf(d Definition) Definition {
	d.Include = nil
	return d
}

const mostRounds = 5

// think chooses, and corrects the model by hypothetical indexes until the choice stands.
func (a *analyst) think(ctx context.Context) error {
	a.share()
	for range mostRounds {
		c := newChooser(a.queries, a.o.Budget, a.heap())
		chosen := c.choose()
		if a.hypo == nil {
			break
		}
		news, err := a.verify(ctx, chosen)
		if err != nil {
			return err
		}
		if !news {
			break
		}
	}
	return nil
}

func (a *analyst) heap() (bytes float64) {
	for _, t := range a.tables {
		for _, l := range t.leaves {
			bytes += l.pages * a.explainer.cost.block
		}
	}
	return bytes
}

// verify plans every query with the indexes of a choice that it would use, and says whether something new was learnt.
func (a *analyst) verify(ctx context.Context, chosen []*indexModel) (bool, error) {
	news := false
	for _, q := range a.queries {
		used := onlyNew(q.run(q.concerned(chosen)).uses)
		if len(used) == 0 || slices.ContainsFunc(used, func(m *indexModel) bool { return !a.hypo.knows(m, q) }) {
			continue
		}
		if _, known := q.measured[nameOf(used)]; known {
			continue
		}
		cost, err := a.hypo.cost(ctx, a.explainer, q, used)
		if err != nil {
			if ctx.Err() != nil || a.explainer.broken() {
				return false, err
			}
			continue
		}
		q.measured[nameOf(used)] = cost
		clear(q.costs)
		news = true
	}
	return news, nil
}
