package anchors

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"auditdb/pkg/integrity"
)

// checkpoint makes one whose signature nobody checks here. Its root follows from branch and size.
func checkpoint(branch byte, size int64) integrity.Checkpoint {
	root := base64.StdEncoding.EncodeToString([]byte(fmt.Sprintf("%c%031d", branch, size)))
	return integrity.Checkpoint{
		Origin: "test.example/log", Size: size, Root: root,
		Note: fmt.Sprintf("test.example/log\n%d\n%s\n\n\u2014 test.example/log c2lnbmF0dXJl\n\u2014 test.example/log b2xkZXI=\n", size, root),
	}
}

func rootsOf(branch byte) Log {
	return Log{
		RootAt: func(_ context.Context, size int64) (string, error) { return checkpoint(branch, size).Root, nil },
		Lost:   func(int64) bool { return false },
	}
}

// objectStore starts an S3 server in this process and gives the address of a bucket's prefix.
func objectStore(t *testing.T) string {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("anchors"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(server.Close)
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	return "s3://anchors/prod/log?region=eu-west-1&endpoint=" + url.QueryEscape(server.URL)
}

func TestAnchors(t *testing.T) { //nolint:paralleltest // the object store's credentials are in the environment
	dir := t.TempDir()
	for name, address := range map[string]string{ //nolint:paralleltest // as above
		"path":   filepath.Join(dir, "log.txt"),
		"file":   "file://" + filepath.Join(dir, "log2.txt"),
		"folder": "file://" + filepath.Join(dir, "folder") + "/",
		"bucket": objectStore(t),
	} {
		t.Run(name, func(t *testing.T) {
			a, err := Open(t.Context(), address)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = a.Close() }()
			if notes, err := a.Newest(t.Context(), 3); err != nil || len(notes) != 0 {
				t.Fatal(notes, err)
			}
			for _, size := range []int64{3, 3, 9, 20, 100} {
				if err := a.Put(t.Context(), checkpoint('a', size), false); err != nil {
					t.Fatal(err)
				}
			}
			notes, err := a.Newest(t.Context(), 3)
			if err != nil || len(notes) != 3 || notes[0] != checkpoint('a', 100).Note || notes[1] != checkpoint('a', 20).Note || notes[2] != checkpoint('a', 9).Note {
				t.Errorf("%q %v", notes, err)
			}
			if err := a.Put(t.Context(), checkpoint('b', 100), false); !errors.Is(err, errOther) {
				t.Error(err)
			}
			pushes(t, address)
		})
	}
}

// pushes checks what Push does with an anchor whose newest checkpoint is of 100 records.
func pushes(t *testing.T, address string) {
	t.Helper()
	for _, c := range []struct {
		what string
		cp   integrity.Checkpoint
		log  byte
		says string
	}{
		{"next", checkpoint('a', 120), 'a', ""},
		{"same again", checkpoint('a', 120), 'a', ""},
		{"fork", checkpoint('b', 130), 'b', "does not go on from"},
		{"fork of the same size", checkpoint('b', 120), 'b', "does not go on from"},
		{"earlier", checkpoint('a', 90), 'a', "earlier state or a copy"},
		{"other origin", integrity.Checkpoint{Origin: "test.example/copy", Size: 200, Note: strings.ReplaceAll(checkpoint('a', 200).Note, "/log", "/copy")}, 'a', "keeps checkpoints of test.example/log"},
	} {
		res := Push(t.Context(), []string{address}, c.cp, rootsOf(c.log))[0]
		if res.OK != (c.says == "") || !strings.Contains(res.Error, c.says) || res.OK && *res.Lag != 0 {
			t.Errorf("%s: %+v", c.what, res)
		}
	}
}

