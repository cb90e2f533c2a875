package retention

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"auditdb/internal/fault"
	"auditdb/pkg/partitions"
)

func days(text string) (partitions.Span, error) {
	n, err := strconv.Atoi(strings.TrimSuffix(text, "d"))
	if err != nil || n < 0 || n > 1e6 || !strings.HasSuffix(text, "d") {
		return partitions.Span{}, errors.New("no span")
	}
	return partitions.Span{Days: n}, nil
}

// Whatever is read is either a file whose policies hold, or an error of class config; nothing panics.
func FuzzReadFile(f *testing.F) {
	f.Add("policies:\n  - {name: a, table: t, keep: 90d}\nfloors: {PHI: 9d}\n")
	f.Add("policies: [{name: a, match: {classification: X}, keep: 1d}, *a]")
	f.Add("? {}\n: 1")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := ReadFile(strings.NewReader(text), days)
		if err != nil {
			if fault.ClassOf(err) != fault.Config {
				t.Errorf("%v", err)
			}
			return
		}
		for _, table := range file.Tables {
			for _, p := range table.Policies {
				if err := p.Check(file.Floors); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	text := func(s string) *string { return &s }
	rules := Rules{
		Policies: []Policy{
			{Name: "base", Keep: partitions.Span{Days: 100}},
			{Name: "class", Classification: "X", Keep: partitions.Span{Days: 10}},
			{Name: "org", Organization: "o", Keep: partitions.Span{Days: 20}},
			{Name: "both", Classification: "X", Organization: "o", Keep: partitions.Span{Days: 30}},
			{Name: "tie", Classification: "X", Keep: partitions.Span{Days: 11}},
		},
		Floors: []Floor{{Classification: "X", Keep: partitions.Span{Days: 15}}},
	}
	for want, g := range map[string]Group{
		"base": {}, "tie + floor": {Classification: text("X")}, "org": {Classification: text("Y"), Organization: text("o")}, "both": {Classification: text("X"), Organization: text("o")},
		"base + ttl": {TTL: text("200d")},
	} {
		if d, ok, err := rules.For(g, days); !ok || err != nil || d.Rule != want {
			t.Errorf("%q %v %v, want %q", d.Rule, ok, err, want)
		}
	}
	if _, ok, err := rules.For(Group{TTL: text("soon")}, days); !ok || err == nil {
		t.Error("a ttl that cannot be read is no error")
	}
}
