package archive

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go/bloom"
	"github.com/parquet-go/parquet-go/encoding/rle"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

const (
	leastPageBytes = 8 << 10   // a page has whole stripes until it has so much
	maxPageBytes   = 128 << 10 // a page that has so much ends within a stripe
	leastDictBytes = 2 << 10   // of the places in a dictionary that a page has
	bloomBits      = 16        // a value: 1 in 1,000 is falsely said to be there
)

// columnEncoder makes the pages of a column of a row group.
type columnEncoder struct {
	c    Column
	kind format.Type
	zip  *zstd.Encoder

	levels []uint8 // of the page, or with a dictionary of the row group: 0 is NULL
	nulls  int64   // of the row group
	data   []byte  // of the page: PLAIN values
	bounds bounds  // of the page
	all    bounds  // of the row group

	places  []int32 // with a dictionary: of the row group
	seen    map[string]int32
	words   []string // of places
	last    string   // the newest of them that was seen
	entries []byte   // PLAIN
	hashes  []uint64

	chunk    []byte // pages of the row group
	plain    int64  // bytes of them, not compressed
	rows     int64  // that are in pages
	pages    format.OffsetIndex
	index    format.ColumnIndex
	scratch  []byte
	dictSize int // bytes of the dictionary's page
}

// bounds are the smallest and the largest value of integers.
type bounds struct {
	min, max int64
	some     bool
}

func (b *bounds) add(v int64) {
	if !b.some {
		*b = bounds{v, v, true}
		return
	}
	b.min, b.max = min(b.min, v), max(b.max, v)
}

func newColumnEncoder(c Column, zip *zstd.Encoder) *columnEncoder {
	x := &columnEncoder{c: c, zip: zip, kind: format.Type(c.node().Type().Kind())}
	if c.repeats() {
		x.seen = map[string]int32{}
	}
	return x
}

// indexed says that pages have bounds.
func (x *columnEncoder) indexed() bool {
	return x.c.bounded() && (x.kind == format.Int32 || x.kind == format.Int64)
}

func (x *columnEncoder) null() {
	x.levels = append(x.levels, 0)
	x.nulls++
}

// add takes a field of COPY BINARY.
func (x *columnEncoder) add(field []byte) error {
	if n := sizeOf(x.c.Encoding); n > 0 && n != len(field) {
		return fmt.Errorf("%w: %d bytes of %s in column %s", errValue, len(field), x.c.Type, x.c.Name)
	}
	x.levels = append(x.levels, 1)
	switch x.c.Encoding {
	case asInt16:
		x.int32(int32(int16(binary.BigEndian.Uint16(field)))) //nolint:gosec // two's complement
	case asInt32:
		x.int32(int32(binary.BigEndian.Uint32(field))) //nolint:gosec // two's complement
	case asDate:
		x.int32(int32(binary.BigEndian.Uint32(field) + epochDays)) //nolint:gosec // wraps around
	case asInt64:
		x.int64(int64(binary.BigEndian.Uint64(field))) //nolint:gosec // two's complement
	case asInstant, asTimestamp:
		x.int64(int64(binary.BigEndian.Uint64(field) + epochMicros)) //nolint:gosec // wraps around
	case asFloat:
		x.data = binary.LittleEndian.AppendUint32(x.data, binary.BigEndian.Uint32(field))
	case asDouble:
		x.data = binary.LittleEndian.AppendUint64(x.data, binary.BigEndian.Uint64(field))
	case asBool:
		x.data = append(x.data, field[0])
	case asJSONB:
		if len(field) == 0 || field[0] != jsonbVersion {
			return fmt.Errorf("%w: jsonb of another version in column %s", errValue, x.c.Name)
		}
		x.bytes(field[1:])
	default:
		x.bytes(field)
	}
	if len(x.data) >= maxPageBytes {
		return x.endPage()
	}
	return nil
}

func (x *columnEncoder) int32(v int32) {
	x.bounds.add(int64(v))
	x.data = binary.LittleEndian.AppendUint32(x.data, uint32(v)) //nolint:gosec // two's complement
}

func (x *columnEncoder) int64(v int64) {
	x.bounds.add(v)
	x.data = binary.LittleEndian.AppendUint64(x.data, uint64(v)) //nolint:gosec // two's complement
}

func (x *columnEncoder) bytes(v []byte) {
	if x.seen == nil {
		x.data = append(binary.LittleEndian.AppendUint32(x.data, uint32(len(v))), v...) //nolint:gosec // at most 1 GB
		if x.c.searchable() {
			x.hashes = append(x.hashes, bloom.XXH64{}.Sum64(v))
		}
		return
	}
	if len(x.places) > 0 && string(v) == x.last { // as most are
		x.places = append(x.places, x.places[len(x.places)-1])
		return
	}
	place, there := x.seen[string(v)]
	if !there {
		place = int32(len(x.seen)) //nolint:gosec // at most the rows of a row group
		word := string(v)
		x.seen[word], x.words = place, append(x.words, word)
		x.entries = append(binary.LittleEndian.AppendUint32(x.entries, uint32(len(v))), v...) //nolint:gosec // at most 1 GB
		if x.c.searchable() {
			x.hashes = append(x.hashes, bloom.XXH64{}.Sum64(v))
		}
	}
	x.places, x.last = append(x.places, place), x.words[place]
}

