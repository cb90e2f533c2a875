package integrity

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Checkpoint is a signed statement about the log: it has Size records and the tree hash Root. Note is the C2SP tlog-checkpoint with
// its signatures, to be kept outside the database.
type Checkpoint struct {
	Origin string `json:"origin"`
	Size   int64  `json:"size"`
	Root   string `json:"root"` // base64, as in the note
	Note   string `json:"note"`
}

var errCheckpoint = errors.New("malformed checkpoint")

// checkpointText is the signed part of a C2SP tlog-checkpoint.
func checkpointText(origin string, size int64, root tlog.Hash) string {
	return fmt.Sprintf("%s\n%d\n%s\n", origin, size, base64.StdEncoding.EncodeToString(root[:]))
}

// signWith makes a checkpoint with the signatures of several keys.
func (k *Keys) signWith(size int64, root tlog.Hash, signers ...note.Signer) (Checkpoint, error) {
	signed, err := note.Sign(&note.Note{Text: checkpointText(k.origin, size, root)}, signers...)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("sign checkpoint: %w", err)
	}
	return Checkpoint{Origin: k.origin, Size: size, Root: base64.StdEncoding.EncodeToString(root[:]), Note: string(signed)}, nil
}

// signAll makes the checkpoint of a log with the signatures of all keys at hand that count: whoever has only an older public key can
// verify it too.
func (k *Keys) signAll(size int64, root tlog.Hash, ctl control) (Checkpoint, error) {
	var signers []note.Signer
	signing := k
	for _, one := range k.all() {
		if _, ok := ctl.keys[one.id]; !ok || one.origin != ctl.origin {
			continue
		}
		if len(signers) == 0 {
			signing = one
		}
		signers = append(signers, one.signer)
	}
	return signing.signWith(size, root, signers...)
}

// ParseCheckpoint reads a signed checkpoint without checking its signatures (see PublicKey.Verify). Lines after the first three of
// the text are extensions and left alone.
func ParseCheckpoint(signed string) (Checkpoint, tlog.Hash, error) {
	text, _, ok := strings.Cut(signed, "\n\n")
	if !ok {
		return Checkpoint{}, tlog.Hash{}, fmt.Errorf("%w: no signature", errCheckpoint)
	}
	lines := strings.Split(text, "\n")
	if len(lines) < 3 || lines[0] == "" {
		return Checkpoint{}, tlog.Hash{}, fmt.Errorf("%w: %d lines", errCheckpoint, len(lines))
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return Checkpoint{}, tlog.Hash{}, fmt.Errorf("%w: size", errCheckpoint)
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return Checkpoint{}, tlog.Hash{}, fmt.Errorf("%w: root", errCheckpoint)
	}
	return Checkpoint{Origin: lines[0], Size: size, Root: lines[2], Note: signed}, tlog.Hash(root), nil
}

// Verify checks that the checkpoint was signed by this key and carries its origin.
func (p *PublicKey) Verify(signed string) (Checkpoint, tlog.Hash, error) {
	n, err := note.Open([]byte(signed), note.VerifierList(p.verifier))
	if err != nil {
		return Checkpoint{}, tlog.Hash{}, fmt.Errorf("checkpoint signature: %w", err)
	}
	c, root, err := ParseCheckpoint(signed)
	if err != nil {
		return c, root, err
	}
	if c.Origin != p.verifier.Name() || len(n.Sigs) == 0 {
		return c, root, fmt.Errorf("%w: origin %q under a key of %q", errCheckpoint, c.Origin, p.verifier.Name())
	}
	return c, root, nil
}
