package integrity

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"auditdb/internal/fault"
	"auditdb/pkg/audit"
)

// checkText is what check-proof does with a file.
func checkText(text []byte, keys ...*PublicKey) (*ProvenEvent, error) {
	p, err := ParseEventProof(text)
	if err != nil {
		return nil, err
	}
	return p.Check(keys...)
}

func TestEventProofs(t *testing.T) {
	t.Parallel()
	l := newExampleLog(t)
	for n, row := range l.rows {
		for size := int(l.sets[len(l.sets)-1].seq) + 1; size <= len(l.texts); size++ {
			e, err := checkText(mustEncode(t, l.proof(n, size)), l.keys.Public())
			if err != nil || e.ID != row.id || e.Hidden || e.Table != "public.audit_log" || len(e.Fields) != 21 {
				t.Fatal(n, size, e, err)
			}
			if v := e.Fields[17].Value; v == nil || *v != strings.Replace("Grüße-N", "N", fmt.Sprint(n-l.setOf(n).first), 1) {
				t.Error("principal_id is", v)
			}
			if e.Fields[19].Value != nil || *e.Fields[20].Value != fmt.Sprintf(`{"n": %d, "big": 9007199254740993.10}`, n-l.setOf(n).first) {
				t.Error(e.Fields[19:])
			}
			e, err = checkText(mustEncode(t, hidden(l.proof(n, size))), l.keys.Public())
			if err != nil || !e.Hidden || e.Fields[17].Value != nil {
				t.Fatal(n, size, e, err)
			}
		}
	}
}

func (l *exampleLog) setOf(n int) exampleSet {
	s := l.sets[0]
	for _, x := range l.sets {
		if n >= x.first {
			s = x
		}
	}
	return s
}

// Every change of one byte is refused: each bit of each byte flipped, each byte replaced by what has a meaning somewhere, left out or
// doubled.
func TestProofFlips(t *testing.T) {
	t.Parallel()
	l := newExampleLog(t)
	cons := mustEncode(t, l.consistency(3, 8))
	for name, c := range map[string]struct {
		text  []byte
		check func([]byte) error
	}{
		"event":  {mustEncode(t, l.proof(3, 8)), func(b []byte) error { _, err := checkText(b, l.keys.Public()); return err }},
		"hidden": {mustEncode(t, hidden(l.proof(3, 8))), func(b []byte) error { _, err := checkText(b, l.keys.Public()); return err }},
		"consistency": {cons, func(b []byte) error {
			p, err := ParseConsistencyProof(b)
			if err == nil {
				_, _, err = p.Check(l.keys.Public())
			}
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := c.check(c.text); err != nil {
				t.Fatal(err)
			}
			for i := range c.text {
				for _, b := range alternatives(c.text[i]) {
					bad := bytes.Clone(c.text)
					bad[i] = b
					if c.check(bad) == nil {
						t.Fatalf("byte %d (%q): %q is accepted in its place", i, c.text[i], b)
					}
				}
				without := append(bytes.Clone(c.text[:i]), c.text[i+1:]...)
				doubled := append(bytes.Clone(c.text[:i+1]), c.text[i:]...)
				if c.check(without) == nil || c.check(doubled) == nil || c.check(c.text[:i]) == nil {
					t.Fatalf("byte %d (%q) left out, doubled, or the last one before is accepted", i, c.text[i])
				}
			}
		})
	}
}

func alternatives(b byte) []byte {
	var out []byte
	for k := range 8 {
		out = append(out, b^1<<k)
	}
	for _, x := range []byte("\n\r =-0A+/%") {
		if x != b {
			out = append(out, x)
		}
	}
	return out
}

