// Package output renders a command's answer: a table for people, JSON, YAML or CSV for scripts.
package output

import "io"

// Format is a value of --output.
type Format string

// The formats of --output.
const (
	TableFormat  Format = "table"
	JSONFormat   Format = "json"
	YAMLFormat   Format = "yaml"
	CSVFormat    Format = "csv"
	NDJSONFormat Format = "ndjson"
)

// Printer writes answers to standard output in one format.
type Printer struct {
	Out    io.Writer
	Format Format
}

// Table collects what the human form shows: lines of text and tables, in the order they were added.
type Table struct{ parts []part }

type part struct {
	line   string
	header []string
	rows   [][]any
}

// Line adds a line of text.
func (t *Table) Line(format string, args ...any) {}

// Header starts a new table with these columns.
func (t *Table) Header(columns ...string) {}

// Row adds a row to the present table. Sizes, times and durations are humanised: see Size, Time, Duration.
func (t *Table) Row(cells ...any) {}

// Emit writes doc, whose schema is auditdb.<command with dots>.v1; table draws the human form.
func (p *Printer) Emit(command string, doc any, table func(*Table)) error { return nil }

// EmitList is Emit for an answer that is one list, which CSV can show too: list is the slice inside doc.
func (p *Printer) EmitList(command string, doc, list any, table func(*Table)) error { return nil }

// Size is a number of bytes: 1.5 GB in a table, the number itself in JSON and CSV.
type Size int64

// Progress counts work done. Its methods may be called from several goroutines.
type Progress interface {
	Add(n int64)
	Done()
}

// Unit says what a Progress counts.
type Unit string

// The units of Progress.
const (
	Items Unit = "items"
	Rows  Unit = "rows"
	Bytes Unit = "bytes"
)
