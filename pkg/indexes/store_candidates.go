package indexes

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	immutableSQL = `SELECT p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'pg_catalog' AND p.prokind = 'f' GROUP BY p.proname HAVING bool_and(p.provolatile = 'i')`
	trigramsSQL  = `SELECT quote_ident(n.nspname) || '.' || quote_ident(c.opcname) FROM pg_opclass c JOIN pg_namespace n ON n.oid = c.opcnamespace WHERE c.opcname = 'gin_trgm_ops'`
	// samplesSQL counts the keys that an inverted index would have of a few rows. Nothing but numbers leaves the server.
	pathSampleSQL    = `SELECT coalesce(avg(n), 0)::float8, count(*)::float8 FROM (SELECT (SELECT count(*) FROM jsonb_path_query(%[1]s, '$.** ? (@.type() != "object" && @.type() != "array")')) AS n FROM %[2]s TABLESAMPLE SYSTEM (%[3]f) REPEATABLE (1) LIMIT 200) s`
	distinctPathsSQL = `SELECT count(DISTINCT v)::float8, count(*)::float8 FROM (SELECT kv.key || '=' || kv.value::text AS v FROM (SELECT %[1]s AS doc FROM %[2]s TABLESAMPLE SYSTEM (%[3]f) REPEATABLE (1) LIMIT 400) s, jsonb_each(CASE jsonb_typeof(s.doc) WHEN 'object' THEN s.doc ELSE '{}' END) kv) t`
	shareSampleSQL   = `SELECT count(*) FILTER (WHERE %[1]s)::float8, count(*)::float8 FROM (SELECT * FROM %[2]s TABLESAMPLE SYSTEM (%[3]f) REPEATABLE (1) LIMIT 2000) s`
	widthSampleSQL   = `SELECT coalesce(max(pg_column_size(%[1]s)), 0)::float8, count(%[1]s)::float8 FROM (SELECT * FROM %[2]s TABLESAMPLE SYSTEM (%[3]f) REPEATABLE (1) LIMIT 2000) s`
	wordSampleSQL    = `SELECT coalesce(avg(length(%[1]s)), 0)::float8, count(*)::float8 FROM (SELECT * FROM %[2]s TABLESAMPLE SYSTEM (%[3]f) REPEATABLE (1) LIMIT 400) s`
)

// newGenerator reads what decides which indexes can be made.
func newGenerator(ctx context.Context, q Querier, p *pricing) (*generator, error) {
	g := &generator{pricing: p, immutable: map[string]bool{}, made: map[string]*indexModel{}}
	rows, err := q.Query(ctx, immutableSQL)
	if err != nil {
		return nil, fmt.Errorf("look for functions: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for functions: %w", err)
	}
	for _, name := range names {
		g.immutable[name] = true
	}
	err = q.QueryRow(ctx, trigramsSQL).Scan(&g.trigrams)
	if err != nil && err != pgx.ErrNoRows { //nolint:errorlint // QueryRow gives it as it is
		return nil, fmt.Errorf("look for pg_trgm: %w", err)
	}
	return g, nil
}

const (
	sampleLimit  = 2 * time.Second // of one look at a few rows
	sampledPages = 64
)

// sample finds out from a few rows how many keys an inverted index would have. Where that fails, as without the right to read the table,
// the guess of pricing stays.
func (e *explainer) sample(ctx context.Context, p *pricing, m *indexModel) error {
	id := ginKey(m.table, m.def.Keys[0])
	l := m.table.largest()
	if _, known := p.samples[id]; known || l == nil {
		return nil
	}
	p.samples[id] = p.sampleOf(m)
	key := m.def.Keys[0].Expression
	if key == "" {
		key = quote(m.def.Keys[0].Column)
	}
	percent := min(100, max(100*8/max(l.pages, 1), 0.0001))
	ask := func(sql string) (a, b float64, ok bool, err error) {
		a, b, err = e.numbers(ctx, fmt.Sprintf(sql, "("+key+")", relationKey(l.schema, l.name), percent))
		if err != nil && (ctx.Err() != nil || e.broken()) {
			return 0, 0, false, err
		}
		return a, b, err == nil && b > 0, nil
	}
	if isTrigram(m.def.Keys[0].OpClass) {
		length, _, ok, err := ask(wordSampleSQL)
		if ok {
			p.samples[id] = ginSample{perRow: max(1, length+1), distinct: 0.02}
		}
		return err
	}
	perRow, _, ok, err := ask(pathSampleSQL)
	if err != nil || !ok {
		return err
	}
	distinct, all, ok, err := ask(distinctPathsSQL)
	share := 0.2
	if ok && all > 0 {
		share = distinct / all
	}
	if m.def.Keys[0].OpClass != jsonPathOps {
		perRow *= 2 // names and values
	}
	p.samples[id] = ginSample{perRow: max(1, perRow), distinct: max(share, 0.001)}
	return err
}

// sampleShare finds out what part of a few rows of the largest leaf passes a condition; not ok: it cannot be said.
func (e *explainer) sampleShare(ctx context.Context, t *table, condition string) (share float64, ok bool, err error) {
	l := t.largest()
	if l == nil {
		return 0, false, nil
	}
	percent := min(100, max(100*sampledPages/max(l.pages, 1), 0.0001))
	passed, all, err := e.numbers(ctx, fmt.Sprintf(shareSampleSQL, condition, relationKey(l.schema, l.name), percent))
	if err != nil && (ctx.Err() != nil || e.broken()) {
		return 0, false, err
	}
	return max(passed, 0.5) / (all + 1), err == nil && all > 0, nil // none seen: less than one in the sample
}

// sampleWidth finds out how many bytes an expression takes at most in a few rows of the largest leaf; not ok: it cannot be said.
func (e *explainer) sampleWidth(ctx context.Context, t *table, expression string) (widest float64, ok bool, err error) {
	l := t.largest()
	if l == nil {
		return 0, false, nil
	}
	percent := min(100, max(100*sampledPages/max(l.pages, 1), 0.0001))
	widest, values, err := e.numbers(ctx, fmt.Sprintf(widthSampleSQL, "("+expression+")", relationKey(l.schema, l.name), percent))
	if err != nil && (ctx.Err() != nil || e.broken()) {
		return 0, false, err
	}
	return widest, err == nil && values > 0, nil
}

// numbers runs a query of this program's own that gives two numbers.
func (e *explainer) numbers(ctx context.Context, sql string) (a, b float64, err error) {
	text, err := e.run(ctx, fmt.Sprintf("SET LOCAL statement_timeout = %d", sampleLimit.Milliseconds()), "SELECT "+ownMark+" a || ' ' || b FROM ("+sql+") AS n(a, b)")
	if err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscan(strings.TrimSpace(string(text)), &a, &b)
	return a, b, err
}
