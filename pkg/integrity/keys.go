package integrity

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"

	"auditdb/internal/fault"
)

// The info strings from which HKDF-SHA256 (RFC 5869, no salt) derives everything out of the one secret.
const (
	infoMAC   = "auditdb/1 mac"
	infoSign  = "auditdb/1 ed25519"
	infoKeyID = "auditdb/1 key id"

	seedSize     = 32
	keyIDBytes   = 4
	checkBytes   = 16
	secretPrefix = "auditdb-secret-1+"
	macDomain    = "auditdb/log/1\n"
)

// Keys are the secret keys of one integrity log, derived from one seed: they authenticate records and sign checkpoints.
type Keys struct {
	origin string
	seed   [seedSize]byte
	mac    []byte
	id     string
	check  string
	public ed25519.PublicKey
	signer note.Signer
	pub    *PublicKey
	older  []*Keys // further keys of the file: those before, for verifying and for signatures while they count
}

// Generate makes new keys from the system's random source. origin names the log in its checkpoints (C2SP: a schema-less URL such
// as audit.example.com/main); empty: auditdb/<key id>.
func Generate(origin string) (*Keys, error) {
	var seed [seedSize]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, fmt.Errorf("read random bytes: %w", err)
	}
	return deriveKeys(origin, seed)
}

func deriveKeys(origin string, seed [seedSize]byte) (*Keys, error) {
	k := &Keys{seed: seed}
	var err error
	if k.mac, err = derive(seed, infoMAC); err != nil {
		return nil, err
	}
	private, err := derive(seed, infoSign)
	if err != nil {
		return nil, err
	}
	id, err := derive(seed, infoKeyID)
	if err != nil {
		return nil, err
	}
	k.id, k.check = hex.EncodeToString(id[:keyIDBytes]), hex.EncodeToString(id[keyIDBytes:keyIDBytes+checkBytes])
	if origin == "" {
		origin = "auditdb/" + k.id
	}
	if err := checkOrigin(origin); err != nil {
		return nil, err
	}
	k.origin = origin
	key := ed25519.NewKeyFromSeed(private)
	k.public, _ = key.Public().(ed25519.PublicKey)
	k.signer, k.pub, err = noteKeys(origin, key.Seed(), k.public)
	return k, err
}

func derive(seed [seedSize]byte, info string) ([]byte, error) {
	b, err := hkdf.Key(sha256.New, seed[:], nil, info, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive %q: %w", info, err)
	}
	return b, nil
}

