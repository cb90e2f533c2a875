package integrity

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
)

func (f *fixture) redact(ids ...int64) error {
	f.t.Helper()
	return f.db.Tx(f.t.Context(), func(tx pgx.Tx) error {
		_, err := f.log.Redact(f.t.Context(), tx, time.Now(), f.table, ids)
		return err
	})
}

// Erased rows verify by their commitments, whether ingest wrote them or another application, with and without a salt of their own; and
// nothing else may have happened to them.
func TestRedaction(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	first := f.batch(0, 60)
	f.insert(1, 10)
	f.exec("UPDATE public.audit_log SET salt = NULL WHERE id < 4")
	f.seal()
	salts := "SELECT encode(salts, 'hex') FROM auditdb.leaf WHERE salts IS NOT NULL"
	before := f.text(salts)
	if err := f.redact(1, 2, 7, first+3, first+4, first+59, 1<<50); err != nil {
		t.Fatal(err)
	}
	if n := f.int("SELECT count(*) FROM public.audit_log WHERE coalesce(principal_id, target_resource_id, outcome_description, details::text, salt::text) IS NULL"); n != 6 {
		t.Errorf("%d rows were erased", n)
	}
	if after := f.text(salts); after == before || after[:64] != fmt.Sprintf("%064d", 0) || after[64:] != before[64:] {
		t.Error("salts", before, after)
	}
	f.clean()
	if err := f.redact(first + 3); fault.ClassOf(err) != fault.Refused {
		t.Error("erased twice:", err)
	}
	f.insert(2, 1)
	if err := f.redact(f.int("SELECT max(id) FROM public.audit_log WHERE id < 1000000")); fault.ClassOf(err) != fault.Refused {
		t.Error("erased before it was sealed:", err)
	}
	if err := f.redact(first + 5); err != nil {
		t.Fatal(err)
	}
	f.seal()
	f.clean()
	f.attacksOnErased(first)
}

func (f *fixture) attacksOnErased(first int64) {
	f.t.Helper()
	for _, a := range []struct{ name, sql, want string }{
		{"core column", fmt.Sprintf("UPDATE public.audit_log SET action = 'x' WHERE id = %d", first+3), "row_modified/error"},
		{"personal data back", fmt.Sprintf("UPDATE public.audit_log SET principal_id = 'x' WHERE id = %d", first+3), "redaction_mismatch/error"},
		{"salt back", fmt.Sprintf("UPDATE public.audit_log SET salt = gen_random_uuid() WHERE id = %d", first+3), "redaction_mismatch/error"},
		{"erased without a record", fmt.Sprintf("UPDATE public.audit_log SET principal_id = NULL, target_resource_id = NULL, outcome_description = NULL, details = NULL, salt = NULL WHERE id = %d", first+9), "row_modified/error"},
		{"listed without a record", fmt.Sprintf("INSERT INTO auditdb.redaction SELECT 1, %d, 3, sha256('x')", first+9), "redaction_unlogged/error"},
		{"listed beside others", fmt.Sprintf("INSERT INTO auditdb.redaction SELECT 1, %d, max(seq), sha256('x') FROM auditdb.redaction", first+9), "redaction_mismatch/error"},
		{"commitment changed", fmt.Sprintf("UPDATE auditdb.redaction SET pers_commit = sha256('x') WHERE id = %d", first+3), "redaction_mismatch/error"},
		{"list gone", "DELETE FROM auditdb.redaction", "redaction_mismatch/error"},
		{"record changed", "UPDATE auditdb.log SET record = regexp_replace(record, 'token ..', 'token 00') WHERE record LIKE 'auditdb/1 redact%'", "redaction_unlogged/error"},
	} {
		f.exec("CREATE TABLE public.a AS TABLE auditdb.redaction; CREATE TABLE public.b AS TABLE public.audit_log; CREATE TABLE public.c AS SELECT seq, record FROM auditdb.log")
		f.exec(a.sql)
		if r := f.verify(); r.OK || !slices.Contains(r.types(), a.want) {
			f.t.Errorf("%s: want %s, got\n%s", a.name, a.want, r.text())
		}
		f.exec(`DELETE FROM auditdb.redaction; INSERT INTO auditdb.redaction TABLE public.a; DELETE FROM public.audit_log; INSERT INTO public.audit_log OVERRIDING SYSTEM VALUE TABLE public.b;
UPDATE auditdb.log l SET record = c.record FROM public.c WHERE c.seq = l.seq AND c.record <> l.record; DROP TABLE public.a, public.b, public.c`)
	}
	f.clean()
}

// Rows that come back by a logged restore are expected again, with their leaf sets.
func TestRestored(t *testing.T) {
	t.Parallel()
	f, _ := filled(t)
	jan := month(0)
	f.lifecycle("CREATE TABLE public.copy AS SELECT * FROM public.audit_log_2024_01; DROP TABLE public.audit_log_2024_01", &Prune{Table: 1, Partition: jan, Rows: 120})
	f.clean()
	f.lifecycle("CREATE TABLE public.again PARTITION OF public.audit_log FOR VALUES FROM ('2024-01-01') TO ('2024-02-01'); INSERT INTO public.audit_log OVERRIDING SYSTEM VALUE SELECT * FROM public.copy",
		&Restore{Table: 1, Partition: jan, Generation: 1, Rows: 120})
	if r := f.clean(); r.RowsChecked != 230 {
		t.Error(r.RowsChecked)
	}
	f.exec("UPDATE public.again SET ttl = 'x' WHERE id = 3")
	if r := f.verify(); r.OK {
		t.Error("a changed row was not found")
	}
}
