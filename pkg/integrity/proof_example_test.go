package integrity

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"auditdb/pkg/audit"
)

// exampleLog is a log in memory with a leaf set of a partition from ingest, one from another writer's rows, and what other records come
// with them. Everything in it is always the same.
type exampleLog struct {
	tb     testing.TB
	keys   *Keys
	texts  []string
	stored []tlog.Hash
	rows   []exampleRow
	sets   []exampleSet
	format int64 // the format record
}

type exampleRow struct {
	id             int64
	core, personal [][]byte
	salt           []byte // nil: in its set
}

type exampleSet struct {
	seq    int64
	ids    audit.IDSet
	leaves []byte
	salts  []byte
	first  int // of its rows
}

func (l *exampleLog) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = l.stored[x]
	}
	return out, nil
}

func (l *exampleLog) add(b Body) int64 {
	l.tb.Helper()
	seq := int64(len(l.texts))
	at := time.Date(2026, 3, 1, 12, 0, int(seq), 123456000, time.UTC)
	text, err := Record{Seq: seq, Time: at, Body: b}.Encode()
	if err != nil {
		l.tb.Fatal(err)
	}
	hashes, err := tlog.StoredHashes(seq, text, l)
	if err != nil {
		l.tb.Fatal(err)
	}
	l.texts, l.stored = append(l.texts, string(text)), append(l.stored, hashes...)
	return seq
}

func (l *exampleLog) checkpoint(size int) string { return l.signed(l.keys, size) }

func (l *exampleLog) signed(keys *Keys, size int) string {
	l.tb.Helper()
	root, err := tlog.TreeHash(int64(size), l)
	if err != nil {
		l.tb.Fatal(err)
	}
	cp, err := keys.signCheckpoint(int64(size), root)
	if err != nil {
		l.tb.Fatal(err)
	}
	return cp.Note
}

// exampleFields are n rows with every kind of value: empty, NULL, not ASCII, looking like what a proof has between its values.
func (l *exampleLog) exampleFields(n int) (core, personal [][]byte) {
	for i, c := range audit.AuditLog().Core {
		var b []byte
		switch {
		case c.Type == "int8":
			b = audit.AppendInt64(nil, int64(n))[4:]
		case c.Name == "timestamp", c.Name == "recorded_at":
			b = audit.AppendTimestamp(nil, audit.TimestampMicros(time.Date(2026, 3, 1, 11, 0, n, i*1000, time.UTC)))[4:]
		case c.Type == "int4":
			b = audit.AppendInt32(nil, int32(n-3))[4:]
		case c.Type == "text" && i%3 > 0:
			b = fmt.Appendf(nil, "%s %d", c.Name, n)
		case c.Type == "text" && n%2 == 0:
			b = []byte{}
		}
		core = append(core, b)
	}
	personal = [][]byte{[]byte("Grüße-" + fmt.Sprint(n)), []byte("=-\n% \u2028"), nil, fmt.Appendf(nil, "\x01{\"n\": %d, \"big\": 9007199254740993.10}", n)}
	return core, personal
}

// addSet logs rows with the ids first + steps.
func (l *exampleLog) addSet(first int64, steps []int64, salted bool, body func(LeafRoot) Body) {
	l.tb.Helper()
	s := exampleSet{first: len(l.rows)}
	h := audit.NewHasher(audit.AuditLog())
	var ids []int64
	for i, step := range steps {
		r := exampleRow{id: first + step}
		r.core, r.personal = l.exampleFields(i)
		r.core[0] = audit.AppendInt64(nil, r.id)[4:]
		salt := fmt.Appendf(nil, "salt of row %04d", i)
		if salted {
			r.salt = salt
		} else {
			s.salts = append(s.salts, salt...)
		}
		leaf, err := h.Leaf(append(append([][]byte{}, r.core...), r.personal...), salt)
		if err != nil {
			l.tb.Fatal(err)
		}
		s.leaves = append(s.leaves, leaf[:]...)
		ids = append(ids, r.id)
		l.rows = append(l.rows, r)
	}
	var err error
	if s.ids, err = audit.NewIDSet(ids); err != nil {
		l.tb.Fatal(err)
	}
	root, err := leafRoot(s.ids, s.leaves, s.salts)
	if err != nil {
		l.tb.Fatal(err)
	}
	s.seq = l.add(body(root))
	l.sets = append(l.sets, s)
}

