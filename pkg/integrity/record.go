// Package integrity is the evidence over audit rows: an append-only log of authenticated records with a Merkle root for each set of
// rows, signed checkpoints over the log, and the verifier that compares a database with them. docs/integrity-format.md has the
// formats with test vectors.
package integrity

import (
	"bytes"
	"fmt"
	"time"

	"auditdb/pkg/audit"
)

// Kind is the kind of a log record.
type Kind string

// The kinds of records. Later versions add kinds; they never change one.
const (
	KindGenesis   Kind = "genesis"
	KindFormat    Kind = "format"
	KindKey       Kind = "key"
	KindPartition Kind = "partition"
	KindBatch     Kind = "batch"
	KindSeal      Kind = "seal"
	KindMove      Kind = "move"
	KindDetach    Kind = "detach"
	KindPrune     Kind = "prune"
	KindExpire    Kind = "expire"
	KindRedact    Kind = "redact"
	KindArchive   Kind = "archive"
	KindRestore   Kind = "restore"
	KindHold      Kind = "hold"
	KindPolicy    Kind = "policy"
	KindRecovery  Kind = "recovery"
	KindRevoke    Kind = "revoke"
)

// Record is one entry of the log. Its text (Encode) is what is authenticated and hashed.
type Record struct {
	Seq  int64     // position in the log, from 0
	Time time.Time // when it was appended by the writer's clock, UTC, microseconds
	Body Body
}

// Body is the part of a record that depends on its kind: *Genesis, *Batch and so on.
type Body interface {
	Kind() Kind
	lines(c *codec)
}

const recordMagic = "auditdb/1 "

// Encode returns the canonical text of the record.
func (r Record) Encode() ([]byte, error) {
	c := codec{out: make([]byte, 0, 512)}
	c.out = append(append(append(c.out, recordMagic...), r.Body.Kind()...), '\n')
	r.lines(&c)
	if c.err == nil && len(c.out) >= maxRecord {
		c.fail("%d bytes", len(c.out))
	}
	if c.err != nil {
		return nil, fmt.Errorf("encode %s record: %w", r.Body.Kind(), c.err)
	}
	return c.out, nil
}

func (r *Record) lines(c *codec) {
	c.count("seq", &r.Seq)
	c.time("time", &r.Time)
	r.Body.lines(c)
}

// Parse reads a record's text. Anything but the exact bytes that Encode writes for the same values is an error.
func Parse(text []byte) (Record, error) {
	lines, err := splitLines(text)
	if err != nil {
		return Record{}, err
	}
	if len(lines[0]) < len(recordMagic) || lines[0][:len(recordMagic)] != recordMagic {
		return Record{}, fmt.Errorf("%w: it does not begin with %q", errRecord, recordMagic)
	}
	body := newBody(Kind(lines[0][len(recordMagic):]))
	if body == nil {
		return Record{}, fmt.Errorf("%w: unknown kind", errRecord)
	}
	r := Record{Body: body}
	c := codec{reading: true, lines: lines[1:]}
	r.lines(&c)
	if c.err == nil && len(c.lines) > 0 {
		c.fail("%d lines too many", len(c.lines))
	}
	if c.err != nil {
		return Record{}, c.err
	}
	if again, err := r.Encode(); err != nil || !bytes.Equal(again, text) {
		return Record{}, fmt.Errorf("%w: not in canonical form", errRecord)
	}
	return r, nil
}

func newBody(k Kind) Body {
	if b := newEvidence(k); b != nil {
		return b
	}
	switch k {
	case KindGenesis:
		return &Genesis{}
	case KindFormat:
		return &Format{}
	case KindKey:
		return &Key{}
	case KindPartition:
		return &Partition{}
	case KindBatch:
		return &Batch{}
	case KindSeal:
		return &Seal{}
	case KindMove:
		return &Move{}
	case KindDetach:
		return &Detach{}
	case KindPrune:
		return &Prune{}
	}
	return nil
}