// noteKeys builds the signer and the public key in the forms of C2SP signed-note.
func noteKeys(origin string, seed []byte, public ed25519.PublicKey) (note.Signer, *PublicKey, error) {
	vkey, err := note.NewEd25519VerifierKey(origin, public)
	if err != nil {
		return nil, nil, fmt.Errorf("encode verifier key: %w", err)
	}
	pub, err := ParsePublic(vkey)
	if err != nil {
		return nil, nil, err
	}
	secret := append([]byte{1}, seed...) // 1: Ed25519
	signer, err := note.NewSigner(fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", origin, pub.verifier.KeyHash(), base64.StdEncoding.EncodeToString(secret)))
	if err != nil {
		return nil, nil, errors.New("make signer: malformed key")
	}
	return signer, pub, nil
}

func checkOrigin(origin string) error {
	if origin == "" || len(origin) > 255 || !utf8.ValidString(origin) || strings.Contains(origin, "+") ||
		strings.IndexFunc(origin, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) >= 0 {
		return fault.New(fault.Config, "use a name such as audit.example.com/main", "origin %q: want 1 to 255 bytes without spaces and '+'", origin)
	}
	return nil
}

// Origin returns the name of the log in its checkpoints.
func (k *Keys) Origin() string { return k.origin }

// ID returns the eight hex digits that name the key in the log.
func (k *Keys) ID() string { return k.id }

// Check returns the key check value that the log's key record holds: a key with another value is the wrong key, not a sign of tampering.
func (k *Keys) Check() string { return k.check }

// Public returns what others need to verify checkpoints.
func (k *Keys) Public() *PublicKey { return k.pub }

// WithOrigin returns the same keys for a log of another name.
func (k *Keys) WithOrigin(origin string) (*Keys, error) {
	out, err := deriveKeys(origin, k.seed)
	if err != nil {
		return nil, err
	}
	for _, o := range k.older {
		if o.origin == k.origin {
			if o, err = deriveKeys(origin, o.seed); err != nil {
				return nil, err
			}
		}
		out.older = append(out.older, o)
	}
	return out, nil
}

// all lists the keys of a file, the one that writes first.
func (k *Keys) all() []*Keys { return append([]*Keys{k}, k.older...) }

// find returns the key of an id, nil where the file does not have it.
func (k *Keys) find(id string) *Keys {
	for _, o := range k.all() {
		if o.id == id {
			return o
		}
	}
	return nil
}

// checkRecord tells whether a record's MAC was made by the key that it names, which must be at hand.
func (k *Keys) checkRecord(r *storedRecord) bool {
	one := k.find(r.keyID)
	return one != nil && one.CheckMAC([]byte(r.text), r.mac)
}

// Next makes new keys for the log: they write from their key record on, the ones before stay for verifying. An empty origin keeps the
// log's name.
func (k *Keys) Next(origin string) (*Keys, error) {
	if origin == "" {
		origin = k.origin
	}
	next, err := Generate(origin)
	if err != nil {
		return nil, err
	}
	next.older = k.all()
	return next, nil
}

// Follows tells whether the keys were made by Next of keys.
func (k *Keys) Follows(keys *Keys) bool { return len(k.older) > 0 && k.older[0].id == keys.id }

// before returns the keys as they were before Next: the older ones, the newest of them writing.
func (k *Keys) before() *Keys {
	if len(k.older) == 0 {
		return nil
	}
	old := *k.older[0]
	old.older = append([]*Keys{k}, k.older[1:]...)
	return &old
}

// MAC returns HMAC-SHA256 of a record's text under the log's MAC key.
func (k *Keys) MAC(record []byte) [sha256.Size]byte {
	h := hmac.New(sha256.New, k.mac)
	h.Write([]byte(macDomain))
	h.Write(record)
	return [sha256.Size]byte(h.Sum(nil))
}

// CheckMAC tells whether mac belongs to record, in constant time.
func (k *Keys) CheckMAC(record, mac []byte) bool {
	want := k.MAC(record)
	return hmac.Equal(want[:], mac)
}

// String never shows the secret.
func (k *Keys) String() string { return "integrity key " + k.id + " of " + k.origin }

// GoString never shows the secret.
func (k *Keys) GoString() string { return k.String() }

// Encode returns the text of the key file. It is the secret.
func (k *Keys) Encode() []byte {
	var out []byte
	for _, one := range k.all() {
		out = append(out, one.encode()...)
	}
	return out
}

func (k *Keys) encode() []byte {
	return fmt.Appendf(nil, `# auditdb integrity key: secret, keep it off the database host and back it up
# key id %s
# check %s
# public %s
%s%s+%s
`, k.id, k.check, k.pub.Encode(), secretPrefix, k.origin, base64.StdEncoding.EncodeToString(k.seed[:]))
}

// ParseKeys reads the text of a key file. No error shows any part of the secret.
func ParseKeys(text []byte) (*Keys, error) {
	const hint = "name the log's key file; for a log that has not begun, make one with `auditdb integrity keygen -f FILE`"
	var keys *Keys
	var check string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if c, ok := strings.CutPrefix(line, "# check "); ok {
			check = c
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		rest, ok := strings.CutPrefix(line, secretPrefix)
		if !ok {
			return nil, fault.New(fault.Config, hint, "not an integrity key file: want lines that begin with %s", secretPrefix)
		}
		origin, seed64, _ := strings.Cut(rest, "+")
		seed, err := base64.StdEncoding.Strict().DecodeString(seed64)
		if err != nil || len(seed) != seedSize {
			return nil, fault.New(fault.Config, hint, "damaged integrity key file: the secret is not %d bytes of base64", seedSize)
		}
		one, err := deriveKeys(origin, [seedSize]byte(seed))
		switch {
		case err != nil:
			return nil, err
		case check != "" && check != one.check:
			return nil, fault.New(fault.Config, "restore the file from its backup", "damaged integrity key file: its check value does not fit the secret")
		case keys == nil:
			keys = one
		case keys.find(one.id) != nil:
			return nil, fault.New(fault.Config, "restore the file from its backup", "damaged integrity key file: it has key %s twice", one.id)
		default:
			keys.older = append(keys.older, one)
		}
		check = ""
	}
	if keys == nil {
		return nil, fault.New(fault.Config, hint, "not an integrity key file: it has no key")
	}
	if check != "" {
		return nil, fault.New(fault.Config, "restore the file from its backup", "damaged integrity key file: a check value without its secret")
	}
	return keys, nil
}

// LoadKeys reads a key file. A file that cannot be read is unavailable (3); one that others than its owner may use, or that is no
// key file, is a configuration error (2).
func LoadKeys(path string) (*Keys, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "check integrity.key_file", "read integrity key: %w", err)
	}
	if info.IsDir() {
		return nil, fault.New(fault.Config, "name the file itself", "integrity key %s is a folder", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fault.New(fault.Config, "chmod 600 "+path, "integrity key %s has mode %04o: others may read it", path, mode)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "check integrity.key_file", "read integrity key: %w", err)
	}
	keys, err := ParseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("read integrity key %s: %w", path, err)
	}
	return keys, nil
}

