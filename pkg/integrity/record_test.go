package integrity

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"auditdb/pkg/audit"
)

// exampleRecords are one record of each kind, as in docs/integrity-format.md.
func exampleRecords() []Record {
	at := time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)
	march := Range{From: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)}
	old := Range{FromMin: true, To: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}
	part := PartitionRef{Name: "audit_log_2026_03", Range: march}
	history := PartitionRef{Name: "Old rows (100%)", Range: old}
	rest := PartitionRef{Name: "audit_log_default", Range: DefaultRange()}
	block := int64(1) << 24
	keys := exampleKeys()
	set := LeafRoot{MinID: block << 16, MaxID: block<<16 + 2, Rows: 3, IDs: [32]byte{1, 2, 3}, Root: [32]byte{4, 5, 6}}
	sealed := LeafRoot{MinID: 7, MaxID: 12, Rows: 4, IDs: [32]byte{7, 8, 9}, Root: [32]byte{10, 11, 12}}
	bodies := []Body{
		&Genesis{Origin: keys.Origin(), System: 7412345678901234567, Timeline: 1, Database: "audit"},
		&Key{KeyID: keys.ID(), Check: keys.Check(), Public: keys.Public().Encode()},
		&Format{Table: 1, Schema: "public", Name: "audit_log", KeyColumn: "timestamp", Leaf: audit.AuditLog()},
		&Partition{Table: 1, Event: EventAttached, Partition: history},
		&Partition{Table: 1, Event: EventCreated, Partition: part},
		&Batch{Table: 1, Partition: part, Block: block, Set: set},
		&Seal{Table: 1, Partition: history, Set: sealed, Below: 13},
		&Move{Table: 1, From: rest, To: part, Rows: 42},
		&Detach{Table: 1, Partition: history, OID: 16411},
		&Prune{Table: 1, Partition: history, Rows: 4},
		&Expire{Table: 1, Partition: history, Leaf: 6, Set: sealed},
		&Redact{Table: 1, Token: "000102030405060708090a0b0c0d0e0f", Rows: 2, Root: redactionRoot([]Redaction{{ID: 7, Commit: [32]byte{1}}, {ID: 12, Commit: [32]byte{2}}})},
		&Archive{
			Table: 1, Partition: history, Generation: 1, URL: "s3://bucket/old rows", Rows: 4, Bytes: 4096, Digest: [32]byte{13}, Root: [32]byte{14}, LogSize: 9,
		},
		&Restore{Table: 1, Partition: history, OID: 0, Generation: 1, Rows: 4, Root: [32]byte{14}},
		&Hold{ID: 3, Event: EventAdded, Commit: [32]byte{15}},
		&Policy{Table: 1, Name: "base", Event: EventSet, Definition: "keep 2555d"},
		&Recovery{Event: EventLoss, After: 15, Size: 20, Origin: keys.Origin(), System: 7412345678901234567, Timeline: 2, Reason: "failover of 1 March"},
		&Revoke{KeyID: keys.ID(), Reason: "laptop lost"},
	}
	out := make([]Record, len(bodies))
	for i, b := range bodies {
		out[i] = Record{Seq: int64(i), Time: at.Add(time.Duration(i) * time.Second), Body: b}
	}
	return out
}

func exampleKeys() *Keys {
	var seed [seedSize]byte
	for i := range seed {
		seed[i] = byte(i)
	}
	keys, err := deriveKeys("audit.example.com/main", seed)
	if err != nil {
		panic(err)
	}
	return keys
}

func TestRecordsRoundTrip(t *testing.T) {
	t.Parallel()
	for _, r := range exampleRecords() {
		text, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(text)
		if err != nil {
			t.Fatalf("%s\n%v", text, err)
		}
		text2, err := again.Encode()
		if err != nil || !bytes.Equal(text, text2) {
			t.Errorf("%s differs:\n%s", r.Body.Kind(), text2)
		}
	}
}

