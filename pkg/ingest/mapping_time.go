package ingest

import (
	"bytes"
	"errors"
	"strings"
	"time"

	"auditdb/pkg/audit"
)

// timeLayout reads one way to write a time. local is the zone of times that name none, nil refuses them.
type timeLayout func(text []byte, local *time.Location) (micros int64, err error)

const errNoLayout = badRecord("timestamp fits none of the layouts")

// namedLayout returns the layouts that have a name: RFC 3339 and counts since 1970. What ends in "nano" and "ns" is cut to microseconds,
// the others refuse what is finer.
func namedLayout(name string) timeLayout {
	switch name {
	case "rfc3339":
		return parseTimestamp
	case "rfc3339_nano":
		return func(text []byte, local *time.Location) (int64, error) {
			return parseTimestamp(cutFraction(text), local)
		}
	case "unix":
		return epoch(6, false)
	case "unix_ms":
		return epoch(3, false)
	case "unix_us":
		return epoch(0, false)
	case "unix_ns":
		return epoch(-3, true)
	}
	return nil
}

// cutFraction drops the digits of a second's fraction after the sixth.
func cutFraction(text []byte) []byte {
	point := bytes.IndexByte(text, '.')
	if point < 0 {
		return text
	}
	end := point + 1
	for end < len(text) && text[end] >= '0' && text[end] <= '9' {
		end++
	}
	keep := min(end, point+1+maxFractionSize)
	return append(bytes.Clone(text[:keep]), text[end:]...)
}

// epoch reads counts since 1970 of 10^-(6-shift) seconds each: shift is how many digits the decimal point moves to count microseconds.
func epoch(shift int, cut bool) timeLayout {
	return func(text []byte, _ *time.Location) (int64, error) {
		digits, negative := bytes.CutPrefix(text, []byte{'-'})
		whole, fraction, pointed := bytes.Cut(digits, []byte{'.'})
		if len(whole) == 0 || len(whole) > 19 || pointed && len(fraction) == 0 {
			return 0, errNoLayout
		}
		var micros int64
		point := len(whole) + shift
		for i := range max(point, len(whole)+len(fraction)) {
			digit := byte('0')
			switch {
			case i < len(whole):
				digit = whole[i]
			case i < len(whole)+len(fraction):
				digit = fraction[i-len(whole)]
			}
			switch {
			case digit < '0' || digit > '9':
				return 0, errNoLayout
			case i >= point:
				if digit != '0' && !cut {
					return 0, badRecord("timestamp is finer than a microsecond")
				}
			case micros > maxEpoch:
				return 0, errNoLayout
			default:
				micros = micros*10 + int64(digit-'0')
			}
		}
		if negative {
			micros = -micros
		}
		if micros < minEpoch || micros > maxEpoch {
			return 0, errNoLayout // of another unit
		}
		return micros - daysUnixTo2000*microsPerDay, nil
	}
}

// The years 1 to 9999 in microseconds since 1970.
const (
	minEpoch = -62135596800 * 1_000_000
	maxEpoch = 253402300800*1_000_000 - 1
)

// goLayout reads times as the layouts of Go's package time describe them.
func goLayout(layout string, zone *time.Location) (timeLayout, error) {
	one, other := time.Date(2011, 10, 22, 13, 14, 17, 0, time.UTC), time.Date(2024, 12, 27, 0, 58, 49, 0, time.UTC)
	back, err := time.Parse(layout, one.Format(layout))
	if err != nil || one.Format(layout) == other.Format(layout) || back.Year() != one.Year() || back.YearDay() != one.YearDay() {
		return nil, errors.New("a layout is rfc3339, rfc3339_nano, unix, unix_ms, unix_us, unix_ns, or how the time 2006-01-02 15:04:05 would be written")
	}
	named := strings.Contains(layout, "MST")
	offset := named || strings.Contains(layout, "Z07") || strings.Contains(layout, "-07")
	return func(text []byte, local *time.Location) (int64, error) {
		if zone != nil {
			local = zone
		}
		if local == nil && !offset {
			return 0, badRecord("timestamp has no time zone: give its layout a zone, or --time-zone")
		}
		t, err := parseIn(layout, string(text), local, named)
		if err != nil {
			return 0, err
		}
		if t.Nanosecond()%1000 != 0 {
			return 0, badRecord("timestamp is finer than a microsecond")
		}
		if t.Year() < 1 || t.Year() > 9999 {
			return 0, errNoLayout
		}
		return audit.TimestampMicros(t), nil
	}, nil
}

// parseIn parses a time whose zone may be an abbreviation. These are ambiguous the world over: one is taken only where the zone given
// has it, which tells the two o'clocks of an autumn night apart.
func parseIn(layout, text string, local *time.Location, named bool) (time.Time, error) {
	zone := local
	if zone == nil {
		zone = time.UTC
	}
	t, err := time.ParseInLocation(layout, text, zone)
	if err != nil {
		return t, errNoLayout
	}
	if named && t.Location() != zone && t.Location() != time.UTC {
		name, offset := t.Zone()
		if signed, err := time.Parse("-07", name); err == nil { // a zone without letters: its name is its offset
			_, offset = signed.Zone()
			return t.Add(-time.Duration(offset) * time.Second), nil
		}
		if offset == 0 && name != "GMT" {
			return t, badRecord("timestamp has the abbreviation of another time zone: --time-zone says which")
		}
	}
	return t, nil
}
