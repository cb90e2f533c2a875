package integrity

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/note"

	"auditdb/internal/fault"
)

// control is what the log itself says about who may extend it, and from where: its origin, its server and its keys.
type control struct {
	origin   string
	system   uint64
	timeline int64
	began    int64 // the record that says so of the timeline
	last     int64 // the newest record that changed any of it; -1: none
	keys     map[string]Key
	retired  map[string]int64 // keys that count no longer, by the record that says so
	losses   []loss
}

// loss is an accepted loss of records: external checkpoints of more than after and at most size records may be of a log that is gone.
type loss struct{ seq, after, size int64 }

func newControl() control {
	return control{last: -1, keys: map[string]Key{}, retired: map[string]int64{}}
}

func (c *control) clone() control {
	out := *c
	out.keys, out.retired, out.losses = maps.Clone(c.keys), maps.Clone(c.retired), slices.Clone(c.losses)
	return out
}

// apply takes in a record; those of other kinds change nothing.
func (c *control) apply(r Record) {
	switch b := r.Body.(type) {
	case *Genesis:
		if r.Seq == 0 {
			c.origin, c.system, c.timeline, c.began = b.Origin, b.System, b.Timeline, r.Seq
		}
	case *Key:
		c.keys[b.KeyID] = *b
		delete(c.retired, b.KeyID)
	case *Revoke:
		c.retire(b.KeyID, r.Seq)
	case *Recovery:
		c.recover(r.Seq, b)
	default:
		return
	}
	c.last = r.Seq
}

func (c *control) retire(id string, seq int64) {
	if _, ok := c.keys[id]; ok {
		delete(c.keys, id)
		c.retired[id] = seq
	}
}

func (c *control) recover(seq int64, b *Recovery) {
	if b.Timeline != c.timeline || b.System != c.system {
		c.began = seq
	}
	c.origin, c.system, c.timeline = b.Origin, b.System, b.Timeline
	switch b.Event {
	case EventLoss:
		c.losses = append(c.losses, loss{seq: seq, after: b.After, size: b.Size})
	case EventFork: // the keys of the log that it was copied from count no longer
		for id, k := range maps.Clone(c.keys) {
			if p, err := ParsePublic(k.Public); err != nil || p.Origin() != b.Origin {
				c.retire(id, seq)
			}
		}
	}
}

// lost tells whether a checkpoint that covers size records may be of records that are lost, and that was accepted.
func (c *control) lost(size int64) bool {
	return slices.ContainsFunc(c.losses, func(l loss) bool { return size > l.after && size <= l.size })
}

// verify checks that a note is signed by one of the keys and carries its origin.
func (c *control) verify(signed string) (Checkpoint, error) {
	err := error(&note.UnverifiedNoteError{})
	for _, id := range slices.Sorted(maps.Keys(c.keys)) {
		p, parseErr := ParsePublic(c.keys[id].Public)
		if parseErr != nil {
			continue
		}
		cp, _, verr := p.Verify(signed)
		if verr == nil {
			return cp, nil
		}
		err = verr
	}
	return Checkpoint{}, err
}

// readControl reads the log's control records, authenticated.
func (l *Log) readControl(ctx context.Context, tx pgx.Tx) (control, error) {
	c := newControl()
	list, err := readControlRecords(ctx, tx)
	if err != nil {
		return c, err
	}
	for i, rec := range list {
		r, err := Parse([]byte(rec.text))
		if err != nil || r.Seq != rec.seq {
			return c, brokenLog("record %d cannot be read", rec.seq)
		}
		k := l.keys.find(rec.keyID)
		if k == nil && i == 0 {
			return c, wrongKey(rec.keyID, l.keys.id)
		}
		if k == nil {
			return c, fault.New(fault.Config, "use the key file that integrity rotate wrote: it has the older keys too", "the key file lacks key %s, which record %d of the integrity log was made with", rec.keyID, rec.seq)
		}
		if !k.CheckMAC([]byte(rec.text), rec.mac) {
			return c, brokenLog("the MAC of record %d does not fit", rec.seq)
		}
		c.apply(r)
	}
	return c, nil
}

// identity names the server under a database.
type identity struct {
	system   uint64
	timeline int64
}

// mayExtend tells whether the key at hand and the server, which may be anyServer, may append to the log.
func (c *control) mayExtend(k *Keys, server identity, anyServer bool) error {
	if c.last < 0 || c.origin == "" {
		return brokenLog("its first records are missing")
	}
	if _, ok := c.keys[k.id]; !ok {
		if at, ok := c.retired[k.id]; ok {
			return fault.New(fault.Config, "use the key file that integrity rotate wrote", "key %s may not be used any more: record %d of the integrity log ended it", k.id, at)
		}
		return wrongKey(strings.Join(slices.Sorted(maps.Keys(c.keys)), ", "), k.id)
	}
	if c.origin != k.origin {
		return fault.New(fault.Config, "set integrity.origin to the log's own name", "the integrity log's origin is %q, the configured one %q", c.origin, k.origin)
	}
	if !anyServer && c.system != server.system {
		return fault.New(fault.Refused, "auditdb integrity fork gives a copy an origin of its own; fork --moved goes on under the old one where this server has replaced the other",
			"the integrity log %s belongs to server %d, this is server %d: a copy must not extend it", c.origin, c.system, server.system)
	}
	return nil
}
