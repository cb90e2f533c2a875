package integrity

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"auditdb/internal/fault"
	"auditdb/pkg/audit"
)

// ProvenEvent is what a proof proves: this event was in the log when the checkpoint was signed.
type ProvenEvent struct {
	Table      string       `json:"table"`
	Partition  string       `json:"partition"` // its name when the event was logged
	ID         int64        `json:"id"`
	LoggedAt   time.Time    `json:"logged_at"` // by the clock of the writer
	Record     int64        `json:"record"`    // sequence number of the leaf set's record
	Hidden     bool         `json:"hidden"`    // the personal fields are not in the proof: erased, or left out
	Fields     []EventField `json:"fields"`
	Checkpoint Checkpoint   `json:"checkpoint"`
}

// EventField is one field of a proven event.
type EventField struct {
	Name     string  `json:"name"`
	Type     string  `json:"type"`
	Personal bool    `json:"personal"`
	Value    *string `json:"value"` // nil: NULL, or hidden
}

// Check returns what the proof proves to whoever trusts one of the keys. A proof that does not lead to a checkpoint signed by one of
// them is of class integrity; one whose checkpoint none of the keys signed at all is unavailable: it takes the log's key to tell.
func (p *EventProof) Check(keys ...*PublicKey) (*ProvenEvent, error) {
	cp, root, err := ParseCheckpoint(p.Checkpoint)
	if err != nil {
		return nil, disproved("%w", err)
	}
	if err := p.checkTree(cp.Size, root); err != nil {
		return nil, err
	}
	if err := verifyAny(p.Checkpoint, keys); err != nil {
		return nil, err
	}
	return p.event(cp)
}

// checkTree follows the event to a root of the log.
func (p *EventProof) checkTree(size int64, root tlog.Hash) error {
	if err := p.resolve(); err != nil {
		return disproved("%w", err)
	}
	if !provableSize(size) {
		return disproved("a log of %d records", size)
	}
	leaf, err := p.leaf()
	if err != nil {
		return disproved("%w", err)
	}
	if err := tlog.CheckRecord(p.SetPath, p.set.Rows, p.set.Root, p.Position, leaf); err != nil {
		return disproved("the fields do not lead to the leaf set's root")
	}
	if err := inTree(p.RecordPath, size, root, p.record.Seq, p.Record); err != nil {
		return disproved("the leaf set's record is not in the checkpoint's tree: %w", err)
	}
	format, err := Parse([]byte(p.Format))
	if err == nil {
		err = inTree(p.FormatPath, size, root, format.Seq, p.Format)
	}
	if err != nil {
		return disproved("the columns' record is not in the checkpoint's tree: %w", err)
	}
	return nil
}

// provableSize keeps away sizes that no log has and that tree arithmetic cannot deal with.
func provableSize(n int64) bool { return n > 0 && n <= 1<<60 }

func inTree(path []tlog.Hash, size int64, root tlog.Hash, seq int64, record string) error {
	if seq >= size {
		return fmt.Errorf("record %d of %d", seq, size)
	}
	return tlog.CheckRecord(path, size, root, seq, tlog.RecordHash([]byte(record)))
}

// leaf recomputes the row's leaf from its fields.
func (p *EventProof) leaf() (tlog.Hash, error) {
	h := audit.NewHasher(p.format.Leaf)
	if p.Commit != nil {
		leaf, err := h.LeafOfFields(p.Core, *p.Commit)
		return leaf, err
	}
	fields := append(append(make([][]byte, 0, len(p.Core)+len(p.Personal)), p.Core...), p.Personal...)
	leaf, err := h.Leaf(fields, p.Salt[:])
	return leaf, err
}

// event renders the fields.
func (p *EventProof) event(cp Checkpoint) (*ProvenEvent, error) {
	id, err := p.id()
	if err != nil {
		return nil, disproved("%w", err)
	}
	e := &ProvenEvent{
		Table: p.format.Schema + "." + p.format.Name, Partition: p.place.Name, ID: id, LoggedAt: p.record.Time,
		Record: p.record.Seq, Hidden: p.Commit != nil, Checkpoint: cp, Fields: []EventField{},
	}
	for i, c := range p.format.Leaf.Core {
		e.Fields = append(e.Fields, EventField{Name: c.Name, Type: c.Type, Value: fieldText(c.Type, p.Core[i])})
	}
	for i, c := range p.format.Leaf.Personal {
		f := EventField{Name: c.Name, Type: c.Type, Personal: true}
		if !e.Hidden {
			f.Value = fieldText(c.Type, p.Personal[i])
		}
		e.Fields = append(e.Fields, f)
	}
	return e, nil
}

// Publics returns the verifier keys of all keys of the file: checkpoints of before a rotation are signed by older ones.
func (k *Keys) Publics() []*PublicKey {
	var out []*PublicKey
	for _, one := range k.all() {
		out = append(out, one.pub)
	}
	return out
}

// verifyAny checks that one of the keys signed a checkpoint of its own origin.
func verifyAny(signed string, keys []*PublicKey) error {
	var missing error
	for _, k := range keys {
		_, _, err := k.Verify(signed)
		var unknown *note.UnverifiedNoteError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &unknown):
			missing = err
		default:
			return disproved("%w", err)
		}
	}
	cp, _, _ := ParseCheckpoint(signed)
	if missing == nil {
		missing = errors.New("no key to check it with")
	}
	return fault.New(fault.Unavailable, "use the verifier key of the log that the proof is of", "the checkpoint of %q: %w", cp.Origin, missing)
}

func disproved(format string, args ...any) error {
	return fault.New(fault.Integrity, "get the proof anew from whoever made it", "the proof does not hold: %w", fmt.Errorf(format, args...))
}
