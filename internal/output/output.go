// Package output renders a command's answer: a table for people, JSON, YAML or CSV for scripts.
//
// A document is a struct with JSON tags. The printer holds the contract for all of them, whatever their types do by
// themselves: the first key is "schema", times are RFC 3339 in UTC with microseconds, durations are seconds as numbers,
// an empty list is [] and what is not known (nil, the zero time) is null.
package output

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"auditdb/internal/fault"
)

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

// SchemaName is the name of a command's document: SchemaName("partition create") is auditdb.partition.create.v1.
func SchemaName(command string) string {
	return "auditdb." + strings.ReplaceAll(strings.TrimPrefix(command, "auditdb "), " ", ".") + ".v1"
}

// Printer writes answers to standard output in one format.
type Printer struct {
	Out    io.Writer
	Format Format
	Width  int  // columns that a table may take; 0: 100
	Color  bool // colour in tables
}

// Emit writes doc under the schema name of command, the command's path with spaces or dots; table draws the human form.
// A reader that has gone away (auditdb … | head) is no error.
func (p *Printer) Emit(command string, doc any, table func(*Table)) error {
	return p.emit(command, doc, nil, table)
}

// EmitList is Emit for an answer that is one list, which CSV can show too: list is the slice of structs inside doc.
func (p *Printer) EmitList(command string, doc, list any, table func(*Table)) error {
	return p.emit(command, doc, list, table)
}

func (p *Printer) emit(command string, doc, list any, table func(*Table)) error {
	w := bufio.NewWriterSize(p.Out, 64<<10)
	err := p.render(w, command, doc, list, table)
	if err == nil {
		err = w.Flush()
	}
	if errors.Is(err, syscall.EPIPE) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

func (p *Printer) render(w io.Writer, command string, doc, list any, table func(*Table)) error {
	switch p.Format {
	case JSONFormat:
		return writeJSON(w, document(command, doc), "  ")
	case YAMLFormat:
		return writeYAML(w, document(command, doc))
	case CSVFormat:
		if list == nil {
			return NotAList(CSVFormat)
		}
		return writeCSV(w, list)
	case NDJSONFormat:
		if list == nil {
			return NotAList(NDJSONFormat)
		}
		return writeLines(w, list)
	default:
		return p.writeTable(w, table)
	}
}

// NotAList is the usage error for a format that only shows lists.
func NotAList(f Format) error {
	return fault.New(fault.Usage, "use -o json, -o yaml or -o table", "print the answer: -o %s only fits an answer that is one list", f)
}

// writeCSV writes one line an element: the keys of the elements' type as header, nested values as JSON, null as nothing.
func writeCSV(w io.Writer, list any) error {
	v := reflect.ValueOf(list)
	if v.Kind() != reflect.Slice {
		return NotAList(CSVFormat)
	}
	out := csv.NewWriter(w)
	names := columns(v.Type().Elem())
	if err := out.Write(names); err != nil {
		return err
	}
	known := trees{}
	for i := range v.Len() {
		row, ok := known.of(v.Index(i)).(object)
		if !ok {
			return NotAList(CSVFormat)
		}
		if err := out.Write(csvCells(row, names)); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

func columns(t reflect.Type) []string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	names := []string{}
	if t.Kind() == reflect.Struct {
		for _, f := range fields(t) {
			names = append(names, f.name)
		}
	}
	return names
}

func csvCells(row object, names []string) []string {
	cells := make([]string, len(names))
	for _, m := range row {
		if i := slices.Index(names, m.name); i >= 0 {
			cells[i] = csvCell(m.value)
		}
	}
	return cells
}

func csvCell(v any) string {
	switch x := v.(type) {
	case nil:
		return ""
	case string:
		return x
	case object, []any:
		var b bytes.Buffer
		_ = encodeInto(&b, x) // a tree always has a JSON form
		return b.String()
	case raw:
		return csvCell(x.tree())
	}
	return fmt.Sprint(v)
}

// writeLines writes one JSON object a line.
func writeLines(w io.Writer, list any) error {
	v := reflect.ValueOf(list)
	if v.Kind() != reflect.Slice {
		return NotAList(NDJSONFormat)
	}
	known := trees{}
	for i := range v.Len() {
		if err := writeJSON(w, known.of(v.Index(i)), ""); err != nil {
			return err
		}
	}
	return nil
}
