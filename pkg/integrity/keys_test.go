package integrity

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"auditdb/internal/fault"
)

func TestKeyFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	keys, err := Generate("")
	if err != nil {
		t.Fatal(err)
	}
	if keys.Origin() != "auditdb/"+keys.ID() {
		t.Error(keys.Origin())
	}
	if err := keys.Save(path); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	if err := keys.Save(path); fault.ClassOf(err) != fault.Refused {
		t.Error(err)
	}
	again, err := LoadKeys(path)
	if err != nil || again.ID() != keys.ID() || again.Check() != keys.Check() || again.Public().Encode() != keys.Public().Encode() {
		t.Error(again, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKeys(path); fault.ClassOf(err) != fault.Config || fault.HintOf(err) != "chmod 600 "+path {
		t.Error(err)
	}
	if _, err := LoadKeys(filepath.Join(dir, "gone")); fault.ClassOf(err) != fault.Unavailable {
		t.Error(err)
	}
}

func TestPublicKeyFile(t *testing.T) {
	t.Parallel()
	keys := exampleKeys()
	path := filepath.Join(t.TempDir(), "pub")
	if err := keys.Public().Save(path); err != nil {
		t.Fatal(err)
	}
	public, err := LoadPublic(path)
	if err != nil {
		t.Fatal(err)
	}
	cp, err := keys.signCheckpoint(3, [32]byte{9})
	if err != nil {
		t.Fatal(err)
	}
	got, root, err := public.Verify(cp.Note)
	if err != nil || got != cp || root != [32]byte{9} {
		t.Error(got, root, err)
	}
	for what, bad := range map[string]string{
		"size":      strings.Replace(cp.Note, "\n3\n", "\n4\n", 1),
		"origin":    strings.Replace(cp.Note, "main\n3", "mean\n3", 1),
		"signature": cp.Note[:len(cp.Note)-6] + "AAAA=\n",
		"nothing":   "",
	} {
		if _, _, err := public.Verify(bad); err == nil {
			t.Error(what, "was accepted")
		}
	}
	other, err := Generate(keys.Origin())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := other.Public().Verify(cp.Note); err == nil {
		t.Error("another key verifies it")
	}
}

// A key that comes from the same seed under another origin signs for that origin only.
func TestOrigins(t *testing.T) {
	t.Parallel()
	keys := exampleKeys()
	fork, err := keys.WithOrigin("audit.example.com/fork")
	if err != nil {
		t.Fatal(err)
	}
	cp, err := fork.signCheckpoint(1, [32]byte{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := keys.Public().Verify(cp.Note); err == nil {
		t.Error("the fork's checkpoint verifies for the original")
	}
	for _, bad := range []string{"a b", "a+b", "a\nb", strings.Repeat("x", 256), "\xff", "a\u00a0b", "a\x00"} {
		if _, err := keys.WithOrigin(bad); fault.ClassOf(err) != fault.Config {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestBadKeyFiles(t *testing.T) {
	t.Parallel()
	good := string(exampleKeys().Encode())
	secret := good[strings.LastIndex(good, "+")+1:]
	for what, text := range map[string]string{
		"empty":          "",
		"comments only":  "# nothing\n",
		"other text":     "hello\n",
		"two keys":       good + good,
		"short secret":   strings.Replace(good, secret, secret[:20]+"\n", 1),
		"changed secret": strings.Replace(good, "AAECAwQF", "AAECAwQG", 1),
		"no origin":      strings.Replace(good, "1+audit.example.com/main+", "1+", 1),
	} {
		_, err := ParseKeys([]byte(text))
		if fault.ClassOf(err) != fault.Config {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if strings.Contains(err.Error(), strings.TrimSpace(secret)[8:20]) {
			t.Errorf("%s shows the secret: %v", what, err)
		}
	}
	if k, err := ParseKeys([]byte(strings.ReplaceAll(good, "\n", "\r\n"))); err != nil || k.ID() != exampleKeys().ID() {
		t.Error("line ends:", err)
	}
}

func TestKeysDoNotShow(t *testing.T) {
	t.Parallel()
	keys := exampleKeys()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(verb, keys); strings.Contains(s, "[0 1 2 3") || strings.Contains(s, "AAECAwQF") || strings.Contains(s, "0x1, 0x2") {
			t.Errorf("%s: %s", verb, s)
		}
	}
}
