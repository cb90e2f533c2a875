package integrity

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"auditdb/pkg/audit"
)

const (
	// MaxProof is the largest size of a proof in bytes.
	MaxProof = 64 << 20

	tlogProofMagic   = "c2sp.org/tlog-proof@v1"
	eventProofMagic  = "auditdb-event-proof/1"
	maxPath          = 63 // hashes from a leaf to the root of the largest tree
	maxProofColumns  = 1600
	maxProofNoteSize = 1 << 16
)

var errProof = errors.New("malformed proof")

// EventProof proves to whoever has the log's public key that an event was logged: its fields lead to a leaf, the leaf to the root of its
// leaf set, the record of that set and the record of the table's columns to the tree of a signed checkpoint. Its text (Encode) is a
// C2SP tlog-proof of the leaf set's record, whose extra data is the rest.
type EventProof struct {
	Record     string // text of the batch or seal record
	RecordPath []tlog.Hash
	Position   int64 // of the row in its leaf set, from 0
	SetPath    []tlog.Hash
	Format     string // text of the format record
	FormatPath []tlog.Hash
	Core       [][]byte // COPY BINARY values in the format's order; nil: NULL
	Personal   [][]byte // likewise; without Commit
	Salt       [audit.SaltSize]byte
	Commit     *[audit.HashSize]byte // stands for Personal and Salt, when the row was erased or they are not to be shown
	Checkpoint string                // the signed note

	set    LeafRoot
	place  PartitionRef
	record Record
	format *Format
}

// lines are those of the extra data, for both directions.
func (p *EventProof) lines(c *codec) {
	c.str("record", &p.Record)
	c.count("position", &p.Position)
	c.hashes("path", &p.SetPath)
	c.str("format", &p.Format)
	c.hashes("format_path", &p.FormatPath)
	c.values("core", &p.Core)
	if c.reading && c.peek("commit") {
		p.Commit = new([audit.HashSize]byte)
	}
	if p.Commit != nil {
		c.hash("commit", p.Commit)
		return
	}
	c.values("personal", &p.Personal)
	salt := hex.EncodeToString(p.Salt[:])
	c.hexString("salt", &salt, 2*audit.SaltSize)
	if b, err := hex.DecodeString(salt); err == nil && len(b) == len(p.Salt) {
		p.Salt = [audit.SaltSize]byte(b)
	}
}

// resolve reads the two records and checks that everything in the proof is of the shape that they say.
func (p *EventProof) resolve() (err error) {
	if p.record, err = Parse([]byte(p.Record)); err != nil {
		return err
	}
	var ok bool
	if p.set, p.place, ok = setOf(p.record.Body); !ok {
		return fmt.Errorf("%w: a %s record has no rows", errProof, p.record.Body.Kind())
	}
	r, err := Parse([]byte(p.Format))
	if err != nil {
		return err
	}
	f, ok := r.Body.(*Format)
	table, _ := touches(p.record.Body)
	if !ok || f.Table != table || r.Seq >= p.record.Seq {
		return fmt.Errorf("%w: record %d does not say which columns record %d is about", errProof, r.Seq, p.record.Seq)
	}
	p.format = f
	switch {
	case p.Position >= p.set.Rows:
		return fmt.Errorf("%w: position %d in a set of %d rows", errProof, p.Position, p.set.Rows)
	case len(p.Core) != len(f.Leaf.Core) || p.Commit == nil && len(p.Personal) != len(f.Leaf.Personal):
		return fmt.Errorf("%w: %d and %d fields, the format has %d and %d", errProof, len(p.Core), len(p.Personal), len(f.Leaf.Core), len(f.Leaf.Personal))
	}
	id, err := p.id()
	if err == nil && (id < p.set.MinID || id > p.set.MaxID) {
		err = fmt.Errorf("%w: id %d is not one of the set's", errProof, id)
	}
	return err
}

// setOf returns the leaf set of a batch or seal record, and where its rows were.
func setOf(b Body) (LeafRoot, PartitionRef, bool) {
	switch b := b.(type) {
	case *Batch:
		return b.Set, b.Partition, true
	case *Seal:
		return b.Set, b.Partition, true
	}
	return LeafRoot{}, PartitionRef{}, false
}

