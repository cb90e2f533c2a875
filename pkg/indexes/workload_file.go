package indexes

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

const largestFile = 256 << 20 // bytes of a file of queries

// ReadQueries reads a file of statements that end with a semicolon. A comment "-- calls: N" on a line of its own before a statement says how
// often it is run; without one it is once.
func ReadQueries(r io.Reader) (*Workload, error) {
	text, err := io.ReadAll(io.LimitReader(r, largestFile+1))
	if err != nil {
		return nil, fmt.Errorf("read queries: %w", err)
	}
	if len(text) > largestFile {
		return nil, fmt.Errorf("read queries: the file is larger than %d MB", largestFile>>20)
	}
	w := &Workload{Source: sourceFile}
	s := strings.TrimPrefix(string(text), "\ufeff")
	calls, from, begun := 1.0, 0, false
	for i := 0; ; {
		t := nextToken(s, i)
		if t.kind == tokenNone {
			break
		}
		i = t.end
		switch {
		case t.kind == tokenComment:
			if n, ok := callsOf(t.text); ok && !begun {
				calls, from = n, t.end
			}
		case t.kind == tokenPunctuation && t.text == ";":
			w.add(s[from:t.start], calls)
			calls, from, begun = 1, t.end, false
		default:
			begun = true
		}
	}
	w.add(s[from:], calls)
	w.merge()
	return w, nil
}

// callsOf reads "-- calls: N"; N is a number that is not negative.
func callsOf(comment string) (float64, bool) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(strings.TrimPrefix(comment, "--")), "calls:")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
	return n, err == nil && n >= 0 && n < 1e18
}