func TestRecordsAreStrict(t *testing.T) {
	t.Parallel()
	for _, r := range exampleRecords() {
		text, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		for what, bad := range map[string]string{
			"no line end":        strings.TrimSuffix(string(text), "\n"),
			"empty line":         string(text) + "\n",
			"line too many":      string(text) + "more 1\n",
			"CR":                 strings.ReplaceAll(string(text), "\n", "\r\n"),
			"plus":               strings.Replace(string(text), "seq ", "seq +", 1),
			"leading zero":       strings.Replace(string(text), "seq ", "seq 0", 1),
			"two spaces":         strings.Replace(string(text), "seq ", "seq  ", 1),
			"other kind":         strings.Replace(string(text), "auditdb/1 ", "auditdb/1 x", 1),
			"other version":      strings.Replace(string(text), "auditdb/1 ", "auditdb/2 ", 1),
			"nanoseconds":        strings.Replace(string(text), "56Z", "567Z", 1),
			"no microseconds":    strings.Replace(string(text), ".123456Z", "Z", 1),
			"offset":             strings.Replace(string(text), ".123456Z", ".123456+00:00", 1),
			"lower hex escape":   strings.Replace(string(text), "audit", "%61udit", 1),
			"not ASCII":          strings.Replace(string(text), "audit", "äudit", 1),
			"tab":                strings.Replace(string(text), "seq ", "seq\t", 1),
			"lines out of order": swapLines(string(text), 1, 2),
		} {
			if bad == string(text) {
				continue
			}
			if _, err := Parse([]byte(bad)); err == nil {
				t.Errorf("%s with %s is accepted:\n%s", r.Body.Kind(), what, bad)
			}
		}
	}
}

func swapLines(text string, i, j int) string {
	lines := strings.Split(text, "\n")
	lines[i], lines[j] = lines[j], lines[i]
	return strings.Join(lines, "\n")
}

func TestRecordsOutOfRange(t *testing.T) {
	t.Parallel()
	good := exampleRecords()[5]
	batch, ok := good.Body.(*Batch)
	if !ok {
		t.Fatal("not a batch")
	}
	for what, change := range map[string]func(*Batch){
		"table":            func(b *Batch) { b.Table = 0 },
		"no rows":          func(b *Batch) { b.Set.Rows = 0 },
		"too many rows":    func(b *Batch) { b.Set.Rows = audit.MaxSet + 1 },
		"rows over bounds": func(b *Batch) { b.Set.Rows = 4 },
		"other block":      func(b *Batch) { b.Block++ },
		"empty range":      func(b *Batch) { b.Partition.Range.To = b.Partition.Range.From },
		"year 10000":       func(b *Batch) { b.Partition.Range.To = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"huge":             func(b *Batch) { b.Partition.Name = strings.Repeat("x", maxRecord) },
		"small id":         func(b *Batch) { b.Block, b.Set.MinID, b.Set.MaxID = 0, 1, 3 },
	} {
		b := *batch
		change(&b)
		if text, err := (Record{Seq: 1, Time: good.Time, Body: &b}).Encode(); err == nil {
			t.Errorf("%s is accepted:\n%s", what, text)
		}
	}
}

func TestAnyStringSurvives(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.String(), rapid.StringN(0, 40, 200)).Draw(t, "name")
		us := rapid.Int64Range(-62135596800000000, 253402300799999998).Draw(t, "from")
		body := &Prune{
			Table: rapid.Int16Range(1, 32767).Draw(t, "table"), Rows: rapid.Int64Range(0, 1<<62).Draw(t, "rows"),
			Partition: PartitionRef{Name: name, Range: Range{
				From: time.UnixMicro(us).UTC(), To: time.UnixMicro(us + 1).UTC(),
				FromMin: rapid.Bool().Draw(t, "min"), ToMax: rapid.Bool().Draw(t, "max"),
			}},
		}
		r := Record{Seq: rapid.Int64Range(0, 1<<62).Draw(t, "seq"), Time: time.UnixMicro(us).UTC(), Body: body}
		text, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(text)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		got, ok := again.Body.(*Prune)
		if !ok || got.Partition.Name != name || got.Partition.Range.key() != body.Partition.Range.key() || !again.Time.Equal(r.Time) {
			t.Fatalf("%q", text)
		}
	})
}

// What parses is exactly what encoding writes.
func FuzzParse(f *testing.F) {
	for _, r := range exampleRecords() {
		text, err := r.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := Parse(text)
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil || !bytes.Equal(again, text) {
			t.Fatalf("%q became %q (%v)", text, again, err)
		}
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	cp, err := exampleKeys().signCheckpoint(7, [32]byte{1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(cp.Note)
	f.Fuzz(func(t *testing.T, text string) {
		cp, root, err := ParseCheckpoint(text)
		if err == nil && !strings.HasPrefix(text, checkpointText(cp.Origin, cp.Size, root)) {
			t.Fatalf("%q became %+v", text, cp)
		}
	})
}