// Range is the half-open range of times that a partition holds. Together with the table it is the partition's identity in the log;
// names and oids change with renames, dumps and restores.
type Range struct {
	From, To       time.Time // UTC
	FromMin, ToMax bool      // open ends
	Default        bool      // the default partition: no range of its own
}

// DefaultRange is the range of a default partition.
func DefaultRange() Range { return Range{Default: true} }

// PartitionRef names a partition in a record.
type PartitionRef struct {
	Name  string // for people: the name when the record was made
	Range Range
}

// Genesis is the first record of a log.
type Genesis struct {
	Origin   string // the log's name in checkpoints
	System   uint64 // the server's system identifier (pg_control_system)
	Timeline int64
	Database string
}

// Kind returns KindGenesis.
func (*Genesis) Kind() Kind { return KindGenesis }

func (b *Genesis) lines(c *codec) {
	c.str("origin", &b.Origin)
	c.uint64("system", &b.System)
	c.count("timeline", &b.Timeline)
	c.str("database", &b.Database)
}

// Key introduces a key. It is authenticated by the key that was active before; the first one by itself.
type Key struct {
	KeyID  string // Keys.ID
	Check  string // Keys.Check
	Public string // C2SP verifier key of its checkpoints
}

// Kind returns KindKey.
func (*Key) Kind() Kind { return KindKey }

func (b *Key) lines(c *codec) {
	c.hexString("key_id", &b.KeyID, 2*keyIDBytes)
	c.hexString("check", &b.Check, 2*checkBytes)
	c.str("vkey", &b.Public)
}

// Format says which columns of a table a leaf covers, in hash order.
type Format struct {
	Table        int16 // auditdb.managed_table
	Schema, Name string
	KeyColumn    string // the partition key
	Leaf         audit.Format
}

// Kind returns KindFormat.
func (*Format) Kind() Kind { return KindFormat }

func (b *Format) lines(c *codec) {
	c.table(&b.Table)
	c.str("schema", &b.Schema)
	c.str("name", &b.Name)
	c.str("key_column", &b.KeyColumn)
	version := int64(b.Leaf.Version)
	c.int64("leaf", &version)
	if version != audit.FormatVersion {
		c.fail("leaf format %d", version)
	}
	b.Leaf.Version = int(version)
	b.Leaf.Core = c.columns("core", b.Leaf.Core, false)
	b.Leaf.Personal = c.columns("personal", b.Leaf.Personal, true)
	c.optional("salt", &b.Leaf.Salt)
	if c.err == nil && len(b.Leaf.Core) == 0 {
		c.fail("no core column")
	}
}

// columns is one line `name column type` for each column.
func (c *codec) columns(name string, cols []audit.Column, personal bool) []audit.Column {
	for i := 0; !c.reading && i < len(cols); i++ {
		c.put(name, percentEncode(cols[i].Name)+" "+percentEncode(cols[i].Type))
	}
	for c.reading && c.peek(name) {
		col, typ, ok := cutSpace(c.get(name))
		if !ok {
			c.fail("line %q: not a column and a type", name)
		}
		cols = append(cols, audit.Column{Name: col, Type: typ, Personal: personal})
	}
	return cols
}

// cutSpace reads two percent-encoded strings.
func cutSpace(s string) (a, b string, ok bool) {
	for i := range len(s) {
		if s[i] == ' ' {
			a, ok1 := percentDecode(s[:i])
			b, ok2 := percentDecode(s[i+1:])
			return a, b, ok1 && ok2 && a != "" && b != ""
		}
	}
	return "", "", false
}

// The events of a partition record.
const (
	EventAttached = "attached" // found attached, or attached by hand
	EventCreated  = "created"  // made by partition create or ingest
)

// Partition says that a partition belongs to the table from now on.
type Partition struct {
	Table     int16
	Event     string
	Partition PartitionRef
}

// Kind returns KindPartition.
func (*Partition) Kind() Kind { return KindPartition }

func (b *Partition) lines(c *codec) {
	c.table(&b.Table)
	c.str("event", &b.Event)
	if b.Event != EventAttached && b.Event != EventCreated {
		c.fail("line %q: unknown", "event")
	}
	c.partition(&b.Partition)
}

