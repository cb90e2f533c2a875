package ingest_test

import (
	"os"
	"path/filepath"
	"testing"

	"auditdb/internal/fault"
	"auditdb/pkg/ingest"
)

// Only what an earlier run has written is taken as a rejects file, and no other file is changed.
func TestRejectsFileIsOurs(t *testing.T) {
	t.Parallel()
	line := `{"source":"s","record":1,"offset":0,"reason":"r","raw_base64":"eA=="}` + "\n"
	for content, want := range map[string]string{
		"": "", line: line, line + `{"source":"s","rec`: line, `{"source":"s","rec`: "",
		"a last line without its end": "refused", "words\nand more": "refused", `{"timestamp":"2024-01-05T06:07:08Z"}` + "\n": "refused",
		`{"source":"s","record":1}` + "\n": "refused", `{"source":` + "\n": "refused", `{"sou`: "refused",
	} {
		path := write(t, "rejects", content)
		f, err := ingest.OpenRejects(path)
		if err == nil {
			err = f.Close()
		}
		if want == "refused" {
			want = content
			if fault.ClassOf(err) != fault.Usage || fault.HintOf(err) == "" {
				t.Errorf("%q: %v", content, err)
			}
		} else if err != nil {
			t.Errorf("%q: %v", content, err)
		}
		if got, _ := os.ReadFile(path); string(got) != want {
			t.Errorf("%q became %q, want %q", content, got, want)
		}
	}
}

func TestRejectsFileIsNoSource(t *testing.T) {
	t.Parallel()
	path := write(t, "in", events(0, 1)+`{"x`)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Link(path, link); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	for _, arg := range []string{path, ingest.Stdin} {
		sources, err := ingest.Expand([]string{arg}, "name", in)
		if err != nil {
			t.Fatal(err)
		}
		_, err = ingest.OpenRejects(link, sources...)
		if fault.ClassOf(err) != fault.Usage || err.Error() != "rejects file "+link+": it is one of the sources" {
			t.Errorf("%s: %v", arg, err)
		}
	}
}

func TestSourceNamesAreUTF8(t *testing.T) {
	t.Parallel()
	path := write(t, "a\xff", events(0, 1))
	for _, name := range []string{"", "b\xff"} {
		if _, err := ingest.Expand([]string{path}, name, nil); fault.ClassOf(err) != fault.Usage || fault.HintOf(err) != "--source NAME" {
			t.Errorf("name %q: %v", name, err)
		}
	}
	if _, err := ingest.Expand([]string{path}, "a", nil); err != nil {
		t.Error(err)
	}
}