// Whatever is put together from parts that are true by themselves proves nothing.
func TestProofAttacks(t *testing.T) {
	t.Parallel()
	l := newExampleLog(t)
	fork := newExampleLog(t)
	fork.texts, fork.stored = nil, nil
	for _, r := range exampleRecords()[:5] {
		fork.add(r.Body)
	}
	fork.add(&Prune{Table: 1, Partition: month(0)})
	fork.add(&Prune{Table: 1, Partition: month(1)})
	fork.add(&Prune{Table: 1, Partition: month(2)})
	elsewhere, err := l.keys.WithOrigin("audit.example.com/other")
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := Generate(l.keys.Origin())
	if err != nil {
		t.Fatal(err)
	}
	swapped := func(s []tlog.Hash) []tlog.Hash { return append([]tlog.Hash{s[1], s[0]}, s[2:]...) }
	other := l.proof(4, 8)
	for what, c := range map[string]struct {
		change func(*EventProof)
		want   fault.Class
	}{
		"nothing":               {func(*EventProof) {}, ""},
		"fields of another row": {func(p *EventProof) { p.Core, p.Personal, p.Salt = other.Core, other.Personal, other.Salt }, fault.Integrity},
		"personal of another":   {func(p *EventProof) { p.Personal, p.Salt = other.Personal, other.Salt }, fault.Integrity},
		"salt of another":       {func(p *EventProof) { p.Salt = other.Salt }, fault.Integrity},
		"position of another":   {func(p *EventProof) { p.Position = other.Position }, fault.Integrity},
		"path of another":       {func(p *EventProof) { p.SetPath = other.SetPath }, fault.Integrity},
		"path swapped":          {func(p *EventProof) { p.SetPath = swapped(p.SetPath) }, fault.Integrity},
		"path too long":         {func(p *EventProof) { p.SetPath = append(p.SetPath, p.SetPath[0]) }, fault.Integrity},
		"path too short":        {func(p *EventProof) { p.SetPath = p.SetPath[1:] }, fault.Integrity},
		"no path":               {func(p *EventProof) { p.SetPath = nil }, fault.Integrity},
		"record path swapped":   {func(p *EventProof) { p.RecordPath = swapped(p.RecordPath) }, fault.Integrity},
		"format path swapped":   {func(p *EventProof) { p.FormatPath = swapped(p.FormatPath) }, fault.Integrity},
		"paths exchanged":       {func(p *EventProof) { p.RecordPath, p.FormatPath = p.FormatPath, p.RecordPath }, fault.Integrity},
		"record of another set": {func(p *EventProof) { p.Record = l.texts[l.sets[1].seq] }, fault.Integrity},
		"NULL for empty": {func(p *EventProof) {
			p.Core = replaced(p.Core, func(b []byte) bool { return b != nil && len(b) == 0 }, nil)
		}, fault.Integrity},
		"empty for NULL":         {func(p *EventProof) { p.Core = replaced(p.Core, func(b []byte) bool { return b == nil }, []byte{}) }, fault.Integrity},
		"bytes over a border":    {func(p *EventProof) { p.Core = overBorder(p.Core) }, fault.Integrity},
		"column renamed":         {func(p *EventProof) { p.Format = strings.Replace(p.Format, "core action", "core status", 1) }, fault.Integrity},
		"columns exchanged":      {func(p *EventProof) { p.Format = swapLines(p.Format, 12, 13) }, fault.Integrity},
		"rows of the set":        {func(p *EventProof) { p.Record = strings.Replace(p.Record, "rows 7", "rows 8", 1) }, fault.Integrity},
		"checkpoint of a fork":   {func(p *EventProof) { p.Checkpoint = fork.checkpoint(8) }, fault.Integrity},
		"an older checkpoint":    {func(p *EventProof) { p.Checkpoint = l.checkpoint(7) }, fault.Integrity},
		"before the record":      {func(p *EventProof) { p.Checkpoint = l.checkpoint(5) }, fault.Integrity},
		"a size of 2^63-1":       {func(p *EventProof) { p.Checkpoint = resized(t, l.keys, p.Checkpoint, 1<<63-1) }, fault.Integrity},
		"a size of 2^62+1":       {func(p *EventProof) { p.Checkpoint = resized(t, l.keys, p.Checkpoint, 1<<62+1) }, fault.Integrity},
		"a size of 9":            {func(p *EventProof) { p.Checkpoint = resized(t, l.keys, p.Checkpoint, 9) }, fault.Integrity},
		"another origin":         {func(p *EventProof) { p.Checkpoint = l.signed(elsewhere, 8) }, fault.Unavailable},
		"a stranger's signature": {func(p *EventProof) { p.Checkpoint = l.signed(stranger, 8) }, fault.Unavailable},
	} {
		p := l.proof(2, 8)
		c.change(p)
		text, err := p.Encode()
		if err != nil { // cannot even be written
			err = disproved("%w", err)
		} else {
			_, err = checkText(text, l.keys.Public())
		}
		if fault.ClassOf(err) != c.want {
			t.Errorf("%s: %v", what, err)
		}
	}
	text := mustEncode(t, l.proof(3, 8))
	if _, err := checkText(text); fault.ClassOf(err) != fault.Unavailable {
		t.Error("without a key:", err)
	}
	if _, err := checkText(text, elsewhere.Public(), l.keys.Public()); err != nil {
		t.Error("with the key among others:", err)
	}
}

