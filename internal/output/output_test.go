package output

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/clipperhouse/displaywidth"
	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"auditdb/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type base struct {
	Table string `json:"table"`
	Same  int    `json:"same"`
}

// shouting writes itself.
type shouting struct{ word string }

func (s shouting) MarshalJSON() ([]byte, error) {
	return []byte(`{"z":"` + s.word + `","a":1.10}`), nil
}

type document1 struct {
	base
	Same     string         `json:"same"`
	At       time.Time      `json:"at"`
	Never    time.Time      `json:"never"`
	Ptr      *time.Time     `json:"ptr"`
	Elapsed  time.Duration  `json:"elapsed_seconds"`
	List     []string       `json:"list"`
	Map      map[string]int `json:"map"`
	Missing  *int64         `json:"missing"`
	Left     string         `json:"left,omitempty"`
	Hidden   string         `json:"-"`
	Big      uint64         `json:"big"`
	Rate     float64        `json:"rate"`
	Own      shouting       `json:"own"`
	Any      any            `json:"any"`
	Untagged int
}

func example() document1 {
	return document1{
		base: base{Table: "public.audit_log", Same: 1}, Same: "outer", At: time.Date(2025, 3, 1, 14, 0, 0, 1500, time.FixedZone("x", 7200)),
		Elapsed: 1500 * time.Millisecond, Big: math.MaxUint64, Rate: math.NaN(), Own: shouting{"<&>"}, Any: []int(nil),
	}
}

func emit(t *testing.T, f Format) string {
	t.Helper()
	var b bytes.Buffer
	p := &Printer{Out: &b, Format: f}
	if err := p.EmitList("auditdb partition create", example(), []document1{example()}, nil); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestJSON(t *testing.T) {
	t.Parallel()
	want := `{"schema":"auditdb.partition.create.v1","table":"public.audit_log","same":"outer","at":"2025-03-01T12:00:00.000001Z","never":null,"ptr":null,` +
		`"elapsed_seconds":1.5,"list":[],"map":{},"missing":null,"big":18446744073709551615,"rate":null,"own":{"z":"<&>","a":1.10},"any":[],"Untagged":0}`
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(emit(t, JSONFormat))); err != nil {
		t.Fatal(err)
	}
	if compact.String() != want {
		t.Errorf("got  %s\nwant %s", &compact, want)
	}
	line, err := MarshalLine("partition create", example())
	if err != nil || line != want {
		t.Errorf("%s, %v", line, err)
	}
}

func TestYAMLIsTheSameDocument(t *testing.T) {
	t.Parallel()
	var fromYAML, fromJSON any
	if err := yaml.Unmarshal([]byte(emit(t, YAMLFormat)), &fromYAML); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(emit(t, JSONFormat)), &fromJSON); err != nil {
		t.Fatal(err)
	}
	a, err := json.Marshal(fromYAML)
	if err != nil {
		t.Fatal(err)
	}
	var again any
	if err := json.Unmarshal(a, &again); err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(fromJSON)
	c, _ := json.Marshal(again)
	if !bytes.Equal(b, c) {
		t.Errorf("yaml %s\njson %s", c, b)
	}
}

func TestCSV(t *testing.T) {
	t.Parallel()
	want := "table,same,at,never,ptr,elapsed_seconds,list,map,missing,left,big,rate,own,any,Untagged\n" +
		"public.audit_log,outer,2025-03-01T12:00:00.000001Z,,,1.5,[],{},,,18446744073709551615,,\"{\"\"z\"\":\"\"<&>\"\",\"\"a\"\":1.10}\",[],0\n"
	if got := emit(t, CSVFormat); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	p := &Printer{Out: io.Discard, Format: CSVFormat}
	if err := p.Emit("x", example(), nil); fault.ClassOf(err) != fault.Usage {
		t.Errorf("no list: %v", err)
	}
	var b bytes.Buffer
	p.Out = &b
	if err := p.EmitList("x", nil, []base{}, nil); err != nil || b.String() != "table,same\n" {
		t.Errorf("an empty list: %q, %v", b.String(), err)
	}
}

func TestNDJSON(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	p := &Printer{Out: &b, Format: NDJSONFormat}
	if err := p.EmitList("x", nil, []base{{"a", 1}, {"b", 2}}, nil); err != nil {
		t.Fatal(err)
	}
	if want := "{\"table\":\"a\",\"same\":1}\n{\"table\":\"b\",\"same\":2}\n"; b.String() != want {
		t.Errorf("got %s", &b)
	}
}

