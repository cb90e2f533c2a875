// Package ingest loads audit events from files into the partitions of an audit table: at the speed of COPY, each event exactly once,
// every batch recorded in the integrity log as it commits.
package ingest

import (
	"fmt"

	"auditdb/pkg/audit"
)

// column is a column's place in the COPY order of audit.AuditLog.
type column int

// The columns that ingest gives; a test holds them against audit.AuditLog.
const (
	colID column = iota
	colTimestamp
	colRecordedAt
	colLatency
	colAction
	colStatus
	colOrganization
	colTargetType
	colCorrelation
	colEventUID
	colClassification
	colRetention
	colEventVersion
	colHash
	colHashAlgorithm
	colTTL
	colArchivedAt
	colPrincipal
	colTarget
	colOutcome
	colDetails
	colSalt
	columnCount
)

// name returns the column's name in the table.
func (c column) name() string { return audit.AuditLog().Names()[c] }

// isText tells the columns that an event gives as text.
func (c column) isText() bool {
	switch c {
	case colID, colTimestamp, colRecordedAt, colLatency, colArchivedAt, colDetails, colSalt:
		return false
	}
	return true
}

// maxBytes returns the table's CHECK on a key column's length, 0 for none: one oversize key would fail a whole COPY.
func (c column) maxBytes() int {
	switch c {
	case colStatus:
		return 64
	case colAction, colTargetType, colCorrelation, colEventUID:
		return 512
	case colPrincipal, colOrganization, colTarget:
		return 1024
	}
	return 0
}

// isOurs tells the columns that no event may give: the ingester and the table's owner fill them.
func (c column) isOurs() bool {
	switch c {
	case colID, colRecordedAt, colArchivedAt, colSalt:
		return true
	}
	return false
}

// nativeColumn returns the column that a native key names: its name or the name in camel case. (A switch on the bytes costs no
// allocation and a third of a map.)
func nativeColumn(key []byte) (column, bool) {
	switch string(key) {
	case "id":
		return colID, true
	case "timestamp":
		return colTimestamp, true
	case "recorded_at", "recordedAt":
		return colRecordedAt, true
	case "processing_latency", "processingLatency":
		return colLatency, true
	case "action":
		return colAction, true
	case "status":
		return colStatus, true
	case "organization_id", "organizationId":
		return colOrganization, true
	case "target_resource_type", "targetResourceType":
		return colTargetType, true
	case "correlation_id", "correlationId":
		return colCorrelation, true
	case "event_uid", "eventUid":
		return colEventUID, true
	case "data_classification", "dataClassification":
		return colClassification, true
	case "retention_policy", "retentionPolicy":
		return colRetention, true
	case "event_version", "eventVersion":
		return colEventVersion, true
	case "hash":
		return colHash, true
	case "hash_algorithm", "hashAlgorithm":
		return colHashAlgorithm, true
	case "ttl":
		return colTTL, true
	case "archived_at", "archivedAt":
		return colArchivedAt, true
	case "principal_id", "principalId":
		return colPrincipal, true
	case "target_resource_id", "targetResourceId":
		return colTarget, true
	case "outcome_description", "outcomeDescription":
		return colOutcome, true
	case "details":
		return colDetails, true
	case "salt":
		return colSalt, true
	}
	return 0, false
}

// badRecord says why a record cannot be taken. It is shown to people and must not hold the event's values.
type badRecord string

func (b badRecord) Error() string { return string(b) }

func badf(format string, args ...any) error { return badRecord(fmt.Sprintf(format, args...)) }

// keyName is what a message says of a key or a column that an event has: its name, if it looks like one. Anything else may be content.
func keyName(key []byte) string {
	if !isIdentifier(key) {
		return fmt.Sprintf("of %d bytes", len(key))
	}
	return fmt.Sprintf("%q", key)
}

// isIdentifier tells names of at most 63 bytes: [A-Za-z_][A-Za-z0-9_ .-]*.
func isIdentifier(key []byte) bool {
	for i, ch := range key {
		switch {
		case ch >= 'a' && ch <= 'z', ch >= 'A' && ch <= 'Z', ch == '_':
		case i > 0 && (ch >= '0' && ch <= '9' || ch == ' ' || ch == '.' || ch == '-'):
		default:
			return false
		}
	}
	return len(key) > 0 && len(key) <= 63
}

// shortName makes a setting fit for a message.
func shortName(key []byte) string {
	if len(key) > 64 {
		return fmt.Sprintf("%.64q…", key)
	}
	return fmt.Sprintf("%q", key)
}
