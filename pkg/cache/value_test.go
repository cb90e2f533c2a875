package cache

import (
	"bytes"
	"testing"
	"time"
)

func anyKey() Key {
	c := &Cache{}
	return (&Namespace{c: c, name: "rows"}).Key("1/2/3", "k")
}

// Whatever stands in Redis under a key: it is refused, or it is what was stored there.
func FuzzDecode(f *testing.F) {
	now := time.Unix(1_700_000_000, 0)
	k := anyKey()
	value := bytes.Repeat([]byte("audit "), 300)
	c := &codec{nil, 1 << 16}
	for _, v := range [][]byte{nil, []byte("short"), value} {
		raw := c.encode(k, v, now.Add(time.Hour))
		f.Add(raw, true)
		f.Add(raw, false)
		f.Add(raw[:len(raw)-1], true)
	}
	f.Add([]byte(magic), true)
	f.Fuzz(func(t *testing.T, raw []byte, sign bool) {
		raw = bytes.Clone(raw)
		if sign && len(raw) >= headerLen { // gets past the checksum, as who knows the format does
			copy(raw, magic)
			raw[len(magic)] = formatVersion
			copy(raw[atDigest:], k.digest[:])
			c.sum(raw, raw[atSum:atSum])
		}
		got, expires, err := c.decode(k, raw, now)
		if err != nil {
			if got != nil {
				t.Errorf("%v, and a value of %d bytes", err, len(got))
			}
			return
		}
		if !sign && !bytes.Equal(got, value) && len(got) > 0 && string(got) != "short" {
			t.Errorf("returned %.40q", got)
		}
		if !expires.After(now) || len(got) > c.max {
			t.Errorf("%d bytes until %s", len(got), expires)
		}
		again := c.encode(k, got, expires)
		if v, at, err := c.decode(k, again, now); err != nil || !bytes.Equal(v, got) || !at.Equal(expires) {
			t.Errorf("not the same after another turn: %v", err)
		}
	})
}

func TestDecodeRefusesBombs(t *testing.T) {
	t.Parallel()
	now := time.Now()
	k := anyKey()
	big, small := &codec{nil, 64 << 20}, &codec{nil, 1 << 20}
	raw := big.encode(k, make([]byte, 32<<20), now.Add(time.Hour))
	if _, _, err := small.decode(k, raw, now); err == nil {
		t.Error("32 MiB came out of a cache for values of 1 MiB")
	}
	raw[atLength], raw[atLength+1], raw[atLength+2], raw[atLength+3] = 0, 0, 1, 0 // and lies about its length
	small.sum(raw, raw[atSum:atSum])
	if _, _, err := small.decode(k, raw, now); err == nil {
		t.Error("a value longer than it says was taken")
	}
}

func TestHistogram(t *testing.T) {
	t.Parallel()
	for d := time.Microsecond; d < 20*time.Second; d = d*11/10 + 1 {
		top := bucketTop(bucketOf(d))
		if top < d.Truncate(time.Microsecond) || float64(top) > 1.26*float64(d)+2000 {
			t.Fatalf("%s is in the bucket up to %s", d, top)
		}
	}
	counts := make([]int64, bucketCount)
	if _, ok := percentile(counts, 0.5); ok {
		t.Error("a percentile of nothing")
	}
	counts[bucketOf(time.Millisecond)], counts[bucketOf(time.Second)] = 98, 2
	for share, want := range map[float64]time.Duration{0.5: time.Millisecond, 0.97: time.Millisecond, 0.99: time.Second, 1: time.Minute} {
		if got, _ := percentile(counts, share); got < want && share < 1 || share < 1 && float64(got) > 1.3*float64(want) {
			t.Errorf("%.0f %%: %s, want about %s", 100*share, got, want)
		}
	}
}