func TestDocumentsThatAreNoObject(t *testing.T) {
	t.Parallel()
	for doc, want := range map[string]any{`{"schema":"auditdb.x.v1"}`: nil, `{"schema":"auditdb.x.v1","value":3}`: 3} {
		if line, err := MarshalLine("x", want); err != nil || line != doc {
			t.Errorf("%s, %v", line, err)
		}
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	p := &Printer{Out: &b, Format: TableFormat}
	none := (*int64)(nil)
	seven := int64(7000)
	err := p.Emit("x", nil, func(t *Table) {
		t.Line("100%% of %s", "it")
		t.Line("%s", "100%")
		t.Header("name", "from", "rows", "size", "took", "ok", "known")
		t.Row(" a_b-C d", time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC), 1234567, Size(1536), 90*time.Second, true, none)
		t.Row("x\x1b[31m", time.Time{}, &seven, Size(-1), 1500*time.Microsecond, Bad("no"), nil)
		t.Header("left out")
		at, never := time.Date(2025, 3, 1, 10, 5, 0, 250000, time.FixedZone("", 3600)), (*time.Time)(nil)
		t.Header("pointers to times", "c")
		t.Row(&at, never)
		t.Header("b")
		t.Row([]string{"x", "y"})
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"100% of it", "100%", "name      from             rows     size    took  ok   known", " a_b-C d  2025-01-01  1,234,567  1.5 KiB  1m 30s  yes  -", "x\uFFFD[31m    -               7,000        -   1.5ms  no   -", "b", "x, y", "2025-03-01 09:05:00Z  -",
	} {
		if !strings.Contains(b.String(), line+"\n") {
			t.Errorf("no line %q in\n%s", line, &b)
		}
	}
	if strings.Contains(b.String(), "left out") {
		t.Error("a table without rows is there")
	}
}

func TestColour(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	p := &Printer{Out: &b, Format: TableFormat, Color: true, Width: 40}
	err := p.Emit("x", nil, func(t *Table) {
		t.Header("state", "detail")
		t.Row(Bad("bad and long enough to be wrapped once or twice"), "x")
	})
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if strings.Count(line, "\x1b[31m") > strings.Count(line, "\x1b[0") {
			t.Errorf("colour runs out of the line: %q", line)
		}
	}
	if !strings.Contains(b.String(), "\x1b[31m") {
		t.Error("no colour")
	}
}

// Every table fits its width unless single words are wider; no word is broken, and no text is lost.
func TestTableFits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		columns := rapid.IntRange(1, 6).Draw(rt, "columns")
		cell := rapid.StringMatching(`([a-zäöü日0-9_./]{1,60}[ ,]){0,4}[a-z]{0,40}`)
		width := rapid.IntRange(60, 140).Draw(rt, "width")
		var b bytes.Buffer
		p := &Printer{Out: &b, Format: TableFormat, Width: width}
		var words []string
		least := make([]int, columns)
		err := p.Emit("x", nil, func(t *Table) {
			t.Header(make([]string, columns)...)
			for range 3 {
				row := make([]any, columns)
				for i := range row {
					text := cell.Draw(rt, "cell")
					row[i] = text
					words = append(words, strings.Fields(text)...)
					least[i] = max(least[i], widestWord(text), narrowest)
				}
				t.Row(row...)
			}
		})
		if err != nil {
			rt.Fatal(err)
		}
		limit := 2 * columns
		for _, w := range least {
			limit += w
		}
		for line := range strings.Lines(b.String()) {
			if w := displaywidth.String(strings.TrimSuffix(line, "\n")); w > max(width, limit) {
				rt.Errorf("%d columns wide: %q", w, line)
			}
		}
		shown := strings.Fields(b.String())
		for _, word := range words {
			i := slices.Index(shown, word)
			if i < 0 {
				rt.Fatalf("%q is broken or lost\n%s", word, &b)
			}
			shown = slices.Delete(shown, i, i+1)
		}
	})
}

