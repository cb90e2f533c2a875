package ingest

import (
	"bytes"
	"compress/gzip"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"

	"auditdb/internal/fault"
)

// A compressed file may be cut anywhere: in its header as well it is a truncated one.
func TestCutAnywhere(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("{\"action\":\"a\"}\n"), 20)
	var gz, zs bytes.Buffer
	z := gzip.NewWriter(&gz)
	z.Name = "a name"
	e, err := zstd.NewWriter(&zs)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []io.WriteCloser{z, e} {
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for name, whole := range map[string][]byte{"gzip": gz.Bytes(), "zstd": zs.Bytes()} {
		for n := 2; n < len(whole); n++ {
			in, err := openInput(bytes.NewReader(whole[:n]))
			if err == nil {
				w := newWindow(in)
				for w.fill() {
					w.skip(len(w.bytes()))
				}
				in.close()
				err = w.err
			}
			if fault.ClassOf(err) != fault.Data || fault.HintOf(err) == "" || err.Error() != "truncated "+name {
				t.Errorf("%s cut after %d of %d bytes: %v", name, n, len(whole), err)
			}
		}
	}
}
