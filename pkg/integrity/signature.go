package integrity

import (
	"fmt"

	"golang.org/x/mod/sumdb/note"
)

// SignText signs a text that is no checkpoint, as a C2SP signed note, with the key that signs checkpoints. The text ends with a newline,
// and its first line must name what it is: it may not be one that a checkpoint could begin with.
func (k *Keys) SignText(text string) (string, error) {
	signed, err := note.Sign(&note.Note{Text: text}, k.signer)
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	return string(signed), nil
}

// OpenText returns the text of a signed note that at least one of the keys has signed.
func OpenText(signed string, keys ...*PublicKey) (string, error) {
	verifiers := make([]note.Verifier, 0, len(keys))
	for _, p := range keys {
		verifiers = append(verifiers, p.verifier)
	}
	n, err := note.Open([]byte(signed), note.VerifierList(verifiers...))
	if err != nil {
		return "", fmt.Errorf("signature: %w", err)
	}
	return n.Text, nil
}
