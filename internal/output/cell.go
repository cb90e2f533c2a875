package output

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// Cells that may be cut, with an ellipsis, where a row would not fit otherwise.
type (
	// Cut loses its end.
	Cut string
	// CutPath loses its beginning: the end of a path or an address tells it from others.
	CutPath string
)

// leastCut is how much of a cell that may be cut stays at least.
const leastCut = 10

// Size is a number of bytes: 1.5 GiB in a table, the number itself in documents.
type Size int64

// Cells whose meaning colour underlines on a terminal.
type (
	// Good is green.
	Good string
	// Bad is red.
	Bad string
	// Warn is yellow.
	Warn string
)

// unknown stands for what is not known or does not apply.
const unknown = "-"

// Cell is the text of a table cell.
func Cell(v any) string {
	switch x := v.(type) {
	case nil:
		return unknown
	case Size:
		return humanSize(int64(x))
	case time.Time:
		return humanTime(x)
	case *time.Time: // a Stringer of its own, with Go's layout
		if x == nil {
			return unknown
		}
		return humanTime(*x)
	case time.Duration:
		return HumanDuration(x)
	case bool:
		if x {
			return "yes"
		}
		return "no"
	case []string:
		return strings.Join(x, ", ")
	case fmt.Stringer:
		return x.String()
	case error:
		return x.Error()
	}
	return reflectedCell(reflect.ValueOf(v))
}

func reflectedCell(v reflect.Value) string {
	switch {
	case v.Kind() == reflect.Pointer && v.IsNil():
		return unknown
	case v.Kind() == reflect.Pointer:
		return Cell(v.Elem().Interface())
	case v.CanInt():
		return humanize.Comma(v.Int())
	case v.CanUint():
		return humanize.Comma(int64(min(v.Uint(), 1<<62)))
	case v.CanFloat():
		return fmt.Sprintf("%.4g", v.Float())
	}
	return fmt.Sprint(v.Interface())
}

func humanSize(n int64) string {
	if n < 0 {
		return unknown
	}
	return humanize.IBytes(uint64(n))
}

// Moment is a time of day, with what there is of its second, where a date would not do.
func Moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.999999Z") }

// humanTime leaves out what is zero: a midnight is a date.
func humanTime(t time.Time) string {
	if t.IsZero() {
		return unknown
	}
	t = t.UTC()
	if t.Equal(t.Truncate(24 * time.Hour)) {
		return t.Format(time.DateOnly)
	}
	return t.Format("2006-01-02 15:04:05Z")
}

// HumanDuration shows a duration with its two largest units: 3d 4h, 12m 5s, 1.25s, 830ms.
func HumanDuration(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return "-" + HumanDuration(-d)
	case d >= day:
		return fmt.Sprintf("%dd %dh", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh %dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm %ds", d/time.Minute, d%time.Minute/time.Second)
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	default:
		return d.Round(time.Microsecond * 10).String()
	}
}

func rightAligned(v any) bool {
	switch v.(type) {
	case Size, time.Duration:
		return true
	case time.Time, nil, bool:
		return false
	}
	rv := reflect.ValueOf(v)
	for rv.Kind() == reflect.Pointer && !rv.IsNil() {
		rv = rv.Elem()
	}
	return rv.CanInt() || rv.CanUint() || rv.CanFloat()
}
