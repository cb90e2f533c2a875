package ingest

import (
	"strings"
	"testing"
)

// What an error names is a name: nothing that may be an event's content.
func TestErrorsQuoteNoContent(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("k", 64)
	for name, want := range map[string]string{
		"colour": `"colour"`, "_a b.c-9": `"_a b.c-9"`, long[:63]: `"` + long[:63] + `"`,
		long: "of 64 bytes", "": "of 0 bytes", "9a": "of 2 bytes", "a@b": "of 3 bytes", "a\nb": "of 3 bytes", "é": "of 2 bytes",
	} {
		if got := keyName([]byte(name)); got != want {
			t.Errorf("key %q: %s, want %s", name, got, want)
		}
	}
	for header, want := range map[string]string{
		"SECRETPAYLOAD":            "its content is not NDJSON, JSON or a CSV with a known header",
		"SECRET PAYLOAD,of one":    "its content is not NDJSON, JSON or a CSV with a known header",
		"timestamp,colour,x":       `CSV header: unknown column "colour"`,
		"timestamp,secret=1,x":     "CSV header: unknown column of 8 bytes",
		"\"a@secret\",action":      "CSV header: unknown column of 8 bytes",
		"timestamp,\xffsecret,x":   "CSV header: unknown column of 7 bytes",
		"timestamp,\"\",x,x,a b c": "CSV header: unknown column of 0 bytes",
	} {
		if _, err := newNativeCSV([]byte(header), nil, false); err == nil || err.Error() != want {
			t.Errorf("header %q: %v, want %s", header, err, want)
		}
	}
	if _, err := newNativeCSV([]byte("timestamp,a@b"), nil, true); err != nil {
		t.Error(err)
	}
}
