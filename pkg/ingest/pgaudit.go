package ingest

import (
	"bytes"
	"context"
	"time"

	"auditdb/pkg/audit"
)

// The columns of PostgreSQL's csvlog (14 and later) that are read here, from 0
// (https://www.postgresql.org/docs/current/runtime-config-logging.html, "Using CSV-Format Log Output").
const (
	logTime        = 0
	logUser        = 1
	logDatabase    = 2
	logSession     = 5
	logLine        = 6
	logTransaction = 9
	logSeverity    = 11
	logState       = 12
	logMessage     = 13
	logColumns     = 26
)

// logNames are the names of csvlog's columns as keys of details; those that are numbers there are numbers here.
func logNames() [logColumns]string {
	return [logColumns]string{
		"log_time", "user_name", "database_name", "process_id", "connection_from", "session_id", "session_line_num", "command_tag",
		"session_start_time", "virtual_transaction_id", "transaction_id", "error_severity", "sql_state_code", "message", "detail", "hint",
		"internal_query", "internal_query_pos", "context", "query", "query_pos", "location", "application_name", "backend_type", "leader_pid", "query_id",
	}
}

// logLayout is how csvlog writes times; the zone is that of log_timezone, by its abbreviation.
const logLayout = "2006-01-02 15:04:05.000 MST"

// auditPrefix begins pgaudit's messages; CSV of eight or nine fields follows.
const auditPrefix = "AUDIT: "

// The fields of a message of pgaudit 1.4 and later, from 0
// (https://github.com/pgaudit/pgaudit/blob/main/README.md, "Format").
const (
	auditStatement  = 1 // statement id: each client statement has one
	auditClass      = 3
	auditCommand    = 4
	auditObjectType = 5
	auditObjectName = 6
	auditFields     = 8
)

// logRecord is a record of csvlog. A field is nil for NULL.
type logRecord [logColumns][]byte

func (r *logRecord) read(e *event, rec []byte) error {
	if !isStorable(rec) {
		return badRecord("invalid UTF-8 or a NUL byte: it cannot be stored")
	}
	fields := csvFields{rest: rec}
	n := 0
	for ; fields.more(); n++ {
		value, null, err := fields.next(&e.scratch)
		if err != nil {
			return err
		}
		if n < logColumns && !null {
			r[n] = value
		}
	}
	if n != logColumns {
		return badf("%d fields, csvlog of PostgreSQL 14 and later has %d", n, logColumns)
	}
	return nil
}

// audit reads the fields of pgaudit's message; false for any other message.
func (r *logRecord) audit(e *event) (fields [auditFields][]byte, ok bool, err error) {
	text, ok := bytes.CutPrefix(r[logMessage], []byte(auditPrefix))
	if !ok || string(r[logSeverity]) == "ERROR" {
		return fields, false, nil
	}
	all := csvFields{rest: text}
	n := 0
	for ; all.more(); n++ {
		value, _, err := all.next(&e.scratch)
		if err != nil {
			return fields, true, badf("pgaudit's message: %s", err)
		}
		if n < auditFields {
			fields[n] = value
		}
	}
	if n < auditFields || len(fields[auditClass]) == 0 {
		return fields, true, badRecord("pgaudit's message has too few fields")
	}
	return fields, true, nil
}

// pgAudit maps the lines of pgaudit in PostgreSQL's csvlog; all other lines are passed over. What is logged is an attempt: pgaudit writes
// its line before the statement runs. It is a failure when the session goes on with an error in the same transaction (see watchErrors).
// A statement for which the right was missing has no line of pgaudit.
type pgAudit struct {
	local *time.Location // log_timezone, where that is not UTC
}

func (m *pgAudit) mapRecord(_ context.Context, e *event, rec []byte) error {
	var r logRecord
	if err := r.read(e, rec); err != nil {
		return err
	}
	fields, ok, err := r.audit(e)
	if err != nil {
		return err
	}
	if !ok {
		return errUnselected
	}
	if e.micros, err = parseLogTime(r[logTime], m.local); err != nil {
		return err
	}
	e.hasTime = true
	e.text[colPrincipal], e.text[colOrganization] = r[logUser], r[logDatabase]
	e.text[colAction] = bytes.ToLower(e.join(append([]byte("pg."), fields[auditClass]...), ".", fields[auditCommand]))
	e.text[colTargetType], e.text[colTarget] = some(fields[auditObjectType]), some(fields[auditObjectName])
	e.text[colStatus] = []byte("attempt")
	e.text[colCorrelation] = r[logSession]
	if r[logSession] != nil && r[logLine] != nil {
		e.text[colEventUID] = e.join(r[logSession], ":", r[logLine])
	}
	if e.note != nil {
		e.text[colStatus], e.text[colOutcome] = []byte("failure"), e.note
	}
	return m.fillDetails(e, &r)
}

// fillDetails puts the whole record into details, under the names of csvlog's columns.
func (m *pgAudit) fillDetails(e *event, r *logRecord) error {
	text := []byte{'{'}
	for i, name := range logNames() {
		if r[i] == nil {
			continue
		}
		if len(text) > 1 {
			text = append(text, ',')
		}
		text = append(appendJSONText(text, []byte(name)), ':')
		switch name {
		case "process_id", "session_line_num", "transaction_id", "internal_query_pos", "query_pos", "leader_pid", "query_id":
			if _, reason := parseDigits(r[i]); reason == nil {
				text = append(text, r[i]...)
				continue
			}
		}
		text = appendJSONText(text, r[i])
	}
	start := len(e.scratch)
	out, err := e.canon.Append(e.scratch, append(text, '}'))
	if err != nil {
		return err
	}
	e.scratch, e.details = out, out[start:len(out):len(out)]
	return nil
}

// parseDigits takes what csvlog writes for a number, as JSON would have it.
func parseDigits(b []byte) (negative bool, err error) {
	digits, negative := bytes.CutPrefix(b, []byte{'-'})
	if len(digits) == 0 || len(digits) > 20 || digits[0] == '0' && len(digits) > 1 {
		return negative, errNoLayout
	}
	for _, ch := range digits {
		if ch < '0' || ch > '9' {
			return negative, errNoLayout
		}
	}
	return negative, nil
}

func parseLogTime(text []byte, local *time.Location) (int64, error) {
	t, err := parseIn(logLayout, string(text), local, true)
	if err != nil {
		return 0, err
	}
	return audit.TimestampMicros(t), nil
}

// some is text that is not empty.
func some(text []byte) []byte {
	if len(text) == 0 {
		return nil
	}
	return text
}

// isCSVLog tells whether a file begins as csvlog does: with a time of its kind, and a comma after it.
func isCSVLog(b []byte) bool {
	first, _, ok := bytes.Cut(b, []byte{','})
	if !ok || len(first) > 64 {
		return false
	}
	_, err := time.Parse(logLayout, string(first))
	return err == nil
}
