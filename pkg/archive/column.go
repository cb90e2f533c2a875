// Package archive copies partitions to Parquet objects with a signed manifest beside them, in a folder or an S3-compatible store, and reads
// them back: to verify them, to restore rows exactly as PostgreSQL had them, and to search them without restoring.
package archive

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/parquet-go/parquet-go"

	"auditdb/pkg/audit"
)

// The roles of columns in a manifest.
const (
	roleCore     = "core"     // covered by the leaf
	rolePersonal = "personal" // covered by the leaf under the row's salt
	roleSalt     = "salt"
	roleExtra    = "extra" // covered by no leaf, but by the object's digest
	roleAside    = "aside" // not of the table: what the leaf store knows of the row
)

// Columns that are not of the table.
const (
	commitColumn = "_auditdb_commit" // of an erased row: the commitment that stands for its personal columns
	saltColumn   = "_auditdb_salt"   // of a row without a salt of its own: the one that it was sealed with
)

// The ways in which values are kept.
const (
	asInt16     = "int16"
	asInt32     = "int32"
	asInt64     = "int64"
	asBool      = "bool"
	asFloat     = "float"
	asDouble    = "double"
	asInstant   = "timestamp_utc"
	asTimestamp = "timestamp"
	asDate      = "date"
	asText      = "text"
	asJSON      = "json"
	asJSONB     = "jsonb"
	asBytes     = "bytes" // the bytes of COPY BINARY
)

// Column is a column of an archive.
type Column struct {
	Name     string `json:"name"`
	Type     string `json:"type"` // PostgreSQL's
	Role     string `json:"role"`
	Encoding string `json:"encoding"` // how the value is kept: see docs/archive.md
}

// encodingOf says how values of a PostgreSQL type are kept. What is not known is kept as it comes, which restores exactly.
func encodingOf(pgType string) string {
	switch pgType {
	case "int2":
		return asInt16
	case "int4":
		return asInt32
	case "int8":
		return asInt64
	case "bool":
		return asBool
	case "float4":
		return asFloat
	case "float8":
		return asDouble
	case "timestamptz":
		return asInstant
	case "timestamp":
		return asTimestamp
	case "date":
		return asDate
	case "text", "varchar", "bpchar", "name":
		return asText
	case "json":
		return asJSON
	case "jsonb":
		return asJSONB
	}
	return asBytes
}

// sizeOf is how many bytes a value has in COPY BINARY; 0: any.
func sizeOf(encoding string) int {
	switch encoding {
	case asBool:
		return 1
	case asInt16:
		return 2
	case asInt32, asFloat, asDate:
		return 4
	case asInt64, asDouble, asInstant, asTimestamp:
		return 8
	}
	return 0
}

// columnsOf are the columns of an archive in the order of the streamed fields, and then those aside.
func columnsOf(f audit.Format, extra []audit.Column) []Column {
	var out []Column
	add := func(role string, cols ...audit.Column) {
		for _, c := range cols {
			out = append(out, Column{Name: c.Name, Type: c.Type, Role: role, Encoding: encodingOf(c.Type)})
		}
	}
	add(roleCore, f.Core...)
	add(rolePersonal, f.Personal...)
	if f.Salt != "" {
		add(roleSalt, audit.Column{Name: f.Salt, Type: "uuid"})
	}
	add(roleExtra, extra...)
	add(roleAside, audit.Column{Name: commitColumn, Type: "bytea"}, audit.Column{Name: saltColumn, Type: "bytea"})
	return out
}

// repeating are columns with few different values, or ones that are looked up: they are kept as a dictionary.
var repeating = []string{
	"action", "status", "organization_id", "target_resource_type", "data_classification", "retention_policy", "event_version", "hash_algorithm", "ttl", "principal_id",
}

// searchable are the columns with bloom filters.
var searchable = []string{"principal_id", "organization_id", "correlation_id", "target_resource_id"}

// bounded says that smallest and largest values may stand in the footer: never what is personal or random.
func (c Column) bounded() bool {
	return c.Role == roleCore && c.Encoding != asBytes && c.Name != "hash"
}

func (c Column) repeats() bool { return c.Encoding == asText && slices.Contains(repeating, c.Name) }

func (c Column) searchable() bool { return c.Encoding == asText && slices.Contains(searchable, c.Name) }

// node is the column's type in Parquet.
func (c Column) node() parquet.Node {
	n := parquet.Leaf(parquet.ByteArrayType)
	switch c.Encoding {
	case asInt16:
		n = parquet.Int(16)
	case asInt32:
		n = parquet.Int(32)
	case asInt64:
		n = parquet.Int(64)
	case asBool:
		n = parquet.Leaf(parquet.BooleanType)
	case asFloat:
		n = parquet.Leaf(parquet.FloatType)
	case asDouble:
		n = parquet.Leaf(parquet.DoubleType)
	case asInstant:
		n = parquet.Timestamp(parquet.Microsecond)
	case asTimestamp:
		n = parquet.TimestampAdjusted(parquet.Microsecond, false)
	case asDate:
		n = parquet.Date()
	case asText:
		n = parquet.String()
	case asJSON, asJSONB:
		n = parquet.JSON()
	}
	if c.repeats() {
		n = parquet.Encoded(n, &parquet.RLEDictionary)
	} else {
		n = parquet.Encoded(n, &parquet.Plain)
	}
	return parquet.Optional(n)
}

// schemaOf is the Parquet schema. Its columns are in the order of their names.
func schemaOf(cols []Column) (*parquet.Schema, error) {
	group := parquet.Group{}
	for _, c := range cols {
		if _, twice := group[c.Name]; twice {
			return nil, fmt.Errorf("column %q twice", c.Name)
		}
		group[c.Name] = c.node()
	}
	return parquet.NewSchema("auditdb", group), nil
}

// PostgreSQL counts from 2000-01-01, Parquet from 1970-01-01. Shifting wraps around, so that it can be undone for every value: infinity
// becomes a time far away.
const (
	epochMicros = 946684800 * 1_000_000
	epochDays   = 10957
)

var errValue = errors.New("value of an unexpected form")

// jsonbVersion is the first byte of jsonb's binary form; the rest is its text.
const jsonbVersion = 1

// appendField appends a value as a field of COPY BINARY.
func (c Column) appendField(dst []byte, v parquet.Value) []byte {
	if v.IsNull() {
		return audit.AppendNull(dst)
	}
	switch c.Encoding {
	case asInt16:
		return binary.BigEndian.AppendUint16(append(dst, 0, 0, 0, 2), uint16(v.Int32())) //nolint:gosec // two's complement
	case asInt32:
		return audit.AppendInt32(dst, v.Int32())
	case asDate:
		return audit.AppendInt32(dst, v.Int32()-epochDays)
	case asInt64:
		return audit.AppendInt64(dst, v.Int64())
	case asInstant, asTimestamp:
		return audit.AppendInt64(dst, v.Int64()-epochMicros)
	case asBool:
		if v.Boolean() {
			return append(dst, 0, 0, 0, 1, 1)
		}
		return append(dst, 0, 0, 0, 1, 0)
	case asFloat:
		return binary.BigEndian.AppendUint32(append(dst, 0, 0, 0, 4), math.Float32bits(v.Float()))
	case asDouble:
		return binary.BigEndian.AppendUint64(append(dst, 0, 0, 0, 8), math.Float64bits(v.Double()))
	case asJSONB:
		return audit.AppendCanonicalJSONB(dst, v.ByteArray())
	}
	return audit.AppendText(dst, v.ByteArray())
}