// Save writes the key file with mode 0600. A file that exists already is refused (6) and left as it is.
func (k *Keys) Save(path string) error { return createFile(path, k.Encode(), 0o600) }

// PublicKey verifies checkpoints; it proves nothing about single records' MACs.
type PublicKey struct {
	vkey     string
	verifier note.Verifier
}

// ParsePublic reads a C2SP verifier key (vkey), such as keygen prints; comment lines are skipped.
func ParsePublic(text string) (*PublicKey, error) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		v, err := note.NewVerifier(line)
		if err != nil {
			return nil, fault.New(fault.Config, "use the line that `auditdb integrity keygen` printed", "not a verifier key: %w", err)
		}
		return &PublicKey{vkey: line, verifier: v}, nil
	}
	return nil, fault.New(fault.Config, "use the line that `auditdb integrity keygen` printed", "not a verifier key: no key found")
}

// LoadPublic reads a public key file.
func LoadPublic(path string) (*PublicKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "check integrity.public_key_file", "read public key: %w", err)
	}
	p, err := ParsePublic(string(text))
	if err != nil {
		return nil, fmt.Errorf("read public key %s: %w", path, err)
	}
	return p, nil
}

// Encode returns the C2SP verifier key line.
func (p *PublicKey) Encode() string { return p.vkey }

// Origin returns the log's name as the key has it.
func (p *PublicKey) Origin() string { return p.verifier.Name() }

// Save writes the public key file. A file that exists already is refused (6).
func (p *PublicKey) Save(path string) error { return createFile(path, []byte(p.vkey+"\n"), 0o644) }

// createFile makes a file that did not exist, with its final mode from the start, and makes it durable.
func createFile(path string, text []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fault.New(fault.Refused, "choose another file, or move the old one away", "%s exists and is not overwritten", path)
	}
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = syncFolder(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(path)))
	}
	return nil
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// KeyHint says what to do where no key is configured. logKey is the key that the log was last written with, "" for a log that has not begun:
// only that one may be begun with a new key.
func KeyHint(logKey string) string {
	if logKey == "" {
		return "make a key with auditdb integrity keygen -f FILE, and set integrity.key_file (AUDITDB_INTEGRITY_KEY_FILE) to it"
	}
	return "set integrity.key_file (AUDITDB_INTEGRITY_KEY_FILE) to the file of key " + logKey + ", which the log is written with; a new key would not fit it"
}
