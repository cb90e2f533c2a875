package ingest

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"auditdb/internal/fault"
)

const (
	readSize      = 256 << 10
	maxZstdWindow = 64 << 20 // what `zstd --ultra -22` needs is 128 MB: refused, memory is bounded
	zstdMagic     = "\x28\xb5\x2f\xfd"
)

// input is one source's content, decompressed, with the digest of the bytes as they are stored.
type input struct {
	stored *digester
	buffer *bufio.Reader // of stored
	r      io.Reader
	close  func()
	name   string // of the compression, for messages
}

// digester counts and hashes what is read through it.
type digester struct {
	r    io.Reader
	hash hash.Hash
	n    int64
}

func (d *digester) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	d.hash.Write(p[:n])
	d.n += int64(n)
	return n, err
}

// openInput looks at the first bytes and undoes gzip (any number of members) or zstd.
func openInput(r io.Reader) (*input, error) {
	d := &digester{r: r, hash: sha256.New()}
	br := bufio.NewReaderSize(d, readSize)
	in := &input{stored: d, buffer: br, r: br, close: func() {}}
	magic, err := br.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case len(magic) >= 2 && magic[0] == 0x1f && magic[1] == 0x8b:
		in.name = "gzip"
		z, err := gzip.NewReader(br)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // it is so inside of the header
		}
		if err != nil {
			return nil, in.readError(err)
		}
		in.r = z
	case len(magic) == 4 && string(magic) == zstdMagic:
		in.name = "zstd"
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, in.readError(err)
		}
		in.r, in.close = z, z.Close
	case len(magic) > 1 && strings.HasPrefix(zstdMagic, string(magic)):
		in.name = "zstd"
		return nil, in.readError(io.ErrUnexpectedEOF)
	}
	return in, nil
}

// readError says what a failed read of the content means.
func (in *input) readError(err error) error {
	switch {
	case in.name == "":
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fault.New(fault.Data, "get a complete copy of the file and run again: only what is missing is added", "truncated %s", in.name)
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return fault.New(fault.Data, "compress it with a smaller window", "zstd window is larger than %d MiB", maxZstdWindow>>20)
	}
	return fault.New(fault.Data, "", "corrupt %s: %w", in.name, err)
}

// sum reads what is left of the stored bytes and returns their digest and number.
func (in *input) sum() ([]byte, int64, error) {
	if _, err := io.Copy(io.Discard, in.stored); err != nil {
		return nil, 0, fmt.Errorf("read to the end: %w", err)
	}
	return in.stored.hash.Sum(nil), in.stored.n, nil
}

// window is a buffered view of the content with the offset of its first byte.
type window struct {
	in     *input
	buf    []byte
	r, w   int
	offset int64 // of buf[r] in the decompressed content
	eof    bool
	err    error // other than the end

	more func() bool // of what grows: whether there is more to read at once; nil: reading ends with the content
}

func newWindow(in *input) *window { return &window{in: in, buf: make([]byte, readSize)} }

// fill reads more; false at the end of the content and on an error (see err).
func (s *window) fill() bool {
	if s.eof || s.err != nil {
		return false
	}
	if s.r > 0 {
		copy(s.buf, s.buf[s.r:s.w])
		s.w -= s.r
		s.r = 0
	}
	if s.w == len(s.buf) {
		return false
	}
	for range 100 {
		n, err := s.in.r.Read(s.buf[s.w:])
		s.w += n
		switch {
		case errors.Is(err, io.EOF):
			s.eof = true
			return n > 0
		case err != nil:
			s.err = s.in.readError(err)
			return n > 0
		case n > 0:
			return true
		}
	}
	s.err = io.ErrNoProgress
	return false
}

// bytes returns what is buffered.
func (s *window) bytes() []byte { return s.buf[s.r:s.w] }

// skip moves on by n buffered bytes.
func (s *window) skip(n int) {
	s.r += n
	s.offset += int64(n)
}

// peek returns the next byte that is not white space, without taking it; false at the end.
func (s *window) peek() (byte, bool) {
	for {
		b := s.bytes()
		for i, ch := range b {
			switch ch {
			case ' ', '\t', '\n', '\r':
				continue
			}
			s.skip(i)
			return ch, true
		}
		s.skip(len(b))
		if !s.fill() {
			return 0, false
		}
	}
}

// ahead returns at least n buffered bytes, fewer only at the end, and of what grows where there are no more yet. n must be below the buffer's size.
func (s *window) ahead(n int) []byte {
	for s.w-s.r < n && (s.more == nil || s.w == s.r || s.more()) && s.fill() {
		continue
	}
	return s.bytes()
}
