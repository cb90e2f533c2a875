package integrity

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/audit"
)

func (f *fixture) prove(id int64, change ...func(*ProveOptions)) (*EventProof, *ProvenEvent, error) {
	f.t.Helper()
	tables, err := ManagedTables(f.t.Context(), f.db.Pool())
	if err != nil {
		f.t.Fatal(err)
	}
	o := ProveOptions{ID: id, Tables: tables, Keys: []*PublicKey{f.log.Keys().Public()}}
	for _, c := range change {
		c(&o)
	}
	return ProveEvent(f.t.Context(), f.db, o)
}

// proven proves a row and checks the proof as a stranger does.
func (f *fixture) proven(id int64, change ...func(*ProveOptions)) *ProvenEvent {
	f.t.Helper()
	p, _, err := f.prove(id, change...)
	if err != nil {
		f.t.Fatal(err)
	}
	e, err := checkText(mustEncode(f.t, p), f.log.Keys().Public())
	if err != nil || e.ID != id {
		f.t.Fatal(e, err)
	}
	return e
}

// refused says why a row cannot be proven.
func (f *fixture) refused(id int64, class fault.Class, want string, change ...func(*ProveOptions)) {
	f.t.Helper()
	_, _, err := f.prove(id, change...)
	if err == nil || fault.ClassOf(err) != class || !strings.Contains(err.Error(), want) {
		f.t.Errorf("row %d: %v, want %s: %s", id, err, class, want)
	}
}

func (f *fixture) ids(sql string, args ...any) []int64 {
	f.t.Helper()
	rows, err := f.db.Pool().Query(f.t.Context(), sql, args...)
	if err != nil {
		f.t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		f.t.Fatal(err)
	}
	return ids
}

// Every row, of ingest and of other writers, can be proven, with exactly the fields that it has.
func TestProve(t *testing.T) {
	t.Parallel()
	f, first := filled(t)
	for _, id := range f.ids("SELECT id FROM public.audit_log WHERE id % 7 = 0 OR id < 10 ORDER BY id") {
		e := f.proven(id)
		for _, field := range e.Fields {
			// timestamps and numbers as text differ in spelling only; those are compared in TestFieldText
			if field.Type != "text" && field.Type != "jsonb" {
				continue
			}
			var want *string
			sql := fmt.Sprintf("SELECT %s::text FROM public.audit_log WHERE id = %d", pgx.Identifier{field.Name}.Sanitize(), id)
			if err := f.db.Pool().QueryRow(t.Context(), sql).Scan(&want); err != nil {
				t.Fatal(err)
			}
			if (want == nil) != (field.Value == nil) || want != nil && *want != *field.Value {
				t.Errorf("row %d, %s: the proof has %v", id, field.Name, field.Value)
			}
		}
	}
	e := f.proven(first+3, func(o *ProveOptions) { o.HidePersonal = true })
	if !e.Hidden || e.Fields[17].Value != nil || e.Fields[4].Value == nil {
		t.Error("personal fields are shown", e)
	}
	if _, _, err := f.prove(first, func(o *ProveOptions) { o.Keys = nil }); err != nil {
		t.Error("without a key:", err)
	}
	stranger, err := Generate("test.example/log")
	if err != nil {
		t.Fatal(err)
	}
	f.refused(first, fault.Unavailable, "test.example/log", func(o *ProveOptions) { o.Keys = []*PublicKey{stranger.Public()} })
}

// A proof can be made to any checkpoint of the log that covers the row.
func TestProveToCheckpoint(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	first := f.batch(0, 9)
	old := f.text("SELECT note FROM auditdb.checkpoint ORDER BY size DESC LIMIT 1")
	second := f.batch(1, 5)
	if e := f.proven(first+8, func(o *ProveOptions) { o.Checkpoint = old }); e.Checkpoint.Note != old {
		t.Error("it is proven to another checkpoint")
	}
	f.refused(second, fault.Data, "was logged after the checkpoint", func(o *ProveOptions) { o.Checkpoint = old })
	other := newFixture(t)
	other.log = f.log // the same keys, another history
	other.batch(0, 1)
	fork := other.text("SELECT note FROM auditdb.checkpoint ORDER BY size DESC LIMIT 1")
	f.refused(first, fault.Integrity, "log_forked", func(o *ProveOptions) { o.Checkpoint = fork })
	for range 3 {
		other.batch(1, 1)
	}
	longer := other.text("SELECT note FROM auditdb.checkpoint ORDER BY size DESC LIMIT 1")
	f.refused(first, fault.Integrity, "log_truncated", func(o *ProveOptions) { o.Checkpoint = longer })
	f.refused(first, fault.Unavailable, "malformed checkpoint", func(o *ProveOptions) { o.Checkpoint = "nothing" })
}