// In a file lines of text end at 100 columns; names, paths, addresses and SQL stay whole.
// A row of values that may be cut fits, and what is to stay whole does.
func TestCutCells(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	long := strings.Repeat("x", 70)
	err := (&Printer{Out: &b, Format: TableFormat}).Emit("x", nil, func(t *Table) {
		t.Header("name", "value", "path")
		t.Row("whole_"+strings.Repeat("n", 30), Cut(long+" end"), CutPath("/begin/"+long+"/é.json"))
	})
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if n := displaywidth.String(strings.TrimRight(line, "\n")); n > 100 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if s := b.String(); !strings.Contains(s, strings.Repeat("n", 30)) || !strings.Contains(s, "x…  …x") || !strings.Contains(s, "/é.json") {
		t.Error(s)
	}
}

func TestLinesWrap(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	p := &Printer{Out: &b, Format: TableFormat}
	long := strings.TrimSpace(strings.Repeat("word of text ", 20))
	path := "/" + strings.Repeat("very-long/", 15) + "path"
	err := p.Emit("x", nil, func(t *Table) {
		t.Line("  %s", long)
		t.Line("-- %s", long)
		t.Line("see %s for more", path)
		t.Line("SELECT %s;", long)
		t.Verbatim("note\n" + long + "\n")
		t.Header("name", "url", "detail")
		t.Row("public.audit_log_2024_12", "https://example.com/"+strings.Repeat("a", 60), long)
	})
	if err != nil {
		t.Fatal(err)
	}
	out := b.String()
	for _, whole := range []string{path + "\n", "note\n" + long + "\n", "\nSELECT " + long + ";\n", "public.audit_log_2024_12  https://example.com/" + strings.Repeat("a", 60) + "  word"} {
		if !strings.Contains(out, whole) {
			t.Errorf("%q is not in\n%s", whole, out)
		}
	}
	text, _, _ := strings.Cut(out, "see\n")
	for line := range strings.Lines(text) {
		if n := len(strings.TrimSuffix(line, "\n")); n > 100 {
			t.Errorf("%d columns: %s", n, line)
		}
		if !strings.HasPrefix(line, "  ") && !strings.HasPrefix(line, "-- ") {
			t.Errorf("lost its indent: %q", line)
		}
	}
	if got := strings.Fields(strings.ReplaceAll(text, "--", "")); len(got) != 2*60 {
		t.Errorf("%d words, want 120\n%s", len(got), text)
	}
	if !strings.Contains(text, "\n    word") && !strings.Contains(text, "\n    of") && !strings.Contains(text, "\n    text") {
		t.Errorf("what goes on is not indented\n%s", text)
	}
}

func TestHumanDuration(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0s", 1234 * time.Microsecond: "1.23ms", 1250 * time.Millisecond: "1.25s", 75 * time.Second: "1m 15s",
		26*time.Hour + time.Minute: "1d 2h", 3*time.Hour + 4*time.Minute: "3h 4m", -time.Minute: "-1m 0s",
	} {
		if got := HumanDuration(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestBrokenPipe(t *testing.T) {
	t.Parallel()
	for _, f := range []Format{TableFormat, JSONFormat, YAMLFormat, CSVFormat, NDJSONFormat} {
		p := &Printer{Out: failing{&os.PathError{Op: "write", Path: "|1", Err: syscall.EPIPE}}, Format: f}
		rows := func(t *Table) { t.Line("x") }
		if err := p.EmitList("x", base{}, []base{{}}, rows); err != nil {
			t.Errorf("%s: %v", f, err)
		}
		p.Out = failing{syscall.ENOSPC}
		if err := p.EmitList("x", base{}, []base{{}}, rows); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: a full disk is no error: %v", f, err)
		}
	}
}

type lines struct {
	mu sync.Mutex
	b  strings.Builder
	on chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.on <- struct{}{}:
	default:
	}
	return l.b.Write(p)
}

func TestProgress(t *testing.T) {
	t.Parallel()
	w := &lines{on: make(chan struct{}, 1)}
	p := logLines(slog.New(slog.NewTextHandler(w, nil)), "copy", 1000, Rows, time.Millisecond)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 100 {
				p.Add(1)
			}
		})
	}
	group.Wait()
	<-w.on
	<-w.on
	p.Done()
	p.Done()
	if !strings.Contains(w.b.String(), "msg=copy") || !strings.Contains(w.b.String(), "done=800 total=1000 percent=80.0") {
		t.Errorf("log: %s", w.b.String())
	}
	bar := Bar(w, "bar", 10, Bytes)
	bar.Add(3)
	<-w.on
	bar.Done()
	Bar(w, "no total", 0, Items).Done()
	Silent().Add(1)
	Silent().Done()
}
