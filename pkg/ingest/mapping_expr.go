package ingest

import (
	"bytes"
	"context"
	"regexp"
	"slices"
	"strconv"
	"time"

	"auditdb/pkg/audit"
)

// expr gives a column's text for the record whose values were collected into the event; nil is no value. The result may alias the
// record. An error is a badRecord.
type expr interface {
	text(ctx context.Context, e *event) ([]byte, error)
}

// program is a compiled mapping: what it reads of a record is looked up in one pass.
type program struct {
	root    *pathNode
	slots   int
	selects []condition
	columns []columnRule
	time    timeRule
	uid     templateExpr // without parts: none
	details detailsRule
}

// columnRule gives a column of text, or processing_latency.
type columnRule struct {
	column column
	value  expr
}

// timeRule gives the timestamp: the first layout that fits.
type timeRule struct {
	value   expr
	layouts []timeLayout
}

// detailsRule gives details: the whole record, unless it says otherwise.
type detailsRule struct {
	drop  *pathNode // members to leave out
	value pathExpr  // a part of the record
	part  bool      // value is set
	jq    jqText
}

// condition holds when the value is one of those listed.
type condition struct {
	value  pathExpr
	texts  []string
	absent bool // no value, or null, will do as well
}

func (c *condition) holds(ctx context.Context, e *event) bool {
	text, _ := c.value.text(ctx, e) // a path never fails
	if text == nil {
		return c.absent
	}
	return slices.Contains(c.texts, string(text))
}

func allHold(ctx context.Context, e *event, all []condition) bool {
	for i := range all {
		if !all[i].holds(ctx, e) {
			return false
		}
	}
	return true
}

// mapped is the mapper of a mapping file.
type mapped struct {
	*program
	local *time.Location
}

func (m mapped) mapRecord(ctx context.Context, e *event, rec []byte) error {
	if err := e.takeWhole(rec); err != nil {
		return err
	}
	if cap(e.slots) < m.slots {
		e.slots = make([][]byte, m.slots)
	}
	e.slots = e.slots[:m.slots]
	clear(e.slots)
	m.root.collect(e.record, e.slots)
	if !allHold(ctx, e, m.selects) {
		return errUnselected
	}
	for _, r := range m.columns {
		if err := r.fill(ctx, e); err != nil {
			return badf("%s: %s", r.column.name(), err)
		}
	}
	if err := m.fillTime(ctx, e); err != nil {
		return err
	}
	if err := m.fillUID(ctx, e); err != nil {
		return err
	}
	if err := m.details.fill(ctx, e); err != nil {
		return badf("%s: %s", colDetails.name(), err)
	}
	return nil
}

// takeWhole makes the record's canonical text, which is valid and has each key once: what is looked up in it is what is stored.
func (e *event) takeWhole(rec []byte) error {
	start := len(e.scratch)
	out, err := e.canon.Append(e.scratch, rec)
	if err != nil {
		return err
	}
	e.scratch, e.record = out, out[start:len(out):len(out)]
	if e.record[0] != '{' {
		return badRecord("the record is not a JSON object")
	}
	return nil
}

func (r *columnRule) fill(ctx context.Context, e *event) error {
	text, err := r.value.text(ctx, e)
	if err != nil || text == nil {
		return err
	}
	e.given[r.column] = true
	if r.column != colLatency {
		e.text[r.column] = text
		return nil
	}
	e.latency, err = parseLatency(text)
	e.hasLat = err == nil
	return err
}

func (m mapped) fillTime(ctx context.Context, e *event) error {
	text, err := m.time.value.text(ctx, e)
	if err != nil {
		return badf("timestamp: %s", err)
	}
	if len(text) == 0 {
		return badRecord("timestamp is missing")
	}
	for _, layout := range m.time.layouts {
		if e.micros, err = layout(text, m.local); err == nil {
			e.hasTime = true
			return nil
		}
	}
	if len(m.time.layouts) > 1 {
		return errNoLayout
	}
	return err
}

// fillUID joins the parts of event_uid. Where one is missing the event has none: half an identity would make different events equal.
func (m mapped) fillUID(ctx context.Context, e *event) error {
	text, err := m.uid.text(ctx, e)
	if err != nil {
		return badf("event_uid: %s", err)
	}
	if len(text) > 0 {
		e.text[colEventUID], e.given[colEventUID] = text, true
	}
	return nil
}

func (d *detailsRule) fill(ctx context.Context, e *event) error {
	switch {
	case d.jq.code != nil:
		return jqDetails(ctx, e, d.jq.code)
	case d.part:
		if value := e.slots[d.value.slot]; string(value) != "null" {
			e.details = value
		}
	case d.drop != nil:
		start := len(e.scratch)
		e.scratch = d.drop.without(e.scratch, e.record)
		e.details = e.scratch[start:len(e.scratch):len(e.scratch)]
	default:
		e.details = e.record
	}
	return nil
}

// pathExpr is a value of the record: a string's content, a number as it is stored, true or false. An object or an array is no value.
type pathExpr struct{ slot int }

