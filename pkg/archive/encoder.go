package archive

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

// encoder writes Parquet in the one form that archives have: flat, optional columns; v1 pages, PLAIN or, where values repeat, RLE_DICTIONARY; zstd. It takes
// fields as COPY BINARY has them, so that no value is ever an object of its own. The same rows always give the same bytes.
type encoder struct {
	out     io.Writer
	at      int64
	cols    []*columnEncoder
	meta    format.FileMetaData
	indexes []chunkIndex // one a column of a row group
	rows    int64        // of the row group
}

// chunkIndex are the indexes of a column of a row group, which stand before the footer.
type chunkIndex struct{ bounds, offsets []byte }

// newEncoder begins a file.
func newEncoder(out io.Writer, cols []Column) (*encoder, error) {
	e := &encoder{out: out}
	var err error
	if e.meta, err = emptyFile(cols); err != nil {
		return nil, err
	}
	fast, err := newCompressor(zstd.SpeedFastest)
	if err != nil {
		return nil, err
	}
	// Documents are no smaller for more effort, short values are.
	thorough, err := newCompressor(zstd.SpeedDefault)
	if err != nil {
		return nil, err
	}
	for _, c := range cols {
		z := thorough
		if c.Encoding == asJSON || c.Encoding == asJSONB {
			z = fast
		}
		e.cols = append(e.cols, newColumnEncoder(c, z))
	}
	return e, e.write(magic)
}

func newCompressor(level zstd.EncoderLevel) (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(maxPageBytes), zstd.WithLowerEncoderMem(true))
}

// emptyFile is what the footer of a file says without rows: the schema, with the columns in their order.
func emptyFile(cols []Column) (format.FileMetaData, error) {
	schema, err := schemaOf(cols)
	if err != nil {
		return format.FileMetaData{}, err
	}
	var text bytes.Buffer
	if err := parquet.NewGenericWriter[any](&text, schema).Close(); err != nil {
		return format.FileMetaData{}, err
	}
	f, err := parquet.OpenFile(bytes.NewReader(text.Bytes()), int64(text.Len()))
	if err != nil {
		return format.FileMetaData{}, err
	}
	m := *f.Metadata()
	m.CreatedBy, m.RowGroups, m.KeyValueMetadata = "auditdb version 1 (build archive)", nil, nil
	byName := map[string]format.SchemaElement{}
	for _, s := range m.Schema[1:] {
		byName[s.Name] = s
	}
	for i, c := range cols {
		m.Schema[1+i] = byName[c.Name]
	}
	return m, nil
}

func (e *encoder) write(b []byte) error {
	n, err := e.out.Write(b)
	e.at += int64(n)
	return err
}

// row takes a row: the fields of all columns with their lengths.
func (e *encoder) row(row []byte) error {
	for _, c := range e.cols {
		field, rest, err := cutField(row)
		if err != nil {
			return err
		}
		if row = rest; field == nil {
			c.null()
			continue
		}
		if err := c.add(field); err != nil {
			return err
		}
	}
	if len(row) != 0 {
		return fmt.Errorf("%w: %d bytes after the last column", errValue, len(row))
	}
	if e.rows++; e.rows%stripeRows == 0 {
		for _, c := range e.cols {
			if err := c.endStripe(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush ends the row group.
func (e *encoder) flush() error {
	if e.rows == 0 {
		return nil
	}
	g := format.RowGroup{NumRows: e.rows, FileOffset: e.at, Ordinal: int16(min(len(e.meta.RowGroups), 1<<15-1))}
	for _, c := range e.cols {
		chunk, index, err := c.end(e.at)
		if err != nil {
			return err
		}
		g.TotalByteSize += chunk.MetaData.TotalUncompressedSize
		g.TotalCompressedSize += chunk.MetaData.TotalCompressedSize
		g.Columns = append(g.Columns, chunk)
		e.indexes = append(e.indexes, index)
		if err := e.write(c.chunk); err != nil {
			return err
		}
	}
	for i, c := range e.cols {
		filter, err := c.bloom()
		if err != nil {
			return err
		}
		if len(filter) > 0 {
			g.Columns[i].MetaData.BloomFilterOffset, g.Columns[i].MetaData.BloomFilterLength = e.at, int32(len(filter)) //nolint:gosec // at most 2 bytes a row
		}
		if err := e.write(filter); err != nil {
			return err
		}
		c.reset()
	}
	e.meta.RowGroups = append(e.meta.RowGroups, g)
	e.meta.NumRows, e.rows = e.meta.NumRows+e.rows, 0
	return nil
}

// close ends the file.
func (e *encoder) close() error {
	if err := e.flush(); err != nil {
		return err
	}
	chunk := func(i int) *format.ColumnChunk { return &e.meta.RowGroups[i/len(e.cols)].Columns[i%len(e.cols)] }
	for i, x := range e.indexes {
		if len(x.bounds) > 0 {
			chunk(i).ColumnIndexOffset, chunk(i).ColumnIndexLength = e.at, int32(len(x.bounds)) //nolint:gosec // some bytes a page
		}
		if err := e.write(x.bounds); err != nil {
			return err
		}
	}
	for i, x := range e.indexes {
		chunk(i).OffsetIndexOffset, chunk(i).OffsetIndexLength = e.at, int32(len(x.offsets)) //nolint:gosec // some bytes a page
		if err := e.write(x.offsets); err != nil {
			return err
		}
	}
	footer, err := thrift.Marshal(&thrift.CompactProtocol{}, &e.meta)
	if err != nil {
		return err
	}
	footer = binary.LittleEndian.AppendUint32(footer, uint32(len(footer))) //nolint:gosec // some bytes a column of a row group
	return e.write(append(footer, magic...))
}

// cutField takes a field off the beginning of a row; nil is NULL.
func cutField(row []byte) (field, rest []byte, err error) {
	if len(row) < 4 {
		return nil, nil, fmt.Errorf("%w: a row ends early", errValue)
	}
	size := int(int32(binary.BigEndian.Uint32(row))) //nolint:gosec // -1 is NULL
	row = row[4:]
	if size == -1 {
		return nil, row, nil
	}
	if size < 0 || size > len(row) {
		return nil, nil, fmt.Errorf("%w: a field of %d bytes", errValue, size)
	}
	return row[:size:size], row[size:], nil
}