// id is the row's id.
func (p *EventProof) id() (int64, error) {
	i := p.format.Leaf.Index(idColumn)
	if i < 0 || i >= len(p.Core) || len(p.Core[i]) != 2 && len(p.Core[i]) != 4 && len(p.Core[i]) != 8 {
		return 0, fmt.Errorf("%w: no id", errProof)
	}
	return signed(p.Core[i]), nil
}

// Encode returns the text of the proof. Values that are out of bounds are errors.
func (p *EventProof) Encode() ([]byte, error) {
	if err := p.resolve(); err != nil {
		return nil, err
	}
	c := codec{out: []byte(eventProofMagic + "\n")}
	p.lines(&c)
	if c.err != nil {
		return nil, c.err
	}
	t := tlogProof{extra: c.out, index: p.record.Seq, path: p.RecordPath, note: p.Checkpoint}
	out := t.encode()
	if len(out) > MaxProof {
		return nil, fmt.Errorf("%w: %d bytes are more than %d", errProof, len(out), MaxProof)
	}
	return out, nil
}

// ParseEventProof reads the text of a proof and checks its shape, not yet what it proves (see Check). Anything but the exact bytes that
// Encode writes for the same values is an error.
func ParseEventProof(text []byte) (*EventProof, error) {
	t, err := parseTlogProof(text)
	if err != nil {
		return nil, err
	}
	lines, err := proofLines(t.extra)
	if err != nil || lines[0] != eventProofMagic {
		return nil, fmt.Errorf("%w: its extra data is not %q", errProof, eventProofMagic)
	}
	p := &EventProof{RecordPath: t.path, Checkpoint: t.note}
	c := codec{reading: true, lines: lines[1:]}
	p.lines(&c)
	if c.err == nil && len(c.lines) > 0 {
		c.fail("%d lines too many", len(c.lines))
	}
	if c.err != nil {
		return nil, fmt.Errorf("%w: %w", errProof, c.err)
	}
	again, err := p.Encode()
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errProof, err)
	case p.record.Seq != t.index:
		return nil, fmt.Errorf("%w: index %d with record %d", errProof, t.index, p.record.Seq)
	case string(again) != string(text):
		return nil, fmt.Errorf("%w: not in canonical form", errProof)
	}
	return p, nil
}

// hashes is one line for each hash of a path.
func (c *codec) hashes(name string, path *[]tlog.Hash) {
	if len(*path) > maxPath {
		c.fail("line %q: %d of them", name, len(*path))
	}
	for i := 0; !c.reading && i < len(*path); i++ {
		h := [32]byte((*path)[i])
		c.hash(name, &h)
	}
	for c.reading && c.peek(name) {
		var h [32]byte
		if c.hash(name, &h); len(*path) >= maxPath {
			c.fail("line %q: more than %d", name, maxPath)
		}
		*path = append(*path, h)
	}
}

// values is one line for each field: `=` and its bytes as a string, or `-` for NULL.
func (c *codec) values(name string, fields *[][]byte) {
	for i := 0; !c.reading && i < len(*fields); i++ {
		if (*fields)[i] == nil {
			c.put(name, "-")
		} else {
			c.put(name, "="+percentEncode(string((*fields)[i])))
		}
	}
	for c.reading && c.peek(name) {
		line := c.get(name)
		value, ok := strings.CutPrefix(line, "=")
		text, decoded := percentDecode(value)
		switch {
		case len(*fields) >= maxProofColumns:
			c.fail("line %q: more than %d", name, maxProofColumns)
		case line == "-":
			*fields = append(*fields, nil)
		case ok && decoded:
			*fields = append(*fields, []byte(text))
		default:
			c.fail("line %q: neither a value nor NULL", name)
		}
	}
}

// tlogProof is the form C2SP tlog-proof.
type tlogProof struct {
	extra []byte
	index int64
	path  []tlog.Hash
	note  string
}

