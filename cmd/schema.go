package cmd

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/spf13/cobra"

	"auditdb/internal/output"
	"auditdb/pkg/plan"
	"auditdb/pkg/query"
)

// documents maps the path of each command that prints a document, with dots, to a zero value of it. Each file of commands adds its own.
func documents() map[string]any {
	all := map[string]any{}
	for _, some := range []map[string]any{
		{
			"error":           errorDoc{},
			"version":         versionDoc{},
			"config.show":     configShowDoc{},
			"config.validate": configValidateDoc{},
			"schema":          schemaDoc{},
		},
		demoDocuments(),
		migrateDocuments(),
		partitionDocuments(),
		indexDocuments(),
		monitorDocuments(),
		healthDocuments(),
		alertDocuments(),
		doctorDocuments(),
		integrityDocuments(),
		verifyDocuments(),
		ingestDocuments(),
		retentionDocuments(),
		cacheDocuments(),
		queryDocuments(),
	} {
		maps.Copy(all, some)
	}
	return all
}

// schemaDoc is auditdb.schema.v1, the list of documents.
type schemaDoc struct {
	Documents []schemaEntry `json:"documents"`
}

type schemaEntry struct {
	Name   string `json:"name"`
	Schema string `json:"schema"`
}

func newSchemaCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "schema [NAME]",
		Short: "Print the JSON schema of a command's document, or list them",
		Long: "NAME is the command's path with dots (partition.create) or the value of the document's schema key. Documents may get further\n" +
			"keys in later versions; the meaning of those that are there stays.",
		Example: "  auditdb schema\n  auditdb schema partition.create > partition-create.schema.json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return listSchemas(app)
			}
			return printSchema(app, cmd, args[0])
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return slices.Sorted(maps.Keys(documents())), cobra.ShellCompDirectiveNoFileComp
		},
	}
	return lenient(listOutput(cmd))
}

func listSchemas(app *App) error {
	doc := schemaDoc{}
	for _, name := range slices.Sorted(maps.Keys(documents())) {
		doc.Documents = append(doc.Documents, schemaEntry{Name: name, Schema: output.SchemaName(name)})
	}
	return app.EmitList("schema", doc, doc.Documents, func(t *output.Table) {
		t.Header("name", "schema")
		for _, d := range doc.Documents {
			t.Row(d.Name, d.Schema)
		}
	})
}

func printSchema(app *App, cmd *cobra.Command, arg string) error {
	name := strings.TrimSuffix(strings.TrimPrefix(strings.ReplaceAll(arg, " ", "."), "auditdb."), ".v1")
	doc, ok := documents()[name]
	if !ok {
		return usage(cmd.CommandPath(), "auditdb schema lists the documents", "no document is called %q", arg)
	}
	schema, err := documentSchema(name, doc)
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		return err
	}
	_, err = app.Out.Write(append(text, '\n'))
	return err
}

// documentSchema describes the document as the printer writes it: times are strings or null, durations numbers, lists never null.
func documentSchema(name string, doc any) (*jsonschema.Schema, error) {
	schema, err := jsonschema.ForType(reflect.TypeOf(doc), &jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[time.Time]():     {Types: []string{"string", "null"}, Format: "date-time"},
		reflect.TypeFor[time.Duration](): {Type: "number"},
		reflect.TypeFor[plan.Plan]():     planSchema(),
		reflect.TypeFor[query.Row]():     {Type: "object"},
	}})
	if err != nil {
		return nil, err
	}
	settle(schema)
	title := output.SchemaName(name)
	schema.Schema = "https://json-schema.org/draft/2020-12/schema"
	schema.Title = title
	if schema.Properties == nil {
		schema.Properties = map[string]*jsonschema.Schema{}
	}
	schema.Properties["schema"] = &jsonschema.Schema{Const: jsonschema.Ptr[any](title)}
	schema.PropertyOrder = append([]string{"schema"}, schema.PropertyOrder...)
	schema.Required = append([]string{"schema"}, schema.Required...)
	return schema, nil
}

// settle takes out what Go's types allow but the printer never writes, and lets objects have further keys.
func settle(s *jsonschema.Schema) {
	if s == nil {
		return
	}
	if slices.Contains(s.Types, "array") || s.Type == "array" || (slices.Contains(s.Types, "object") && s.AdditionalProperties != nil && s.Properties == nil) {
		s.Types = slices.DeleteFunc(s.Types, func(t string) bool { return t == "null" })
		if len(s.Types) == 1 {
			s.Type, s.Types = s.Types[0], nil
		}
	}
	if s.Properties != nil {
		s.AdditionalProperties = nil
	}
	settle(s.Items)
	settle(s.AdditionalProperties)
	for _, p := range s.Properties {
		settle(p)
	}
}

// planSchema is the plan object of changing commands, which writes itself.
func planSchema() *jsonschema.Schema {
	text := &jsonschema.Schema{Type: "string"}
	list := func(properties map[string]*jsonschema.Schema) *jsonschema.Schema {
		return &jsonschema.Schema{Type: "array", Items: &jsonschema.Schema{
			Type: "object", Properties: properties, Required: slices.Sorted(maps.Keys(properties)),
		}}
	}
	return &jsonschema.Schema{
		Type: "object",
		Properties: map[string]*jsonschema.Schema{
			"digest":  text,
			"steps":   list(map[string]*jsonschema.Schema{"name": text, "sql": text, "reason": text, "transactional": {Type: "boolean"}}),
			"skipped": list(map[string]*jsonschema.Schema{"name": text, "reason": text}),
		},
		Required: []string{"digest", "steps", "skipped"},
	}
}
