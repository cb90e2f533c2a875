package ingest

import (
	"context"
	"encoding/binary"
	"encoding/json"

	"auditdb/pkg/audit"
)

// sampleSize is how many events a dry run shows.
const sampleSize = 5

// rehearse is commit for a dry run: it looks for duplicates and counts, and writes nothing.
func (c *committer) rehearse(ctx context.Context, b *batch) error {
	if err := c.connect(ctx); err != nil {
		return err
	}
	if err := c.dropKnown(ctx, b); err != nil {
		return b.failed(c.blocked(ctx, b, err))
	}
	rejects := b.rejects()
	if err := c.run.reserve(rejects); err != nil {
		return err
	}
	if c.run.opts.OnEvent != nil {
		c.run.show(b)
	}
	c.run.done(b, b.counts(rejects), nil, rejects)
	return nil
}

// show hands over the run's first events as they would be stored.
func (r *run) show(b *batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := audit.AuditLog().Names()
	for _, i := range b.order {
		if r.shown == sampleSize {
			return
		}
		r.shown++
		r.opts.OnEvent(columnValues(names, b.arena[b.rows[i].start:b.rows[i].end]))
	}
}

// columnValues reads a tuple: what the ingester fills in itself is left out.
func columnValues(names []string, tuple []byte) map[string]any {
	values := make(map[string]any, len(names))
	pos := 2
	for c := range columnCount {
		size := int(int32(binary.BigEndian.Uint32(tuple[pos:]))) //nolint:gosec // -1 is NULL
		pos += 4
		if size < 0 {
			if !c.isOurs() {
				values[names[c]] = nil
			}
			continue
		}
		field := tuple[pos : pos+size]
		pos += size
		switch {
		case c.isOurs():
		case c == colTimestamp:
			values[names[c]] = audit.MicrosTime(int64(binary.BigEndian.Uint64(field))).Format("2006-01-02T15:04:05.000000Z") //nolint:gosec // two's complement
		case c == colLatency:
			values[names[c]] = int32(binary.BigEndian.Uint32(field)) //nolint:gosec // two's complement
		case c == colDetails:
			values[names[c]] = json.RawMessage(append([]byte(nil), field[1:]...))
		default:
			values[names[c]] = string(field)
		}
	}
	return values
}
