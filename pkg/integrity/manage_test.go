package integrity

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"auditdb/internal/fault"
)

// rotate gives the fixture's log a new key.
func (f *fixture) rotate() *Keys {
	f.t.Helper()
	next, err := f.log.keys.Next("")
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := Rotate(f.t.Context(), f.db, time.Now(), time.Second, next); err != nil {
		f.t.Fatal(err)
	}
	return next
}

func with(keys *Keys, public *PublicKey) func(*VerifyOptions) {
	return func(o *VerifyOptions) { o.Keys, o.Public = keys, public }
}

// After a rotation both keys count until one is revoked; verifiers with an older public key follow the log to the new one.
func TestRotation(t *testing.T) {
	t.Parallel()
	f, _ := filled(t)
	old := f.log.keys
	next := f.rotate()
	anchor := f.clean(with(next, nil)).Checkpoint.Note
	f.batch(1, 5) // a writer that has not heard of it
	oldLog := f.log
	f.log = NewLog(next)
	f.batch(2, 5)
	for name, o := range map[string]func(*VerifyOptions){
		"both": with(next, nil), "old public key": with(nil, old.pub), "new public key": with(nil, next.pub),
	} {
		if r := f.clean(o, func(o *VerifyOptions) { o.Anchors = []External{{Source: "x", Note: anchor}} }); r.Unproven != "" || strings.Contains(r.Assurance, "NO EXTERNAL") {
			t.Error(name, r.Unproven, r.Assurance)
		}
	}
	if r := f.verify(with(old, nil)); r.OK || r.Errors != 0 || !strings.Contains(r.Unproven, "lacks key "+next.id) {
		t.Error(r.Unproven, r.text())
	}
	if res, err := Rotate(t.Context(), f.db, time.Now(), time.Second, next); err != nil || len(res.Seqs) != 0 {
		t.Error("twice:", res, err)
	}
	if _, err := f.log.Revoke(t.Context(), f.db, time.Now(), next.id, ""); fault.ClassOf(err) != fault.Refused {
		t.Error(err)
	}
	if _, err := f.log.Revoke(t.Context(), f.db, time.Now(), old.id, "laptop lost"); err != nil {
		t.Fatal(err)
	}
	if err := oldLog.Check(t.Context(), f.db); fault.ClassOf(err) != fault.Config {
		t.Error("the revoked key writes on:", err)
	}
	f.batch(0, 5)
	for _, o := range []func(*VerifyOptions){with(next, nil), with(nil, old.pub), with(nil, next.pub)} {
		if r := f.clean(o); r.Unproven != "" {
			t.Error(r.Unproven)
		}
	}
	f.forgeWith(old)
	if r := f.verify(with(next, nil)); r.OK || !slices.Contains(r.types(), "key_unknown/error") {
		t.Error(r.text())
	}
}

// forgeWith appends a record and a checkpoint with a key, whatever the log says of it.
func (f *fixture) forgeWith(k *Keys) {
	f.t.Helper()
	cur, _, err := f.log.look(f.t.Context(), f.db)
	if err != nil {
		f.t.Fatal(err)
	}
	ctl := newControl()
	ctl.origin, ctl.keys[k.id] = k.origin, Key{}
	w := writer{keys: k, ctl: ctl, at: time.Now().UTC().Truncate(time.Microsecond), edge: cur.edge}
	if err := w.add(Entry{Body: &Prune{Table: 1, Partition: month(0), Rows: 125}}); err != nil {
		f.t.Fatal(err)
	}
	root, err := w.edge.root()
	if err != nil {
		f.t.Fatal(err)
	}
	cp, err := k.signCheckpoint(w.edge.size, root)
	if err != nil {
		f.t.Fatal(err)
	}
	f.exec(fmt.Sprintf("INSERT INTO auditdb.log VALUES (%d, '%s', '%s', '\\x%x'); INSERT INTO auditdb.checkpoint VALUES (%d, '\\x%x', '%s')", w.seqs[0], w.records[0], k.id, w.macs[0], cp.Size, root[:], cp.Note))
	for i, at := range w.hashAt {
		f.exec(fmt.Sprintf("INSERT INTO auditdb.log_hash VALUES (%d, '\\x%x')", at, w.hashes[i]))
	}
}

