package output

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// TimeLayout is how documents write times: RFC 3339 in UTC with microseconds.
const TimeLayout = "2006-01-02T15:04:05.000000Z"

// A document is first made into a tree of object, []any, string, bool, json.Number, raw and nil, which every format is written from.
type (
	raw    json.RawMessage // valid JSON, taken apart only where the format is another
	object []member
	member struct {
		name  string
		value any
	}
)

// field is one key of a struct's JSON form.
type field struct {
	name      string
	index     []int
	omitEmpty bool
	typ       reflect.Type
}

// document is doc with the schema key before its own.
func document(command string, doc any) any {
	head := member{"schema", SchemaName(command)}
	switch body := (trees{}).of(reflect.ValueOf(doc)).(type) {
	case nil:
		return object{head}
	case object:
		body = slices.DeleteFunc(body, func(m member) bool { return m.name == "schema" })
		return append(object{head}, body...)
	default:
		return object{head, {"value", body}}
	}
}

// trees remembers the keys of the structs that it has converted: a long list has the same ones in each element.
type trees map[reflect.Type][]field

// Ordered is a value that tells its keys itself, in order: written as an object without going through JSON first, which takes far longer
// for thousands of rows.
type Ordered interface {
	Members() iter.Seq2[string, any]
}

// of converts a Go value as encoding/json would, with this package's rules for times, durations and empty lists.
func (t trees) of(v reflect.Value) any {
	if !v.IsValid() {
		return nil
	}
	if value, ok := special(v); ok {
		return value
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		return t.of(v.Elem())
	case reflect.Struct:
		return t.ofStruct(v)
	case reflect.Map:
		return t.ofMap(v)
	case reflect.Slice, reflect.Array:
		return t.ofList(v)
	default:
		return scalar(v)
	}
}

// special handles the types that have a form of their own.
func special(v reflect.Value) (any, bool) {
	if v.Kind() == reflect.Pointer && v.IsNil() {
		return nil, true
	}
	if !v.CanInterface() {
		return nil, false
	}
	switch x := v.Interface().(type) {
	case Ordered:
		obj := object{}
		for name, value := range x.Members() {
			switch x := value.(type) {
			case nil, bool, json.Number:
			case string:
				value = strings.ToValidUTF8(x, "\uFFFD")
			default:
				value = trees{}.of(reflect.ValueOf(value))
			}
			obj = append(obj, member{name, value})
		}
		return obj, true
	case time.Time:
		return timeText(x), true
	case time.Duration:
		return number(x.Seconds()), true
	case *time.Time, *time.Duration:
		return nil, false
	case json.RawMessage:
		if !json.Valid(x) {
			return nil, true
		}
		return raw(x), true
	case json.Marshaler:
		return marshaled(x), true
	case encoding.TextMarshaler:
		text, err := x.MarshalText()
		if err != nil {
			return nil, true
		}
		return string(text), true
	}
	return nil, false
}

func timeText(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(TimeLayout)
}

func number(f float64) any {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil
	}
	text, err := json.Marshal(f)
	if err != nil {
		return nil
	}
	return json.Number(text)
}

// marshaled keeps what a type writes by itself, key order and number text included.
func marshaled(m json.Marshaler) any {
	text, err := m.MarshalJSON()
	if err != nil {
		return nil
	}
	return raw(text).tree()
}

// tree takes it apart.
func (r raw) tree() any {
	dec := json.NewDecoder(bytes.NewReader(r))
	dec.UseNumber()
	value, err := decodeNext(dec)
	if err != nil {
		return nil
	}
	return value
}

var errToken = errors.New("unexpected token")