// What cannot be proven is refused with the reason.
func TestProveRefusals(t *testing.T) {
	t.Parallel()
	empty := newFixture(t)
	empty.refused(1, fault.Data, "nothing has been logged")
	f, first := filled(t)
	f.insert(0, 1)
	f.refused(f.int("SELECT max(id) FROM public.audit_log WHERE id < 1099511627776"), fault.Data, "not sealed yet")
	f.refused(999, fault.Usage, "there is no row 999")
	f.refused(first+70, fault.Usage, "there is no row")
	f.refused(-1, fault.Usage, "there is no row")
	f.exec(fmt.Sprintf("INSERT INTO public.audit_log (id, timestamp, action, status) OVERRIDING SYSTEM VALUE VALUES (%d, '2024-01-05', 'a', 's')", first+70))
	f.refused(first+70, fault.Integrity, "row_unexpected")
	f.exec(fmt.Sprintf("UPDATE public.audit_log SET status = 'failure' WHERE id = %d", first+1))
	f.refused(first+1, fault.Integrity, "row_modified")
	f.exec(fmt.Sprintf("DELETE FROM public.audit_log WHERE id = %d", first+2))
	f.refused(first+2, fault.Integrity, "row_missing")
	f.proven(first + 3)
	f.exec(fmt.Sprintf("UPDATE auditdb.leaf SET leaves = overlay(leaves PLACING sha256(leaves) FROM 1) WHERE min_id = %d", first))
	f.refused(first+3, fault.Integrity, "leaves_corrupt")
}

// A true row is found wherever it is; a false one beside it does not matter.
func TestProveMovedRows(t *testing.T) {
	t.Parallel()
	f, first := filled(t)
	f.exec("ALTER TABLE public.audit_log_2024_01 RENAME TO january")
	f.proven(first)
	f.exec("ALTER TABLE public.audit_log DETACH PARTITION public.january; ALTER TABLE public.january RENAME TO audit_log_2024_01")
	f.proven(first)
	f.exec("ALTER TABLE public.audit_log ATTACH PARTITION public.audit_log_2024_01 FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')")
	f.exec("CREATE TABLE public.april PARTITION OF public.audit_log FOR VALUES FROM ('2024-04-01') TO ('2024-05-01')")
	f.exec(fmt.Sprintf("INSERT INTO public.audit_log (id, timestamp, action, status) OVERRIDING SYSTEM VALUE VALUES (%d, '2024-04-01', 'a', 's')", first))
	f.proven(first)
	f.exec(fmt.Sprintf("UPDATE public.audit_log SET timestamp = '2024-04-02' WHERE id = %d", first+1))
	f.refused(first+1, fault.Integrity, "row_modified")
}

// Rows that were sealed without a salt of their own are proven with the one in the leaf store; erased ones with their commitment.
func TestProveSaltsAndErasure(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	first := f.batch(0, 9)
	f.insert(0, 3)
	f.exec("UPDATE public.audit_log SET salt = NULL WHERE id < 1099511627776")
	f.seal()
	for _, id := range f.ids("SELECT id FROM public.audit_log WHERE id < 1099511627776") {
		f.proven(id)
	}
	p, _, err := f.prove(first + 4)
	if err != nil {
		t.Fatal(err)
	}
	commit := audit.NewHasher(audit.AuditLog()).CommitOf(joinFields(p.Personal), p.Salt[:])
	f.exec(fmt.Sprintf(`INSERT INTO auditdb.redaction (table_id, id, seq, pers_commit) VALUES (1, %d, 1, '\x%x');
UPDATE public.audit_log SET principal_id = NULL, target_resource_id = NULL, outcome_description = NULL, details = NULL, salt = NULL WHERE id = %d`, first+4, commit, first+4))
	if e := f.proven(first + 4); !e.Hidden || *e.Fields[4].Value == "" {
		t.Error(e)
	}
	f.exec(fmt.Sprintf("UPDATE public.audit_log SET action = 'x' WHERE id = %d", first+4))
	f.refused(first+4, fault.Integrity, "row_modified")
}

// Rows that went with their partition.
func TestProvePruned(t *testing.T) {
	t.Parallel()
	f, first := filled(t)
	february := f.ids("SELECT id FROM public.audit_log WHERE timestamp >= '2024-02-01' AND timestamp < '2024-03-01' ORDER BY id DESC LIMIT 1")[0]
	f.exec("DROP TABLE public.audit_log_2024_02")
	f.refused(february, fault.Integrity, "row_missing")
	f.append1(Entry{Table: f.table, Body: &Prune{Table: f.table.ID, Partition: month(1), Rows: 60}})
	f.refused(february, fault.Data, "which was pruned at")
	f.proven(first)
}

