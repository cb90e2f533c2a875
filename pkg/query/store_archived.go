package query

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"auditdb/internal/fault"
	"auditdb/pkg/archive"
	"auditdb/pkg/partitions"
)

const (
	// Before the snapshot is taken: from then on no partition goes, so that its rows are either in the table or in an archive that is known.
	stayLockSQL = `LOCK TABLE ONLY %s IN ACCESS SHARE MODE`
	shapeSQL    = `
SELECT a.attname, a.atttypid, t.typname, coalesce(c.collisdeterministic, true), r.typarray, r.oid, pg_catalog.row_security_active($1::oid), pg_catalog.has_table_privilege($1::oid, 'SELECT')
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid JOIN pg_catalog.pg_type r ON r.typrelid = a.attrelid
  LEFT JOIN pg_catalog.pg_collation c ON c.oid = a.attcollation
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`
)

// shape is the table's row as a composite type: archived rows are given to the server as values of it, so that filters, order and texts are its own.
type shape struct {
	columns      []shapeColumn
	row, rows    uint32 // the types of a row and of an array of them
	secured, may bool
}

type shapeColumn struct {
	name, typ     string
	oid           uint32
	deterministic bool // texts are equal only if their bytes are
}

func readShape(ctx context.Context, q partitions.Querier, t partitions.Table) (*shape, error) {
	rows, err := q.Query(ctx, shapeSQL, pgx.QueryExecModeExec, t.OID)
	if err != nil {
		return nil, fmt.Errorf("read the columns of %s: %w", t, err)
	}
	s := &shape{}
	s.columns, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (c shapeColumn, err error) {
		return c, row.Scan(&c.name, &c.oid, &c.typ, &c.deterministic, &s.rows, &s.row, &s.secured, &s.may)
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the columns of %s: %w", t, err)
	case s.secured:
		return nil, fault.New(fault.Refused, "ask without --archives, or as a role that row security is not in force for", "query %s: row security is in force, which archives know nothing of", t)
	case !s.may:
		return nil, fault.New(fault.Permission, "GRANT SELECT ON "+t.Ident(), "query %s: archives are only shown to who may read all columns of the table", t)
	}
	return s, nil
}

// from are the places of the columns in the rows of an archive; -1: the column is newer.
func (s *shape) from(m *archive.Manifest) ([]int, error) {
	types := map[string]string{}
	for _, c := range m.Columns {
		types[c.Name] = c.Type
	}
	names := m.Names()
	places := make([]int, len(s.columns))
	for i, c := range s.columns {
		places[i] = slices.Index(names, c.name)
		if places[i] >= 0 && types[c.name] != c.typ {
			return nil, fault.New(fault.Data, "auditdb retention archive list", "archive %s has column %s with type %s, the table with type %s", m.Object, c.name, types[c.name], c.typ)
		}
	}
	for _, name := range names {
		if !slices.ContainsFunc(s.columns, func(c shapeColumn) bool { return c.name == name }) {
			return nil, fault.New(fault.Data, "name the column as it was called then", "archive %s has a column %s, which the table does not have any more", m.Object, name)
		}
	}
	return places, nil
}

// array makes the binary form of an array of rows.
func (s *shape) array(rows [][][]byte, places []int) []byte {
	b := []byte{0, 0, 0, 1, 0, 0, 0, 0}
	b = binary.BigEndian.AppendUint32(b, s.row)
	b = binary.BigEndian.AppendUint32(b, uint32(len(rows))) //nolint:gosec // few
	b = append(b, 0, 0, 0, 1)
	for _, values := range rows {
		at := len(b)
		b = append(b, 0, 0, 0, 0)
		b = binary.BigEndian.AppendUint32(b, uint32(len(s.columns))) //nolint:gosec // at most 1,600
		for i, c := range s.columns {
			b = binary.BigEndian.AppendUint32(b, c.oid)
			if places[i] < 0 || values[places[i]] == nil {
				b = append(b, 0xff, 0xff, 0xff, 0xff)
				continue
			}
			v := values[places[i]]
			b = binary.BigEndian.AppendUint32(b, uint32(len(v))) //nolint:gosec // at most 1 GB
			b = append(b, v...)
		}
		binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4)) //nolint:gosec // at most 1 GB
	}
	return b
}

// given is the source of rows that are given with a statement as its first parameter.
func given(s *statement, t partitions.Table) string {
	return "pg_catalog.unnest(" + s.arg(nil) + "::" + t.Ident() + "[]) AS given"
}

// eachOf runs a statement whose first parameter is an array of rows, and hands over each row of the answer.
func (s *shape) eachOf(ctx context.Context, tx pgx.Tx, st *statement, array []byte, fn func([][]byte) error) error {
	values, formats, types := make([][]byte, len(st.args)), make([]int16, len(st.args)), make([]uint32, len(st.args))
	values[0], formats[0], types[0] = array, pgx.BinaryFormatCode, s.rows
	for i, a := range st.args[1:] {
		switch a := a.(type) {
		case string:
			values[i+1] = []byte(a)
		case []string:
			values[i+1] = textArray(a)
		default:
			return fault.New(fault.Internal, "", "a parameter of type %T", a)
		}
	}
	r := tx.Conn().PgConn().ExecParams(ctx, st.text(), values, types, formats, nil)
	var failed error
	for failed == nil && r.NextRow() {
		failed = fn(r.Values())
	}
	if _, err := r.Close(); failed == nil {
		return err
	}
	return failed
}

// textArray is the text of an array.
func textArray(list []string) []byte {
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	parts := make([]string, len(list))
	for i, s := range list {
		parts[i] = `"` + quote.Replace(s) + `"`
	}
	return []byte("{" + strings.Join(parts, ",") + "}")
}