func replaced(fields [][]byte, which func([]byte) bool, by []byte) [][]byte {
	out := append([][]byte{}, fields...)
	for i, f := range out {
		if which(f) {
			out[i] = by
			return out
		}
	}
	return out
}

// overBorder moves the last byte of a text to the beginning of the next one.
func overBorder(fields [][]byte) [][]byte {
	out := append([][]byte{}, fields...)
	a, b := out[4], out[5]
	out[4], out[5] = a[:len(a)-1], append([]byte{a[len(a)-1]}, b...)
	return out
}

// resized is a checkpoint that says another size, with a true signature.
func resized(tb testing.TB, keys *Keys, signed string, size int64) string {
	tb.Helper()
	_, root, err := ParseCheckpoint(signed)
	if err != nil {
		tb.Fatal(err)
	}
	cp, err := keys.signCheckpoint(size, root)
	if err != nil {
		tb.Fatal(err)
	}
	return cp.Note
}

// What is not written as Encode writes it is refused, although its values are true.
func TestProofsAreStrict(t *testing.T) {
	t.Parallel()
	l := newExampleLog(t)
	text := string(mustEncode(t, l.proof(3, 8)))
	lines := strings.Split(text, "\n")
	extra, err := base64.StdEncoding.DecodeString(lines[1][len("extra "):])
	if err != nil {
		t.Fatal(err)
	}
	in := func(old, by string) string { // a change within the extra data
		changed := strings.Replace(string(extra), old, by, 1)
		if changed == string(extra) {
			t.Fatalf("%q is not there", old)
		}
		return strings.Replace(text, lines[1], "extra "+base64.StdEncoding.EncodeToString([]byte(changed)), 1)
	}
	double := regexp.MustCompile(`(?m)^(position .*|salt .*|format .*|record .*)$`)
	for what, bad := range map[string]string{
		"empty":                "",
		"no checkpoint":        text[:strings.Index(text, "\n\n")+1],
		"other version":        strings.Replace(text, "@v1", "@v2", 1),
		"no extra data":        strings.Replace(text, lines[1]+"\n", "", 1),
		"extra after index":    strings.Replace(text, lines[1]+"\n"+lines[2], lines[2]+"\n"+lines[1], 1),
		"extra twice":          strings.Replace(text, lines[1], lines[1]+"\n"+lines[1], 1),
		"index twice":          strings.Replace(text, lines[2], lines[2]+"\n"+lines[2], 1),
		"index +":              strings.Replace(text, "index ", "index +", 1),
		"index 0":              strings.Replace(text, "index ", "index 0", 1),
		"index of another":     strings.Replace(text, "index 5", "index 6", 1),
		"index too large":      strings.Replace(text, "index 5", "index 99999999999999999999", 1),
		"hash twice":           strings.Replace(text, lines[3], lines[3]+"\n"+lines[3], 1),
		"too many hashes":      strings.Replace(text, lines[3], strings.Repeat(lines[3]+"\n", 64)+lines[3], 1),
		"CR":                   strings.ReplaceAll(text, "\n", "\r\n"),
		"CR in base64":         strings.Replace(text, lines[1], lines[1][:20]+"\r"+lines[1][20:], 1),
		"url base64":           strings.Replace(text, "+", "-", 1),
		"BOM":                  "\ufeff" + text,
		"line too many":        text + "\n",
		"no line end":          strings.TrimSuffix(text, "\n"),
		"signature twice":      text + lines[len(lines)-2] + "\n",
		"two checkpoints":      text + "\n" + l.checkpoint(8),
		"position +3":          in("position 3", "position +3"),
		"position 03":          in("position 3", "position 03"),
		"position -1":          in("position 3", "position -1"),
		"position 7 of 7":      in("position 3", "position 7"),
		"position huge":        in("position 3", "position 9223372036854775807"),
		"upper hex":            in("path ", "path A"),
		"record twice":         in("\nrecord ", "\nrecord x\nrecord "),
		"fields out of order":  in("\ncore ", "\npersonal -\ncore "),
		"field too many":       in("\npersonal ", "\ncore -\npersonal "),
		"field unmarked":       in("core =", "core "),
		"escape unneeded":      in("core =a", "core =%61"),
		"escape in lower case": in("%C3", "%c3"),
		"commit as well":       in("\npersonal ", "\ncommit "+strings.Repeat("0", 64)+"\npersonal "),
		"other inner version":  in("auditdb-event-proof/1", "auditdb-event-proof/2"),
		"inner line twice":     strings.Replace(text, lines[1], "extra "+base64.StdEncoding.EncodeToString([]byte(double.ReplaceAllString(string(extra), "$1\n$1"))), 1),
	} {
		if _, err := checkText([]byte(bad), l.keys.Public()); err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
}

// A cosignature of a witness may stand beside the log's signature.
func TestProofWithCosignature(t *testing.T) {
	t.Parallel()
	l := newExampleLog(t)
	witness, err := Generate("witness.example.com")
	if err != nil {
		t.Fatal(err)
	}
	sig := witness.signer.Name() + " " + base64.StdEncoding.EncodeToString(append([]byte{1, 2, 3, 4}, make([]byte, 72)...))
	p := l.proof(0, 8)
	p.Checkpoint += "— " + sig + "\n"
	if _, err := checkText(mustEncode(t, p), l.keys.Public()); err != nil {
		t.Error(err)
	}
}

func TestConsistencyProofs(t *testing.T) {
	t.Parallel()
	l := newExampleLog(t)
	for to := 1; to <= len(l.texts); to++ {
		for from := 1; from <= to; from++ {
			p, err := ParseConsistencyProof(mustEncode(t, l.consistency(from, to)))
			if err != nil {
				t.Fatal(from, to, err)
			}
			older, newer, err := p.Check(l.keys.Public())
			if err != nil || older.Size != int64(from) || newer.Size != int64(to) {
				t.Fatal(from, to, err)
			}
			if from == to {
				continue
			}
			p.Old, p.New = p.New, p.Old
			if _, _, err := p.Check(l.keys.Public()); fault.ClassOf(err) != fault.Integrity {
				t.Error("turned around:", err)
			}
			p = l.consistency(from, to)
			p.Old = l.checkpoint(to - from)
			if _, _, err := p.Check(l.keys.Public()); from != to-from && fault.ClassOf(err) != fault.Integrity {
				t.Error(from, to, "another checkpoint:", err)
			}
			p = l.consistency(from, to)
			p.Old = resized(t, l.keys, p.Old, 1<<62+1)
			p.New = resized(t, l.keys, p.New, 1<<63-1)
			if _, _, err := p.Check(l.keys.Public()); fault.ClassOf(err) != fault.Integrity {
				t.Error("sizes that no log has:", err)
			}
		}
	}
	other, err := l.keys.WithOrigin("audit.example.com/other")
	if err != nil {
		t.Fatal(err)
	}
	p := l.consistency(3, 8)
	p.Old = l.signed(other, 3)
	if _, _, err := p.Check(l.keys.Public(), other.Public()); fault.ClassOf(err) != fault.Integrity {
		t.Error("of two logs:", err)
	}
}

// The path of every leaf of every tree leads to the root.
func TestLeafPath(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 300).Draw(t, "n")
		leaves := make([]byte, 0, n*audit.HashSize)
		for i := range n {
			h := tlog.RecordHash(fmt.Appendf(nil, "%d", i))
			leaves = append(leaves, h[:]...)
		}
		at := rapid.IntRange(0, n-1).Draw(t, "at")
		leaf := tlog.Hash(leaves[at*audit.HashSize:])
		if err := tlog.CheckRecord(leafPath(leaves, at), int64(n), audit.RootOf(leaves), int64(at), leaf); err != nil {
			t.Fatal(n, at, err)
		}
	})
}

