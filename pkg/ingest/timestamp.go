package ingest

import (
	"time"

	"auditdb/pkg/audit"
)

const (
	microsPerDay    = 86400 * 1_000_000
	daysUnixTo2000  = 10957
	maxFractionSize = 6
)

// parseTimestamp reads an RFC 3339 time with up to six digits of fraction and returns microseconds since 2000-01-01 UTC. local is the
// zone of times that name none; nil refuses them.
func parseTimestamp(b []byte, local *time.Location) (int64, error) {
	var c clock
	rest, err := c.date(b)
	if err != nil {
		return 0, err
	}
	if rest, err = c.time(rest); err != nil {
		return 0, err
	}
	if len(rest) == 0 {
		if local == nil {
			return 0, badRecord("timestamp has no time zone: --time-zone says which is meant")
		}
		t := time.Date(c.year, time.Month(c.month), c.day, c.hour, c.minute, c.second, c.micro*1000, local)
		return audit.TimestampMicros(t), nil
	}
	offset, err := zoneSeconds(rest)
	if err != nil {
		return 0, err
	}
	seconds := int64(c.hour*3600+c.minute*60+c.second) - int64(offset)
	return int64(daysSince2000(c.year, c.month, c.day))*microsPerDay + seconds*1_000_000 + int64(c.micro), nil
}

// clock is a civil time.
type clock struct{ year, month, day, hour, minute, second, micro int }

const errTimestamp = badRecord("timestamp is not RFC 3339 (2006-01-02T15:04:05.000000Z)")

// date reads YYYY-MM-DD and the T.
func (c *clock) date(b []byte) ([]byte, error) {
	if len(b) < 11 || b[4] != '-' || b[7] != '-' || (b[10]|0x20 != 't' && b[10] != ' ') {
		return nil, errTimestamp
	}
	hi, ok1 := twoDigits(b)
	lo, ok2 := twoDigits(b[2:])
	month, ok3 := twoDigits(b[5:])
	day, ok4 := twoDigits(b[8:])
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return nil, errTimestamp
	}
	c.year, c.month, c.day = hi*100+lo, month, day
	if c.year == 0 || month < 1 || month > 12 || day < 1 || day > daysIn(c.year, month) {
		return nil, badRecord("timestamp is not a day of the calendar")
	}
	return b[11:], nil
}

// time reads HH:MM:SS[.ffffff].
func (c *clock) time(b []byte) ([]byte, error) {
	if len(b) < 8 || b[2] != ':' || b[5] != ':' {
		return nil, errTimestamp
	}
	hour, ok1 := twoDigits(b)
	minute, ok2 := twoDigits(b[3:])
	second, ok3 := twoDigits(b[6:])
	if !ok1 || !ok2 || !ok3 {
		return nil, errTimestamp
	}
	if hour > 23 || minute > 59 || second > 59 {
		return nil, badRecord("timestamp is not a time of the day")
	}
	c.hour, c.minute, c.second = hour, minute, second
	b = b[8:]
	if len(b) == 0 || b[0] != '.' {
		return b, nil
	}
	return c.fraction(b[1:])
}

func (c *clock) fraction(b []byte) ([]byte, error) {
	n := 0
	for ; n < len(b) && b[n] >= '0' && b[n] <= '9'; n++ {
		if n < maxFractionSize {
			c.micro = c.micro*10 + int(b[n]-'0')
		}
	}
	if n == 0 {
		return nil, errTimestamp
	}
	if n > maxFractionSize {
		return nil, badRecord("timestamp is finer than a microsecond")
	}
	for k := n; k < maxFractionSize; k++ {
		c.micro *= 10
	}
	return b[n:], nil
}

// zoneSeconds reads Z or ±HH:MM.
func zoneSeconds(b []byte) (int, error) {
	if len(b) == 1 && b[0]|0x20 == 'z' {
		return 0, nil
	}
	if len(b) != 6 || (b[0] != '+' && b[0] != '-') || b[3] != ':' {
		return 0, badRecord("timestamp's time zone is neither Z nor +HH:MM")
	}
	hour, ok1 := twoDigits(b[1:])
	minute, ok2 := twoDigits(b[4:])
	if !ok1 || !ok2 || hour > 23 || minute > 59 {
		return 0, badRecord("timestamp's time zone is neither Z nor +HH:MM")
	}
	s := hour*3600 + minute*60
	if b[0] == '-' {
		s = -s
	}
	return s, nil
}

func twoDigits(b []byte) (int, bool) {
	hi, lo := b[0]-'0', b[1]-'0'
	return int(hi)*10 + int(lo), hi <= 9 && lo <= 9
}

func daysIn(year, month int) int {
	switch month {
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// daysSince2000 counts the days of the proleptic Gregorian calendar (Howard Hinnant, "days_from_civil"), for years ≥ 1.
func daysSince2000(year, month, day int) int {
	if month <= 2 {
		year--
		month += 12
	}
	era := year / 400
	yoe := year - era*400
	doy := (153*(month-3)+2)/5 + day - 1
	doe := yoe*365 + yoe/4 - yoe/100 + doy
	return era*146097 + doe - 719468 - daysUnixTo2000
}
