package ingest

import (
	"crypto/sha256"
	"fmt"
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
)

// mappingVersion goes into the digest that a source keeps: a source begun under other rules is not gone on with.
const mappingVersion = 1

// Mapping says how records become events.
type Mapping struct {
	Name             string         // a preset
	UnknownToDetails bool           // native: unknown keys go into details instead of rejecting the record
	Local            *time.Location // native: zone of timestamps that name none; nil rejects them
	set              [columnCount][]byte
	latency          *int32
}

// ParseMapping checks the name of a mapping and the COLUMN=VALUE settings, which win over what events say.
func ParseMapping(name string, settings []string) (Mapping, error) {
	m := Mapping{Name: name}
	switch name {
	case MappingNative, MappingCloudTrail:
	default:
		return m, fault.New(fault.Usage, "the mappings are native and cloudtrail; mapping files are not supported yet", "unknown mapping %q", name)
	}
	for _, s := range settings {
		if err := m.setColumn(s); err != nil {
			return m, err
		}
	}
	return m, nil
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
	if m.Name == MappingCloudTrail {
		return cloudTrail{}
	}
	return &native{local: m.Local, unknown: m.UnknownToDetails}
}

// digest identifies the mapping with everything that changes what it gives.
func (m *Mapping) digest() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d\nunknown %t\n", m.Name, mappingVersion, m.UnknownToDetails)
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