// endStripe ends the page if it is large enough.
func (x *columnEncoder) endStripe() error {
	if len(x.data) < leastPageBytes {
		return nil
	}
	return x.endPage()
}

// endPage makes a page of what has come together since the last one.
func (x *columnEncoder) endPage() error {
	data := x.data
	if x.c.Encoding == asBool {
		data = packBits(data)
	}
	err := x.page(x.levels, data, format.Plain, x.bounds)
	x.levels, x.data, x.bounds = x.levels[:0], x.data[:0], bounds{}
	return err
}

// packBits is PLAIN for booleans.
func packBits(values []byte) []byte {
	out := make([]byte, (len(values)+7)/8)
	for i, v := range values {
		if v != 0 {
			out[i/8] |= 1 << (i % 8)
		}
	}
	return out
}

// page adds a data page.
func (x *columnEncoder) page(levels []uint8, data []byte, encoding format.Encoding, b bounds) error {
	body := append(x.scratch[:0], 0, 0, 0, 0)
	body = appendLevels(body, levels)
	binary.LittleEndian.PutUint32(body, uint32(len(body)-4)) //nolint:gosec // a page is small
	body = append(body, data...)
	x.scratch = body
	at := len(x.chunk)
	err := x.compressed(body, format.PageHeader{Type: format.DataPage, DataPageHeader: thrift.New(format.DataPageHeader{
		NumValues: int32(len(levels)), Encoding: encoding, DefinitionLevelEncoding: format.RLE, RepetitionLevelEncoding: format.RLE, //nolint:gosec // a row group has less than 2^31 rows
	})})
	if err != nil {
		return err
	}
	x.pages.PageLocations = append(x.pages.PageLocations, format.PageLocation{Offset: int64(at), CompressedPageSize: int32(len(x.chunk) - at), FirstRowIndex: x.rows}) //nolint:gosec // a page is small
	x.rows += int64(len(levels))
	nulls := int64(0)
	for _, l := range levels {
		nulls += int64(1 - l)
	}
	x.index.NullPages = append(x.index.NullPages, nulls == int64(len(levels)))
	x.index.NullCounts = append(x.index.NullCounts, nulls)
	least, most := x.encoded(b)
	x.index.MinValues, x.index.MaxValues = append(x.index.MinValues, least), append(x.index.MaxValues, most)
	if b.some {
		x.all.add(b.min)
		x.all.add(b.max)
	}
	return nil
}

// encoded are bounds as they stand in indexes.
func (x *columnEncoder) encoded(b bounds) (least, most []byte) {
	switch {
	case !b.some:
		return []byte{}, []byte{}
	case x.kind == format.Int32:
		return binary.LittleEndian.AppendUint32(nil, uint32(b.min)), binary.LittleEndian.AppendUint32(nil, uint32(b.max)) //nolint:gosec // they came from there
	}
	return binary.LittleEndian.AppendUint64(nil, uint64(b.min)), binary.LittleEndian.AppendUint64(nil, uint64(b.max)) //nolint:gosec // two's complement
}

// appendLevels writes definition levels: one run where all are the same.
func appendLevels(dst []byte, levels []uint8) []byte {
	first := levels[0]
	if !slices.ContainsFunc(levels, func(l uint8) bool { return l != first }) {
		return append(binary.AppendUvarint(dst, uint64(len(levels))<<1), first)
	}
	encoded, err := (&rle.Encoding{BitWidth: 1}).EncodeLevels(nil, levels)
	if err != nil { // it takes all levels of one bit
		panic(err)
	}
	return append(dst, encoded...)
}

// compressed adds a page of any kind.
func (x *columnEncoder) compressed(body []byte, h format.PageHeader) error {
	packed := x.zip.EncodeAll(body, nil)
	h.UncompressedPageSize, h.CompressedPageSize = int32(len(body)), int32(len(packed)) //nolint:gosec // a value has at most 1 GB
	h.CRC = int32(crc32.ChecksumIEEE(packed))                                           //nolint:gosec // its bits
	header, err := thrift.Marshal(&thrift.CompactProtocol{}, &h)
	if err != nil {
		return err
	}
	x.chunk = append(append(x.chunk, header...), packed...)
	x.plain += int64(len(header) + len(body))
	return nil
}