// A superuser who puts a key of his own into the log gets nowhere, with the secret at hand or the public key alone.
func TestForgedKeyRecord(t *testing.T) {
	t.Parallel()
	f, _ := filled(t)
	mine := f.log.keys
	public := f.clean().Checkpoint
	forged, err := Generate(mine.origin)
	if err != nil {
		t.Fatal(err)
	}
	cur, ctl, err := f.log.look(t.Context(), f.db)
	if err != nil {
		t.Fatal(err)
	}
	w := writer{keys: forged, ctl: ctl, at: time.Now().UTC().Truncate(time.Microsecond), edge: cur.edge}
	if err := w.add(Entry{Body: &Key{KeyID: forged.id, Check: forged.check, Public: forged.pub.Encode()}}); err != nil {
		t.Fatal(err)
	}
	root, err := w.edge.root()
	if err != nil {
		t.Fatal(err)
	}
	cp, err := forged.signCheckpoint(w.edge.size, root)
	if err != nil {
		t.Fatal(err)
	}
	f.exec(fmt.Sprintf("INSERT INTO auditdb.log VALUES (%d, '%s', '%s', '\\x%x'); INSERT INTO auditdb.checkpoint VALUES (%d, '\\x%x', '%s')", w.seqs[0], w.records[0], forged.id, w.macs[0], cp.Size, root[:], cp.Note))
	for i, at := range w.hashAt {
		f.exec(fmt.Sprintf("INSERT INTO auditdb.log_hash VALUES (%d, '\\x%x')", at, w.hashes[i]))
	}
	for name, o := range map[string]func(*VerifyOptions){"secret": with(mine, nil), "public": with(nil, mine.pub)} {
		if r := f.verify(o); r.OK || r.Errors == 0 {
			t.Error(name, r.text())
		} else if r.Checkpoint == nil || r.Checkpoint.Size != public.Size {
			t.Error(name, r.Checkpoint)
		}
	}
	if err := f.log.Check(t.Context(), f.db); err == nil {
		t.Error("the log would be extended")
	}
}

// A database on another server must not extend the log, until it forks it or has replaced the other.
func TestForkAndMove(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"fork", "move"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			f, _ := filled(t)
			f.otherServer()
			f.clean() // a dump that was restored
			if err := f.log.Check(t.Context(), f.db); fault.ClassOf(err) != fault.Refused || !strings.Contains(fault.HintOf(err), "integrity fork") {
				t.Fatal(err)
			}
			old := f.log.keys
			if how == "move" {
				if _, err := f.log.Move(t.Context(), f.db, time.Now(), "new hardware"); err != nil {
					t.Fatal(err)
				}
			} else {
				next, err := old.Next("test.example/copy")
				if err != nil {
					t.Fatal(err)
				}
				done, err := Fork(t.Context(), f.db, time.Now(), time.Second, next, "staging")
				if err != nil || done.Checkpoint.Origin != "test.example/copy" || strings.Count(done.Checkpoint.Note, "\u2014") != 1 {
					t.Fatal(done, err)
				}
				f.log = NewLog(next)
				if err := NewLog(old).Check(t.Context(), f.db); err == nil {
					t.Error("the old key extends the fork")
				}
				if r := f.verify(with(nil, old.pub)); r.OK || r.Errors > 0 || !r.WrongKey {
					t.Error(r.text())
				}
				f.clean(with(nil, next.pub))
			}
			f.batch(0, 5)
			f.clean()
		})
	}
}

// otherServer makes the log look as if it had been written on another server.
func (f *fixture) otherServer() {
	f.t.Helper()
	f.rewrite(func(r *Record) {
		if g, ok := r.Body.(*Genesis); ok {
			g.System++
		}
	})
}

