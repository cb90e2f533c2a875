// Package audit is the audit event as bytes: its columns, their PostgreSQL binary form, the canonical text of its JSON, and the
// hashes over them. It is pure: no I/O, no clock, no database.
package audit

// FormatVersion is the version of the row leaf that this package computes.
const FormatVersion = 1

// Column is a column of a table as a leaf covers it.
type Column struct {
	Name     string // as in the catalog, unquoted
	Type     string // PostgreSQL's type name: int8, int4, timestamptz, uuid, text, jsonb
	Personal bool   // erased on request: hashed under the row's salt
}

// Format is the list of columns that a leaf covers, in the order in which they are hashed. It is recorded in the log, so that
// columns are never known by their position in the table.
type Format struct {
	Version  int    // of the leaf, see FormatVersion
	Salt     string // the column of type uuid that salts the personal columns
	Core     []Column
	Personal []Column
}

// AuditLog returns the format of public.audit_log: the columns in the order of its definition, personal ones apart.
func AuditLog() Format { //nolint:revive // the table is called audit_log
	return Format{
		Version: FormatVersion,
		Salt:    "salt",
		Core: []Column{
			{Name: "id", Type: "int8"},
			{Name: "timestamp", Type: "timestamptz"},
			{Name: "recorded_at", Type: "timestamptz"},
			{Name: "processing_latency", Type: "int4"},
			{Name: "action", Type: "text"},
			{Name: "status", Type: "text"},
			{Name: "organization_id", Type: "text"},
			{Name: "target_resource_type", Type: "text"},
			{Name: "correlation_id", Type: "text"},
			{Name: "event_uid", Type: "text"},
			{Name: "data_classification", Type: "text"},
			{Name: "retention_policy", Type: "text"},
			{Name: "event_version", Type: "text"},
			{Name: "hash", Type: "text"},
			{Name: "hash_algorithm", Type: "text"},
			{Name: "ttl", Type: "text"},
			{Name: "archived_at", Type: "timestamptz"},
		},
		Personal: []Column{
			{Name: "principal_id", Type: "text", Personal: true},
			{Name: "target_resource_id", Type: "text", Personal: true},
			{Name: "outcome_description", Type: "text", Personal: true},
			{Name: "details", Type: "jsonb", Personal: true},
		},
	}
}

// Columns returns all columns in COPY order: core, personal, salt.
func (f Format) Columns() []Column {
	all := make([]Column, 0, len(f.Core)+len(f.Personal)+1)
	all = append(all, f.Core...)
	all = append(all, f.Personal...)
	return append(all, Column{Name: f.Salt, Type: "uuid"})
}

// Names returns the names of Columns.
func (f Format) Names() []string {
	cols := f.Columns()
	names := make([]string, len(cols))
	for i, c := range cols {
		names[i] = c.Name
	}
	return names
}

// Index returns the position of a column in Columns, or -1.
func (f Format) Index(name string) int {
	for i, c := range f.Columns() {
		if c.Name == name {
			return i
		}
	}
	return -1
}
