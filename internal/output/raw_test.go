package output

import (
	"bytes"
	"encoding/json"
	"iter"
	"testing"
)

// row tells its keys itself, some of them with JSON that is there already.
type row []member

func (r row) Members() iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		for _, m := range r {
			if !yield(m.name, m.value) {
				return
			}
		}
	}
}

// JSON that is there already is laid out like the rest; its keys keep their order and its numbers their digits, in every format.
func TestRawJSON(t *testing.T) {
	t.Parallel()
	doc := struct {
		Rows []row `json:"rows"`
	}{[]row{{
		{"d", json.RawMessage(`{"z": 1.10, "a": [1, {"b": "<é\u0001>"}], "e": {}, "n": null}`)},
		{"s", json.RawMessage(`"x\"y"`)},
		{"n", json.RawMessage(`12.50`)},
		{"bad", json.RawMessage(`{`)},
		{"text", "a\xffb"},
	}}}
	for format, want := range map[Format]string{
		JSONFormat: `{
  "schema": "auditdb.query.v1",
  "rows": [
    {
      "d": {
        "z": 1.10,
        "a": [
          1,
          {
            "b": "<é\u0001>"
          }
        ],
        "e": {},
        "n": null
      },
      "s": "x\"y",
      "n": 12.50,
      "bad": null,
      "text": "a�b"
    }
  ]
}
`,
		YAMLFormat: `schema: auditdb.query.v1
rows:
  - d:
      z: 1.10
      a:
        - 1
        - b: "<é\x01>"
      e: {}
      n: null
    s: x"y
    n: 12.50
    bad: null
    text: a�b
`,
		NDJSONFormat: `{"d":{"z":1.10,"a":[1,{"b":"<é\u0001>"}],"e":{},"n":null},"s":"x\"y","n":12.50,"bad":null,"text":"a�b"}` + "\n",
	} {
		var b bytes.Buffer
		p := &Printer{Out: &b, Format: format}
		if err := p.EmitList("query", doc, doc.Rows, nil); err != nil {
			t.Fatal(err)
		}
		if b.String() != want {
			t.Errorf("%s:\n%s\nwant:\n%s", format, b.String(), want)
		}
	}
}

func TestRawJSONInCSV(t *testing.T) {
	t.Parallel()
	type line struct {
		D json.RawMessage `json:"d"`
		S json.RawMessage `json:"s"`
		N json.RawMessage `json:"n"`
	}
	var b bytes.Buffer
	list := []line{{json.RawMessage(`{"z": 1.10, "a": [1]}`), json.RawMessage(`"x\"y"`), json.RawMessage(`12.50`)}}
	if err := (&Printer{Out: &b, Format: CSVFormat}).EmitList("query", list, list, nil); err != nil {
		t.Fatal(err)
	}
	if want := "d,s,n\n" + `"{""z"":1.10,""a"":[1]}","x""y",12.50` + "\n"; b.String() != want {
		t.Errorf("%s\nwant:\n%s", b.String(), want)
	}
}