// Whoever may read the table and the log's public part can prove rows; the salts of adopted rows are the verifier's.
func TestProveWithFewRights(t *testing.T) {
	t.Parallel()
	f, first := filled(t)
	f.insert(2, 1)
	f.exec("UPDATE public.audit_log SET salt = NULL WHERE id = (SELECT max(id) FROM public.audit_log WHERE id < 1099511627776)")
	f.seal()
	adopted := f.int("SELECT id FROM public.audit_log WHERE salt IS NULL")
	owner := f.db
	for _, role := range []string{"auditdb_reader", "auditdb_verifier"} {
		f.db = openDB(t, owner.Pool().Config().ConnString()+"&options=-crole%3D"+role)
		if who := f.text("SELECT current_user"); who != role {
			t.Fatal("the role is", who)
		}
		f.proven(first)
		f.proven(1)
		_, _, err := f.prove(adopted)
		if denied := postgres.SQLState(err) == postgres.InsufficientPrivilege; denied != (role == "auditdb_reader") || !denied && err != nil {
			t.Error(role, err)
		}
	}
}

// The rows of a partition that was cut are proven wherever the pieces are; those of a piece that was pruned are listed as gone.
func TestProveSplitRows(t *testing.T) {
	t.Parallel()
	f, _ := filled(t)
	pieces := f.split()
	one := func(p PartitionRef) int64 {
		return f.ids("SELECT id FROM public." + p.Name + " WHERE id >= 1099511627776 ORDER BY id LIMIT 1")[0]
	}
	a, b, c := one(pieces[0]), one(pieces[1]), one(pieces[2])
	for _, id := range []int64{a, b, c} {
		f.proven(id)
	}
	f.detach(pieces[1])
	f.proven(b)
	f.drop(pieces[1])
	f.refused(b, fault.Data, "is gone for good")
	f.proven(a)
	f.exec(fmt.Sprintf("DELETE FROM public.audit_log WHERE id = %d", c))
	f.refused(c, fault.Integrity, "row_missing")
}

// Rows that were erased as the log has it are proven without what is gone.
func TestProveRedacted(t *testing.T) {
	t.Parallel()
	f, first := filled(t)
	sealed := f.ids("SELECT min(id) FROM public.audit_log")[0]
	if err := f.redact(first+5, sealed); err != nil {
		t.Fatal(err)
	}
	for _, id := range []int64{first + 5, sealed} {
		if e := f.proven(id); !e.Hidden || e.Fields[4].Value == nil {
			t.Error(e)
		}
	}
	f.proven(first + 6)
}

func (f *fixture) append1(e Entry) {
	f.t.Helper()
	err := f.db.Tx(f.t.Context(), func(tx pgx.Tx) error {
		_, err := f.log.Append(f.t.Context(), tx, monthsEnd, []Entry{e}, nil)
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

var monthsEnd = month(3).Range.To

func TestProveConsistency(t *testing.T) {
	t.Parallel()
	f, _ := filled(t)
	tables, err := ManagedTables(t.Context(), f.db.Pool())
	if err != nil {
		t.Fatal(err)
	}
	pub := f.log.Keys().Public()
	o := ProveOptions{Tables: tables, Keys: []*PublicKey{pub}}
	notes := f.notes()
	for _, old := range notes {
		p, _, _, err := ProveConsistency(t.Context(), f.db, old, o)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseConsistencyProof(mustEncode(t, p))
		if err != nil {
			t.Fatal(err)
		}
		older, newer, err := again.Check(pub)
		if err != nil || older.Note != old || newer.Note != notes[len(notes)-1] {
			t.Error(err)
		}
	}
	o.Checkpoint = notes[1]
	if _, _, newer, err := ProveConsistency(t.Context(), f.db, notes[0], o); err != nil || newer.Note != notes[1] {
		t.Error(err)
	}
	if _, _, _, err := ProveConsistency(t.Context(), f.db, notes[2], o); fault.ClassOf(err) != fault.Integrity {
		t.Error("backwards:", err)
	}
	o.Checkpoint = ""
	f.exec("UPDATE auditdb.log_hash SET hash = sha256(hash)")
	if _, _, _, err := ProveConsistency(t.Context(), f.db, notes[0], o); fault.ClassOf(err) != fault.Integrity {
		t.Error("with a damaged tree:", err)
	}
	f.refused(1, fault.Integrity, "log_root_mismatch")
}

func (f *fixture) notes() []string {
	f.t.Helper()
	rows, err := f.db.Pool().Query(f.t.Context(), "SELECT note FROM auditdb.checkpoint ORDER BY size")
	if err != nil {
		f.t.Fatal(err)
	}
	notes, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		f.t.Fatal(err)
	}
	return notes
}

// A proof that was made once is the same when it is made again to the same checkpoint.
func TestProofIsStable(t *testing.T) {
	t.Parallel()
	f, first := filled(t)
	note := f.notes()[len(f.notes())-1]
	a, _, err := f.prove(first)
	if err != nil {
		t.Fatal(err)
	}
	f.batch(2, 3)
	b, _, err := f.prove(first, func(o *ProveOptions) { o.Checkpoint = note })
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(mustEncode(t, a), mustEncode(t, b)) {
		t.Error("they differ")
	}
}
