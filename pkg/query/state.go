package query

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"auditdb/pkg/partitions"
)

// A fragment is what one partition contributes to an answer. It may be answered from a cache when nothing that was committed before the
// question can be missing from it. Three things together show that:
//
//   - Whatever auditdb does to rows is a record of the integrity log in the same transaction. The generation of a partition is the last record
//     that touches it, and the last one that erased rows anywhere in the table; it is part of the key, and read in the snapshot that the rows
//     were read in.
//   - Rows of other writers get their ids from the identity sequence of the table, which only goes up, before they can be committed. A fragment
//     carries the sequence's last value from before its snapshot, and is kept only if no other transaction that could still commit a smaller id
//     held its lock on the table in between. If the sequence stands where it stood, there are no new rows.
//   - Rows are changed and deleted by auditdb alone: guards refuse it to others. A partition without its guard is not answered from a cache.
//
// What catalogs say about the partition is part of the key as well: a partition that was detached, rewritten or altered in between is another.

// server is what identifies the server and the reader.
type server struct {
	system   string // system identifier; "": may not be read
	database uint32
	era      string // since when the server has not lost anything: its start, and the start of its statistics, which a crash throws away
	role     uint32
	secured  bool // row security is in force for the reader: what he sees may depend on anything
	allowed  bool // the reader may read all columns
	standby  bool // what other writers do cannot be seen there
	sequence uint32
	last     int64 // that the sequence has given out
	readable bool  // the reader may look at the sequence

	redaction int64 // the newest record that erased rows of the table, which names no partitions; -1: none
}

// partitionState is what the catalog and the log say about a partition.
type partitionState struct {
	there      bool // attached to the table
	version    string
	bounds     string
	guarded    bool
	generation *int64
	mac        []byte // of the record
}

// state is what a chunk's fragments depend on.
type state struct {
	server
	parts []partitionState // one a segment; nothing for those of the default partition
}

// why says why a segment may not be answered from a cache, "" if it may.
func (s *state) why(t partitions.Table, i int, at segment) string {
	p := s.parts[i]
	switch {
	case s.system == "":
		return "the server's identity cannot be read"
	case s.standby:
		return "the server is a standby"
	case s.secured:
		return "row security is in force"
	case !s.allowed:
		return "the role may not read all columns"
	case s.sequence == 0:
		return "ids of other writers do not come from an identity column"
	case !s.readable:
		return "the identity sequence cannot be read"
	case at.part.Default:
		return "default partition"
	case at.part.Kind != 'r' || !p.there:
		return "no plain partition"
	case !p.guarded:
		return "its guard is missing"
	case p.generation == nil:
		return "the integrity log does not know it"
	}
	if b, _, err := partitions.ParseBounds(p.bounds, t.Key.Kind); err != nil || !b.Equal(at.part.Bounds) {
		return "its bounds have changed"
	}
	return ""
}

// fragmentVersion changes with the form of keys and values.
const fragmentVersion = 1

// CacheScope is what the keys of all fragments of a table begin with.
func CacheScope(system string, database, table uint32) string {
	return fmt.Sprintf("%s/%d/%d", system, database, table)
}

// dependsOn lists everything that a fragment depends on but its table. what tells different statements with the same filters apart.
func (s *state) dependsOn(p *prepared, what string, i int, at segment) (list []string) {
	part := func(more ...string) { list = append(append(list, strconv.Itoa(len(more))), more...) }
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	st := s.parts[i]
	part(number(fragmentVersion), s.era, number(int64(s.role)), number(int64(s.sequence)))
	part(number(int64(at.part.OID)), st.version, st.bounds, number(*st.generation), string(st.mac), number(s.redaction), what)
	part(at.Text())
	for _, c := range p.layout.columns {
		part(c.name, c.typ)
	}
	for _, o := range p.layout.order {
		part(number(int64(o)))
	}
	part("after")
	part(p.after...)
	for _, f := range sortedFilters(p.req.Filters) {
		part("column", f.Column, f.Value)
	}
	for _, f := range p.req.Details {
		part("details", f.Value)
		part(f.Path...)
	}
	return list
}

// closed says whether the partition's time is over, so that few rows still come.
func (s segment) closed(now time.Time) bool {
	return !s.part.Default && !s.part.ToMax && !s.part.To.After(now)
}

// readState reads the state of the partitions of a chunk in one statement.
func readState(ctx context.Context, q partitions.Querier, t partitions.Table, chunk []segment) (*state, error) {
	oids := make([]int64, len(chunk))
	from, to := make([]string, len(chunk)), make([]string, len(chunk))
	for i, s := range chunk {
		oids[i], from[i], to[i] = int64(s.part.OID), "-infinity", "infinity"
		if s.part.Default {
			continue
		}
		if !s.part.FromMin {
			from[i] = t.Key.Text(s.part.From)
		}
		if !s.part.ToMax {
			to[i] = t.Key.Text(s.part.To)
		}
	}
	rows, err := q.Query(ctx, stateSQL, t.OID, *t.ManagedID, oids, from, to)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	st := &state{}
	for rows.Next() {
		var p partitionState
		if err := rows.Scan(&st.system, &st.database, &st.era, &st.role, &st.secured, &st.allowed, &st.standby, &st.sequence, &st.readable, &st.last, &st.redaction,
			&p.there, &p.version, &p.bounds, &p.guarded, &p.generation, &p.mac); err != nil {
			return nil, err
		}
		st.parts = append(st.parts, p)
	}
	return st, rows.Err()
}
