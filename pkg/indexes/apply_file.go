package indexes

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"auditdb/internal/fault"
)

const fileLimit = 64 << 20 // bytes

// ReadRecommendations reads an analysis' JSON. Every recommendation's statement is rendered from its definition, and an analysis whose ddl
// says something else is refused; no text of it is ever run. Errors have class usage.
func ReadRecommendations(r io.Reader) ([]Recommendation, error) {
	raw, err := io.ReadAll(io.LimitReader(r, fileLimit+1))
	if err != nil {
		return nil, err
	}
	const hint = "it has to be the document that auditdb index hygiene -o json prints"
	if len(raw) > fileLimit {
		return nil, fault.New(fault.Usage, hint, "more than %d bytes", fileLimit)
	}
	var doc struct {
		Schema          string            `json:"schema"`
		Recommendations *[]Recommendation `json:"recommendations"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fault.New(fault.Usage, hint, "no JSON of an analysis: %w", err)
	}
	if doc.Recommendations == nil || doc.Schema != "" && !strings.HasPrefix(doc.Schema, "auditdb.index.analyze.") && !strings.HasPrefix(doc.Schema, "auditdb.index.hygiene.") {
		return nil, fault.New(fault.Usage, hint, "no analysis, but %q", doc.Schema)
	}
	for i := range *doc.Recommendations {
		one := &(*doc.Recommendations)[i]
		if err := one.check(); err != nil {
			return nil, fault.New(fault.Usage, "analyze again; the file is not to be edited by hand", "recommendation %d: %w", i+1, err)
		}
		one.Table, one.Index = one.Definition.TableName(), one.Definition.DisplayName()
	}
	return *doc.Recommendations, nil
}

// check says what is wrong with a recommendation from outside.
func (r Recommendation) check() error {
	d := r.Definition
	for what, name := range map[string]string{"schema": d.Schema, "table": d.Table} {
		if name == "" {
			return fmt.Errorf("its definition has no %s", what)
		}
	}
	switch r.Action {
	case ActionAnalyze:
	case ActionDrop, ActionReindex:
		if d.Name == "" {
			return fmt.Errorf("its definition does not name the index")
		}
		fallthrough
	case ActionCreate:
		if err := d.check(); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%q is no action", r.Action)
	}
	if want := r.Statement(); r.DDL != want {
		return fmt.Errorf("its ddl is not what its definition says, which is %s", want)
	}
	return nil
}

// check confirms that the definition renders as one CREATE INDEX with just the parts that it has: every part of it that is SQL ends where it ends.
func (d Definition) check() error {
	names := append([]string{d.Schema, d.Table, d.Name, d.Method, d.Tablespace}, d.Include...)
	for _, k := range d.Keys {
		if (k.Column == "") == (k.Expression == "") {
			return fmt.Errorf("a key is either a column or an expression")
		}
		if k.Nulls != "" && k.Nulls != NullsFirst && k.Nulls != NullsLast {
			return fmt.Errorf("nulls are first or last, not %q", k.Nulls)
		}
		names = append(names, k.Column)
	}
	for _, name := range names {
		if len(name) > maxName || strings.ContainsRune(name, 0) || !utf8.ValidString(name) {
			return fmt.Errorf("%q is no name: it has at most %d bytes of UTF-8", name, maxName)
		}
	}
	for _, k := range d.Keys {
		if k.Expression != "" && closed(k.Expression) != nil || k.Collation != "" && !isName(k.Collation, false) || k.OpClass != "" && !isName(k.OpClass, true) {
			return fmt.Errorf("its definition holds more than one index has: key %s", k)
		}
	}
	if err := closed(d.Predicate); err != nil {
		return fmt.Errorf("its definition holds more than one index has: predicate %s: %w", d.Predicate, err)
	}
	return nil
}
