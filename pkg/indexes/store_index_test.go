package indexes

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
)

// base is a database of one test.
type base struct {
	*testing.T

	url string
	db  *postgres.DB
}

// fresh makes an empty database and runs statements in it.
func fresh(t *testing.T, statements ...string) *base {
	t.Helper()
	b := &base{T: t, url: pgtest.Empty(t)}
	b.db = b.open(b.url)
	b.exec(statements...)
	return b
}

func (b *base) open(url string) *postgres.DB {
	b.Helper()
	db, err := postgres.Open(b.Context(), postgres.Options{URL: url, Application: "test"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(db.Close)
	return db
}

// conn is a session as an application has it.
func (b *base) conn() *pgx.Conn {
	b.Helper()
	conn, err := pgx.Connect(b.Context(), b.url)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close(context.WithoutCancel(b.Context())) })
	return conn
}

func (b *base) exec(statements ...string) {
	b.Helper()
	conn := b.conn()
	for _, s := range statements {
		if _, err := conn.Exec(b.Context(), s); err != nil {
			b.Fatalf("%s: %v", s, err)
		}
	}
	if err := conn.Close(b.Context()); err != nil { // what was counted is told at the latest now
		b.Fatal(err)
	}
}

// value is what a query gives.
func value[T any](b *base, sql string, args ...any) (v T) {
	b.Helper()
	if err := b.db.Pool().QueryRow(b.Context(), sql, args...).Scan(&v); err != nil {
		b.Fatalf("%s: %v", sql, err)
	}
	return v
}

// available says whether the server has the extension's files: builds without contrib have not.
func (b *base) available(extension string) bool {
	b.Helper()
	return value[bool](b, "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = $1)", extension)
}

func (b *base) load(table string) []Index {
	b.Helper()
	found, err := Load(b.Context(), b.db.Pool(), []uint32{value[uint32](b, "SELECT $1::regclass::oid", table)})
	if err != nil {
		b.Fatal(err)
	}
	return found
}

// What is read of an index makes the same index again.
func TestLoad(t *testing.T) {
	t.Parallel()
	const table = `"S p"."We""ird, (%s) COLLATE ü"`
	b := fresh(t, `CREATE SCHEMA "S p"`, `CREATE COLLATION "S p"."my, coll" FROM "C"`,
		`CREATE FUNCTION "S p"."f, (x) DESC"(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1'`,
		`CREATE TABLE `+table+` (gone int, id bigint NOT NULL, "a, b DESC" text, "select" text COLLATE "C", j jsonb, at timestamptz NOT NULL, n int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)`,
		`ALTER TABLE `+table+` DROP COLUMN gone`,
		`CREATE TABLE "S p".leaf (j jsonb, n int, at timestamptz NOT NULL, id bigint NOT NULL, "a, b DESC" text, "select" text COLLATE "C")`,
		`ALTER TABLE `+table+` ATTACH PARTITION "S p".leaf FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')`)
	statements := []string{
		`(n)`, `(n DESC, at)`, `(n DESC NULLS LAST, at NULLS FIRST)`, `("a, b DESC" text_pattern_ops)`, `("a, b DESC" COLLATE "C" DESC)`,
		`("select" COLLATE "S p"."my, coll" text_pattern_ops)`, `USING gin (j)`, `USING gin (j jsonb_path_ops) WITH (fastupdate = off)`,
		`USING gin ((j->'tags'))`,
		`USING brin (at) WITH (pages_per_range = 8)`, `((j->>'x, (y)''') COLLATE "C" DESC, n)`, `((("S p"."f, (x) DESC"("a, b DESC")))) WHERE n > 3 AND "select" = 'x)'`,
		`((n + 1) DESC, (id)) INCLUDE ("select", "a, b DESC") WITH (fillfactor = 70)`, `(lower("a, b DESC"), at DESC) WHERE n IS NULL`,
		`((n || E'\\''\n')) WHERE "select" <> E'\\('`, `USING hash (n)`, `((CASE WHEN n > 1 THEN ')' ELSE '(' END))`,
	}
	if b.available("pg_trgm") {
		b.exec(`CREATE EXTENSION pg_trgm`)
		statements = append(statements, `USING gin ((j->'x'), "select" public.gin_trgm_ops)`, `USING gist ("select" public.gist_trgm_ops (siglen = 32))`)
	}
	for _, s := range statements {
		b.exec(`CREATE INDEX ON ` + table + ` ` + s)
	}
	b.exec(`CREATE UNIQUE INDEX "one, USING btree (" ON ` + table + ` (n, at) INCLUDE (id)`)
	conn := b.conn()
	found := b.load(table)
	if len(found) != 2*(len(statements)+2) {
		t.Fatalf("%d indexes", len(found))
	}
	for _, i := range found {
		again := i.Definition
		again.Name = "again"
		if _, err := conn.Exec(t.Context(), again.create(map[bool]string{true: only}[i.Partitioned])); err != nil {
			t.Fatalf("%s: %v", again.DDL(), err)
		}
		const def = `SELECT regexp_replace(pg_get_indexdef($1::oid), '^(CREATE (UNIQUE )?INDEX) ("([^"]|"")*"|\S+)', '\1')`
		oid := value[uint32](b, `SELECT '"S p".again'::regclass::oid`)
		if got, want := value[string](b, def, oid), value[string](b, def, i.OID); got != want {
			t.Errorf("%s\nmade    %s\ninstead %s", again.DDL(), got, want)
		}
		for _, o := range b.load(table) {
			if o.OID == oid && !o.Equal(i.Definition) {
				t.Errorf("not equal: %+v\n%+v", o, i)
			}
		}
		if _, err := conn.Exec(t.Context(), `DROP INDEX "S p".again`); err != nil {
			t.Fatal(err)
		}
	}
}
