package postgres_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"auditdb/internal/fault"
	"auditdb/internal/pgtest"
	"auditdb/internal/postgres"
)

func TestDDLGivesUpAndNamesBlocker(t *testing.T) {
	t.Parallel()
	address := pgtest.Empty(t)
	db := open(t, postgres.Options{URL: address, Application: "partition.prune"})
	run(t, db, `CREATE TABLE public.t (s text)`, `CREATE ROLE ddl_owner`, `GRANT CREATE ON SCHEMA public TO ddl_owner`, `ALTER TABLE public.t OWNER TO ddl_owner`)
	t.Cleanup(func() {
		for _, sql := range []string{`DROP OWNED BY ddl_owner CASCADE`, `DROP ROLE ddl_owner`} {
			if _, err := db.Pool().Exec(context.WithoutCancel(t.Context()), sql); err != nil {
				t.Error(err)
			}
		}
	})
	reader, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close(t.Context()) }()
	for _, sql := range []string{`SET application_name = 'reporting'`, `BEGIN`, `SELECT * FROM public.t WHERE s = 'patient-4711'`} {
		if _, err := reader.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	var oid uint32
	if err := db.Pool().QueryRow(t.Context(), `SELECT 'public.t'::regclass::oid`).Scan(&oid); err != nil {
		t.Fatal(err)
	}
	blockers, err := db.Blockers(t.Context(), []uint32{oid})
	if err != nil || len(blockers) != 1 || blockers[0].Application != "reporting" || blockers[0].Mode != "AccessShareLock" || blockers[0].Relation != "public.t" || blockers[0].Age <= 0 {
		t.Fatalf("%+v, %v", blockers, err)
	}

	attempts := 0
	alter := func(tx pgx.Tx) error {
		attempts++
		_, err := tx.Exec(t.Context(), `ALTER TABLE public.t ADD COLUMN IF NOT EXISTS c int`)
		return err
	}
	o := postgres.DDLOptions{LockTimeout: 50 * time.Millisecond, Wait: 500 * time.Millisecond, Role: "ddl_owner", What: "add a column"}
	err = db.DDL(t.Context(), o, alter)
	wantClass(t, err, fault.Locked)
	for _, part := range []string{"add a column", "reporting", "idle in transaction", "WHERE s = ?"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
	if strings.Contains(err.Error(), "4711") {
		t.Errorf("a literal is shown: %v", err)
	}
	if attempts < 2 {
		t.Errorf("%d attempts", attempts)
	}
	attempts = 0
	o.Wait = 0
	wantClass(t, db.DDL(t.Context(), o, alter), fault.Locked)
	if attempts != 1 {
		t.Errorf("without waiting: %d attempts", attempts)
	}

	o.Wait = time.Minute
	done := make(chan error, 1)
	go func() { done <- db.DDL(t.Context(), o, alter) }()
	if _, err := reader.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	sentinel := errors.New("final")
	attempts = 0
	err = db.DDL(t.Context(), o, func(tx pgx.Tx) error {
		attempts++
		var role string
		if err := tx.QueryRow(t.Context(), `SELECT current_user`).Scan(&role); err != nil || role != "ddl_owner" {
			t.Errorf("role %s, %v", role, err)
		}
		return sentinel
	})
	if !errors.Is(err, sentinel) || attempts != 1 {
		t.Errorf("%v after %d attempts", err, attempts)
	}
	if got := show(t, db.Pool(), "lock_timeout"); got != "0" {
		t.Errorf("lock_timeout leaked: %s", got)
	}
}

func TestDDLDeadlockIsRetried(t *testing.T) {
	t.Parallel()
	db := open(t, postgres.Options{URL: pgtest.Empty(t)})
	tries := 0
	err := db.DDL(t.Context(), postgres.DDLOptions{Wait: time.Minute}, func(tx pgx.Tx) error {
		if tries++; tries == 1 {
			_, err := tx.Exec(t.Context(), `DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = 'deadlock_detected'; END $$`)
			return err
		}
		return nil
	})
	if err != nil || tries != 2 {
		t.Errorf("%v after %d tries", err, tries)
	}
}

func TestQueryShape(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"SELECT 1": "SELECT ?",
		"select * from t1 where a='x' and b=12.5e3": "select * from t1 where a=? and b=?",
		"INSERT INTO t VALUES ('it''s', E'a\\'b')":  "INSERT INTO t VALUES (?, ?)",
		"SELECT $tag$ secret $tag$, 1":              "SELECT ?",
		"SELECT /* secret */ x -- secret\n, y":      "SELECT x , y",
		"SELECT 'never closed secret":               "SELECT ?",
		`SELECT "Odd 1" FROM audit_log_2026_01`:     `SELECT "Odd 1" FROM audit_log_2026_01`,
		"SELECT $1, $12":                            "SELECT $1, $12",
		"":                                          "",
	} {
		if got := postgres.QueryShape(query); got != want {
			t.Errorf("%s: got %q, want %q", query, got, want)
		}
	}
	if got := postgres.QueryShape(strings.Repeat("é", 100)); len(got) > 64 {
		t.Errorf("%d bytes", len(got))
	}
}

func TestQueryShapeHidesLiterals(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		secret := "QZX" + rapid.StringMatching(`[a-z0-9 ;(]{0,20}`).Draw(r, "secret")
		quoted := rapid.SampledFrom([]string{"'" + secret + "'", "E'" + secret + "'", "$$" + secret + "$$", "$a$" + secret + "$a$", "'" + secret, "/*" + secret + "*/", "--" + secret + "\n", "U&'" + secret + "'", "B'" + secret + "'"}).Draw(r, "quoted")
		before := rapid.SampledFrom([]string{"SELECT ", "a=", "(", "x, 'y', "}).Draw(r, "before")
		if got := postgres.QueryShape(before + quoted + " FROM t"); strings.Contains(got, "QZX") {
			r.Fatalf("%q", got)
		}
	})
}

func FuzzQueryShape(f *testing.F) {
	f.Add("SELECT 'a' || $$b$$ -- c")
	f.Fuzz(func(t *testing.T, query string) {
		if got := postgres.QueryShape(query); len(got) > 64 {
			t.Errorf("%d bytes", len(got))
		}
	})
}
