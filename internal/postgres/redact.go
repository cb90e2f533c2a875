package postgres

import "auditdb/internal/redact"

// RedactURL masks every password in a connection URL or keyword string.
func RedactURL(s string) string { return redact.Address(s) }
