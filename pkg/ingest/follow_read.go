package ingest

// freshTail is fresh for a file that grows. A record is complete before it takes room among those that wait, and those wait in memory of
// their own: while nothing comes, no chunk is held that other files need.
func (rd *reading) freshTail(last int64) error {
	for rd.record <= last {
		var rec found
		var err error
		if rd.scratch, rec, err = rd.split.next(rd.scratch[:0]); err != nil {
			return err
		}
		rd.append(rec)
		if len(rd.pending.records) >= rd.run.opts.BatchRows || len(rd.pending.raw) >= minBatchBytes {
			err = rd.flush()
		} else {
			err = rd.flushOld()
		}
		if err != nil {
			return err
		}
	}
	return rd.flush()
}

// append puts the record in scratch to those that wait.
func (rd *reading) append(rec found) {
	c := &rd.pending
	if len(c.records) == 0 {
		c.src, c.first = rd.src, rd.record
		rd.since = rd.run.opts.Now()
	}
	c.raw = append(c.raw, rd.scratch...)
	if rec.oversize != nil {
		c.raw = append(c.raw, rec.oversize.standIn()...)
	}
	c.records = append(c.records, placed{end: len(c.raw), offset: rec.offset, over: rec.oversize})
	c.raw = append(c.raw, '\n')
	c.open = rec.open
	rd.watch.observe(c, len(c.records)-1, c.record(len(c.records)-1))
	if rd.record == 1 {
		rd.src.head = newHead(rd.tail.head[:min(int64(len(rd.tail.head)), rd.win.offset)])
	}
	rd.record++
}

// flush sends the records that wait.
func (rd *reading) flush() error {
	p := &rd.pending
	if len(p.records) == 0 {
		return nil
	}
	c, err := rd.run.chunk(rd.tail.pipe)
	if err != nil {
		return err
	}
	c.reset(rd.src, p.first)
	c.raw, c.records, c.open = append(c.raw, p.raw...), append(c.records, p.records...), p.open
	c.notes, p.notes = p.notes, c.notes
	rd.watch.forget(p)
	p.clear()
	if cap(p.raw) > 2*minBatchBytes {
		p.raw = nil
	}
	rd.note()
	return rd.run.send(rd.tail.pipe, c)
}

// flushOld sends the records that wait once the first of them has waited long enough.
func (rd *reading) flushOld() error {
	if len(rd.pending.records) == 0 || rd.run.opts.Now().Sub(rd.since) < rd.tail.f.o.Flush {
		return nil
	}
	return rd.flush()
}