func (t *tlogProof) encode() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nextra %s\nindex %d\n", tlogProofMagic, base64.StdEncoding.EncodeToString(t.extra), t.index)
	for _, h := range t.path {
		b.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
	}
	return []byte(b.String() + "\n" + t.note)
}

// parseTlogProof reads a tlog-proof with extra data. It may be laxer than encode is, but for the checkpoint, which is taken as it is.
func parseTlogProof(text []byte) (*tlogProof, error) {
	if len(text) > MaxProof {
		return nil, fmt.Errorf("%w: more than %d bytes", errProof, MaxProof)
	}
	head, signed, ok := strings.Cut(string(text), "\n\n")
	if !ok {
		return nil, fmt.Errorf("%w: it has no checkpoint", errProof)
	}
	lines := strings.Split(head, "\n")
	if len(lines) < 3 || lines[0] != tlogProofMagic || !strings.HasPrefix(lines[1], "extra ") || !strings.HasPrefix(lines[2], "index ") {
		return nil, fmt.Errorf("%w: not a %s with extra data", errProof, tlogProofMagic)
	}
	t := &tlogProof{note: signed}
	var err error
	if t.extra, err = base64.StdEncoding.DecodeString(lines[1][len("extra "):]); err != nil {
		return nil, fmt.Errorf("%w: extra data is not base64", errProof)
	}
	if t.index, err = strconv.ParseInt(lines[2][len("index "):], 10, 64); err != nil {
		return nil, fmt.Errorf("%w: index is not a number", errProof)
	}
	if t.path, err = parsePath(lines[3:]); err != nil {
		return nil, err
	}
	return t, checkNote(signed)
}

// parsePath reads hashes in base64.
func parsePath(lines []string) ([]tlog.Hash, error) {
	if len(lines) > maxPath {
		return nil, fmt.Errorf("%w: a path of %d hashes", errProof, len(lines))
	}
	var path []tlog.Hash
	for _, line := range lines {
		h, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(h) != tlog.HashSize || base64.StdEncoding.EncodeToString(h) != line {
			return nil, fmt.Errorf("%w: a path holds what is not a hash", errProof)
		}
		path = append(path, tlog.Hash(h))
	}
	return path, nil
}

// checkNote allows a signed checkpoint only in its one form: non-empty lines, then signatures in canonical base64, each once.
func checkNote(signed string) error {
	text, sigs, ok := strings.Cut(signed, "\n\n")
	if !ok || len(signed) > maxProofNoteSize || !strings.HasSuffix(sigs, "\n") || strings.HasPrefix(text, "\n") {
		return fmt.Errorf("%w: its checkpoint is not a signed note", errProof)
	}
	seen := map[string]bool{}
	for line := range strings.SplitSeq(strings.TrimSuffix(sigs, "\n"), "\n") {
		name, sig, ok := strings.Cut(strings.TrimPrefix(line, "— "), " ")
		b, err := base64.StdEncoding.DecodeString(sig)
		if !ok || err != nil || name == "" || !strings.HasPrefix(line, "— ") || base64.StdEncoding.EncodeToString(b) != sig || seen[line] {
			return fmt.Errorf("%w: its checkpoint has a malformed signature", errProof)
		}
		seen[line] = true
	}
	_, _, err := ParseCheckpoint(signed)
	return err
}

// proofLines cuts extra data into its lines, each of which must end in LF and be ASCII.
func proofLines(text []byte) ([]string, error) {
	if len(text) == 0 || text[len(text)-1] != '\n' {
		return nil, fmt.Errorf("%w: no line end", errProof)
	}
	for i, b := range text {
		if b != '\n' && (b < 0x20 || b > 0x7e) {
			return nil, fmt.Errorf("%w: byte %d is not printable ASCII", errProof, i)
		}
	}
	return strings.Split(string(text[:len(text)-1]), "\n"), nil
}

// SaveProof writes a proof to a new file that only its owner may read: it may hold personal data. A file that exists is refused (6).
func SaveProof(path string, text []byte) error { return createFile(path, text, 0o600) }
