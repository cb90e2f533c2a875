package query

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Explained says how one partition contributed to an answer.
type Explained struct {
	Partition string       `json:"partition"`
	From      *time.Time   `json:"from"` // the part of its range that was asked for
	To        *time.Time   `json:"to"`
	Source    Source       `json:"source"`
	Rows      int          `json:"rows"`
	Scans     []Scan       `json:"scans"`
	Cache     string       `json:"cache"`   // what the cache had to do with it
	Archive   *ArchiveRead `json:"archive"` // null: it is a partition
}

// Scan is how the server reads a table.
type Scan struct {
	Table string  `json:"table"`
	Node  string  `json:"node"`
	Index *string `json:"index"`
}

// explained adds a partition that was asked for with s.
func (p *prepared) explained(ctx context.Context, tx pgx.Tx, from Source, at segment, s *statement, rows int) error {
	x := describe(at, from, rows)
	var err error
	if x.Scans, err = scans(ctx, tx, s); err != nil {
		return err
	}
	p.answer.Explain = append(p.answer.Explain, x)
	return nil
}

func describe(at segment, source Source, rows int) Explained {
	x := Explained{Partition: at.part.String(), Source: source, Rows: rows, Scans: []Scan{}}
	if !at.FromMin {
		x.From = &at.From
	}
	if !at.ToMax {
		x.To = &at.To
	}
	return x
}

// scans asks the server how it runs s.
func scans(ctx context.Context, tx pgx.Tx, s *statement) ([]Scan, error) {
	asked := &statement{args: s.args}
	asked.sql.WriteString("EXPLAIN (FORMAT JSON, COSTS OFF) " + s.text())
	var text []byte
	if err := each(ctx, tx, asked, func(r [][]byte) error { text = append(text, r[0]...); return nil }); err != nil {
		return nil, err
	}
	var plans []struct{ Plan planNode }
	if err := json.Unmarshal(text, &plans); err != nil {
		return nil, fmt.Errorf("read the server's plan: %w", err)
	}
	found := []Scan{}
	for _, plan := range plans {
		found = plan.Plan.scans(found, "")
	}
	return found, nil
}

// planNode is a node of EXPLAIN's JSON.
type planNode struct {
	Node     string     `json:"Node Type"`
	Relation string     `json:"Relation Name"`
	Index    *string    `json:"Index Name"`
	Plans    []planNode `json:"Plans"`
}

// scans adds the scans below n; a bitmap of an index is one of the table above it.
func (n planNode) scans(found []Scan, table string) []Scan {
	if n.Relation != "" {
		table = n.Relation
	}
	if n.Index != nil || n.Relation != "" && len(n.Plans) == 0 {
		found = append(found, Scan{Table: table, Node: n.Node, Index: n.Index})
	}
	for _, below := range n.Plans {
		found = below.scans(found, table)
	}
	return found
}