func decodeNext(dec *json.Decoder) (any, error) {
	token, err := dec.Token()
	if err != nil {
		return nil, err
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return token, nil
	}
	switch delim {
	case '{':
		obj := object{}
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				return nil, err
			}
			value, err := decodeNext(dec)
			if err != nil {
				return nil, err
			}
			obj = append(obj, member{fmt.Sprint(name), value})
		}
		_, err = dec.Token()
		return obj, err
	case '[':
		list := []any{}
		for dec.More() {
			value, err := decodeNext(dec)
			if err != nil {
				return nil, err
			}
			list = append(list, value)
		}
		_, err = dec.Token()
		return list, err
	}
	return nil, errToken
}

func (t trees) ofStruct(v reflect.Value) any {
	known, seen := t[v.Type()]
	if !seen {
		known = fields(v.Type())
		t[v.Type()] = known
	}
	obj := make(object, 0, len(known))
	for _, f := range known {
		value, err := v.FieldByIndexErr(f.index)
		if err != nil { // within a nil embedded pointer
			continue
		}
		if f.omitEmpty && value.IsZero() {
			continue
		}
		obj = append(obj, member{f.name, t.of(value)})
	}
	return obj
}

// fields lists the keys of a struct in the order of its fields; an embedded struct's keys stand where it is embedded.
// The outermost of equal names wins.
func fields(t reflect.Type) []field {
	all := collect(t, nil)
	depth := map[string]int{}
	for _, f := range all {
		if d, seen := depth[f.name]; !seen || len(f.index) < d {
			depth[f.name] = len(f.index)
		}
	}
	return slices.DeleteFunc(all, func(f field) bool { return depth[f.name] != len(f.index) })
}

func collect(t reflect.Type, at []int) []field {
	list := []field{}
	for i := range t.NumField() {
		f := t.Field(i)
		tag, tagged := f.Tag.Lookup("json")
		name, options, _ := strings.Cut(tag, ",")
		index := append(slices.Clone(at), i)
		switch {
		case tag == "-":
		case f.Anonymous && name == "" && indirect(f.Type).Kind() == reflect.Struct && indirect(f.Type) != reflect.TypeFor[time.Time]():
			list = append(list, collect(indirect(f.Type), index)...)
		case f.IsExported():
			if !tagged || name == "" {
				name = f.Name
			}
			omit := strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")
			list = append(list, field{name: name, index: index, omitEmpty: omit, typ: f.Type})
		}
	}
	return list
}

