package indexes

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Query is a statement of a workload.
type Query struct {
	Text  string
	Calls float64
}

// LeftOut is a statement that an analysis does without, and why.
type LeftOut struct {
	Query  string  `json:"query"` // its beginning, without literals
	Calls  float64 `json:"calls"`
	Reason string  `json:"reason"`
}

// Workload is what is asked of a database.
type Workload struct {
	Source  string
	Queries []Query
	LeftOut []LeftOut
	Since   *time.Time // since when calls were counted; nil: not known

	utility      int // statements that read no rows by an index, such as BEGIN
	utilityCalls float64
	hidden       int // statements whose text this role may not see
	hiddenCalls  float64
}

// Where workloads come from.
const (
	sourceCounted = "pg_stat_statements"
	sourceFile    = "file"
	sourceLogs    = "logs"
)

const (
	longestQuery = 1 << 20 // bytes; nobody reads the plan of a longer one
	shownQuery   = 200     // characters of one that was left out
)

// leave records a statement that is not analyzed.
func (w *Workload) leave(text string, calls float64, reason string, args ...any) {
	w.LeftOut = append(w.LeftOut, LeftOut{Query: shapeOf(text, shownQuery), Calls: calls, Reason: fmt.Sprintf(reason, args...)})
}

// add takes a statement up, or says why not.
func (w *Workload) add(text string, calls float64) {
	text = strings.TrimRight(strings.TrimSpace(text), "; \t\r\n")
	switch {
	case nextWord(text) == "":
	case !utf8.ValidString(text):
		w.leave(text, calls, "it is not valid UTF-8")
	case len(text) > longestQuery:
		w.leave(text, calls, "it is longer than %d bytes", longestQuery)
	case strings.HasPrefix(text, "<insufficient privilege>"):
		w.hidden++
		w.hiddenCalls += calls
	case isUtility(text):
		w.utility++
		w.utilityCalls += calls
	case w.observed() && isOwn(text):
		w.leave(text, calls, notOfUsers)
	default:
		if _, err := plannable(text); err != nil {
			w.leave(text, calls, "%v", err)
			return
		}
		w.Queries = append(w.Queries, Query{Text: text, Calls: calls})
	}
}

// observed says whether the server has seen the statements, those of tools and of auditdb itself among them.
func (w *Workload) observed() bool { return w.Source != sourceFile }

const (
	ownSchema  = "auditdb"
	ownMark    = "/* auditdb */" // in statements of this program on tables of users
	notOfUsers = "they are auditdb's own, or read no table of users but system catalogs or nothing"
)

// isOwn says whether a statement is on relations of auditdb's schema, or one of this program's own. Calls of its functions alone are not.
func isOwn(text string) bool {
	if strings.Contains(text, ownMark) {
		return true
	}
	tokens := tokenize(text)
	for i := 0; i+2 < len(tokens); i++ {
		if tokens[i].kind != tokenWord || strings.Trim(strings.ToLower(tokens[i].text), `"`) != ownSchema || tokens[i+1].text != "." || tokens[i+2].kind != tokenWord {
			continue
		}
		if i > 0 && tokens[i-1].text == "." {
			continue
		}
		if i+3 == len(tokens) || tokens[i+3].text != "(" || i > 0 && strings.EqualFold(tokens[i-1].text, "INTO") {
			return true
		}
	}
	return false
}

// isOfCatalog says whether all relations that a statement names are of the catalogs, for one that cannot be planned: where the server has put
// parameters in place of literals, types may be missing.
func isOfCatalog(text string) bool {
	tokens := tokenize(text)
	word := func(i int) string {
		if i < len(tokens) {
			return strings.ToLower(tokens[i].text)
		}
		return ""
	}
	named := map[string]bool{} // by WITH
	for i := range tokens {
		if word(i+1) == "as" && word(i+2) == "(" {
			named[word(i)] = true
		}
	}
	found := false
	for i := range tokens {
		if word(i) != "from" && word(i) != "join" {
			continue
		}
		name := word(i + 1)
		switch {
		case name == "(" || name == "lateral" || word(i+2) == "(" || named[name]:
		case strings.HasPrefix(name, "pg_"), name == "information_schema":
			found = true
		default:
			return false
		}
	}
	return found
}

// isUtility says whether a text begins as a statement that is no query.
func isUtility(text string) bool {
	return slices.Contains([]string{
		"ABORT", "ALTER", "ANALYZE", "BEGIN", "CALL", "CHECKPOINT", "CLOSE", "CLUSTER", "COMMENT", "COMMIT", "COPY", "CREATE", "DEALLOCATE", "DECLARE", "DISCARD", "DO", "DROP",
		"END", "EXECUTE", "EXPLAIN", "FETCH", "GRANT", "IMPORT", "LISTEN", "LOAD", "LOCK", "MOVE", "NOTIFY", "PREPARE", "REASSIGN", "REFRESH", "REINDEX", "RELEASE", "RESET", "REVOKE",
		"ROLLBACK", "SAVEPOINT", "SECURITY", "SET", "SHOW", "START", "TRUNCATE", "UNLISTEN", "VACUUM",
	}, strings.ToUpper(nextWord(text)))
}

// merge adds up the calls of statements whose text is the same, puts those with most calls first, and says what was left out.
func (w *Workload) merge() {
	if w.utility > 0 {
		w.LeftOut = append(w.LeftOut, LeftOut{Query: fmt.Sprintf("(%d utility statements)", w.utility), Calls: w.utilityCalls, Reason: "they read no rows by an index"})
		w.utility = 0
	}
	if w.hidden > 0 {
		w.LeftOut = append(w.LeftOut, LeftOut{Query: fmt.Sprintf("(%d statements of other roles)", w.hidden), Calls: w.hiddenCalls, Reason: "their texts may be seen by members of pg_read_all_stats only"})
		w.hidden = 0
	}
	at := map[string]int{}
	var merged []Query
	for _, q := range w.Queries {
		if i, ok := at[q.Text]; ok {
			merged[i].Calls += q.Calls
			continue
		}
		at[q.Text] = len(merged)
		merged = append(merged, q)
	}
	slices.SortStableFunc(merged, func(a, b Query) int { return descending(a.Calls, b.Calls) })
	w.Queries = merged
}

func descending(a, b float64) int {
	switch {
	case a > b:
		return -1
	case a < b:
		return 1
	}
	return 0
}

// nextWord is the first token of a statement; "": there is none.
func nextWord(text string) string {
	for i := 0; ; {
		t := nextToken(text, i)
		if t.kind != tokenComment {
			return t.text
		}
		i = t.end
	}
}

// shapeOf is the beginning of a statement, so many characters of it, with ? in place of its literals.
func shapeOf(text string, limit int) string {
	var b strings.Builder
	for i, letters := 0, 0; letters < limit; {
		t := nextToken(text, i)
		if t.kind == tokenNone {
			return b.String()
		}
		if i = t.end; t.kind == tokenComment {
			continue
		}
		if b.Len() > 0 && strings.IndexByte(blanks, text[t.start-1]) >= 0 {
			b.WriteByte(' ')
		}
		piece := strings.ToValidUTF8(t.text, "\uFFFD")
		if t.kind == tokenString || t.kind == tokenNumber {
			piece = "?"
		}
		if r := []rune(piece); len(r) > limit {
			piece = string(r[:limit])
		}
		letters += utf8.RuneCountInString(piece) + 1
		b.WriteString(piece)
	}
	return b.String() + " …"
}
