package indexes

import (
	"math"
	"slices"
	"strings"
)

// indexModel is an index, there or only thought of, with what it costs to use and to keep it.
type indexModel struct {
	id       int // of one that is only thought of
	def      Definition
	table    *table
	existing bool
	keys     []string // as clause.key
	implied  []string // conditions of the predicate
	parts    map[uint32]indexPart
	size     float64 // bytes, over all leaves
	wal      float64 // bytes for each row inserted into the table
	kept     float64 // share of the rows that are in it
	covered  map[*indexModel]bool
}

// keyOfDefinition is a key of an index as clause.key has it.
func keyOfDefinition(k Key) string {
	if k.Column != "" {
		return columnKey + k.Column
	}
	return expressionKey + trimParens(k.Expression)
}

func newModel(t *table, d Definition) *indexModel {
	m := &indexModel{def: d, table: t, parts: map[uint32]indexPart{}, kept: 1, covered: map[*indexModel]bool{}}
	for _, k := range d.Keys {
		m.keys = append(m.keys, keyOfDefinition(k))
	}
	if d.Predicate != "" {
		for _, e := range parseExpr(d.Predicate).conjuncts() {
			m.implied = append(m.implied, trimParens(e.text))
		}
	}
	return m
}

// existingModel is an index that is there, with those of the leaves that are attached to it.
func existingModel(t *table, i Index, leaves map[uint32]Index) *indexModel {
	m := newModel(t, i.Definition)
	m.existing = true
	for oid, l := range leaves {
		m.parts[oid] = indexPart{pages: math.Max(1, float64(l.SizeBytes)/8192), tuples: math.Max(0, l.Rows)}
		m.size += float64(l.SizeBytes)
	}
	for _, l := range t.leaves {
		if p, ok := m.parts[l.oid]; ok && i.Predicate == "" {
			m.parts[l.oid] = indexPart{pages: p.pages, tuples: l.tuples}
		}
	}
	return m
}

const (
	pageRoom    = 8152 * 0.9 // bytes of a B-tree's page that a build fills
	entryHeader = 8 + 4      // of an entry, with its pointer in the page
)

func aligned(width float64) float64 { return math.Ceil(width/8) * 8 }

// keyWidth is how many bytes a key takes.
func (t *table) keyWidth(key string) float64 {
	name, plain := strings.CutPrefix(key, columnKey)
	if !plain {
		name = folded(key)
	}
	if c := t.columns[name]; c != nil {
		return c.width
	}
	switch e := parseExpr(strings.TrimPrefix(key, expressionKey)); {
	case e.kind == exprCast && slices.Contains([]string{"integer", "date", "real"}, e.name):
		return 4
	case e.kind == exprCast && slices.Contains([]string{"bigint", "double precision", "timestamp without time zone"}, e.name):
		return 8
	}
	return 20
}

// distinct is the number of values of a key among so many rows.
func (t *table) distinct(key string, rows float64) float64 {
	name, plain := strings.CutPrefix(key, columnKey)
	if !plain {
		name = folded(key)
	}
	return t.columns[name].distinctOf(rows)
}

// pricing reckons what an index takes and what keeping it costs.
type pricing struct {
	block   float64
	samples map[string]ginSample // by ginKey
}

// ginSample says what an inverted index would hold.
type ginSample struct {
	perRow   float64 // keys of a row
	distinct float64 // share of all rows' keys that are different ones
}

func ginKey(t *table, k Key) string {
	return relationKey(t.schema, t.name) + " " + keyOfDefinition(k) + " " + k.OpClass
}

func (p *pricing) sampleOf(m *indexModel) ginSample {
	if f, ok := p.samples[ginKey(m.table, m.def.Keys[0])]; ok {
		return f
	}
	return ginSample{perRow: 8, distinct: 0.2}
}

// candidate estimates size and write cost of an index that is not there. kept is the share of the rows in it, by leaf; nil: all.
func (p *pricing) candidate(t *table, d Definition, kept map[uint32]float64) *indexModel {
	m := newModel(t, d)
	var width, entries, rows float64
	for _, k := range m.keys {
		width += t.keyWidth(k)
	}
	for _, c := range d.Include {
		width += t.keyWidth(columnKey + c)
	}
	for _, l := range t.leaves {
		tuples := l.tuples
		if kept != nil {
			tuples *= kept[l.oid]
		}
		entries, rows = entries+tuples, rows+l.tuples
		m.parts[l.oid] = p.part(m, l, tuples, width)
		m.size += m.parts[l.oid].pages * p.block
	}
	if rows > 0 && kept != nil {
		m.kept = entries / rows
	}
	m.wal = p.wal(m, width)
	return m
}

// part is the size of an index on one leaf.
func (p *pricing) part(m *indexModel, l *leaf, tuples, width float64) indexPart {
	switch m.def.Method {
	case methodBRIN:
		return indexPart{pages: 3, tuples: math.Ceil(l.pages / pagesPerRange)}
	case methodGIN:
		f := p.sampleOf(m)
		distinct := math.Max(1, f.perRow*tuples*f.distinct)
		bytes := distinct*(20+m.ginKeyBytes()) + math.Max(0, f.perRow*tuples-distinct)*postingBytes
		return indexPart{pages: math.Max(2, math.Ceil(bytes/(pageRoom*0.8))), tuples: distinct}
	}
	each := aligned(width) + entryHeader
	if len(m.def.Include) == 0 {
		distinct := 1.0
		for _, k := range m.keys {
			distinct *= m.table.distinct(k, tuples)
		}
		// Entries of the same keys share them, in lists of at most a sixth of a page.
		if copies := math.Min(tuples/math.Max(1, math.Min(distinct, tuples)), 200); copies > 2 {
			each = (aligned(width)+entryHeader+8)/copies + 6
		}
	}
	return indexPart{pages: math.Max(1, math.Ceil(tuples*each/pageRoom)+1), tuples: tuples}
}

// Access methods beside BTree.
const (
	methodGIN  = "gin"
	methodBRIN = "brin"
)

// postingBytes is what a row takes in the list of a key, compressed.
const postingBytes = 2

// ginKeyBytes is the size of a key; some operator classes keep hashes or trigrams.
func (m *indexModel) ginKeyBytes() float64 {
	if c := m.def.Keys[0].OpClass; c == jsonPathOps || isTrigram(c) {
		return 4
	}
	return 16
}

// What the WAL of an entry has beside the entry: the record's header, the block reference and the insertion's own data; and how much
// is written again when pages split. Measured on PostgreSQL 15 without images of whole pages.
const (
	walRecord = 58
	walSplits = 0.6

	// An inverted index first takes the keys of a row into a list, then moves those of many rows together to their places.
	walGINRow  = 60
	walGINKey  = 23
	walGINMove = 40 // of a key that few rows have
)

// wal is how many bytes of WAL an index adds to each inserted row, without images of whole pages after a checkpoint.
func (p *pricing) wal(m *indexModel, width float64) float64 {
	switch m.def.Method {
	case methodBRIN:
		return 1
	case methodGIN:
		f := p.sampleOf(m)
		return m.kept * (walGINRow + f.perRow*(m.ginKeyBytes()+walGINKey+walGINMove*f.distinct))
	}
	return m.kept * (walRecord + (aligned(width)+entryHeader)*(1+walSplits))
}
