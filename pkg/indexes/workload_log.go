package indexes

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
)

// logReader collects the statements of logs.
type logReader struct {
	database string
	shapes   map[string]*logged
	order    []string
	odd      int // entries that could not be read
}

// logged are the statements of one shape.
type logged struct {
	calls float64
	texts []string // with literals, the first ones
}

const (
	textsOfShape = 2       // are planned, each for its part of the calls
	longestEntry = 8 << 20 // bytes of a line of a JSON log
	mostShapes   = 20_000
)

// ReadLogs reads server logs in csv or JSON: statements with their durations, and auto_explain's plans, of one database. Logs are what
// log_destination csvlog or jsonlog writes.
func ReadLogs(database string, files ...io.Reader) (*Workload, error) {
	r := &logReader{database: database, shapes: map[string]*logged{}}
	for _, f := range files {
		in := bufio.NewReaderSize(f, 1<<16)
		first, err := in.Peek(1)
		switch {
		case errors.Is(err, io.EOF):
			continue
		case err != nil:
			return nil, fmt.Errorf("read a log: %w", err)
		case first[0] == '{':
			err = r.json(in)
		default:
			err = r.csv(in)
		}
		if err != nil {
			return nil, err
		}
	}
	w := &Workload{Source: sourceLogs}
	for _, shape := range r.order {
		l := r.shapes[shape]
		for _, text := range l.texts {
			w.add(text, l.calls/float64(len(l.texts)))
		}
	}
	if r.odd > 0 {
		w.leave(fmt.Sprintf("(%d entries)", r.odd), float64(r.odd), "they cannot be read, or are of an unknown format")
	}
	w.merge()
	return w, nil
}

// Columns of a csv log.
const (
	csvDatabase = 2
	csvMessage  = 13
	csvDetail   = 14
	csvColumns  = 23 // at least
)

func (r *logReader) csv(in io.Reader) error {
	c := csv.NewReader(in)
	c.FieldsPerRecord, c.ReuseRecord = -1, true
	good := false
	for {
		record, err := c.Read()
		var parse *csv.ParseError
		switch {
		case errors.Is(err, io.EOF):
			if !good && r.odd > 0 {
				return errors.New("read a log: it is neither csv nor JSON of PostgreSQL (log_destination csvlog or jsonlog)")
			}
			return nil
		case errors.As(err, &parse):
			r.odd++
		case err != nil:
			return fmt.Errorf("read a log: %w", err)
		case len(record) < csvColumns:
			r.odd++
		default:
			good = true
			r.entry(record[csvDatabase], record[csvMessage], record[csvDetail])
		}
	}
}

func (r *logReader) json(in *bufio.Reader) error {
	for {
		line, err := readLine(in)
		if len(line) > 0 {
			var e struct {
				Database string `json:"dbname"`
				Message  string `json:"message"`
				Detail   string `json:"detail"`
			}
			if json.Unmarshal(line, &e) != nil {
				r.odd++
			} else {
				r.entry(e.Database, e.Message, e.Detail)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read a log: %w", err)
		}
	}
}

// readLine reads a line; what is longer than an entry may be is cut, and then is no JSON.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, more, err := in.ReadLine()
		if len(line) < longestEntry {
			line = append(line, part...)
		}
		if err != nil || !more {
			return line, err
		}
	}
}

var (
	loggedStatement = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^(?:duration: [\d.]+ ms  )?(?:statement|execute [^:]*): `)
	})
	loggedPlan = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^duration: [\d.]+ ms  plan:\s*`) })
	planLine   = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`(?m)^(?:Query Parameters: .*|[A-Z][^\n]*  \(cost=[\d.]+\.\.[\d.]+ rows=.*)$`)
	})
	loggedParams = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\$(\d+) = (NULL|'(?:[^']|'')*')(?:, |$)`) })
)

// entry takes up what one entry of a log says was run.
func (r *logReader) entry(database, message, detail string) {
	if database != r.database {
		return
	}
	if m := loggedPlan().FindString(message); m != "" {
		r.plan(message[len(m):])
		return
	}
	if m := loggedStatement().FindString(message); m != "" {
		r.take(bind(message[len(m):], detail))
	}
}

// plan takes up the statement of an auto_explain sample, in text or JSON.
func (r *logReader) plan(text string) {
	if strings.HasPrefix(text, "{") {
		var p struct {
			Query      string `json:"Query Text"`
			Parameters string `json:"Query Parameters"`
		}
		if json.Unmarshal([]byte(text), &p) != nil || p.Query == "" {
			r.odd++
			return
		}
		r.take(bind(p.Query, p.Parameters))
		return
	}
	query, ok := strings.CutPrefix(text, "Query Text: ")
	at := planLine().FindStringIndex(query)
	if !ok || at == nil {
		r.odd++
		return
	}
	parameters := ""
	if line := query[at[0]:at[1]]; strings.HasPrefix(line, "Query Parameters: ") {
		parameters = line
	}
	r.take(bind(query[:at[0]], parameters))
}

// bind puts the logged values in place of parameters.
func bind(query, parameters string) string {
	values := map[string]string{}
	for _, m := range loggedParams().FindAllStringSubmatch(parameters, -1) {
		values["$"+m[1]] = m[2]
	}
	if len(values) == 0 {
		return query
	}
	query = typedLiterals(query)
	var out strings.Builder
	from := 0
	for _, t := range tokenize(query) {
		if value, ok := values[t.text]; ok && t.kind == tokenParam {
			out.WriteString(query[from:t.start] + value)
			from = t.end
		}
	}
	return out.String() + query[from:]
}

func (r *logReader) take(text string) {
	text = strings.TrimSpace(text)
	shape := shapeOf(text, len(text)+1)
	l := r.shapes[shape]
	if l == nil {
		if len(r.shapes) >= mostShapes {
			r.odd++
			return
		}
		l = &logged{}
		r.shapes[shape] = l
		r.order = append(r.order, shape)
	}
	l.calls++
	if len(l.texts) < textsOfShape {
		l.texts = append(l.texts, text)
	}
}