// rewrite writes the log anew with its own key, as only its owner can.
func (f *fixture) rewrite(change func(*Record)) {
	f.t.Helper()
	ctx := f.t.Context()
	n := f.int("SELECT count(*) FROM auditdb.log")
	stored, err := readRecords(ctx, f.db.Pool(), 0, n)
	if err != nil {
		f.t.Fatal(err)
	}
	ctl := newControl()
	w := writer{keys: f.log.keys, ctl: ctl}
	sql := ""
	for seq := range n {
		r, err := Parse([]byte(stored[seq].text))
		if err != nil {
			f.t.Fatal(err)
		}
		change(&r)
		w.at = r.Time
		if err := w.add(Entry{Body: r.Body}); err != nil {
			f.t.Fatal(err)
		}
		sql += fmt.Sprintf("UPDATE auditdb.log SET record = '%s', mac = '\\x%x' WHERE seq = %d;", w.records[seq], w.macs[seq], seq)
		if f.int("SELECT count(*) FROM auditdb.checkpoint WHERE size = $1", seq+1) > 0 {
			end, err := w.finish()
			if err != nil {
				f.t.Fatal(err)
			}
			sql += fmt.Sprintf("UPDATE auditdb.checkpoint SET root = '\\x%x', note = '%s' WHERE size = %d;", end.root[:], w.checkpoint.Note, seq+1)
		}
	}
	for i, at := range w.hashAt {
		sql += fmt.Sprintf("UPDATE auditdb.log_hash SET hash = '\\x%x' WHERE idx = %d;", w.hashes[i], at)
	}
	f.exec(sql)
	f.log = NewLog(f.log.keys)
}

// The loss of commits is accepted for the checkpoints that it explains, and for no other.
func TestAcceptLoss(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.batch(0, 10)
	old := f.clean().Checkpoint
	f.batch(1, 10)
	lost := f.clean().Checkpoint
	f.truncate(old.Size)
	f.log = NewLog(f.log.keys)
	both := func(o *VerifyOptions) {
		o.Anchors = []External{{Source: "lost", Note: lost.Note}, {Source: "old", Note: old.Note}}
	}
	if r := f.verify(both); !slices.Equal(r.types(), []string{"log_truncated/error"}) {
		t.Error(r.text())
	}
	if _, err := f.log.AcceptLoss(t.Context(), f.db, time.Now(), -1, old.Size, "x"); fault.ClassOf(err) != fault.Usage {
		t.Error(err)
	}
	if _, err := f.log.AcceptLoss(t.Context(), f.db, time.Now(), -1, lost.Size, "failover"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		r := f.clean(both)
		if !strings.Contains(r.Assurance, "its loss was accepted") || !strings.Contains(r.Assurance, "old covers") || !strings.Contains(r.Assurance, "LOSS ACCEPTED") {
			t.Error(r.Assurance)
		}
		f.batch(2, 3)
	}
	newer := f.clean().Checkpoint
	f.truncate(newer.Size - 1)
	if r := f.verify(func(o *VerifyOptions) { o.Anchors = []External{{Source: "newer", Note: newer.Note}} }); r.OK {
		t.Error("a later loss passes for the accepted one:", r.Assurance)
	}
}

// truncate takes the end of the log away, with the rows of February, as a failover does.
func (f *fixture) truncate(size int64) {
	f.t.Helper()
	f.exec(fmt.Sprintf(`DELETE FROM public.audit_log_2024_02; DELETE FROM auditdb.leaf WHERE seq >= %[1]d; DELETE FROM auditdb.log_partition WHERE seq >= %[1]d;
DELETE FROM auditdb.log WHERE seq >= %[1]d; DELETE FROM auditdb.checkpoint WHERE size > %[1]d;
DELETE FROM auditdb.log_hash WHERE idx >= 2 * %[1]d - bit_count(%[1]d::bigint::bit(64))`, size))
}

func TestKeyFilesOfSeveralKeys(t *testing.T) {
	t.Parallel()
	first := exampleKeys()
	second, err := first.Next("")
	if err != nil {
		t.Fatal(err)
	}
	third, err := second.Next("test.example/other")
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseKeys(third.Encode())
	if err != nil || again.id != third.id || len(again.older) != 2 || again.older[0].id != second.id || again.older[1].id != first.id || again.find(first.id).check != first.check {
		t.Fatal(again, err)
	}
	if b := again.before(); b.id != second.id || b.find(third.id) == nil || b.find(first.id) == nil || len(b.all()) != 3 {
		t.Error(b.all())
	}
	renamed, err := third.WithOrigin("test.example/renamed")
	if err != nil || renamed.older[0].origin != first.origin || renamed.id != third.id {
		t.Error(renamed, err)
	}
}