func (x pathExpr) text(_ context.Context, e *event) ([]byte, error) {
	value := e.slots[x.slot]
	if len(value) == 0 {
		return nil, nil
	}
	switch value[0] {
	case '"':
		text, _, err := audit.TextAt(&e.scratch, value, 0)
		return text, err // canonical text never fails
	case '{', '[', 'n':
		return nil, nil
	}
	return value, nil
}

// constExpr is the same text for every event.
type constExpr []byte

func (x constExpr) text(context.Context, *event) ([]byte, error) { return x, nil }

// coalesceExpr is the first value of several that is there.
type coalesceExpr struct {
	of     []expr
	ignore []string // texts that count as no value
}

func (x coalesceExpr) text(ctx context.Context, e *event) ([]byte, error) {
	for _, one := range x.of {
		text, err := one.text(ctx, e)
		if err != nil {
			return nil, err
		}
		if text != nil && !slices.Contains(x.ignore, string(text)) {
			return text, nil
		}
	}
	return nil, nil
}

// whenExpr is then where the conditions hold and then has a value, otherwise the rest.
type whenExpr struct {
	when       []condition
	then, rest expr
}

func (x whenExpr) text(ctx context.Context, e *event) ([]byte, error) {
	if allHold(ctx, e, x.when) {
		if text, err := x.then.text(ctx, e); text != nil || err != nil {
			return text, err
		}
	}
	return x.rest.text(ctx, e)
}

// templateExpr puts values into a text; without one of them there is no text.
type templateExpr []templatePart

// templatePart is literal text, a value, or a piece that is left out where one of its values is missing.
type templatePart struct {
	literal  []byte
	value    expr
	optional templateExpr
}

func (x templateExpr) text(ctx context.Context, e *event) ([]byte, error) {
	var parts [16][]byte // most templates do not need more
	texts, size := parts[:0], 0
	for _, p := range x {
		text := p.literal
		var err error
		switch {
		case p.optional != nil:
			if text, err = p.optional.text(ctx, e); text == nil {
				text = []byte{}
			}
		case p.value != nil:
			text, err = p.value.text(ctx, e)
		}
		if text == nil || err != nil {
			return nil, err
		}
		texts = append(texts, text)
		size += len(text)
	}
	start := len(e.scratch)
	e.scratch = slices.Grow(e.scratch, size)
	for _, text := range texts {
		e.scratch = append(e.scratch, text...)
	}
	return e.scratch[start:len(e.scratch):len(e.scratch)], nil
}

// tableExpr gives a text for a text.
type tableExpr struct {
	of       expr
	values   map[string][]byte
	fallback []byte // of texts that are not listed, and of no value; nil: none
}

func (x tableExpr) text(ctx context.Context, e *event) ([]byte, error) {
	text, err := x.of.text(ctx, e)
	if err != nil {
		return nil, err
	}
	if text != nil {
		if v, ok := x.values[string(text)]; ok {
			return v, nil
		}
	}
	return x.fallback, nil
}

// lowerExpr is a text in lower case.
type lowerExpr struct{ of expr }

func (x lowerExpr) text(ctx context.Context, e *event) ([]byte, error) {
	text, err := x.of.text(ctx, e)
	if text == nil || err != nil {
		return nil, err
	}
	return bytes.ToLower(text), nil
}

// splitExpr is one piece of a text.
type splitExpr struct {
	of    expr
	on    string
	index int // from the end where it is negative
}

func (x splitExpr) text(ctx context.Context, e *event) ([]byte, error) {
	text, err := x.of.text(ctx, e)
	if text == nil || err != nil {
		return nil, err
	}
	pieces := bytes.Split(text, []byte(x.on))
	i := x.index
	if i < 0 {
		i += len(pieces)
	}
	if i < 0 || i >= len(pieces) {
		return nil, nil
	}
	return pieces[i], nil
}

// matchExpr is what a regular expression finds in a text: as, in which $1 stands for its first group, or without it the first group,
// or the whole.
type matchExpr struct {
	of      expr
	pattern *regexp.Regexp
	as      []byte
}

func (x matchExpr) text(ctx context.Context, e *event) ([]byte, error) {
	text, err := x.of.text(ctx, e)
	if text == nil || err != nil {
		return nil, err
	}
	at := x.pattern.FindSubmatchIndex(text)
	switch {
	case at == nil:
		return nil, nil
	case x.as != nil:
		return x.pattern.Expand([]byte{}, x.as, text, at), nil
	case len(at) == 2:
		return text[at[0]:at[1]:at[1]], nil
	case at[2] < 0:
		return nil, nil
	}
	return text[at[2]:at[3]:at[3]], nil
}

// unknownGroup returns the first group that a replacement refers to and the pattern does not have, "" for none.
func unknownGroup(as string, pattern *regexp.Regexp) string {
	names := regexp.MustCompile(`\$(?:\$|\{(\w+)\}|(\w+))`)
	for _, found := range names.FindAllStringSubmatch(as, -1) {
		name := found[1] + found[2]
		n, err := strconv.Atoi(name)
		if name != "" && (err != nil || n > pattern.NumSubexp()) && pattern.SubexpIndex(name) < 0 {
			return name
		}
	}
	return ""
}