func TestFieldText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ typ, bytes, want string }{
		{"int8", "\xff\xff\xff\xff\xff\xff\xff\xfe", "-2"},
		{"int4", "\x00\x00\x01\x00", "256"},
		{"int4", "\x00", `\x00`},
		{"text", "", ""},
		{"text", "a\xff", `\x61ff`},
		{"jsonb", "\x01{\"a\": 1.10}", `{"a": 1.10}`},
		{"jsonb", "\x02{}", `\x027b7d`},
		{"jsonb", "", `\x`},
		{"bool", "\x01", "true"},
		{"bool", "\x02", `\x02`},
		{"uuid", "0123456789abcdef", "30313233-3435-3637-3839-616263646566"},
		{"timestamptz", "\x00\x00\x00\x00\x00\x00\x00\x01", "2000-01-01T00:00:00.000001Z"},
		{"timestamptz", "\x7f\xff\xff\xff\xff\xff\xff\xff", "infinity"},
		{"timestamptz", "\x80\x00\x00\x00\x00\x00\x00\x00", "-infinity"},
		{"timestamp", "\xff\xff\xff\xff\xff\xff\xff\xff", "1999-12-31T23:59:59.999999"},
		{"date", "\x00\x00\x00\x3b", "2000-02-29"},
		{"date", "\x7f\xff\xff\xff", "infinity"},
		{"float8", "\x3f\xf8\x00\x00\x00\x00\x00\x00", "1.5"},
		{"inet", "\x02\x20\x00\x04", `\x02200004`},
	} {
		if got := fieldText(c.typ, []byte(c.bytes)); got == nil || *got != c.want {
			t.Errorf("%s %q is %q", c.typ, c.bytes, *got)
		}
	}
	if fieldText("text", nil) != nil {
		t.Error("NULL is text")
	}
}

