package audit_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/pgtest"
	"auditdb/pkg/audit"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// documentsEnv makes the differential test as large as one likes.
const documentsEnv = "AUDITDB_TEST_JSON_DOCUMENTS"

// nasty makes JSON documents that are hard on a canonicaliser, and a few that are no JSON.
type nasty struct {
	*rand.Rand
	b strings.Builder
}

func (n *nasty) pick(of ...string) { n.b.WriteString(of[n.IntN(len(of))]) }

func (n *nasty) space() {
	if n.IntN(4) == 0 {
		n.pick(" ", "\t", "\n", "\r", "  ")
	}
}

func (n *nasty) value(depth int) {
	n.space()
	switch k := n.IntN(10); {
	case k < 2 && depth > 0:
		n.object(depth - 1)
	case k < 4 && depth > 0:
		n.array(depth - 1)
	case k < 6:
		n.text()
	case k < 9:
		n.number()
	default:
		n.pick("true", "false", "null")
	}
	n.space()
}

func (n *nasty) object(depth int) {
	n.b.WriteByte('{')
	for i := range n.IntN(7) {
		if i > 0 {
			n.b.WriteByte(',')
		}
		n.space()
		if n.IntN(3) > 0 {
			n.pick(`"a"`, `"b"`, `"aa"`, `""`, `"\u0061"`, `"é"`, `"\u00e9"`, `"e\u0301"`, `"\n"`, `"\u000a"`, `"\\"`, `"\/"`, `"/"`, `"\""`, `"zz"`, `"😀"`, `"\ud83d\ude00"`, `"\u0001"`, `"\u0002a"`, `"A"`)
		} else {
			n.text()
		}
		n.space()
		n.b.WriteByte(':')
		n.value(depth)
	}
	n.b.WriteByte('}')
}

func (n *nasty) array(depth int) {
	n.b.WriteByte('[')
	for i := range n.IntN(5) {
		if i > 0 {
			n.b.WriteByte(',')
		}
		n.value(depth)
	}
	n.b.WriteByte(']')
}

func (n *nasty) text() {
	n.b.WriteByte('"')
	for range n.IntN(12) {
		switch n.IntN(60) {
		case 0:
			n.pick(`\u0000`, `\ud800`, `\udc00`, `\ud800\u0041`, `\udfff\ud800`, "\x01", "\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", `\x`, `\u12`, "\x00", "\xe2\x82")
		default:
			n.pick("a", "b", "Z", " ", "0", `\"`, `\\`, `\/`, `\b`, `\f`, `\n`, `\r`, `\t`, `\u001f`, `\u007f`, "\x7f", `\u0080`, "é", "ß", "漢", "😀", `\ud83d\ude00`, `\uD83D\uDE00`,
				`\u2028`, "\u2028", `\ufffe`, "\uffff", "\ufeff", `\uffff`, "'", "plain text of some length", `\u00e9`, "\u0301", "\U0010ffff")
		}
	}
	n.b.WriteByte('"')
}

func (n *nasty) number() {
	if n.IntN(40) == 0 {
		n.pick("01", "1.", ".5", "-", "+1", "1e", "1e+", "0x1", "1_0", "NaN", "Infinity", "--1", "1.e5", "00", "-01", "1ee5", "1e1001", "12345678901234567890e999")
		return
	}
	if n.IntN(3) == 0 {
		n.b.WriteByte('-')
	}
	n.pick("0", "1", "9", "10", "100", "123456789", "9007199254740993", "12345678901234567891", "99999999999999999999999999999999999999", "7")
	if n.IntN(2) == 0 {
		n.pick(".0", ".00", ".5", ".50", ".000", ".0001", ".123456789012345678901234567890", ".9999", ".10")
	}
	if n.IntN(3) == 0 {
		n.pick("e0", "E0", "e1", "e+1", "e-1", "E2", "e-2", "e5", "e-5", "e10", "e-10", "e20", "e-20", "e007", "e-007", "e100", "e-100", "e300", "e+00", "e-0")
	}
}

func (n *nasty) document() []byte {
	n.b.Reset()
	n.value(4)
	doc := []byte(n.b.String())
	if n.IntN(20) == 0 && len(doc) > 1 { // broken anywhere
		switch k := n.IntN(len(doc)); n.IntN(3) {
		case 0:
			doc = doc[:k]
		case 1:
			doc[k] = byte(n.Uint32())
		default:
			doc = append(doc, doc[k:]...)
		}
	}
	return doc
}

// isLimit tells our own limits, which are narrower than the server's.
func isLimit(err error) bool {
	var bad *audit.JSONError
	if !errors.As(err, &bad) {
		return false
	}
	for _, s := range []string{"exponent beyond", "number of more than", "nested more than", "too long", "more than"} {
		if strings.Contains(bad.Reason, s) {
			return true
		}
	}
	return false
}

// TestCanonicalJSONIsTheServers compares our text with that of a real server, for documents that both take, and what both refuse.
func TestCanonicalJSONIsTheServers(t *testing.T) {
	t.Parallel()
	total := 20000
	if v := os.Getenv(documentsEnv); v != "" {
		var err error
		if total, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, pgtest.Empty(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_, err = conn.Exec(ctx, `CREATE FUNCTION canonical(doc bytea) RETURNS text LANGUAGE plpgsql AS $$
BEGIN RETURN convert_from(doc, 'UTF8')::jsonb::text; EXCEPTION WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN RETURN NULL; END $$`)
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	n := nasty{Rand: rand.New(rand.NewPCG(seed, 1))}
	var c audit.Canonicalizer
	refused := 0
	for done := 0; done < total; {
		docs := make([][]byte, 0, 1000)
		for range min(1000, total-done) {
			docs = append(docs, n.document())
		}
		done += len(docs)
		rows, err := conn.Query(ctx, `SELECT canonical(d) FROM unnest($1::bytea[]) WITH ORDINALITY u(d, n) ORDER BY n`, docs)
		if err != nil {
			t.Fatal(err)
		}
		want, err := pgx.CollectRows(rows, pgx.RowTo[*string])
		if err != nil {
			t.Fatal(err)
		}
		for i, doc := range docs {
			got, err := c.Append(nil, doc)
			switch {
			case err != nil && isLimit(err):
			case err != nil && want[i] == nil:
				refused++
			case err != nil:
				t.Errorf("%q: refused (%v), the server has %s", doc, err, *want[i])
			case want[i] == nil:
				t.Errorf("%q: taken as %s, the server refuses it", doc, got)
			case string(got) != *want[i]:
				t.Errorf("%q: %s, the server has %s", doc, got, *want[i])
			}
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d documents, %d of them refused by both", total, refused)
}