func indirect(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

func (t trees) ofMap(v reflect.Value) any {
	obj := object{}
	for _, k := range v.MapKeys() {
		obj = append(obj, member{fmt.Sprint(k.Interface()), t.of(v.MapIndex(k))})
	}
	slices.SortFunc(obj, func(a, b member) int { return strings.Compare(a.name, b.name) })
	return obj
}

func (t trees) ofList(v reflect.Value) any {
	if v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8 {
		return base64.StdEncoding.EncodeToString(v.Bytes())
	}
	list := make([]any, 0, v.Len())
	for i := range v.Len() {
		list = append(list, t.of(v.Index(i)))
	}
	return list
}

func scalar(v reflect.Value) any {
	switch {
	case v.Kind() == reflect.Bool:
		return v.Bool()
	case v.Kind() == reflect.String:
		if v.Type() == reflect.TypeFor[json.Number]() {
			return json.Number(v.String())
		}
		return strings.ToValidUTF8(v.String(), "\uFFFD")
	case v.CanInt():
		return json.Number(fmt.Sprint(v.Int()))
	case v.CanUint():
		return json.Number(fmt.Sprint(v.Uint()))
	case v.CanFloat():
		return number(v.Float())
	}
	return nil
}

// jsonWriter writes a tree as JSON, value by value: encoding/json would hold the whole text several times over.
type jsonWriter struct {
	*bufio.Writer
	indent  string // "": one line
	scratch bytes.Buffer
	err     error // the first of a value; those of writing come with Flush
}

func (w *jsonWriter) value(v any, depth int) {
	switch x := v.(type) {
	case object:
		w.list('{', '}', len(x), depth, func(i int) {
			w.scalar(x[i].name)
			_ = w.WriteByte(':')
			if w.indent != "" {
				_ = w.WriteByte(' ')
			}
			w.value(x[i].value, depth+1)
		})
	case []any:
		w.list('[', ']', len(x), depth, func(i int) { w.value(x[i], depth+1) })
	case raw:
		w.raw(x, depth)
	default:
		w.scalar(v)
	}
}

// raw changes nothing but the space between the parts.
func (w *jsonWriter) raw(text raw, depth int) {
	w.scratch.Reset()
	var err error
	if w.indent == "" {
		err = json.Compact(&w.scratch, text)
	} else {
		err = json.Indent(&w.scratch, text, strings.Repeat(w.indent, depth), w.indent)
	}
	w.err = cmp.Or(w.err, err)
	_, _ = w.Write(w.scratch.Bytes())
}

func (w *jsonWriter) list(first, last byte, n, depth int, item func(int)) {
	_ = w.WriteByte(first)
	for i := range n {
		if i > 0 {
			_ = w.WriteByte(',')
		}
		w.newLine(depth + 1)
		item(i)
	}
	if n > 0 {
		w.newLine(depth)
	}
	_ = w.WriteByte(last)
}

func (w *jsonWriter) newLine(depth int) {
	if w.indent == "" {
		return
	}
	_ = w.WriteByte('\n')
	for range depth {
		_, _ = w.WriteString(w.indent)
	}
}

// scalar does not escape <, > and &, which stand in partition bounds and hints. Most values need no encoder.
func (w *jsonWriter) scalar(v any) {
	switch x := v.(type) {
	case nil:
		_, _ = w.WriteString("null")
		return
	case bool:
		_, _ = w.WriteString(strconv.FormatBool(x))
		return
	case string:
		if plain(x) {
			_ = w.WriteByte('"')
			_, _ = w.WriteString(x)
			_ = w.WriteByte('"')
			return
		}
	}
	w.scratch.Reset()
	enc := json.NewEncoder(&w.scratch)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		w.err = cmp.Or(w.err, err)
		return
	}
	_, _ = w.Write(w.scratch.Bytes()[:w.scratch.Len()-1]) // Encode ends with a newline
}

// plain says whether a string stands in JSON as it is.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf || c == 0x7f {
			return false
		}
	}
	return true
}

// encodeInto writes a tree in one line.
func encodeInto(b *bytes.Buffer, v any) error { return encode(b, v, "") }

func encode(to io.Writer, v any, indent string) error {
	w := &jsonWriter{Writer: bufio.NewWriter(to), indent: indent}
	w.value(v, 0)
	return cmp.Or(w.err, w.Flush())
}

func writeJSON(w io.Writer, v any, indent string) error {
	if err := encode(w, v, indent); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// MarshalLine gives one line of JSON under this package's rules, without a newline.
func MarshalLine(command string, doc any) (string, error) {
	var b bytes.Buffer
	if err := encodeInto(&b, document(command, doc)); err != nil {
		return "", err
	}
	return b.String(), nil
}

func writeYAML(w io.Writer, v any) error {
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(yamlNode(v)); err != nil {
		return err
	}
	return enc.Close()
}

func yamlNode(v any) *yaml.Node {
	switch x := v.(type) {
	case raw:
		return yamlNode(x.tree())
	case object:
		n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		for _, m := range x {
			n.Content = append(n.Content, yamlNode(m.name), yamlNode(m.value))
		}
		return n
	case []any:
		n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for _, item := range x {
			n.Content = append(n.Content, yamlNode(item))
		}
		return n
	case string:
		n := &yaml.Node{}
		n.SetString(x)
		return n
	case json.Number:
		tag := "!!int"
		if strings.ContainsAny(x.String(), ".eE") {
			tag = "!!float"
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: x.String()}
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: fmt.Sprint(x)}
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
}
