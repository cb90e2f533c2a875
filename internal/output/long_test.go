package output

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestLongTables: a long table looks as a short one does.
func TestLongTables(t *testing.T) {
	t.Parallel()
	cell := rapid.OneOf(
		rapid.StringMatching(`[ -~é世]{0,40}`).AsAny(), rapid.Int64().AsAny(), rapid.SampledFrom([]any{nil, Good("ok"), Bad("two words"), Size(1 << 30), time.Hour, true, "a\nb", "世界", "  indented"}))
	rapid.Check(t, func(t *rapid.T) {
		p := &Printer{Width: rapid.IntRange(60, 200).Draw(t, "width"), Color: rapid.Bool().Draw(t, "color")}
		g := part{header: rapid.SliceOfN(rapid.StringMatching(`[a-z (]{1,20}`), 1, 6).Draw(t, "header")}
		for range rapid.IntRange(1, 5).Draw(t, "rows") {
			g.rows = append(g.rows, rapid.SliceOfN(cell, len(g.header), len(g.header)).Draw(t, "row"))
		}
		var short, long bytes.Buffer
		text, align := p.cells(g)
		if err := p.writeShort(&short, g, text, align); err != nil {
			t.Fatal(err)
		}
		if err := p.writeLong(&long, g, text, align); err != nil {
			t.Fatal(err)
		}
		if seen(short) != seen(long) {
			t.Fatalf("short:\n%q\nlong:\n%q", short.String(), long.String())
		}
	})
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;]*m")

// seen is what is left of a table without its colours, which tablewriter ends once more where they have ended.
func seen(table bytes.Buffer) string {
	lines := strings.Split(escapes.ReplaceAllString(table.String(), ""), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " ")
	}
	return strings.Join(lines, "\n")
}
