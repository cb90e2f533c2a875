package integrity

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// Any range-partitioned table with an integer id can be sealed: other columns, other key types, odd names, rows without salt.
func TestAdoptedTables(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"date", "timestamp", "timestamptz"} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.exec(fmt.Sprintf(`CREATE SCHEMA "Old %%";
CREATE TABLE "Old %%"."Say ""audit""" (message varchar(40), id int4 NOT NULL, details json, "When?" %s NOT NULL, score numeric(8, 3), tags text[]) PARTITION BY RANGE ("When?");
CREATE TABLE "Old %%"."Part; 1" PARTITION OF "Old %%"."Say ""audit""" FOR VALUES FROM (MINVALUE) TO ('2024-01-01');
CREATE TABLE "Old %%".part2 PARTITION OF "Old %%"."Say ""audit""" FOR VALUES FROM ('2024-01-01') TO (MAXVALUE);
INSERT INTO "Old %%"."Say ""audit""" SELECT 'm' || g, g, '{"a":  1}', date '2023-12-01' + g, g / 7.0, ARRAY['x', NULL] FROM generate_series(1, 60) g;
INSERT INTO auditdb.managed_table (schema_name, table_name, time_column, key_kind, block_ids) VALUES ('Old %%', 'Say "audit"', 'When?', '%[1]s', false)`, key))
			tables, err := ManagedTables(t.Context(), f.db.Pool())
			if err != nil || len(tables) != 2 {
				t.Fatal(tables, err)
			}
			got, err := MatchTable(t.Context(), f.db, tables, `"Old %"."Say ""audit"""`)
			if err != nil {
				t.Fatal(err)
			}
			f.table = &got.Table
			if res := f.seal(); res.SealedRows != 60 || res.Records != 2 {
				t.Errorf("%+v", res)
			}
			if r := f.clean(func(o *VerifyOptions) { o.Tables = []int16{got.Table.ID} }); r.RowsChecked != 60 || r.BatchesChecked != 2 {
				t.Error(r.RowsChecked, r.BatchesChecked)
			}
			f.exec(`UPDATE "Old %"."Say ""audit""" SET details = '{"a": 1}' WHERE id = 33; UPDATE "Old %"."Say ""audit""" SET score = 4.0001 WHERE id = 28; UPDATE "Old %"."Say ""audit""" SET score = score + 0.001 WHERE id = 20`)
			var ids []int64
			for _, x := range f.verify().Findings {
				if x.Type == RowModified && *x.Table == `Old %.Say "audit"` {
					ids = append(ids, *x.RowID)
				}
			}
			slices.Sort(ids)
			if !slices.Equal(ids, []int64{20, 33}) {
				t.Error(ids)
			}
		})
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	day := func(y, m, d int) time.Time { return time.Date(y, time.Month(m), d, 0, 0, 0, 0, time.UTC) }
	for expr, want := range map[string]Range{
		"DEFAULT": DefaultRange(),
		"FOR VALUES FROM ('2024-01-01 00:00:00+00') TO ('2024-02-01 00:00:00+00')":  {From: day(2024, 1, 1), To: day(2024, 2, 1)},
		"FOR VALUES FROM ('2024-01-01 00:00:00') TO ('2024-02-01 12:30:00.000001')": {From: day(2024, 1, 1), To: day(2024, 2, 1).Add(12*time.Hour + 30*time.Minute + time.Microsecond)},
		"FOR VALUES FROM ('2024-01-01') TO ('infinity')":                            {From: day(2024, 1, 1), ToMax: true},
		"FOR VALUES FROM (MINVALUE) TO ('2024-01-01')":                              {FromMin: true, To: day(2024, 1, 1)},
		"FOR VALUES FROM ('-infinity') TO (MAXVALUE)":                               {FromMin: true, ToMax: true},
	} {
		if got, err := parseBound(expr); err != nil || got != want {
			t.Errorf("%s: %v %v", expr, got, err)
		}
	}
	for _, bad := range []string{"", "FOR VALUES IN ('a')", "FOR VALUES FROM ('2024-01-01', 1) TO ('2024-02-01', 2)", "FOR VALUES FROM (1) TO (2)", "FOR VALUES WITH (modulus 2, remainder 0)"} {
		if got, err := parseBound(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func TestIDRuns(t *testing.T) {
	t.Parallel()
	var r idRuns
	for _, x := range [][2]int64{{10, 20}, {1, 2}, {20, 25}, {5, 6}, {12, 13}, {30, 31}} {
		r.add(x[0], x[1])
	}
	r.normalise()
	if fmt.Sprint(r) != "[{1 2} {5 6} {10 25} {30 31}]" || r.end() != 31 || idRuns(nil).end() != 0 {
		t.Error(r)
	}
	for id, want := range map[int64]bool{0: false, 1: true, 2: false, 5: true, 10: true, 24: true, 25: false, 30: true, 31: false} {
		if r.contains(id) != want {
			t.Error(id)
		}
	}
}
