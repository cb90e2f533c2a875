package cmd

import (
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"auditdb/internal/pgtest"
)

const (
	parentTrace = "0af7651916cd43dd8448eb211c80319c"
	parentSpan  = "b7ad6b7169203331"
)

// spansOf is a collector that takes down what it is sent.
func spansOf(t *testing.T) (endpoint string, taken func() (spans []*traces.Span, text string)) {
	t.Helper()
	var mu sync.Mutex
	var spans []*traces.Span
	var text strings.Builder
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			unpacked, err := gzip.NewReader(r.Body)
			if err != nil {
				t.Error(err)
				return
			}
			body = unpacked
		}
		raw, err := io.ReadAll(body)
		var request collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(raw, &request)
		}
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
		mu.Lock()
		defer mu.Unlock()
		text.Write(raw)
		for _, resource := range request.GetResourceSpans() {
			for _, scope := range resource.GetScopeSpans() {
				spans = append(spans, scope.GetSpans()...)
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(site.Close)
	return site.URL, func() ([]*traces.Span, string) {
		mu.Lock()
		defer mu.Unlock()
		return spans, text.String()
	}
}

func traced(t *testing.T, endpoint, database, redis string, args ...string) (code int, stderr string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), "auditdb", args...)
	c.Env = append(os.Environ(), "DATABASE_URL="+database, "REDIS_URL="+redis, "OTEL_EXPORTER_OTLP_ENDPOINT="+endpoint, "OTEL_EXPORTER_OTLP_COMPRESSION=gzip",
		"TRACEPARENT=00-"+parentTrace+"-"+parentSpan+"-01")
	var said strings.Builder
	c.Stderr = &said
	if err := c.Run(); err != nil && c.ProcessState == nil {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), said.String()
}

// A command, its statements and what it asks Redis are spans of the caller's trace, which say nothing of arguments, also where a statement fails.
func TestTraces(t *testing.T) {
	t.Parallel()
	database, redis := pgtest.DB(t), pgtest.Redis(t)
	endpoint, taken := spansOf(t)
	if code, said := traced(t, endpoint, database, redis, "query", "--principal", "Tr0ub4dor", "--from", "30d"); code != 0 {
		t.Fatalf("exit %d: %s", code, said)
	}
	spans, text := taken()
	kinds := map[string]bool{}
	for _, s := range spans {
		if hex.EncodeToString(s.GetTraceId()) != parentTrace {
			t.Errorf("%s is of trace %x", s.GetName(), s.GetTraceId())
		}
		if s.GetName() == "auditdb query" && hex.EncodeToString(s.GetParentSpanId()) == parentSpan {
			kinds["command"] = true
		}
		for _, a := range s.GetAttributes() {
			kinds[a.GetValue().GetStringValue()] = true
		}
	}
	if !kinds["command"] || !kinds["postgresql"] || !kinds["redis"] || strings.Contains(text, "Tr0ub4dor") || strings.Contains(text, "principal_id") {
		t.Errorf("%v of %d spans: %q", kinds, len(spans), text)
	}

	endpoint, taken = spansOf(t)
	if code, _ := traced(t, endpoint, database, redis, "query", "Tr0ub4dor"); code != 2 {
		t.Errorf("exit %d", code)
	}
	spans, text = taken()
	failed := slices.ContainsFunc(spans, func(s *traces.Span) bool {
		return s.GetName() == "auditdb query" && s.GetStatus().GetCode() == traces.Status_STATUS_CODE_ERROR
	})
	if !failed || strings.Contains(text, "Tr0ub4dor") {
		t.Errorf("%v: %q", failed, text)
	}
}

// A collector that does not answer is a warning, not a failure.
func TestTracesUnheard(t *testing.T) {
	t.Parallel()
	database := pgtest.DB(t)
	code, said := traced(t, "http://127.0.0.1:1", database, "", "partition", "list")
	if code != 0 || !strings.Contains(said, "warning: send traces") {
		t.Errorf("exit %d: %s", code, said)
	}
	c := exec.CommandContext(t.Context(), "auditdb", "partition", "list")
	c.Env = append(os.Environ(), "DATABASE_URL="+database, "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc")
	out, err := c.CombinedOutput()
	if err == nil || c.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "http/protobuf") {
		t.Errorf("grpc: %v, %s", err, out)
	}
}
