package integrity

import (
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const consistencyMagic = "auditdb-consistency-proof/1"

// ConsistencyProof proves that a log only grew between two of its checkpoints: the newer one's tree begins with all records of the
// older one's.
type ConsistencyProof struct {
	Path     []tlog.Hash // RFC 6962, section 2.1.2
	Old, New string      // signed notes
}

// Encode returns the text of the proof.
func (p *ConsistencyProof) Encode() ([]byte, error) {
	var b strings.Builder
	b.WriteString(consistencyMagic + "\n")
	for _, h := range p.Path {
		b.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
	}
	b.WriteString("\n" + p.Old + "\n" + p.New)
	for _, signed := range []string{p.Old, p.New} {
		if err := checkNote(signed); err != nil {
			return nil, err
		}
	}
	return []byte(b.String()), nil
}

// ParseConsistencyProof is the inverse of Encode.
func ParseConsistencyProof(text []byte) (*ConsistencyProof, error) {
	parts := strings.SplitN(string(text), "\n\n", 6)
	if len(text) > 3*maxProofNoteSize || len(parts) != 5 {
		return nil, fmt.Errorf("%w: not a path and two signed checkpoints", errProof)
	}
	lines := strings.Split(parts[0], "\n")
	if lines[0] != consistencyMagic {
		return nil, fmt.Errorf("%w: not a %s", errProof, consistencyMagic)
	}
	path, err := parsePath(lines[1:])
	if err != nil {
		return nil, err
	}
	p := &ConsistencyProof{Path: path, Old: parts[1] + "\n\n" + parts[2] + "\n", New: parts[3] + "\n\n" + parts[4]}
	again, err := p.Encode()
	if err != nil {
		return nil, err
	}
	if string(again) != string(text) {
		return nil, fmt.Errorf("%w: not in canonical form", errProof)
	}
	return p, nil
}

// Check returns the two checkpoints when the proof holds; see EventProof.Check for the errors.
func (p *ConsistencyProof) Check(keys ...*PublicKey) (older, newer Checkpoint, err error) {
	older, newer, err = p.checkTrees()
	for _, signed := range []string{p.Old, p.New} {
		if err == nil {
			err = verifyAny(signed, keys)
		}
	}
	return older, newer, err
}

// checkTrees is Check without the signatures.
func (p *ConsistencyProof) checkTrees() (older, newer Checkpoint, err error) {
	older, oldRoot, err := ParseCheckpoint(p.Old)
	if err != nil {
		return older, newer, disproved("%w", err)
	}
	newer, root, err := ParseCheckpoint(p.New)
	if err != nil {
		return older, newer, disproved("%w", err)
	}
	if older.Origin != newer.Origin {
		return older, newer, disproved("the checkpoints are of two logs, %q and %q", older.Origin, newer.Origin)
	}
	if !provableSize(older.Size) || !provableSize(newer.Size) || older.Size > newer.Size {
		return older, newer, disproved("a log of %d records does not extend one of %d", newer.Size, older.Size)
	}
	if err := tlog.CheckTree(p.Path, newer.Size, root, older.Size, oldRoot); err != nil {
		return older, newer, disproved("the log of %d records does not begin with the %d records of the older checkpoint", newer.Size, older.Size)
	}
	return older, newer, nil
}
