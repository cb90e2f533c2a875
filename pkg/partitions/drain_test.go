package partitions

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// events is a table with a default partition and rows in it: per hours of n months from September 2026 on, rows each.
const drainTable = `CREATE TABLE public.ev (id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz NOT NULL, note text, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
CREATE INDEX ev_note_idx ON public.ev (note);
CREATE TABLE public.ev_default PARTITION OF public.ev DEFAULT`

func fill(from, to string, rows int) string {
	return fmt.Sprintf(`INSERT INTO public.ev (at, note) SELECT timestamptz '%s' + (timestamptz '%s' - timestamptz '%s') * g / %d, 'row ' || g FROM generate_series(0, %d) g`, from, to, from, rows, rows-1)
}

func (b *base) drain(t Table, o DrainOptions) ([]Created, *Draft, error) {
	var made []Created
	var d *Draft
	err := b.w.Locked(b.t.Context(), t, func(ctx context.Context) (err error) {
		if d, err = b.w.DraftDrain(ctx, t, o); err != nil {
			return err
		}
		made, err = b.w.ApplyCreate(ctx, d, nil)
		return err
	})
	return made, d, err
}

func TestDrain(t *testing.T) {
	t.Parallel()
	b := fresh(t, drainTable, fill("2026-08-01+00", "2026-11-01+00", 9200), fill("2026-12-01+00", "2026-12-03+00", 10),
		`INSERT INTO public.ev (at, note) VALUES ('infinity', 'i'), ('-infinity', 'j'), ('2099-01-01', 'k'), ('0044-01-01 BC', 'l'), ('2026-11-05', 'm')`,
		`COMMENT ON TABLE public.ev_default IS 'mine'`)
	sum := value[string](b, `SELECT count(*) || ' ' || sum(hashtextextended(e::text, 0)) FROM public.ev e`)
	table := b.table("public.ev")
	made, _, err := b.drain(table, DrainOptions{MaxFuture: 48 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	var names string
	for _, m := range made {
		names += fmt.Sprintf("%s %d, ", m.Name, m.Moved)
	}
	if want := "ev_2026_11 1, ev_2026_08 3100, ev_2026_09 3000, ev_2026_10 3100, "; names != want {
		t.Errorf("made %s, want %s", names, want)
	}
	if after := value[string](b, `SELECT count(*) || ' ' || sum(hashtextextended(e::text, 0)) FROM public.ev e`); after != sum {
		t.Errorf("rows are %s, were %s", after, sum)
	}
	left, err := b.w.DrainLeft(t.Context(), table, DrainOptions{MaxFuture: 48 * time.Hour}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(left); got != "[{infinite 2} {future 11} {out_of_range 1}]" {
		t.Errorf("left %s", got)
	}
	b.noLeftovers()
	if got := value[string](b, `SELECT string_agg(c.relname, ' ' ORDER BY c.relname) FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid WHERE x.indrelid = 'public.ev_default'::regclass`); got != "ev_default_note_idx ev_default_pkey" {
		t.Errorf("indexes of the default partition: %s", got)
	}
	if got := value[string](b, `SELECT obj_description('public.ev_default'::regclass)`); got != "mine" {
		t.Errorf("comment %q", got)
	}
	if got := fmt.Sprint(b.ledger.kinds()); got != "[attached moved attached attached attached moved moved moved]" {
		t.Errorf("events %s", got)
	}
	made, d, err := b.drain(table, DrainOptions{MaxFuture: 48 * time.Hour})
	if err != nil || len(made) != 0 || len(d.Plan.Steps) != 0 {
		t.Errorf("again: made %v, %v", made, err)
	}
}

// noLeftovers checks that no copy has left anything.
func (b *base) noLeftovers() {
	b.t.Helper()
	if got := value[string](b, `SELECT coalesce(string_agg(n, ' '), '') FROM (
		SELECT relname::text n FROM pg_class WHERE relname LIKE 'auditdb\_copy%' UNION ALL SELECT proname FROM pg_proc WHERE proname LIKE 'auditdb\_copy%'
		UNION ALL SELECT tgname FROM pg_trigger WHERE tgname LIKE 'auditdb\_copy%' UNION ALL SELECT conname FROM pg_constraint WHERE conname LIKE 'auditdb\_attach%') x`); got != "" {
		b.t.Errorf("left over: %s", got)
	}
}

// A large default partition is not searched while everybody waits: the server proves from checks that it has no rows of a new range, and a new
// default partition has none of all ranges.
func TestAttachDoesNotScan(t *testing.T) {
	t.Parallel()
	for kind, literals := range map[string][2]string{"timestamptz": {"timestamptz", "2026-11-01"}, "uuid": {"uuidv7", ""}, "bigint": {"epoch_ms", ""}} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			b := fresh(t, fmt.Sprintf(`CREATE TABLE public.ev (at %s) PARTITION BY RANGE (at)`, kind))
			key := Key{Column: "at", Kind: KeyKind(literals[0])}
			ranges := []Bounds{{From: at(t, "2026-01-01"), To: at(t, "2026-02-01")}, {From: at(t, "2026-02-01"), To: at(t, "2026-03-01")}, {From: at(t, "2026-06-01"), To: at(t, "2026-07-01")}}
			for i, r := range ranges {
				b.exec(fmt.Sprintf("CREATE TABLE public.p%d PARTITION OF public.ev %s", i, key.ForValues(r)))
			}
			b.exec("CREATE TABLE public.rest (at " + kind + ", CHECK (" + key.outside(ranges) + "))")
			config, err := pgx.ParseConfig(b.url)
			if err != nil {
				t.Fatal(err)
			}
			said := ""
			config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { said += n.Message + "\n" }
			conn, err := pgx.ConnectConfig(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close(t.Context()) }()
			more := Bounds{From: at(t, "2026-09-01"), To: at(t, "2026-10-01")}
			for _, sql := range []string{
				"SET client_min_messages = debug1", "ALTER TABLE public.ev ATTACH PARTITION public.rest DEFAULT",
				"ALTER TABLE public.rest ADD CHECK (" + key.outside([]Bounds{more}) + ")", "CREATE TABLE public.p9 (at " + kind + ", CHECK (" + key.within(more) + "))",
				"ALTER TABLE public.ev ATTACH PARTITION public.p9 " + key.ForValues(more),
			} {
				if _, err := conn.Exec(t.Context(), sql); err != nil {
					t.Fatal(sql, err)
				}
			}
			for _, want := range []string{`partition constraint for table "rest" is implied by existing constraints`, `updated partition constraint for default partition "rest" is implied by existing constraints`, `partition constraint for table "p9" is implied by existing constraints`} {
				if !strings.Contains(said, want) {
					t.Errorf("the server did not say that the %s, but\n%s", want, said)
				}
			}
		})
	}
}

func TestCreateBesideLargeDefault(t *testing.T) {
	t.Parallel()
	b := fresh(t, drainTable, `INSERT INTO public.ev (at, note) SELECT timestamptz '2026-09-01+00' + g * interval '1 second', repeat('x', 700) FROM generate_series(1, 50000) g`)
	table := b.table("public.ev")
	if made := b.create(table, CreateOptions{Ahead: 3}); len(made) != 4 {
		t.Errorf("made %v", made)
	}
	b.noLeftovers()
	b.exec(`INSERT INTO public.ev (at) VALUES ('2027-01-05')`)
}
