package audit

import (
	"encoding/binary"
	"math"
	"time"
)

// CopyHeader returns the 19 bytes that start a COPY BINARY stream (signature, flags, no header extension), as PostgreSQL's manual
// gives them under "COPY, Binary Format".
func CopyHeader() []byte { return []byte("PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00") }

// CopyTrailer returns the two bytes that end a COPY BINARY stream.
func CopyTrailer() []byte { return []byte{0xff, 0xff} }

// pgEpoch is 2000-01-01 00:00:00 UTC in Unix microseconds.
const pgEpoch = 946684800 * 1_000_000

// The range of finite timestamptz values, in microseconds since 2000-01-01 (4713 BC to 294276 AD).
const (
	MinTimestamp = -211813488000000000
	MaxTimestamp = 9223371331200000000 - 1
)

// TimestampMicros returns t as PostgreSQL stores it: microseconds since 2000-01-01 00:00:00 UTC. Smaller parts are cut off.
func TimestampMicros(t time.Time) int64 { return t.UnixMicro() - pgEpoch }

// MicrosTime is the inverse of TimestampMicros, in UTC.
func MicrosTime(us int64) time.Time {
	switch us {
	case math.MaxInt64, math.MinInt64: // infinity: no time.Time has it
		return time.Time{}
	}
	return time.UnixMicro(us + pgEpoch).UTC()
}

// AppendTuple starts a tuple of n fields.
func AppendTuple(dst []byte, n int) []byte {
	return binary.BigEndian.AppendUint16(dst, uint16(n)) //nolint:gosec // a table has at most 1,600 columns
}

// AppendNull appends a NULL field.
func AppendNull(dst []byte) []byte { return append(dst, 0xff, 0xff, 0xff, 0xff) }

// AppendField appends a field of any type whose binary form is v; nil is NULL.
func AppendField(dst, v []byte) []byte {
	if v == nil {
		return AppendNull(dst)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(v))) //nolint:gosec // a field is shorter than 1 GB
	return append(dst, v...)
}

// AppendText appends a text field, never NULL. s must be valid UTF-8 without U+0000.
func AppendText[T ~string | ~[]byte](dst []byte, s T) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(s))) //nolint:gosec // a field is shorter than 1 GB
	return append(dst, s...)
}

// AppendInt32 appends an int4 field.
func AppendInt32(dst []byte, v int32) []byte {
	dst = append(dst, 0, 0, 0, 4)
	return binary.BigEndian.AppendUint32(dst, uint32(v)) //nolint:gosec // two's complement on the wire
}

// AppendInt64 appends an int8 field.
func AppendInt64(dst []byte, v int64) []byte {
	dst = append(dst, 0, 0, 0, 8)
	return binary.BigEndian.AppendUint64(dst, uint64(v)) //nolint:gosec // two's complement on the wire
}

// AppendTimestamp appends a timestamptz field given in microseconds since 2000-01-01 (TimestampMicros).
func AppendTimestamp(dst []byte, micros int64) []byte { return AppendInt64(dst, micros) }

// AppendUUID appends a uuid field.
func AppendUUID(dst []byte, u [16]byte) []byte {
	dst = append(dst, 0, 0, 0, 16)
	return append(dst, u[:]...)
}

// jsonbVersion is the first byte of jsonb's binary form; the rest is its text.
const jsonbVersion = 1

// AppendCanonicalJSONB appends a jsonb field from text that CanonicalJSON wrote.
func AppendCanonicalJSONB(dst, canonical []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(canonical)+1)) //nolint:gosec // a field is shorter than 1 GB
	dst = append(dst, jsonbVersion)
	return append(dst, canonical...)
}
