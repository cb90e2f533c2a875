package audit_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"auditdb/pkg/audit"
)

func TestCanonicalJSON(t *testing.T) {
	t.Parallel()
	// Every expectation is what PostgreSQL 15 printed for the text cast to jsonb.
	tests := []struct{ in, want string }{
		{`{}`, `{}`},
		{` [ ] `, `[]`},
		{`null`, `null`},
		{`"x"`, `"x"`},
		{`{"b":1,"a":2}`, `{"a": 2, "b": 1}`},
		{`{"bb":1,"a":2,"c":[1,2,{"z":null}]}`, `{"a": 2, "c": [1, 2, {"z": null}], "bb": 1}`},
		{`{"a":1,"a":2}`, `{"a": 2}`},
		{`{"a":1,"b":0,"a":{"x":1,"x":2},"a":3}`, `{"a": 3, "b": 0}`},
		{`{"\u0061":1,"a":2}`, `{"a": 2}`},
		{`{"\n":1,"a":2,"\t":3,"\"":4}`, `{"\t": 3, "\n": 1, "\"": 4, "a": 2}`},
		{`{"é":1,"zz":2,"a":3}`, `{"a": 3, "zz": 2, "é": 1}`},
		{`"\u00e9\/\b\f\u001F\u007f\ud83d\ude00"`, "\"é/\\b\\f\\u001f\u007f😀\""},
		{`-0`, `0`},
		{`-0.00`, `0.00`},
		{`1.50`, `1.50`},
		{`1.50e1`, `15.0`},
		{`1.5E+3`, `1500`},
		{`1e-2`, `0.01`},
		{`-12.5e-1`, `-1.25`},
		{`100e-2`, `1.00`},
		{`0.001e3`, `1`},
		{`0e5`, `0`},
		{`-0e-5`, `0.00000`},
		{`1e0`, `1`},
		{`12345678901234567891`, `12345678901234567891`},
		{`[true,false,null]`, `[true, false, null]`},
	}
	for _, tt := range tests {
		got, err := audit.CanonicalJSON([]byte("before"), []byte(tt.in))
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		if string(got) != "before"+tt.want {
			t.Errorf("%s: got %s, want %s", tt.in, got, tt.want)
		}
	}
}

func TestCanonicalJSONRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct{ in, reason string }{
		{``, "unexpected end"},
		{`{`, "name"},
		{`{"a"}`, "expected ':'"},
		{`{"a":1,}`, "name"},
		{`[1,]`, "expected a value"},
		{`[1 2]`, "expected ','"},
		{`01`, "malformed number"},
		{`1.`, "malformed number"},
		{`.5`, "expected a value"},
		{`-`, "malformed number"},
		{`1e`, "malformed number"},
		{`+1`, "expected a value"},
		{`1x`, "malformed number"},
		{`nul`, "expected a value"},
		{`nullx`, "expected a value"},
		{`NaN`, "expected a value"},
		{`"a`, "unexpected end"},
		{"\"\x01\"", "control character"},
		{`"\u0000"`, `\u0000`},
		{`{"\u0000":1}`, `\u0000`},
		{`"\ud800"`, "lone surrogate"},
		{`"\ud800\u0041"`, "lone surrogate"},
		{`"\udc00"`, "lone surrogate"},
		{`"\u12g4"`, "hexadecimal"},
		{`"\x"`, "unknown escape"},
		{"\"\xff\"", "UTF-8"},
		{"\"\xed\xa0\x80\"", "UTF-8"},
		{"\"\xc0\x80\"", "UTF-8"},
		{`1e1001`, "exponent"},
		{`1e-99999999999999999999`, "exponent"},
		{strings.Repeat("1", audit.MaxJSONNumber+1), "number of more"},
		{strings.Repeat("[", audit.MaxJSONDepth+1), "nested"},
		{`{} {}`, "after the value"},
		{"\u00a01", "expected a value"},
		{"[" + strings.Repeat("1e1000,", 100) + "1]", "too long"},
	}
	for _, tt := range tests {
		got, err := audit.CanonicalJSON([]byte("before"), []byte(tt.in))
		var bad *audit.JSONError
		if !errors.As(err, &bad) || !strings.Contains(bad.Reason, tt.reason) {
			t.Errorf("%.40q: error %v, want %q", tt.in, err, tt.reason)
		}
		if string(got) != "before" {
			t.Errorf("%.40q: dst changed to %q", tt.in, got)
		}
	}
}

func FuzzCanonicalJSON(f *testing.F) {
	for _, s := range []string{`{"b":1,"a":[1e5,-0.0,"\u00e9\n"],"b":{}}`, `"\ud83d\ude00"`, `[[],{},"",0]`, `{"a":1,"\u0061":2}`, `1.50e-3`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		out, err := audit.CanonicalJSON(nil, src)
		if err != nil {
			return
		}
		if !json.Valid(src) {
			t.Fatalf("accepted invalid JSON %q", src)
		}
		again, err := audit.CanonicalJSON(nil, out)
		if err != nil || string(again) != string(out) {
			t.Fatalf("%q: canonical %q became %q, %v", src, out, again, err)
		}
	})
}

func TestCanonicalizerAllocations(t *testing.T) { //nolint:paralleltest // counts allocations
	doc := []byte(`{"request":{"method":"GET","path":"/v1/things/42","ip":"10.1.2.3"},"amount":12.50,"tags":["a","b"],"note":"été"}`)
	var c audit.Canonicalizer
	dst := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := c.Append(dst, doc); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per document, want 0", n)
	}
}

func BenchmarkCanonicalJSON(b *testing.B) {
	doc := []byte(`{"request":{"method":"GET","path":"/v1/things/42","ip":"10.1.2.3"},"amount":12.50,"tags":["a","b"],"session":"0123456789abcdef"}`)
	var c audit.Canonicalizer
	dst := make([]byte, 0, 4096)
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Append(dst, doc); err != nil {
			b.Fatal(err)
		}
	}
}
