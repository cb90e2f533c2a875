package ingest

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"auditdb/internal/fault"
)

// The mapping presets.
const (
	MappingNative     = "native"     // keys are column names
	MappingCloudTrail = "cloudtrail" // AWS CloudTrail records
	MappingKubernetes = "kubernetes" // Kubernetes audit events
	MappingGitHub     = "github"     // GitHub's audit log
	MappingPgAudit    = "pgaudit"    // PostgreSQL's csvlog with the lines of pgaudit
)

// mappingVersion goes into the digest that a source keeps: a source begun under other rules is not gone on with.
const mappingVersion = 1

// Mapping says how records become events.
type Mapping struct {
	Name             string         // a preset, or the name of a mapping file without its folder
	UnknownToDetails bool           // native: unknown keys go into details instead of rejecting the record
	Local            *time.Location // zone of timestamps that name none; nil rejects them
	set              [columnCount][]byte
	latency          *int32
	prog             *program // nil: a preset that is not made of one
	text             []byte   // of a mapping file
}

// ParseMapping takes the name of a preset or the path of a mapping file, and COLUMN=VALUE settings, which win over what events say. A
// mapping file is compiled; what is wrong in it is named with its line and column.
func ParseMapping(name string, settings []string) (Mapping, error) {
	m := Mapping{Name: name}
	var err error
	switch name {
	case MappingNative, MappingCloudTrail, MappingPgAudit:
	case MappingKubernetes, MappingGitHub:
		m.prog, err = preset(name)
	default:
		if !strings.ContainsAny(name, "./"+string(filepath.Separator)) {
			return m, fault.New(fault.Usage, "the mappings are native, cloudtrail, kubernetes, github, pgaudit and mapping files such as ./mine.yaml", "unknown mapping %q", name)
		}
		m.Name = filepath.Base(name)
		m.text, m.prog, err = readMapping(name)
	}
	if err != nil {
		return m, err
	}
	for _, s := range settings {
		if err := m.setColumn(s); err != nil {
			return m, err
		}
	}
	return m, m.complete(name)
}

// complete makes sure that a mapping file gives the columns that no event can do without.
func (m *Mapping) complete(file string) error {
	if m.prog == nil {
		return nil
	}
	for _, c := range []column{colAction, colStatus} {
		if m.set[c] == nil && !m.prog.gives(c) {
			return fault.New(fault.Config, mappingHint, "%s: the column %s is missing", file, c.name())
		}
	}
	return nil
}

// readsCSV tells the mappings that take CSV: mapping files see a record as an object of the header's names.
func (m *Mapping) readsCSV() bool {
	return m.Name == MappingNative || m.Name == MappingPgAudit || m.text != nil
}

func (m *Mapping) setColumn(setting string) error {
	name, value, ok := strings.Cut(setting, "=")
	c, known := nativeColumn([]byte(name))
	switch {
	case !ok:
		return fault.New(fault.Usage, "write --set COLUMN=VALUE", "--set %s: there is no value", shortName([]byte(setting)))
	case !known:
		return fault.New(fault.Usage, "", "--set: there is no column %s", shortName([]byte(name)))
	case c == colLatency:
		v, err := parseLatency([]byte(value))
		if err != nil {
			return fault.New(fault.Usage, "", "--set: %w", err)
		}
		m.latency = &v
		return nil
	case !c.isText():
		return fault.New(fault.Usage, "", "--set: %s cannot be the same for every event", c.name())
	case !utf8.ValidString(value) || strings.ContainsRune(value, 0):
		return fault.New(fault.Usage, "", "--set: the value of %s is not UTF-8 text", c.name())
	case c.maxBytes() > 0 && len(value) > c.maxBytes():
		return fault.New(fault.Usage, "", "--set: %s may have %d bytes", c.name(), c.maxBytes())
	}
	m.set[c] = []byte(value)
	return nil
}

func (m *Mapping) newMapper() mapper {
	switch {
	case m.prog != nil:
		return mapped{m.prog, m.Local}
	case m.Name == MappingCloudTrail:
		return cloudTrail{}
	case m.Name == MappingPgAudit:
		return &pgAudit{local: m.Local}
	}
	return &native{local: m.Local, unknown: m.UnknownToDetails}
}

// digest identifies the mapping with everything that changes what it gives.
func (m *Mapping) digest() []byte {
	var b strings.Builder
	name := m.Name
	if m.text != nil { // wherever the file lies and whatever it is called
		name = fmt.Sprintf("file %x", sha256.Sum256(m.text))
	}
	fmt.Fprintf(&b, "%s %d\nunknown %t\n", name, mappingVersion, m.UnknownToDetails)
	if m.Local != nil {
		fmt.Fprintf(&b, "zone %s\n", m.Local)
	}
	var sets []string
	for c := range columnCount {
		if m.set[c] != nil {
			sets = append(sets, fmt.Sprintf("set %s %q\n", c.name(), m.set[c]))
		}
	}
	if m.latency != nil {
		sets = append(sets, fmt.Sprintf("set %s %d\n", colLatency.name(), *m.latency))
	}
	slices.Sort(sets)
	b.WriteString(strings.Join(sets, ""))
	sum := sha256.Sum256([]byte(b.String()))
	return sum[:]
}
