package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"auditdb/internal/fault"
	"auditdb/pkg/integrity"
)

const (
	manifestFormat = "auditdb.archive.v1"
	maxManifest    = 64 << 20 // bytes that are read as a manifest
)

// Manifest says what is in an object, and how it is put back. It stands beside the object, signed.
type Manifest struct {
	Format     string       `json:"format"` // auditdb.archive.v1
	Origin     string       `json:"origin"` // of the integrity log
	TableID    int16        `json:"table_id"`
	Schema     string       `json:"schema"`
	Table      string       `json:"table"`
	Partition  string       `json:"partition"`
	KeyColumn  string       `json:"key_column"`
	From       *string      `json:"from"` // RFC 3339, UTC; null: no lower end
	To         *string      `json:"to"`
	Generation int64        `json:"generation"`
	Supersedes *string      `json:"supersedes"` // the object of the generation before
	LeafFormat int          `json:"leaf_format"`
	Columns    []Column     `json:"columns"`
	Rows       int64        `json:"rows"`
	Erased     int64        `json:"erased"` // rows without personal data when they were archived
	MinID      int64        `json:"min_id"`
	MaxID      int64        `json:"max_id"`
	Root       string       `json:"root"`    // hex; RFC 6962 over the leaves of all rows in the order of ids
	Batches    []BatchRef   `json:"batches"` // the leaf sets that the rows were compared with
	LogSize    int64        `json:"log_size"`
	Checkpoint string       `json:"checkpoint"` // signed, of the log when the rows were read
	Object     string       `json:"object"`     // its name in the manifest's folder
	Bytes      int64        `json:"bytes"`
	SHA256     string       `json:"sha256"` // hex
	Regions    *Regions     `json:"regions"`
	Stripes    *Stripes     `json:"stripes"`
	Census     []CensusLine `json:"census"` // null: more groups than are counted
	DDL        []string     `json:"ddl"`    // makes the partition anew where its table is gone
	MadeAt     string       `json:"made_at"`

	text int64 // bytes of its document
}

// BatchRef is a leaf set with rows in the archive.
type BatchRef struct {
	Record int64  `json:"record"` // of the log
	Rows   int64  `json:"rows"`   // when it was written; rows may have expired since
	Root   string `json:"root"`
}

// CensusLine counts the rows of a classification and organization.
type CensusLine struct {
	Classification *string `json:"data_classification"`
	Organization   *string `json:"organization_id"`
	Rows           int64   `json:"rows"`
}

// signedManifest is the document.
type signedManifest struct {
	Manifest json.RawMessage `json:"manifest"`
	Note     string          `json:"note"`
}

var errManifest = errors.New("malformed manifest")

// signedText is what is signed: the manifest by its digest.
func signedText(manifest []byte) string {
	return fmt.Sprintf("auditdb.archive.manifest/1\n%x\n", sha256.Sum256(manifest))
}

// compact is JSON in the one form that a manifest has.
func compact(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// encode signs the manifest.
func (m *Manifest) encode(keys *integrity.Keys) ([]byte, error) {
	text, err := compact(m)
	if err != nil {
		return nil, fmt.Errorf("encode a manifest: %w", err)
	}
	note, err := keys.SignText(signedText(text))
	if err != nil {
		return nil, err
	}
	out, err := compact(signedManifest{Manifest: text, Note: note})
	return append(out, '\n'), err
}

// ParseManifest reads a signed manifest. One of the keys must have signed it; without keys the signature is not looked at. Anything but the
// exact bytes that are written for the same values is an error.
func ParseManifest(text []byte, keys []*integrity.PublicKey) (*Manifest, error) {
	var doc signedManifest
	if err := decodeStrictly(text, &doc); err != nil {
		return nil, fmt.Errorf("%w: %w", errManifest, err)
	}
	m := &Manifest{}
	if err := decodeStrictly(doc.Manifest, m); err != nil {
		return nil, fmt.Errorf("%w: %w", errManifest, err)
	}
	again, err := compact(m)
	if err != nil || !bytes.Equal(again, doc.Manifest) {
		return nil, fmt.Errorf("%w: not in canonical form", errManifest)
	}
	if again, err = compact(doc); err != nil || string(again)+"\n" != string(text) {
		return nil, fmt.Errorf("%w: not in canonical form", errManifest)
	}
	if len(keys) > 0 {
		signed, err := integrity.OpenText(doc.Note, keys...)
		if err != nil {
			return nil, fmt.Errorf("manifest of %s: %w", m.Object, err)
		}
		if signed != signedText(doc.Manifest) {
			return nil, fmt.Errorf("%w: its signature is of something else", errManifest)
		}
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return m, m.checkParts()
}

func decodeStrictly(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more after its end")
	}
	return nil
}

// check refuses what could not be worked with.
func (m *Manifest) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", errManifest, fmt.Sprintf(format, args...))
	}
	switch {
	case m.Format != manifestFormat:
		return fault.New(fault.Data, "use a newer auditdb", "manifest of format %q", m.Format)
	case m.LeafFormat != 1:
		return fault.New(fault.Data, "use a newer auditdb", "manifest with leaves of format %d", m.LeafFormat)
	case m.Rows < 0 || m.Bytes < 0 || m.LogSize < 0 || m.Generation < 1 || m.Erased < 0 || m.Erased > m.Rows:
		return bad("negative or impossible counts")
	case !isDigest(m.Root) || !isDigest(m.SHA256):
		return bad("a digest is not 64 hex digits")
	case m.Object == "" || strings.ContainsAny(m.Object, "/\\"):
		return bad("object %q", m.Object)
	}
	for _, t := range []*string{m.From, m.To} {
		if t == nil {
			continue
		}
		if _, err := time.Parse(time.RFC3339Nano, *t); err != nil {
			return bad("bound %q", *t)
		}
	}
	return m.checkColumns(bad)
}

// roleOrder is the order in which columns stand.
var roleOrder = map[string]int{roleCore: 0, rolePersonal: 1, roleSalt: 2, roleExtra: 3, roleAside: 4}

func (m *Manifest) checkColumns(bad func(string, ...any) error) error {
	seen, last, aside, id := map[string]bool{}, 0, 0, false
	for _, c := range m.Columns {
		order, ok := roleOrder[c.Role]
		switch {
		case !ok || order < last:
			return bad("column %q has role %q", c.Name, c.Role)
		case seen[c.Name] || c.Name == "":
			return bad("column %q twice", c.Name)
		case c.Encoding != encodingOf(c.Type):
			return bad("column %q of type %s is kept as %q", c.Name, c.Type, c.Encoding)
		}
		seen[c.Name], last = true, order
		if c.Role == roleAside {
			aside++
		}
		id = id || c.Role == roleCore && c.Name == idColumn && strings.HasPrefix(c.Encoding, "int")
	}
	if !id || aside != 2 || !seen[commitColumn] || !seen[saltColumn] {
		return bad("columns are missing")
	}
	return nil
}

const idColumn = "id"

func isDigest(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size && strings.ToLower(s) == s
}

// Names are the table's columns in the order in which WriteCopy gives them.
func (m *Manifest) Names() []string {
	var names []string
	for _, c := range m.Columns {
		if c.Role != roleAside {
			names = append(names, c.Name)
		}
	}
	return names
}
