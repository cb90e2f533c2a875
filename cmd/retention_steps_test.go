package cmd

import (
	"strings"
	"testing"
)

// moments are those of a run at which it is killed: before a step, after it, and where a step is part of a transaction, within that and after it.
func moments() map[string]func(string) bool {
	return map[string]func(string) bool{
		"seal":             inTurn("INSERT INTO auditdb.leaf"),
		"sealed":           inTurn("INSERT INTO auditdb.leaf", "commit", ""),
		"read":             inTurn(" TO STDOUT"),
		"put":              inTurn(".parquet"),
		"was put":          inTurn(".parquet", ""),
		"read back":        inTurn(".parquet", "GET /"),
		"manifest":         inTurn("_manifest"),
		"manifest was put": inTurn("_manifest", ""),
		"record":           inTurn("INSERT INTO auditdb.archive"),
		"recording":        inTurn("INSERT INTO auditdb.archive", ""),
		"recorded":         inTurn("INSERT INTO auditdb.archive", "commit", ""),
		"detach":           inTurn("DETACH PARTITION"),
		"detached":         inTurn("DETACH PARTITION", "FILTER"),
		"drop":             inTurn("DROP TABLE"),
		"dropping":         inTurn("DROP TABLE", ""),
		"dropped":          inTurn("DROP TABLE", "commit", ""),
	}
}

// A run that is killed right before or after any of its steps leaves each row in a table, or in an archive that reads back; the next run comes to the
// same end as one that nobody disturbs, and all verifies.
func TestRetentionKilledAtEachStep(t *testing.T) {
	t.Parallel()
	s := newStepped(t)
	for name, at := range moments() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := s.trial(t)
			if code, text := x.run(at); code != -1 {
				t.Fatalf("the moment never came: exit %d: %s", code, text)
			}
			p := x.open()
			x.safe(p, "60")
			x.converges(p, "60")
		})
	}
}

// What a killed run has detached is looked at again: rows that were changed since keep it, and so does a hold; it is attached again.
func TestRetentionLooksAtLeftoversAgain(t *testing.T) {
	t.Parallel()
	s := newStepped(t)
	for name, c := range map[string]struct {
		change func(p process)
		code   int
		rows   string // in the table afterwards
	}{
		"rows are gone": {func(p process) {
			p.exec("ALTER TABLE audit_log_2022_01 DISABLE TRIGGER ALL; DELETE FROM audit_log_2022_01 WHERE id IN (SELECT id FROM audit_log_2022_01 LIMIT 10)")
		}, 4, "50"},
		"held": {func(p process) { p.must("retention", "hold", "add", "--table", "public.audit_log", "--reason", "case") }, 0, "120"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := s.trial(t)
			if code, text := x.run(inTurn("DETACH PARTITION", "FILTER")); code != -1 {
				t.Fatalf("exit %d: %s", code, text)
			}
			p := x.open()
			if detached := p.scan("SELECT NOT relispartition FROM pg_class WHERE relname = 'audit_log_2022_01'"); detached != "t" {
				t.Fatal("it is not detached")
			}
			c.change(p)
			if code, text := p.run(t.Context(), "retention", "run", "--yes"); code != c.code {
				t.Errorf("exit %d: %s", code, text)
			}
			if rows := p.scan("SELECT count(*) FROM audit_log"); rows != c.rows {
				t.Errorf("the table has %s rows, not %s", rows, c.rows)
			}
		})
	}
}

// A row that is changed after the verification, in the moment before the partition is detached, keeps the partition: as many rows are not the same rows.
func TestRetentionSeesAChangeAfterVerification(t *testing.T) {
	t.Parallel()
	x := newStepped(t).trial(t)
	changed := false
	code, text := x.run(func(request string) bool {
		if !changed && strings.Contains(request, "DETACH PARTITION") {
			changed = true
			x.exec("ALTER TABLE audit_log_2022_01 DISABLE TRIGGER ALL; UPDATE audit_log_2022_01 SET action = 'forged' WHERE id = (SELECT min(id) FROM audit_log_2022_01); ALTER TABLE audit_log_2022_01 ENABLE TRIGGER ALL")
		}
		return false
	})
	if code != 6 || !strings.Contains(text, "audit_log_2022_01 is not dropped: its rows have changed") {
		t.Errorf("exit %d: %s", code, text)
	}
	p := x.open()
	if code, text := p.run(t.Context(), "retention", "run", "--yes"); code != 4 {
		t.Errorf("the next run: exit %d: %s", code, text)
	}
	if n := p.scan("SELECT count(*) FROM audit_log WHERE action = 'forged'"); n != "1" {
		t.Errorf("%s forged rows are left as evidence", n)
	}
}
