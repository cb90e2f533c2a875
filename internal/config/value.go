package config

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"auditdb/internal/redact"
)

// ParseDuration reads Go's duration syntax plus d for days of 24 hours: 90s, 1h30m, 7d, 1d12h.
func ParseDuration(s string) (time.Duration, error) {
	goForm := days(s)
	d, err := time.ParseDuration(goForm)
	if err != nil {
		return 0, fmt.Errorf("%q is no duration: write it like 90s, 5m, 12h or 7d", s)
	}
	return d, nil
}

// days rewrites each number of days as hours.
func days(s string) string {
	if !strings.Contains(s, "d") {
		return s
	}
	return regexp.MustCompile(`[0-9]+(\.[0-9]*)?d|\.[0-9]+d`).ReplaceAllStringFunc(s, func(m string) string {
		n, err := strconv.ParseFloat(strings.TrimSuffix(m, "d"), 64)
		if err != nil {
			return m
		}
		return strconv.FormatFloat(n*24, 'f', -1, 64) + "h"
	})
}

// FormatDuration is the shortest form that ParseDuration reads back: 7d, 1d12h, 90s as 1m30s, 0s.
func FormatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d < day {
		return shorten(d)
	}
	s := strconv.FormatInt(int64(d/day), 10) + "d"
	if rest := d % day; rest != 0 {
		s += shorten(rest)
	}
	return s
}

func shorten(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// ParseSize reads a number of bytes: 1048576, 64kB, 200MB (powers of 1000), 512MiB (powers of 1024).
func ParseSize(s string) (int64, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil || n > math.MaxInt64 {
		return 0, fmt.Errorf("%q is no size: write it like 1048576, 64kB, 200MB or 2GiB", s)
	}
	return int64(n), nil
}

// parseBool reads what YAML, Go and PostgreSQL call true and false.
func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "true", "yes", "on", "1", "t", "y":
		return true, nil
	case "false", "no", "off", "0", "f", "n":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither true nor false", s)
}

// splitList splits at commas, but keeps an address of several hosts (postgres://a,b/db) together.
func splitList(s string) []string {
	list := []string{}
	for item := range strings.SplitSeq(s, ",") {
		item = strings.TrimSpace(item)
		last := len(list) - 1
		if last >= 0 && strings.Contains(list[last], "://") && !strings.Contains(item, "://") && item != "" {
			list[last] += "," + item
			continue
		}
		if item != "" {
			list = append(list, item)
		}
	}
	return list
}

// decode puts the text (or, from a file, the list) into k's field of c and returns it as config show prints it.
func (k *key) decode(c *Config, raw any) (value any, text string, err error) {
	s, isText := raw.(string)
	list, isList := k.dst(c).(*[]string)
	if !isText && !isList {
		return nil, "", fmt.Errorf("is a list, but one value is wanted")
	}
	if isList {
		*list = toList(raw)
		shown := make([]string, 0, len(*list))
		for _, item := range *list {
			shown = append(shown, k.shown(item))
		}
		return shown, strings.Join(shown, ", "), nil
	}
	return k.decodeScalar(c, s)
}

func toList(raw any) []string {
	if list, ok := raw.([]string); ok {
		return list
	}
	s, _ := raw.(string)
	return splitList(s)
}

func (k *key) decodeScalar(c *Config, s string) (value any, text string, err error) {
	switch dst := k.dst(c).(type) {
	case *string:
		return k.decodeString(dst, s)
	case *bool:
		*dst, err = parseBool(s)
		return *dst, strconv.FormatBool(*dst), err
	case *time.Duration:
		*dst, err = ParseDuration(s)
		return dst.Seconds(), FormatDuration(*dst), orTooSmall(err, int64(*dst), k.atLeast, s)
	case *int64:
		*dst, err = ParseSize(s)
		return *dst, s, orTooSmall(err, *dst, k.atLeast, s)
	case *int:
		n, err := parseInt(s)
		*dst = int(n)
		return n, s, orTooSmall(err, n, k.atLeast, s)
	case *int32:
		n, err := parseInt(s)
		*dst = int32(n) //nolint:gosec // parseInt keeps it within 32 bits
		return n, s, orTooSmall(err, n, k.atLeast, s)
	}
	return nil, "", fmt.Errorf("has no known type")
}

func (k *key) decodeString(dst *string, s string) (value any, text string, err error) {
	*dst = s
	if len(k.enum) > 0 && !slices.Contains(k.enum, s) {
		return s, s, fmt.Errorf("%q is not one of %s", s, strings.Join(k.enum, ", "))
	}
	if s == "" {
		return nil, "", nil
	}
	return k.shown(s), k.shown(s), nil
}

// shown is the form of a value that may be printed.
func (k *key) shown(s string) string {
	switch {
	case s == "" || !k.secret:
		return s
	case k.hidden:
		return "***"
	}
	return redact.Address(s)
}

func parseInt(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is no whole number", s)
	}
	return n, nil
}

func orTooSmall(err error, n, atLeast int64, s string) error {
	if err == nil && n < atLeast {
		return fmt.Errorf("%s is too small", s)
	}
	return err
}