// dictionary makes the pages of a column with a dictionary, of which the size is known only now.
func (x *columnEncoder) dictionary() error {
	if len(x.seen) > 0 {
		err := x.compressed(x.entries, format.PageHeader{Type: format.DictionaryPage, DictionaryPageHeader: thrift.New(format.DictionaryPageHeader{
			NumValues: int32(len(x.seen)), Encoding: format.Plain, //nolint:gosec // at most the rows of a row group
		})})
		if err != nil {
			return err
		}
		x.dictSize = len(x.chunk)
	}
	encoding := format.RLEDictionary
	if len(x.seen) == 0 { // nothing but NULL
		encoding = format.Plain
	}
	width := bits.Len(uint(max(len(x.seen)-1, 0)))
	rows := len(x.levels)
	if width > 0 {
		rows = max((leastDictBytes*8/width+stripeRows-1)/stripeRows, 1) * stripeRows
	}
	places := x.places
	for levels := range slices.Chunk(x.levels, rows) {
		n := 0
		for _, l := range levels {
			n += int(l)
		}
		data, err := appendPlaces(nil, places[:n], width)
		if err != nil {
			return err
		}
		if err := x.page(levels, data, encoding, bounds{}); err != nil {
			return err
		}
		places = places[n:]
	}
	return nil
}

// appendPlaces writes places in a dictionary, with the bits that each takes before them.
func appendPlaces(dst []byte, places []int32, width int) ([]byte, error) {
	switch {
	case len(places) == 0:
		return dst, nil
	case width == 0: // one run
		return binary.AppendUvarint(append(dst, 0), uint64(len(places))<<1), nil
	}
	encoded, err := (&rle.Encoding{BitWidth: width}).EncodeInt32(nil, places)
	return append(append(dst, byte(width)), encoded...), err //nolint:gosec // at most 31
}

// end makes the last pages of the row group. at is where its first one will be in the file.
func (x *columnEncoder) end(at int64) (chunk format.ColumnChunk, index chunkIndex, err error) {
	encoding := format.Plain
	if x.seen != nil {
		if len(x.seen) > 0 {
			encoding = format.RLEDictionary
		}
		err = x.dictionary()
	} else if len(x.levels) > 0 {
		err = x.endPage()
	}
	if err != nil {
		return chunk, index, err
	}
	m := &chunk.MetaData
	*m = format.ColumnMetaData{
		Type: x.kind, Encoding: []format.Encoding{format.Plain, format.RLE}, PathInSchema: []string{x.c.Name}, Codec: format.Zstd, NumValues: x.rows,
		TotalUncompressedSize: x.plain, TotalCompressedSize: int64(len(x.chunk)), DataPageOffset: at + int64(x.dictSize),
		Statistics:    format.Statistics{NullCount: x.nulls},
		EncodingStats: []format.PageEncodingStats{{PageType: format.DataPage, Encoding: encoding, Count: int32(len(x.pages.PageLocations))}}, //nolint:gosec // at most one a row
	}
	if x.dictSize > 0 {
		m.Encoding, m.DictionaryPageOffset = append(m.Encoding, format.RLEDictionary), at
		m.EncodingStats = append(m.EncodingStats, format.PageEncodingStats{PageType: format.DictionaryPage, Encoding: format.Plain, Count: 1})
	}
	for i := range x.pages.PageLocations {
		x.pages.PageLocations[i].Offset += at
	}
	if index.offsets, err = thrift.Marshal(&thrift.CompactProtocol{}, &x.pages); err != nil || !x.indexed() {
		return chunk, index, err
	}
	if x.all.some {
		m.Statistics.MinValue, m.Statistics.MaxValue = x.encoded(x.all)
	}
	index.bounds, err = thrift.Marshal(&thrift.CompactProtocol{}, &x.index)
	return chunk, index, err
}

// bloom is the filter with its header; nothing: the column has none.
func (x *columnEncoder) bloom() ([]byte, error) {
	if !x.c.searchable() || len(x.hashes) == 0 {
		return nil, nil
	}
	slices.Sort(x.hashes)
	distinct := slices.Compact(x.hashes)
	filter := make(bloom.SplitBlockFilter, bloom.NumSplitBlocksOf(int64(len(distinct)), bloomBits))
	filter.InsertBulk(distinct)
	header, err := thrift.Marshal(&thrift.CompactProtocol{}, &format.BloomFilterHeader{
		NumBytes: int32(len(filter.Bytes())), Algorithm: format.BloomFilterAlgorithm{Value: &format.SplitBlockAlgorithm{}}, //nolint:gosec // at most 2 bytes a row
		Hash: format.BloomFilterHash{Value: &format.XxHash{}}, Compression: format.BloomFilterCompression{Value: &format.BloomFilterUncompressed{}},
	})
	return append(header, filter.Bytes()...), err
}

// reset begins a row group.
func (x *columnEncoder) reset() {
	x.levels, x.data, x.places, x.entries, x.hashes, x.chunk = x.levels[:0], x.data[:0], x.places[:0], x.entries[:0], x.hashes[:0], x.chunk[:0]
	x.nulls, x.plain, x.rows, x.dictSize, x.bounds, x.all = 0, 0, 0, 0, bounds{}, bounds{}
	x.pages, x.index = format.OffsetIndex{}, format.ColumnIndex{}
	clear(x.seen)
	x.words = x.words[:0]
}