func newExampleLog(tb testing.TB) *exampleLog {
	tb.Helper()
	l := &exampleLog{tb: tb, keys: exampleKeys()}
	records := exampleRecords()
	for _, r := range records[:5] {
		if l.add(r.Body); r.Body.Kind() == KindFormat {
			l.format = r.Seq
		}
	}
	part, ok := records[4].Body.(*Partition)
	if !ok {
		tb.Fatal("the examples have changed")
	}
	block := int64(1) << 24
	l.addSet(block<<blockBits, []int64{0, 1, 2, 4, 5, 6, 9}, true, func(root LeafRoot) Body {
		return &Batch{Table: 1, Partition: part.Partition, Block: block, Set: root}
	})
	l.addSet(7, []int64{0, 1, 5}, false, func(root LeafRoot) Body {
		return &Seal{Table: 1, Partition: part.Partition, Set: root, Below: 13}
	})
	l.add(records[7].Body)
	return l
}

// proof makes the proof of a row by its number.
func (l *exampleLog) proof(n, size int) *EventProof {
	l.tb.Helper()
	r := l.rows[n]
	s := l.sets[0]
	for _, x := range l.sets {
		if n >= x.first {
			s = x
		}
	}
	at := n - s.first
	p := &EventProof{
		Record: l.texts[s.seq], Position: int64(at), SetPath: leafPath(s.leaves, at), Format: l.texts[l.format],
		Core: r.core, Personal: r.personal, Checkpoint: l.checkpoint(size),
	}
	salt := r.salt
	if salt == nil {
		salt = s.salts[at*audit.SaltSize:][:audit.SaltSize]
	}
	p.Salt = [audit.SaltSize]byte(salt)
	p.RecordPath, p.FormatPath = l.path(s.seq, size), l.path(l.format, size)
	return p
}

func (l *exampleLog) path(seq int64, size int) []tlog.Hash {
	l.tb.Helper()
	path, err := tlog.ProveRecord(int64(size), seq, l)
	if err != nil {
		l.tb.Fatal(err)
	}
	return path
}

// hidden is the same proof without the personal fields.
func hidden(p *EventProof) *EventProof {
	c := audit.NewHasher(audit.AuditLog()).CommitOf(joinFields(p.Personal), p.Salt[:])
	q := *p
	q.Commit, q.Personal, q.Salt = &c, nil, [audit.SaltSize]byte{}
	return &q
}

func (l *exampleLog) consistency(from, to int) *ConsistencyProof {
	l.tb.Helper()
	path, err := tlog.ProveTree(int64(to), int64(from), l)
	if err != nil {
		l.tb.Fatal(err)
	}
	return &ConsistencyProof{Path: path, Old: l.checkpoint(from), New: l.checkpoint(to)}
}

func mustEncode(tb testing.TB, p interface{ Encode() ([]byte, error) }) []byte {
	tb.Helper()
	text, err := p.Encode()
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

// export gives an example partition as docs/integrity-format.md has it exported.
func (l *exampleLog) export() (rows []byte, log, sets string) {
	rows = audit.CopyHeader()
	for _, r := range l.rows {
		rows = audit.AppendTuple(rows, len(audit.AuditLog().Columns()))
		for _, f := range append(append(append([][]byte{}, r.core...), r.personal...), r.salt) {
			rows = audit.AppendField(rows, f)
		}
	}
	var b strings.Builder
	for _, s := range l.sets {
		fmt.Fprintf(&b, "%d|%x|%x\n", s.seq, s.ids.Encode(), s.salts)
	}
	return append(rows, audit.CopyTrailer()...), strings.Join(l.texts, "\n") + "\n", b.String()
}
