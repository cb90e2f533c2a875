package integrity

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"auditdb/pkg/audit"
)

// fieldText shows the binary form of a value of a PostgreSQL type as people read it: times as RFC 3339 in UTC, jsonb as its text. What
// it does not know is shown as bytea is, `\x` and hex. nil is NULL.
func fieldText(typ string, b []byte) *string {
	if b == nil {
		return nil
	}
	text, ok := knownText(typ, b)
	if !ok || !utf8.ValidString(text) {
		text = `\x` + hex.EncodeToString(b)
	}
	return &text
}

func knownText(typ string, b []byte) (string, bool) {
	switch typ {
	case "text", "varchar", "bpchar", "name", "json", "citext", "xml":
		return string(b), true
	case "jsonb":
		return string(b[min(1, len(b)):]), len(b) > 1 && b[0] == 1
	case "int2", "int4", "int8":
		size := map[string]int{"int2": 2, "int4": 4, "int8": 8}[typ]
		return strconv.FormatInt(signed(b), 10), len(b) == size
	case "bool":
		return strconv.FormatBool(len(b) == 1 && b[0] == 1), len(b) == 1 && b[0] <= 1
	case "timestamptz", "timestamp", "date":
		return timeText(typ, b)
	case "uuid":
		if len(b) != 16 {
			return "", false
		}
		return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), true
	case "float4":
		if len(b) != 4 {
			return "", false
		}
		return strconv.FormatFloat(float64(math.Float32frombits(binary.BigEndian.Uint32(b))), 'g', -1, 32), true
	case "float8":
		if len(b) != 8 {
			return "", false
		}
		return strconv.FormatFloat(math.Float64frombits(binary.BigEndian.Uint64(b)), 'g', -1, 64), true
	}
	return "", false
}

func timeText(typ string, b []byte) (string, bool) {
	v := signed(b)
	switch {
	case typ == "date" && len(b) != 4 || typ != "date" && len(b) != 8:
		return "", false
	case v == math.MaxInt64, typ == "date" && v == math.MaxInt32:
		return "infinity", true
	case v == math.MinInt64, typ == "date" && v == math.MinInt32:
		return "-infinity", true
	case typ == "date":
		return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, int(v)).Format(time.DateOnly), true
	case v < audit.MinTimestamp || v > audit.MaxTimestamp:
		return "", false
	case typ == "timestamp":
		return audit.MicrosTime(v).Format("2006-01-02T15:04:05.000000"), true
	}
	return formatTime(audit.MicrosTime(v)), true
}
