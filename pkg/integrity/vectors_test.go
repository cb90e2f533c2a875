package integrity

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"auditdb/pkg/audit"
)

var update = flag.Bool("update", false, "write the test vectors into docs/integrity-format.md")

// TestVectors compares the test vectors in the documentation with the code.
func TestVectors(t *testing.T) {
	t.Parallel()
	const path = "../../docs/integrity-format.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok1 := strings.Cut(string(text), " -update` -->\n")
	_, tail, ok2 := strings.Cut(rest, "<!-- end vectors -->")
	if !ok1 || !ok2 {
		t.Fatal("the documentation has no place for vectors")
	}
	want := head + " -update` -->\n" + vectors(t) + "<!-- end vectors -->" + tail
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want != string(text) {
		t.Errorf("%s is not what the code does; go test ./pkg/integrity -run TestVectors -update writes it anew", path)
	}
}

func vectors(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	keys := exampleKeys()
	fmt.Fprintf(&b, "\n### Keys\n\n```\n%skey id      %s\ncheck       %s\nMAC key     %x\nverifier    %s\n```\n", keys.Encode(), keys.ID(), keys.Check(), keys.mac, keys.Public().Encode())
	rowVectors(&b)
	idVectors(t, &b)
	recordVectors(t, &b, keys)
	return b.String()
}

// rowVectors is a row of two core columns, id and status, and two personal ones, of which the second is NULL.
func rowVectors(b *strings.Builder) {
	f := audit.Format{
		Version: audit.FormatVersion, Salt: "salt",
		Core:     []audit.Column{{Name: "id", Type: "int8"}, {Name: "status", Type: "text"}},
		Personal: []audit.Column{{Name: "principal_id", Type: "text", Personal: true}, {Name: "details", Type: "jsonb", Personal: true}},
	}
	h := audit.NewHasher(f)
	salt := []byte("0123456789abcdef")
	core := audit.AppendText(audit.AppendInt64(nil, 1<<40), "success")
	personal := audit.AppendNull(audit.AppendText(nil, "Grüße"))
	fmt.Fprintf(b, "\n### Row leaf\n\nTwo core columns, `id` 2^40 and `status` success; two personal ones, `principal_id` Grüße and `details` NULL.\n\n```\n")
	fmt.Fprintf(b, "core      %x\npersonal  %x\nsalt      %x\ncommit    %x\nleaf      %x\n", core, personal, salt, h.CommitOf(personal, salt), h.LeafOf(core, personal, salt))
	leaf := h.LeafOf(core, personal, salt)
	three := append(append(append([]byte{}, leaf[:]...), make([]byte, 32)...), leaf[:]...)
	fmt.Fprintf(b, "root of leaf, 32 zero bytes, leaf  %x\n```\n", audit.RootOf(three))
}

func idVectors(t *testing.T, b *strings.Builder) {
	t.Helper()
	fmt.Fprintf(b, "\n### Ids\n\n```\n")
	for _, ids := range [][]int64{{5}, {5, 6, 7}, {1, 2, 300, 301, 302, 100000}} {
		set, err := audit.NewIDSet(ids)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(b, "%-30s %x\n", strings.Trim(strings.ReplaceAll(fmt.Sprint(ids), " ", ", "), "[]"), set.Encode())
	}
	fmt.Fprintf(b, "```\n")
}

// recordVectors is a log of one record of each kind, with the checkpoint after the last one.
func recordVectors(t *testing.T, b *strings.Builder, keys *Keys) {
	t.Helper()
	var e edge
	fmt.Fprintf(b, "\n### Records\n\nEach record with its MAC, its leaf hash in the log's tree, and the root of the tree that ends with it.\n")
	for _, r := range exampleRecords() {
		text, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		mac := keys.MAC(text)
		leaf := tlog.RecordHash(text)
		if _, err := e.add(leaf); err != nil {
			t.Fatal(err)
		}
		root, err := e.root()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(b, "\n```\n%s```\n\n```\nmac   %x\nleaf  %s\nroot  %s\n```\n", text, mac, hex.EncodeToString(leaf[:]), hex.EncodeToString(root[:]))
	}
	root, err := e.root()
	if err != nil {
		t.Fatal(err)
	}
	cp, err := keys.signCheckpoint(e.size, root)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(b, "\n### Checkpoint\n\n```\n%s```\n\n", cp.Note)
}

// The edge gives the same trees as tlog does with all hashes at hand, and stores the same hashes.
func TestEdge(t *testing.T) {
	t.Parallel()
	var all []tlog.Hash
	stored := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			out[i] = all[x]
		}
		return out, nil
	})
	var e edge
	for n := range int64(300) {
		text := fmt.Appendf(nil, "record %d", n)
		want, err := tlog.StoredHashes(n, text, stored)
		if err != nil {
			t.Fatal(err)
		}
		got, err := e.add(tlog.RecordHash(text))
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatal(n, err)
		}
		all = append(all, want...)
		wantRoot, err := tlog.TreeHash(n+1, stored)
		if err != nil {
			t.Fatal(err)
		}
		if root, err := e.root(); err != nil || root != wantRoot {
			t.Fatal(n, err)
		}
	}
}
