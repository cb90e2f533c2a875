// Package tracing sends OpenTelemetry traces of commands, of their statements and of what they ask Redis, where the standard environment
// variables name a collector. Spans have no arguments, no statements and no messages of errors: those could show what events hold.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"auditdb/internal/fault"
)

const (
	name       = "auditdb"
	flushLimit = 2 * time.Second // a collector that does not answer holds no command up for longer
)

// Variables of the OpenTelemetry specification, Environment Variable Specification and OTLP Exporter; the exporter and the SDK read the others.
const (
	endpointVar       = "OTEL_EXPORTER_OTLP_ENDPOINT"
	tracesEndpointVar = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	protocolVar       = "OTEL_EXPORTER_OTLP_PROTOCOL"
	tracesProtocolVar = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
	exporterVar       = "OTEL_TRACES_EXPORTER"
	disabledVar       = "OTEL_SDK_DISABLED"
	parentVar         = "TRACEPARENT"
	stateVar          = "TRACESTATE"
)

var on atomic.Bool //nolint:gochecknoglobals // like the provider of the otel package, which is one for the process

// On says whether spans are wanted: connections that are opened then report theirs.
func On() bool { return on.Load() }

// Trace is that of one command.
type Trace struct {
	provider *sdktrace.TracerProvider
	span     trace.Span
	failed   atomic.Pointer[error]
}

// Start begins the command's span, a child of TRACEPARENT where that is set. Without a collector in the environment it returns nil, whose End does
// nothing. Nothing is connected to yet. A setting that cannot be honoured is a configuration error.
func Start(ctx context.Context, command, version string, getenv func(string) string) (context.Context, *Trace, error) {
	if !wanted(getenv) {
		return ctx, nil, nil
	}
	for _, v := range []string{tracesProtocolVar, protocolVar} {
		if p := getenv(v); p != "" && p != "http/protobuf" {
			return ctx, nil, fault.New(fault.Config, "set it to http/protobuf; collectors take that on port 4318", "%s=%s is not supported", v, p)
		}
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return ctx, nil, fault.New(fault.Config, "check the variables OTEL_EXPORTER_OTLP_…", "send traces: %w", err)
	}
	return start(ctx, exporter, command, version, getenv)
}

func wanted(getenv func(string) string) bool {
	return (getenv(endpointVar) != "" || getenv(tracesEndpointVar) != "") && !strings.EqualFold(getenv(disabledVar), "true") && getenv(exporterVar) != "none"
}

func start(ctx context.Context, exporter sdktrace.SpanExporter, command, version string, getenv func(string) string) (context.Context, *Trace, error) {
	about, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", name), attribute.String("service.version", version)), resource.WithFromEnv(), resource.WithHost())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return ctx, nil, fault.New(fault.Config, "check OTEL_RESOURCE_ATTRIBUTES", "describe this process in traces: %w", err)
	}
	t := &Trace{provider: sdktrace.NewTracerProvider(sdktrace.WithBatcher(discreet{exporter}), sdktrace.WithResource(about))}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { t.failed.Store(&err) }))
	otel.SetTracerProvider(t.provider)
	parent := propagation.MapCarrier{"traceparent": getenv(parentVar), "tracestate": getenv(stateVar)}
	ctx, t.span = t.provider.Tracer(name).Start(propagation.TraceContext{}.Extract(ctx, parent), command)
	on.Store(true)
	return ctx, t, nil
}

// Within returns a context whose spans belong to the command's, for what is done once its own context has ended.
func (t *Trace) Within(ctx context.Context) context.Context {
	if t == nil {
		return ctx
	}
	return trace.ContextWithSpan(ctx, t.span)
}

// End ends the command's span and sends what is left. An error says that spans were not sent: it is no failure of the command.
func (t *Trace) End(ctx context.Context, exitCode int) error {
	if t == nil {
		return nil
	}
	on.Store(false)
	t.span.SetAttributes(attribute.Int("process.exit.code", exitCode))
	if exitCode != 0 {
		t.span.SetStatus(codes.Error, "")
	}
	t.span.End()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushLimit)
	defer cancel()
	err := t.provider.Shutdown(ctx)
	if failed := t.failed.Load(); err == nil && failed != nil {
		err = *failed
	}
	if err != nil {
		return fmt.Errorf("send traces: %w", err)
	}
	return nil
}

// discreet leaves statements, arguments and messages of errors out: they can hold what events hold.
type discreet struct{ sdktrace.SpanExporter }

// ExportSpans sends copies of the spans.
func (d discreet) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	clean := make([]sdktrace.ReadOnlySpan, len(spans))
	for i, s := range spans {
		stub := tracetest.SpanStubFromReadOnlySpan(s)
		stub.Status.Description = ""
		stub.Events = nil // of errors, which carry their messages
		stub.Attributes = slices.DeleteFunc(slices.Clone(stub.Attributes), func(a attribute.KeyValue) bool { return telling(string(a.Key)) })
		clean[i] = stub.Snapshot()
	}
	return d.SpanExporter.ExportSpans(ctx, clean)
}

func telling(key string) bool {
	switch key {
	case "db.query.text", "db.statement", "pgx.query.parameters":
		return true
	}
	return false
}