func (c *codec) partition(p *PartitionRef) {
	c.str("partition", &p.Name)
	c.bounds("", &p.Range)
}

// LeafRoot is what a record says about one leaf set: rows of one partition with the Merkle root over their leaves in id order.
type LeafRoot struct {
	MinID, MaxID int64
	Rows         int64    // 1 to audit.MaxSet
	IDs          [32]byte // SHA-256 of the id set's encoding
	Root         [32]byte // RFC 6962 over the leaves
}

func (s *LeafRoot) lines(c *codec) {
	c.count("min_id", &s.MinID)
	c.count("max_id", &s.MaxID)
	c.count("rows", &s.Rows)
	if c.err == nil && (s.Rows < 1 || s.Rows > audit.MaxSet || s.MaxID < s.MinID || s.MaxID-s.MinID < s.Rows-1) {
		c.fail("%d rows from id %d to %d", s.Rows, s.MinID, s.MaxID)
	}
	c.hash("ids", &s.IDs)
	c.hash("root", &s.Root)
}

// Batch is a leaf set written by ingest together with its rows. Ids are block<<16 | k.
type Batch struct {
	Table     int16
	Partition PartitionRef
	Block     int64
	Set       LeafRoot
}

// Kind returns KindBatch.
func (*Batch) Kind() Kind { return KindBatch }

func (b *Batch) lines(c *codec) {
	c.table(&b.Table)
	c.partition(&b.Partition)
	c.count("block", &b.Block)
	b.Set.lines(c)
	if c.err == nil && (b.Set.MinID < FirstBlockID || b.Set.MinID>>blockBits != b.Block || b.Set.MaxID>>blockBits != b.Block) {
		c.fail("ids %d to %d lie outside block %d", b.Set.MinID, b.Set.MaxID, b.Block)
	}
}

// Seal is a leaf set of rows that other writers had inserted before.
type Seal struct {
	Table     int16
	Partition PartitionRef
	Set       LeafRoot
	Below     int64 // every row of the partition with a smaller id that was visible is in a leaf set now
}

// Kind returns KindSeal.
func (*Seal) Kind() Kind { return KindSeal }

func (b *Seal) lines(c *codec) {
	c.table(&b.Table)
	c.partition(&b.Partition)
	b.Set.lines(c)
	c.count("below", &b.Below)
	if c.err == nil && (b.Set.MaxID >= b.Below || b.Set.MaxID >= FirstBlockID) {
		c.fail("ids up to %d, below %d", b.Set.MaxID, b.Below)
	}
}

// Move says that rows were moved from one partition to another.
type Move struct {
	Table    int16
	From, To PartitionRef
	Rows     int64
}

// Kind returns KindMove.
func (*Move) Kind() Kind { return KindMove }

func (b *Move) lines(c *codec) {
	c.table(&b.Table)
	c.str("source", &b.From.Name)
	c.bounds("source_", &b.From.Range)
	c.str("target", &b.To.Name)
	c.bounds("target_", &b.To.Range)
	c.count("rows", &b.Rows)
}

// Detach announces that a partition is going to be detached; it is logged before.
type Detach struct {
	Table     int16
	Partition PartitionRef
	OID       int64 // the relation's oid when the record was made; 0: not known
}

// Kind returns KindDetach.
func (*Detach) Kind() Kind { return KindDetach }

func (b *Detach) lines(c *codec) {
	c.table(&b.Table)
	c.partition(&b.Partition)
	c.count("oid", &b.OID)
}

// Prune says that a partition was dropped with its rows.
type Prune struct {
	Table     int16
	Partition PartitionRef
	Rows      int64
}

// Kind returns KindPrune.
func (*Prune) Kind() Kind { return KindPrune }

func (b *Prune) lines(c *codec) {
	c.table(&b.Table)
	c.partition(&b.Partition)
	c.count("rows", &b.Rows)
}

const (
	blockBits = 16
	// FirstBlockID is the smallest id that ingest gives; smaller ones belong to other writers.
	FirstBlockID = int64(1) << 40
)