// The proofs in testdata are those that the documentation refers to; -update writes them.
func TestProofVectors(t *testing.T) {
	t.Parallel()
	l := newExampleLog(t)
	rows, log, sets := l.export()
	event, err := l.proof(3, 8).Check(l.keys.Public())
	if err != nil {
		t.Fatal(err)
	}
	shown, err := json.MarshalIndent(event.Fields, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{
		"event.tlog-proof":  mustEncode(t, l.proof(3, 8)),
		"event.json":        append(shown, '\n'),
		"sealed.tlog-proof": mustEncode(t, l.proof(9, 8)),
		"erased.tlog-proof": mustEncode(t, hidden(l.proof(3, 8))),
		"consistency.proof": mustEncode(t, l.consistency(3, 8)),
		"public.key":        []byte(l.keys.Public().Encode() + "\n"),
		"checkpoint":        []byte(l.checkpoint(8)),
		"partition.rows":    rows,
		"partition.log":     []byte(log),
		"partition.sets":    []byte(sets),
	} {
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the code makes; go test ./pkg/integrity -run TestProofVectors -update writes it anew (%v)", path, err)
		}
	}
}

func FuzzEventProof(f *testing.F) {
	l := newExampleLog(f)
	for n := range l.rows {
		f.Add(mustEncode(f, l.proof(n, 8)))
		f.Add(mustEncode(f, hidden(l.proof(n, 8))))
	}
	signed := l.checkpoint(8)
	f.Add([]byte("c2sp.org/tlog-proof@v1\nextra \nindex 0\n\nx\n0\n\n\n— x \n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParseEventProof(text)
		if err != nil {
			return
		}
		if again, err := p.Encode(); err != nil || !bytes.Equal(again, text) {
			t.Fatalf("not canonical: %v", err)
		}
		if e, err := p.Check(l.keys.Public()); err == nil && e.Checkpoint.Note != signed {
			t.Fatal("it proves what was never logged")
		}
	})
}

// FuzzEventLines fuzzes what lies within the base64 of a proof.
func FuzzEventLines(f *testing.F) {
	l := newExampleLog(f)
	for n := range l.rows {
		t, err := parseTlogProof(mustEncode(f, l.proof(n, 8)))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(t.extra)
	}
	p := l.proof(0, 8)
	f.Fuzz(func(t *testing.T, extra []byte) {
		p := tlogProof{extra: extra, index: 5, path: p.RecordPath, note: p.Checkpoint}
		if e, err := checkText(p.encode(), l.keys.Public()); err == nil && (e.ID>>blockBits != 1<<24 || e.Record != 5) {
			t.Fatal("it proves what was never logged")
		}
	})
}

func FuzzConsistencyProof(f *testing.F) {
	l := newExampleLog(f)
	for n := 1; n < 8; n++ {
		f.Add(mustEncode(f, l.consistency(n, 8)))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParseConsistencyProof(text)
		if err != nil {
			return
		}
		if again, err := p.Encode(); err != nil || !bytes.Equal(again, text) {
			t.Fatalf("not canonical: %v", err)
		}
		_, _, _ = p.Check(l.keys.Public())
	})
}
