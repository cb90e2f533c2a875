package cache

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/s2"
)

// A value in Redis, all numbers big-endian:
//
//	 0  4  magic
//	 4  1  version of this format
//	 5  1  flags: 1 compressed with S2
//	 6  2  zero
//	 8  8  when it expires, in milliseconds since 1970
//	16  4  length of the value, uncompressed
//	20 32  digest of its key
//	52 16  checksum of all other bytes: XXH64 and eight zeros, which find what is damaged; under Options.Secret the first bytes of HMAC-SHA-256,
//	       which nobody else can make
//	68     the value
const (
	magic         = "aDbC"
	formatVersion = 3
	flagS2        = 1

	atFlags   = 5
	atExpiry  = 8
	atLength  = 16
	atDigest  = 20
	atSum     = 52
	sumLength = 16
	headerLen = atSum + sumLength

	compressAbove = 1 << 10
)

// Why a value that Redis has given is not taken.
var (
	errForeign = errors.New("no value of this cache, or one of another key")
	errVersion = errors.New("value of another version")
	errDamaged = errors.New("damaged value")
	errExpired = errors.New("value past its time")
)

// codec writes and reads values.
type codec struct {
	secret []byte
	max    int
}

// encode makes what is stored for a value. S2 unpacks several times faster than zstd does, which counts where a read from Redis takes some ten
// microseconds.
func (c *codec) encode(k Key, value []byte, expires time.Time) []byte {
	b := make([]byte, headerLen, headerLen+len(value))
	copy(b, magic)
	b[len(magic)] = formatVersion
	binary.BigEndian.PutUint64(b[atExpiry:], uint64(expires.UnixMilli()))
	binary.BigEndian.PutUint32(b[atLength:], uint32(len(value))) //nolint:gosec // at most max
	copy(b[atDigest:], k.digest[:])
	if len(value) > compressAbove {
		if packed := s2.EncodeBetter(nil, value); len(packed) < len(value) {
			b = append(b, packed...)
			b[atFlags] = flagS2
		}
	}
	if len(b) == headerLen {
		b = append(b, value...)
	}
	c.sum(b, b[atSum:atSum])
	return b
}

// decode returns the value and when it expires. The value may share b's memory.
func (c *codec) decode(k Key, b []byte, now time.Time) ([]byte, time.Time, error) {
	if len(b) < len(magic)+1 || string(b[:len(magic)]) != magic {
		return nil, time.Time{}, errForeign
	}
	if b[len(magic)] != formatVersion {
		return nil, time.Time{}, errVersion
	}
	if len(b) < headerLen {
		return nil, time.Time{}, errDamaged
	}
	if [sha256.Size]byte(b[atDigest:atSum]) != k.digest {
		return nil, time.Time{}, errForeign
	}
	var sum [sha256.Size]byte
	if !hmac.Equal(c.sum(b, sum[:0]), b[atSum:headerLen]) {
		return nil, time.Time{}, errDamaged
	}
	expires := time.UnixMilli(int64(binary.BigEndian.Uint64(b[atExpiry:]))) //nolint:gosec // written the same way
	if !expires.After(now) {
		return nil, time.Time{}, errExpired
	}
	value, err := c.unpack(b)
	return value, expires, err
}

// unpack takes the value out of b, whose checksum was right.
func (c *codec) unpack(b []byte) ([]byte, error) {
	length := int(binary.BigEndian.Uint32(b[atLength:]))
	payload := b[headerLen:len(b):len(b)]
	if length > c.max {
		return nil, errDamaged
	}
	if b[atFlags]&flagS2 != 0 {
		if n, err := s2.DecodedLen(payload); err != nil || n != length { // before there is room for it
			return nil, errDamaged
		}
		var err error
		if payload, err = s2.Decode(make([]byte, length), payload); err != nil {
			return nil, errDamaged
		}
	}
	if len(payload) != length {
		return nil, errDamaged
	}
	return payload, nil
}

// sum appends the checksum of b to dst, which has to have the room for it.
func (c *codec) sum(b, dst []byte) []byte {
	if len(c.secret) == 0 {
		var h xxhash.Digest
		h.Reset()
		_, _ = h.Write(b[:atSum]) // a hash takes everything
		_, _ = h.Write(b[headerLen:])
		return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(dst, h.Sum64()), 0)
	}
	h := hmac.New(sha256.New, c.secret)
	_, _ = h.Write(b[:atSum])
	_, _ = h.Write(b[headerLen:])
	var full [sha256.Size]byte
	return append(dst, h.Sum(full[:0])[:sumLength]...)
}
