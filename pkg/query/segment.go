package query

import (
	"slices"
	"time"

	"auditdb/pkg/partitions"
)

// segment is a part of the range that one partition holds.
type segment struct {
	partitions.Bounds                       // clipped to the range
	part              *partitions.Partition // the default partition for what no other holds
	whole             bool                  // all of the partition lies in the range
}

// segments are the parts of the range that have rows, newest first. Rows of partitions that are going to be detached are not the table's any more.
func segments(c *partitions.Catalog, window partitions.Bounds) []segment {
	over := c.Overlaps(window)
	list := make([]segment, 0, len(over))
	for i := range over {
		p := &over[i]
		if p.State != partitions.Attached {
			continue
		}
		list = append(list, segment{clip(p.Bounds, window), p, window.Covers(p.Bounds)})
	}
	if rest := c.Default(); rest != nil {
		for _, gap := range c.Uncovered(window) {
			list = append(list, segment{gap, rest, false})
		}
	}
	slices.SortFunc(list, func(a, b segment) int {
		switch {
		case a.FromMin:
			return 1
		case b.FromMin:
			return -1
		}
		return b.From.Compare(a.From)
	})
	return list
}

func clip(b, to partitions.Bounds) partitions.Bounds {
	if !to.FromMin && (b.FromMin || to.From.After(b.From)) {
		b.From, b.FromMin = to.From, false
	}
	if !to.ToMax && (b.ToMax || to.To.Before(b.To)) {
		b.To, b.ToMax = to.To, false
	}
	return b
}

// chunks cuts the walk into pieces that are asked for together: one partition that may have rows first, then twice as many each time.
// Partitions of the future that are known to be empty, or were never counted, come along for nothing.
type chunks struct {
	left []segment
	size int
	now  time.Time // as a value of the key
	most int       // 0: no limit
}

func (c *chunks) next() []segment {
	c.size = max(1, 2*c.size)
	if c.most > 0 {
		c.size = min(c.size, c.most)
	}
	n := 0
	for weight := 0; n < len(c.left) && weight < c.size && (c.most == 0 || n < c.most); n++ {
		if s := c.left[n]; s.FromMin || !s.From.After(c.now) || s.part.RowsEstimate > 0 {
			weight++
		}
	}
	chunk := c.left[:n]
	c.left = c.left[n:]
	return chunk
}

// span is the range from the oldest to the newest of neighbours.
func span(list []segment) partitions.Bounds {
	first, last := list[0], list[len(list)-1]
	return partitions.Bounds{From: last.From, FromMin: last.FromMin, To: first.To, ToMax: first.ToMax}
}
