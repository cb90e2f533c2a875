package query

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/archive"
	"auditdb/pkg/partitions"
)

// Window is the half-open range of time that rows lie in. An end may be open.
type Window struct {
	From, To *time.Time
	// Written is what the user wrote, "90d" for instance: pages of one query carry on with the range of its first page.
	Written string
}

// Request is what to look for.
type Request struct {
	Table    partitions.Table
	Window   Window
	Filters  []Filter
	Details  []DetailsFilter
	Limit    int    // rows of a page or a stream; 0: no limit, for streams only
	After    string // the cursor of the page before; "": the first page
	Explain  bool
	Archives Archives

	Partitions int // how many Table has, as far as the caller knows; 0: not known
}

// Options say how an Engine works.
type Options struct {
	DB               *postgres.DB
	Now              func() time.Time
	StatementTimeout time.Duration // of each statement on the server; 0: none
	Wait             time.Duration // for who has locked the table against readers; at least 100 ms
	Cache            CacheOptions
	Replicas         Replicas          // to read rows from; nil: only from DB
	Archives         *archive.Archiver // for requests that want them
	Log              *slog.Logger      // nil: no log
}

// Replicas gives reads to servers that have everything that was committed before the call: fn is called with one, name is "" for the primary,
// and again with another where that one fails.
type Replicas interface {
	Read(ctx context.Context, fn func(ctx context.Context, db *postgres.DB, name string) error) error
}

// Engine answers requests.
type Engine struct{ o Options }

// New makes an engine.
func New(o Options) *Engine {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Engine{o: o}
}

// Source is where rows came from.
type Source string

// The sources, from the cheapest to the costliest.
const (
	SourceL1      Source = "l1"
	SourceL2      Source = "l2"
	SourceReplica Source = "replica"
	SourcePrimary Source = "primary"
	SourceArchive Source = "archive"
)

// Sources counts the parts of an answer, partitions for the most part, by where they came from.
type Sources map[Source]int

// Costliest is the costliest source that contributed; the primary where nothing had to be read.
func (s Sources) Costliest() Source {
	for _, source := range []Source{SourceArchive, SourcePrimary, SourceReplica, SourceL2, SourceL1} {
		if s[source] > 0 {
			return source
		}
	}
	return SourcePrimary
}

// String is for people: "l2 2, primary 1".
func (s Sources) String() string {
	parts := []string{}
	for _, source := range slices.Sorted(maps.Keys(s)) {
		parts = append(parts, string(source)+" "+strconv.Itoa(s[source]))
	}
	if len(parts) == 0 {
		return string(SourcePrimary)
	}
	return strings.Join(parts, ", ")
}

// Answer is what every kind of answer says about itself.
type Answer struct {
	CacheScope string // of its fragments in the cache; "": none were looked for
	Sources    Sources
	Explain    []Explained   // only if it was asked for
	Archives   []ArchiveRead // in the range, where archives were asked for
}

// Page is one page of rows, newest first.
type Page struct {
	Answer
	Rows []Row
	Next string // the cursor of the next page; "" at the end
}

// prepared is a request that was checked against the table.
type prepared struct {
	req        Request
	layout     *layout
	filtered   []column // of req.Filters
	detailsGIN bool     // an index on details answers containment
	catalog    *partitions.Catalog
	window     partitions.Bounds // as values of the key
	after      []string          // the position of the cursor; nil: the first page
	digest     digest
	answer     Answer
}

// prepare reads what the table is like and checks the request.
func (e *Engine) prepare(ctx context.Context, req Request) (*prepared, error) {
	p := &prepared{req: req, answer: Answer{Sources: Sources{}}}
	columns, gin, err := readColumns(ctx, e.o.DB.Pool(), req.Table, len(req.Details) > 0)
	if err != nil {
		return nil, err
	}
	if p.layout, err = newLayout(req.Table, columns); err != nil {
		return nil, err
	}
	for _, f := range req.Filters {
		c, err := p.layout.column(f.Column, f.Option)
		if err != nil {
			return nil, err
		}
		p.filtered = append(p.filtered, c)
	}
	if len(req.Details) > 0 {
		c, err := p.layout.column(detailsColumn, "--details")
		if err != nil {
			return nil, err
		}
		if c.oid != oidJSONB {
			return nil, fault.New(fault.Usage, "", "--details: column %s of %s has type %s, not jsonb", c.name, req.Table, c.typ)
		}
		p.detailsGIN = gin
	}
	p.digest = req.digest()
	if err := p.place(); err != nil {
		return nil, err
	}
	return p, nil
}

// fewPartitions is how many the server can plan for in less time than it takes to read their catalog first.
const fewPartitions = 64

// direct says whether the server is asked for the whole range at once, since it has few partitions to plan for.
func (p *prepared) direct() bool {
	return p.req.Partitions > 0 && p.req.Partitions <= fewPartitions && !p.req.Explain
}

// load reads the catalog.
func (p *prepared) load(ctx context.Context, q partitions.Querier) (err error) {
	p.catalog, err = partitions.Load(ctx, q, p.req.Table)
	return err
}

// place works out the range of keys: that of the cursor, which the first page has fixed, or that of the request.
func (p *prepared) place() error {
	w := p.req.Window
	if p.req.After != "" {
		c, err := parseCursor(p.req.After, p.digest)
		if err != nil {
			return err
		}
		if len(c.at) != len(p.layout.order) {
			return errOtherCursor()
		}
		w.From, w.To, p.after = c.from, c.to, c.at
	}
	p.req.Window = w
	p.window = partitions.Bounds{FromMin: w.From == nil, ToMax: w.To == nil}
	if w.From != nil {
		p.window.From = p.req.Table.KeyTime(*w.From)
	}
	if w.To != nil {
		p.window.To = p.req.Table.KeyTime(*w.To)
	}
	return nil
}

// walked is the range that is still to be looked at: up to the cursor, where its position can be read as a time.
func (p *prepared) walked() partitions.Bounds {
	b := p.window
	if p.after == nil {
		return b
	}
	at, ok := keyTime(p.req.Table.Key.Kind, p.after[0])
	if end := at.Add(time.Microsecond); ok && (b.ToMax || end.Before(b.To)) {
		b.To, b.ToMax = end, false
	}
	return b
}

// keyTime reads the text of a key whose values are times.
func keyTime(kind partitions.KeyKind, text string) (time.Time, bool) {
	layout, ok := map[partitions.KeyKind]string{
		partitions.KeyTimestamptz: "2006-01-02 15:04:05.999999-07",
		partitions.KeyTimestamp:   "2006-01-02 15:04:05.999999",
		partitions.KeyDate:        time.DateOnly,
	}[kind]
	if !ok {
		return time.Time{}, false
	}
	at, err := time.Parse(layout, text)
	return at.UTC(), err == nil
}