// After a loss that was accepted the log's checkpoints stand beside those of what is lost.
func TestPushAfterALoss(t *testing.T) { //nolint:paralleltest // the object store's credentials are in the environment
	dir := t.TempDir()
	for _, address := range []string{filepath.Join(dir, "file"), filepath.Join(dir, "folder") + "/", objectStore(t)} {
		for _, size := range []int64{90, 100, 120} {
			if res := Push(t.Context(), []string{address}, checkpoint('a', size), rootsOf('a'))[0]; !res.OK {
				t.Fatal(res)
			}
		}
		accepted := rootsOf('b')
		accepted.Lost = func(size int64) bool { return size > 90 && size <= 120 }
		for _, size := range []int64{100, 120, 130} {
			if res := Push(t.Context(), []string{address}, checkpoint('b', size), rootsOf('b'))[0]; res.OK && size == 100 {
				t.Errorf("%d before: %+v", size, res)
			}
			if res := Push(t.Context(), []string{address}, checkpoint('b', size), accepted)[0]; !res.OK || *res.Lag != 0 {
				t.Errorf("%d: %+v", size, res)
			}
		}
		a, err := Open(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		notes, err := a.Newest(t.Context(), 9)
		if err != nil || len(notes) != 6 || notes[0] != checkpoint('b', 130).Note {
			t.Errorf("%s: %q %v", address, notes, err)
		}
	}
}

func TestManyWritersOfOneFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := (&file{path: path}).Put(t.Context(), checkpoint('a', int64(i+1)), false); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	notes, err := (&file{path: path}).Newest(t.Context(), 100)
	if err != nil || len(notes) == 0 || notes[0] != checkpoint('a', 20).Note {
		t.Error(notes, err)
	}
}

// A file that is longer than what is read at once, cut at any byte, gives its last checkpoints.
func TestCutFile(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	for i := range 10 {
		if i > 0 {
			text.WriteByte('\n')
		}
		text.WriteString(checkpoint('a', int64(i+1)).Note)
	}
	whole := text.String()
	one := len(checkpoint('a', 1).Note) + 1
	for cut := 1; cut < 3*one; cut++ {
		notes := newestNotes([]byte(whole[cut:]), true, 6)
		if len(notes) != 6 || notes[0] != checkpoint('a', 10).Note || notes[5] != checkpoint('a', 5).Note {
			t.Fatalf("cut at %d: %q", cut, notes)
		}
	}
}

func TestWebhook(t *testing.T) {
	t.Parallel()
	var got integrity.Checkpoint
	status := http.StatusNoContent
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		w.WriteHeader(status)
	}))
	defer server.Close()
	cp := checkpoint('a', 7)
	res := Push(t.Context(), []string{server.URL + "/hook?token=hidden-word"}, cp, rootsOf('a'))[0]
	if !res.OK || got != cp {
		t.Errorf("%+v %+v", res, got)
	}
	status = http.StatusServiceUnavailable
	res = Push(t.Context(), []string{server.URL + "/hook?token=hidden-word"}, cp, rootsOf('a'))[0]
	if res.OK || res.Lag != nil || strings.Contains(fmt.Sprint(res), "hidden-word") {
		t.Errorf("%+v", res)
	}
}

// One anchor that fails keeps no other from its checkpoint.
func TestPushGoesOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "damaged"), []byte("nothing\n\nof the kind\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(dir, "good")
	res := Push(t.Context(), []string{"ftp://x/y", filepath.Join(dir, "damaged"), filepath.Join(dir, "no", "folder"), good}, checkpoint('a', 5), rootsOf('a'))
	if res[0].OK || res[1].OK || res[2].OK || !res[3].OK {
		t.Errorf("%+v", res)
	}
	if text, err := os.ReadFile(good); err != nil || string(text) != checkpoint('a', 5).Note {
		t.Error(string(text), err)
	}
}

func TestState(t *testing.T) { //nolint:paralleltest // the object store's credentials are in the environment
	var kept []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut:
			kept, _ = io.ReadAll(r.Body)
		case kept == nil:
			w.WriteHeader(http.StatusNotFound)
		default:
			_, _ = w.Write(kept)
		}
	}))
	defer server.Close()
	dir := t.TempDir()
	for _, address := range []string{filepath.Join(dir, "a"), "file://" + filepath.Join(dir, "b%20c"), server.URL, strings.Replace(objectStore(t), "/log?", "/state?", 1)} {
		if note, err := ReadState(t.Context(), address); note != "" || err != nil {
			t.Error(address, note, err)
		}
		for _, size := range []int64{4, 5} {
			if err := WriteState(t.Context(), address, checkpoint('a', size).Note); err != nil {
				t.Error(address, err)
			}
			if note, err := ReadState(t.Context(), address); note != checkpoint('a', size).Note || err != nil {
				t.Error(address, note, err)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "b c")); err != nil {
		t.Error(err)
	}
}
