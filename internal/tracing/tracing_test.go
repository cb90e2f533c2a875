package tracing

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"auditdb/internal/fault"
)

// What an error of the server says can hold what an event holds: it stays here, while its code goes out.
func TestSpansTellNothing(t *testing.T) { //nolint:paralleltest // the provider is the process's
	exporter := tracetest.NewInMemoryExporter()
	kept := keeping{InMemoryExporter: exporter}
	ctx, tr, err := start(t.Context(), &kept, "auditdb ingest", "v1", func(string) string { return "" })
	if err != nil || !On() {
		t.Fatal(err)
	}
	_, span := tr.provider.Tracer("test").Start(ctx, "INSERT")
	span.SetAttributes(attribute.String("db.query.text", "INSERT 'hunter2'"), attribute.String("pgx.sql_state", "22P02"))
	span.RecordError(errors.New("invalid input: hunter2"))
	span.SetStatus(codes.Error, "hunter2")
	span.End()
	if err := tr.End(ctx, 1); err != nil || On() {
		t.Fatal(err)
	}
	text := fmt.Sprintf("%+v", kept.spans)
	if len(kept.spans) != 2 || strings.Contains(text, "hunter2") || !strings.Contains(text, "22P02") {
		t.Errorf("%d spans: %s", len(kept.spans), text)
	}
	if kept.spans[0].Parent.SpanID() != kept.spans[1].SpanContext.SpanID() || kept.spans[1].Status.Code != codes.Error {
		t.Error("the command's span is not the parent, or does not say that it failed")
	}
}

// keeping keeps the spans beyond the exporter's end.
type keeping struct {
	*tracetest.InMemoryExporter
	spans tracetest.SpanStubs
}

func (k *keeping) Shutdown(ctx context.Context) error {
	k.spans = k.GetSpans()
	return k.InMemoryExporter.Shutdown(ctx)
}

func TestNotWanted(t *testing.T) {
	t.Parallel()
	for _, env := range []map[string]string{
		{},
		{exporterVar: "otlp"},
		{endpointVar: "http://localhost:4318", disabledVar: "TRUE"},
		{endpointVar: "http://localhost:4318", exporterVar: "none"},
	} {
		if _, tr, err := Start(t.Context(), "auditdb", "v1", func(k string) string { return env[k] }); tr != nil || err != nil || tr.End(t.Context(), 0) != nil {
			t.Errorf("%v: %v", env, err)
		}
	}
	if _, _, err := Start(t.Context(), "auditdb", "v1", func(k string) string {
		return map[string]string{tracesEndpointVar: "http://localhost:4317", tracesProtocolVar: "grpc"}[k]
	}); fault.ClassOf(err) != fault.Config {
		t.Errorf("grpc: %v", err)
	}
}
